//! Calls to a driver or a registrar behind a unix socket.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use super::messages::{Capabilities, Empty, NodeInfo, PluginInfo, Publish, RegistrationStatus, Stage, Undo};

/// Drivers have so long for everything, as upstream.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A socket that speaks gRPC. Clones share one connection, which is made when it is first needed.
#[derive(Clone)]
pub struct Socket {
    channel: Channel,
}

impl Socket {
    pub fn at(path: &Path) -> Socket {
        let path = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        Socket { channel: Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector) }
    }

    async fn call<Q: Message + 'static, A: Message + Default + 'static>(&self, path: &'static str, request: Q) -> Result<A, String> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let call = async {
            client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            let codec: ProstCodec<Q, A> = ProstCodec::default();
            client.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await
        };
        match tokio::time::timeout(TIMEOUT, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(told(&status)),
            Err(_) => Err("rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned()),
        }
    }

    pub async fn plugin_info(&self) -> Result<PluginInfo, String> {
        self.call("/pluginregistration.Registration/GetInfo", Empty {}).await
    }

    pub async fn notify(&self, status: RegistrationStatus) -> Result<(), String> {
        self.call::<_, Empty>("/pluginregistration.Registration/NotifyRegistrationStatus", status).await.map(drop)
    }

    pub async fn node_info(&self) -> Result<NodeInfo, String> {
        self.call("/csi.v1.Node/NodeGetInfo", Empty {}).await
    }

    pub async fn capabilities(&self) -> Result<BTreeSet<i32>, String> {
        let answer: Capabilities = self.call("/csi.v1.Node/NodeGetCapabilities", Empty {}).await?;
        Ok(answer.capabilities.into_iter().filter_map(|capability| Some(capability.rpc?.kind)).collect())
    }

    pub async fn stage(&self, request: Stage) -> Result<(), String> {
        self.call::<_, Empty>("/csi.v1.Node/NodeStageVolume", request).await.map(drop)
    }

    pub async fn unstage(&self, request: Undo) -> Result<(), String> {
        self.call::<_, Empty>("/csi.v1.Node/NodeUnstageVolume", request).await.map(drop)
    }

    pub async fn publish(&self, request: Publish) -> Result<(), String> {
        self.call::<_, Empty>("/csi.v1.Node/NodePublishVolume", request).await.map(drop)
    }

    pub async fn unpublish(&self, request: Undo) -> Result<(), String> {
        self.call::<_, Empty>("/csi.v1.Node/NodeUnpublishVolume", request).await.map(drop)
    }
}

/// A status as Go prints it.
fn told(status: &tonic::Status) -> String {
    let code = match status.code() {
        tonic::Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}

/// A driver that has registered itself.
#[derive(Clone)]
pub struct Driver {
    pub socket: Socket,
    pub capabilities: BTreeSet<i32>,
}
