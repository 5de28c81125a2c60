//! Definitions of custom resources, many and large: how fast they come to be served, what each takes of the server's memory, what others
//! feel of it, and how long discovery and OpenAPI take then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::connection::{Endpoint, JSON};
use super::load::{Load, Tally, Until};

pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// Definitions are spread over so many groups.
const GROUPS: u64 = 100;
/// Bytes of a schema, about.
const SCHEMA_BYTES: usize = 30_000;
/// Between two requests of a client that does not care about definitions.
const PACE: Duration = Duration::from_millis(5);
const SERVED_TIMEOUT: Duration = Duration::from_secs(120);

/// What was found.
pub struct Found {
    pub count: u64,
    /// From the first request to when all are served.
    pub elapsed: Duration,
    pub creates: Tally,
    /// Of a client that reads something else: before, and meanwhile.
    pub alone: Tally,
    pub beside: Tally,
    /// The second answer of each, which needs no preparation any more.
    pub discovery_ms: f64,
    pub openapi_index_ms: f64,
    pub openapi_document_ms: f64,
}

impl Found {
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

fn group(number: u64) -> String {
    format!("g{}.bench.example.com", number % GROUPS)
}

fn plural(number: u64) -> String {
    format!("things{number}")
}

/// A definition with a schema as generators write them: objects in objects, descriptions, patterns, lists with keys.
fn definition(number: u64, schema: &Value) -> Bytes {
    let (group, plural) = (group(number), plural(number));
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": format!("Thing{number}")},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "First", "type": "string", "jsonPath": ".spec.part0.field0"}],
            }],
        },
    });
    Bytes::from(definition.to_string())
}

fn schema() -> Value {
    let text = "What this is for, what happens if it is not there, and which values make sense.";
    let part = || {
        let field = |i: usize| {
            let value = json!({"type": "string", "description": text, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"});
            (format!("field{i}"), value)
        };
        let mut properties: Map<String, Value> = (0..8).map(field).collect();
        let item =
            json!({"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "value": {"type": "integer"}}});
        let list = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": item});
        properties.insert("list".to_owned(), list);
        json!({"type": "object", "description": text, "properties": properties})
    };
    let size = part().to_string().len();
    let parts: Map<String, Value> = (0..SCHEMA_BYTES / size).map(|i| (format!("part{i}"), part())).collect();
    let status = json!({"type": "object", "properties": {"phase": {"type": "string"}}});
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": parts}, "status": status}})
}

/// Creates definitions and waits until they are served.
pub async fn run(endpoint: &Endpoint, count: u64, alone: Duration) -> anyhow::Result<Found> {
    let alone = {
        let stop = Arc::new(AtomicBool::new(false));
        let reading = tokio::spawn(read(endpoint.clone(), stop.clone()));
        tokio::time::sleep(alone).await;
        stop.store(true, Ordering::Relaxed);
        reading.await??
    };
    let stop = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn(read(endpoint.clone(), stop.clone()));
    let begun = Instant::now();
    let schema = Arc::new(schema());
    let creates = Load { connections: 4, streams: 2, until: Until::Count(count) }
        .run(endpoint, move |mut connection, number| {
            let schema = schema.clone();
            async move { connection.create(DEFINITIONS, definition(number, &schema)).await.map(|_| ()) }
        })
        .await?;
    let mut connection = endpoint.connect().await?;
    for number in 0..count {
        let path = format!("/apis/{}/v1/{}", group(number), plural(number));
        while connection.exchange(Method::GET, &path, Bytes::new()).await?.0 != StatusCode::OK {
            ensure!(begun.elapsed() < SERVED_TIMEOUT, "{path} is not served");
            tokio::time::sleep(PACE).await;
        }
    }
    let elapsed = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    let beside = reading.await??;
    let document = format!("/openapi/v3/apis/{}/v1", group(0));
    Ok(Found {
        count,
        elapsed,
        creates,
        alone,
        beside,
        discovery_ms: second(endpoint, "/apis", DISCOVERY).await?,
        openapi_index_ms: second(endpoint, "/openapi/v3", JSON).await?,
        openapi_document_ms: second(endpoint, &document, JSON).await?,
    })
}

/// Reads something that has nothing to do with definitions until it is told to stop.
async fn read(endpoint: Endpoint, stop: Arc<AtomicBool>) -> anyhow::Result<Tally> {
    let mut connection = endpoint.connect().await?;
    let begun = Instant::now();
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        connection.get_length("/api/v1/namespaces/default", JSON).await?;
        latencies.push(asked.elapsed());
        tokio::time::sleep(PACE).await;
    }
    Ok(Tally::of(latencies, begun.elapsed()))
}

async fn second(endpoint: &Endpoint, path: &str, accept: &'static str) -> anyhow::Result<f64> {
    let mut connection = endpoint.connect().await?;
    connection.get_length(path, accept).await?;
    let asked = Instant::now();
    connection.get_length(path, accept).await?;
    Ok(asked.elapsed().as_secs_f64() * 1000.0)
}

/// Takes the definitions away again.
pub async fn remove(endpoint: &Endpoint, count: u64) -> anyhow::Result<()> {
    let mut connection = endpoint.connect().await?;
    for number in 0..count {
        let path = format!("{DEFINITIONS}/{}.{}", plural(number), group(number));
        let (status, body) = connection.exchange(Method::DELETE, &path, Bytes::new()).await?;
        ensure!(status.is_success() || status == StatusCode::NOT_FOUND, "DELETE {path}: {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_as_large_as_it_says() {
        let bytes = schema().to_string().len();
        assert!(bytes > SCHEMA_BYTES * 9 / 10 && bytes < SCHEMA_BYTES * 11 / 10, "{bytes}");
        assert!(definition(7, &schema()).len() > bytes);
    }
}
