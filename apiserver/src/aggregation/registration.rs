//! What an APIService says of a group and version that somebody else serves.

use std::sync::Arc;

use serde_json::Value;

use super::remote::{Identity, Trust, Way};
use crate::discovery::priority::Priority;
use crate::registry::conditions;
use crate::registry::read::{at, bool_at, int_at, str_at};

const DEFAULT_PORT: i64 = 443;

/// A service of the cluster, by one of its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceRef {
    pub namespace: String,
    pub name: String,
    pub port: i64,
}

impl ServiceRef {
    /// Reads `spec.service`; `None` where this server itself is meant.
    pub fn of(api_service: &Value) -> Option<ServiceRef> {
        let service = api_service.pointer("/spec/service").filter(|s| s.is_object())?;
        Some(ServiceRef {
            namespace: str_at(service, "/namespace").to_owned(),
            name: str_at(service, "/name").to_owned(),
            port: at(service, "/port").as_i64().unwrap_or(DEFAULT_PORT),
        })
    }

    /// Who the server must prove to be.
    pub fn server_name(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}

/// A group and version, and how its server is reached.
#[derive(Clone)]
pub struct Registration {
    pub name: String,
    pub group: String,
    pub version: String,
    pub priority: Priority,
    pub service: ServiceRef,
    /// Whether the last check found it well; nothing is passed on otherwise.
    pub available: bool,
    /// How connections are made, or why none can be.
    pub way: Result<Way, String>,
    trust: Trust,
}

impl Registration {
    /// Reads an APIService; `None` if it is one of what this server serves itself.
    pub fn read(api_service: &Value, identity: &Identity, before: Option<&Registration>) -> Option<Registration> {
        let service = ServiceRef::of(api_service)?;
        let trust = Trust::read(bool_at(api_service, "/spec/insecureSkipTLSVerify"), str_at(api_service, "/spec/caBundle"));
        // Connections are kept with the way: an unchanged one goes on.
        let way = match before.filter(|b| b.trust == trust) {
            Some(before) => before.way.clone(),
            None => trust.way(identity),
        };
        let priority = |path: &str| i32::try_from(int_at(api_service, path)).unwrap_or_default();
        Some(Registration {
            name: str_at(api_service, "/metadata/name").to_owned(),
            group: str_at(api_service, "/spec/group").to_owned(),
            version: str_at(api_service, "/spec/version").to_owned(),
            priority: Priority { group: priority("/spec/groupPriorityMinimum"), version: priority("/spec/versionPriority") },
            service,
            available: conditions::is_true(api_service, "Available"),
            way,
            trust,
        })
    }

    /// Whether the two say the same.
    pub fn is_same(&self, other: &Registration) -> bool {
        let key = |r: &Registration| (r.name.clone(), r.priority, r.service.clone(), r.available, r.trust.clone());
        key(self) == key(other)
    }

    /// Where its server tells of the resources.
    pub fn path(&self) -> String {
        if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) }
    }

    /// For tests: shares what does not matter to them.
    #[cfg(test)]
    pub fn sample(group: &str, version: &str) -> Arc<Registration> {
        let trust = Trust::read(true, "");
        Arc::new(Registration {
            name: format!("{version}.{group}"),
            group: group.to_owned(),
            version: version.to_owned(),
            priority: Priority { group: 2000, version: 200 },
            service: ServiceRef { namespace: "n".to_owned(), name: "s".to_owned(), port: 443 },
            available: true,
            way: Err("none in tests".to_owned()),
            trust,
        })
    }
}

/// A registration that many requests share.
pub type Shared = Arc<Registration>;
