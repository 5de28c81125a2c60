//! Calls to a driver or a registrar behind a unix socket.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use prost::Message;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use super::messages::{Capabilities, Empty, Expand, NodeInfo, PluginInfo, Publish, RegistrationStatus, Stage, Stats, Undo, Usages};
use crate::instruments::{CSI_OPERATIONS, Instruments};

/// Drivers have so long for everything, as upstream.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A call that failed, as Go prints it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", go_name(*code))]
pub struct CallError {
    pub code: tonic::Code,
    pub message: String,
}

fn go_name(code: tonic::Code) -> String {
    match code {
        tonic::Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    }
}

impl From<CallError> for String {
    fn from(error: CallError) -> String {
        error.to_string()
    }
}

/// A socket that speaks gRPC. Clones share one connection, which is made when it is first needed.
#[derive(Clone)]
pub struct Socket {
    channel: Channel,
    /// The driver's name, and where its calls are measured.
    measured: Option<(String, Instruments)>,
}

impl Socket {
    pub fn at(path: &Path) -> Socket {
        let path = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        Socket { channel: Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector), measured: None }
    }

    /// Measures calls to a driver of this name.
    pub fn measured(self, driver: &str, metrics: Instruments) -> Socket {
        Socket { measured: Some((driver.to_owned(), metrics)), ..self }
    }

    async fn call<Q: Message + 'static, A: Message + Default + 'static>(&self, path: &'static str, request: Q) -> Result<A, CallError> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let call = async {
            client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            let codec: ProstCodec<Q, A> = ProstCodec::default();
            client.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await
        };
        let began = Instant::now();
        let answer = match tokio::time::timeout(TIMEOUT, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(CallError { code: status.code(), message: status.message().to_owned() }),
            Err(_) => Err(CallError { code: tonic::Code::DeadlineExceeded, message: "context deadline exceeded".to_owned() }),
        };
        if let Some((driver, metrics)) = &self.measured {
            let code = answer.as_ref().err().map_or_else(|| "OK".to_owned(), |error| go_name(error.code));
            metrics.took(&CSI_OPERATIONS, &[driver, path, &code, "false"], began.elapsed());
        }
        answer
    }

    pub async fn plugin_info(&self) -> Result<PluginInfo, CallError> {
        self.call("/pluginregistration.Registration/GetInfo", Empty {}).await
    }

    pub async fn notify(&self, status: RegistrationStatus) -> Result<(), CallError> {
        self.call::<_, Empty>("/pluginregistration.Registration/NotifyRegistrationStatus", status).await.map(drop)
    }

    pub async fn node_info(&self) -> Result<NodeInfo, CallError> {
        self.call("/csi.v1.Node/NodeGetInfo", Empty {}).await
    }

    pub async fn capabilities(&self) -> Result<BTreeSet<i32>, CallError> {
        let answer: Capabilities = self.call("/csi.v1.Node/NodeGetCapabilities", Empty {}).await?;
        Ok(answer.capabilities.into_iter().filter_map(|capability| Some(capability.rpc?.kind)).collect())
    }

    pub async fn stage(&self, request: Stage) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Node/NodeStageVolume", request).await.map(drop)
    }

    pub async fn unstage(&self, request: Undo) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Node/NodeUnstageVolume", request).await.map(drop)
    }

    pub async fn publish(&self, request: Publish) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Node/NodePublishVolume", request).await.map(drop)
    }

    pub async fn unpublish(&self, request: Undo) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Node/NodeUnpublishVolume", request).await.map(drop)
    }

    /// Makes the volume on this node as big as it has become; how big it is then does not matter.
    pub async fn expand(&self, request: Expand) -> Result<(), CallError> {
        self.call::<_, Empty>("/csi.v1.Node/NodeExpandVolume", request).await.map(drop)
    }

    pub async fn stats(&self, request: Stats) -> Result<Usages, CallError> {
        self.call("/csi.v1.Node/NodeGetVolumeStats", request).await
    }
}

/// A driver that has registered itself.
#[derive(Clone)]
pub struct Driver {
    pub socket: Socket,
    pub capabilities: BTreeSet<i32>,
}
