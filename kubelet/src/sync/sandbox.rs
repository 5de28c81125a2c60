//! Making a pod's sandbox.

use client::Object;
use client::events::Type;

use super::{Carrying, tell};
use crate::container_config;
use crate::cri::v1;
use crate::instruments;
use crate::pod;
use crate::runtime_status;

impl Carrying<'_> {
    pub(super) async fn create_sandbox(&mut self, attempt: u32, changed: bool) -> Result<(), String> {
        if changed {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.core.recorder.normal(&self.pod.reference(), "SandboxChanged", message);
        }
        let config = match self.sandbox_config(attempt) {
            Ok(config) => config,
            Err(problem) => return Err(self.sandbox_failed(problem)),
        };
        let handler = match self.core.runtime_handler(self.pod) {
            Ok(handler) => handler,
            Err(problem) => return Err(self.sandbox_failed(problem)),
        };
        let logs = std::path::PathBuf::from(&config.log_directory);
        if let Err(error) = tokio::fs::create_dir_all(&logs).await {
            return Err(self.sandbox_failed(format!("failed to create log directory {}: {error}", logs.display())));
        }
        let (counts, began) = (&self.core.metrics, std::time::Instant::now());
        let own_ids = pod::spec(self.pod).host_users == Some(false);
        counts.count(&instruments::PODS_STARTED, &[]);
        if own_ids {
            counts.count(&instruments::USER_NAMESPACED_STARTED, &[]);
        }
        let ran = self.core.runtime.run_pod_sandbox(config, handler.clone()).await;
        counts.took(&instruments::SANDBOX_DURATION, &[&handler], began.elapsed());
        if ran.is_err() && !self.stopping.is_cancelled() {
            counts.count(&instruments::SANDBOX_ERRORS, &[&handler]);
            counts.count(&instruments::POD_START_ERRORS, &[]);
            if own_ids {
                counts.count(&instruments::USER_NAMESPACED_ERRORS, &[]);
            }
        }
        let id = match ran {
            Ok(id) => id,
            // A pod that is being deleted takes its network with it, which is no failure.
            Err(_) if self.stopping.is_cancelled() => return Ok(()),
            Err(error) => return Err(self.sandbox_failed(error.to_string())),
        };
        let status = self.core.runtime.pod_sandbox_status(id.clone(), false).await.and_then(|response| {
            response.status.ok_or_else(|| crate::cri::Error::new(crate::cri::Code::Unknown, "pod sandbox status is nil"))
        });
        let status = status.map_err(|error| {
            let message = format!("Unable to get pod sandbox status: {error}");
            self.core.recorder.warning(&self.pod.reference(), "FailedPodSandBoxStatus", message);
            error.to_string()
        })?;
        self.ips = runtime_status::addresses(&status);
        self.sandbox_id = id;
        self.attempt = attempt;
        self.observed.sandboxes.insert(0, status);
        self.observed.ips.clone_from(&self.ips);
        // Containers of an earlier sandbox are not in this one, and their ends have been told.
        tell(self.core, self.pod, &self.observed, self.memory, false, true);
        Ok(())
    }

    fn sandbox_failed(&self, problem: String) -> String {
        let message = format!("Failed to create pod sandbox: {problem}");
        self.core.recorder.tell(client::events::Event::new(&self.pod.reference(), Type::Warning, "FailedCreatePodSandBox", message));
        let pod = pod::describe(self.pod);
        format!(
            "failed to \"CreatePodSandbox\" for {pod:?} with CreatePodSandboxError: {:?}",
            format!("Failed to create sandbox for pod {pod:?}: {problem}")
        )
    }

    /// The sandbox's description, which is also told with each of its containers.
    pub(super) fn sandbox_config(&mut self, attempt: u32) -> Result<v1::PodSandboxConfig, String> {
        if let Some(config) = self.sandbox_config.as_ref().filter(|config| config.metadata.as_ref().is_some_and(|m| m.attempt == attempt)) {
            return Ok(config.clone());
        }
        self.core.allocate_user_ids(self.pod)?;
        let node = self.core.node_for(self.pod);
        let parent = self.core.cgroup_parent(self.pod);
        let (config, warnings) = container_config::sandbox_config(self.pod, &node, attempt, &parent).map_err(|error| error.message)?;
        for warning in warnings {
            self.core.recorder.warning(&self.pod.reference(), warning.reason, warning.message);
        }
        self.sandbox_config = Some(config.clone());
        Ok(config)
    }
}
