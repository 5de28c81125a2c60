//! Events of containerds whose CRI plugin does not tell them: taken from containerd's own service behind the same socket.

use containerd_client::events::TaskExit;
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::services::v1::events_client::EventsClient;
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use tonic::transport::Channel;

use super::{Error, v1};

/// Processes that ended. Those of commands run in containers are told too, and left out here.
const FILTER: &str = r#"topic=="/tasks/exit""#;

/// The ends of containers, as they happen. Which pod they are of is not told.
pub(super) async fn exits(channel: Channel) -> Result<BoxStream<'static, Result<v1::ContainerEventResponse, Error>>, Error> {
    let mut client = EventsClient::new(channel);
    let stream = client.subscribe(SubscribeRequest { filters: vec![FILTER.to_owned()] }).await?.into_inner();
    let exits = stream.filter_map(|envelope| async move {
        match envelope {
            Ok(envelope) => {
                let exit = TaskExit::decode(envelope.event?.value.as_slice()).ok()?;
                (exit.id == exit.container_id).then(|| {
                    Ok(v1::ContainerEventResponse {
                        container_id: exit.container_id,
                        container_event_type: v1::ContainerEventType::ContainerStoppedEvent.into(),
                        ..Default::default()
                    })
                })
            }
            Err(status) => Some(Err(Error::from(status))),
        }
    });
    Ok(exits.boxed())
}
