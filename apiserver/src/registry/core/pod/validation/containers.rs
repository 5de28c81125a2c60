//! Main, init and ephemeral containers.

use std::collections::BTreeSet;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_dns1123_label, is_valid_port_name, is_valid_port_num};
use k8s_openapi::api::core::v1::{Container, ContainerPort, ContainerResizePolicy, ContainerRestartRule, PodSpec};

use super::env::{validate_env, validate_env_from};
use super::handlers::validate_lifecycle;
use super::invalid_all;
use super::mounts::{validate_volume_devices, validate_volume_mounts};
use super::options::Options;
use super::probes::validate_probes;
use super::resources::validate_container_resource_requirements;
use super::security::validate_security_context;
use super::volumes::Volumes;
use crate::registry::core::pod::access::{as_container, is_sidecar, items, text};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: &[&str] = &["File", "FallbackToLogsOnError"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const RESTART_ACTIONS: &[&str] = &["Restart", "RestartAllContainers"];
const EXIT_CODE_OPERATORS: &[&str] = &["In", "NotIn"];
const RESIZE_RESOURCES: &[&str] = &["cpu", "memory"];
const RESIZE_POLICIES: &[&str] = &["NotRequired", "RestartContainer"];
const MAX_RESTART_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

/// What the containers of one pod are checked against.
pub(super) struct Context<'a> {
    pub spec: &'a PodSpec,
    pub volumes: &'a Volumes<'a>,
    pub claim_names: &'a BTreeSet<&'a str>,
    pub opts: &'a Options,
}

impl Context<'_> {
    fn grace(&self) -> Option<i64> {
        self.spec.termination_grace_period_seconds
    }
}

pub(super) fn validate_containers(cx: &Context<'_>, path: &Path<'_>) -> ErrorList {
    if cx.spec.containers.is_empty() {
        return vec![Error::required(path, "")];
    }
    let mut errors = ErrorList::new();
    let mut names = BTreeSet::new();
    for (i, container) in cx.spec.containers.iter().enumerate() {
        let path = path.index(i);
        errors.extend(validate_container_common(cx, container, &path));
        if !names.insert(container.name.as_str()) {
            errors.push(Error::duplicate(&path.child("name"), container.name.as_str()));
        }
        if let Some(lifecycle) = &container.lifecycle {
            errors.extend(validate_lifecycle(lifecycle, cx.grace(), &path.child("lifecycle"), cx.spec.os.as_ref()));
        }
        errors.extend(validate_probes(container, cx.grace(), &path));
        errors.extend(validate_restart_policy(container, Sort::Main, &path));
    }
    errors.extend(validate_host_port_conflicts(&cx.spec.containers, path));
    errors
}

pub(super) fn validate_init_containers(cx: &Context<'_>, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut names: BTreeSet<&str> = cx.spec.containers.iter().map(|c| c.name.as_str()).collect();
    for (i, container) in items(&cx.spec.init_containers).iter().enumerate() {
        let at = path.index(i);
        errors.extend(validate_container_common(cx, container, &at));
        errors.extend(validate_restart_policy(container, Sort::Init, &at));
        if names.contains(container.name.as_str()) {
            errors.push(Error::duplicate(&at.child("name"), container.name.as_str()));
        } else if !container.name.is_empty() {
            names.insert(&container.name);
        }
        // Init containers run one after another, so only one container's own ports can clash; upstream reports them at index 0.
        errors.extend(validate_host_port_conflicts(std::slice::from_ref(container), path));
        if is_sidecar(container) {
            if let Some(lifecycle) = &container.lifecycle {
                errors.extend(validate_lifecycle(lifecycle, cx.grace(), &at.child("lifecycle"), cx.spec.os.as_ref()));
            }
            errors.extend(validate_probes(container, cx.grace(), &at));
            continue;
        }
        let only_for_sidecars = [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ];
        for (name, _) in only_for_sidecars.into_iter().filter(|(_, set)| *set) {
            errors.push(Error::forbidden(&at.child(name), "may not be set for init containers without restartPolicy=Always"));
        }
        if !cx.opts.allow_restart_container_for_init {
            errors.extend(validate_init_resize_policy(container, &at.child("resizePolicy")));
        }
    }
    errors
}

fn validate_init_resize_policy(container: &Container, path: &Path<'_>) -> ErrorList {
    let policies = items(&container.resize_policy).iter().enumerate();
    policies
        .filter(|(_, policy)| policy.restart_policy == "RestartContainer")
        .map(|(i, policy)| {
            let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            Error::invalid(&path.index(i).child("restartPolicy"), policy.restart_policy.as_str(), detail)
        })
        .collect()
}

pub(super) fn validate_ephemeral_containers(cx: &Context<'_>, path: &Path<'_>) -> ErrorList {
    const FORBIDDEN: &str = "cannot be set for an Ephemeral Container";
    let spec = cx.spec;
    let others: BTreeSet<&str> = spec.containers.iter().chain(items(&spec.init_containers)).map(|c| c.name.as_str()).collect();
    let mut names = others.clone();
    let mut errors = ErrorList::new();
    for (i, ephemeral) in items(&spec.ephemeral_containers).iter().enumerate() {
        let path = path.index(i);
        let container = as_container(ephemeral);
        errors.extend(validate_container_common(cx, &container, &path));
        errors.extend(validate_container_only_for_pod(&container, &path));
        if !names.insert(&ephemeral.name) {
            errors.push(Error::duplicate(&path.child("name"), ephemeral.name.as_str()));
        }
        let target = text(&ephemeral.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            errors.push(Error::not_found(&path.child("targetContainerName"), target));
        }
        let resources_set = container.resources.as_ref().is_some_and(|r| {
            r.limits.as_ref().is_some_and(|l| !l.is_empty())
                || r.requests.as_ref().is_some_and(|l| !l.is_empty())
                || !items(&r.claims).is_empty()
        });
        let not_for_ephemeral = [
            ("ports", !items(&container.ports).is_empty()),
            ("resources", resources_set),
            ("resizePolicy", !items(&container.resize_policy).is_empty()),
            ("restartPolicy", container.restart_policy.is_some()),
            ("restartPolicyRules", !items(&container.restart_policy_rules).is_empty()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
            ("lifecycle", container.lifecycle.is_some()),
        ];
        for (name, _) in not_for_ephemeral.into_iter().filter(|(_, set)| *set) {
            errors.push(Error::forbidden(&path.child(name), FORBIDDEN));
        }
        let mounts = path.child("volumeMounts");
        for (j, mount) in items(&ephemeral.volume_mounts).iter().enumerate() {
            if !text(&mount.sub_path).is_empty() {
                errors.push(Error::forbidden(&mounts.index(j).child("subPath"), FORBIDDEN));
            }
            if !text(&mount.sub_path_expr).is_empty() {
                errors.push(Error::forbidden(&mounts.index(j).child("subPathExpr"), FORBIDDEN));
            }
        }
    }
    errors
}

/// What holds for containers of every sort.
fn validate_container_common(cx: &Context<'_>, container: &Container, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if container.name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else {
        errors.extend(invalid_all(&path.child("name"), container.name.as_str(), is_dns1123_label(&container.name)));
    }
    if text(&container.image).is_empty() {
        errors.push(Error::required(&path.child("image"), ""));
    }
    errors.extend(validate_choice(text(&container.termination_message_policy), MESSAGE_POLICIES, &path.child("terminationMessagePolicy")));
    errors.extend(validate_ports(items(&container.ports), &path.child("ports")));
    errors.extend(validate_env(items(&container.env), &path.child("env")));
    errors.extend(validate_env_from(items(&container.env_from), &path.child("envFrom")));
    errors.extend(validate_volume_mounts(container, cx.volumes, &path.child("volumeMounts")));
    errors.extend(validate_volume_devices(container, cx.volumes, &path.child("volumeDevices")));
    errors.extend(validate_pull_policy(text(&container.image_pull_policy), &path.child("imagePullPolicy")));
    if let Some(resources) = &container.resources {
        errors.extend(validate_container_resource_requirements(resources, cx.claim_names, &path.child("resources"), cx.opts));
    }
    errors.extend(validate_resize_policy(items(&container.resize_policy), &path.child("resizePolicy"), text(&cx.spec.restart_policy)));
    if let Some(sc) = &container.security_context {
        let host_users = cx.spec.host_users.unwrap_or(true);
        errors.extend(validate_security_context(sc, &path.child("securityContext"), host_users, cx.opts));
    }
    errors
}

/// What is asked of a pod's container but not of a template's.
pub(super) fn validate_container_only_for_pod(container: &Container, path: &Path<'_>) -> ErrorList {
    let image = text(&container.image);
    if image.trim().len() == image.len() {
        return ErrorList::new();
    }
    vec![Error::invalid(&path.child("image"), image, "must not have leading or trailing whitespace")]
}

/// A required field with a closed set of values, listed in the given order.
pub(super) fn validate_choice(value: &str, supported: &[&str], path: &Path<'_>) -> ErrorList {
    match value {
        "" => vec![Error::required(path, "")],
        value if supported.contains(&value) => ErrorList::new(),
        value => vec![Error::not_supported(path, value, supported)],
    }
}

pub(super) fn validate_pull_policy(policy: &str, path: &Path<'_>) -> ErrorList {
    validate_choice(policy, PULL_POLICIES, path)
}

fn validate_ports(ports: &[ContainerPort], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(&port.name);
        if !name.is_empty() {
            let messages = is_valid_port_name(name);
            if !messages.is_empty() {
                errors.extend(invalid_all(&path.child("name"), name, messages));
            } else if !names.insert(name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
        }
        if port.container_port == 0 {
            errors.push(Error::required(&path.child("containerPort"), ""));
        } else {
            errors.extend(invalid_all(&path.child("containerPort"), port.container_port, is_valid_port_num(port.container_port.into())));
        }
        if let Some(host_port) = port.host_port.filter(|p| *p != 0) {
            errors.extend(invalid_all(&path.child("hostPort"), host_port, is_valid_port_num(host_port.into())));
        }
        errors.extend(validate_choice(text(&port.protocol), PROTOCOLS, &path.child("protocol")));
    }
    errors
}

fn validate_host_port_conflicts(containers: &[Container], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut taken = BTreeSet::new();
    for (c, container) in containers.iter().enumerate() {
        for (p, port) in items(&container.ports).iter().enumerate() {
            let Some(host_port) = port.host_port.filter(|p| *p != 0) else { continue };
            let socket = format!("{}/{}/{host_port}", text(&port.protocol), text(&port.host_ip));
            if taken.contains(&socket) {
                errors.push(Error::duplicate(&path.index(c).child("ports").index(p).child("hostPort"), socket));
            } else {
                taken.insert(socket);
            }
        }
    }
    errors
}

fn validate_resize_policy(policies: &[ContainerResizePolicy], path: &Path<'_>, pod_restart_policy: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (i, policy) in policies.iter().enumerate() {
        if !seen.insert(&policy.resource_name) {
            errors.push(Error::duplicate(&path.index(i), policy.resource_name.as_str()));
        }
        errors.extend(validate_choice(&policy.resource_name, RESIZE_RESOURCES, path));
        errors.extend(validate_choice(&policy.restart_policy, RESIZE_POLICIES, path));
        if pod_restart_policy == "Never" && policy.restart_policy != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(Error::invalid(path, policy.restart_policy.as_str(), detail));
        }
    }
    errors
}

#[derive(PartialEq)]
enum Sort {
    Main,
    Init,
}

/// The restart policy of one container, and the rules that refine it; without a policy, an init container's rules go unchecked.
fn validate_restart_policy(container: &Container, sort: Sort, path: &Path<'_>) -> ErrorList {
    let rules = items(&container.restart_policy_rules);
    let policy_path = path.child("restartPolicy");
    let mut errors = ErrorList::new();
    match container.restart_policy.as_deref() {
        None if rules.is_empty() => return errors,
        None => {
            errors.push(Error::required(&policy_path, "must specify restartPolicy when restart rules are used"));
            if sort == Sort::Init {
                return errors;
            }
        }
        Some(policy) if !RESTART_POLICIES.contains(&policy) => {
            errors.push(Error::not_supported(&policy_path, policy, RESTART_POLICIES));
        }
        Some(_) => {}
    }
    errors.extend(validate_restart_rules(rules, &path.child("restartPolicyRules")));
    errors
}

fn validate_restart_rules(rules: &[ContainerRestartRule], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if rules.len() > MAX_RESTART_RULES {
        errors.push(Error::too_many(path, rules.len(), MAX_RESTART_RULES));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        if !RESTART_ACTIONS.contains(&rule.action.as_str()) {
            errors.push(Error::not_supported(&path.child("action"), rule.action.as_str(), RESTART_ACTIONS));
        }
        let Some(codes) = &rule.exit_codes else {
            errors.push(Error::required(&path.child("exitCodes"), "must be specified"));
            continue;
        };
        let path = path.child("exitCodes");
        if !EXIT_CODE_OPERATORS.contains(&codes.operator.as_str()) {
            errors.push(Error::not_supported(&path.child("operator"), codes.operator.as_str(), EXIT_CODE_OPERATORS));
        }
        let count = items(&codes.values).len();
        if count > MAX_EXIT_CODES {
            errors.push(Error::too_many(&path.child("values"), count, MAX_EXIT_CODES));
        }
    }
    errors
}
