//! Decimal numbers of any length: digits and a power of ten. Only what quantities need.
//!
//! Exponents are never expanded: "1e2147483647" is one digit. The one operation that aligns two numbers, addition, is bounded.

use std::cmp::Ordering;
use std::fmt;

/// Beyond this distance of powers of ten the smaller summand is dropped; upstream would run out of memory first.
const MAX_ALIGNED_DIGITS: i64 = 100_000;

/// `±digits × 10^exponent`.
#[derive(Clone, Debug)]
pub(super) struct Decimal {
    negative: bool,
    /// Most significant first, no leading zeros; empty is zero.
    digits: Vec<u8>,
    exponent: i64,
}

impl Default for Decimal {
    fn default() -> Decimal {
        Decimal::new(0, 0)
    }
}

impl Decimal {
    pub(super) fn new(value: u64, exponent: i64) -> Decimal {
        Decimal::from_digits(value.to_string().bytes(), exponent)
    }

    /// From ASCII digits.
    pub(super) fn from_digits(digits: impl Iterator<Item = u8>, exponent: i64) -> Decimal {
        let digits = digits.map(|d| d - b'0').skip_while(|d| *d == 0).collect();
        Decimal { negative: false, digits, exponent }
    }

    pub(super) fn negated_if(mut self, negate: bool) -> Decimal {
        self.negative ^= negate && !self.is_zero();
        self
    }

    pub(super) fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    pub(super) fn sign(&self) -> i32 {
        match (self.is_zero(), self.negative) {
            (true, _) => 0,
            (_, true) => -1,
            (_, false) => 1,
        }
    }

    pub(super) fn exponent(&self) -> i64 {
        self.exponent
    }

    fn trailing_zeros(&self) -> i64 {
        self.digits.iter().rev().take_while(|d| **d == 0).count() as i64
    }

    pub(super) fn is_integer(&self) -> bool {
        self.is_zero() || self.exponent + self.trailing_zeros() >= 0
    }

    /// The power of ten above the first digit.
    fn top(&self) -> i64 {
        self.exponent + self.digits.len() as i64
    }

    pub(super) fn cmp_magnitude(&self, other: &Decimal) -> Ordering {
        match (self.is_zero(), other.is_zero()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        self.top().cmp(&other.top()).then_with(|| {
            let significant = |n: &Decimal| n.digits.len() - n.trailing_zeros() as usize;
            self.digits[..significant(self)].cmp(&other.digits[..significant(other)])
        })
    }

    pub(super) fn multiplied(&self, factor: u64) -> Decimal {
        let mut carry: u128 = 0;
        let mut digits: Vec<u8> = Vec::with_capacity(self.digits.len() + 20);
        for digit in self.digits.iter().rev() {
            carry += u128::from(*digit) * u128::from(factor);
            digits.push((carry % 10) as u8);
            carry /= 10;
        }
        while carry > 0 {
            digits.push((carry % 10) as u8);
            carry /= 10;
        }
        digits.reverse();
        Decimal { digits, ..self.clone() }
    }

    /// Rounds away from zero to a multiple of `10^scale`.
    pub(super) fn round_up(&mut self, scale: i64) {
        let drop = scale - self.exponent;
        if drop <= 0 || self.is_zero() {
            return;
        }
        let kept = usize::try_from(drop).map_or(0, |drop| self.digits.len().saturating_sub(drop));
        let lost = self.digits[kept..].iter().any(|d| *d != 0);
        self.digits.truncate(kept);
        self.exponent = scale;
        if lost {
            self.increment();
        }
    }

    fn increment(&mut self) {
        for digit in self.digits.iter_mut().rev() {
            if *digit < 9 {
                *digit += 1;
                return;
            }
            *digit = 0;
        }
        self.digits.insert(0, 1);
    }

    /// The digits at `exponent`, which is not above this number's.
    fn aligned(&self, exponent: i64) -> Vec<u8> {
        let mut digits = self.digits.clone();
        let zeros = usize::try_from(self.exponent - exponent).unwrap_or(0);
        digits.extend(std::iter::repeat_n(0, zeros));
        digits
    }

    pub(super) fn plus(&self, other: &Decimal) -> Decimal {
        if self.is_zero() || other.is_zero() {
            return if self.is_zero() { other.clone() } else { self.clone() };
        }
        let (larger, smaller) = if self.cmp_magnitude(other) == Ordering::Less { (other, self) } else { (self, other) };
        let exponent = larger.exponent.min(smaller.exponent);
        if larger.top() - exponent > MAX_ALIGNED_DIGITS {
            return larger.clone();
        }
        let (a, b) = (larger.aligned(exponent), smaller.aligned(exponent));
        let subtract = larger.negative != smaller.negative;
        let mut digits = Vec::with_capacity(a.len() + 1);
        let mut carry = 0_i8;
        for i in 0..a.len().max(b.len()) {
            let at = |n: &[u8]| n.len().checked_sub(i + 1).map_or(0, |at| n[at] as i8);
            let sum = at(&a) + carry + if subtract { -at(&b) } else { at(&b) };
            carry = sum.div_euclid(10);
            digits.push(sum.rem_euclid(10) as u8);
        }
        if carry > 0 {
            digits.push(carry as u8);
        }
        while digits.last() == Some(&0) {
            digits.pop();
        }
        digits.reverse();
        let negative = larger.negative && !digits.is_empty();
        Decimal { negative, digits, exponent }
    }

    /// The digits as a signed number, if it fits.
    pub(super) fn mantissa_i64(&self) -> Option<i64> {
        let magnitude = self.digits.iter().try_fold(0_u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(*d)))?;
        if self.negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
    }

    /// The number in units of `10^scale`, which must divide it, if that fits.
    pub(super) fn to_i64_at(&self, scale: i64) -> Option<i64> {
        let mantissa = self.mantissa_i64()?;
        if mantissa == 0 {
            return Some(0);
        }
        match u32::try_from(self.exponent - scale) {
            Ok(up) => mantissa.checked_mul(10_i64.checked_pow(up)?),
            // Only zeros are cut: the number is a multiple of the unit.
            Err(_) => mantissa.checked_div(10_i64.checked_pow(u32::try_from(scale - self.exponent).ok()?)?),
        }
    }

    /// As [`Decimal::to_i64_at`], modulo 2^64.
    pub(super) fn low_bits_at(&self, scale: i64) -> i64 {
        let low = self.digits.iter().fold(0_u64, |n, d| n.wrapping_mul(10).wrapping_add(u64::from(*d))) as i64;
        let low = if self.negative { low.wrapping_neg() } else { low };
        // 10^64 is 0 modulo 2^64.
        let up = u32::try_from((self.exponent - scale).clamp(0, 64)).unwrap_or(0);
        low.wrapping_mul(10_i64.wrapping_pow(up))
    }

    /// Digits and exponent such that the exponent is a multiple of three and the digits are as few as they can be.
    pub(super) fn engineering(&self) -> (String, i64) {
        let zeros = self.trailing_zeros();
        let exponent = self.exponent + zeros;
        let pad = exponent.rem_euclid(3);
        let mut text = self.sign_text();
        let significant = self.digits.len() - zeros as usize;
        text.extend(self.digits[..significant].iter().map(|d| char::from(d + b'0')));
        text.extend(std::iter::repeat_n('0', pad as usize));
        (text, exponent - pad)
    }

    /// For a whole number: the digits without their factors of 1024, and how many these are. `None` if it is too long to divide.
    pub(super) fn factors_of_1024(&self) -> Option<(String, i32)> {
        if self.top() > MAX_ALIGNED_DIGITS {
            return None;
        }
        let mut digits = self.aligned(0);
        // A whole number's fraction is all zeros.
        digits.truncate(usize::try_from(self.top()).ok()?);
        let mut power = 0;
        while let Some(quotient) = divided_by_1024(&digits) {
            digits = quotient;
            power += 1;
        }
        let text: String = digits.iter().map(|d| char::from(d + b'0')).collect();
        Some((self.sign_text() + &text, power))
    }

    fn sign_text(&self) -> String {
        if self.negative { "-".to_owned() } else { String::new() }
    }
}

/// The quotient, if there is no remainder.
fn divided_by_1024(digits: &[u8]) -> Option<Vec<u8>> {
    let mut remainder = 0_u32;
    let mut quotient = Vec::with_capacity(digits.len());
    for digit in digits {
        remainder = remainder * 10 + u32::from(*digit);
        let next = (remainder / 1024) as u8;
        if next > 0 || !quotient.is_empty() {
            quotient.push(next);
        }
        remainder %= 1024;
    }
    (remainder == 0 && !quotient.is_empty()).then_some(quotient)
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Decimal) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Decimal) -> Ordering {
        match (self.sign(), other.sign()) {
            (1, 1) => self.cmp_magnitude(other),
            (-1, -1) => other.cmp_magnitude(self),
            (a, b) => a.cmp(&b),
        }
    }
}

/// In the form `-123e4`.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits: String = self.digits.iter().map(|d| char::from(d + b'0')).collect();
        write!(f, "{}{}e{}", self.sign_text(), if digits.is_empty() { "0" } else { &digits }, self.exponent)
    }
}
