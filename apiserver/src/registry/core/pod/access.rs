//! Reading typed views: an absent list is empty, an absent string is "", an absent flag is off.
//!
//! Owns these conventions and the order in which a pod's containers are visited; knows no rule about them.

use std::collections::BTreeMap;

use apimachinery::field::Path;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Named quantities, as `limits` and `requests` hold them.
pub type ResourceList = BTreeMap<String, Quantity>;

/// The items of a list; none if it is absent.
pub(crate) fn items<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

/// The string; "" if it is absent.
pub(crate) fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// The flag; off if it is absent.
pub(crate) fn on(flag: Option<bool>) -> bool {
    flag.unwrap_or(false)
}

/// Whether an init container is a sidecar.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What an ephemeral container has in common with other containers.
pub(crate) fn as_container(e: &EphemeralContainer) -> Container {
    let e = e.clone();
    Container {
        args: e.args,
        command: e.command,
        env: e.env,
        env_from: e.env_from,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        lifecycle: e.lifecycle,
        liveness_probe: e.liveness_probe,
        name: e.name,
        ports: e.ports,
        readiness_probe: e.readiness_probe,
        resize_policy: e.resize_policy,
        resources: e.resources,
        restart_policy: e.restart_policy,
        restart_policy_rules: e.restart_policy_rules,
        security_context: e.security_context,
        startup_probe: e.startup_probe,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        tty: e.tty,
        volume_devices: e.volume_devices,
        volume_mounts: e.volume_mounts,
        working_dir: e.working_dir,
    }
}

/// Calls `visit` for init, main and ephemeral containers, in this order, with their paths below `spec_path`.
pub(crate) fn visit_containers(spec: &PodSpec, spec_path: &Path<'_>, visit: &mut dyn FnMut(&Container, &Path<'_>)) {
    let lists = [("initContainers", items(&spec.init_containers)), ("containers", spec.containers.as_slice())];
    for (name, list) in lists {
        let path = spec_path.child(name);
        for (i, container) in list.iter().enumerate() {
            visit(container, &path.index(i));
        }
    }
    let path = spec_path.child("ephemeralContainers");
    for (i, container) in items(&spec.ephemeral_containers).iter().enumerate() {
        visit(&as_container(container), &path.index(i));
    }
}

/// Whether any container of any sort answers yes.
pub(crate) fn any_container(spec: &PodSpec, test: &dyn Fn(&Container) -> bool) -> bool {
    let mut found = false;
    visit_containers(spec, &Path::ROOT, &mut |c, _| found = found || test(c));
    found
}
