//! DefaultIngressClass: an ingress that names no class gets the default one.

use apimachinery::status::Status;
use serde_json::Value;

use super::default_storage_class::{annotation, newest};
use super::pod_references::object_mut;
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::{at, str_at};

const GROUP: &str = "networking.k8s.io";
const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// Where ingresses named their class before they had a field for it.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

/// The plugin.
pub struct DefaultIngressClass;

impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if attributes.operation != Operation::Create || !attributes.is_main(GROUP, "ingresses") {
            return Ok(());
        }
        if !at(new, "/spec/ingressClassName").is_null() || annotation(new, OLD_CLASS).is_some() {
            return Ok(());
        }
        let mut classes = lookup.list(GROUP, "ingressclasses", "");
        classes.retain(|class| annotation(class, IS_DEFAULT) == Some("true"));
        if let (Some(class), Some(spec)) = (newest(classes), object_mut(new, &["spec"])) {
            spec.insert("ingressClassName".to_owned(), str_at(&class, "/metadata/name").into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn an_ingress_without_a_class_gets_the_default() {
        let class = json!({ "metadata": { "name": "a", "annotations": { IS_DEFAULT: "true" } } });
        let objects = Objects::of(vec![(GROUP, "ingressclasses", class)]);
        let write = Write::new(Operation::Create, GROUP, "v1", "ingresses");
        let mut plain = json!({ "spec": {} });
        write.admit(&DefaultIngressClass, &objects, &mut plain).unwrap();
        assert_eq!(plain["spec"]["ingressClassName"], "a");
        let mut annotated = json!({ "metadata": { "annotations": { OLD_CLASS: "x" } }, "spec": {} });
        write.admit(&DefaultIngressClass, &objects, &mut annotated).unwrap();
        assert_eq!(annotated["spec"], json!({}));
    }
}
