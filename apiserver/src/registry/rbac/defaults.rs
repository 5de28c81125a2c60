//! Defaults of rbac.authorization.k8s.io/v1 that stand in no marker.

use serde_json::{Map, Value};

use super::GROUP;
use crate::registry::defaulting::{Hook, is_empty, nested, set_if_empty};

pub static DEFAULTS: &[Hook] = &[
    ("io.k8s.api.rbac.v1.ClusterRoleBinding", role_ref),
    ("io.k8s.api.rbac.v1.RoleBinding", role_ref),
    ("io.k8s.api.rbac.v1.Subject", subject),
];

fn role_ref(binding: &mut Map<String, Value>) {
    if let Some(role_ref) = nested(binding, "roleRef") {
        set_if_empty(role_ref, "apiGroup", GROUP);
    }
}

fn subject(subject: &mut Map<String, Value>) {
    let named = matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group"));
    if named && is_empty(subject, "apiGroup") {
        subject.insert("apiGroup".to_owned(), GROUP.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn users_and_groups_are_of_this_group() {
        let mut user = json!({"kind": "User", "name": "u"});
        subject(user.as_object_mut().unwrap());
        assert_eq!(user["apiGroup"], GROUP);
        let mut account = json!({"kind": "ServiceAccount", "name": "s"});
        subject(account.as_object_mut().unwrap());
        assert_eq!(account.get("apiGroup"), None);
    }
}
