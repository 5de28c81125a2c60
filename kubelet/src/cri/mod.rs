//! The container runtime interface: what the kubelet asks of containerd or CRI-O.
//!
//! The only module that names the transport. Everybody else calls [`Runtime`], which a simulated node answers itself ([`fake`]).

mod containerd;
mod error;
pub mod extension;
pub mod fake;
pub mod health;
pub mod remote;

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
pub use k8s_cri::v1;

pub use error::{Code, Error, or_gone};
pub use extension::ContainerExtension;

/// A call in flight.
pub type Call<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// A runtime that components share.
pub type SharedRuntime = Arc<dyn Runtime>;

/// A container runtime with its images: CRI v1. Calls are idempotent where the interface says so; each ends within the runtime
/// request timeout, calls that carry a time of their own that much later.
pub trait Runtime: Send + Sync {
    fn version(&self) -> Call<'_, v1::VersionResponse>;
    /// `verbose` asks for the runtime's own information too.
    fn status(&self, verbose: bool) -> Call<'_, v1::StatusResponse>;
    fn runtime_config(&self) -> Call<'_, v1::RuntimeConfigResponse>;
    /// Tells the runtime the pod CIDRs, for network plugins that ask it.
    fn update_runtime_config(&self, config: v1::RuntimeConfig) -> Call<'_, ()>;

    /// Creates and starts a sandbox; its id.
    fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, runtime_handler: String) -> Call<'_, String>;
    fn stop_pod_sandbox(&self, id: String) -> Call<'_, ()>;
    fn remove_pod_sandbox(&self, id: String) -> Call<'_, ()>;
    fn pod_sandbox_status(&self, id: String, verbose: bool) -> Call<'_, v1::PodSandboxStatusResponse>;
    fn list_pod_sandboxes(&self, filter: Option<v1::PodSandboxFilter>) -> Call<'_, Vec<v1::PodSandbox>>;

    /// Creates a container in a sandbox; its id. `extension` is what [`v1::ContainerConfig`] has no fields for.
    fn create_container(
        &self,
        sandbox_id: String,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
        extension: ContainerExtension,
    ) -> Call<'_, String>;
    fn start_container(&self, id: String) -> Call<'_, ()>;
    /// Asks the container to stop, and kills it after `grace_seconds`.
    fn stop_container(&self, id: String, grace_seconds: i64) -> Call<'_, ()>;
    fn remove_container(&self, id: String) -> Call<'_, ()>;
    fn list_containers(&self, filter: Option<v1::ContainerFilter>) -> Call<'_, Vec<v1::Container>>;
    fn container_status(&self, id: String, verbose: bool) -> Call<'_, v1::ContainerStatusResponse>;
    fn update_container_resources(&self, request: v1::UpdateContainerResourcesRequest) -> Call<'_, ()>;
    /// The log file was moved away: the runtime shall write to a new one.
    fn reopen_container_log(&self, id: String) -> Call<'_, ()>;
    fn checkpoint_container(&self, request: v1::CheckpointContainerRequest) -> Call<'_, ()>;

    /// Runs a command to its end. `timeout_seconds` of zero means without limit.
    fn exec_sync(&self, id: String, command: Vec<String>, timeout_seconds: i64) -> Call<'_, v1::ExecSyncResponse>;
    /// The URL at which the runtime's streaming server waits.
    fn exec(&self, request: v1::ExecRequest) -> Call<'_, String>;
    fn attach(&self, request: v1::AttachRequest) -> Call<'_, String>;
    fn port_forward(&self, request: v1::PortForwardRequest) -> Call<'_, String>;

    fn container_stats(&self, id: String) -> Call<'_, Option<v1::ContainerStats>>;
    fn list_container_stats(&self, filter: Option<v1::ContainerStatsFilter>) -> Call<'_, Vec<v1::ContainerStats>>;
    fn pod_sandbox_stats(&self, id: String) -> Call<'_, Option<v1::PodSandboxStats>>;
    fn list_pod_sandbox_stats(&self, filter: Option<v1::PodSandboxStatsFilter>) -> Call<'_, Vec<v1::PodSandboxStats>>;
    fn list_metric_descriptors(&self) -> Call<'_, Vec<v1::MetricDescriptor>>;
    fn list_pod_sandbox_metrics(&self) -> Call<'_, Vec<v1::PodSandboxMetrics>>;
    /// What happens to containers, as it happens. Fails with [`Code::Unimplemented`] where the runtime does not tell.
    fn container_events(&self) -> Call<'_, BoxStream<'static, Result<v1::ContainerEventResponse, Error>>>;

    fn list_images(&self, filter: Option<v1::ImageFilter>) -> Call<'_, Vec<v1::Image>>;
    /// Nothing if the image is not there.
    fn image_status(&self, image: v1::ImageSpec, verbose: bool) -> Call<'_, v1::ImageStatusResponse>;
    /// Pulls an image; the reference by which the runtime knows it. Takes as long as it takes.
    fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Call<'_, String>;
    fn remove_image(&self, image: v1::ImageSpec) -> Call<'_, ()>;
    fn image_fs_info(&self) -> Call<'_, v1::ImageFsInfoResponse>;
}
