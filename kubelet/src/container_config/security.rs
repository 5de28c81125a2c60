//! Who a container runs as and what it may do: the pod's security context under the container's own.
//!
//! Upstream: pkg/kubelet/kuberuntime/security_context.go, pkg/securitycontext/util.go.

use apimachinery::validation::inclusive_range_error;
use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, SeLinuxOption,
    SecurityProfile, SupplementalGroupsPolicy, UserNamespace,
};
use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext};

use super::{Error, Inputs, Node, pod_format};
use crate::app_armor;

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    pod.spec.as_ref()?.security_context.as_ref()
}

/// The container's settings, and the pod's where the container has none.
pub fn effective(pod: &Pod, container: &Container) -> SecurityContext {
    let mut context = container.security_context.clone().unwrap_or_default();
    if let Some(of_pod) = pod_context(pod) {
        context.se_linux_options = context.se_linux_options.or_else(|| of_pod.se_linux_options.clone());
        context.run_as_user = context.run_as_user.or(of_pod.run_as_user);
        context.run_as_group = context.run_as_group.or(of_pod.run_as_group);
        context.run_as_non_root = context.run_as_non_root.or(of_pod.run_as_non_root);
    }
    context
}

/// Refuses what would run as root although it must not.
pub fn verify_non_root(inputs: &Inputs<'_>) -> Result<(), Error> {
    let context = effective(inputs.pod, inputs.container);
    if context.run_as_non_root != Some(true) {
        return Ok(());
    }
    let place = format!("(pod: {:?}, container: {})", pod_format(inputs.pod), inputs.container.name);
    let refuse = |what: String| Err(Error::new(format!("{what} {place}")));
    match (context.run_as_user, inputs.image.uid) {
        (Some(0), _) => refuse("container's runAsUser breaks non-root policy".to_owned()),
        (Some(_), _) => Ok(()),
        (None, None) if !inputs.image.username.is_empty() => refuse(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root",
            inputs.image.username
        )),
        (None, Some(0)) => refuse("container has runAsNonRoot and image will run as root".to_owned()),
        (None, Some(uid)) if !(0..=i64::from(i32::MAX)).contains(&uid) => refuse(format!(
            "container has runAsNonRoot and image has an invalid user id ({uid}). (Must be 1-({})): {}",
            i32::MAX,
            inclusive_range_error(0, i64::from(i32::MAX))
        )),
        (None, _) => Ok(()),
    }
}

/// The security context of a container.
pub fn of_container(inputs: &Inputs<'_>) -> Result<LinuxContainerSecurityContext, Error> {
    let context = effective(inputs.pod, inputs.container);
    let mut namespaces = namespaces(inputs.pod, inputs.node)?;
    if let Some(target) = inputs.target_id.filter(|_| namespaces.pid == i32::from(NamespaceMode::Container)) {
        namespaces.pid = NamespaceMode::Target.into();
        namespaces.target_id = target.to_owned();
    }
    let (apparmor, apparmor_profile) = apparmor(inputs.pod, inputs.container)?;
    let (user, username) = match context.run_as_user {
        Some(user) => (Some(user), String::new()),
        None => (inputs.image.uid, inputs.image.username.clone()),
    };
    let unmasked = context.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| paths.iter().filter(|_| !unmasked).map(|path| (*path).to_owned()).collect::<Vec<_>>();
    let mut masked_paths = paths(&MASKED_PATHS);
    if !unmasked {
        masked_paths.extend(inputs.node.thermal_throttle_paths.iter().cloned());
    }
    #[allow(deprecated)]
    Ok(LinuxContainerSecurityContext {
        capabilities: context.capabilities.map(|capabilities| Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            ..Default::default()
        }),
        privileged: context.privileged == Some(true),
        namespace_options: Some(namespaces),
        selinux_options: context.se_linux_options.as_ref().map(selinux),
        run_as_user: user.map(|value| Int64Value { value }),
        run_as_group: context.run_as_group.map(|value| Int64Value { value }),
        run_as_username: username,
        readonly_rootfs: context.read_only_root_filesystem == Some(true),
        supplemental_groups: supplemental_groups(inputs.pod, &inputs.volumes.supplemental_groups),
        supplemental_groups_policy: groups_policy(inputs.pod)?,
        no_new_privs: context.allow_privilege_escalation == Some(false),
        masked_paths,
        readonly_paths: paths(&READ_ONLY_PATHS),
        seccomp: Some(seccomp(inputs.pod, inputs.container.security_context.as_ref(), inputs.node)?),
        apparmor,
        apparmor_profile,
        ..Default::default()
    })
}

/// The security context of the pod's sandbox. It runs nothing of the pod, so the runtime's own profile confines it.
pub fn of_sandbox(pod: &Pod, node: &Node) -> Result<LinuxSandboxSecurityContext, Error> {
    let context = pod_context(pod);
    Ok(LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, node)?),
        selinux_options: context.and_then(|context| context.se_linux_options.as_ref()).map(selinux),
        run_as_user: context.and_then(|context| context.run_as_user).map(|value| Int64Value { value }),
        run_as_group: context.and_then(|context| context.run_as_group).map(|value| Int64Value { value }),
        supplemental_groups: supplemental_groups(pod, &[]),
        supplemental_groups_policy: groups_policy(pod)?,
        privileged: has_privileged(pod),
        seccomp: Some(SecurityProfile { profile_type: ProfileType::RuntimeDefault.into(), ..Default::default() }),
        ..Default::default()
    })
}

fn has_privileged(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.security_context);
    let others = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| &container.security_context);
    others.chain(ephemeral).flatten().any(|context| context.privileged == Some(true))
}

/// Which namespaces are shared with the node, the pod or nobody.
pub fn namespaces(pod: &Pod, node: &Node) -> Result<NamespaceOption, Error> {
    let spec = pod.spec.as_ref();
    let host_or_pod = |host: Option<bool>| if host == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match spec {
        Some(spec) if spec.host_pid == Some(true) => NamespaceMode::Node,
        Some(spec) if spec.share_process_namespace == Some(true) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    let userns = match spec.and_then(|spec| spec.host_users) {
        None | Some(true) => UserNamespace { mode: NamespaceMode::Node.into(), ..Default::default() },
        Some(false) => node
            .user_namespace
            .clone()
            .ok_or_else(|| Error::new("can't set `spec.hostUsers: false`, runtime does not support user namespaces"))?,
    };
    Ok(NamespaceOption {
        network: host_or_pod(spec.and_then(|spec| spec.host_network)).into(),
        pid: pid.into(),
        ipc: host_or_pod(spec.and_then(|spec| spec.host_ipc)).into(),
        target_id: String::new(),
        userns_options: Some(userns),
    })
}

/// The groups that every process of the pod is in, beside those of its user: the pod's, and those of its volumes.
fn supplemental_groups(pod: &Pod, of_volumes: &[i64]) -> Vec<i64> {
    let context = pod_context(pod);
    let fs_group = context.and_then(|context| context.fs_group);
    let own = context.and_then(|context| context.supplemental_groups.as_ref()).into_iter().flatten();
    fs_group.iter().chain(own).chain(of_volumes).copied().collect()
}

fn groups_policy(pod: &Pod) -> Result<i32, Error> {
    match pod_context(pod).and_then(|context| context.supplemental_groups_policy.as_deref()) {
        None => Ok(SupplementalGroupsPolicy::Merge.into()),
        Some(name) => match SupplementalGroupsPolicy::from_str_name(name) {
            Some(policy) => Ok(policy.into()),
            None => Err(Error::new(format!("unsupported supplementalGroupsPolicy: {name}"))),
        },
    }
}

fn selinux(options: &SELinuxOptions) -> SeLinuxOption {
    let of = |field: &Option<String>| field.clone().unwrap_or_default();
    SeLinuxOption { user: of(&options.user), role: of(&options.role), r#type: of(&options.type_), level: of(&options.level) }
}

/// Which system calls are allowed: the container's profile, or else the pod's, or else the node's default.
fn seccomp(pod: &Pod, container: Option<&SecurityContext>, node: &Node) -> Result<SecurityProfile, Error> {
    let of_pod = || pod_context(pod).and_then(|context| context.seccomp_profile.as_ref());
    let profile: Option<&SeccompProfile> = container.and_then(|context| context.seccomp_profile.as_ref()).or_else(of_pod);
    let kind = match profile.map(|profile| profile.type_.as_str()) {
        None if node.seccomp_default => ProfileType::RuntimeDefault,
        Some("RuntimeDefault") => ProfileType::RuntimeDefault,
        Some("Localhost") => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    let mut made = SecurityProfile { profile_type: kind.into(), ..Default::default() };
    if kind == ProfileType::Localhost {
        let file = profile.and_then(|profile| profile.localhost_profile.as_deref()).filter(|file| !file.is_empty());
        let file = file.ok_or_else(|| Error::new("localhostProfile must be set if seccompProfile type is Localhost."))?;
        made.localhost_ref = node.seccomp_profile_root.join(file).to_string_lossy().into_owned();
    }
    Ok(made)
}

/// The AppArmor profile as the runtime takes it now, and as older ones do.
fn apparmor(pod: &Pod, container: &Container) -> Result<(Option<SecurityProfile>, String), Error> {
    let own = container.security_context.as_ref().and_then(|context| context.app_armor_profile.clone());
    let of_annotation = || {
        let value = pod.metadata.annotations.as_ref()?.get(&format!("{}{}", app_armor::ANNOTATION, container.name))?;
        let profile = |kind: &str| Some(AppArmorProfile { type_: kind.to_owned(), ..Default::default() });
        match value.as_str() {
            "runtime/default" => profile("RuntimeDefault"),
            "unconfined" => profile("Unconfined"),
            other => other
                .strip_prefix("localhost/")
                .map(|name| AppArmorProfile { type_: "Localhost".to_owned(), localhost_profile: Some(name.to_owned()) }),
        }
    };
    let of_pod = || pod_context(pod).and_then(|context| context.app_armor_profile.clone());
    let Some(profile) = own.or_else(of_annotation).or_else(of_pod) else { return Ok((None, String::new())) };
    let made = |kind: ProfileType, name: &str| SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok((Some(made(ProfileType::RuntimeDefault, "")), "runtime/default".to_owned())),
        "Unconfined" => Ok((Some(made(ProfileType::Unconfined, "")), "unconfined".to_owned())),
        "Localhost" => {
            let name = profile.localhost_profile.ok_or_else(|| Error::new("missing localhost apparmor profile name"))?;
            Ok((Some(made(ProfileType::Localhost, &name)), format!("localhost/{name}")))
        }
        other => Err(Error::new(format!("unknown apparmor profile type: {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::container_config::{Image, test_node};
    use crate::volumes::PodVolumes;

    fn with<T>(pod: Value, image: Image, run: impl Fn(&Inputs<'_>) -> T) -> T {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": pod})).expect("it is a pod");
        let container = &pod.spec.as_ref().expect("it has a spec").containers[0];
        run(&Inputs {
            pod: &pod,
            container,
            node: &test_node(),
            pod_ips: &[],
            volumes: &PodVolumes::default(),
            image: &image,
            image_volumes: &BTreeMap::new(),
            restart_count: 0,
            target_id: Some("target"),
            services: &[],
        })
    }

    #[test]
    fn the_containers_settings_come_before_the_pods() {
        let spec = json!({"securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4], "supplementalGroupsPolicy": "Strict"},
            "containers": [{"name": "c", "securityContext": {"runAsUser": 5, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}}}]});
        let made = with(spec, Image::default(), |inputs| of_container(inputs).expect("it is valid"));
        assert_eq!(made.run_as_user, Some(Int64Value { value: 5 }));
        assert_eq!(made.run_as_group, Some(Int64Value { value: 2 }));
        assert_eq!(made.supplemental_groups, [3, 4]);
        assert_eq!(made.supplemental_groups_policy, i32::from(SupplementalGroupsPolicy::Strict));
        assert!(made.no_new_privs && made.readonly_rootfs && !made.privileged);
        let capabilities = made.capabilities.expect("there are some");
        assert_eq!((capabilities.add_capabilities, capabilities.drop_capabilities), (vec!["NET_ADMIN".to_owned()], vec!["ALL".to_owned()]));
        assert_eq!(made.seccomp.expect("there is one").localhost_ref, "/var/lib/kubelet/seccomp/a.json");
        let namespaces = made.namespace_options.expect("there are some");
        assert_eq!((namespaces.pid, namespaces.target_id.as_str()), (i32::from(NamespaceMode::Target), "target"));
        assert!(made.masked_paths.contains(&"/proc/kcore".to_owned()));
    }

    #[test]
    fn whoever_must_not_be_root_is_refused() {
        let container = |context: Value| json!({"containers": [{"name": "c", "securityContext": context}]});
        let image = |uid: Option<i64>, username: &str| Image { uid, username: username.to_owned(), ..Image::default() };
        let cases = [
            (json!({"runAsNonRoot": true}), image(Some(0), ""), "container has runAsNonRoot and image will run as root"),
            (
                json!({"runAsNonRoot": true}),
                image(None, "www"),
                "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root",
            ),
            (json!({"runAsNonRoot": true, "runAsUser": 0}), image(None, ""), "container's runAsUser breaks non-root policy"),
        ];
        for (context, image, expect) in cases {
            let error = with(container(context), image, verify_non_root).expect_err("it is root");
            assert_eq!(error.message, format!("{expect} (pod: \"p_n(u)\", container: c)"));
        }
        for (context, image) in [
            (json!({"runAsNonRoot": true, "runAsUser": 1}), image(Some(0), "")),
            (json!({"runAsNonRoot": true}), image(Some(7), "")),
            (json!({"runAsNonRoot": true}), image(None, "")),
            (json!({}), image(Some(0), "")),
        ] {
            assert_eq!(with(container(context), image, verify_non_root), Ok(()));
        }
    }

    #[test]
    fn namespaces_are_the_pods_or_the_hosts() {
        let modes = |spec: Value| {
            with(spec, Image::default(), |inputs| {
                let made = namespaces(inputs.pod, inputs.node).expect("it is valid");
                [made.network, made.pid, made.ipc].map(|mode| NamespaceMode::try_from(mode).expect("it is one"))
            })
        };
        use NamespaceMode::{Container, Node, Pod};
        assert_eq!(modes(json!({"containers": [{"name": "c"}]})), [Pod, Container, Pod]);
        assert_eq!(modes(json!({"shareProcessNamespace": true, "containers": [{"name": "c"}]})), [Pod, Pod, Pod]);
        assert_eq!(
            modes(json!({"hostNetwork": true, "hostPID": true, "hostIPC": true, "containers": [{"name": "c"}]})),
            [Node, Node, Node]
        );
    }
}
