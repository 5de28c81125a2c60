//! Times and durations as the API writes them. Text in, text out; never reads a clock.
//!
//! [`Moment`] holds every time that RFC 3339 can write, which `jiff::Timestamp` does not: "9999-12-31T23:59:59Z" is in use.
//! Errors are worded as Go's `time` package words them, because clients see them.

mod duration;
mod parse;

use jiff::Timestamp;

pub use duration::{format_duration, human_duration, parse_duration, short_human_duration};
pub use parse::{Error, parse_micro_time, parse_time};

const SECONDS_PER_DAY: i64 = 86_400;
/// 0001-01-01T00:00:00Z, Go's zero time.
const ZERO_UNIX_SECONDS: i64 = -62_135_596_800;

/// A moment in time, to the nanosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    unix_seconds: i64,
    nanoseconds: u32,
}

impl Moment {
    /// Go's zero time, which the API writes as `null`.
    pub const fn is_zero(self) -> bool {
        self.unix_seconds == ZERO_UNIX_SECONDS && self.nanoseconds == 0
    }

    pub const fn unix_seconds(self) -> i64 {
        self.unix_seconds
    }

    /// A `Time`: UTC, whole seconds.
    pub fn to_time(self) -> String {
        format!("{}Z", self.civil())
    }

    /// A `MicroTime`: UTC, six digits.
    pub fn to_micro_time(self) -> String {
        format!("{}.{:06}Z", self.civil(), self.nanoseconds / 1000)
    }

    /// The nearest time that jiff can hold.
    pub fn timestamp(self) -> Timestamp {
        let nearest = if self.unix_seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
        // Below a billion, nanoseconds always fit.
        Timestamp::new(self.unix_seconds, i32::try_from(self.nanoseconds).unwrap_or(0)).unwrap_or(nearest)
    }

    fn civil(self) -> String {
        let days = self.unix_seconds.div_euclid(SECONDS_PER_DAY);
        let seconds = self.unix_seconds.rem_euclid(SECONDS_PER_DAY);
        let (year, month, day) = civil_from_days(days);
        let sign = if year < 0 { "-" } else { "" };
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        format!("{sign}{:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}", year.unsigned_abs())
    }
}

impl From<Timestamp> for Moment {
    fn from(timestamp: Timestamp) -> Moment {
        let nanoseconds = timestamp.as_nanosecond();
        let billion = 1_000_000_000;
        // A timestamp's seconds fit 64 bits, and a remainder by a billion fits 32.
        let unix_seconds = i64::try_from(nanoseconds.div_euclid(billion)).unwrap_or(i64::MAX);
        Moment { unix_seconds, nanoseconds: u32::try_from(nanoseconds.rem_euclid(billion)).unwrap_or(0) }
    }
}

/// The `Time` that is stored for this moment, such as a new object's `creationTimestamp`.
pub fn format_time(timestamp: Timestamp) -> String {
    Moment::from(timestamp).to_time()
}

/// The `MicroTime` that is stored for this moment, such as a Lease's `renewTime`.
pub fn format_micro_time(timestamp: Timestamp) -> String {
    Moment::from(timestamp).to_micro_time()
}

/// Double quotes as Go's `time` package puts them: bytes outside printable ASCII as `\xNN`.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for b in text.bytes() {
        match b {
            b'"' | b'\\' => out.extend(['\\', char::from(b)]),
            b' '..=0x7f => out.push(char::from(b)),
            _ => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out.push('"');
    out
}

/// Year, month and day of the proleptic Gregorian calendar for a count of days since 1970-01-01.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    // Years run from March, so that the leap day is the last; eras of 400 years have 146,097 days.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Days since 1970-01-01; the inverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_convert_both_ways() {
        for days in (-800_000..3_000_000).step_by(97) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(11_016), (2000, 2, 29));
    }

    #[test]
    fn timestamps_print_in_both_precisions() {
        let timestamp: Timestamp = "2024-02-29T12:34:56.789012345Z".parse().unwrap();
        assert_eq!(format_time(timestamp), "2024-02-29T12:34:56Z");
        assert_eq!(format_micro_time(timestamp), "2024-02-29T12:34:56.789012Z");
        let before: Timestamp = "1969-12-31T23:59:59.5Z".parse().unwrap();
        assert_eq!(format_micro_time(before), "1969-12-31T23:59:59.500000Z");
        assert_eq!(parse_time("1969-12-31T23:59:59.5Z").unwrap().timestamp(), before);
    }
}
