//! Pieces of Tables that many kinds share: the name and age columns, ages, labels.

use std::fmt::Write;

use apimachinery::time::human_duration;
use jiff::Timestamp;
use serde_json::Value;

use super::read::{at, str_at};
use super::{Column, Description, Printer};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// `Name`, the first column of nearly every Table.
pub const NAME: Column =
    Column { name: "Name", kind: "string", format: "name", priority: 0, description: Description::Field(OBJECT_META, "name") };

/// `Age`, from the creation timestamp.
pub const AGE: Column =
    Column { name: "Age", kind: "string", format: "", priority: 0, description: Description::Field(OBJECT_META, "creationTimestamp") };

/// A column of strings.
pub const fn text(name: &'static str, description: Description) -> Column {
    Column { name, kind: "string", format: "", priority: 0, description }
}

/// A column of integers.
pub const fn integer(name: &'static str, description: Description) -> Column {
    Column { name, kind: "integer", format: "", priority: 0, description }
}

/// A column of booleans.
pub const fn boolean(name: &'static str, description: Description) -> Column {
    Column { name, kind: "boolean", format: "", priority: 0, description }
}

/// A column of strings that only `-o wide` shows.
pub const fn wide(name: &'static str, description: Description) -> Column {
    Column { name, kind: "string", format: "", priority: 1, description }
}

/// The column of kinds that nobody has written columns for.
pub const CREATED_AT: &str = "Created At";

/// What kinds without columns of their own show: name and creation time.
pub const DEFAULT: Printer = Printer {
    columns: &[
        NAME,
        Column {
            name: CREATED_AT,
            kind: "date",
            format: "",
            priority: 0,
            description: Description::Field(OBJECT_META, "creationTimestamp"),
        },
    ],
    cells: |object, _| vec![name(object), at(object, "/metadata/creationTimestamp").clone()],
};

/// The object's name.
pub fn name(object: &Value) -> Value {
    str_at(object, "/metadata/name").into()
}

/// The object's age at `now`.
pub fn object_age(object: &Value, now: Timestamp) -> Value {
    age(at(object, "/metadata/creationTimestamp"), now)
}

/// How long ago a timestamp was, or `<unknown>` where there is none.
pub fn age(timestamp: &Value, now: Timestamp) -> Value {
    match parse_time(timestamp) {
        Some(then) => Value::String(human_duration(nanoseconds_between(then, now))),
        None => Value::String("<unknown>".to_owned()),
    }
}

/// Three centuries are as much as fits, and more than any object's age.
fn nanoseconds_between(then: Timestamp, now: Timestamp) -> i64 {
    let nanoseconds = now.duration_since(then).as_nanos();
    i64::try_from(nanoseconds).unwrap_or(if nanoseconds < 0 { i64::MIN } else { i64::MAX })
}

/// A timestamp of the object, if it is one.
pub fn parse_time(timestamp: &Value) -> Option<Timestamp> {
    timestamp.as_str().and_then(|text| text.parse().ok())
}

/// `a=b,c=d` of a map of labels, or `<none>`.
pub fn labels_text(labels: &Value) -> Value {
    let mut pairs: Vec<(&str, &str)> =
        labels.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or(""))).collect();
    if pairs.is_empty() {
        return Value::String("<none>".to_owned());
    }
    pairs.sort_unstable();
    let mut out = String::new();
    for (i, (key, value)) in pairs.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        // Writing into a String cannot fail.
        let _ = write!(out, "{comma}{key}={value}");
    }
    Value::String(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ages_are_counted_to_now() {
        assert_eq!(age(&Value::Null, Timestamp::UNIX_EPOCH), "<unknown>");
        assert_eq!(age(&json!("1970-01-01T00:00:00Z"), Timestamp::from_second(61).unwrap()), "61s");
    }

    #[test]
    fn labels_are_listed_by_key() {
        assert_eq!(labels_text(&json!({"b": "2", "a": "1"})), "a=1,b=2");
        assert_eq!(labels_text(&Value::Null), "<none>");
    }
}
