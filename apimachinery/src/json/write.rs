//! Writing, byte for byte as Go's encoder does: HTML characters and line separators escaped, floats in ES6 form.

use serde_json::{Map, Number, Value};

/// The compact text.
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    write(&mut out, value);
    out
}

/// As [`to_vec`].
pub fn to_string(value: &Value) -> String {
    // Strings of values are UTF-8, and everything else is ASCII.
    String::from_utf8(to_vec(value)).unwrap_or_default()
}

/// Appends the compact text.
pub fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(out, item);
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            out.push(b'{');
            for (i, (key, item)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_text(out, key);
                out.push(b':');
                write(out, item);
            }
            out.push(b'}');
        }
        scalar => write_scalar(out, scalar),
    }
}

/// Appends the text indented by two spaces a level.
pub fn write_pretty(out: &mut Vec<u8>, value: &Value) {
    indented(out, value, 0);
}

/// The text of an object with one long array in it, written item by item: nobody needs to have the array.
pub struct Long {
    /// Up to the array's bracket.
    before: Vec<u8>,
    /// From the member after the array on.
    after: Vec<u8>,
    pretty: bool,
    items: usize,
}

impl Long {
    /// `frame` is the object; what its member `array` holds is left out.
    pub fn new(frame: &Map<String, Value>, array: &str, pretty: bool) -> Long {
        let (mut before, mut after) = (vec![b'{'], Vec::new());
        let mut out = &mut before;
        for (i, (key, value)) in frame.iter().enumerate() {
            match (i > 0, pretty) {
                (comma, true) => new_line(out, comma, 1),
                (true, false) => out.push(b','),
                (false, false) => {}
            }
            write_text(out, key);
            out.extend(if pretty { b": ".as_slice() } else { b":" });
            if key == array {
                out.push(b'[');
                out = &mut after;
            } else if pretty {
                indented(out, value, 1);
            } else {
                write(out, value);
            }
        }
        if pretty {
            new_line(out, false, 0);
        }
        out.push(b'}');
        Long { before, after, pretty, items: 0 }
    }

    pub fn begin(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.before);
    }

    pub fn item(&mut self, out: &mut Vec<u8>, value: &Value) {
        self.separate(out);
        if self.pretty {
            indented(out, value, 2);
        } else {
            write(out, value);
        }
    }

    /// What stands between items; the caller writes the next one.
    pub fn separate(&mut self, out: &mut Vec<u8>) {
        match (self.items > 0, self.pretty) {
            (comma, true) => new_line(out, comma, 2),
            (true, false) => out.push(b','),
            (false, false) => {}
        }
        self.items += 1;
    }

    pub fn end(&self, out: &mut Vec<u8>) {
        if self.pretty && self.items > 0 {
            new_line(out, false, 1);
        }
        out.push(b']');
        out.extend_from_slice(&self.after);
    }
}

fn indented(out: &mut Vec<u8>, value: &Value, level: usize) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                new_line(out, i > 0, level + 1);
                indented(out, item, level + 1);
            }
            new_line(out, false, level);
            out.push(b']');
        }
        Value::Object(fields) if !fields.is_empty() => {
            out.push(b'{');
            for (i, (key, item)) in fields.iter().enumerate() {
                new_line(out, i > 0, level + 1);
                write_text(out, key);
                out.extend(b": ");
                indented(out, item, level + 1);
            }
            new_line(out, false, level);
            out.push(b'}');
        }
        Value::Array(_) => out.extend(b"[]"),
        Value::Object(_) => out.extend(b"{}"),
        scalar => write_scalar(out, scalar),
    }
}

fn new_line(out: &mut Vec<u8>, comma: bool, level: usize) {
    if comma {
        out.push(b',');
    }
    out.push(b'\n');
    out.extend(std::iter::repeat_n(b' ', 2 * level));
}

fn write_scalar(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Bool(true) => out.extend(b"true"),
        Value::Bool(false) => out.extend(b"false"),
        Value::String(text) => write_text(out, text),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(n), ..) => out.extend(itoa::Buffer::new().format(n).as_bytes()),
            (_, Some(n), _) => out.extend(itoa::Buffer::new().format(n).as_bytes()),
            (.., float) => write_float(out, float.unwrap_or_default()),
        },
        _ => out.extend(b"null"),
    }
}

/// Appends the shortest decimal that reads back as the same float, with an exponent below 1e-6 and from 1e21 on. What is
/// no number (JSON has no word for it) becomes 0.
pub fn write_float(out: &mut Vec<u8>, float: f64) {
    // serde_json rounds ties between shortest decimals to even, as Go does; the standard library does not.
    let text = Number::from_f64(float).map_or_else(|| "0".to_owned(), |n| n.to_string());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |m| ("-", m));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let point = whole.len() as i64 + exponent.parse::<i64>().unwrap_or(0);
    let all = [whole, fraction].concat();
    let digits = all.trim_start_matches('0');
    let point = point - (all.len() - digits.len()) as i64;
    let digits = digits.trim_end_matches('0');
    out.extend(sign.as_bytes());
    out.extend(decimal(digits, point).as_bytes());
}

/// `0.digits` times ten to the power of `point`.
fn decimal(digits: &str, point: i64) -> String {
    let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or(0));
    let length = digits.len() as i64;
    if digits.is_empty() {
        return "0".to_owned();
    }
    if !(-5..=21).contains(&point) {
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        return format!("{first}{dot}{rest}e{:+}", point - 1);
    }
    if point <= 0 {
        return format!("0.{}{digits}", zeros(-point));
    }
    if point >= length {
        return format!("{digits}{}", zeros(point - length));
    }
    let (whole, fraction) = digits.split_at(usize::try_from(point).unwrap_or(0));
    format!("{whole}.{fraction}")
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut start = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            0x08 => b"\\b",
            0x0c => b"\\f",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            ..0x20 | b'<' | b'>' | b'&' => &[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]],
            // The line and paragraph separators, U+2028 and U+2029.
            0xe2 if bytes[i..].starts_with(b"\xe2\x80\xa8") => b"\\u2028",
            0xe2 if bytes[i..].starts_with(b"\xe2\x80\xa9") => b"\\u2029",
            _ => continue,
        };
        out.extend(&bytes[start..i]);
        out.extend(escape);
        start = i + if byte == 0xe2 { 3 } else { 1 };
    }
    out.extend(&bytes[start..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_escaped_as_gos_encoder_does() {
        let text = "a\"\\\u{8}\u{c}\n\r\t\u{1}\u{1f}<>&\u{7f}é\u{2028}\u{2029}\u{2030}😀";
        assert_eq!(
            to_string(&json!({"k<": text})),
            "{\"k\\u003c\":\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f\\u003c\\u003e\\u0026\u{7f}é\\u2028\\u2029\u{2030}😀\"}"
        );
    }

    #[test]
    fn floats_print_in_es6_form() {
        let table = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (2_313_076_573_206_837.0 / 4.0, "578269143301709.2"),
            (123.456, "123.456"),
            (f64::MAX, "1.7976931348623157e+308"),
            (-2.5e-10, "-2.5e-10"),
        ];
        for (float, expected) in table {
            assert_eq!(to_string(&json!(float)), expected);
        }
    }

    #[test]
    fn pretty_text_has_two_spaces_a_level_and_keeps_empty_containers_short() {
        let mut out = Vec::new();
        write_pretty(&mut out, &json!({"a": [1, {"b": {}}], "c": []}));
        let expected = "{\n  \"a\": [\n    1,\n    {\n      \"b\": {}\n    }\n  ],\n  \"c\": []\n}";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_long_array_written_item_by_item_reads_as_if_written_at_once() {
        for items in [json!([]), json!([1]), json!([{"a": [], "b": {}}, [1, 2], "c"])] {
            for frame in [json!({"rows": []}), json!({"a": {"b": 1}, "rows": [], "z": [1]}), json!({"rows": [], "z": {}})] {
                let mut whole = frame.clone();
                whole["rows"] = items.clone();
                for pretty in [false, true] {
                    let mut long = Long::new(frame.as_object().expect("an object"), "rows", pretty);
                    let mut out = Vec::new();
                    long.begin(&mut out);
                    for item in items.as_array().expect("an array") {
                        long.item(&mut out, item);
                    }
                    long.end(&mut out);
                    let mut expected = Vec::new();
                    if pretty {
                        write_pretty(&mut expected, &whole);
                    } else {
                        write(&mut expected, &whole);
                    }
                    assert_eq!(String::from_utf8(out), String::from_utf8(expected));
                }
            }
        }
    }
}
