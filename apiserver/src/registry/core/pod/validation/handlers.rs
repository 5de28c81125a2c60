//! What probes and lifecycle hooks do: exec, HTTP, TCP, gRPC, sleep.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_http_header_name, is_valid_port_name, is_valid_port_num};
use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, PodOS, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::invalid_all;
use crate::registry::core::pod::access::{items, text};

const SCHEMES: &[&str] = &["HTTP", "HTTPS"];
const PROTOCOLS: &[&str] = &["HTTP1", "HTTP2"];
const GRPC_MODES: &[&str] = &["Plaintext", "TLS"];
const ONE_HANDLER: &str = "may not specify more than 1 handler type";

/// The actions of which a handler has exactly one.
#[derive(Default)]
pub(super) struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

impl<'a> From<&'a Probe> for Handler<'a> {
    fn from(p: &'a Probe) -> Self {
        Handler {
            exec: p.exec.as_ref(),
            http_get: p.http_get.as_ref(),
            tcp_socket: p.tcp_socket.as_ref(),
            grpc: p.grpc.as_ref(),
            sleep: None,
        }
    }
}

impl<'a> From<&'a LifecycleHandler> for Handler<'a> {
    fn from(h: &'a LifecycleHandler) -> Self {
        Handler {
            exec: h.exec.as_ref(),
            http_get: h.http_get.as_ref(),
            tcp_socket: h.tcp_socket.as_ref(),
            grpc: None,
            sleep: h.sleep.as_ref(),
        }
    }
}

/// `grace` is the pod's termination grace period, which bounds sleeps.
pub(super) fn validate_handler(handler: Handler<'_>, grace: Option<i64>, path: &Path<'_>) -> ErrorList {
    let found = [
        handler.exec.map(|exec| ("exec", validate_exec(exec, &path.child("exec")))),
        handler.http_get.map(|http| ("httpGet", validate_http_get(http, &path.child("httpGet")))),
        handler.tcp_socket.map(|tcp| ("tcpSocket", validate_port_num_or_name(&tcp.port, &path.child("tcpSocket").child("port")))),
        handler.grpc.map(|grpc| ("grpc", validate_grpc(grpc, &path.child("grpc")))),
        handler.sleep.map(|sleep| ("sleep", validate_sleep(sleep, grace, &path.child("sleep")))),
    ];
    let mut errors = ErrorList::new();
    let mut seen = false;
    for (name, of_action) in found.into_iter().flatten() {
        if seen {
            errors.push(Error::forbidden(&path.child(name), ONE_HANDLER));
        } else {
            errors.extend(of_action);
            seen = true;
        }
    }
    if !seen {
        errors.push(Error::required(path, "must specify a handler type"));
    }
    errors
}

fn validate_exec(exec: &ExecAction, path: &Path<'_>) -> ErrorList {
    if items(&exec.command).is_empty() { vec![Error::required(&path.child("command"), "")] } else { ErrorList::new() }
}

fn validate_http_get(http: &HTTPGetAction, path: &Path<'_>) -> ErrorList {
    let (scheme, host) = (text(&http.scheme), text(&http.host));
    let mut errors = ErrorList::new();
    if text(&http.path).is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
    }
    errors.extend(validate_port_num_or_name(&http.port, &path.child("port")));
    if !SCHEMES.contains(&scheme) {
        errors.push(Error::not_supported(&path.child("scheme"), scheme, SCHEMES));
    }
    for header in items(&http.http_headers) {
        errors.extend(invalid_all(&path.child("httpHeaders"), header.name.as_str(), is_http_header_name(&header.name)));
    }
    if let Some(protocol) = http.protocol.as_deref() {
        if !PROTOCOLS.contains(&protocol) {
            errors.push(Error::not_supported(&path.child("protocol"), protocol, PROTOCOLS));
        } else if protocol == "HTTP2" && scheme != "HTTP" {
            errors.push(Error::invalid(&path.child("protocol"), protocol, "is only supported with HTTP (H2C)"));
        } else if protocol == "HTTP2" && !host.is_empty() {
            errors.push(Error::invalid(&path.child("host"), host, "must be empty when `protocol` is \"HTTP2\""));
        }
    }
    errors
}

fn validate_grpc(grpc: &GRPCAction, path: &Path<'_>) -> ErrorList {
    let mut errors = invalid_all(&path.child("port"), grpc.port, is_valid_port_num(grpc.port.into()));
    if let Some(mode) = grpc.mode.as_deref().filter(|mode| !GRPC_MODES.contains(mode)) {
        errors.push(Error::not_supported(&path.child("mode"), mode, GRPC_MODES));
    }
    errors
}

fn validate_sleep(sleep: &SleepAction, grace: Option<i64>, path: &Path<'_>) -> ErrorList {
    match grace {
        Some(grace) if !(0..=grace).contains(&sleep.seconds) => {
            let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            vec![Error::invalid(path, sleep.seconds, detail)]
        }
        _ => ErrorList::new(),
    }
}

/// A port's number, or the name of one.
pub(crate) fn validate_port_num_or_name(port: &IntOrString, path: &Path<'_>) -> ErrorList {
    match port {
        IntOrString::Int(number) => invalid_all(path, *number, is_valid_port_num(i64::from(*number))),
        IntOrString::String(name) => invalid_all(path, name.as_str(), is_valid_port_name(name)),
    }
}

pub(super) fn validate_lifecycle(lifecycle: &Lifecycle, grace: Option<i64>, path: &Path<'_>, os: Option<&PodOS>) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(handler) = &lifecycle.post_start {
        errors.extend(validate_handler(handler.into(), grace, &path.child("postStart")));
    }
    if let Some(handler) = &lifecycle.pre_stop {
        errors.extend(validate_handler(handler.into(), grace, &path.child("preStop")));
    }
    if let Some(signal) = &lifecycle.stop_signal {
        errors.extend(validate_stop_signal(signal, &path.child("stopSignal"), os));
    }
    errors
}

fn linux_signals() -> Vec<String> {
    const NAMED: &str = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP \
                         TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX";
    let named = NAMED.split_whitespace().map(|name| format!("SIG{name}"));
    let after = (1..=15).map(|n| format!("SIGRTMIN+{n}"));
    let before = (1..=14).map(|n| format!("SIGRTMAX-{n}"));
    let mut all: Vec<String> = named.chain(after).chain(before).collect();
    all.sort();
    all
}

fn validate_stop_signal(signal: &str, path: &Path<'_>, os: Option<&PodOS>) -> ErrorList {
    let supported = match os.map(|os| os.name.as_str()) {
        None => return vec![Error::forbidden(path, "may not be set for containers with empty `spec.os.name`")],
        Some("windows") => vec!["SIGKILL".to_owned(), "SIGTERM".to_owned()],
        Some("linux") => linux_signals(),
        Some(_) => return ErrorList::new(),
    };
    if supported.iter().any(|s| s == signal) { ErrorList::new() } else { vec![Error::not_supported(path, signal, &supported)] }
}
