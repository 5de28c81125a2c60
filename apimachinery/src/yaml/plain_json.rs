//! JSON that means the same to a reader of YAML, and is read in a fraction of the time. It is what clients send as YAML.
//!
//! Only what is beyond doubt is taken: printable ASCII without escapes, whole numbers, no key twice, none that YAML would merge by or
//! finds too long. All else is left to the reader of YAML, errors too.

use serde_json::Value;

use crate::json;

/// YAML looks no further than 1,024 characters for the colon after a key.
const MAX_KEY: usize = 1_000;

/// The document, its objects sorted, if it is such JSON.
pub(super) fn read(text: &[u8]) -> Option<Value> {
    if !is_plain(text) {
        return None;
    }
    let (mut value, duplicates) = json::parse(text).ok()?;
    if !duplicates.is_empty() || !has_whole_numbers(&value) {
        return None;
    }
    value.sort_all_objects();
    Some(value)
}

fn is_plain(text: &[u8]) -> bool {
    if text.first() != Some(&b'{') {
        return false;
    }
    // Where the string began that the scan is in, or that ended right before.
    let (mut inside, mut began) = (false, 0);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'\\' => return false,
            b'"' => {
                if !inside {
                    began = at;
                } else if text[began + 1..at] == *b"<<" {
                    return false;
                }
                inside = !inside;
            }
            b' '..=b'~' if inside => {}
            b':' if text[at - 1] != b'"' || at - began > MAX_KEY => return false,
            b'-' if text.get(at + 1) == Some(&b'0') => return false,
            b' '..=b'~' | b'\n' => {}
            _ => return false,
        }
    }
    true
}

fn has_whole_numbers(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_i64() || number.is_u64(),
        Value::Array(items) => items.iter().all(has_whole_numbers),
        Value::Object(members) => members.values().all(has_whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Parsed, parse, read_yaml};
    use super::*;

    #[test]
    fn what_is_taken_reads_as_its_yaml() {
        for text in [
            r#"{}"#,
            r#"{"b":[1,-2,18446744073709551615,-9223372036854775808],"a":{"z":null,"y":true,"x":false},"c":"no","d":"1e3","e":"~"}"#,
            "{\n  \"b\": [\n    \"x: y # z\",\n    {\"k\": \"- [a]\", \"j\": \"\"}\n  ],\n  \"a\": {}\n}\n",
            r#"{"a":[[],[[]],{"":{"":1}}],"yes":"&a *b !c %d @e `f","0":"~ << <"}"#,
        ] {
            let read = read(text.as_bytes()).unwrap_or_else(|| panic!("{text} is taken"));
            let Parsed { value, strict_error } = read_yaml(text.as_bytes()).expect(text);
            assert_eq!((read.to_string(), strict_error), (value.to_string(), None), "{text}");
        }
    }

    #[test]
    fn what_may_read_otherwise_is_left_to_yaml() {
        let long = format!(r#"{{"{}":1}}"#, "k".repeat(2_000));
        for text in [
            r#"[1]"#,
            r#" {"a":1}"#,
            r#"{"a":1.5}"#,
            r#"{"a":1e3}"#,
            r#"{"a":-0}"#,
            r#"{"a":18446744073709551616}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"<<":{"a":1}}"#,
            r#"{"a":"\n"}"#,
            r#"{"a":"é"}"#,
            "{\"a\":\t1}",
            "{\"a\"\n:1}",
            r#"{"a":1}}"#,
            r#"{"a":1,}"#,
            r#"{a:1}"#,
            long.as_str(),
        ] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(br#"{"<<":{"a":1}}"#).expect("YAML").value, read_yaml(br#"{"<<":{"a":1}}"#).expect("YAML").value);
    }
}
