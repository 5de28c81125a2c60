//! Starting one container: its image, its description, the runtime's calls, its hook.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::Object;
use client::events::Type;
use k8s_openapi::api::core::v1::{Container, Secret};

use super::Carrying;
use crate::container_config::{self, Image, Inputs};
use crate::cri::v1;
use crate::hooks;
use crate::images;
use crate::kill;
use crate::pod;
use crate::runtime_status::{self, State};
use crate::status::Waiting;
use crate::sync_pod::KillReason;

/// How long a container waits for the first list of services, whose addresses its variables tell.
const SERVICES: Duration = Duration::from_secs(10);

fn waiting(reason: &str, message: impl Into<String>) -> Waiting {
    Waiting { reason: reason.to_owned(), message: message.into() }
}

impl Carrying<'_> {
    fn tell_container(&self, container: &Container, id: &str, kind: Type, reason: &str, message: &str) {
        self.core.tell_container(self.pod, &container.name, id, kind, reason, message);
    }

    /// Fetches what all containers of the pod need.
    pub(super) async fn prepare_to_start(&mut self) -> Result<(), String> {
        let attempt = self.attempt;
        let sandbox = self.sandbox_config(attempt)?;
        let handler = self.core.runtime_handler(self.pod)?;
        if self.secrets.is_none() {
            self.secrets = Some(self.pull_secrets().await);
        }
        if self.image_volumes.is_some() {
            return Ok(());
        }
        let mut pulled = BTreeMap::new();
        for volume in pod::spec(self.pod).volumes.iter().flatten() {
            let Some(image) = &volume.image else { continue };
            let reference = image.reference.clone().unwrap_or_default();
            let ensured = self.ensure_image(&self.pod.reference(), &reference, image.pull_policy.as_deref(), &sandbox, &handler).await;
            let spec = ensured.map(|image| v1::ImageSpec {
                image,
                user_specified_image: reference.clone(),
                runtime_handler: handler.clone(),
                annotations: self.pod.metadata.annotations.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
            });
            pulled.insert(volume.name.clone(), spec);
        }
        self.image_volumes = Some(pulled);
        Ok(())
    }

    /// The pod's pull secrets, as far as they are there.
    async fn pull_secrets(&mut self) -> Vec<Arc<Secret>> {
        let mut secrets = Vec::new();
        let mut missing = Vec::new();
        for reference in pod::spec(self.pod).image_pull_secrets.iter().flatten().filter(|reference| !reference.name.is_empty()) {
            match self.core.volumes.secret(self.pod.namespace(), &reference.name).await {
                Ok(secret) => secrets.push(secret),
                Err(_) => missing.push(reference.name.clone()),
            }
        }
        if !missing.is_empty() && !std::mem::replace(&mut self.memory.told_missing_secrets, true) {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.core.recorder.warning(&self.pod.reference(), "FailedToRetrieveImagePullSecret", message);
        }
        secrets
    }

    async fn ensure_image(
        &self,
        about: &client::Reference,
        image: &str,
        policy: Option<&str>,
        sandbox: &v1::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, Waiting> {
        let request = images::Request {
            pod: self.pod,
            about,
            image,
            policy: policy.unwrap_or("IfNotPresent"),
            secrets: self.secrets.as_deref().unwrap_or(&[]),
            sandbox,
            runtime_handler: handler,
        };
        self.core.images.ensure(request).await
    }

    /// What goes wrong is why the container waits.
    pub(super) async fn start_container(&mut self, container: &Container, target: Option<&str>) -> Result<(), Waiting> {
        let attempt = self.attempt;
        let sandbox = self.sandbox_config(attempt).map_err(|problem| waiting("CreateContainerConfigError", problem))?;
        let handler = self.core.runtime_handler(self.pod).map_err(|problem| waiting("CreateContainerConfigError", problem))?;
        let image_volumes = self.image_volumes_of(container)?;
        let about = self.pod.reference().with_field_path(&pod::field_path(self.pod, &container.name));
        let image = container.image.clone().unwrap_or_default();
        let ensured = tokio::select! {
            ensured = self.ensure_image(&about, &image, container.image_pull_policy.as_deref(), &sandbox, &handler) => ensured,
            // Nobody needs the image any more.
            () = self.stopping.cancelled() => return Ok(()),
        };
        let reference = ensured.inspect_err(|failure| {
            self.tell_container(container, "", Type::Warning, "Failed", &format!("Error: {}", failure.reason));
        })?;
        let restart_count = self.restart_count(container, &sandbox).await;
        let config_failed = |message: String| {
            self.tell_container(container, "", Type::Warning, "Failed", &format!("Error: {message}"));
            waiting("CreateContainerConfigError", message)
        };
        let target_id = match target {
            None => None,
            Some(name) => match self.observed.container(name) {
                None => return Err(config_failed(format!("unable to find target container {name}"))),
                Some(known) if known.state != State::Running => {
                    let state = known.state.word();
                    return Err(config_failed(format!("target container {name} is not running: container {name} is in state {state:?}")));
                }
                Some(known) => Some(known.id.clone()),
            },
        };
        let user = self.core.images.user(&reference).await.map_err(|error| config_failed(error.message))?;
        if tokio::time::timeout(SERVICES, self.core.services.synced()).await.is_err() {
            return Err(config_failed("services have not yet been read at least once, cannot construct envs".to_owned()));
        }
        let ips = if pod::is_host_network(self.pod) {
            self.core.host_ips.read().iter().map(ToString::to_string).collect()
        } else {
            self.ips.clone()
        };
        let services = self.core.services.list();
        let node = self.core.node_for(self.pod);
        let image = Image { reference, uid: user.0, username: user.1 };
        let inputs = Inputs {
            pod: self.pod,
            container,
            node: &node,
            pod_ips: &ips,
            volumes: &self.volumes,
            image: &image,
            image_volumes: &image_volumes,
            restart_count,
            target_id: target_id.as_deref(),
            services: &services,
        };
        let granted = self.core.container_manager.grant(self.pod, container).await.map_err(config_failed)?;
        let mut prepared = container_config::prepare(&self.core.volumes, inputs).await.map_err(|error| config_failed(error.message))?;
        granted.apply(&mut prepared.config);
        for warning in &prepared.warnings {
            self.core.recorder.warning(&self.pod.reference(), warning.reason, warning.message.clone());
        }
        let log = Path::new(&sandbox.log_directory).join(&prepared.config.log_path);
        let created = self.core.runtime.create_container(self.sandbox_id.clone(), prepared.config, sandbox, prepared.extension).await;
        let id = created.map_err(|error| {
            self.tell_container(container, "", Type::Warning, "Failed", &format!("Error: {}", error.message));
            waiting("CreateContainerError", error.message)
        })?;
        self.tell_container(container, &id, Type::Normal, "Created", "Container created");
        if let Err(error) = self.core.runtime.start_container(id.clone()).await {
            self.tell_container(container, &id, Type::Warning, "Failed", &format!("Error: {}", error.message));
            return Err(waiting("RunContainerError", error.message));
        }
        self.tell_container(container, &id, Type::Normal, "Started", "Container started");
        self.link_log(container, &id, &log).await;
        self.post_start(container, &id, &ips).await
    }

    fn image_volumes_of(&self, container: &Container) -> Result<BTreeMap<String, v1::ImageSpec>, Waiting> {
        let mut found = BTreeMap::new();
        let mut failure = None;
        for mount in container.volume_mounts.iter().flatten() {
            match self.image_volumes.as_ref().and_then(|volumes| volumes.get(&mount.name)) {
                None => {}
                Some(Ok(spec)) => {
                    found.insert(mount.name.clone(), spec.clone());
                }
                Some(Err(why)) => {
                    self.tell_container(container, "", Type::Warning, "Failed", &format!("Error: {}", why.reason));
                    failure = Some(why.clone());
                }
            }
        }
        failure.map_or(Ok(found), Err)
    }

    /// One more than the last; where the runtime has forgotten, logs remember.
    async fn restart_count(&self, container: &Container, sandbox: &v1::PodSandboxConfig) -> u32 {
        if let Some(known) = self.observed.container(&container.name) {
            return known.restart_count + 1;
        }
        let directory = Path::new(&sandbox.log_directory).join(&container.name);
        let Ok(mut entries) = tokio::fs::read_dir(&directory).await else { return 0 };
        let mut next = 0;
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|number| number.parse::<u32>().ok());
            next = next.max(number.map_or(0, |number| number + 1));
        }
        next
    }

    /// Collectors of logs find them here by pod, namespace and container.
    async fn link_log(&self, container: &Container, id: &str, log: &Path) {
        if !tokio::fs::try_exists(log).await.unwrap_or(false) {
            return;
        }
        let directory = &self.core.config.container_logs_dir;
        let link = crate::container_logs::link(directory, self.pod.name(), self.pod.namespace(), &container.name, id);
        if let Err(error) = tokio::fs::symlink(log, &link).await {
            tracing::warn!(link = %link.display(), %error, "cannot link a container's log");
        }
    }

    async fn post_start(&self, container: &Container, id: &str, ips: &[String]) -> Result<(), Waiting> {
        let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else { return Ok(()) };
        let run = hooks::run(&*self.core.runtime, &self.core.recorder, self.pod, container, id, ips, hook);
        let result = tokio::select! {
            result = run => result,
            () = self.stopping.cancelled() => return Ok(()),
        };
        let Err(problem) = result else { return Ok(()) };
        tracing::info!(pod = %pod::describe(self.pod), container = %container.name, problem, "PostStart hook failed");
        // What a server answered may be secret, so the event does not say.
        self.tell_container(container, id, Type::Warning, "FailedPostStartHook", "PostStartHook failed");
        let known = runtime_status::Container::named(id, &container.name);
        let message = "FailedPostStartHook";
        let killed = kill::kill_container(self.core, Some(self.pod), &known, ips, message, KillReason::Other, None, None).await;
        if let Err(error) = killed {
            tracing::warn!(pod = %pod::describe(self.pod), container = %container.name, error, "cannot kill a container whose hook failed");
        }
        Err(waiting("PostStartHookError", problem))
    }
}
