//! How soon a definition of custom resources shows after its creation, and how soon nothing shows of it after its deletion: in discovery, in
//! OpenAPI, and where its objects are.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;

use super::connection::{Connection, Endpoint, JSON};
use super::definitions::{DEFINITIONS, DISCOVERY};

/// Definitions that are made and taken away, one after the other.
const ROUNDS: usize = 15;
/// Between two looks.
const PACE: Duration = Duration::from_millis(2);
const TIMEOUT: Duration = Duration::from_secs(60);
const GROUP: &str = "appearance.example.com";

/// Where one looks: the measure's key, its words, the path and the form.
const PLACES: [(&str, &str, &str, &str); 5] = [
    ("shown_objects", "where its objects are", "/apis/appearance.example.com/v1/shows", JSON),
    ("shown_discovery", "in discovery", "/apis/appearance.example.com/v1", JSON),
    ("shown_aggregated", "in aggregated discovery", "/apis", DISCOVERY),
    ("shown_openapi_v3", "in OpenAPI v3", "/openapi/v3/apis/appearance.example.com/v1", JSON),
    ("shown_openapi_v2", "in OpenAPI v2", "/openapi/v2", JSON),
];

/// Of one place: the medians in milliseconds.
pub struct Seen {
    pub key: &'static str,
    pub place: &'static str,
    pub shown_ms: f64,
    pub gone_ms: f64,
}

/// Measures all places. They are looked at at once, as by clients that know nothing of each other.
pub async fn run(endpoint: &Endpoint) -> anyhow::Result<Vec<Seen>> {
    let mut maker = endpoint.connect().await?;
    let mut connections = Vec::new();
    for (_, _, path, accept) in PLACES {
        let mut connection = endpoint.connect().await?;
        tells(&mut connection, path, accept).await?;
        connections.push(connection);
    }
    let (mut shown, mut gone) = (vec![Vec::new(); PLACES.len()], vec![Vec::new(); PLACES.len()]);
    let path = format!("{DEFINITIONS}/shows.{GROUP}");
    for _ in 0..ROUNDS {
        maker.create(DEFINITIONS, definition()).await?;
        wait(&connections, true, &mut shown).await?;
        let (status, body) = maker.exchange(Method::DELETE, &path, Bytes::new()).await?;
        ensure!(status.is_success(), "DELETE {path}: {status}: {}", String::from_utf8_lossy(&body));
        wait(&connections, false, &mut gone).await?;
        while maker.exchange(Method::GET, &path, Bytes::new()).await?.0.is_success() {
            tokio::time::sleep(PACE).await;
        }
    }
    let seen = PLACES.iter().zip(shown.into_iter().zip(gone));
    Ok(seen.map(|((key, place, ..), (shown, gone))| Seen { key, place, shown_ms: median(shown), gone_ms: median(gone) }).collect())
}

fn definition() -> Bytes {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": format!("shows.{GROUP}")},
        "spec": {
            "group": GROUP, "scope": "Cluster", "names": {"plural": "shows", "kind": "Show"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    Bytes::from(definition.to_string())
}

/// Waits until every place tells of the definition, or none does, and notes how long that took.
async fn wait(connections: &[Connection], wanted: bool, took: &mut [Vec<f64>]) -> anyhow::Result<()> {
    let begun = Instant::now();
    let looks = connections.iter().zip(PLACES).map(|(connection, (_, place, path, accept))| {
        let mut connection = connection.clone();
        async move {
            while tells(&mut connection, path, accept).await? != wanted {
                ensure!(begun.elapsed() < TIMEOUT, "{place} does not change");
                tokio::time::sleep(PACE).await;
            }
            anyhow::Ok(begun.elapsed().as_secs_f64() * 1000.0)
        }
    });
    for (took, found) in took.iter_mut().zip(futures::future::try_join_all(looks).await?) {
        took.push(found);
    }
    Ok(())
}

async fn tells(connection: &mut Connection, path: &str, accept: &'static str) -> anyhow::Result<bool> {
    let response = connection.send(Method::GET, path, accept, Bytes::new()).await?;
    if !response.status().is_success() {
        response.into_body().collect().await?;
        return Ok(false);
    }
    let body = response.into_body().collect().await.with_context(|| path.to_owned())?.to_bytes();
    Ok(body.windows(GROUP.len()).any(|window| window == GROUP.as_bytes()))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}
