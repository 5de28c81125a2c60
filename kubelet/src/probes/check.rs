//! One probe of a container: asking it once how it is.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use prost::Message;

use crate::cri::{Code, Runtime};
use crate::http_get::{self, Get};

/// How much of a command's output is told.
const OUTPUT_BYTES: usize = 10 << 10;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Warning(String),
    Failure(String),
}

/// Asks once. An error means that the probe itself could not be made.
pub async fn check(runtime: &dyn Runtime, probe: &Probe, container: &Container, id: &str, pod_ip: &str) -> Result<Outcome, String> {
    let seconds = probe.timeout_seconds.unwrap_or(1).max(1);
    let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
    if let Some(exec) = &probe.exec {
        let command = with_static_variables(exec.command.as_deref().unwrap_or(&[]), container);
        return exec_in(runtime, id, command, seconds).await;
    }
    if let Some(action) = &probe.http_get {
        let get = Get::new(action, container, pod_ip, "probe").map_err(|error| error.to_string())?;
        return Ok(http(get, limit).await);
    }
    if let Some(action) = &probe.tcp_socket {
        let port = http_get::resolve_port(&action.port, container).map_err(|error| error.to_string())?;
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
        return Ok(match tokio::time::timeout(limit, http_get::dial(host, port)).await {
            Ok(Ok(_)) => Outcome::Success,
            Ok(Err(error)) => Outcome::Failure(error),
            Err(_) => Outcome::Failure(format!("dial tcp {}: i/o timeout", http_get::join(host, port))),
        });
    }
    if let Some(action) = &probe.grpc {
        let port = u16::try_from(action.port).map_err(|_| format!("invalid port number: {}", action.port))?;
        return Ok(grpc(pod_ip, port, action.service.as_deref().unwrap_or(""), limit).await);
    }
    Err("missing probe handler".to_owned())
}

/// `$(NAME)` by the variables whose values stand in the spec.
fn with_static_variables(command: &[String], container: &Container) -> Vec<String> {
    let variables: BTreeMap<&str, &str> =
        container.env.iter().flatten().map(|var| (var.name.as_str(), var.value.as_deref().unwrap_or(""))).collect();
    command.iter().map(|argument| expand(argument, &variables)).collect()
}

fn expand(text: &str, variables: &BTreeMap<&str, &str>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match variables.get(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded.push_str(rest);
    expanded
}

async fn exec_in(runtime: &dyn Runtime, id: &str, command: Vec<String>, seconds: i32) -> Result<Outcome, String> {
    let words = command.join(" ");
    match runtime.exec_sync(id.to_owned(), command, i64::from(seconds)).await {
        Ok(response) if response.exit_code == 0 => Ok(Outcome::Success),
        Ok(response) => {
            let mut output = [response.stdout, response.stderr].concat();
            output.truncate(OUTPUT_BYTES);
            Ok(Outcome::Failure(String::from_utf8_lossy(&output).into_owned()))
        }
        Err(error) if error.code == Code::DeadlineExceeded => {
            Ok(Outcome::Failure(format!("command timed out: {words:?} timed out after {seconds}s")))
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn http(get: Get, limit: Duration) -> Outcome {
    let url = format!("{}://{}", if get.is_https() { "https" } else { "http" }, get.authority());
    match tokio::time::timeout(limit, get.send()).await {
        Err(_) => {
            let problem = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
            Outcome::Failure(format!("Get {url:?}: {problem}"))
        }
        Ok(Err(error)) => Outcome::Failure(error.to_string()),
        Ok(Ok(answer)) => match answer.status.as_u16() {
            300..400 => Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body)),
            200..300 => Outcome::Success,
            code => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
        },
    }
}

/// `grpc.health.v1.HealthCheckRequest` and its answer.
#[derive(Clone, PartialEq, Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

async fn grpc(host: &str, port: u16, service: &str, limit: Duration) -> Outcome {
    let address = http_get::join(host, port);
    let seconds = format!("{}s", limit.as_secs());
    let ask = async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .and_then(|endpoint| endpoint.user_agent("kube-probe/1.37"))
            .map_err(|error| format!("error: failed to connect service at {address:?}: {error}"))?;
        // Go waits until somebody listens, so a refused connection is told as a time-out.
        let channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|error| format!("error: health rpc probe failed: {error}"))?;
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost_codec::Codec::<HealthRequest, HealthResponse>::default();
        let request = tonic::Request::new(HealthRequest { service: service.to_owned() });
        Ok::<_, String>(client.unary(request, path, codec).await)
    };
    match tokio::time::timeout(limit, ask).await {
        Err(_) => Outcome::Failure(format!("timeout: failed to connect service {address:?} within {seconds}: context deadline exceeded")),
        Ok(Err(problem)) => Outcome::Failure(problem),
        Ok(Ok(Ok(response))) => match response.into_inner().status {
            SERVING => Outcome::Success,
            other => {
                let word = match other {
                    0 => "UNKNOWN",
                    2 => "NOT_SERVING",
                    _ => "SERVICE_UNKNOWN",
                };
                Outcome::Failure(format!("service unhealthy (responded with {word:?})"))
            }
        },
        Ok(Ok(Err(status))) => Outcome::Failure(match status.code() {
            tonic::Code::Unimplemented => {
                let message = status.message();
                format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}")
            }
            tonic::Code::DeadlineExceeded => format!("timeout: health rpc did not complete within {seconds}"),
            _ => format!("error: health rpc probe failed: {}", crate::cri::Error::from(status)),
        }),
    }
}

/// A codec for two message types.
mod tonic_prost_codec {
    use std::marker::PhantomData;

    use bytes::{Buf, BufMut};
    use prost::Message;
    use tonic::Status;
    use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};

    pub struct Codec<Q, A>(PhantomData<(Q, A)>);
    pub struct Encode<Q>(PhantomData<Q>);
    pub struct Decode<A>(PhantomData<A>);

    impl<Q, A> Default for Codec<Q, A> {
        fn default() -> Self {
            Codec(PhantomData)
        }
    }

    impl<Q: Message + Send + 'static, A: Message + Default + Send + 'static> tonic::codec::Codec for Codec<Q, A> {
        type Encode = Q;
        type Decode = A;
        type Encoder = Encode<Q>;
        type Decoder = Decode<A>;

        fn encoder(&mut self) -> Encode<Q> {
            Encode(PhantomData)
        }

        fn decoder(&mut self) -> Decode<A> {
            Decode(PhantomData)
        }
    }

    impl<Q: Message> Encoder for Encode<Q> {
        type Item = Q;
        type Error = Status;

        fn encode(&mut self, message: Q, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
            buffer.put_slice(&message.encode_to_vec());
            Ok(())
        }
    }

    impl<A: Message + Default> Decoder for Decode<A> {
        type Item = A;
        type Error = Status;

        fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<A>, Status> {
            let bytes = buffer.copy_to_bytes(buffer.remaining());
            A::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{EnvVar, ExecAction};

    use super::*;
    use crate::cri::fake::{Fake, Simulation};
    use crate::cri::{ContainerExtension, v1};

    #[test]
    fn commands_know_the_variables_of_the_spec() {
        let var = EnvVar { name: "A".to_owned(), value: Some("b".to_owned()), ..Default::default() };
        let container = Container { env: Some(vec![var]), ..Default::default() };
        let command = ["$(A)$$(A)$(C)$x$".to_owned()];
        assert_eq!(with_static_variables(&command, &container), ["b$(A)$(C)$x$"]);
    }

    #[tokio::test]
    async fn a_command_that_fails_says_why() {
        let exec = Box::new(|_: &str, command: &[String]| {
            let exit_code = i32::from(command[0] == "false");
            Ok(v1::ExecSyncResponse { exit_code, stdout: b"no".to_vec(), ..Default::default() })
        });
        let fake = Fake::new(Simulation { exec, ..Simulation::default() });
        let sandbox = fake.run_pod_sandbox(Default::default(), String::new()).await.expect("it runs");
        let id = fake
            .create_container(sandbox, Default::default(), Default::default(), ContainerExtension::default())
            .await
            .expect("it is made");
        for (word, expected) in [("true", Outcome::Success), ("false", Outcome::Failure("no".to_owned()))] {
            let exec = ExecAction { command: Some(vec![word.to_owned()]) };
            let probe = Probe { exec: Some(exec), ..Default::default() };
            assert_eq!(check(&fake, &probe, &Container::default(), &id, "").await, Ok(expected));
        }
    }
}
