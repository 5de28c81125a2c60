//! `pods/exec`, `pods/attach` and `pods/portforward`: streams between the client and the pod's kubelet.

use apimachinery::field::quote;
use apimachinery::status::Status;

use super::forward::{self, Mode};
use super::location::encode_query;
use super::{connect_admission, node, pod_translation};
use crate::endpoints::options::Query;
use crate::endpoints::{Answer, Call};
use crate::registry::core::pod::connect;
use crate::registry::read::{list_at, str_at};
use crate::streaming::{remote_command, tunnel, web_socket};

/// The declared feature of nodes whose kubelets translate.
const EXTEND_WEB_SOCKETS: &str = "ExtendWebSocketsToKubelet";

/// Connects the client with the kubelet.
pub async fn stream(call: &mut Call) -> Answer {
    let subresource = call.request.info.subresource.clone();
    let parameters = match subresource.as_str() {
        "portforward" => port_parameters(&call.query)?,
        _ => stream_parameters(&call.query),
    };
    connect_admission(call).await?;
    may_create(call).await?;
    let pod = call.fresh_named().await?.value();
    let (namespace, name) = (str_at(&pod, "/metadata/namespace"), str_at(&pod, "/metadata/name"));
    let path = if subresource == "portforward" {
        format!("/portForward/{namespace}/{name}")
    } else {
        let container = connect::container(&pod, call.query.get("container").unwrap_or("")).map_err(Status::bad_request)?;
        format!("/{subresource}/{namespace}/{name}/{container}")
    };
    let node = node(call, connect::node(&pod).map_err(Status::bad_request)?).await?;
    let target = call.api.backends.on_kubelet(&node, path, encode_query(&parameters))?;
    let offered = web_socket::offered(&call.request.headers).unwrap_or_default();
    // A kubelet that says so speaks these protocols of WebSocket itself.
    if list_at(&node, "/status/declaredFeatures").iter().all(|feature| feature != EXTEND_WEB_SOCKETS) {
        if subresource == "portforward" {
            let protocols: Vec<String> = tunnel::spdy_protocols(&offered).into_iter().map(str::to_owned).collect();
            if !protocols.is_empty() {
                return pod_translation::tunnelled(call, &target, &protocols).await;
            }
        } else if offered.contains(&remote_command::PROTOCOL) {
            let streams = wanted(&call.query);
            return pod_translation::translated(call, target, streams);
        }
    }
    forward::forward(call, target, Mode::UpgradeOnly).await
}

/// The streams that a remote command is to have.
fn wanted(query: &Query) -> remote_command::Streams {
    let flag = |name: &str| query.flag(name);
    remote_command::Streams { stdin: flag("stdin"), stdout: flag("stdout"), stderr: flag("stderr"), tty: flag("tty") }
}

/// Whoever connects by GET, as web sockets do, must also be allowed to create.
async fn may_create(call: &Call) -> Result<(), Status> {
    let info = &call.request.info;
    if info.verb == "create" {
        return Ok(());
    }
    let mut create = info.clone();
    create.verb = "create".to_owned();
    match call.api.authorizer.ask(&call.request.user, &create).wait().await.refusal() {
        None => Ok(()),
        Some(reason) => Err(Status::forbidden(&info.group, &info.resource, &info.name, &reason)),
    }
}

/// Which streams are wanted, in the kubelet's words.
fn stream_parameters(query: &Query) -> Vec<(&'static str, String)> {
    let streams = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    let wanted = streams.into_iter().filter(|(option, _)| query.flag(option)).map(|(_, parameter)| (parameter, "1".to_owned()));
    wanted.chain(query.all("command").map(|word| ("command", word.to_owned()))).collect()
}

fn port_parameters(query: &Query) -> Result<Vec<(&'static str, String)>, Status> {
    let mut ports: Vec<String> = Vec::new();
    for text in query.all("ports").flat_map(|list| list.split(',')) {
        let number: u16 = text.parse().map_err(|_| not_a_port(text))?;
        ports.push(number.to_string());
    }
    Ok(if ports.is_empty() { Vec::new() } else { vec![("port", ports.join(","))] })
}

fn not_a_port(text: &str) -> Status {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let why = if digits { "value out of range" } else { "invalid syntax" };
    Status::bad_request(format!("cannot convert to []int32: strconv.ParseUint: parsing {}: {why}", quote(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_the_kubelets_parameters() {
        let query = Query::parse("stdin=true&stdout=1&tty=false&command=sh&command=-c&container=a");
        assert_eq!(encode_query(&stream_parameters(&query)), "command=sh&command=-c&input=1&output=1");
        assert_eq!(encode_query(&port_parameters(&Query::parse("ports=80&ports=81")).unwrap()), "port=80%2C81");
        let refusal = |query: &str| port_parameters(&Query::parse(query)).unwrap_err().message;
        assert_eq!(refusal("ports=x"), "cannot convert to []int32: strconv.ParseUint: parsing \"x\": invalid syntax");
        assert!(refusal("ports=70000").ends_with("value out of range"));
        assert!(port_parameters(&Query::parse("")).unwrap().is_empty());
    }
}
