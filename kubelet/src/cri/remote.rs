//! A runtime behind a unix socket, over gRPC.
//!
//! Carries calls and nothing else: no retries (whoever syncs a pod comes back anyway), no caches.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use prost::Message;
use tokio::net::UnixStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint, Uri};

use super::{Call, Code, ContainerExtension, Error, Runtime, v1};
use crate::instruments::Instruments;

/// The largest message that is taken, as upstream.
const MESSAGE_BYTES: usize = 16 << 20;
/// What the runtime has beyond the time that a call carries itself.
const EXTRA: Duration = Duration::from_secs(120);

/// A runtime behind a unix socket. Clones share one connection, which is made when it is first needed and made again when it broke.
#[derive(Clone)]
pub struct Remote {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
    timeout: Duration,
    /// Where calls are counted and measured.
    metrics: Instruments,
}

impl Remote {
    /// `endpoint` is a path or a `unix://` URL; `timeout` is the kubelet's `runtimeRequestTimeout`.
    /// Must be called within a tokio runtime.
    pub fn connect(endpoint: &str, timeout: Duration) -> Remote {
        let path = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        let runtime = RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES);
        let images = ImageServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES);
        Remote { runtime, images, channel, timeout, metrics: Instruments::default() }
    }

    /// Counts and measures calls there.
    pub fn with_metrics(self, metrics: Instruments) -> Remote {
        Remote { metrics, ..self }
    }

    /// A call with its time measured.
    async fn measured<T>(&self, method: &str, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let began = Instant::now();
        let result = call.await;
        self.metrics.runtime_operation(method, began.elapsed(), result.is_err());
        result
    }
}

/// One call that ends in time.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(Error::new(Code::DeadlineExceeded, "context deadline exceeded")),
    }
}

/// `call!(self.runtime.method(request))` within the usual time, `call!(self.runtime.method(request), time)` within another;
/// `=> field` takes a field of the answer, `=> ()` none.
macro_rules! call {
    ($self:ident.$client:ident.$method:ident($request:expr) $(, $limit:expr)? $(=> $field:tt)?) => {{
        let mut client = $self.$client.clone();
        let limit = call!(@limit $self $($limit)?);
        let request = $request;
        Box::pin(async move {
            let answer = $self.measured(stringify!($method), within(limit, client.$method(request))).await?;
            Ok(call!(@field answer $($field)?))
        })
    }};
    (@limit $self:ident) => { $self.timeout };
    (@limit $self:ident $limit:expr) => { $limit };
    (@field $answer:ident) => { $answer };
    (@field $answer:ident ()) => {{ let _ = $answer; }};
    (@field $answer:ident $field:ident) => { $answer.$field };
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

impl Runtime for Remote {
    fn version(&self) -> Call<'_, v1::VersionResponse> {
        call!(self.runtime.version(v1::VersionRequest { version: "0.1.0".to_owned() }))
    }

    fn status(&self, verbose: bool) -> Call<'_, v1::StatusResponse> {
        call!(self.runtime.status(v1::StatusRequest { verbose }))
    }

    fn runtime_config(&self) -> Call<'_, v1::RuntimeConfigResponse> {
        call!(self.runtime.runtime_config(v1::RuntimeConfigRequest {}))
    }

    fn update_runtime_config(&self, config: v1::RuntimeConfig) -> Call<'_, ()> {
        call!(self.runtime.update_runtime_config(v1::UpdateRuntimeConfigRequest { runtime_config: Some(config) }) => ())
    }

    fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, runtime_handler: String) -> Call<'_, String> {
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler };
        call!(self.runtime.run_pod_sandbox(request), self.timeout * 2 => pod_sandbox_id)
    }

    fn stop_pod_sandbox(&self, id: String) -> Call<'_, ()> {
        call!(self.runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id }) => ())
    }

    fn remove_pod_sandbox(&self, id: String) -> Call<'_, ()> {
        call!(self.runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id }) => ())
    }

    fn pod_sandbox_status(&self, id: String, verbose: bool) -> Call<'_, v1::PodSandboxStatusResponse> {
        call!(self.runtime.pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: id, verbose }))
    }

    fn list_pod_sandboxes(&self, filter: Option<v1::PodSandboxFilter>) -> Call<'_, Vec<v1::PodSandbox>> {
        call!(self.runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter }) => items)
    }

    fn create_container(
        &self,
        sandbox_id: String,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
        extension: ContainerExtension,
    ) -> Call<'_, String> {
        let request = v1::CreateContainerRequest { pod_sandbox_id: sandbox_id, config: Some(config), sandbox_config: Some(sandbox_config) };
        let mut client = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES);
        Box::pin(async move {
            let call = async move {
                client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
                let path = http::uri::PathAndQuery::from_static("/runtime.v1.RuntimeService/CreateContainer");
                client.unary(tonic::Request::new((request, extension)), path, CreateCodec).await
            };
            Ok(self.measured("create_container", within(self.timeout, call)).await?.container_id)
        })
    }

    fn start_container(&self, id: String) -> Call<'_, ()> {
        call!(self.runtime.start_container(v1::StartContainerRequest { container_id: id }) => ())
    }

    fn stop_container(&self, id: String, grace_seconds: i64) -> Call<'_, ()> {
        let request = v1::StopContainerRequest { container_id: id, timeout: grace_seconds };
        call!(self.runtime.stop_container(request), self.timeout + seconds(grace_seconds) => ())
    }

    fn remove_container(&self, id: String) -> Call<'_, ()> {
        call!(self.runtime.remove_container(v1::RemoveContainerRequest { container_id: id }) => ())
    }

    fn list_containers(&self, filter: Option<v1::ContainerFilter>) -> Call<'_, Vec<v1::Container>> {
        call!(self.runtime.list_containers(v1::ListContainersRequest { filter }) => containers)
    }

    fn container_status(&self, id: String, verbose: bool) -> Call<'_, v1::ContainerStatusResponse> {
        call!(self.runtime.container_status(v1::ContainerStatusRequest { container_id: id, verbose }))
    }

    fn update_container_resources(&self, request: v1::UpdateContainerResourcesRequest) -> Call<'_, ()> {
        call!(self.runtime.update_container_resources(request) => ())
    }

    fn reopen_container_log(&self, id: String) -> Call<'_, ()> {
        call!(self.runtime.reopen_container_log(v1::ReopenContainerLogRequest { container_id: id }) => ())
    }

    fn checkpoint_container(&self, request: v1::CheckpointContainerRequest) -> Call<'_, ()> {
        let limit = self.timeout + seconds(request.timeout);
        call!(self.runtime.checkpoint_container(request), limit => ())
    }

    fn exec_sync(&self, id: String, command: Vec<String>, timeout_seconds: i64) -> Call<'_, v1::ExecSyncResponse> {
        // Without a limit of its own the command may run for ever, so the call has none either but the longest that a timer takes.
        let limit = if timeout_seconds == 0 { Duration::from_secs(u64::from(u32::MAX)) } else { EXTRA + seconds(timeout_seconds) };
        let request = v1::ExecSyncRequest { container_id: id, cmd: command, timeout: timeout_seconds };
        call!(self.runtime.exec_sync(request), limit)
    }

    fn exec(&self, request: v1::ExecRequest) -> Call<'_, String> {
        call!(self.runtime.exec(request) => url)
    }

    fn attach(&self, request: v1::AttachRequest) -> Call<'_, String> {
        call!(self.runtime.attach(request) => url)
    }

    fn port_forward(&self, request: v1::PortForwardRequest) -> Call<'_, String> {
        call!(self.runtime.port_forward(request) => url)
    }

    fn container_stats(&self, id: String) -> Call<'_, Option<v1::ContainerStats>> {
        call!(self.runtime.container_stats(v1::ContainerStatsRequest { container_id: id }) => stats)
    }

    fn list_container_stats(&self, filter: Option<v1::ContainerStatsFilter>) -> Call<'_, Vec<v1::ContainerStats>> {
        call!(self.runtime.list_container_stats(v1::ListContainerStatsRequest { filter }) => stats)
    }

    fn pod_sandbox_stats(&self, id: String) -> Call<'_, Option<v1::PodSandboxStats>> {
        call!(self.runtime.pod_sandbox_stats(v1::PodSandboxStatsRequest { pod_sandbox_id: id }) => stats)
    }

    fn list_pod_sandbox_stats(&self, filter: Option<v1::PodSandboxStatsFilter>) -> Call<'_, Vec<v1::PodSandboxStats>> {
        call!(self.runtime.list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest { filter }) => stats)
    }

    fn list_metric_descriptors(&self) -> Call<'_, Vec<v1::MetricDescriptor>> {
        call!(self.runtime.list_metric_descriptors(v1::ListMetricDescriptorsRequest {}) => descriptors)
    }

    fn list_pod_sandbox_metrics(&self) -> Call<'_, Vec<v1::PodSandboxMetrics>> {
        call!(self.runtime.list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {}) => pod_metrics)
    }

    fn container_events(&self) -> Call<'_, BoxStream<'static, Result<v1::ContainerEventResponse, Error>>> {
        let mut client = self.runtime.clone();
        Box::pin(async move {
            match within(self.timeout, client.get_container_events(v1::GetEventsRequest {})).await {
                Ok(events) => Ok(events.map(|event| event.map_err(Error::from)).boxed()),
                Err(error) if error.code == Code::Unimplemented => super::containerd::exits(self.channel.clone()).await,
                Err(error) => Err(error),
            }
        })
    }

    fn list_images(&self, filter: Option<v1::ImageFilter>) -> Call<'_, Vec<v1::Image>> {
        call!(self.images.list_images(v1::ListImagesRequest { filter }) => images)
    }

    fn image_status(&self, image: v1::ImageSpec, verbose: bool) -> Call<'_, v1::ImageStatusResponse> {
        call!(self.images.image_status(v1::ImageStatusRequest { image: Some(image), verbose }))
    }

    fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Call<'_, String> {
        let mut client = self.images.clone();
        Box::pin(async move {
            let request = v1::PullImageRequest { image: Some(image), auth, sandbox_config };
            let call = async { Ok(client.pull_image(request).await?.into_inner().image_ref) };
            self.measured("pull_image", call).await
        })
    }

    fn remove_image(&self, image: v1::ImageSpec) -> Call<'_, ()> {
        call!(self.images.remove_image(v1::RemoveImageRequest { image: Some(image) }) => ())
    }

    fn image_fs_info(&self) -> Call<'_, v1::ImageFsInfoResponse> {
        call!(self.images.image_fs_info(v1::ImageFsInfoRequest {}))
    }
}

/// Writes a request with its extension behind it.
struct CreateCodec;
struct CreateEncoder;
struct CreateDecoder;

impl Codec for CreateCodec {
    type Encode = (v1::CreateContainerRequest, ContainerExtension);
    type Decode = v1::CreateContainerResponse;
    type Encoder = CreateEncoder;
    type Decoder = CreateDecoder;

    fn encoder(&mut self) -> CreateEncoder {
        CreateEncoder
    }

    fn decoder(&mut self) -> CreateDecoder {
        CreateDecoder
    }
}

impl Encoder for CreateEncoder {
    type Item = (v1::CreateContainerRequest, ContainerExtension);
    type Error = tonic::Status;

    fn encode(&mut self, (request, extension): Self::Item, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        buffer.put_slice(&request.encode_to_vec());
        buffer.put_slice(&extension.encode());
        Ok(())
    }
}

impl Decoder for CreateDecoder {
    type Item = v1::CreateContainerResponse;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, tonic::Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        v1::CreateContainerResponse::decode(bytes).map(Some).map_err(|error| tonic::Status::internal(error.to_string()))
    }
}
