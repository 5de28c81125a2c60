//! Asks the kubelets, when somebody wants to know. One asker asks for all that come meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use futures::StreamExt;
use futures::stream;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Mutex;

use super::sample::{self, OfNode, Point, Usage};
use crate::api::Api;
use crate::registry::read::str_at;
use crate::system::watched::cache;

/// What is so old is still told.
const FRESH: Duration = Duration::from_secs(10);
/// What is older says nothing of now: a rate over so long a time would be an average of the past.
const TOO_OLD: Duration = Duration::from_secs(60);
/// The shortest window.
const WINDOW: Duration = Duration::from_millis(1500);
const KUBELETS_AT_ONCE: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_PAGE_BYTES: usize = 16 * 1024 * 1024;

/// What is used, by node.
pub type Snapshot = BTreeMap<String, OfNode<Usage>>;

/// What was told last.
#[derive(Default)]
pub struct ResourceMetrics {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asked: Option<Instant>,
    samples: BTreeMap<String, OfNode<Point>>,
    snapshot: Arc<Snapshot>,
}

impl ResourceMetrics {
    /// What is used now, or was a few seconds ago.
    pub async fn snapshot(&self, api: &Arc<Api>) -> Arc<Snapshot> {
        let mut state = self.state.lock().await;
        let age = state.asked.map(|asked| asked.elapsed());
        if age.is_some_and(|age| age < FRESH) {
            return state.snapshot.clone();
        }
        if age.is_none_or(|age| age > TOO_OLD) {
            state.samples = ask_all(api).await;
            tokio::time::sleep(WINDOW).await;
        }
        let mut now = ask_all(api).await;
        if now.iter().any(|(node, now)| state.samples.get(node).is_none_or(|before| sample::has_newer(before, now))) {
            // Who asks wants to see what has just begun, too.
            tokio::time::sleep(WINDOW).await;
            state.samples = now;
            now = ask_all(api).await;
        }
        let used = now.iter().filter_map(|(node, now)| Some((node.clone(), sample::between(state.samples.get(node)?, now))));
        state.snapshot = Arc::new(used.collect());
        state.samples = now;
        state.asked = Some(Instant::now());
        state.snapshot.clone()
    }
}

async fn ask_all(api: &Arc<Api>) -> BTreeMap<String, OfNode<Point>> {
    let Some(nodes) = cache(api, "", "nodes") else { return BTreeMap::new() };
    let nodes: Vec<Value> = nodes.snapshot().range("", None).map(|node| node.value()).collect();
    let asked = nodes.into_iter().map(|node| async move {
        let name = str_at(&node, "/metadata/name").to_owned();
        let told = tokio::time::timeout(TIMEOUT, ask(api, &node)).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        match told {
            Ok(sample) => Some((name, sample)),
            Err(why) => {
                tracing::debug!(node = name, why, "the kubelet does not tell what is used");
                None
            }
        }
    });
    stream::iter(asked).buffer_unordered(KUBELETS_AT_ONCE).filter_map(|told| async { told }).collect().await
}

async fn ask(api: &Api, node: &Value) -> Result<OfNode<Point>, String> {
    let target = api.backends.on_kubelet(node, "/metrics/resource".to_owned(), String::new()).map_err(|status| status.message)?;
    let request = Request::get(target.path_and_query()).header(header::HOST, target.authority()).body(Body::empty());
    let response = api.backends.send(&target, request.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(format!("the kubelet answers {}", response.status()));
    }
    let page = Limited::new(response.into_body(), MAX_PAGE_BYTES).collect().await.map_err(|e| e.to_string())?.to_bytes();
    Ok(sample::parse(&String::from_utf8_lossy(&page), Timestamp::now().as_millisecond()))
}
