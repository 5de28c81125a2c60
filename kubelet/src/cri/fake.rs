//! A runtime in memory: simulated nodes run their pods on it, behind the same kubelet.
//!
//! Sandboxes get addresses from a pool, containers run until they are stopped or their [`Script`] ends. It starts no process,
//! so commands and streams are refused unless [`Simulation::exec`] answers them.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use super::{Call, Code, ContainerExtension, Error, Runtime, v1};

/// What a container does once it is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// How long it runs; without, until it is stopped.
    pub runs_for: Option<Duration>,
    pub exit_code: i32,
}

type ScriptFn = Box<dyn Fn(&v1::ContainerConfig) -> Script + Send + Sync>;
type ExecFn = Box<dyn Fn(&str, &[String]) -> Result<v1::ExecSyncResponse, Error> + Send + Sync>;
type PullFn = Box<dyn Fn(&str) -> Result<(), Error> + Send + Sync>;

/// How the simulated machine behaves.
pub struct Simulation {
    /// The first of the addresses that sandboxes get.
    pub first_address: Ipv4Addr,
    pub script: ScriptFn,
    /// Answers commands run in a container, by the container's id.
    pub exec: ExecFn,
    /// Says whether an image can be pulled.
    pub pull: PullFn,
}

impl Default for Simulation {
    fn default() -> Simulation {
        Simulation {
            first_address: Ipv4Addr::new(10, 88, 0, 2),
            script: Box::new(|_| Script::default()),
            exec: Box::new(|_, _| Err(unsupported("commands"))),
            pull: Box::new(|_| Ok(())),
        }
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(Code::Unimplemented, format!("a simulated runtime runs no {what}"))
}

struct Sandbox {
    config: v1::PodSandboxConfig,
    handler: String,
    ready: bool,
    created_at: i64,
    address: String,
}

struct Container {
    sandbox: String,
    config: v1::ContainerConfig,
    script: Script,
    created_at: i64,
    started_at: i64,
    finished_at: i64,
    exit_code: i32,
}

#[derive(Default)]
struct State {
    sandboxes: HashMap<String, Sandbox>,
    containers: HashMap<String, Container>,
    images: HashMap<String, v1::Image>,
    next: u64,
}

/// A runtime in memory. Clones are the same machine.
#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    simulation: Arc<Simulation>,
}

impl Default for Fake {
    fn default() -> Fake {
        Fake::new(Simulation::default())
    }
}

impl Fake {
    pub fn new(simulation: Simulation) -> Fake {
        Fake { state: Arc::default(), simulation: Arc::new(simulation) }
    }

    fn answer<T: Send + 'static>(&self, work: impl FnOnce(&mut State, &Simulation) -> Result<T, Error>) -> Call<'_, T> {
        let mut state = self.state.lock();
        state.pass_time(now());
        let answer = work(&mut state, &self.simulation);
        Box::pin(std::future::ready(answer))
    }
}

fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn not_found(what: &str, id: &str) -> Error {
    Error::new(Code::NotFound, format!("an error occurred when try to find {what} {id:?}: not found"))
}

impl Container {
    fn state(&self) -> v1::ContainerState {
        match (self.started_at, self.finished_at) {
            (_, at) if at != 0 => v1::ContainerState::ContainerExited,
            (0, _) => v1::ContainerState::ContainerCreated,
            _ => v1::ContainerState::ContainerRunning,
        }
    }

    fn end(&mut self, at: i64, exit_code: i32) {
        if self.state() == v1::ContainerState::ContainerRunning {
            self.finished_at = at;
            self.exit_code = exit_code;
        }
    }
}

impl State {
    fn id(&mut self) -> String {
        self.next += 1;
        format!("{:064x}", self.next)
    }

    /// Ends the containers whose script is over.
    fn pass_time(&mut self, now: i64) {
        for container in self.containers.values_mut() {
            let Some(runs_for) = container.script.runs_for else { continue };
            let end = container.started_at.saturating_add(i64::try_from(runs_for.as_nanos()).unwrap_or(i64::MAX));
            if container.started_at != 0 && end <= now {
                container.end(end, container.script.exit_code);
            }
        }
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, Error> {
        self.containers.get_mut(id).ok_or_else(|| not_found("container", id))
    }

    /// Where a container's log would be.
    fn log_path(&self, id: &str) -> String {
        let Some(container) = self.containers.get(id) else { return String::new() };
        let directory = self.sandboxes.get(&container.sandbox).map_or("", |sandbox| sandbox.config.log_directory.as_str());
        std::path::Path::new(directory).join(&container.config.log_path).display().to_string()
    }

    fn sandbox(&mut self, id: &str) -> Result<&mut Sandbox, Error> {
        self.sandboxes.get_mut(id).ok_or_else(|| not_found("sandbox", id))
    }
}

fn labels_match(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn image_of(reference: &str) -> v1::Image {
    let named = if reference.contains('@') || reference.rsplit('/').next().is_some_and(|last| last.contains(':')) {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    };
    let digest = ring::digest::digest(&ring::digest::SHA256, named.as_bytes());
    let id: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let repository = named.split('@').next().unwrap_or(&named).to_owned();
    v1::Image {
        id: format!("sha256:{id}"),
        repo_digests: vec![format!("{repository}@sha256:{id}")],
        repo_tags: vec![named],
        size: 1 << 20,
        ..v1::Image::default()
    }
}

impl Runtime for Fake {
    fn version(&self) -> Call<'_, v1::VersionResponse> {
        self.answer(|_, _| {
            Ok(v1::VersionResponse {
                version: "0.1.0".to_owned(),
                runtime_name: "simulated".to_owned(),
                runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
                runtime_api_version: "v1".to_owned(),
            })
        })
    }

    fn status(&self, _verbose: bool) -> Call<'_, v1::StatusResponse> {
        let condition = |name: &str| v1::RuntimeCondition { r#type: name.to_owned(), status: true, ..Default::default() };
        self.answer(|_, _| {
            let conditions = vec![condition("RuntimeReady"), condition("NetworkReady")];
            Ok(v1::StatusResponse { status: Some(v1::RuntimeStatus { conditions }), ..Default::default() })
        })
    }

    fn runtime_config(&self) -> Call<'_, v1::RuntimeConfigResponse> {
        self.answer(|_, _| Err(unsupported("runtime configuration")))
    }

    fn update_runtime_config(&self, _config: v1::RuntimeConfig) -> Call<'_, ()> {
        self.answer(|_, _| Ok(()))
    }

    fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, runtime_handler: String) -> Call<'_, String> {
        self.answer(|state, simulation| {
            let id = state.id();
            let offset = u32::try_from(state.next % (1 << 20)).unwrap_or(0);
            let address = Ipv4Addr::from(u32::from(simulation.first_address).wrapping_add(offset)).to_string();
            let sandbox = Sandbox { config, handler: runtime_handler, ready: true, created_at: now(), address };
            state.sandboxes.insert(id.clone(), sandbox);
            Ok(id)
        })
    }

    fn stop_pod_sandbox(&self, id: String) -> Call<'_, ()> {
        self.answer(|state, _| {
            if let Some(sandbox) = state.sandboxes.get_mut(&id) {
                sandbox.ready = false;
            }
            let at = now();
            state.containers.values_mut().filter(|c| c.sandbox == id).for_each(|c| c.end(at, 137));
            Ok(())
        })
    }

    fn remove_pod_sandbox(&self, id: String) -> Call<'_, ()> {
        self.answer(|state, _| {
            state.sandboxes.remove(&id);
            state.containers.retain(|_, container| container.sandbox != id);
            Ok(())
        })
    }

    fn pod_sandbox_status(&self, id: String, _verbose: bool) -> Call<'_, v1::PodSandboxStatusResponse> {
        self.answer(|state, _| {
            let sandbox = state.sandbox(&id)?;
            let ready = if sandbox.ready { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready };
            let options = sandbox.config.linux.as_ref().and_then(|l| l.security_context.as_ref()?.namespace_options.clone());
            let on_host = options.as_ref().is_some_and(|o| o.network() == v1::NamespaceMode::Node);
            let ip = if on_host { String::new() } else { sandbox.address.clone() };
            let status = v1::PodSandboxStatus {
                id: id.clone(),
                metadata: sandbox.config.metadata.clone(),
                state: ready.into(),
                created_at: sandbox.created_at,
                network: Some(v1::PodSandboxNetworkStatus { ip, additional_ips: Vec::new() }),
                linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options }) }),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
                runtime_handler: sandbox.handler.clone(),
            };
            Ok(v1::PodSandboxStatusResponse { status: Some(status), ..Default::default() })
        })
    }

    fn list_pod_sandboxes(&self, filter: Option<v1::PodSandboxFilter>) -> Call<'_, Vec<v1::PodSandbox>> {
        self.answer(|state, _| {
            let filter = filter.unwrap_or_default();
            let listed = state.sandboxes.iter().map(|(id, sandbox)| v1::PodSandbox {
                id: id.clone(),
                metadata: sandbox.config.metadata.clone(),
                state: i32::from(!sandbox.ready),
                created_at: sandbox.created_at,
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
                runtime_handler: sandbox.handler.clone(),
            });
            Ok(listed
                .filter(|sandbox| filter.id.is_empty() || filter.id == sandbox.id)
                .filter(|sandbox| filter.state.as_ref().is_none_or(|wanted| wanted.state == sandbox.state))
                .filter(|sandbox| labels_match(&sandbox.labels, &filter.label_selector))
                .collect())
        })
    }

    fn create_container(
        &self,
        sandbox_id: String,
        config: v1::ContainerConfig,
        _sandbox_config: v1::PodSandboxConfig,
        _extension: ContainerExtension,
    ) -> Call<'_, String> {
        self.answer(|state, simulation| {
            state.sandbox(&sandbox_id)?;
            let script = (simulation.script)(&config);
            let id = state.id();
            let container =
                Container { sandbox: sandbox_id, config, script, created_at: now(), started_at: 0, finished_at: 0, exit_code: 0 };
            state.containers.insert(id.clone(), container);
            Ok(id)
        })
    }

    fn start_container(&self, id: String) -> Call<'_, ()> {
        self.answer(|state, _| {
            state.container(&id)?.started_at = now();
            Ok(())
        })
    }

    fn stop_container(&self, id: String, _grace_seconds: i64) -> Call<'_, ()> {
        self.answer(|state, _| {
            if let Some(container) = state.containers.get_mut(&id) {
                container.end(now(), 143);
            }
            Ok(())
        })
    }

    fn remove_container(&self, id: String) -> Call<'_, ()> {
        self.answer(|state, _| {
            state.containers.remove(&id);
            Ok(())
        })
    }

    fn list_containers(&self, filter: Option<v1::ContainerFilter>) -> Call<'_, Vec<v1::Container>> {
        self.answer(|state, _| {
            let filter = filter.unwrap_or_default();
            let listed = state.containers.iter().map(|(id, container)| v1::Container {
                id: id.clone(),
                pod_sandbox_id: container.sandbox.clone(),
                metadata: container.config.metadata.clone(),
                image: container.config.image.clone(),
                image_ref: container.config.image.as_ref().map(|i| image_of(&i.image).id).unwrap_or_default(),
                state: container.state().into(),
                created_at: container.created_at,
                labels: container.config.labels.clone(),
                annotations: container.config.annotations.clone(),
                ..Default::default()
            });
            Ok(listed
                .filter(|container| filter.id.is_empty() || filter.id == container.id)
                .filter(|container| filter.pod_sandbox_id.is_empty() || filter.pod_sandbox_id == container.pod_sandbox_id)
                .filter(|container| filter.state.as_ref().is_none_or(|wanted| wanted.state == container.state))
                .filter(|container| labels_match(&container.labels, &filter.label_selector))
                .collect())
        })
    }

    fn container_status(&self, id: String, _verbose: bool) -> Call<'_, v1::ContainerStatusResponse> {
        self.answer(|state, _| {
            let log_path = state.log_path(&id);
            let container = state.container(&id)?;
            let exited = container.state() == v1::ContainerState::ContainerExited;
            let reason = match container.exit_code {
                _ if !exited => "",
                0 => "Completed",
                _ => "Error",
            };
            let image = container.config.image.clone().unwrap_or_default();
            let status = v1::ContainerStatus {
                id: id.clone(),
                metadata: container.config.metadata.clone(),
                state: container.state().into(),
                created_at: container.created_at,
                started_at: container.started_at,
                finished_at: container.finished_at,
                exit_code: container.exit_code,
                image_ref: image_of(&image.image).repo_digests.swap_remove(0),
                image: Some(image),
                reason: reason.to_owned(),
                labels: container.config.labels.clone(),
                annotations: container.config.annotations.clone(),
                mounts: container.config.mounts.clone(),
                resources: container.config.linux.clone().map(|linux| v1::ContainerResources { linux: linux.resources, windows: None }),
                log_path,
                ..Default::default()
            };
            Ok(v1::ContainerStatusResponse { status: Some(status), ..Default::default() })
        })
    }

    fn update_container_resources(&self, request: v1::UpdateContainerResourcesRequest) -> Call<'_, ()> {
        self.answer(|state, _| {
            let container = state.container(&request.container_id)?;
            container.config.linux.get_or_insert_default().resources = request.linux;
            Ok(())
        })
    }

    fn reopen_container_log(&self, id: String) -> Call<'_, ()> {
        self.answer(|state, _| state.container(&id).map(|_| ()))
    }

    fn checkpoint_container(&self, _request: v1::CheckpointContainerRequest) -> Call<'_, ()> {
        self.answer(|_, _| Err(unsupported("checkpoints")))
    }

    fn exec_sync(&self, id: String, command: Vec<String>, _timeout_seconds: i64) -> Call<'_, v1::ExecSyncResponse> {
        self.answer(|state, simulation| {
            state.container(&id)?;
            (simulation.exec)(&id, &command)
        })
    }

    fn exec(&self, _request: v1::ExecRequest) -> Call<'_, String> {
        self.answer(|_, _| Err(unsupported("streams")))
    }

    fn attach(&self, _request: v1::AttachRequest) -> Call<'_, String> {
        self.answer(|_, _| Err(unsupported("streams")))
    }

    fn port_forward(&self, _request: v1::PortForwardRequest) -> Call<'_, String> {
        self.answer(|_, _| Err(unsupported("streams")))
    }

    fn container_stats(&self, id: String) -> Call<'_, Option<v1::ContainerStats>> {
        self.answer(|state, _| state.container(&id).map(|_| None))
    }

    fn list_container_stats(&self, _filter: Option<v1::ContainerStatsFilter>) -> Call<'_, Vec<v1::ContainerStats>> {
        self.answer(|_, _| Ok(Vec::new()))
    }

    fn pod_sandbox_stats(&self, id: String) -> Call<'_, Option<v1::PodSandboxStats>> {
        self.answer(|state, _| state.sandbox(&id).map(|_| None))
    }

    fn list_pod_sandbox_stats(&self, _filter: Option<v1::PodSandboxStatsFilter>) -> Call<'_, Vec<v1::PodSandboxStats>> {
        self.answer(|_, _| Ok(Vec::new()))
    }

    fn list_metric_descriptors(&self) -> Call<'_, Vec<v1::MetricDescriptor>> {
        self.answer(|_, _| Ok(Vec::new()))
    }

    fn list_pod_sandbox_metrics(&self) -> Call<'_, Vec<v1::PodSandboxMetrics>> {
        self.answer(|_, _| Ok(Vec::new()))
    }

    fn container_events(&self) -> Call<'_, BoxStream<'static, Result<v1::ContainerEventResponse, Error>>> {
        self.answer(|_, _| Err(unsupported("events")))
    }

    fn list_images(&self, _filter: Option<v1::ImageFilter>) -> Call<'_, Vec<v1::Image>> {
        self.answer(|state, _| Ok(state.images.values().cloned().collect()))
    }

    fn image_status(&self, image: v1::ImageSpec, _verbose: bool) -> Call<'_, v1::ImageStatusResponse> {
        self.answer(|state, _| {
            let by_id = || state.images.get(&image.image);
            let found = state.images.get(&image_of(&image.image).id).or_else(by_id).cloned();
            Ok(v1::ImageStatusResponse { image: found, ..Default::default() })
        })
    }

    fn pull_image(
        &self,
        image: v1::ImageSpec,
        _auth: Option<v1::AuthConfig>,
        _sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Call<'_, String> {
        self.answer(|state, simulation| {
            (simulation.pull)(&image.image)?;
            let pulled = image_of(&image.image);
            let id = pulled.id.clone();
            state.images.insert(id.clone(), pulled);
            Ok(id)
        })
    }

    fn remove_image(&self, image: v1::ImageSpec) -> Call<'_, ()> {
        self.answer(|state, _| {
            state.images.remove(&image.image);
            state.images.remove(&image_of(&image.image).id);
            Ok(())
        })
    }

    fn image_fs_info(&self) -> Call<'_, v1::ImageFsInfoResponse> {
        self.answer(|_, _| Ok(v1::ImageFsInfoResponse::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_container_ends_when_its_script_does() {
        let simulation =
            Simulation { script: Box::new(|_| Script { runs_for: Some(Duration::ZERO), exit_code: 3 }), ..Simulation::default() };
        let fake = Fake::new(simulation);
        let sandbox = fake.run_pod_sandbox(v1::PodSandboxConfig::default(), String::new()).await.expect("it runs");
        let created = fake
            .create_container(sandbox, v1::ContainerConfig::default(), v1::PodSandboxConfig::default(), ContainerExtension::default())
            .await
            .expect("it is created");
        fake.start_container(created.clone()).await.expect("it starts");
        let status = fake.container_status(created, false).await.expect("it is there").status.expect("it is there");
        assert_eq!((status.state(), status.exit_code), (v1::ContainerState::ContainerExited, 3));
        assert_eq!(fake.start_container("x".to_owned()).await.expect_err("there is none").code, Code::NotFound);
    }
}
