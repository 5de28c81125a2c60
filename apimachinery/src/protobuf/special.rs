//! The types whose JSON form is not that of their message: times, durations, numbers, embedded JSON.

use jiff::Timestamp;
use serde_json::{Number, Value};

/// Seconds of Go's zero time, which is written as an empty message and as JSON `null`.
const ZERO_TIME_SECONDS: i64 = -62_135_596_800;

/// Seconds and nanoseconds of an RFC 3339 text; `None` inside for Go's zero time, `None` outside if it is no time.
pub(super) fn parse_time(text: &str) -> Option<Option<(i64, i32)>> {
    let time: Timestamp = text.parse().ok()?;
    // The fraction counts up from the whole second, as Go's does, also before 1970.
    let nanos = time.as_nanosecond().rem_euclid(1_000_000_000) as i32;
    let seconds = i64::try_from(time.as_nanosecond().div_euclid(1_000_000_000)).ok()?;
    Some((seconds != ZERO_TIME_SECONDS || nanos != 0).then_some((seconds, nanos)))
}

/// The RFC 3339 text of a time in UTC: whole seconds, or with six digits of a second. `null` for Go's zero time, `None`
/// for a time beyond the years that RFC 3339 can write.
pub(super) fn time_value(seconds: i64, nanos: i32, micros: bool) -> Option<Value> {
    if seconds == ZERO_TIME_SECONDS && nanos == 0 {
        return Some(Value::Null);
    }
    let time = Timestamp::new(seconds, nanos).ok()?;
    let format = if micros { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Some(Value::String(time.strftime(format).to_string()))
}

/// A number as Go's JSON prints a float: without a fraction where it has none.
pub(super) fn float_value(value: f64) -> Option<Value> {
    // 2^63 and beyond are not exact integers of i64; they stay floats.
    if value.fract() == 0.0 && value.abs() < 9_223_372_036_854_775_808.0 && !(value == 0.0 && value.is_sign_negative()) {
        return Some(Value::from(value as i64));
    }
    Number::from_f64(value).map(Value::Number)
}

/// Nanoseconds of a Go duration text (`1m30s`, `-1.5h`, `0`).
pub(super) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let nanos: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || whole.len() > 19 || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total += whole * nanos;
        let mut scale = nanos;
        for digit in fraction.bytes() {
            // Digits below a nanosecond fall away.
            total += i128::from(digit - b'0') * scale / 10;
            scale /= 10;
        }
        if total > i128::from(i64::MAX) + 1 {
            return None;
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// The Go text of a duration.
pub(super) fn duration_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let decimal = |n: u64, unit: u64| {
        let (whole, rest) = (n / unit, n % unit);
        let digits = unit.ilog10() as usize;
        let fraction = format!("{rest:0digits$}");
        match fraction.trim_end_matches('0') {
            "" => whole.to_string(),
            f => format!("{whole}.{f}"),
        }
    };
    match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(n, 1_000_000)),
        _ => {
            let seconds = decimal(n % 60_000_000_000, 1_000_000_000);
            let minutes = n / 60_000_000_000;
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_go_both_ways() {
        assert_eq!(parse_time("1970-01-01T00:00:01Z"), Some(Some((1, 0))));
        assert_eq!(parse_time("1969-12-31T23:59:59.500000Z"), Some(Some((-1, 500_000_000))));
        assert_eq!(parse_time("2020-01-01T02:00:00+02:00"), Some(Some((1_577_836_800, 0))));
        assert_eq!(parse_time("0001-01-01T00:00:00Z"), Some(None));
        assert_eq!(parse_time("yesterday"), None);
        assert_eq!(time_value(1_577_836_800, 0, false), Some(json!("2020-01-01T00:00:00Z")));
        assert_eq!(time_value(-1, 500_000_000, true), Some(json!("1969-12-31T23:59:59.500000Z")));
        assert_eq!(time_value(ZERO_TIME_SECONDS, 0, true), Some(Value::Null));
        assert_eq!(time_value(i64::MAX, 0, true), None);
    }

    #[test]
    fn durations_read_and_print_as_in_go() {
        for (text, nanos) in [
            ("1m30s", 90_000_000_000),
            ("-1.5s", -1_500_000_000),
            ("1h0m0s", 3_600_000_000_000),
            ("100ms", 100_000_000),
            ("1.5µs", 1_500),
            ("0s", 0),
            ("2ns", 2),
        ] {
            assert_eq!(parse_duration(text), Some(nanos), "{text}");
            assert_eq!(duration_text(nanos), text);
        }
        for bad in ["", "1", "s", "1x", ".s", "99999999999h", "1..2s", "-"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
