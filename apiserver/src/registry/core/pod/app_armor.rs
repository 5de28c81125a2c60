//! AppArmor profiles of old: annotations, which at creation become fields.

use apimachinery::field::Path;
use apimachinery::view::view;
use k8s_openapi::api::core::v1::AppArmorProfile;
use serde_json::{Map, Value, json};

use super::validation::{APP_ARMOR, validate_app_armor_profile};
use crate::registry::read::{at, str_at};
use crate::registry::strategy::set_field;

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Gives containers without AppArmor profile the one that an old annotation names.
pub(super) fn set_app_armor_profiles(pod: &mut Value) {
    if str_at(pod, "/spec/os/name") == "windows" {
        return;
    }
    let annotations = at(pod, "/metadata/annotations").clone();
    let of_pod = at(pod, "/spec/securityContext/appArmorProfile").clone();
    for list in CONTAINER_LISTS {
        let containers = pod.get_mut("spec").and_then(|spec| spec.get_mut(list)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            let Some(annotation) = annotations.get(format!("{APP_ARMOR}{name}")).and_then(Value::as_str) else { continue };
            let own = container.get("securityContext").and_then(|sc| sc.get("appArmorProfile"));
            if own.is_some_and(|own| !own.is_null()) {
                continue;
            }
            if let Some(profile) = usable_profile(annotation).filter(|profile| *profile != of_pod) {
                let sc = container.entry("securityContext").or_insert_with(|| Value::Object(Map::new()));
                if sc.is_null() {
                    *sc = Value::Object(Map::new());
                }
                set_field(sc, "appArmorProfile", profile);
            }
        }
    }
}

/// The profile that an annotation names, if it is valid.
pub(super) fn profile_of_annotation(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        _ => {
            let profile = annotation.strip_prefix("localhost/").filter(|profile| !profile.is_empty())?;
            Some(json!({"type": "Localhost", "localhostProfile": profile}))
        }
    }
}

fn usable_profile(annotation: &str) -> Option<Value> {
    let profile = profile_of_annotation(annotation)?;
    let typed: AppArmorProfile = view(&profile);
    validate_app_armor_profile(&typed, &Path::ROOT).is_empty().then_some(profile)
}

/// Warns of annotations that have decided a container's profile, or that name none. By now the profile stands in the
/// container, so that one which was given both ways is warned of too, where upstream is silent.
pub(super) fn app_armor_warnings(pod: &Value) -> Vec<String> {
    let mut all = Vec::new();
    if str_at(pod, "/spec/os/name") == "windows" {
        return all;
    }
    let annotations = at(pod, "/metadata/annotations");
    let of_pod = at(pod, "/spec/securityContext/appArmorProfile");
    for list in CONTAINER_LISTS {
        for container in at(pod, "/spec").get(list).and_then(Value::as_array).into_iter().flatten() {
            let key = format!("{APP_ARMOR}{}", str_at(container, "/name"));
            let Some(annotation) = annotations.get(&key).and_then(Value::as_str) else { continue };
            let own = at(container, "/securityContext/appArmorProfile");
            let decided = match usable_profile(annotation) {
                Some(profile) => *own == profile && *own != *of_pod,
                None => own.is_null(),
            };
            if decided {
                all.push(format!("metadata.annotations[{key}]: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_app_armor_annotation_becomes_a_profile_with_a_warning() {
        let annotations = json!({(format!("{APP_ARMOR}c")): "runtime/default"});
        let mut new = json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "c"}]}});
        set_app_armor_profiles(&mut new);
        assert_eq!(new["spec"]["containers"][0]["securityContext"]["appArmorProfile"], json!({"type": "RuntimeDefault"}));
        assert_eq!(app_armor_warnings(&new).len(), 1);
    }
}
