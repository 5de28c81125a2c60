//! Which nodes lack a pod of a DaemonSet and which pods are too many, whatever the version; and the status. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::Object;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;

use super::eligibility::{Requirements, Verdict};
use super::pod;
use crate::int_or_percent::{self, Round, scaled};
use crate::pod_state;

/// The pods of a set by the node that they are on or meant for.
pub type PodsByNode = BTreeMap<String, Vec<Arc<Pod>>>;

/// Pods that have ended and are being deleted count only where history is asked for.
pub fn by_node(pods: &[Arc<Pod>]) -> PodsByNode {
    let mut by_node = PodsByNode::new();
    for pod in pods.iter().filter(|pod| !(pod_state::is_terminal(pod) && pod.is_terminating())) {
        if let Some(node) = pod::target_node(pod) {
            by_node.entry(node.to_owned()).or_default().push(pod.clone());
        }
    }
    by_node
}

/// What decisions about a set are made from.
pub struct Observed<'a> {
    pub set: &'a DaemonSet,
    pub nodes: &'a [Arc<Node>],
    pub pods: &'a PodsByNode,
    pub requirements: &'a Requirements,
    /// The present version.
    pub hash: &'a str,
    pub now: Timestamp,
}

/// Something to tell about the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Failed(String),
    Succeeded(String),
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    pub notices: Vec<Notice>,
    /// When a failed pod may be deleted that may not be yet.
    pub retry: Option<Duration>,
}

impl Observed<'_> {
    fn min_ready(&self) -> i32 {
        self.set.spec.min_ready_seconds.unwrap_or(0)
    }

    pub fn is_available(&self, pod: &Pod) -> bool {
        pod_state::is_available(pod, self.min_ready(), self.now)
    }

    pub fn is_updated(&self, pod: &Pod) -> bool {
        pod::is_updated(self.set, pod, self.hash)
    }

    /// How many nodes should have a pod.
    pub fn wanted(&self) -> i32 {
        count(self.nodes.iter().filter(|node| self.requirements.judge(node).should_run()).count())
    }

    /// Pods that may be there twice, of so many.
    pub fn max_surge(&self, wanted: i32) -> Result<i32, int_or_percent::Error> {
        self.bound(|rolling| rolling.max_surge.as_ref(), wanted)
    }

    /// Pods that may be missing, of so many.
    pub fn max_unavailable(&self, wanted: i32) -> Result<i32, int_or_percent::Error> {
        self.bound(|rolling| rolling.max_unavailable.as_ref(), wanted)
    }

    fn bound(
        &self,
        of: impl Fn(&k8s_openapi::api::apps::v1::RollingUpdateDaemonSet) -> Option<&k8s_openapi::apimachinery::pkg::util::intstr::IntOrString>,
        wanted: i32,
    ) -> Result<i32, int_or_percent::Error> {
        let strategy = self.set.spec.update_strategy.as_ref().filter(|s| s.type_.as_deref() != Some("OnDelete"));
        strategy.and_then(|s| of(s.rolling_update.as_ref()?)).map_or(Ok(0), |value| scaled(value, wanted, Round::Up))
    }

    /// Brings every node to the number of pods that it should have. `backoff` says how long a failed pod of a node has to stay,
    /// and counts the deletion if it need not.
    pub fn plan(&self, mut backoff: impl FnMut(&str) -> Option<Duration>) -> Plan {
        let mut plan = Plan::default();
        let surges = self.max_surge(1).is_ok_and(|surge| surge > 0);
        for node in self.nodes {
            self.plan_node(node, surges, &mut backoff, &mut plan);
        }
        let exists = |name: &String| self.nodes.iter().any(|node| node.name() == name);
        let stranded = self.pods.iter().filter(|(node, _)| !exists(node)).flat_map(|(_, pods)| pods);
        plan.delete.extend(stranded.filter(|pod| pod_state::node_name(pod).is_empty()).cloned());
        plan
    }

    fn plan_node(&self, node: &Node, surges: bool, backoff: &mut impl FnMut(&str) -> Option<Duration>, plan: &mut Plan) {
        let verdict = self.requirements.judge(node);
        let pods = self.pods.get(node.name());
        match (verdict, pods) {
            (Verdict::Wanted, None) => plan.create.push(node.name().to_owned()),
            (Verdict::Unfit, Some(pods)) => plan.delete.extend(pods.iter().filter(|pod| !pod.is_terminating()).cloned()),
            (_, None) => {}
            (_, Some(pods)) => {
                let mut running = self.sort_out_ended(node.name(), pods, backoff, plan);
                running.sort_by(|a, b| oldest_first(a, b));
                if running.is_empty() && surges && verdict.should_run() {
                    plan.create.push(node.name().to_owned());
                } else if surges {
                    self.thin_out_surge(&running, plan);
                } else {
                    plan.delete.extend(running.into_iter().skip(1));
                }
            }
        }
    }

    /// The pods that run; those that have ended are deleted.
    fn sort_out_ended(
        &self,
        node: &str,
        pods: &[Arc<Pod>],
        backoff: &mut impl FnMut(&str) -> Option<Duration>,
        plan: &mut Plan,
    ) -> Vec<Arc<Pod>> {
        let mut running = Vec::new();
        for pod in pods.iter().filter(|pod| !pod.is_terminating()) {
            let about = |what: &str, then: &str| format!("Found {what} daemon pod {} on node {node}, will try to {then} it", pod.key());
            match pod_state::phase(pod) {
                "Failed" => match backoff(node) {
                    Some(wait) => plan.retry = Some(plan.retry.map_or(wait, |other| other.min(wait))),
                    None => {
                        plan.notices.push(Notice::Failed(about("failed", "kill")));
                        plan.delete.push(pod.clone());
                    }
                },
                "Succeeded" => {
                    plan.notices.push(Notice::Succeeded(about("succeeded", "delete")));
                    plan.delete.push(pod.clone());
                }
                _ => running.push(pod.clone()),
            }
        }
        running
    }

    /// With a surge there may be one old and one new pod, until the new one is available or the old one is of no use.
    fn thin_out_surge(&self, running: &[Arc<Pod>], plan: &mut Plan) {
        if running.len() <= 1 {
            return;
        }
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) =
            running.iter().partition(|pod| pod.label(crate::controller_history::REVISION_LABEL) == Some(self.hash));
        plan.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)).map(|pod| (*pod).clone()));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pod_state::is_ready(old) || self.is_available(new))
        {
            plan.delete.push((*old).clone());
        }
    }

    /// The status. The generation counts as observed only if it was acted on.
    pub fn status(&self, acted: bool) -> DaemonSetStatus {
        let old = self.set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: if acted { self.set.metadata.generation } else { old.observed_generation },
            collision_count: old.collision_count,
            conditions: old.conditions,
            ..DaemonSetStatus::default()
        };
        let (mut available, mut updated) = (0, 0);
        for node in self.nodes {
            let pod = self.pods.get(node.name()).and_then(|pods| pods.iter().min_by(|a, b| oldest_first(a, b)));
            if !self.requirements.judge(node).should_run() {
                status.number_misscheduled += i32::from(pod.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = pod else { continue };
            status.current_number_scheduled += 1;
            if pod_state::is_ready(pod) {
                status.number_ready += 1;
                available += i32::from(self.is_available(pod));
            }
            updated += i32::from(self.is_updated(pod));
        }
        let present = |count: i32| (count != 0).then_some(count);
        status.number_available = present(available);
        status.number_unavailable = present(status.desired_number_scheduled - available);
        status.updated_number_scheduled = present(updated);
        status
    }
}

/// Assigned pods first, then the oldest.
fn oldest_first(a: &Pod, b: &Pod) -> std::cmp::Ordering {
    let unassigned = |pod: &Pod| pod_state::node_name(pod).is_empty();
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    unassigned(a).cmp(&unassigned(b)).then_with(|| created(a).cmp(&created(b))).then_with(|| a.name().cmp(b.name()))
}

fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
pub mod tests {
    use k8s_openapi::api::apps::v1::{DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
    use k8s_openapi::api::core::v1::PodSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    use super::*;
    use crate::controller_history::REVISION_LABEL;
    use crate::pod_state::tests::at;

    pub fn set(max_surge: i32, max_unavailable: i32) -> DaemonSet {
        let mut set = DaemonSet::default();
        set.metadata.name = Some("agent".to_owned());
        set.metadata.generation = Some(2);
        set.spec.update_strategy = Some(DaemonSetUpdateStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateDaemonSet {
                max_surge: Some(IntOrString::Int(max_surge)),
                max_unavailable: Some(IntOrString::Int(max_unavailable)),
            }),
        });
        set
    }

    /// Nodes `a`, `b`, … of which those named in capitals have a label that the template asks for.
    pub fn nodes(names: &str) -> Vec<Arc<Node>> {
        let node = |name: char| {
            let mut node = Node::default();
            node.metadata.name = Some(name.to_ascii_lowercase().to_string());
            node.metadata.labels = name.is_ascii_uppercase().then(|| [("agent".to_owned(), "yes".to_owned())].into());
            Arc::new(node)
        };
        names.chars().map(node).collect()
    }

    pub fn requirements() -> Requirements {
        Requirements::of(&PodSpec { node_selector: Some([("agent".to_owned(), "yes".to_owned())].into()), ..PodSpec::default() })
    }

    /// A pod as `NODE/STATE/VERSION`, the state being `ready`, `unready`, `failed`, `succeeded` or `going`.
    pub fn pod(text: &str) -> Arc<Pod> {
        let parts: Vec<&str> = text.split('/').collect();
        let (node, state, version) = (parts[0], parts[1], parts[2]);
        let mut pod = crate::pod_state::tests::pod(text, (state == "ready").then_some(0));
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        pod.metadata.labels = Some([(REVISION_LABEL.to_owned(), version.to_owned())].into());
        let status = pod.status.get_or_insert_default();
        match state {
            "failed" => status.phase = Some("Failed".to_owned()),
            "succeeded" => status.phase = Some("Succeeded".to_owned()),
            "going" => pod.metadata.deletion_timestamp = Some(Time(at(0))),
            _ => {}
        }
        Arc::new(pod)
    }

    pub fn observe<T>(set: &DaemonSet, names: &str, pods: &[&str], test: impl FnOnce(&Observed<'_>) -> T) -> T {
        let pods: Vec<Arc<Pod>> = pods.iter().map(|text| pod(text)).collect();
        let (nodes, pods, requirements) = (nodes(names), by_node(&pods), requirements());
        test(&Observed { set, nodes: &nodes, pods: &pods, requirements: &requirements, hash: "new", now: at(100) })
    }

    fn plan(max_surge: i32, names: &str, pods: &[&str]) -> (Vec<String>, Vec<String>) {
        let plan = observe(&set(max_surge, 1), names, pods, |observed| observed.plan(|_| None));
        (plan.create, plan.delete.iter().map(|pod| pod.name().to_owned()).collect())
    }

    fn want(create: &[&str], delete: &[&str]) -> (Vec<String>, Vec<String>) {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        (owned(create), owned(delete))
    }

    #[test]
    fn every_wanted_node_gets_one_pod_and_no_other_node_has_any() {
        assert_eq!(plan(0, "ABc", &["a/ready/new", "c/ready/new"]), want(&["b"], &["c/ready/new"]));
        assert_eq!(plan(0, "A", &["a/ready/new", "a/ready/old"]), want(&[], &["a/ready/old"]));
        assert_eq!(plan(0, "A", &["a/failed/new"]), want(&[], &["a/failed/new"]));
        assert_eq!(plan(0, "A", &["a/going/new"]), want(&[], &[]));
        assert_eq!(plan(0, "", &["x/ready/new"]), want(&[], &[]));
    }

    #[test]
    fn with_a_surge_old_and_new_stand_side_by_side_until_the_new_is_available() {
        assert_eq!(plan(1, "A", &["a/ready/old", "a/unready/new"]), want(&[], &[]));
        assert_eq!(plan(1, "A", &["a/ready/old", "a/ready/new"]), want(&[], &["a/ready/old"]));
        assert_eq!(plan(1, "A", &["a/unready/old", "a/unready/new"]), want(&[], &["a/unready/old"]));
        assert_eq!(plan(1, "A", &["a/going/old"]), want(&["a"], &[]));
    }

    #[test]
    fn failed_pods_are_deleted_not_too_often() {
        let plan = observe(&set(0, 1), "A", &["a/failed/new"], |observed| observed.plan(|_| Some(Duration::from_secs(4))));
        assert_eq!(plan, Plan { retry: Some(Duration::from_secs(4)), ..Plan::default() });
        let plan = observe(&set(0, 1), "A", &["a/succeeded/new"], |observed| observed.plan(|_| Some(Duration::from_secs(4))));
        let message = "Found succeeded daemon pod d/a/succeeded/new on node a, will try to delete it";
        assert_eq!(plan.notices, [Notice::Succeeded(message.to_owned())]);
    }

    #[test]
    fn the_status_counts_nodes() {
        let pods = ["a/ready/new", "b/unready/old", "d/ready/new"];
        let status = observe(&set(0, 1), "ABCd", &pods, |observed| observed.status(true));
        assert_eq!((status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled), (3, 2, 1));
        assert_eq!((status.number_ready, status.number_available, status.number_unavailable), (1, Some(1), Some(2)));
        assert_eq!((status.updated_number_scheduled, status.observed_generation), (Some(1), Some(2)));
    }
}
