//! Resource quantities: `500m`, `1Gi`, `1e3`. Exact decimal numbers with the family of their suffix.
//!
//! Owns parsing, the canonical text and arithmetic. A quantity that is written canonically enough keeps its text ("1500m",
//! "+5", "005"), as upstream's does; whether it is allowed in a field is validation's business.

use std::cmp::Ordering;
use std::fmt;

mod decimal;

use decimal::Decimal;

/// The family of suffixes in which a quantity is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`
    #[default]
    DecimalSi,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// The smallest power of ten that a quantity can hold.
const NANO: i32 = -9;
/// Numbers of so many digits fit 64 bits.
const MAX_INT64_DIGITS: i64 = 18;

const DECIMAL_SUFFIXES: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY_SUFFIXES: [(&str, i32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// A number with a suffix family. Equality, order and arithmetic are those of the number.
#[derive(Clone, Debug, Default)]
pub struct Quantity {
    number: Decimal,
    /// The number did not fit 64 bits when it was made; such numbers overflow otherwise (see [`Quantity::scaled_value`]).
    wide: bool,
    format: Format,
    /// The text as it was written, where that is what is printed.
    text: Option<Box<str>>,
}

/// A text taken apart: what precedes the suffix is kept as number and as text.
struct Parts<'a> {
    negative: bool,
    /// Digits before the point, without leading zeros unless it is the only one.
    whole: &'a str,
    /// Digits after the point.
    fraction: &'a str,
    /// There is some digit, zeros included.
    any_digit: bool,
    suffix: &'a str,
}

fn take<'a>(text: &mut &'a str, accepts: fn(char) -> bool) -> &'a str {
    let (taken, rest) = text.split_at(text.find(|c| !accepts(c)).unwrap_or(text.len()));
    *text = rest;
    taken
}

fn split(text: &str) -> Result<Parts<'_>, Error> {
    let digit = |c: char| c.is_ascii_digit();
    let mut rest = text;
    let negative = rest.starts_with('-');
    rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    let zeros = take(&mut rest, |c| c == '0');
    let mut whole = take(&mut rest, digit);
    let mut any_digit = !zeros.is_empty() || !whole.is_empty();
    if whole.is_empty() {
        whole = "0";
    }
    let fraction = match rest.strip_prefix('.') {
        Some(after) => {
            rest = after;
            take(&mut rest, digit)
        }
        None => "",
    };
    any_digit |= !fraction.is_empty();
    let suffix = rest;
    take(&mut rest, |c| "eEinumkKMGTP".contains(c));
    rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    take(&mut rest, digit);
    if rest.is_empty() { Ok(Parts { negative, whole, fraction, any_digit, suffix }) } else { Err(Error::Format) }
}

fn interpret(suffix: &str) -> Option<(Format, i32)> {
    if let Some((_, exponent)) = DECIMAL_SUFFIXES.iter().find(|(s, _)| *s == suffix) {
        return Some((Format::DecimalSi, *exponent));
    }
    if let Some((_, exponent)) = BINARY_SUFFIXES.iter().find(|(s, _)| *s == suffix) {
        return Some((Format::BinarySi, *exponent));
    }
    let exponent: i64 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    // Upstream cuts the exponent to 32 bits.
    Some((Format::DecimalExponent, exponent as i32))
}

/// How the fast path of parsing reads a number: an integer of at most 64 bits at a power of ten.
fn narrow(parts: &Parts<'_>, format: Format, exponent: i32) -> Option<(i64, i64, i32)> {
    let digits = (parts.whole.len() + parts.fraction.len()) as i64;
    let (scale, precision, multiplier) = match format {
        Format::BinarySi if parts.fraction.is_empty() => {
            (0, 15 - parts.whole.len() as i64 - i64::from(exponent) * 3 / 10 - 1, 1_i64 << exponent)
        }
        Format::BinarySi => return None,
        _ => (exponent, MAX_INT64_DIGITS - digits, 1),
    };
    let scale = scale.checked_sub(i32::try_from(parts.fraction.len()).ok()?)?;
    if precision < 0 || scale < NANO {
        return None;
    }
    // At most eighteen digits.
    let value = parts.whole.bytes().chain(parts.fraction.bytes()).fold(0_i64, |n, d| n * 10 + i64::from(d - b'0'));
    Some((value, value.checked_mul(multiplier)?, scale))
}

impl Quantity {
    /// Reads a quantity. Fractions below a nano are rounded away from zero.
    pub fn parse(text: &str) -> Result<Quantity, Error> {
        if text.is_empty() {
            return Err(Error::Format);
        }
        let parts = split(text)?;
        let (format, exponent) = interpret(parts.suffix).ok_or(Error::Suffix)?;
        if let Some((written, value, scale)) = narrow(&parts, format, exponent) {
            let keep = match format {
                Format::BinarySi => written & 7 != 0,
                _ => {
                    let shifted = [parts.whole, parts.fraction].concat();
                    scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0')
                }
            };
            let number = Decimal::new(value.unsigned_abs(), i64::from(scale)).negated_if(parts.negative);
            return Ok(Quantity { number, wide: false, format, text: (keep || text == "0").then(|| text.into()) });
        }
        Quantity::parse_wide(&parts, format, exponent)
    }

    fn parse_wide(parts: &Parts<'_>, format: Format, exponent: i32) -> Result<Quantity, Error> {
        if !parts.any_digit {
            return Err(Error::Numeric);
        }
        let scale = i32::try_from(parts.fraction.len()).map_err(|_| Error::Numeric)?;
        let digits = parts.whole.bytes().chain(parts.fraction.bytes());
        let mut number = match format {
            Format::DecimalSi | Format::DecimalExponent => Decimal::from_digits(digits, i64::from(exponent) - i64::from(scale)),
            Format::BinarySi => Decimal::from_digits(digits, -i64::from(scale)).multiplied(1 << exponent),
        };
        number.round_up(i64::from(NANO));
        let mut format = format;
        let mut wide = true;
        if format == Format::BinarySi {
            let most = Decimal::new(i64::MAX as u64, 0);
            if number > most {
                number = most;
                wide = false;
            }
            if !number.is_zero() && number < Decimal::new(1, 0) {
                format = Format::DecimalSi;
            }
        }
        Ok(Quantity { number: number.negated_if(parts.negative), wide, format, text: None })
    }

    /// A whole number.
    pub fn new(value: i64, format: Format) -> Quantity {
        Quantity { number: Decimal::new(value.unsigned_abs(), 0).negated_if(value < 0), wide: false, format, text: None }
    }

    /// So many thousandths.
    pub fn from_milli(value: i64, format: Format) -> Quantity {
        Quantity { number: Decimal::new(value.unsigned_abs(), -3).negated_if(value < 0), wide: false, format, text: None }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn is_zero(&self) -> bool {
        self.number.is_zero()
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.number.sign()
    }

    /// The text that the API prints.
    pub fn canonical(&self) -> String {
        match &self.text {
            Some(text) => text.to_string(),
            None => self.render(),
        }
    }

    fn render(&self) -> String {
        if self.is_zero() {
            return "0".to_owned();
        }
        let binary = self.format == Format::BinarySi
            && self.number.cmp_magnitude(&Decimal::new(1024, 0)) != Ordering::Less
            && self.number.is_integer();
        if binary && let Some((mantissa, power)) = self.number.factors_of_1024() {
            let suffix = BINARY_SUFFIXES.iter().find(|(_, e)| *e == power * 10).map_or("", |(s, _)| s);
            return format!("{mantissa}{suffix}");
        }
        let (mantissa, exponent) = self.number.engineering();
        match self.format {
            Format::DecimalExponent if exponent == 0 => mantissa,
            Format::DecimalExponent => format!("{mantissa}e{exponent}"),
            // Exponents beyond the suffixes print none in v1.37.
            _ => {
                let suffix = DECIMAL_SUFFIXES.iter().find(|(_, e)| i64::from(*e) == exponent).map_or("", |(s, _)| s);
                mantissa + suffix
            }
        }
    }

    /// The whole number, rounded away from zero; see [`Quantity::scaled_value`] for overflow.
    pub fn value(&self) -> i64 {
        self.scaled_value(0)
    }

    /// Thousandths, rounded away from zero.
    pub fn milli_value(&self) -> i64 {
        self.scaled_value(-3)
    }

    /// The number in units of a power of ten, rounded away from zero. Numbers that fit no 64 bits come out as they do in v1.37:
    /// wrapped, or 0. So do negative numbers that were written with a fraction finer than their suffix can show: these round
    /// towards zero and up.
    pub fn scaled_value(&self, scale: i64) -> i64 {
        if self.wide && self.number.sign() < 0 && (-9..10).contains(&scale) {
            return self.wide_negative(scale);
        }
        let mut number = self.number.clone();
        number.round_up(scale);
        match number.to_i64_at(scale) {
            Some(value) => value,
            None if self.wide => number.low_bits_at(scale),
            // Upstream multiplies by these powers of ten without looking at the overflow.
            None if matches!(number.exponent() - scale, 1 | 2 | 3 | 6 | 9) => number.low_bits_at(scale),
            None => 0,
        }
    }

    fn wide_negative(&self, scale: i64) -> i64 {
        let nanos = self.number.low_bits_at(i64::from(NANO));
        // At most 10^18.
        let unit = 10_i64.pow(u32::try_from(scale - i64::from(NANO)).unwrap_or(0));
        nanos / unit + i64::from(nanos % unit != 0)
    }

    /// The number, if it is whole and fits.
    pub fn as_i64(&self) -> Option<i64> {
        if self.number.is_integer() { self.number.to_i64_at(0) } else { None }
    }

    /// The nearest float.
    pub fn as_f64(&self) -> f64 {
        self.number.to_string().parse().unwrap_or(0.0)
    }

    /// Adds; a zero takes the other's format.
    #[must_use]
    pub fn plus(&self, other: &Quantity) -> Quantity {
        self.combined(other, self.number.plus(&other.number))
    }

    /// Subtracts; a zero takes the other's format.
    #[must_use]
    pub fn minus(&self, other: &Quantity) -> Quantity {
        self.combined(other, self.number.plus(&other.number.clone().negated_if(true)))
    }

    fn combined(&self, other: &Quantity, number: Decimal) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        let wide = self.wide || other.wide || number.mantissa_i64().is_none();
        Quantity { number, wide, format, text: None }
    }

    /// Rounds away from zero to a multiple of a power of ten.
    pub fn round_up(&mut self, scale: i64) {
        self.number.round_up(scale);
        self.text = None;
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.number == other.number
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.number.cmp(&other.number)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        Quantity::parse(text).map_or_else(|e| e.to_string(), |q| q.canonical())
    }

    #[test]
    fn quantities_print_canonically() {
        let table = [
            ("0", "0"),
            ("0.5Gi", "512Mi"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("1e1", "10"),
            ("1024Ki", "1Mi"),
            ("1000Ki", "1000Ki"),
            ("512Ki", "512Ki"),
            ("1000", "1k"),
            ("1000m", "1"),
            ("1001m", "1001m"),
            ("0.1m", "100u"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("1.0000000001", "1000000001n"),
            ("100Ei", "9223372036854775807"),
            ("-100Ei", "-9223372036854775807"),
            ("0.001Ki", "1024m"),
            ("1000E", "1"),
            ("+5", "+5"),
            ("005", "005"),
            ("-0", "0"),
            (".5", "500m"),
            ("5.", "5."),
            (".", "0"),
            ("-", "0"),
            ("12345678901234567890", "12345678901234567890"),
            ("12345678901234567890000", "12345678901234567890k"),
            ("1e2147483647", "10e2147483646"),
            ("1e-2147483648", "1e-9"),
            ("abc", "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
            ("", "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
            ("1K", "unable to parse quantity's suffix"),
            ("1e99999999999999999999", "unable to parse quantity's suffix"),
            ("1 Gi", "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
        ];
        for (text, expected) in table {
            assert_eq!(canonical(text), expected, "{text:?}");
        }
    }

    #[test]
    fn values_round_up_and_overflow_as_upstreams() {
        let q = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!((q("1500m").value(), q("1500m").milli_value()), (2, 1500));
        assert_eq!((q("-1500m").value(), q("1n").value(), q("0.1m").milli_value()), (-2, 1, 1));
        assert_eq!((q("1Gi").value(), q("1e30").value(), q("1e2147483647").milli_value()), (1 << 30, 0, 0));
        assert_eq!(q("0e2147483647").value(), 0);
        assert_eq!((q("5").as_i64(), q("5m").as_i64(), q("1k").as_i64()), (Some(5), None, Some(1000)));
        assert_eq!(q("250m").as_f64(), 0.25);
    }

    #[test]
    fn order_and_arithmetic_are_those_of_numbers() {
        let q = |text: &str| Quantity::parse(text).unwrap();
        assert!(q("1Gi") > q("1G") && q("1") == q("1000m") && q("-1") < q("0") && q("-2") < q("-1") && q("1e1000") > q("1e999"));
        let sum = |a: &str, b: &str| q(a).plus(&q(b)).canonical();
        assert_eq!(sum("1Gi", "1Gi"), "2Gi");
        assert_eq!(sum("0", "1Mi"), "1Mi");
        assert_eq!(sum("1", "500m"), "1500m");
        assert_eq!(sum("9223372036854775807", "1"), "9223372036854775808");
        assert_eq!(q("1Gi").minus(&q("512Mi")).canonical(), "512Mi");
        assert_eq!(q("1").minus(&q("1500m")).canonical(), "-500m");
    }
}
