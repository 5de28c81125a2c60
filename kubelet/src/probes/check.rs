//! One probe of a container: asking it once how it is.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};

use crate::cri::{Code, Runtime, health};
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

async fn grpc(host: &str, port: u16, service: &str, limit: Duration) -> Outcome {
    let address = http_get::join(host, port);
    let seconds = format!("{}s", limit.as_secs());
    match tokio::time::timeout(limit, health::check(&address, service)).await {
        Err(_) => Outcome::Failure(format!("timeout: failed to connect service {address:?} within {seconds}: context deadline exceeded")),
        Ok(Ok(health::SERVING)) => Outcome::Success,
        Ok(Ok(status)) => Outcome::Failure(format!("service unhealthy (responded with {:?})", health::word(status))),
        Ok(Err(error)) => Outcome::Failure(match error.code {
            Code::Unimplemented => {
                let message = error.message;
                format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}")
            }
            Code::DeadlineExceeded => format!("timeout: health rpc did not complete within {seconds}"),
            _ => format!("error: health rpc probe failed: {error}"),
        }),
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
