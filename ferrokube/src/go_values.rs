//! Values of flags as Go's programs take them.

use std::time::Duration;

/// A duration, `1m30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let nanoseconds = apimachinery::time::parse_duration(text)?;
    u64::try_from(nanoseconds).map(Duration::from_nanos).map_err(|_| "must not be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(duration("-1s").is_err());
        assert!(duration("90").is_err());
    }
}
