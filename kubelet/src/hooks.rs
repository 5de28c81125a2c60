//! Lifecycle hooks: what a container runs after its start and before its stop.

use std::time::Duration;

use client::Object;
use client::events::Recorder;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::cri::Runtime;
use crate::http_get::Get;
use crate::pod;

/// Runs a hook to its end. The error is what a container's status then says.
pub async fn run(
    runtime: &dyn Runtime,
    recorder: &Recorder,
    pod: &Pod,
    container: &Container,
    id: &str,
    pod_ips: &[String],
    handler: &LifecycleHandler,
) -> Result<(), String> {
    let failed = |what: String, error: String| {
        format!("{what} for Container {:?} in Pod {:?} failed - error: {error}", container.name, pod::describe(pod))
    };
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let what = format!("Exec lifecycle hook ([{}])", command.join(" "));
        let (error, output) = match runtime.exec_sync(id.to_owned(), command.clone(), 0).await {
            Ok(response) if response.exit_code == 0 => return Ok(()),
            Ok(response) => {
                let output = [response.stdout, response.stderr].concat();
                let error =
                    format!("command '{}' exited with {}: {}", command.join(" "), response.exit_code, String::from_utf8_lossy(&output));
                (error, output)
            }
            Err(error) => (error.to_string(), Vec::new()),
        };
        return Err(format!("{}, message: {:?}", failed(what, error), String::from_utf8_lossy(&output)));
    }
    if let Some(action) = &handler.http_get {
        let what = format!("HTTP lifecycle hook ({})", action.path.as_deref().unwrap_or(""));
        let ip = match (action.host.as_deref(), pod_ips.first()) {
            (Some(host), _) if !host.is_empty() => host,
            (_, Some(ip)) => ip,
            _ => return Err(failed(what, "failed to find networking container".to_owned())),
        };
        let get = Get::new(action, container, ip, "lifecycle").map_err(|error| failed(what.clone(), error.to_string()))?;
        return http(recorder, pod, get).await.map_err(|error| failed(what, error));
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("Cannot run handler: invalid handler".to_owned())
}

/// Any answer will do.
async fn http(recorder: &Recorder, pod: &Pod, get: Get) -> Result<(), String> {
    let error = match get.send().await {
        Ok(_) => return Ok(()),
        Err(error) => error.to_string(),
    };
    // Hooks that say HTTPS to a server that does not speak it worked once, and go on working.
    if get.is_https() && error.contains("server gave HTTP response to HTTPS client") {
        let authority = get.authority();
        if get.over_plain_http().send().await.is_ok() {
            let message = format!("request to HTTPS lifecycle hook {authority} got HTTP response, retry with HTTP succeeded");
            recorder.warning(&pod.reference(), "LifecycleHTTPFallback", message);
            return Ok(());
        }
    }
    Err(error)
}
