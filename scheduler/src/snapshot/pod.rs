//! What the scheduler knows of a pod, computed once when the pod arrives. Pods that are alike share a [`Template`].

use std::collections::VecDeque;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec, Toleration};
use k8s_openapi::jiff::Timestamp;

use super::terms::{Constraint, Terms, constraints};
use crate::node_selector::{self, Required};
use crate::resources::{PodRequests, pod_requests};

/// A pod's uid; who has none is known by namespace and name.
pub type Uid = Arc<str>;

/// A port of the host that a pod takes for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

/// Everything that scheduling reads of a pod and that pods of one owner have in common.
#[derive(Debug)]
pub struct Template {
    /// Never given twice.
    pub id: u64,
    /// One of the pods; all others are like it in what matters here.
    sample: Arc<Pod>,
    pub namespace: Arc<str>,
    pub priority: i32,
    pub spec_requests: PodRequests,
    pub ports: Vec<HostPort>,
    pub required: Required,
    pub preferred: Vec<(node_selector::Term, i64)>,
    pub terms: Result<Terms, String>,
    pub hard_spread: Result<Vec<Constraint>, String>,
    pub soft_spread: Result<Vec<Constraint>, String>,
    /// The images that it runs and mounts, as nodes name them.
    pub images: Vec<String>,
    /// What its node has to support, see the plugin NodeDeclaredFeatures.
    pub features: Vec<&'static str>,
}

static NO_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

/// The spec of a pod; the API server lets none be without.
pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&NO_SPEC)
}

impl Template {
    fn new(id: u64, pod: &Arc<Pod>) -> Template {
        let spec = spec(pod);
        let labels = pod.metadata.labels.as_ref();
        Template {
            id,
            namespace: Arc::from(pod.metadata.namespace.as_deref().unwrap_or("")),
            priority: spec.priority.unwrap_or(0),
            spec_requests: pod_requests(pod, false),
            ports: host_ports(spec),
            required: Required::new(spec),
            preferred: node_selector::preferred(spec.affinity.as_ref()),
            terms: Terms::of(pod),
            hard_spread: constraints(spec, labels, true),
            soft_spread: constraints(spec, labels, false),
            images: images(spec),
            features: crate::plugins::node_declared_features::required_features(spec),
            sample: pod.clone(),
        }
    }

    pub fn spec(&self) -> &PodSpec {
        spec(&self.sample)
    }

    pub fn labels(&self) -> Option<&std::collections::BTreeMap<String, String>> {
        self.sample.metadata.labels.as_ref()
    }

    pub fn tolerations(&self) -> &[Toleration] {
        self.spec().tolerations.as_deref().unwrap_or_default()
    }

    /// The terms, none if they cannot be read (then the pod is refused before they matter).
    pub fn terms(&self) -> &Terms {
        static NONE: Terms = Terms { affinity: Vec::new(), anti_affinity: Vec::new(), preferred: Vec::new() };
        self.terms.as_ref().unwrap_or(&NONE)
    }

    /// Whether the pod is like the sample in all that a template is made of.
    pub fn describes(&self, pod: &Pod) -> bool {
        let (own, other) = (self.spec(), spec(pod));
        *self.namespace == *pod.metadata.namespace.as_deref().unwrap_or("")
            && self.sample.metadata.labels == pod.metadata.labels
            && own.priority == other.priority
            && own.scheduler_name == other.scheduler_name
            && own.node_selector == other.node_selector
            && own.tolerations == other.tolerations
            && own.affinity == other.affinity
            && own.topology_spread_constraints == other.topology_spread_constraints
            && own.overhead == other.overhead
            && own.resources == other.resources
            && own.preemption_policy == other.preemption_policy
            && own.host_network == other.host_network
            && own.host_users == other.host_users
            && alike(&own.containers, &other.containers)
            && alike(own.init_containers.as_deref().unwrap_or_default(), other.init_containers.as_deref().unwrap_or_default())
            && image_volumes(own).eq(image_volumes(other))
    }
}

fn alike(a: &[Container], b: &[Container]) -> bool {
    let mounts = |c: &Container| c.volume_mounts.iter().flatten().any(|m| m.bind_mount_options.as_ref().is_some_and(|o| !o.is_empty()));
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            a.image == b.image
                && a.resources == b.resources
                && a.ports == b.ports
                && a.restart_policy == b.restart_policy
                && a.restart_policy_rules == b.restart_policy_rules
                && mounts(a) == mounts(b)
        })
}

fn image_volumes(spec: &PodSpec) -> impl Iterator<Item = &str> {
    spec.volumes.iter().flatten().filter_map(|v| v.image.as_ref()?.reference.as_deref())
}

/// The host ports of containers and of sidecars.
fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let or = |text: &Option<String>, other: &str| text.clone().filter(|t| !t.is_empty()).unwrap_or_else(|| other.to_owned());
            Some(HostPort { ip: or(&port.host_ip, "0.0.0.0"), protocol: or(&port.protocol, "TCP"), port: number })
        })
        .collect()
}

fn images(spec: &PodSpec) -> Vec<String> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| c.image.as_deref().unwrap_or(""));
    containers.chain(image_volumes(spec)).map(normalized_image).collect()
}

/// An image's name with its tag.
pub fn normalized_image(name: &str) -> String {
    if name.rfind(':') <= name.rfind('/') { format!("{name}:latest") } else { name.to_owned() }
}

/// A pod as the scheduler sees it.
#[derive(Clone, Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub uid: Uid,
    pub template: Arc<Template>,
    /// What it takes of its node: the spec, or more while the kubelet has not given back what it had.
    pub requests: PodRequests,
    pub terminating: bool,
    /// When it started, which decides between equals who is preempted.
    pub started: Option<Timestamp>,
    /// The claims that it mounts, as `namespace/name`.
    pub claims: Vec<String>,
    /// The node that it is taken to be on while its binding is underway.
    pub assumed: Option<Arc<str>>,
}

impl PodInfo {
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or("")
    }

    pub fn namespace(&self) -> &str {
        &self.template.namespace
    }

    pub fn priority(&self) -> i32 {
        self.template.priority
    }

    pub fn spec(&self) -> &PodSpec {
        spec(&self.pod)
    }

    /// The node that it is bound to; empty if none.
    pub fn node_name(&self) -> &str {
        self.assumed.as_deref().or(self.spec().node_name.as_deref()).unwrap_or("")
    }

    /// The node that has been found for it, if it is not there yet; empty if none.
    pub fn nominated_node(&self) -> &str {
        self.pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).unwrap_or("")
    }

    pub fn scheduler_name(&self) -> &str {
        self.spec().scheduler_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(crate::config::DEFAULT_SCHEDULER_NAME)
    }

    /// Whether the nodes that its node affinity allows include this one.
    pub fn allows(&self, node: &Node) -> bool {
        self.template.required.matches(node)
    }

    /// Whether another state of the same pod weighs the same on its node and for other pods.
    pub fn weighs_like(&self, other: &PodInfo) -> bool {
        Arc::ptr_eq(&self.template, &other.template)
            && self.terminating == other.terminating
            && self.requests == other.requests
            && self.claims == other.claims
    }
}

/// Templates in use lately, the last used first: most pods are like one that came shortly before.
#[derive(Default)]
pub struct Templates {
    recent: VecDeque<Arc<Template>>,
    next: u64,
}

/// How many templates are compared with a new pod. More kinds of pods at a time are compiled again and again, which is slow but right.
const RECENT: usize = 64;

impl Templates {
    fn template(&mut self, pod: &Arc<Pod>) -> Arc<Template> {
        if let Some(place) = self.recent.iter().position(|template| template.describes(pod)) {
            let template = self.recent[place].clone();
            // Moving on every hit would cost more than it saves.
            if place > 8 {
                self.recent.remove(place);
                self.recent.push_front(template.clone());
            }
            return template;
        }
        self.next += 1;
        let template = Arc::new(Template::new(self.next, pod));
        self.recent.push_front(template.clone());
        self.recent.truncate(RECENT);
        template
    }

    /// `before` is what was known of the pod, if it was.
    pub fn info(&mut self, pod: &Arc<Pod>, before: Option<&PodInfo>) -> PodInfo {
        let template = match before.filter(|before| before.template.describes(pod)) {
            Some(before) => before.template.clone(),
            None => self.template(pod),
        };
        let namespace = &template.namespace;
        let claims = spec(pod).volumes.iter().flatten().filter_map(|v| v.persistent_volume_claim.as_ref());
        let status = pod.status.as_ref();
        let by_status = status.is_some_and(|s| s.container_statuses.is_some() || s.resources.is_some() || s.allocated_resources.is_some());
        PodInfo {
            uid: uid_of(pod),
            requests: if by_status { pod_requests(pod, true) } else { template.spec_requests.clone() },
            terminating: pod.metadata.deletion_timestamp.is_some(),
            started: status.and_then(|s| s.start_time.as_ref()).map(|time| time.0),
            claims: claims.map(|claim| format!("{namespace}/{}", claim.claim_name)).collect(),
            assumed: None,
            template,
            pod: pod.clone(),
        }
    }
}

pub fn uid_of(pod: &Pod) -> Uid {
    match pod.metadata.uid.as_deref() {
        Some(uid) if !uid.is_empty() => Arc::from(uid),
        _ => Arc::from(format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or(""), pod.metadata.name.as_deref().unwrap_or(""))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, cpu: &str) -> Arc<Pod> {
        let container = json!({"name": "c", "image": "busybox", "resources": {"requests": {"cpu": cpu}}});
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"containers": [container]}}))
                .unwrap(),
        )
    }

    #[test]
    fn pods_that_are_alike_share_a_template() {
        let mut templates = Templates::default();
        let (a, b, c) = (templates.info(&pod("a", "1"), None), templates.info(&pod("b", "1"), None), templates.info(&pod("c", "2"), None));
        assert!(Arc::ptr_eq(&a.template, &b.template));
        assert!(!Arc::ptr_eq(&a.template, &c.template));
        assert_eq!(a.template.images, ["busybox:latest"]);
    }

    #[test]
    fn an_image_without_tag_is_the_latest() {
        for (name, expected) in [("a", "a:latest"), ("a:1", "a:1"), ("h:5000/a", "h:5000/a:latest"), ("h:5000/a:2", "h:5000/a:2")] {
            assert_eq!(normalized_image(name), expected);
        }
    }
}
