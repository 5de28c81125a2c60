//! What a change may leave as it is: an old object that already broke a rule may go on breaking it.
//!
//! Rules that a feature of v1.37 switches are written with the feature's default; only what depends on the old object is an option.

use apimachinery::field::Path;
use apimachinery::validation::{LabelSelectorOptions, is_valid_label_value, validate_label_selector};
use k8s_openapi::api::core::v1::{Container, PodAffinityTerm, PodSpec, PodTemplateSpec, SecurityContext};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::annotations::deletion_cost_is_valid;
use super::huge_pages::{is_divisible, is_huge_pages};
use super::paths::validate_local_non_reserved_path;
use super::security::host_sysctl_conflict;
use super::spread::match_label_keys_errors;
use crate::registry::core::pod::access::{any_container, is_sidecar, items, on, text};

/// The exceptions that validation of one object makes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The spec is a pod's own, not a template's.
    pub resource_is_pod: bool,
    pub(super) allow_invalid_pod_deletion_cost: bool,
    pub(super) allow_invalid_label_value_in_selector: bool,
    pub(super) allow_invalid_label_value_in_required_node_affinity: bool,
    pub(super) allow_indivisible_huge_pages_values: bool,
    pub(super) allow_invalid_spread_label_selector: bool,
    pub(super) allow_non_local_projected_token_path: bool,
    pub(super) allow_host_sysctls: bool,
    pub(super) old_violates_match_label_keys: bool,
    pub(super) allow_restart_container_for_init: bool,
    pub(super) allow_user_namespaces_with_volume_devices: bool,
    pub(super) allow_user_namespaces_with_host_network: bool,
    pub(super) allow_toleration_comparison: bool,
    pub(super) allow_empty_image_volume_reference: bool,
    pub(super) allow_sys_admin_without_escalation: bool,
}

impl Options {
    /// For a pod template, given the template it replaces.
    pub fn for_template(old: Option<&PodTemplateSpec>) -> Options {
        Options::from_old(old.and_then(|t| t.spec.as_ref()), old.and_then(|t| t.metadata.as_ref()))
    }

    /// For a pod, given the pod it replaces.
    pub fn for_pod(old: Option<&k8s_openapi::api::core::v1::Pod>) -> Options {
        let opts = Options::from_old(old.and_then(|pod| pod.spec.as_ref()), old.map(|pod| &pod.metadata));
        Options { resource_is_pod: true, ..opts }
    }

    fn from_old(spec: Option<&PodSpec>, meta: Option<&ObjectMeta>) -> Options {
        let mut opts = Options::default();
        if let Some(meta) = meta {
            opts.allow_invalid_pod_deletion_cost = !deletion_cost_is_valid(meta);
        }
        let Some(spec) = spec else { return opts };
        let user_namespace = spec.host_users == Some(false);
        opts.allow_invalid_label_value_in_selector = has_invalid_affinity_selector(spec);
        opts.allow_invalid_label_value_in_required_node_affinity = has_invalid_required_node_affinity(spec);
        opts.allow_indivisible_huge_pages_values = any_container(spec, &uses_indivisible_huge_pages);
        opts.allow_invalid_spread_label_selector = items(&spec.topology_spread_constraints)
            .iter()
            .any(|c| c.label_selector.as_ref().is_some_and(|selector| !selector_is_valid(selector)));
        opts.allow_non_local_projected_token_path = has_non_local_token_path(spec);
        opts.allow_host_sysctls =
            spec.security_context.iter().flat_map(|sc| items(&sc.sysctls)).any(|sysctl| host_sysctl_conflict(&sysctl.name, spec).is_some());
        opts.old_violates_match_label_keys = items(&spec.topology_spread_constraints)
            .iter()
            .any(|c| !match_label_keys_errors(&Path::ROOT, items(&c.match_label_keys), &[], c.label_selector.as_ref()).is_empty());
        opts.allow_restart_container_for_init = items(&spec.init_containers)
            .iter()
            .any(|c| !is_sidecar(c) && items(&c.resize_policy).iter().any(|p| p.restart_policy == "RestartContainer"));
        opts.allow_user_namespaces_with_volume_devices = user_namespace && any_container(spec, &|c| !items(&c.volume_devices).is_empty());
        opts.allow_user_namespaces_with_host_network = user_namespace && on(spec.host_network);
        opts.allow_toleration_comparison = items(&spec.tolerations).iter().any(|t| matches!(text(&t.operator), "Lt" | "Gt"));
        opts.allow_empty_image_volume_reference =
            items(&spec.volumes).iter().any(|v| v.image.as_ref().is_some_and(|image| text(&image.reference).is_empty()));
        opts.allow_sys_admin_without_escalation =
            any_container(spec, &|c| c.security_context.as_ref().is_some_and(adds_sys_admin_without_escalation));
        opts
    }
}

fn selector_is_valid(selector: &LabelSelector) -> bool {
    validate_label_selector(selector, LabelSelectorOptions::default(), &Path::ROOT).is_empty()
}

fn has_invalid_affinity_selector(spec: &PodSpec) -> bool {
    let invalid = |term: &PodAffinityTerm| {
        [&term.label_selector, &term.namespace_selector].into_iter().flatten().any(|selector| !selector_is_valid(selector))
    };
    let Some(affinity) = &spec.affinity else { return false };
    let pod = affinity.pod_affinity.iter().any(|a| {
        items(&a.required_during_scheduling_ignored_during_execution).iter().any(invalid)
            || items(&a.preferred_during_scheduling_ignored_during_execution).iter().any(|t| invalid(&t.pod_affinity_term))
    });
    let anti = affinity.pod_anti_affinity.iter().any(|a| {
        items(&a.required_during_scheduling_ignored_during_execution).iter().any(invalid)
            || items(&a.preferred_during_scheduling_ignored_during_execution).iter().any(|t| invalid(&t.pod_affinity_term))
    });
    pod || anti
}

fn has_invalid_required_node_affinity(spec: &PodSpec) -> bool {
    spec.affinity
        .iter()
        .flat_map(|a| &a.node_affinity)
        .flat_map(|n| &n.required_during_scheduling_ignored_during_execution)
        .flat_map(|selector| &selector.node_selector_terms)
        .flat_map(|term| items(&term.match_expressions))
        .flat_map(|expression| items(&expression.values))
        .any(|value| !is_valid_label_value(value).is_empty())
}

fn uses_indivisible_huge_pages(container: &Container) -> bool {
    container
        .resources
        .iter()
        .flat_map(|r| [&r.limits, &r.requests])
        .flatten()
        .flatten()
        .any(|(name, quantity)| is_huge_pages(name) && !is_divisible(name, quantity))
}

fn has_non_local_token_path(spec: &PodSpec) -> bool {
    items(&spec.volumes)
        .iter()
        .flat_map(|v| &v.projected)
        .flat_map(|p| items(&p.sources))
        .flat_map(|s| &s.service_account_token)
        .any(|token| !validate_local_non_reserved_path(&token.path, &Path::ROOT).is_empty())
}

fn adds_sys_admin_without_escalation(sc: &SecurityContext) -> bool {
    sc.allow_privilege_escalation != Some(true)
        && sc.capabilities.iter().flat_map(|c| items(&c.add)).any(|capability| capability == "CAP_SYS_ADMIN")
}
