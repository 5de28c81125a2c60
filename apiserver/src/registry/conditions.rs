//! Reading and setting the conditions of a status, by the rules that the extension kinds share.

use apimachinery::time::format_time;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::read::{list_at, str_at};

/// A condition without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Condition {
    pub fn new(kind: &'static str, status: &'static str, reason: &'static str, message: impl Into<String>) -> Condition {
        Condition { kind, status, reason, message: message.into() }
    }

    /// Whether an object has this very condition, whenever it came to be so.
    pub fn holds(&self, object: &Value) -> bool {
        find(object, self.kind).is_some_and(|c| {
            str_at(c, "/status") == self.status && str_at(c, "/reason") == self.reason && str_at(c, "/message") == self.message
        })
    }

    /// Puts the condition where its kind stands, or last. Its time is that of the last change of its status.
    pub fn set(&self, object: &mut Value, now: Timestamp) {
        let since = find(object, self.kind)
            .filter(|c| str_at(c, "/status") == self.status)
            .map(|c| str_at(c, "/lastTransitionTime").to_owned())
            .filter(|time| !time.is_empty())
            .unwrap_or_else(|| format_time(now));
        let set = json!({
            "type": self.kind, "status": self.status, "lastTransitionTime": since, "reason": self.reason, "message": self.message,
        });
        let conditions = &mut object["status"]["conditions"];
        if !conditions.is_array() {
            *conditions = Value::Array(Vec::new());
        }
        let Some(list) = conditions.as_array_mut() else { return };
        match list.iter_mut().find(|c| str_at(c, "/type") == self.kind) {
            Some(place) => {
                // What else it has, such as the generation it was observed at, stays.
                for (field, value) in set.as_object().into_iter().flatten() {
                    place[field] = value.clone();
                }
            }
            None => list.push(set),
        }
    }
}

/// The condition of a kind.
pub fn find<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list_at(object, "/status/conditions").iter().find(|c| str_at(c, "/type") == kind)
}

/// Whether a condition is there and true.
pub fn is_true(object: &Value, kind: &str) -> bool {
    find(object, kind).is_some_and(|c| str_at(c, "/status") == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_is_that_of_its_status() {
        let mut object = json!({"status": {"conditions": null}});
        let at = |second| Timestamp::from_second(second).unwrap();
        Condition::new("Ready", "False", "A", "a").set(&mut object, at(1));
        Condition::new("Ready", "False", "B", "b").set(&mut object, at(2));
        let ready = |o: &Value| {
            (str_at(o, "/status/conditions/0/reason").to_owned(), str_at(o, "/status/conditions/0/lastTransitionTime").to_owned())
        };
        assert_eq!(ready(&object), ("B".to_owned(), "1970-01-01T00:00:01Z".to_owned()));
        Condition::new("Ready", "True", "C", "c").set(&mut object, at(3));
        assert_eq!(ready(&object), ("C".to_owned(), "1970-01-01T00:00:03Z".to_owned()));
        assert!(is_true(&object, "Ready") && Condition::new("Ready", "True", "C", "c").holds(&object));
    }
}
