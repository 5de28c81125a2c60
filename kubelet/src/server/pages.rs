//! Pages that are read and over: pods, statistics, metrics, the configuration.

use std::collections::BTreeMap;

use axum::body::Body;
use http::{Response, StatusCode};
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::json;

use super::respond::{self, text};
use super::{MetricsPage, Node};
use crate::cri::v1;

const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";

/// `/pods`: what the kubelet is to run.
pub fn pods(node: &dyn Node) -> Response<Body> {
    let items = node.pods().iter().map(|pod| Pod::clone(pod)).collect();
    respond::json(&List::<Pod> { items, ..List::default() })
}

/// `/runningpods/`: what the runtime says that runs.
pub async fn running_pods(node: &dyn Node) -> Response<Body> {
    let state = Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 });
    let filter = v1::ContainerFilter { state, ..v1::ContainerFilter::default() };
    match node.runtime().list_containers(Some(filter)).await {
        Ok(containers) => respond::json(&List::<Pod> { items: grouped(&containers), ..List::default() }),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Containers by the pods that their labels name.
fn grouped(containers: &[v1::Container]) -> Vec<Pod> {
    let mut pods: BTreeMap<&str, Pod> = BTreeMap::new();
    for container in containers {
        let label = |key: &str| container.labels.get(key).cloned();
        let Some(uid) = container.labels.get(POD_UID) else { continue };
        let pod = pods.entry(uid).or_insert_with(|| {
            let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
            pod.metadata.name = label(POD_NAME);
            pod.metadata.namespace = label(POD_NAMESPACE);
            pod.metadata.uid = label(POD_UID);
            pod
        });
        let name = container.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        let image = container.image.as_ref().map(|image| image.image.clone());
        pod.spec.get_or_insert_default().containers.push(Container { name, image, ..Container::default() });
    }
    pods.into_values().collect()
}

/// `/stats/summary`
pub async fn summary(node: &dyn Node, query: &[(String, String)]) -> Response<Body> {
    let values: Vec<&str> = query.iter().filter(|(key, _)| key == "only_cpu_and_memory").map(|(_, value)| value.as_str()).collect();
    match node.summary(values == ["true"]).await {
        Ok(summary) => respond::json(&summary),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("Internal Error: {error}")),
    }
}

/// `/metrics` and the pages below.
pub async fn metrics(node: &dyn Node, page: MetricsPage) -> Response<Body> {
    match node.metrics(page).await {
        Ok(page) => respond::metrics(page),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// `/configz`
pub fn configz(node: &dyn Node) -> Response<Body> {
    respond::json(&json!({ "kubeletconfig": node.configuration() }))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn containers_are_grouped_by_pod() {
        let container = |uid: &str, name: &str| v1::Container {
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            labels: HashMap::from([(POD_UID, uid), (POD_NAME, "p"), (POD_NAMESPACE, "n")].map(|(k, v)| (k.to_owned(), v.to_owned()))),
            ..v1::Container::default()
        };
        let pods = grouped(&[container("1", "a"), container("2", "b"), container("1", "c"), v1::Container::default()]);
        let shown: Vec<(String, Vec<String>)> = pods
            .iter()
            .map(|pod| (pod.metadata.uid.clone().unwrap(), pod.spec.iter().flat_map(|s| &s.containers).map(|c| c.name.clone()).collect()))
            .collect();
        assert_eq!(shown, [("1".to_owned(), vec!["a".to_owned(), "c".to_owned()]), ("2".to_owned(), vec!["b".to_owned()])]);
    }
}
