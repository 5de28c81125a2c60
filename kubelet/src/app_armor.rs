//! Whether a node can hold a pod to the AppArmor profiles that it asks for.

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod};

use crate::admission::Rejection;
use crate::pod;

/// What the older annotations begin with; a container's name follows.
pub const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Whether the kernel has AppArmor on. Reads two files of the kernel's.
pub fn is_enabled() -> bool {
    let enabled = || std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    std::path::Path::new("/sys/kernel/security/apparmor").exists() && enabled().is_ok_and(|text| text.starts_with('Y'))
}

/// Whether any profile but `Unconfined` is asked for, by a field or by the older annotations.
fn is_required(pod: &Pod) -> bool {
    let spec = pod::spec(pod);
    let of_pod = spec.security_context.iter().filter_map(|context| context.app_armor_profile.as_ref());
    let own = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| &container.security_context);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.security_context);
    let of_containers = own.chain(ephemeral).flatten().filter_map(|context| context.app_armor_profile.as_ref());
    let confines = |profile: &AppArmorProfile| profile.type_ != "Unconfined";
    let annotated = || pod.metadata.annotations.iter().flatten().find(|(key, _)| key.starts_with(ANNOTATION));
    of_pod.chain(of_containers).any(confines) || annotated().is_some_and(|(_, value)| value != "unconfined")
}

/// Refuses a pod that must be confined where nothing can confine it; one that runs is left alone.
pub fn admit(pod: &Pod, is_enabled: impl FnOnce() -> bool) -> Result<(), Rejection> {
    // An empty phase is that of a static pod that nobody has told of yet.
    let begins = matches!(pod::phase(pod), "" | "Pending");
    if !begins || !is_required(pod) || is_enabled() {
        return Ok(());
    }
    let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
    Err(Rejection { reason: "AppArmor".to_owned(), message: message.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(metadata: Value, spec: Value, is_enabled: bool) -> bool {
        let pod: Pod = serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).expect("it is a pod");
        admit(&pod, || is_enabled).is_err()
    }

    #[test]
    fn only_what_must_be_confined_needs_a_kernel_that_can() {
        let profile = |kind: &str| json!({ "appArmorProfile": { "type": kind } });
        let of_pod = |kind: &str| json!({ "securityContext": profile(kind), "containers": [] });
        let of_container = |kind: &str| json!({ "containers": [{ "name": "c", "securityContext": profile(kind) }] });
        let of_init = |kind: &str| json!({ "containers": [], "initContainers": [{ "name": "c", "securityContext": profile(kind) }] });
        let specs: [&dyn Fn(&str) -> Value; 3] = [&of_pod, &of_container, &of_init];
        for spec in specs {
            assert!(refused(json!({}), spec("RuntimeDefault"), false));
            assert!(!refused(json!({}), spec("RuntimeDefault"), true));
            assert!(!refused(json!({}), spec("Unconfined"), false));
        }
        assert!(!refused(json!({}), json!({ "containers": [] }), false));
        let annotated = |value: &str| json!({ "annotations": { "container.apparmor.security.beta.kubernetes.io/c": value } });
        assert!(refused(annotated("runtime/default"), json!({ "containers": [] }), false));
        assert!(!refused(annotated("unconfined"), json!({ "containers": [] }), false));
    }
}
