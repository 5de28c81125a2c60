//! Tolerations: which covers which, and reading them from text. Pure.

use apimachinery::json;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::registry::read::{optional_int_at, str_at};

/// A toleration; what is empty is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Toleration {
    pub key: String,
    pub operator: String,
    pub value: String,
    pub effect: String,
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    pub fn of(value: &Value) -> Toleration {
        let text = |member: &str| str_at(value, member).to_owned();
        Toleration {
            key: text("/key"),
            operator: text("/operator"),
            value: text("/value"),
            effect: text("/effect"),
            toleration_seconds: optional_int_at(value, "/tolerationSeconds"),
        }
    }

    pub fn to_value(&self) -> Value {
        let members = [("key", &self.key), ("operator", &self.operator), ("value", &self.value), ("effect", &self.effect)];
        let said = members.into_iter().filter(|(_, text)| !text.is_empty());
        let mut out: Map<String, Value> = said.map(|(name, text)| (name.to_owned(), text.as_str().into())).collect();
        if let Some(seconds) = self.toleration_seconds {
            out.insert("tolerationSeconds".to_owned(), seconds.into());
        }
        out.into()
    }

    /// Whether this one tolerates all that the other does.
    pub fn covers(&self, other: &Toleration) -> bool {
        if self == other {
            return true;
        }
        let is_of_all_keys = self.key.is_empty() && self.operator == "Exists";
        if (self.key != other.key && !is_of_all_keys) || (!self.effect.is_empty() && self.effect != other.effect) {
            return false;
        }
        if self.effect == "NoExecute"
            && let Some(seconds) = self.toleration_seconds
            && other.toleration_seconds.is_none_or(|others| others > seconds)
        {
            return false;
        }
        match self.operator.as_str() {
            "Equal" | "" => other.operator == "Equal" && other.value == self.value,
            "Exists" => true,
            _ => false,
        }
    }
}

/// Both lists as one, without what another one covers.
pub fn merge(first: Vec<Toleration>, second: Vec<Toleration>) -> Vec<Toleration> {
    let all: Vec<Toleration> = first.into_iter().chain(second).collect();
    let mut merged: Vec<Toleration> = Vec::with_capacity(all.len());
    for (at, toleration) in all.iter().enumerate() {
        let later = || all[at + 1..].iter().any(|other| other != toleration && other.covers(toleration));
        if !merged.iter().any(|kept| kept.covers(toleration)) && !later() {
            merged.push(toleration.clone());
        }
    }
    merged
}

/// Whether each toleration is covered by one of those that are allowed; an empty list allows all.
pub fn are_allowed(tolerations: &[Toleration], allowed: &[Toleration]) -> bool {
    allowed.is_empty() || tolerations.iter().all(|toleration| allowed.iter().any(|one| one.covers(toleration)))
}

/// A list of tolerations in JSON. Errors are in the words of Go's decoder.
pub fn parse(text: &str) -> Result<Vec<Toleration>, String> {
    let (value, _) = json::parse(text.as_bytes()).map_err(|error| error.to_string())?;
    let items = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(items) => items,
        other => return Err(format!("json: cannot unmarshal {} into Go value of type []v1.Toleration", kind(&other))),
    };
    items.iter().map(parse_one).collect()
}

fn parse_one(item: &Value) -> Result<Toleration, String> {
    let members = match item {
        Value::Null => return Ok(Toleration::default()),
        Value::Object(members) => members,
        other => return Err(format!("json: cannot unmarshal {} into Go value of type v1.Toleration", kind(other))),
    };
    let mut out = Toleration::default();
    for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
        let mismatch = |field: &str, shown: String, of: &str| {
            Err(format!("json: cannot unmarshal {shown} into Go struct field Toleration.{field} of type {of}"))
        };
        // Go's decoder does not care about the case of names.
        let (field, place, of) = match name.to_ascii_lowercase().as_str() {
            "key" => ("key", &mut out.key, "string"),
            "operator" => ("operator", &mut out.operator, "v1.TolerationOperator"),
            "value" => ("value", &mut out.value, "string"),
            "effect" => ("effect", &mut out.effect, "v1.TaintEffect"),
            "tolerationseconds" => {
                match value {
                    Value::Number(number) => match number.as_i64() {
                        Some(seconds) => out.toleration_seconds = Some(seconds),
                        None => return mismatch("tolerationSeconds", format!("number {number}"), "int64"),
                    },
                    other => return mismatch("tolerationSeconds", kind(other).to_owned(), "int64"),
                }
                continue;
            }
            _ => continue,
        };
        match value {
            Value::String(text) => place.clone_from(text),
            other => return mismatch(field, kind(other).to_owned(), of),
        }
    }
    Ok(out)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `key=value:effect/seconds`, where each part but the key may be absent; the key `*` is empty.
    fn toleration(text: &str) -> Toleration {
        let (text, seconds) = text.split_once('/').map_or((text, None), |(text, seconds)| (text, Some(seconds.parse().unwrap())));
        let (text, effect) = text.split_once(':').unwrap_or((text, ""));
        let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
        Toleration {
            key: if key == "*" { String::new() } else { key.to_owned() },
            operator: if value.is_some() { "Equal" } else { "Exists" }.to_owned(),
            value: value.unwrap_or_default().to_owned(),
            effect: effect.to_owned(),
            toleration_seconds: seconds,
        }
    }

    fn tolerations(text: &str) -> Vec<Toleration> {
        text.split_whitespace().map(toleration).collect()
    }

    #[test]
    fn a_toleration_covers_what_it_says_less_of() {
        let some = "foo:NoSchedule foo=bar:NoSchedule foo=baz:NoSchedule faz:NoSchedule faz=baz:NoSchedule foo:PreferNoSchedule foo:NoExecute foo=bar:NoExecute foo:NoExecute/10 foo:NoExecute/0 foo=bar:NoExecute/10";
        let cases = [
            ("*", "foo foo=bar *:NoSchedule *:NoExecute"),
            ("*:NoSchedule", "foo:NoSchedule foo=bar:NoSchedule faz=baz:NoSchedule"),
            ("foo", "foo=bar foo:NoSchedule foo=bar:NoExecute/10"),
            ("foo=bar", "foo=bar:NoSchedule foo=bar:NoExecute foo=bar:NoExecute/10"),
            ("foo:NoExecute", "foo=bar:NoExecute foo:NoExecute/10 foo:NoExecute/0"),
            ("foo:NoExecute/10", "foo:NoExecute/0 foo=bar:NoExecute/10"),
        ];
        for (above, below) in cases {
            for text in below.split(' ') {
                assert!(toleration(above).covers(&toleration(text)), "{above} covers {text}");
                assert!(!toleration(text).covers(&toleration(above)), "{text} does not cover {above}");
            }
        }
        assert!(some.split(' ').all(|text| toleration("*").covers(&toleration(text)) && toleration(text).covers(&toleration(text))));
        assert!(!toleration("foo:NoExecute/10").covers(&toleration("foo:NoExecute")), "for ever is longer");
        let unknown = Toleration { operator: "Near".to_owned(), ..toleration("foo") };
        assert!(!unknown.covers(&toleration("foo=bar")));
    }

    #[test]
    fn merging_keeps_the_first_of_equals_and_the_widest() {
        for (first, second, expect) in [
            ("a=b:NoSchedule c=d:NoSchedule", "e:NoExecute/10", "a=b:NoSchedule c=d:NoSchedule e:NoExecute/10"),
            ("a=b:NoSchedule", "a=b:NoSchedule", "a=b:NoSchedule"),
            ("a=b:NoSchedule a=c:NoSchedule", "a:NoSchedule d=e:NoSchedule", "a:NoSchedule d=e:NoSchedule"),
            ("a=b:NoSchedule", "*", "*"),
            ("*", "a=b:NoSchedule", "*"),
        ] {
            assert_eq!(merge(tolerations(first), tolerations(second)), tolerations(expect), "{first} and {second}");
        }
    }

    #[test]
    fn what_is_allowed_is_covered_by_something_on_the_list() {
        for (given, allowed, expect) in [
            ("a=b:NoSchedule", "a=b:NoSchedule a=c:NoSchedule", true),
            ("a=b:NoSchedule a=b:NoSchedule", "*", true),
            ("a=b:NoSchedule a=c:NoSchedule", "a=c:NoSchedule", false),
            ("a=b", "a:NoSchedule", false),
            ("a=b", "", true),
            ("", "a=b", true),
        ] {
            assert_eq!(are_allowed(&tolerations(given), &tolerations(allowed)), expect, "{given} of {allowed}");
        }
    }

    #[test]
    fn text_is_read_as_go_reads_it() {
        let read = parse(r#"[{"Key":"a","operator":"Equal","value":"b","effect":"NoExecute","tolerationSeconds":3,"more":1}, null]"#);
        assert_eq!(read, Ok(vec![toleration("a=b:NoExecute/3"), Toleration::default()]));
        assert_eq!(
            read.unwrap()[0].to_value().to_string(),
            r#"{"key":"a","operator":"Equal","value":"b","effect":"NoExecute","tolerationSeconds":3}"#
        );
        for (text, expect) in [
            ("{}", "json: cannot unmarshal object into Go value of type []v1.Toleration"),
            ("[1]", "json: cannot unmarshal number into Go value of type v1.Toleration"),
            (r#"[{"effect":1}]"#, "json: cannot unmarshal number into Go struct field Toleration.effect of type v1.TaintEffect"),
            (
                r#"[{"tolerationSeconds":1.5}]"#,
                "json: cannot unmarshal number 1.5 into Go struct field Toleration.tolerationSeconds of type int64",
            ),
            ("[", "unexpected end of JSON input"),
            ("x", "invalid character 'x' looking for beginning of value"),
        ] {
            assert_eq!(parse(text).unwrap_err(), expect, "{text}");
        }
        assert_eq!(parse("null"), Ok(Vec::new()));
    }
}
