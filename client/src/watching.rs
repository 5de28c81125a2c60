//! Objects and what becomes of them, as a stream that goes on whatever happens.

use std::fmt::Debug;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use kube::api::Api;
use kube::runtime::watcher::{self, Config, Error, Event, InitialListStrategy};
use kube::{Resource, core};
use serde::de::DeserializeOwned;

/// The objects that `api` and the selectors of `config` name, and then what becomes of them.
///
/// If `config` asks for what is there as the beginning of the watch and the server refuses that, as upstream's does on an etcd that does
/// not tell its progress (older than 3.4.25), it is listed, as client-go does. All other errors are the stream's; it goes on after them,
/// at once, so who reads on should wait a little.
pub fn events<K>(api: Api<K>, config: Config) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let streams = config.initial_list_strategy == InitialListStrategy::StreamingList;
    let listed = Config { initial_list_strategy: InitialListStrategy::ListWatch, ..config.clone() };
    let instead = streams.then(|| (api.clone(), listed));
    let watching = Watching { events: watcher::watcher(api, config).boxed(), instead, begins: true };
    stream::unfold(watching, |mut watching| async move { watching.next().await.map(|event| (event, watching)) })
}

struct Watching<K: Resource> {
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    /// What to do if the server does not stream what is there; nothing once that is being done.
    instead: Option<(Api<K>, Config)>,
    /// What is there has not been told to its end.
    begins: bool,
}

impl<K> Watching<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    async fn next(&mut self) -> Option<watcher::Result<Event<K>>> {
        loop {
            let event = self.events.next().await?;
            match &event {
                Ok(Event::Init) => self.begins = true,
                Ok(Event::InitDone) => self.begins = false,
                Err(error) if self.begins && is_refusal(error) => {
                    if let Some((api, listed)) = self.instead.take() {
                        tracing::debug!(%error, "objects are listed, as the server does not stream them");
                        self.events = watcher::watcher(api, listed).boxed();
                        continue;
                    }
                }
                _ => {}
            }
            return Some(event);
        }
    }
}

/// Whether the server has answered that it cannot do what it was asked for. Who may not watch, or comes too often, is to try again.
fn is_refusal(error: &Error) -> bool {
    let status: &core::Status = match error {
        Error::WatchError(status) => status,
        Error::WatchStartFailed(kube::Error::Api(status)) => status,
        _ => return false,
    };
    matches!(status.code, 400 | 422 | 500)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;
    use crate::fake_api::{Answer, FakeApi};

    #[tokio::test(start_paused = true)]
    async fn what_is_not_streamed_is_listed() {
        let server = FakeApi::new(|seen| {
            Answer::ok(match seen.query.contains("sendInitialEvents") {
                true => {
                    json!({ "type": "ERROR", "object": { "kind": "Status", "status": "Failure", "reason": "InternalError", "code": 500 } })
                }
                false => json!({ "metadata": { "resourceVersion": "7" }, "items": [{ "metadata": { "name": "a" } }] }),
            })
        });
        let api = Api::<ConfigMap>::namespaced(server.client(), "d");
        let told: Vec<Event<ConfigMap>> =
            events(api, Config::default().streaming_lists()).take(4).map(|event| event.expect("no error")).collect().await;
        assert!(
            matches!(&told[..], [Event::Init, Event::Init, Event::InitApply(a), Event::InitDone] if a.metadata.name.as_deref() == Some("a")),
            "{told:?}"
        );
        assert_eq!(server.wait_for(2).await.iter().filter(|seen| seen.query.contains("watch=true")).count(), 1);
    }

    fn refusal(code: u16) -> Error {
        Error::WatchError(Box::new(core::Status { code, ..core::Status::default() }))
    }

    #[test]
    fn only_what_the_server_cannot_do_is_asked_for_otherwise() {
        assert!([400, 422, 500].into_iter().all(|code| is_refusal(&refusal(code))));
        assert!(![403, 410, 429, 503, 504].into_iter().any(|code| is_refusal(&refusal(code))));
        assert!(!is_refusal(&Error::NoResourceVersion));
    }
}
