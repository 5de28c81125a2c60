//! How an ephemeral container is shown in a difference: with the fields of upstream's internal type, in their order.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvFromSource, EnvVar, EphemeralContainer, HTTPGetAction, LifecycleHandler, Probe, ResourceRequirements,
    TCPSocketAction, VolumeMount,
};
use serde_json::{Map, Value, json};

use super::printed::security_context;
use crate::registry::core::pod::access::{as_container, on, text};

pub(super) fn ephemeral_container(ephemeral: &EphemeralContainer) -> Value {
    let mut shown = container(&as_container(ephemeral));
    if let Some(map) = shown.as_object_mut() {
        map.insert("TargetContainerName".to_owned(), text(&ephemeral.target_container_name).into());
    }
    shown
}

/// A list, or null where there is none.
fn list<T>(items: &Option<Vec<T>>, show: impl Fn(&T) -> Value) -> Value {
    items.as_ref().map_or(Value::Null, |items| items.iter().map(show).collect())
}

fn container(c: &Container) -> Value {
    json!({
        "Name": c.name,
        "Image": text(&c.image),
        "Command": c.command,
        "Args": c.args,
        "WorkingDir": text(&c.working_dir),
        "Ports": list(&c.ports, port),
        "EnvFrom": list(&c.env_from, env_from),
        "Env": list(&c.env, env),
        "Resources": resources(c.resources.as_ref()),
        "ResizePolicy": list(&c.resize_policy, |p| json!({"ResourceName": p.resource_name, "RestartPolicy": p.restart_policy})),
        "RestartPolicy": c.restart_policy,
        "RestartPolicyRules": list(&c.restart_policy_rules, |rule| json!({
            "Action": rule.action,
            "ExitCodes": rule.exit_codes.as_ref().map(|codes| json!({"Operator": codes.operator, "Values": codes.values})),
        })),
        "VolumeMounts": list(&c.volume_mounts, mount),
        "VolumeDevices": list(&c.volume_devices, |d| json!({"Name": d.name, "DevicePath": d.device_path})),
        "LivenessProbe": c.liveness_probe.as_ref().map(probe),
        "ReadinessProbe": c.readiness_probe.as_ref().map(probe),
        "StartupProbe": c.startup_probe.as_ref().map(probe),
        "Lifecycle": c.lifecycle.as_ref().map(|l| json!({
            "PostStart": l.post_start.as_ref().map(handler),
            "PreStop": l.pre_stop.as_ref().map(handler),
            "StopSignal": l.stop_signal,
        })),
        "TerminationMessagePath": text(&c.termination_message_path),
        "TerminationMessagePolicy": text(&c.termination_message_policy),
        "ImagePullPolicy": text(&c.image_pull_policy),
        "SecurityContext": c.security_context.as_ref().map(security_context),
        "Stdin": on(c.stdin),
        "StdinOnce": on(c.stdin_once),
        "TTY": on(c.tty),
    })
}

fn port(p: &ContainerPort) -> Value {
    json!({
        "Name": text(&p.name),
        "HostPort": p.host_port.unwrap_or(0),
        "ContainerPort": p.container_port,
        "Protocol": text(&p.protocol),
        "HostIP": text(&p.host_ip),
    })
}

fn env_from(source: &EnvFromSource) -> Value {
    json!({
        "Prefix": text(&source.prefix),
        "ConfigMapRef": source.config_map_ref.as_ref().map(|r| json!({"Name": r.name, "Optional": r.optional})),
        "SecretRef": source.secret_ref.as_ref().map(|r| json!({"Name": r.name, "Optional": r.optional})),
    })
}

fn env(var: &EnvVar) -> Value {
    let from = var.value_from.as_ref().map(|from| {
        json!({
            "FieldRef": from.field_ref.as_ref().map(|r| json!({"APIVersion": text(&r.api_version), "FieldPath": r.field_path})),
            "ResourceFieldRef": from.resource_field_ref.as_ref().map(|r| json!({
                "ContainerName": text(&r.container_name),
                "Resource": r.resource,
                "Divisor": r.divisor.as_ref().map_or("0", |divisor| &divisor.0),
            })),
            "ConfigMapKeyRef": from.config_map_key_ref.as_ref().map(|r| json!({"Name": r.name, "Key": r.key, "Optional": r.optional})),
            "SecretKeyRef": from.secret_key_ref.as_ref().map(|r| json!({"Name": r.name, "Key": r.key, "Optional": r.optional})),
            "FileKeyRef": from.file_key_ref.as_ref().map(|r| json!({
                "VolumeName": r.volume_name,
                "Path": r.path,
                "Key": r.key,
                "Optional": r.optional,
            })),
        })
    });
    json!({"Name": var.name, "Value": text(&var.value), "ValueFrom": from})
}

fn resources(resources: Option<&ResourceRequirements>) -> Value {
    let amounts = |pick: fn(&ResourceRequirements) -> &Option<crate::registry::core::pod::access::ResourceList>| {
        let list = resources.and_then(|r| pick(r).as_ref());
        list.map(|list| list.iter().map(|(name, amount)| (name.clone(), amount.0.as_str().into())).collect::<Map<String, Value>>())
    };
    json!({
        "Limits": amounts(|r| &r.limits),
        "Requests": amounts(|r| &r.requests),
        "Claims": resources.map_or(Value::Null, |r| list(&r.claims, |c| json!({"Name": c.name, "Request": text(&c.request)}))),
    })
}

fn mount(m: &VolumeMount) -> Value {
    json!({
        "Name": m.name,
        "ReadOnly": on(m.read_only),
        "RecursiveReadOnly": m.recursive_read_only,
        "MountPath": m.mount_path,
        "SubPath": text(&m.sub_path),
        "MountPropagation": m.mount_propagation,
        "SubPathExpr": text(&m.sub_path_expr),
        "BindMountOptions": m.bind_mount_options,
    })
}

fn http_get(http: &HTTPGetAction) -> Value {
    json!({
        "Path": text(&http.path),
        "Port": http.port,
        "Host": text(&http.host),
        "Scheme": text(&http.scheme),
        "HTTPHeaders": list(&http.http_headers, |h| json!({"Name": h.name, "Value": h.value})),
        "Protocol": http.protocol,
    })
}

fn tcp_socket(tcp: &TCPSocketAction) -> Value {
    json!({"Port": tcp.port, "Host": text(&tcp.host)})
}

fn probe(p: &Probe) -> Value {
    json!({
        "Exec": p.exec.as_ref().map(|exec| json!({"Command": exec.command})),
        "HTTPGet": p.http_get.as_ref().map(http_get),
        "TCPSocket": p.tcp_socket.as_ref().map(tcp_socket),
        "GRPC": p.grpc.as_ref().map(|grpc| json!({"Port": grpc.port, "Service": grpc.service, "Mode": grpc.mode})),
        "InitialDelaySeconds": p.initial_delay_seconds.unwrap_or(0),
        "TimeoutSeconds": p.timeout_seconds.unwrap_or(0),
        "PeriodSeconds": p.period_seconds.unwrap_or(0),
        "SuccessThreshold": p.success_threshold.unwrap_or(0),
        "FailureThreshold": p.failure_threshold.unwrap_or(0),
        "TerminationGracePeriodSeconds": p.termination_grace_period_seconds,
    })
}

fn handler(h: &LifecycleHandler) -> Value {
    json!({
        "Exec": h.exec.as_ref().map(|exec| json!({"Command": exec.command})),
        "HTTPGet": h.http_get.as_ref().map(http_get),
        "TCPSocket": h.tcp_socket.as_ref().map(tcp_socket),
        "Sleep": h.sleep.as_ref().map(|sleep| json!({"Seconds": sleep.seconds})),
    })
}
