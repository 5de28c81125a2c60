//! What controllers read out of a Node: its conditions, taints and zone. Pure, but for writing taints.

use client::{Object, answer};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

/// How often taints are written anew because others write the node at the same time.
const CONFLICTS_MAX: u32 = 5;

pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

pub fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|ready| ready.status == "True")
}

pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// Taints are told apart by key and effect.
pub fn is_same_taint(a: &Taint, b: &Taint) -> bool {
    a.key == b.key && a.effect == b.effect
}

/// Where the node is, as upstream writes it: region and zone, or nothing.
pub fn zone(node: &Node) -> String {
    let region = node.label("topology.kubernetes.io/region").or_else(|| node.label("failure-domain.beta.kubernetes.io/region"));
    let zone = node.label("topology.kubernetes.io/zone").or_else(|| node.label("failure-domain.beta.kubernetes.io/zone"));
    match (region.unwrap_or(""), zone.unwrap_or("")) {
        ("", "") => String::new(),
        (region, zone) => format!("{region}:\0:{zone}"),
    }
}

/// The node's taints after a change; nothing if nothing changes.
pub fn with_taints(node: &Node, add: &[Taint], remove: &[Taint]) -> Option<Vec<Taint>> {
    let old = taints(node);
    let named = |list: &[Taint], taint: &Taint| list.iter().any(|other| is_same_taint(other, taint));
    let changed = |taint: &&Taint| !old.iter().any(|o| is_same_taint(o, taint) && o.value == taint.value);
    let missing: Vec<Taint> = add.iter().filter(changed).cloned().collect();
    if missing.is_empty() && !old.iter().any(|taint| named(remove, taint)) {
        return None;
    }
    let kept = old.iter().filter(|taint| !named(&missing, taint) && !named(remove, taint));
    Some(missing.iter().chain(kept).cloned().collect())
}

/// Writes taints onto a node, and takes others off. The node as it is known is good enough to start with.
pub async fn change_taints(client: &Client, node: &Node, add: &[Taint], remove: &[Taint]) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(client.clone());
    let name = node.name().to_owned();
    let mut latest = None;
    let mut conflicts = 0;
    loop {
        let node = latest.as_ref().unwrap_or(node);
        let Some(taints) = with_taints(node, add, remove) else { return Ok(()) };
        let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(()),
            Err(error) if answer::is_not_found(&error) => return Ok(()),
            Err(error) if answer::is_conflict(&error) && conflicts < CONFLICTS_MAX => conflicts += 1,
            Err(error) => return Err(error),
        }
        match api.get_opt(&name).await? {
            None => return Ok(()),
            current => latest = current,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, effect: &str) -> Taint {
        Taint { key: key.to_owned(), effect: effect.to_owned(), ..Taint::default() }
    }

    fn node(taints: &[Taint]) -> Node {
        let mut node = Node::default();
        node.spec.get_or_insert_default().taints = Some(taints.to_vec());
        node
    }

    #[test]
    fn taints_are_added_once_and_others_kept() {
        let (a, b) = (taint("a", "NoSchedule"), taint("b", "NoExecute"));
        assert_eq!(with_taints(&node(&[]), std::slice::from_ref(&a), &[]), Some(vec![a.clone()]));
        assert_eq!(with_taints(&node(std::slice::from_ref(&a)), std::slice::from_ref(&a), std::slice::from_ref(&b)), None);
        assert_eq!(with_taints(&node(&[a.clone(), b.clone()]), &[], std::slice::from_ref(&a)), Some(vec![b.clone()]));
        assert_eq!(with_taints(&node(std::slice::from_ref(&b)), std::slice::from_ref(&a), &[taint("b", "NoSchedule")]), Some(vec![a, b]));
    }
}
