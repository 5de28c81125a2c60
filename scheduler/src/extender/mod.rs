//! Extenders: services that are asked over HTTP which nodes will do for a pod, which are best, whom to remove, and to bind it.
//!
//! Specified by upstream's `extender.go` (v1.37) and `k8s.io/kube-scheduler/extender/v1`. [`wire`] has the forms of questions and answers,
//! [`caller`] sends them; when which question is asked is up to the core, which pauses its attempt until it is answered.

pub mod caller;
pub mod wire;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::config::{Config, Extender};
use crate::event::{Actions, Interest, Resource};
use crate::framework::{Plugin, Point};

/// One request to an extender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its place among [`ordered`].
    pub extender: usize,
    /// What is added to its address.
    pub verb: String,
    /// JSON.
    pub body: Vec<u8>,
}

/// The extenders in the order in which they are asked: those that can be done without come last.
pub fn ordered(config: &Config) -> Vec<Extender> {
    let (last, first): (Vec<_>, Vec<_>) = config.extenders.iter().cloned().partition(|extender| extender.ignorable);
    first.into_iter().chain(last).collect()
}

/// The resources that NodeResourcesFit leaves to extenders.
pub fn ignored_resources(config: &Config) -> Vec<String> {
    let all = config.extenders.iter().flat_map(|extender| &extender.managed_resources);
    all.filter(|resource| resource.ignored_by_scheduler).map(|resource| resource.name.clone()).collect()
}

/// Whether the extender is asked about the pod: all its resources are another's otherwise.
pub fn is_interested(extender: &Extender, pod: &Pod) -> bool {
    if extender.managed_resources.is_empty() {
        return true;
    }
    let is_managed = |name: &String| extender.managed_resources.iter().any(|managed| managed.name == *name);
    let wants = |container: &Container| {
        let resources = container.resources.iter();
        resources.flat_map(|r| r.requests.iter().chain(&r.limits)).any(|amounts| amounts.keys().any(is_managed))
    };
    let spec = crate::snapshot::pod::spec(pod);
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(wants)
}

/// Stands for the extenders among the plugins that have refused a pod. Nobody knows what an extender waits for, so that anything
/// that happens has the pod tried again.
pub struct Extenders;

impl Plugin for Extenders {
    fn name(&self) -> &'static str {
        "Extender"
    }

    fn points(&self) -> &'static [Point] {
        &[]
    }

    fn interests(&self) -> &'static [Interest] {
        const {
            &[
                Interest::any(Resource::AssignedPod, Actions::ALL),
                Interest::any(Resource::UnscheduledPod, Actions::ALL),
                Interest::any(Resource::TargetPod, Actions::ALL),
                Interest::any(Resource::Node, Actions::ALL),
                Interest::any(Resource::PersistentVolume, Actions::ALL),
                Interest::any(Resource::PersistentVolumeClaim, Actions::ALL),
                Interest::any(Resource::CsiNode, Actions::ALL),
                Interest::any(Resource::CsiDriver, Actions::ALL),
                Interest::any(Resource::CsiStorageCapacity, Actions::ALL),
                Interest::any(Resource::StorageClass, Actions::ALL),
                Interest::any(Resource::ResourceClaim, Actions::ALL),
                Interest::any(Resource::DeviceClass, Actions::ALL),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::of;

    fn extender(name: &str, managed: &[&str], ignorable: bool) -> Extender {
        let managed: Vec<_> = managed.iter().map(|name| json!({"name": name, "ignoredByScheduler": *name == "a.com/x"})).collect();
        serde_json::from_value(json!({"urlPrefix": name, "managedResources": managed, "ignorable": ignorable})).unwrap()
    }

    #[test]
    fn those_that_can_be_done_without_come_last() {
        let extenders = vec![extender("a", &[], true), extender("b", &["a.com/x", "a.com/y"], false), extender("c", &[], false)];
        let config = Config { extenders, ..Config::default() };
        assert_eq!(ordered(&config).iter().map(|e| e.url_prefix.as_str()).collect::<Vec<_>>(), ["b", "c", "a"]);
        assert_eq!(ignored_resources(&config), ["a.com/x"]);
    }

    #[test]
    fn an_extender_is_asked_about_pods_that_want_what_it_manages() {
        let pod = |key: &str, kind: &str| -> std::sync::Arc<Pod> {
            let container = json!({"name": "c", "resources": {kind: {"a.com/x": "1"}}});
            let mut spec = json!({"containers": [{"name": "other"}]});
            spec[key] = json!([container]);
            of(json!({"spec": spec}))
        };
        for (managed, pod, expected) in [
            (&[][..], of(json!({"spec": {"containers": []}})), true),
            (&["a.com/x"][..], pod("containers", "requests"), true),
            (&["a.com/x"][..], pod("containers", "limits"), true),
            (&["a.com/x"][..], pod("initContainers", "requests"), true),
            (&["a.com/y"][..], pod("containers", "requests"), false),
            (&["a.com/y"][..], of(json!({"spec": {"containers": []}})), false),
        ] {
            assert_eq!(is_interested(&extender("e", managed, false), &pod), expected, "{managed:?} {pod:?}");
        }
    }
}
