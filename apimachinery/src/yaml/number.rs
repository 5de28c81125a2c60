//! Numbers as Go prints them in YAML.

use serde_json::Number;

/// A JSON number's text.
pub(super) fn number_text(n: &Number) -> String {
    match (n.as_i64(), n.as_u64(), n.as_f64()) {
        (None, None, Some(f)) if f.fract() == 0.0 && f.abs() < 9_223_372_036_854_775_808.0 => format!("{f:.0}"),
        (None, None, Some(f)) => float_text(f),
        _ => n.to_string(),
    }
}

/// A float as Go's `%g` prints it in its shortest form, with YAML's names for what is no number.
pub(super) fn float_text(f: f64) -> String {
    general(f, format!("{f:e}"))
}

/// The same at the precision of a 32-bit float.
pub(super) fn float32_text(f: f64) -> String {
    let f = f as f32;
    general(f64::from(f), format!("{f:e}"))
}

/// `shortest` is Rust's shortest scientific form, such as `1.5e6`.
fn general(f: f64, shortest: String) -> String {
    if f.is_nan() {
        return ".nan".to_owned();
    }
    if f.is_infinite() {
        return if f > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return positional(mantissa, exponent);
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

fn positional(mantissa: &str, exponent: i32) -> String {
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |m| ("-", m));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let point = exponent + 1;
    let count = digits.len() as i32;
    if point <= 0 {
        return format!("{sign}0.{}{digits}", "0".repeat(point.unsigned_abs() as usize));
    }
    if point >= count {
        return format!("{sign}{digits}{}", "0".repeat((point - count) as usize));
    }
    let (whole, fraction) = digits.split_at(point as usize);
    format!("{sign}{whole}.{fraction}")
}
