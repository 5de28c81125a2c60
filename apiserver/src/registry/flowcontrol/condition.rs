//! The conditions of flow schemas and priority levels: each type stands once.

use apimachinery::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::registry::read::{list_at, str_at};

/// The conditions in an object's status.
pub fn validate_conditions(object: &Value) -> ErrorList {
    let conditions = list_at(object, "/status/conditions");
    let path = Path::new("status.conditions");
    let mut errors = ErrorList::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        let (kind, kind_path) = (str_at(condition, "/type"), path.child("type"));
        if conditions[..i].iter().any(|earlier| str_at(earlier, "/type") == kind) {
            errors.push(Error::duplicate(&kind_path, kind));
        }
        if kind.is_empty() {
            errors.push(Error::required(&kind_path, ""));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_stand_once() {
        let errors = validate_conditions(&json!({"status": {"conditions": [{"type": "a"}, {"type": "a"}, {}]}}));
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts, [r#"status.conditions[1].type: Duplicate value: "a""#, "status.conditions[2].type: Required value"]);
    }
}
