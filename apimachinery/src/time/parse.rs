//! Reading RFC 3339 as Go's `time.Parse` does: a fraction of any length where the layout has none, hours of one digit.

use super::{Moment, SECONDS_PER_DAY, days_from_civil, quote};

/// Why a text is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("parsing time {} as {}: cannot parse {} as {}", quote(text), quote(layout), quote(rest), quote(element))]
    Element { text: String, layout: &'static str, rest: String, element: &'static str },
    #[error("parsing time {}: {what} out of range", quote(text))]
    OutOfRange { text: String, what: &'static str },
    #[error("parsing time {}: extra text: {}", quote(text), quote(rest))]
    ExtraText { text: String, rest: String },
}

const TIME_LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const MICRO_TIME_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// A `Time`.
pub fn parse_time(text: &str) -> Result<Moment, Error> {
    Reader { text, rest: text, layout: TIME_LAYOUT }.moment(false)
}

/// A `MicroTime`: the fraction must have exactly six digits.
pub fn parse_micro_time(text: &str) -> Result<Moment, Error> {
    Reader { text, rest: text, layout: MICRO_TIME_LAYOUT }.moment(true)
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
    layout: &'static str,
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let part = text.as_bytes().get(..count)?;
    part.iter().all(u8::is_ascii_digit).then(|| part.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
}

impl<'a> Reader<'a> {
    fn fail(&self, rest: &str, element: &'static str) -> Error {
        Error::Element { text: self.text.to_owned(), layout: self.layout, rest: rest.to_owned(), element }
    }

    fn out_of_range(&self, what: &'static str) -> Error {
        Error::OutOfRange { text: self.text.to_owned(), what }
    }

    fn separator(&mut self, element: &'static str) -> Result<(), Error> {
        self.rest = self.rest.strip_prefix(element).ok_or_else(|| self.fail(self.rest, element))?;
        Ok(())
    }

    fn number(&mut self, count: usize, element: &'static str) -> Result<i64, Error> {
        let value = digits(self.rest, count).ok_or_else(|| self.fail(self.rest, element))?;
        self.rest = &self.rest[count..];
        Ok(value)
    }

    fn ranged(&mut self, range: std::ops::RangeInclusive<i64>, element: &'static str, what: &'static str) -> Result<i64, Error> {
        let value = self.number(2, element)?;
        if range.contains(&value) { Ok(value) } else { Err(self.out_of_range(what)) }
    }

    fn moment(mut self, micro: bool) -> Result<Moment, Error> {
        let year = self.number(4, "2006")?;
        self.separator("-")?;
        let month = self.ranged(1..=12, "01", "month")?;
        self.separator("-")?;
        let day = self.number(2, "02")?;
        self.separator("T")?;
        let hour = self.hour()?;
        self.separator(":")?;
        let minute = self.ranged(0..=59, "04", "minute")?;
        self.separator(":")?;
        let second = self.ranged(0..=59, "05", "second")?;
        let nanoseconds = if micro { self.six_digits()? } else { self.fraction() };
        let offset = self.offset()?;
        if !self.rest.is_empty() {
            return Err(Error::ExtraText { text: self.text.to_owned(), rest: self.rest.to_owned() });
        }
        if day < 1 || day > days_in(month, year) {
            return Err(self.out_of_range("day"));
        }
        let seconds = hour * 3600 + minute * 60 + second - offset;
        Ok(Moment { unix_seconds: days_from_civil(year, month, day) * SECONDS_PER_DAY + seconds, nanoseconds })
    }

    /// One or two digits.
    fn hour(&mut self) -> Result<i64, Error> {
        let count = if digits(self.rest, 2).is_some() { 2 } else { 1 };
        let hour = self.number(count, "15")?;
        if hour < 24 { Ok(hour) } else { Err(self.out_of_range("hour")) }
    }

    /// `.` or `,` and digits, of which nine count; nothing is no fraction.
    fn fraction(&mut self) -> u32 {
        let Some(after) = self.rest.strip_prefix(['.', ',']) else { return 0 };
        let count = after.bytes().take_while(u8::is_ascii_digit).count();
        if count == 0 {
            return 0;
        }
        let (fraction, rest) = after.split_at(count);
        self.rest = rest;
        let padded = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
        padded.fold(0, |n, d| n * 10 + u32::from(d - b'0'))
    }

    /// A point and six digits, the first of which may be a sign: Go reads them as a number.
    fn six_digits(&mut self) -> Result<u32, Error> {
        let element = ".000000";
        let after = self.rest.strip_prefix(['.', ',']).and_then(|after| after.get(..6));
        let value: i64 = after.and_then(|six| six.parse().ok()).ok_or_else(|| self.fail(self.rest, element))?;
        let microseconds = u32::try_from(value).map_err(|_| self.out_of_range("fractional second"))?;
        self.rest = &self.rest[7..];
        Ok(microseconds * 1000)
    }

    /// Seconds east of UTC.
    fn offset(&mut self) -> Result<i64, Error> {
        let element = "Z07:00";
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let [sign, h1, h2, b':', m1, m2, ..] = *self.rest.as_bytes() else { return Err(self.fail(self.rest, element)) };
        let two = |a: u8, b: u8| (a.is_ascii_digit() && b.is_ascii_digit()).then(|| i64::from(a - b'0') * 10 + i64::from(b - b'0'));
        let hours = two(h1, h2);
        let minutes = hours.and_then(|_| two(m1, m2));
        if hours > Some(24) {
            return Err(self.out_of_range("time zone offset hour"));
        }
        if minutes > Some(60) {
            return Err(self.out_of_range("time zone offset minute"));
        }
        let (Some(hours), Some(minutes), b'+' | b'-') = (hours, minutes, sign) else { return Err(self.fail(self.rest, element)) };
        self.rest = &self.rest[6..];
        let seconds = hours * 3600 + minutes * 60;
        Ok(if sign == b'-' { -seconds } else { seconds })
    }
}

const fn days_in(month: i64, year: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = parse_time(text).map_or_else(|e| e.to_string(), Moment::to_time);
        assert_eq!(shown, expected, "{text:?}");
    }

    #[test]
    fn times_become_utc_with_whole_seconds() {
        check("2024-02-29T12:34:56Z", "2024-02-29T12:34:56Z");
        check("2024-02-29T12:34:56.999Z", "2024-02-29T12:34:56Z");
        check("2024-03-01T00:34:56+05:30", "2024-02-29T19:04:56Z");
        check("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z");
        check("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z");
        check("2024-02-29T1:34:56Z", "2024-02-29T01:34:56Z");
        assert!(parse_time("0001-01-01T00:00:00Z").unwrap().is_zero());
    }

    #[test]
    fn faults_are_worded_as_gos() {
        check("", "parsing time \"\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"2006\"");
        check("not-a-time", "parsing time \"not-a-time\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"not-a-time\" as \"2006\"");
        check("2024-02-29", "parsing time \"2024-02-29\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"T\"");
        check("2023-02-29T00:00:00Z", "parsing time \"2023-02-29T00:00:00Z\": day out of range");
        check("2023-13-01T00:00:00Z", "parsing time \"2023-13-01T00:00:00Z\": month out of range");
        check(
            "2023-01-01T00:00:00",
            "parsing time \"2023-01-01T00:00:00\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"Z07:00\"",
        );
        check("2023-01-01T00:00:00Zx", "parsing time \"2023-01-01T00:00:00Zx\": extra text: \"x\"");
        let micro = |text: &str| parse_micro_time(text).map_or_else(|e| e.to_string(), Moment::to_micro_time);
        assert_eq!(micro("2023-01-01T00:00:00.123456Z"), "2023-01-01T00:00:00.123456Z");
        assert_eq!(
            micro("2023-01-01T00:00:00Z"),
            "parsing time \"2023-01-01T00:00:00Z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"Z\" as \".000000\""
        );
    }
}
