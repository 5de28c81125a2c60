//! Numbers that may be written as a share of a total: `maxSurge: 25%`.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What cannot be read as a number or a percentage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("invalid value for IntOrString: invalid type: string is not a percentage")]
    NotAPercentage,
    #[error("invalid value for IntOrString: invalid value \"{0}\": strconv.Atoi: parsing \"{0}\": invalid syntax")]
    NotANumber(String),
}

/// Which way a share that is no whole number goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Up,
    Down,
}

/// The number itself, or that share of `total`.
pub fn scaled(value: &IntOrString, total: i32, round: Round) -> Result<i32, Error> {
    let text = match value {
        IntOrString::Int(number) => return Ok(*number),
        IntOrString::String(text) => text,
    };
    let digits = text.strip_suffix('%').ok_or(Error::NotAPercentage)?;
    let percent: i64 = digits.parse().map_err(|_| Error::NotANumber(digits.to_owned()))?;
    let hundredths = percent.saturating_mul(i64::from(total));
    let share = match round {
        Round::Up => hundredths.saturating_add(99).div_euclid(100),
        Round::Down => hundredths.div_euclid(100),
    };
    Ok(i32::try_from(share).unwrap_or(if share < 0 { i32::MIN } else { i32::MAX }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_as_they_are_told() {
        let text = |text: &str| IntOrString::String(text.to_owned());
        for (value, total, up, down) in [
            (IntOrString::Int(3), 10, 3, 3),
            (text("25%"), 10, 3, 2),
            (text("0%"), 10, 0, 0),
            (text("100%"), 7, 7, 7),
            (text("1%"), 0, 0, 0),
        ] {
            assert_eq!((scaled(&value, total, Round::Up), scaled(&value, total, Round::Down)), (Ok(up), Ok(down)), "{value:?}");
        }
        assert_eq!(scaled(&text("5"), 10, Round::Up), Err(Error::NotAPercentage));
        assert_eq!(scaled(&text("x%"), 10, Round::Up), Err(Error::NotANumber("x".to_owned())));
    }
}
