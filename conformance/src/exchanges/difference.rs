//! What two answers differ in, place by place.

use std::fmt;

use serde_json::Value;

use super::corpus::Answer;

/// How much of a value is shown.
const SHOWN_CHARS: usize = 400;

/// A place that is not the same in both.
#[derive(Debug, PartialEq)]
pub struct Difference {
    pub place: String,
    pub expected: Option<Value>,
    pub found: Option<Value>,
}

impl Difference {
    pub(super) fn absent(what: &str) -> Difference {
        Difference { place: format!("there is no {what}"), expected: None, found: None }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), Value::to_string);
        let (expected, found) = (text(&self.expected), text(&self.found));
        // Of long texts, the part where they part.
        let same = expected.chars().zip(found.chars()).take_while(|(a, b)| a == b).count();
        let skipped = if same > SHOWN_CHARS / 2 { same - SHOWN_CHARS / 4 } else { 0 };
        let shown = |text: &str| {
            let start = if skipped > 0 { "…" } else { "" };
            format!("{start}{}", text.chars().skip(skipped).take(SHOWN_CHARS).collect::<String>())
        };
        write!(out, "{}: expected {}, found {}", self.place, shown(&expected), shown(&found))
    }
}

/// All places in which two answers differ.
pub fn differences(expected: &Answer, found: &Answer) -> Vec<Difference> {
    let value = |answer: &Answer| {
        serde_json::json!({
            "status": answer.status, "content type": answer.content_type, "warnings": answer.warnings, "body": answer.body,
        })
    };
    let mut out = Vec::new();
    walk("", Some(&value(expected)), Some(&value(found)), &mut out);
    out
}

fn walk(place: &str, expected: Option<&Value>, found: Option<&Value>, out: &mut Vec<Difference>) {
    match (expected, found) {
        (a, b) if a == b => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                walk(&format!("{place}/{}", key.replace('~', "~0").replace('/', "~1")), a.get(key), b.get(key), out);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{place}/{i}"), Some(a), Some(b), out);
            }
        }
        (a, b) => out.push(Difference { place: place.to_owned(), expected: a.cloned(), found: b.cloned() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(body: Value) -> Answer {
        Answer { status: 200, content_type: None, warnings: Vec::new(), body }
    }

    #[test]
    fn each_place_that_differs_is_named() {
        let (a, b) = (answer(json!({"a": 1, "b": [1, 2], "c/d": {"e": 1}})), answer(json!({"a": 1, "b": [1, 3], "c/d": {}})));
        let told: Vec<String> = differences(&a, &b).iter().map(Difference::to_string).collect();
        assert_eq!(told, ["/body/b/1: expected 2, found 3", "/body/c~1d/e: expected 1, found nothing"]);
        assert_eq!(differences(&a, &a), []);
    }

    #[test]
    fn lists_of_other_lengths_are_shown_whole() {
        let told = differences(&answer(json!([1])), &answer(json!([1, 2])));
        assert_eq!(told[0].to_string(), "/body: expected [1], found [1,2]");
    }
}
