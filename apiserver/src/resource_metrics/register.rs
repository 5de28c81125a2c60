//! The APIService of metrics.k8s.io while nobody else serves it, and the role that lets people who may look at a namespace look at its use.
//!
//! The APIService carries no label of ours: an installer that puts its own service into it keeps it so, and only its deletion brings ours back.

use apimachinery::status::Status;
use serde_json::json;

use super::{GROUP, PRIORITY, VERSION};
use crate::loopback::Loopback;
use crate::storage::Object;
use crate::system::api_services;
use crate::system::keyed::{self, Next, Reconciler, Source};

const ROLE: &str = "system:aggregated-metrics-reader";

/// Creates the role, and keeps the APIService there.
pub async fn start(client: &Loopback) -> Result<(), Status> {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {
            "name": ROLE,
            "labels": {
                "rbac.authorization.k8s.io/aggregate-to-admin": "true",
                "rbac.authorization.k8s.io/aggregate-to-edit": "true",
                "rbac.authorization.k8s.io/aggregate-to-view": "true",
            },
        },
        "rules": [{ "apiGroups": [GROUP], "resources": ["nodes", "pods"], "verbs": ["get", "list", "watch"] }],
    });
    client.ensure("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await?;
    ensure(client).await?;
    let name = name();
    let keys = Box::new(move |object: &Object| if object.name() == name { vec![name.clone()] } else { Vec::new() });
    let source = Source { group: api_services::GROUP, resource: api_services::PLURAL, keys };
    keyed::spawn(client, "resource-metrics-registration", vec![source], Registration { client: client.clone() });
    Ok(())
}

fn name() -> String {
    format!("{VERSION}.{GROUP}")
}

async fn ensure(client: &Loopback) -> Result<(), Status> {
    let object = json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": { "name": name() },
        "spec": { "group": GROUP, "version": VERSION, "groupPriorityMinimum": PRIORITY.group, "versionPriority": PRIORITY.version },
    });
    client.ensure(api_services::COLLECTION, object).await.map(|_| ())
}

struct Registration {
    client: Loopback,
}

impl Reconciler for Registration {
    async fn reconcile(&mut self, _name: &str) -> Result<Next, Status> {
        ensure(&self.client).await?;
        Ok(Next::default())
    }
}
