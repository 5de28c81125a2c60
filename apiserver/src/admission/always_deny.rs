//! AlwaysDeny: nothing is written, for tests of what happens then.

use apimachinery::status::Status;
use serde_json::Value;

use super::{Attributes, Lookup, Plugin};

/// The plugin.
pub struct AlwaysDeny;

fn refused(attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
    Err(attributes.forbidden(object, "admission control is denying all modifications"))
}

impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        new: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        refused(attributes, Some(new))
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        new: Option<&Value>,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        refused(attributes, new)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Operation;
    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn nothing_is_written_or_deleted() {
        let said = "configmaps \"x\" is forbidden: admission control is denying all modifications".to_owned();
        let write = Write::new(Operation::Create, "", "v1", "configmaps");
        assert_eq!(write.admit(&AlwaysDeny, &Objects::default(), &mut json!({})), Err(said.clone()));
        let delete = Write::new(Operation::Delete, "", "v1", "configmaps");
        assert_eq!(delete.validate(&AlwaysDeny, &Objects::default(), None, Some(&json!({}))), Err(said));
    }
}
