//! The `Available` condition of APIServices: local ones always are; one behind a service is not while the service, its port or
//! its endpoints are missing, or nobody there tells of the resources.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use super::api_services::{COLLECTION, GROUP, PLURAL};
use super::keyed::{self, Next, Reconciler, Source};
use super::watched::cache;
use crate::aggregation::{self, follow};
use crate::loopback::Loopback;
use crate::registry::conditions::{self, Condition};
use crate::registry::read::{int_at, list_at, str_at};

const AVAILABLE: &str = "Available";
const FAILED: &str = "FailedDiscoveryCheck";
const WORKERS: u64 = 5;
/// How often a server is looked at although nothing has changed.
const RECHECK: Duration = Duration::from_secs(30);
const SLICES: (&str, &str) = ("discovery.k8s.io", "endpointslices");
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Which APIServices stand behind a service, `namespace/name`.
type References = Arc<Mutex<HashMap<String, BTreeSet<String>>>>;

/// Starts writing the condition.
pub fn spawn(client: &Loopback) {
    if !client.serves(GROUP, PLURAL) {
        return;
    }
    // One that does not answer holds up only some of the others.
    for worker in 0..WORKERS {
        let references = References::default();
        let referring = |key: String, references: &References| references.lock().get(&key).into_iter().flatten().cloned().collect();
        let (by_service, by_slice) = (references.clone(), references.clone());
        let sources = vec![
            follow::source_of(worker, WORKERS),
            Source { group: "", resource: "services", keys: Box::new(move |service| referring(service.key().to_string(), &by_service)) },
            Source {
                group: SLICES.0,
                resource: SLICES.1,
                keys: Box::new(move |slice| {
                    let service = slice.labels().get(SERVICE_LABEL).unwrap_or("");
                    referring(format!("{}/{service}", slice.namespace()), &by_slice)
                }),
            },
        ];
        keyed::spawn(client, "apiservice-availability", sources, Availability { client: client.clone(), references });
    }
}

struct Availability {
    client: Loopback,
    references: References,
}

impl Availability {
    /// Remembers what an APIService stands behind, so that changes there lead here.
    fn refer(&self, name: &str, service: Option<String>) {
        let mut references = self.references.lock();
        references.retain(|key, names| {
            if service.as_ref() != Some(key) {
                names.remove(name);
            }
            !names.is_empty()
        });
        if let Some(service) = service {
            references.entry(service).or_default().insert(name.to_owned());
        }
    }

    fn slices_of(&self, namespace: &str, service: &str) -> Vec<Value> {
        let Some(slices) = cache(self.client.api(), SLICES.0, SLICES.1) else { return Vec::new() };
        let snapshot = slices.snapshot();
        let of_service = snapshot.range(namespace, None).filter(|s| s.labels().get(SERVICE_LABEL) == Some(service));
        of_service.map(|s| s.value()).collect()
    }
}

impl Reconciler for Availability {
    async fn reconcile(&mut self, name: &str) -> Result<Next, Status> {
        let Some(mut object) = self.client.get(GROUP, PLURAL, "", name) else {
            self.refer(name, None);
            self.client.api().aggregation.availability.forget(name);
            return Ok(Next::default());
        };
        let condition = match object.pointer("/spec/service").filter(|s| s.is_object()) {
            None => {
                self.refer(name, None);
                Condition::new(AVAILABLE, "True", "Local", "Local APIServices are always available")
            }
            Some(reference) => {
                let (namespace, service) = (str_at(reference, "/namespace"), str_at(reference, "/name"));
                // Before the look, so that a change after it is not missed.
                self.refer(name, Some(format!("{namespace}/{service}")));
                let found = self.client.get("", "services", namespace, service);
                match obstacle(reference, found.as_ref(), || self.slices_of(namespace, service)) {
                    Some(obstacle) => obstacle,
                    None => match aggregation::health::check(self.client.api(), &object).await {
                        Ok(()) => Condition::new(AVAILABLE, "True", "Passed", "all checks passed"),
                        Err(why) => Condition::new(AVAILABLE, "False", FAILED, why),
                    },
                }
            }
        };
        let is_remote = object.pointer("/spec/service").is_some_and(Value::is_object);
        let failure = (condition.reason == FAILED).then(|| condition.message.clone());
        let was_available = conditions::is_true(&object, AVAILABLE);
        self.client.api().aggregation.availability.note(name, was_available, condition.status == "True", condition.reason);
        if !condition.holds(&object) {
            condition.set(&mut object, Timestamp::now());
            self.client.replace(&format!("{COLLECTION}/{name}/status"), object).await?;
        }
        match failure {
            // Tried again sooner than the others.
            Some(why) => Err(Status::service_unavailable(why)),
            None => Ok(Next { after: is_remote.then_some(RECHECK), also: Vec::new() }),
        }
    }
}

/// Why a service cannot answer, if that can be told from what is stored.
fn obstacle(reference: &Value, service: Option<&Value>, slices: impl FnOnce() -> Vec<Value>) -> Option<Condition> {
    let name = str_at(reference, "/name");
    let namespace = apimachinery::field::quote(str_at(reference, "/namespace"));
    let unavailable = |reason, message: String| Some(Condition::new(AVAILABLE, "False", reason, message));
    let Some(service) = service else {
        return unavailable("ServiceNotFound", format!("service/{name} in {namespace} is not present"));
    };
    if str_at(service, "/spec/type") != "ClusterIP" {
        return None;
    }
    let wanted = int_at(reference, "/port");
    let Some(port) = list_at(service, "/spec/ports").iter().find(|p| int_at(p, "/port") == wanted) else {
        return unavailable("ServicePortError", format!("service/{name} in {namespace} is not listening on port {wanted}"));
    };
    let slices = slices();
    if slices.is_empty() {
        return unavailable("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {namespace}"));
    }
    let port_name = str_at(port, "/name");
    if slices.iter().any(|slice| has_endpoint(slice, port_name)) {
        return None;
    }
    let port_name = apimachinery::field::quote(port_name);
    unavailable(
        "MissingEndpoints",
        format!("endpointslices for service/{name} in {namespace} have no addresses with port name {port_name}"),
    )
}

fn has_endpoint(slice: &Value, port_name: &str) -> bool {
    let ready = |e: &Value| e.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
    let named = |p: &Value| p.get("name").and_then(Value::as_str) == Some(port_name) && p.get("port").is_some_and(Value::is_i64);
    list_at(slice, "/endpoints").iter().any(ready) && list_at(slice, "/ports").iter().any(named)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_is_an_obstacle_until_it_has_ready_endpoints() {
        let reference = json!({"namespace": "ns", "name": "svc", "port": 443});
        let service = json!({"spec": {"type": "ClusterIP", "ports": [{"name": "https", "port": 443}]}});
        let other_port = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80}]}});
        let slice = |ready: bool| json!({"endpoints": [{"conditions": {"ready": ready}}], "ports": [{"name": "https", "port": 8443}]});
        let told = |service: Option<&Value>, slices: Vec<Value>| {
            obstacle(&reference, service, || slices).map(|c| format!("{}: {}", c.reason, c.message))
        };
        assert_eq!(told(None, vec![]).unwrap(), "ServiceNotFound: service/svc in \"ns\" is not present");
        assert_eq!(told(Some(&other_port), vec![]).unwrap(), "ServicePortError: service/svc in \"ns\" is not listening on port 443");
        assert_eq!(told(Some(&service), vec![]).unwrap(), "EndpointsNotFound: cannot find endpointslices for service/svc in \"ns\"");
        assert_eq!(
            told(Some(&service), vec![slice(false)]).unwrap(),
            "MissingEndpoints: endpointslices for service/svc in \"ns\" have no addresses with port name \"https\""
        );
        assert_eq!(told(Some(&service), vec![slice(false), slice(true)]), None);
    }
}
