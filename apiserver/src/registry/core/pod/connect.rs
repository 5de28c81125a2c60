//! Reaching into a pod (log, exec, attach, port forwarding, proxy): which container and address are meant, and what log
//! options may say.
//!
//! Decides only; the connection is the endpoint's. Errors are the texts of BadRequest.

use apimachinery::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::registry::read::{at, list_at, str_at};

/// The container that a request means, which it need not name if there is one only.
pub fn container<'a>(pod: &'a Value, named: &'a str) -> Result<&'a str, String> {
    let name = str_at(pod, "/metadata/name");
    let lists = ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"];
    let all = || lists.iter().flat_map(|list| list_at(pod, list)).map(|c| str_at(c, "/name"));
    if !named.is_empty() {
        return match all().any(|container| container == named) {
            true => Ok(named),
            false => Err(format!("container {named} is not valid for pod {name}")),
        };
    }
    match list_at(pod, "/spec/containers") {
        [only] => Ok(str_at(only, "/name")),
        [] => Err(format!("a container name must be specified for pod {name}")),
        _ => {
            let names: Vec<&str> = all().collect();
            Err(format!("a container name must be specified for pod {name}, choose one of: [{}]", names.join(" ")))
        }
    }
}

/// The node that runs the pod, for streams, which need one.
pub fn node(pod: &Value) -> Result<&str, String> {
    match str_at(pod, "/spec/nodeName") {
        "" => Err(format!("pod {} does not have a host assigned", str_at(pod, "/metadata/name"))),
        node => Ok(node),
    }
}

/// The port that a proxy request means when it names none: the first that a container has.
pub fn proxy_port(pod: &Value) -> Option<i64> {
    list_at(pod, "/spec/containers").iter().find_map(|c| at(c, "/ports/0/containerPort").as_i64())
}

/// What a request for logs asks for, as far as there are rules about it.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    pub tail_lines: Option<i64>,
    pub limit_bytes: Option<i64>,
    pub since_seconds: Option<i64>,
    /// `sinceTime` is given.
    pub since_time: bool,
    /// `stream` is given; the feature that reads it is off in v1.37.
    pub stream: bool,
}

/// The rules of log options.
pub fn validate_log_options(options: &LogOptions) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(lines) = options.tail_lines.filter(|lines| *lines < 0) {
        errors.push(Error::invalid(&Path::new("tailLines"), lines, "must be greater than or equal to 0"));
    }
    if let Some(bytes) = options.limit_bytes.filter(|bytes| *bytes < 1) {
        errors.push(Error::invalid(&Path::new("limitBytes"), bytes, "must be greater than 0"));
    }
    match options.since_seconds {
        Some(_) if options.since_time => {
            errors.push(Error::forbidden(&Path::new(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"));
        }
        Some(seconds) if seconds < 1 => errors.push(Error::invalid(&Path::new("sinceSeconds"), seconds, "must be greater than 0")),
        _ => {}
    }
    if options.stream {
        errors.push(Error::forbidden(&Path::new("stream"), "may not be specified"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::core::tests::messages;

    #[test]
    fn a_container_is_named_unless_it_is_alone() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(container(&one, ""), Ok("a"));
        assert_eq!(container(&one, "i"), Ok("i"));
        assert_eq!(container(&one, "x"), Err("container x is not valid for pod p".to_owned()));
        assert_eq!(container(&two, ""), Err("a container name must be specified for pod p, choose one of: [a b]".to_owned()));
    }

    #[test]
    fn log_options_are_bounded() {
        let options = LogOptions { tail_lines: Some(-1), limit_bytes: Some(0), since_seconds: Some(0), since_time: true, stream: true };
        assert_eq!(
            messages(&validate_log_options(&options)),
            [
                "tailLines: Invalid value: -1: must be greater than or equal to 0",
                "limitBytes: Invalid value: 0: must be greater than 0",
                "[]: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
                "stream: Forbidden: may not be specified",
            ]
        );
        assert!(validate_log_options(&LogOptions { tail_lines: Some(0), ..LogOptions::default() }).is_empty());
    }
}
