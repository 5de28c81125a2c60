//! The APIServices of what this server serves itself: one for each built-in group and version, made at start, and one for each
//! version of a custom resource, kept while it is served.
//!
//! Objects without the label belong to users and are left alone.

use std::collections::{BTreeSet, HashMap};

use apimachinery::status::Status;
use serde_json::{Value, json};

use super::keyed::{self, Next, Reconciler, Source};
use super::watched::cache;
use crate::crd::summary::Summary;
use crate::discovery::priority::{CUSTOM, Priority};
use crate::loopback::{Loopback, is_overtaken};
use crate::registry::read::str_at;
use crate::storage::{Object, Revision};

pub const GROUP: &str = "apiregistration.k8s.io";
pub const PLURAL: &str = "apiservices";
pub const COLLECTION: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Set right at the API server's start, and not again.
const ON_START: &str = "onstart";
/// Set right whenever it changes.
const ALWAYS: &str = "true";

/// Creates, corrects and removes the built-in ones.
pub async fn ensure_builtin(client: &Loopback) -> Result<(), Status> {
    if !client.serves(GROUP, PLURAL) {
        return Ok(());
    }
    let catalog = client.api().catalog.load_full();
    // The registrations themselves are served before any is looked at, and are not registered.
    let registered = catalog.iter().filter(|r| &*r.gvk.group != GROUP);
    let versions: BTreeSet<(&str, &str)> = registered.map(|r| (&*r.gvk.group, &*r.gvk.version)).collect();
    let wanted: HashMap<String, Value> = versions
        .into_iter()
        .map(|(group, version)| (format!("{version}.{group}"), object(group, version, Priority::of(group, version), ON_START)))
        .collect();
    let mut steps = Vec::new();
    let mut present = BTreeSet::new();
    for current in client.list(GROUP, PLURAL) {
        let name = str_at(&current, "/metadata/name").to_owned();
        if managed(&current) == ON_START || wanted.contains_key(&name) {
            steps.push((name.clone(), plan(Some(&current), wanted.get(&name))));
        }
        present.insert(name);
    }
    steps.extend(wanted.iter().filter(|(name, _)| !present.contains(*name)).map(|(name, w)| (name.clone(), plan(None, Some(w)))));
    futures::future::try_join_all(steps.into_iter().map(|(name, step)| run(client, name, step))).await.map(|_| ())
}

/// Starts keeping those of custom resources.
pub fn spawn(client: &Loopback) {
    if !client.serves(GROUP, PLURAL) {
        return;
    }
    let definitions = Source { group: "apiextensions.k8s.io", resource: "customresourcedefinitions", keys: Box::new(names_of) };
    let controller = Custom { client: client.clone(), served: HashMap::new() };
    keyed::spawn(client, "crd-autoregister", vec![definitions, Source::own(GROUP, PLURAL)], controller);
}

/// The names of the APIServices that a CustomResourceDefinition has to do with.
fn names_of(definition: &Object) -> Vec<String> {
    let spec = Summary::read(definition).spec;
    spec.versions.iter().map(|version| format!("{}.{}", version.name, spec.group)).collect()
}

struct Custom {
    client: Loopback,
    /// The served versions of each definition, as of a revision: definitions are large, and read once.
    served: HashMap<String, (Revision, Vec<String>)>,
}

impl Custom {
    /// Whether some definition serves a group's version.
    fn is_served(&mut self, group: &str, version: &str) -> bool {
        let Some(definitions) = cache(self.client.api(), "apiextensions.k8s.io", "customresourcedefinitions") else { return false };
        let snapshot = definitions.snapshot();
        if self.served.len() > snapshot.len() * 2 {
            self.served.retain(|name, _| snapshot.get("", name).is_some());
        }
        snapshot.range("", None).filter(|d| is_of_group(d.name(), group)).any(|definition| {
            let read = || {
                let served = Summary::read(definition).spec.versions.into_iter().filter(|version| version.served);
                (definition.revision(), served.map(|version| version.name).collect())
            };
            let known = self.served.entry(definition.name().to_owned()).or_insert_with(read);
            if known.0 != definition.revision() {
                *known = read();
            }
            known.1.iter().any(|v| v == version)
        })
    }
}

/// A definition is named `plural.group`.
pub fn is_of_group(name: &str, group: &str) -> bool {
    name.split_once('.').is_some_and(|(_, rest)| rest == group)
}

impl Reconciler for Custom {
    async fn reconcile(&mut self, name: &str) -> Result<Next, Status> {
        let (version, group) = name.split_once('.').unwrap_or((name, ""));
        let wanted = self.is_served(group, version).then(|| object(group, version, CUSTOM, ALWAYS));
        let current = self.client.get(GROUP, PLURAL, "", name);
        // Built-in ones are seen to at start.
        if current.as_ref().is_some_and(|c| managed(c) == ON_START) {
            return Ok(Next::default());
        }
        let step = plan(current.as_ref(), wanted.as_ref());
        run(&self.client, name.to_owned(), step).await?;
        Ok(Next::default())
    }
}

fn object(group: &str, version: &str, priority: Priority, managed: &str) -> Value {
    let mut spec = json!({ "version": version, "groupPriorityMinimum": priority.group, "versionPriority": priority.version });
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": { "name": format!("{version}.{group}"), "labels": { LABEL: managed } },
        "spec": spec,
    })
}

fn managed(object: &Value) -> &str {
    str_at(object, "/metadata/labels/kube-aggregator.kubernetes.io~1automanaged")
}

#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    Create(Value),
    Replace(Value),
    /// Of the object with this uid.
    Delete(String),
}

fn plan(current: Option<&Value>, wanted: Option<&Value>) -> Step {
    match (current, wanted) {
        (None, None) => Step::Nothing,
        (None, Some(wanted)) => Step::Create(wanted.clone()),
        (Some(current), _) if managed(current).is_empty() => Step::Nothing,
        (Some(current), None) => Step::Delete(str_at(current, "/metadata/uid").to_owned()),
        (Some(current), Some(wanted)) if current["spec"] == wanted["spec"] => Step::Nothing,
        (Some(current), Some(wanted)) => {
            let mut revised = current.clone();
            revised["spec"] = wanted["spec"].clone();
            Step::Replace(revised)
        }
    }
}

async fn run(client: &Loopback, name: String, step: Step) -> Result<(), Status> {
    let path = format!("{COLLECTION}/{name}");
    let done = match step {
        Step::Nothing => Ok(()),
        Step::Create(object) => client.ensure(COLLECTION, object).await.map(|_| ()),
        Step::Replace(object) => client.replace(&path, object).await.map(|_| ()),
        Step::Delete(uid) => client.delete(&path, &uid).await,
    };
    match done {
        Err(status) if !is_overtaken(&status) => Err(status),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_objects_follow_what_is_served_and_others_are_left_alone() {
        let wanted = object("apps", "v1", Priority { group: 17_800, version: 15 }, ON_START);
        let mut stale = wanted.clone();
        stale["spec"]["versionPriority"] = 1.into();
        stale["metadata"]["uid"] = "u".into();
        let mut users = stale.clone();
        users["metadata"]["labels"] = json!({});
        assert_eq!(plan(None, Some(&wanted)), Step::Create(wanted.clone()));
        assert_eq!(plan(Some(&wanted), Some(&wanted)), Step::Nothing);
        assert!(matches!(plan(Some(&stale), Some(&wanted)), Step::Replace(o) if o["spec"] == wanted["spec"]));
        assert_eq!(plan(Some(&stale), None), Step::Delete("u".into()));
        assert_eq!(plan(Some(&users), Some(&wanted)), Step::Nothing);
        assert_eq!(plan(Some(&users), None), Step::Nothing);
    }

    #[test]
    fn the_core_group_has_no_group() {
        let core = object("", "v1", Priority::of("", "v1"), ON_START);
        assert_eq!(core["metadata"]["name"], "v1.");
        assert_eq!(core["spec"], json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1}));
    }
}
