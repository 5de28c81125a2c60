//! Which objects belong to which node: pods by where they run, what pods refer to through them, volumes through claims. Pure.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::references::{pod_references, volume_secrets};
use crate::registry::read::{at, str_at};

/// The kinds that nodes ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Attachment,
    CertificateRequest,
    /// PersistentVolumeClaim.
    Claim,
    ConfigMap,
    Pod,
    ResourceClaim,
    Secret,
    ServiceAccount,
    Slice,
    /// PersistentVolume.
    Volume,
}

/// A kind, a namespace (empty for cluster-scoped kinds) and a name.
pub type Object = (Kind, Box<str>, Box<str>);

fn object(kind: Kind, namespace: &str, name: &str) -> Object {
    (kind, namespace.into(), name.into())
}

/// What a persistent volume is tied to.
struct Volume {
    claim: Object,
    secrets: Vec<Object>,
}

/// The relationships of now.
#[derive(Default)]
pub struct Graph {
    /// What a pod refers to, itself included, and its node.
    pods: HashMap<Object, (Box<str>, Vec<Object>)>,
    /// On how many pods of each node an object is referred to.
    users: HashMap<Object, HashMap<Box<str>, usize>>,
    volumes: HashMap<Box<str>, Volume>,
    /// Volumes by the secrets that they need.
    by_secret: HashMap<Object, HashSet<Box<str>>>,
    /// Objects that say themselves which node they are for.
    owned: HashMap<Object, Box<str>>,
}

impl Graph {
    /// Takes in a pod as it is now; `None` if it is gone.
    pub fn set_pod(&mut self, namespace: &str, name: &str, pod: Option<&Value>) {
        let key = object(Kind::Pod, namespace, name);
        if let Some((node, references)) = self.pods.remove(&key) {
            references.iter().for_each(|reference| self.forget(reference, &node));
        }
        let Some(pod) = pod.filter(|pod| !str_at(pod, "/spec/nodeName").is_empty()) else { return };
        let node: Box<str> = str_at(pod, "/spec/nodeName").into();
        let mut references = vec![key.clone()];
        // A node may make mirror pods, so these must not open anything to it.
        if at(pod, "/metadata/annotations").get("kubernetes.io/config.mirror").is_none() {
            pod_references(pod, &mut |kind, name| references.push(object(kind, namespace, name)));
        }
        references.sort_unstable_by(|a, b| (a.0 as u8, &a.1, &a.2).cmp(&(b.0 as u8, &b.1, &b.2)));
        references.dedup();
        for reference in &references {
            *self.users.entry(reference.clone()).or_default().entry(node.clone()).or_default() += 1;
        }
        self.pods.insert(key, (node, references));
    }

    fn forget(&mut self, reference: &Object, node: &str) {
        let Some(nodes) = self.users.get_mut(reference) else { return };
        if let Some(count) = nodes.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                nodes.remove(node);
            }
        }
        if nodes.is_empty() {
            self.users.remove(reference);
        }
    }

    /// Takes in a persistent volume as it is now; `None` if it is gone.
    pub fn set_volume(&mut self, name: &str, volume: Option<&Value>) {
        if let Some(old) = self.volumes.remove(name) {
            for secret in &old.secrets {
                let Some(volumes) = self.by_secret.get_mut(secret) else { continue };
                volumes.remove(name);
                if volumes.is_empty() {
                    self.by_secret.remove(secret);
                }
            }
        }
        let Some(volume) = volume else { return };
        let claim = at(volume, "/spec/claimRef");
        if claim.is_null() {
            return;
        }
        let mut secrets = Vec::new();
        volume_secrets(volume, &mut |namespace, name| secrets.push(object(Kind::Secret, namespace, name)));
        for secret in &secrets {
            self.by_secret.entry(secret.clone()).or_default().insert(name.into());
        }
        let claim = object(Kind::Claim, str_at(claim, "/namespace"), str_at(claim, "/name"));
        self.volumes.insert(name.into(), Volume { claim, secrets });
    }

    /// Takes in the node that an object says it is for; `None` if the object is gone, or is for no node.
    pub fn set_owned(&mut self, kind: Kind, namespace: &str, name: &str, node: Option<&str>) {
        let key = object(kind, namespace, name);
        match node.filter(|node| !node.is_empty()) {
            Some(node) => self.owned.insert(key, node.into()),
            None => self.owned.remove(&key),
        };
    }

    /// Whether something on the node needs the object.
    pub fn reaches(&self, kind: Kind, namespace: &str, name: &str, node: &str) -> bool {
        let key = object(kind, namespace, name);
        let used = |object: &Object| self.users.get(object).is_some_and(|nodes| nodes.contains_key(node));
        let through = |volume: &str| self.volumes.get(volume).is_some_and(|v| used(&v.claim));
        match kind {
            Kind::Attachment | Kind::CertificateRequest | Kind::Slice => self.owned.get(&key).is_some_and(|own| **own == *node),
            Kind::Volume => through(name),
            Kind::Secret => used(&key) || self.by_secret.get(&key).is_some_and(|volumes| volumes.iter().any(|volume| through(volume))),
            _ => used(&key),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str, claim: &str) -> Value {
        json!({ "spec": { "nodeName": node, "volumes": [{ "persistentVolumeClaim": { "claimName": claim } }] } })
    }

    #[test]
    fn a_volume_belongs_to_a_node_through_the_claim_of_a_pod() {
        let mut graph = Graph::default();
        graph.set_pod("a", "p", Some(&pod("n", "c")));
        graph.set_pod("a", "q", Some(&pod("n", "c")));
        let volume = json!({ "spec": { "claimRef": { "namespace": "a", "name": "c" }, "csi": { "nodeStageSecretRef": { "namespace": "x", "name": "s" } } } });
        graph.set_volume("v", Some(&volume));
        let reached = |graph: &Graph, node: &str| {
            [(Kind::Claim, "a", "c"), (Kind::Volume, "", "v"), (Kind::Secret, "x", "s")]
                .map(|(kind, ns, name)| graph.reaches(kind, ns, name, node))
        };
        assert_eq!(reached(&graph, "n"), [true; 3]);
        assert_eq!(reached(&graph, "m"), [false; 3]);
        graph.set_pod("a", "p", None);
        assert_eq!(reached(&graph, "n"), [true; 3]);
        graph.set_volume("v", None);
        assert_eq!(reached(&graph, "n"), [true, false, false]);
        graph.set_pod("a", "q", None);
        assert_eq!(reached(&graph, "n"), [false; 3]);
        assert!(graph.users.is_empty() && graph.by_secret.is_empty());
    }

    #[test]
    fn mirror_pods_open_nothing() {
        let mut graph = Graph::default();
        let mut mirror = pod("n", "c");
        mirror["metadata"] = json!({ "annotations": { "kubernetes.io/config.mirror": "x" } });
        graph.set_pod("a", "p", Some(&mirror));
        assert!(graph.reaches(Kind::Pod, "a", "p", "n") && !graph.reaches(Kind::Claim, "a", "c", "n"));
    }
}
