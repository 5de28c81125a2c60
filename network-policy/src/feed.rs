//! What has changed since it was last asked: informers' handlers write here, and the loop takes it all at once as the engine's
//! changes. Knows what of the objects counts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use client::{Change, Informer, Object, ObjectKey};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::engine;
use crate::pod::{Pod, SlimPod, stand_in};
use crate::policy::Policy;
use crate::run::Sources;

/// What a key is the key of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Dirty {
    Policy(ObjectKey),
    Pod(ObjectKey),
    Namespace(String),
    StandIn(ObjectKey),
}

/// Objects that have changed. Bounded by their number.
#[derive(Default)]
pub struct Feed {
    dirty: Mutex<HashSet<Dirty>>,
    notify: Notify,
}

/// Pods of this node that have addresses which the API server has not told of yet.
#[derive(Default)]
pub struct Starting {
    pods: HashMap<ObjectKey, Hint>,
}

struct Hint {
    uid: String,
    pod: Pod,
    /// Whether the API server has told of this very pod.
    is_seen: bool,
}

/// No pod has such a name, so that what stands in for one does not get into its way.
fn stand_in_key(key: &ObjectKey) -> ObjectKey {
    ObjectKey::new(&key.namespace, &format!("slice {}", key.name))
}

impl Feed {
    /// Follows policies. What is known already counts as changed.
    pub fn follow_policies(self: &Arc<Self>, policies: &Informer<NetworkPolicy>) {
        let feed = self.clone();
        policies.on_change(move |change: &Change<NetworkPolicy>| {
            if change.old().is_none_or(|old| old.spec != change.object().spec) {
                feed.mark(Dirty::Policy(change.object().key()));
            }
        });
    }

    /// Follows everything that policies speak of.
    pub fn follow_others(self: &Arc<Self>, sources: &Sources, node_name: &str) {
        let (feed, node) = (self.clone(), node_name.to_owned());
        sources.pods.on_change(move |change: &Change<SlimPod>| {
            if change.old().is_none_or(|old| old.pod(&node) != change.object().pod(&node) || old.uid() != change.object().uid()) {
                feed.mark(Dirty::Pod(change.object().key()));
            }
        });
        let feed = self.clone();
        sources.namespaces.on_change(move |change: &Change<Namespace>| {
            if change.old().is_none_or(|old| old.metadata.labels != change.object().metadata.labels) {
                feed.mark(Dirty::Namespace(change.object().name().to_owned()));
            }
        });
        let feed = self.clone();
        sources.stand_ins.on_change(move |change: &Change<EndpointSlice>| feed.mark(Dirty::StandIn(change.object().key())));
    }

    fn mark(&self, what: Dirty) {
        self.dirty.lock().insert(what);
        self.notify.notify_one();
    }

    /// Waits until there is something to take.
    pub async fn wait(&self) {
        loop {
            let notified = self.notify.notified();
            if !self.dirty.lock().is_empty() {
                return;
            }
            notified.await;
        }
    }

    /// How everything that has changed is now.
    pub fn take(&self, sources: &Sources, starting: &mut Starting, node_name: &str) -> Vec<engine::Change> {
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let change = |what| match what {
            Dirty::Policy(key) => {
                let policy = sources.policies.get_key(&key).map(|policy| Policy::of(&policy));
                engine::Change::Policy(key, policy)
            }
            Dirty::Namespace(name) => {
                let namespace = sources.namespaces.get("", &name);
                engine::Change::Namespace(name, namespace.map(|namespace| namespace.metadata.labels.clone().unwrap_or_default()))
            }
            Dirty::StandIn(key) => {
                let pod = sources.stand_ins.get_key(&key).and_then(|slice| stand_in(&slice));
                engine::Change::Pod(stand_in_key(&key), pod)
            }
            Dirty::Pod(key) => {
                let object = sources.pods.get_key(&key);
                let told = object.as_ref().and_then(|object| object.pod(node_name));
                let pod = starting.reconcile(&key, object.as_deref(), told);
                engine::Change::Pod(key, pod)
            }
        };
        dirty.into_iter().map(change).collect()
    }
}

impl Starting {
    /// Remembers a pod until the API server tells of its addresses, or of its end. Gives what is known of it now.
    pub fn remember(&mut self, key: &ObjectKey, uid: &str, pod: &Pod, object: Option<&SlimPod>, node_name: &str) -> Option<Pod> {
        self.pods.insert(key.clone(), Hint { uid: uid.to_owned(), pod: pod.clone(), is_seen: false });
        self.reconcile(key, object, object.and_then(|object| object.pod(node_name)))
    }

    /// What the API server tells of a pod, completed by what is known here; forgets what it has told.
    fn reconcile(&mut self, key: &ObjectKey, object: Option<&SlimPod>, told: Option<Pod>) -> Option<Pod> {
        let Some(hint) = self.pods.get_mut(key) else { return told };
        let is_same = object.is_some_and(|object| object.uid() == hint.uid);
        hint.is_seen |= is_same;
        // What is told of an earlier pod of the same name is late.
        let is_late = match object {
            None => !hint.is_seen,
            Some(object) => !is_same && object.created() <= hint.pod.created,
        };
        match (object, told) {
            _ if is_late => Some(hint.pod.clone()),
            // The server tells what it was told, which may be of a sandbox that is gone.
            (Some(object), told) if is_same && !object.is_over() && told.as_ref().is_none_or(|pod| pod.addresses != hint.pod.addresses) => {
                hint.pod.labels = object.labels();
                Some(hint.pod.clone())
            }
            (_, told) => {
                self.pods.remove(key);
                told
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(uid: &str, created: &str, ip: Option<&str>, phase: &str) -> SlimPod {
        let ips: Vec<_> = ip.iter().map(|ip| json!({"ip": ip})).collect();
        let metadata = json!({"namespace": "a", "name": "p", "uid": uid, "creationTimestamp": created, "labels": {"app": "x"}});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"nodeName": "n"}, "status": {"phase": phase, "podIPs": ips}})).unwrap()
    }

    #[test]
    fn what_the_kubelet_knows_first_holds_until_the_server_tells() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let key = ObjectKey::new("a", "p");
        let mut starting = Starting::default();
        let told = |starting: &mut Starting, object: Option<SlimPod>| {
            let pod = object.as_ref().and_then(|object| object.pod("n"));
            starting.reconcile(&key, object.as_ref(), pod).map(|pod| pod.addresses[0].to_string())
        };
        let hint = object("2", late, Some("10.0.0.2"), "Pending").pod("n").unwrap();
        let one = |text: &str| Some(text.to_owned());
        let remember = |starting: &mut Starting| starting.remember(&ObjectKey::new("a", "p"), "2", &hint, None, "n");
        assert_eq!(remember(&mut starting), Some(hint.clone()));
        assert_eq!(told(&mut starting, None), one("10.0.0.2"), "the server has not told of the pod at all");
        assert_eq!(told(&mut starting, Some(object("1", early, Some("10.0.0.1"), "Running"))), one("10.0.0.2"), "of an earlier one");
        assert_eq!(told(&mut starting, Some(object("2", late, None, "Pending"))), one("10.0.0.2"));
        assert_eq!(told(&mut starting, Some(object("2", late, Some("10.0.0.3"), "Running"))), one("10.0.0.2"), "of a sandbox that is gone");
        assert_eq!(told(&mut starting, Some(object("2", late, Some("10.0.0.2"), "Running"))), one("10.0.0.2"));
        assert!(starting.pods.is_empty());
        for end in [None, Some(object("2", late, None, "Failed"))] {
            remember(&mut starting);
            told(&mut starting, Some(object("2", late, None, "Pending")));
            assert_eq!(told(&mut starting, end), None);
            assert!(starting.pods.is_empty());
        }
    }
}
