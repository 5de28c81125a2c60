//! Durations: Go's text form (`1m30s`), and the rounded ages of tables (`5d12h`).

use super::quote;

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// Reads a signed sequence of numbers with units, such as `-1h2.5m`, as nanoseconds. Errors are worded as Go's.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        if !rest.starts_with(|c: char| c == '.' || c.is_ascii_digit()) {
            return Err(invalid());
        }
        let (whole, after) = split_digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), split_digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit_text, next) = after.split_at(end);
        let number = whole_number(whole).ok_or_else(invalid)?;
        if unit_text.is_empty() {
            return Err(format!("time: missing unit in duration {}", quote(text)));
        }
        let unit = unit(unit_text).ok_or_else(|| format!("time: unknown unit {} in duration {}", quote(unit_text), quote(text)))?;
        let part = number.checked_mul(unit).filter(|n| *n <= 1 << 63).ok_or_else(invalid)?;
        let part = part.checked_add(scaled_fraction(fraction, unit)).filter(|n| *n <= 1 << 63).ok_or_else(invalid)?;
        total = total.checked_add(part).filter(|n| *n <= 1 << 63).ok_or_else(invalid)?;
        rest = next;
    }
    if negative { 0_i64.checked_sub_unsigned(total).ok_or_else(invalid) } else { i64::try_from(total).map_err(|_| invalid()) }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// At most 2^63.
fn whole_number(digits: &str) -> Option<u64> {
    if digits.is_empty() {
        return Some(0);
    }
    digits.parse::<u64>().ok().filter(|n| *n <= 1 << 63)
}

fn unit(text: &str) -> Option<u64> {
    Some(match text {
        "ns" => 1,
        // Both the micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => SECOND.unsigned_abs(),
        "m" => MINUTE.unsigned_abs(),
        "h" => HOUR.unsigned_abs(),
        _ => return None,
    })
}

/// The fraction of the unit, cut to whole nanoseconds. Digits beyond the 63rd bit are dropped, as in Go.
fn scaled_fraction(digits: &str, unit: u64) -> u64 {
    let (mut value, mut scale) = (0_u64, 1.0_f64);
    for digit in digits.bytes().map(|d| u64::from(d - b'0')) {
        if value > (i64::MAX / 10) as u64 || value * 10 + digit > 1 << 63 {
            break;
        }
        value = value * 10 + digit;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

/// The shortest of Go's forms: `1h0m0s`, `1.5s`, `100ms`, `0s`.
pub fn format_duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let second = SECOND.unsigned_abs();
    if total < second {
        let text = match total {
            0 => return "0s".to_owned(),
            1..1_000 => format!("{total}ns"),
            1_000..1_000_000 => format!("{}\u{b5}s", with_fraction(total, 1_000)),
            _ => format!("{}ms", with_fraction(total, 1_000_000)),
        };
        return format!("{sign}{text}");
    }
    let minutes = total / second / 60;
    let seconds = with_fraction(total % (60 * second), second);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / unit` in decimals without trailing zeros; the unit is a power of ten.
fn with_fraction(value: u64, unit: u64) -> String {
    let fraction = value % unit;
    if fraction == 0 {
        return (value / unit).to_string();
    }
    let digits = unit.ilog10() as usize;
    let text = format!("{}.{fraction:0digits$}", value / unit);
    text.trim_end_matches('0').to_owned()
}

/// A duration with two or three significant figures, as tables show ages. Takes nanoseconds.
pub fn human_duration(nanoseconds: i64) -> String {
    let seconds = nanoseconds / SECOND;
    // Clocks of machines may differ by a second.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => two(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

/// A duration in its largest whole unit. Takes nanoseconds.
pub fn short_human_duration(nanoseconds: i64) -> String {
    let seconds = nanoseconds / SECOND;
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3600),
        86_400..31_536_000 => format!("{}d", seconds / 86_400),
        _ => format!("{}y", seconds / 31_536_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_and_print_as_gos() {
        let table = [
            ("0", "0s"),
            ("1h", "1h0m0s"),
            ("90s", "1m30s"),
            ("1.5h", "1h30m0s"),
            ("-1m0.5s", "-1m0.5s"),
            ("100ms", "100ms"),
            ("1500us", "1.5ms"),
            (".5s", "500ms"),
            ("1h1ns", "1h0m0.000000001s"),
            ("-9223372036854775808ns", "-2562047h47m16.854775808s"),
            ("", "time: invalid duration \"\""),
            ("1", "time: missing unit in duration \"1\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("x", "time: invalid duration \"x\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("1.s.5", "time: missing unit in duration \"1.s.5\""),
        ];
        for (text, expected) in table {
            assert_eq!(parse_duration(text).map_or_else(|e| e, format_duration), expected, "{text:?}");
        }
    }

    #[test]
    fn ages_have_two_or_three_figures() {
        let table = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (10_799, "179m"),
            (10_800, "3h"),
            (28_799, "7h59m"),
            (172_799, "47h"),
            (172_800, "2d"),
            (691_199, "7d23h"),
            (63_071_999, "729d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ];
        for (seconds, expected) in table {
            assert_eq!(human_duration(seconds * SECOND), expected, "{seconds}");
        }
        assert_eq!([59, 60, 86_400, 31_536_000].map(|s| short_human_duration(s * SECOND)), ["59s", "1m", "1d", "1y"]);
    }
}
