//! `format` of texts: `%s`, `%d`, `%f`, `%e`, `%b`, `%x`, `%X`, `%o`. Numbers with a point are written the American way.

use super::lists::list;
use crate::types::Type;
use crate::value::{EvalError, Evaluated, Value};

/// Digits after the point where none are asked for.
const PRECISION: usize = 6;

/// What a clause asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Clause {
    Text,
    Decimal,
    Fixed(usize),
    Scientific(usize),
    Binary,
    Hex { upper: bool },
    Octal,
}

/// A part of a format: text as it is, or a clause.
enum Part {
    Text(String),
    Clause(Result<Clause, String>),
}

pub(super) fn format<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let text = args[0].as_str().ok_or_else(EvalError::no_such_overload)?;
    let values = list(&args[1])?;
    let mut out = String::new();
    let mut index = 0;
    for part in parts(text) {
        match part {
            Part::Text(text) => out.push_str(&text),
            Part::Clause(clause) => {
                let value = values.get(index).ok_or_else(|| EvalError::new(format!("index {index} out of range")))??;
                let clause = clause.map_err(EvalError::new)?;
                out.push_str(&write(clause, &value).map_err(|why| EvalError::new(format!("error during formatting: {why}")))?);
                index += 1;
            }
        }
    }
    Ok(Value::string(out))
}

fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        parts.push(Part::Text(rest[..at].to_owned()));
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            parts.push(Part::Text("%".to_owned()));
            rest = after;
            continue;
        }
        let (clause, read) = clause(rest);
        let failed = clause.is_err();
        parts.push(Part::Clause(clause));
        if failed {
            return parts;
        }
        rest = &rest[read..];
    }
    parts.push(Part::Text(rest.to_owned()));
    parts
}

fn clause(text: &str) -> (Result<Clause, String>, usize) {
    let failed = |why: &str| (Err(format!("could not parse formatting clause: {why}")), 0);
    if text.is_empty() {
        return (Err("unexpected end of string".to_owned()), 0);
    }
    let (precision, read) = match text.strip_prefix('.') {
        None => (PRECISION, 0),
        Some(rest) => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == rest.len() {
                return failed("error while parsing precision: could not find end of precision specifier");
            }
            match rest[..digits].parse::<usize>() {
                // Far more digits than a double has are a mistake, and would be a burden.
                Ok(precision) if precision <= 1000 => (precision, digits + 1),
                _ => {
                    let text = &rest[..digits];
                    let why = if text.is_empty() { "invalid syntax" } else { "value out of range" };
                    return failed(&format!(
                        "error while parsing precision: error while converting precision to integer: strconv.Atoi: parsing {text:?}: {why}"
                    ));
                }
            }
        }
    };
    let Some(letter) = text[read..].chars().next() else { return failed("unexpected end of string") };
    let clause = match letter {
        's' => Clause::Text,
        'd' => Clause::Decimal,
        'f' => Clause::Fixed(precision),
        'e' => Clause::Scientific(precision),
        'b' => Clause::Binary,
        'x' => Clause::Hex { upper: false },
        'X' => Clause::Hex { upper: true },
        'o' => Clause::Octal,
        other => return failed(&format!("unrecognized formatting clause \"{other}\"")),
    };
    (Ok(clause), read + letter.len_utf8())
}

/// The complaint about a value of a type that a clause does not take.
fn refused(clause: Clause, type_name: &str) -> String {
    let what = match clause {
        Clause::Text => {
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps"
        }
        Clause::Decimal => "decimal clause can only be used on integers",
        Clause::Fixed(_) => "fixed-point clause can only be used on doubles",
        Clause::Scientific(_) => "scientific clause can only be used on doubles",
        Clause::Binary => "only integers and bools can be formatted as binary",
        Clause::Hex { .. } => "only integers, byte buffers, and strings can be formatted as hex",
        Clause::Octal => "octal clause can only be used on integers",
    };
    format!("{what}, was given {type_name}")
}

fn takes(clause: Clause, ty: &Type) -> bool {
    match clause {
        _ if matches!(ty, Type::Dyn) => true,
        Clause::Text => !matches!(ty, Type::Object(_) | Type::Opaque(..)),
        Clause::Decimal | Clause::Octal => matches!(ty, Type::Int | Type::Uint),
        Clause::Fixed(_) | Clause::Scientific(_) => matches!(ty, Type::Double | Type::String),
        Clause::Binary => matches!(ty, Type::Int | Type::Uint | Type::Bool),
        Clause::Hex { .. } => matches!(ty, Type::Int | Type::Uint | Type::String | Type::Bytes),
    }
}

/// What is wrong with a constant format for arguments of these types: the argument that it is about, if one is, and the message.
pub(crate) fn check(text: &str, types: &[Type]) -> Option<(Option<usize>, String)> {
    let mut index = 0;
    for part in parts(text) {
        let Part::Clause(clause) = part else { continue };
        if index >= types.len() {
            return Some((
                None,
                match clause {
                    Err(why) if why == "unexpected end of string" => why,
                    _ => format!("index {index} out of range"),
                },
            ));
        }
        match clause {
            Err(why) => return Some((None, why)),
            Ok(clause) if !takes(clause, &types[index]) => {
                return Some((Some(index), format!("error during formatting: {}", refused(clause, types[index].name()))));
            }
            Ok(_) => index += 1,
        }
    }
    let given = types.len();
    (given > index).then(|| (None, format!("too many arguments supplied to string.format (expected {index}, got {given})")))
}

fn write(clause: Clause, value: &Value<'_>) -> Result<String, String> {
    let refuse = || refused(clause, value.type_name());
    match (clause, value) {
        (Clause::Text, value) => text(value).ok_or_else(refuse),
        (Clause::Decimal, Value::Int(value)) => Ok(value.to_string()),
        (Clause::Decimal, Value::Uint(value)) => Ok(value.to_string()),
        (Clause::Fixed(precision), value) => double(value).map(|double| fixed(double, precision)).ok_or_else(refuse),
        (Clause::Scientific(precision), value) => double(value).map(|double| scientific(double, precision)).ok_or_else(refuse),
        (Clause::Binary, Value::Int(value)) => Ok(signed(*value, |v| format!("{v:b}"))),
        (Clause::Binary, Value::Uint(value)) => Ok(format!("{value:b}")),
        (Clause::Binary, Value::Bool(value)) => Ok(if *value { "1" } else { "0" }.to_owned()),
        (Clause::Octal, Value::Int(value)) => Ok(signed(*value, |v| format!("{v:o}"))),
        (Clause::Octal, Value::Uint(value)) => Ok(format!("{value:o}")),
        (Clause::Hex { upper }, Value::Int(value)) => Ok(signed(*value, |v| hex_number(v, upper))),
        (Clause::Hex { upper }, Value::Uint(value)) => Ok(hex_number(*value, upper)),
        (Clause::Hex { upper }, Value::String(text)) => Ok(hex(text.as_bytes(), upper)),
        (Clause::Hex { upper }, Value::Bytes(bytes)) => Ok(hex(bytes, upper)),
        _ => Err(refuse()),
    }
}

fn signed(value: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if value < 0 { "-" } else { "" }, digits(value.unsigned_abs()))
}

fn hex_number(value: u64, upper: bool) -> String {
    if upper { format!("{value:X}") } else { format!("{value:x}") }
}

fn hex(bytes: &[u8], upper: bool) -> String {
    bytes.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }).collect()
}

fn double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(value) => Some(*value),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn special(value: f64) -> Option<&'static str> {
    match value {
        value if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("∞"),
        f64::NEG_INFINITY => Some("-∞"),
        _ => None,
    }
}

fn fixed(value: f64, precision: usize) -> String {
    if let Some(special) = special(value) {
        return special.to_owned();
    }
    let plain = format!("{:.precision$}", value.abs());
    let (whole, fraction) = plain.split_once('.').map_or((&plain[..], None), |(whole, fraction)| (whole, Some(fraction)));
    let mut out = String::from(if value.is_sign_negative() { "-" } else { "" });
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

fn scientific(value: f64, precision: usize) -> String {
    if let Some(special) = special(value) {
        return special.to_owned();
    }
    let plain = format!("{value:.precision$e}");
    let (mantissa, exponent) = plain.split_once('e').unwrap_or((&plain, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let superscript: String = format!("{:02}", exponent.abs())
        .chars()
        .map(|digit| ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][digit.to_digit(10).unwrap_or(0) as usize])
        .collect();
    format!("{mantissa}×10{}{superscript}", if exponent < 0 { "⁻" } else { "" })
}

/// `%s` of a value.
fn text(value: &Value<'_>) -> Option<String> {
    match value {
        Value::List(_) | Value::Map(_) => within(value),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Uint(_)
        | Value::Double(_)
        | Value::String(_)
        | Value::Timestamp(_)
        | Value::Duration(_)
        | Value::Type(_) => Some(value.to_string()),
        _ => None,
    }
}

/// A value within a list or a map: as it would be written in an expression.
fn within(value: &Value<'_>) -> Option<String> {
    match value {
        Value::String(text) => Some(format!("{:?}", &**text)),
        Value::Bytes(bytes) => Some(format!("b{:?}", String::from_utf8_lossy(bytes))),
        Value::Double(value) if value.is_finite() => Some(format!("{value:.PRECISION$}")),
        Value::Double(_) => Some(format!("\"{value}\"")),
        Value::Timestamp(_) => Some(format!("timestamp(\"{value}\")")),
        Value::Duration(_) => Some(format!("duration(\"{value}\")")),
        Value::List(list) => {
            let items: Option<Vec<String>> = list.iter().map(|item| within(&item.ok()?)).collect();
            Some(format!("[{}]", items?.join(", ")))
        }
        Value::Map(map) => {
            let mut entries = Vec::new();
            for key in map.keys() {
                entries.push(format!("{}:{}", within(&key)?, within(&map.find(&key).ok()??)?));
            }
            entries.sort();
            Some(format!("{{{}}}", entries.join(", ")))
        }
        other => text(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(format_text: &str, values: Vec<Value<'static>>) -> Result<String, String> {
        match format(&[Value::string(format_text), Value::list(values)]) {
            Ok(value) => Ok(value.to_string()),
            Err(error) => Err(error.message),
        }
    }

    #[test]
    fn clauses_take_what_they_are_made_for() {
        assert_eq!(formatted("%d%% of %s", vec![Value::Int(5), Value::string("x")]), Ok("5% of x".to_owned()));
        assert_eq!(formatted("%.2f %x", vec![Value::Double(1234.5), Value::Int(-255)]), Ok("1,234.50 -ff".to_owned()));
        let list = Value::list(vec![Value::string("a"), Value::Double(1.0)]);
        assert_eq!(formatted("%s", vec![list]), Ok("[\"a\", 1.000000]".to_owned()));
        assert_eq!(formatted("%d", vec![]), Err("index 0 out of range".to_owned()));
        assert_eq!(
            formatted("%d", vec![Value::string("a")]),
            Err("error during formatting: decimal clause can only be used on integers, was given string".to_owned())
        );
    }
}
