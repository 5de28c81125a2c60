//! What a plain scalar means: YAML 1.1's words and numbers, as go-yaml v2 reads them.

/// The meaning of a scalar.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Resolved {
    Null,
    Bool(bool),
    Int(i64),
    /// Beyond `i64`.
    Uint(u64),
    Float(f64),
    /// A time: kept as text, but printed in quotes.
    Timestamp,
    String,
}

impl Resolved {
    /// The tag's short name, as errors print it.
    pub fn tag(&self) -> &'static str {
        match self {
            Resolved::Null => "!!null",
            Resolved::Bool(_) => "!!bool",
            Resolved::Int(_) | Resolved::Uint(_) => "!!int",
            Resolved::Float(_) => "!!float",
            Resolved::Timestamp => "!!timestamp",
            Resolved::String => "!!str",
        }
    }
}

/// Resolves a scalar that has no tag.
pub(super) fn resolve(text: &str) -> Resolved {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Resolved::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Resolved::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Resolved::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Resolved::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Resolved::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Resolved::Float(f64::NEG_INFINITY),
        _ => {}
    }
    match text.as_bytes()[0] {
        b'.' => decimal_float(&text.replace('_', "")).filter(|_| underscores_fit(text)).map_or(Resolved::String, Resolved::Float),
        b'0'..=b'9' | b'+' | b'-' => number(text),
        _ => Resolved::String,
    }
}

fn number(text: &str) -> Resolved {
    if is_timestamp(text) {
        return Resolved::Timestamp;
    }
    let plain = text.replace('_', "");
    if let Some(integer) = integer(&plain) {
        return integer;
    }
    decimal_float(&plain).map_or(Resolved::String, Resolved::Float)
}

/// A Go integer literal: decimal, `0x`, `0o`, `0b`, or octal by a leading zero.
fn integer(plain: &str) -> Option<Resolved> {
    let (negative, digits) = match plain.as_bytes() {
        [b'-', ..] => (true, &plain[1..]),
        [b'+', ..] => (false, &plain[1..]),
        _ => (false, plain),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
    let value = if negative { -magnitude } else { magnitude };
    match i64::try_from(value) {
        Ok(value) => Some(Resolved::Int(value)),
        // A sign makes an unsigned number no number in Go.
        Err(_) if plain.starts_with(['+', '-']) => None,
        Err(_) => u64::try_from(value).ok().map(Resolved::Uint),
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn decimal_float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let mantissa_fits = all_digits(whole) && all_digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    let exponent_fits = exponent.is_none_or(|e| {
        let digits = e.strip_prefix(['+', '-']).unwrap_or(e);
        !digits.is_empty() && all_digits(digits)
    });
    // Out of range is an error in Go, and so a string.
    (mantissa_fits && exponent_fits).then(|| text.parse().ok()).flatten().filter(|f: &f64| f.is_finite())
}

/// A scalar that begins with a dot goes to Go's float parser as it is, which takes underscores between digits.
fn underscores_fit(text: &str) -> bool {
    let digit = |b: Option<&u8>| b.is_some_and(u8::is_ascii_digit);
    let bytes = text.as_bytes();
    (0..bytes.len()).all(|i| bytes[i] != b'_' || i > 0 && digit(bytes.get(i - 1)) && digit(bytes.get(i + 1)))
}

/// `2006-1-2`, alone or with a time after `T`, `t` (with a zone) or a space (without).
fn is_timestamp(text: &str) -> bool {
    let mut rest = text.as_bytes();
    let Some(year) = digits(&mut rest, 4, 4) else { return false };
    let Some(month) = after(&mut rest, b'-').and_then(|()| digits(&mut rest, 1, 2)) else { return false };
    let Some(day) = after(&mut rest, b'-').and_then(|()| digits(&mut rest, 1, 2)) else { return false };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    if !(1..=days).contains(&day) {
        return false;
    }
    match rest.split_first() {
        None => true,
        Some((b'T' | b't', clock)) => {
            rest = clock;
            time_of_day(&mut rest) && zone(rest)
        }
        Some((b' ', clock)) => {
            rest = clock;
            time_of_day(&mut rest) && rest.is_empty()
        }
        Some(_) => false,
    }
}

fn time_of_day(rest: &mut &[u8]) -> bool {
    let hour = digits(rest, 1, 2);
    let minute = after(rest, b':').and_then(|()| digits(rest, 1, 2));
    let second = after(rest, b':').and_then(|()| digits(rest, 1, 2));
    if !matches!((hour, minute, second), (Some(0..=23), Some(0..=59), Some(0..=59))) {
        return false;
    }
    if let [b'.' | b',', b'0'..=b'9', ..] = rest {
        *rest = &rest[1..];
        while let [b'0'..=b'9', tail @ ..] = rest {
            *rest = tail;
        }
    }
    true
}

fn zone(rest: &[u8]) -> bool {
    match rest {
        b"Z" => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => {
            let two = |a: &u8, b: &u8| (a.is_ascii_digit() && b.is_ascii_digit()).then(|| (a - b'0') * 10 + (b - b'0'));
            matches!((two(h1, h2), two(m1, m2)), (Some(0..=24), Some(0..=60)))
        }
        _ => false,
    }
}

/// Takes between `least` and `most` digits off the front.
fn digits(rest: &mut &[u8], least: usize, most: usize) -> Option<u32> {
    let count = rest.iter().take(most).take_while(|b| b.is_ascii_digit()).count();
    if count < least {
        return None;
    }
    let (taken, tail) = rest.split_at(count);
    *rest = tail;
    Some(taken.iter().fold(0, |n, b| n * 10 + u32::from(b - b'0')))
}

fn after(rest: &mut &[u8], expected: u8) -> Option<()> {
    let (first, tail) = rest.split_first()?;
    (*first == expected).then(|| *rest = tail)
}
