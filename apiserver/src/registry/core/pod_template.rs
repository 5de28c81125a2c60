//! core/v1 PodTemplate.

use apimachinery::field::{ErrorList, Path};
use apimachinery::validation::name_is_dns_subdomain;
use apimachinery::view::view;
use k8s_openapi::api::core::v1::PodTemplate;
use serde_json::Value;

use super::pod::semantic::same;
use super::pod::strategy::drop_disabled_template_fields;
use super::pod::validation::{Options, validate_pod_template_spec};
use super::pod::warnings::warnings_for_pod_template;
use crate::registry::cells::containers_and_images;
use crate::registry::printer::{self, NAME};
use crate::registry::read::at;
use crate::registry::strategy::{generation, set_generation};
use crate::registry::{ALL_VERBS, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "podtemplates",
    singular: "podtemplate",
    kind: "PodTemplate",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.core.v1.PodTemplate",
    name: name_is_dns_subdomain,
    strategy: &PodTemplateStrategy,
    subresources: &[],
    selectable: &[],
    printer: Printer {
        columns: &[
            NAME,
            printer::text("Containers", Description::Text("Names of each container in the template.")),
            printer::text("Images", Description::Text("Images referenced by each container in the template.")),
            printer::text("Pod Labels", Description::Text("The labels for the pod template.")),
        ],
        cells: |object, _| {
            let (containers, images) = containers_and_images(object, "/template");
            vec![printer::name(object), containers, images, printer::labels_text(at(object, "/template/metadata/labels"))]
        },
    },
    reset_fields: &[],
};

struct PodTemplateStrategy;

impl UpdateStrategy for PodTemplateStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if let Some(template) = new.get_mut("template") {
            drop_disabled_template_fields(template, old.get("template"));
        }
        let changed = !same(at(new, "/template"), at(old, "/template"));
        set_generation(new, generation(old) + i64::from(changed));
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate(&view(new), Some(&view(old)))
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<String> {
        if generation(new) == generation(old) {
            return Vec::new();
        }
        warnings_for_pod_template(&Path::new("template"), at(new, "/template"), Some(at(old, "/template")))
    }
}

impl Strategy for PodTemplateStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_generation(new, 1);
        if let Some(template) = new.get_mut("template") {
            drop_disabled_template_fields(template, None);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(&view(new), None)
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings_for_pod_template(&Path::new("template"), at(new, "/template"), None)
    }
}

fn validate(new: &PodTemplate, old: Option<&PodTemplate>) -> ErrorList {
    let options = Options::for_template(old.and_then(|old| old.template.as_ref()));
    let empty = Default::default();
    validate_pod_template_spec(new.template.as_ref().unwrap_or(&empty), &Path::new("template"), &options)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::core::tests::{cx, messages};

    #[test]
    fn an_empty_template_lacks_everything_that_defaults_would_give() {
        let errors = PodTemplateStrategy.validate(&cx(), &json!({"metadata": {"name": "t"}, "template": {}}));
        assert_eq!(
            messages(&errors),
            [
                "template.spec.terminationGracePeriodSeconds: Required value",
                "template.spec.containers: Required value",
                "template.spec.restartPolicy: Required value",
                "template.spec.dnsPolicy: Required value",
            ]
        );
    }

    #[test]
    fn the_generation_counts_changes_of_the_template() {
        let object =
            |image: &str| json!({"metadata": {"name": "t", "generation": 2}, "template": {"spec": {"containers": [{"image": image}]}}});
        for (image, want) in [("a", 2), ("b", 3)] {
            let mut new = object(image);
            PodTemplateStrategy.prepare_for_update(&cx(), &mut new, &object("a"));
            assert_eq!(generation(&new), want);
        }
    }
}
