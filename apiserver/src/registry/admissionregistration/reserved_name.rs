//! The names that configurations from files have, which objects of the API may not take.

use apimachinery::field::{Error, Path, quote};
use serde_json::Value;

use crate::registry::read::str_at;

const SUFFIX: &str = ".static.k8s.io";

/// A new object may not have such a name.
pub fn validate(object: &Value) -> Option<Error> {
    let name = str_at(object, "/metadata/name");
    name.ends_with(SUFFIX).then(|| Error::invalid(&Path::new("metadata.name"), name, detail()))
}

/// An old one is warned about.
pub fn warnings(object: &Value) -> Vec<String> {
    let reserved = str_at(object, "/metadata/name").ends_with(SUFFIX);
    if reserved { vec![format!("metadata.name: {}", detail())] } else { Vec::new() }
}

fn detail() -> String {
    format!("names ending with {} are reserved for static manifest-based configurations and cannot be managed via the API", quote(SUFFIX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_of_files_are_reserved() {
        assert_eq!(validate(&json!({"metadata": {"name": "a"}})), None);
        let error = validate(&json!({"metadata": {"name": "a.static.k8s.io"}})).unwrap().to_string();
        assert!(error.starts_with(r#"metadata.name: Invalid value: "a.static.k8s.io": names ending with ".static.k8s.io" are"#));
    }
}
