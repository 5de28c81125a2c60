//! Pieces of Tables that many kinds share: the name and age columns, ages, labels.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::Value;

use super::read::at;
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

/// What kinds without columns of their own show: name and creation time.
pub const DEFAULT: Printer = Printer {
    columns: &[
        NAME,
        Column {
            name: "Created At",
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
    at(object, "/metadata/name").clone()
}

/// The object's age at `now`.
pub fn object_age(object: &Value, now: Timestamp) -> Value {
    age(at(object, "/metadata/creationTimestamp"), now)
}

/// How long ago a timestamp was, or `<unknown>` where there is none.
pub fn age(timestamp: &Value, now: Timestamp) -> Value {
    match parse_time(timestamp) {
        Some(then) => Value::String(human_duration(now.duration_since(then).as_secs())),
        None => Value::String("<unknown>".to_owned()),
    }
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

/// A duration in its two largest sensible units.
fn human_duration(seconds: i64) -> String {
    let pair = |major: i64, major_unit: &str, minor: i64, minor_unit: &str| match minor {
        0 => format!("{major}{major_unit}"),
        _ => format!("{major}{major_unit}{minor}{minor_unit}"),
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        ..-1 => return "<invalid>".to_owned(),
        -1 => return "0s".to_owned(),
        0..120 => return format!("{seconds}s"),
        _ => {}
    }
    match (minutes, hours) {
        (..10, _) => pair(minutes, "m", seconds % 60, "s"),
        (..180, _) => format!("{minutes}m"),
        (_, ..8) => pair(hours, "h", minutes % 60, "m"),
        (_, ..48) => format!("{hours}h"),
        (_, ..192) => pair(hours / 24, "d", hours % 24, "h"),
        (_, ..17_520) => format!("{}d", hours / 24),
        (_, ..70_080) => pair(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        _ => format!("{}y", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        let cases = [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (192 * 3600, "8d"),
            (17_520 * 3600, "2y"),
            (17_544 * 3600, "2y1d"),
            (70_080 * 3600, "8y"),
        ];
        for (seconds, want) in cases {
            assert_eq!(human_duration(seconds), want, "{seconds}");
        }
    }

    #[test]
    fn labels_are_listed_by_key() {
        assert_eq!(labels_text(&json!({"b": "2", "a": "1"})), "a=1,b=2");
        assert_eq!(labels_text(&Value::Null), "<none>");
    }
}
