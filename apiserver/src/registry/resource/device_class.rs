//! DeviceClasses: devices as administrators group them.

use apimachinery::field::{ErrorList, Path};
use apimachinery::validation::{extended_resource_name, long_name};
use k8s_openapi::api::resource::v1::DeviceClassSpec;
use serde_json::Value;

use super::claim_rules::{MAX_CONFIGS, bounded};
use super::config_rules::{Age, MAX_SELECTORS, declared_config, validate_config, validate_selectors};
use super::view_at;
use crate::registry::declared::{Findings, changed, max_items};
use crate::registry::printer;
use crate::registry::read::{at, str_at};
use crate::registry::strategy::{bump_generation_if_changed, set_generation};
use crate::registry::{ALL_VERBS, Cx, Definition, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "deviceclasses",
    singular: "deviceclass",
    kind: "DeviceClass",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.resource.v1.DeviceClass",
    // The name's form is declared, and so reported after everything else.
    name: |_, _| Vec::new(),
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer {
        columns: &[printer::NAME, printer::AGE],
        cells: |object, now| vec![printer::name(object), printer::object_age(object, now)],
    },
    reset_fields: &[],
};

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(new, None)
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        bump_generation_if_changed(new, old, &["spec"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate(new, Some(old))
    }
}

fn validate(class: &Value, old: Option<&Value>) -> ErrorList {
    let spec: DeviceClassSpec = view_at(class, "/spec");
    let path = Path::new("spec");
    let is_new = |field: &str| changed(at(class, field), old.map(|old| at(old, field)));
    let age = |field: &str| if old.is_none() || is_new(field) { Age::New } else { Age::Stored };
    let mut findings = Findings::default();

    let selectors = spec.selectors.as_deref().unwrap_or_default();
    findings.written.extend(validate_selectors(selectors, age("/spec/selectors"), &path.child("selectors")));
    let config_path = path.child("config");
    for (i, config) in bounded(spec.config.as_ref(), MAX_CONFIGS).iter().enumerate() {
        findings.written.extend(validate_config(config.opaque.as_ref(), age("/spec/config"), &config_path.index(i)));
    }

    if old.is_none() {
        let name = str_at(class, "/metadata/name");
        if !name.is_empty() {
            findings.declared.extend(long_name(&Path::new("metadata.name"), name));
        }
    }
    if is_new("/spec/selectors") {
        findings.declared.extend(max_items(selectors, MAX_SELECTORS, &path.child("selectors")));
    }
    let configs = spec.config.as_deref().unwrap_or_default();
    if is_new("/spec/config") {
        match max_items(configs, MAX_CONFIGS, &config_path) {
            Some(error) => findings.declared.push(error),
            None => findings
                .declared
                .extend(configs.iter().enumerate().flat_map(|(i, config)| declared_config(config.opaque.as_ref(), &config_path.index(i)))),
        }
    }
    if let Some(name) = spec.extended_resource_name.filter(|_| is_new("/spec/extendedResourceName")) {
        findings.declared.extend(extended_resource_name(&path.child("extendedResourceName"), &name));
    }
    findings.into_errors()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(class: &Value, old: Option<&Value>) -> Vec<String> {
        validate(class, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_class_selects_and_configures() {
        let class = json!({"metadata": {"name": "a"}, "spec": {
            "selectors": [{"cel": {"expression": "true"}}],
            "config": [{"opaque": {"driver": "d.io", "parameters": {}}}],
            "extendedResourceName": "d.io/gpu",
        }});
        assert_eq!(texts(&class, None), [""; 0]);
        let bad = json!({"metadata": {"name": "a"}, "spec": {"selectors": [{}], "config": [{"opaque": {"driver": "", "parameters": {}}}]}});
        assert_eq!(texts(&bad, None), ["spec.selectors[0].cel: Required value", "spec.config[0].opaque.driver: Required value"]);
        assert_eq!(texts(&bad, Some(&bad)), ["spec.selectors[0].cel: Required value"]);
    }

    #[test]
    fn the_name_is_checked_at_creation_and_last() {
        let class = json!({"metadata": {"name": "A_"}, "spec": {"selectors": [{}]}});
        let errors = texts(&class, None);
        assert!(errors[1].starts_with(r#"metadata.name: Invalid value: "A_": "#), "{errors:?}");
        assert_eq!(texts(&class, Some(&class)).len(), 1);
    }
}
