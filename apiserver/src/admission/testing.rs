//! What tests of plugins share: a cluster of a few objects, and attributes of a write.

use std::sync::Arc;

use apimachinery::schema::defaults::Hooks;
use serde_json::{Value, json};

use super::*;
use crate::catalog::Catalog;
use crate::registry;

/// Objects, as (group, resource, object).
#[derive(Default)]
pub struct Objects {
    pub objects: Vec<(&'static str, &'static str, Value)>,
    /// What users may do, as `verb group/resource[/subresource] name`.
    pub allowed: Vec<&'static str>,
    pub connections: Arc<Connections>,
    /// Of resources by their plurals.
    pub stamps: Vec<(&'static str, Stamp)>,
    /// The names of namespaces that were made.
    pub made: parking_lot::Mutex<Vec<String>>,
    /// Why no namespace can be made.
    pub refuses: Option<Status>,
}

impl Objects {
    pub fn of(objects: Vec<(&'static str, &'static str, Value)>) -> Objects {
        Objects { objects, ..Objects::default() }
    }

    fn matching<'a>(&'a self, group: &'a str, resource: &'a str, namespace: &'a str) -> impl Iterator<Item = &'a Value> {
        let within = move |object: &Value| namespace.is_empty() || object["metadata"]["namespace"] == namespace;
        self.objects.iter().filter(move |(g, r, o)| *g == group && *r == resource && within(o)).map(|(_, _, o)| o)
    }
}

impl Lookup for Objects {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.matching(group, resource, namespace).find(|o| o["metadata"]["name"] == name).cloned().map(Arc::new)
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        self.matching(group, resource, namespace).cloned().map(Arc::new).collect()
    }

    fn stamp(&self, _group: &str, resource: &str) -> Option<Stamp> {
        self.stamps.iter().find(|(plural, _)| *plural == resource).map(|(_, stamp)| *stamp)
    }

    fn authorizer(&self) -> Arc<dyn Authorizer> {
        Arc::new(crate::filters::authorization::AlwaysDeny)
    }

    fn authorize(&self, _user: &User, request: &RequestInfo) -> Decision {
        let subresource = if request.subresource.is_empty() { String::new() } else { format!("/{}", request.subresource) };
        let asked = format!("{} {}/{}{subresource} {}", request.verb, request.group, request.resource, request.name);
        if self.allowed.contains(&asked.as_str()) { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }

    fn resources_of_kind(&self, group: &str, version: &str, kind: &str) -> Vec<(String, bool)> {
        let all = registry::definitions();
        let matching = all.iter().filter(|d| d.group == group && d.version == version && d.kind == kind);
        matching.map(|d| (d.plural.to_owned(), d.scope == registry::Scope::Namespaced)).collect()
    }

    fn resource(&self, _group: &str, _version: &str, _plural: &str) -> Option<Arc<Resource>> {
        None
    }

    fn versions_of(&self, _resource: &Resource) -> Vec<Arc<Resource>> {
        Vec::new()
    }

    fn webhook_connections(&self) -> &Arc<Connections> {
        &self.connections
    }
}

impl Cluster for Objects {
    fn update_status<'a>(&'a self, resource: &'a str, _object: Value) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move { Err(WriteError::Refused(Status::not_found("", resource, "x"))) })
    }

    fn create_namespace<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            self.refuses.clone().map_or(Ok(()), Err)?;
            self.made.lock().push(name.to_owned());
            Ok(())
        })
    }
}

/// A write by a user called `u`.
pub struct Write {
    resource: Arc<Resource>,
    user: User,
    operation: Operation,
    subresource: &'static str,
    options: Value,
    dry_run: bool,
}

impl Write {
    pub fn new(operation: Operation, group: &str, version: &str, plural: &str) -> Write {
        let types = apimachinery::schema::builtin();
        let hooks = Hooks::new(types, &[]).unwrap();
        let catalog = Catalog::builtin(types, &registry::definitions(), &registry::versioned(), hooks).unwrap();
        let resource = catalog.find(group, version, plural).unwrap().clone();
        Write {
            resource,
            user: User { name: "u".to_owned(), ..User::default() },
            operation,
            subresource: "",
            options: json!({}),
            dry_run: false,
        }
    }

    pub fn by(mut self, name: &str, groups: &[&str]) -> Write {
        self.user = User { name: name.to_owned(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..User::default() };
        self
    }

    pub fn to(mut self, subresource: &'static str) -> Write {
        self.subresource = subresource;
        self
    }

    pub fn as_dry_run(mut self) -> Write {
        self.dry_run = true;
        self
    }

    /// The same of another resource, of which nothing but its name is known.
    pub fn named(mut self, plural: &str) -> Write {
        Arc::get_mut(&mut self.resource).unwrap().plural = plural.into();
        self
    }

    pub fn attributes(&self) -> Attributes<'_> {
        Attributes {
            operation: self.operation,
            resource: &self.resource,
            subresource: self.subresource,
            namespace: if self.resource.namespaced { "ns" } else { "" },
            name: "x",
            user: &self.user,
            dry_run: self.dry_run,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            options: &self.options,
        }
    }

    pub fn admit(&self, plugin: &dyn Plugin, objects: &Objects, new: &mut Value) -> Result<(), String> {
        plugin.admit(&self.attributes(), objects, new, None, &mut Vec::new()).map_err(|s| s.message)
    }

    pub fn validate(
        &self,
        plugin: &dyn Plugin,
        objects: &Objects,
        new: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Vec<String>, String> {
        let mut warnings = Vec::new();
        plugin.validate(&self.attributes(), objects, new, old, &mut warnings).map_err(|s| s.message)?;
        Ok(warnings)
    }
}
