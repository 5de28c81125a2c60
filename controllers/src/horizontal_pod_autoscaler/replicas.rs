//! How many replicas a metric asks for. Pure.
//!
//! Pods that are not ready, and pods without a value, are counted so that they never make the change larger than it would be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::quantity::Quantity;
use client::Object;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::pod_state;

/// One pod's value, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub value: i64,
    pub timestamp: Timestamp,
    pub window: SignedDuration,
}

/// Values by the pods' names.
pub type Samples = BTreeMap<String, Sample>;

/// How far usage may be from the target without a change, as a share of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    pub down: f64,
    pub up: f64,
}

impl Tolerances {
    fn holds(self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// For how long a pod's processor use is not believed.
#[derive(Clone, Copy, Debug)]
pub struct Startup {
    pub cpu_initialization: SignedDuration,
    pub initial_readiness_delay: SignedDuration,
}

/// By which rules values are judged, and when.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub tolerances: Tolerances,
    pub startup: Startup,
    pub now: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no pods returned by selector while calculating replica count")]
    PodsMissing,
    #[error("did not receive metrics for targeted pods (pods might be unready)")]
    SamplesMissing,
    #[error("no metrics returned matched known pods")]
    Unmatched,
    #[error("missing request for {resource} in container {container} of Pod {pod}")]
    RequestMissing { resource: String, container: String, pod: String },
    #[error("missing pod-level request for {resource} in Pod {pod}")]
    PodRequestMissing { resource: String, pod: String },
    #[error("container {container} not found in Pod {pod}")]
    ContainerUnknown { container: String, pod: String },
}

/// What a metric asks for, and what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub replicas: i32,
    /// The average, in thousandths.
    pub usage: i64,
    /// In percent of what pods request, where that is the target.
    pub utilization: Option<i32>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn group(pods: &[Arc<Pod>], samples: &Samples, is_cpu: bool, rules: &Rules) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.name().to_owned();
        let phase = pod_state::phase(pod);
        if pod.is_terminating() || phase == "Failed" {
            groups.ignored.insert(name);
        } else if phase == "Pending" {
            groups.unready.insert(name);
        } else if let Some(sample) = samples.get(&name) {
            if is_cpu && is_unready(pod, sample, rules) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

fn is_unready(pod: &Pod, sample: &Sample, rules: &Rules) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let (Some(started), Some(ready)) = (started, pod_state::condition(pod, "Ready")) else { return true };
    let since = ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let later = |time: Timestamp, by: SignedDuration| time.saturating_add(by).unwrap_or(Timestamp::MAX);
    if later(started, rules.startup.cpu_initialization) > rules.now {
        ready.status == "False" || sample.timestamp < later(since, sample.window)
    } else {
        ready.status == "False" && later(started, rules.startup.initial_readiness_delay) > since
    }
}

/// Rounded up; a number that no count can be is the largest.
#[expect(clippy::cast_possible_truncation, reason = "the value is within the bounds of the type")]
fn up(replicas: f64) -> i32 {
    replicas.ceil().clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i32
}

#[expect(clippy::cast_precision_loss, reason = "shares need not be exact")]
fn float(number: i64) -> f64 {
    number as f64
}

fn count(number: usize) -> f64 {
    float(i64::try_from(number).unwrap_or(i64::MAX))
}

/// What is measured against the target: the ratio, the average, and the utilization where that is asked for.
type Ratio<'a> = dyn Fn(&Samples) -> Result<(f64, i64, Option<i32>), Error> + 'a;

fn propose(
    current: i32,
    groups: &Groups,
    mut samples: Samples,
    tolerances: Tolerances,
    ratio_of: &Ratio<'_>,
    when_missing: impl Fn(&str) -> i64,
) -> Result<Proposal, Error> {
    samples.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    if samples.is_empty() {
        return Err(Error::SamplesMissing);
    }
    let (ratio, usage, utilization) = ratio_of(&samples)?;
    let proposal = |replicas: i32| Proposal { replicas, usage, utilization };
    let with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !with_unready && groups.missing.is_empty() {
        return Ok(proposal(if tolerances.holds(ratio) { current } else { up(ratio * count(groups.ready)) }));
    }
    let sample = |value: i64| Sample { value, timestamp: Timestamp::UNIX_EPOCH, window: SignedDuration::ZERO };
    for name in &groups.missing {
        if ratio < 1.0 {
            samples.insert(name.clone(), sample(when_missing(name)));
        } else if ratio > 1.0 {
            samples.insert(name.clone(), sample(0));
        }
    }
    if with_unready {
        samples.extend(groups.unready.iter().map(|name| (name.clone(), sample(0))));
    }
    let (again, _, _) = ratio_of(&samples)?;
    let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if tolerances.holds(again) || turned {
        return Ok(proposal(current));
    }
    let replicas = up(again * count(samples.len()));
    let turned = (again < 1.0 && replicas > current) || (again > 1.0 && replicas < current);
    Ok(proposal(if turned { current } else { replicas }))
}

/// For a target in percent of what pods request.
pub fn by_utilization(
    current: i32,
    target: i32,
    resource: &str,
    container: &str,
    pods: &[Arc<Pod>],
    samples: Samples,
    rules: &Rules,
) -> Result<Proposal, Error> {
    if pods.is_empty() {
        return Err(Error::PodsMissing);
    }
    let groups = group(pods, &samples, resource == "cpu", rules);
    let requests = requests(pods, container, resource)?;
    let ratio_of = |samples: &Samples| {
        let known: Vec<(i64, i64)> = samples.iter().filter_map(|(name, sample)| Some((sample.value, *requests.get(name)?))).collect();
        let (used, requested): (i64, i64) = known.iter().fold((0, 0), |(a, b), (value, request)| (a + value, b + request));
        if requested == 0 {
            return Err(Error::Unmatched);
        }
        let percent = i32::try_from(used.saturating_mul(100) / requested).unwrap_or(i32::MAX);
        let average = used / i64::try_from(known.len()).unwrap_or(1).max(1);
        Ok((f64::from(percent) / f64::from(target), average, Some(percent)))
    };
    let missing = |name: &str| requests.get(name).copied().unwrap_or(0).saturating_mul(i64::from(target.max(100))) / 100;
    propose(current, &groups, samples, rules.tolerances, &ratio_of, missing)
}

/// For a target per pod, in thousandths.
pub fn by_average(current: i32, target: i64, is_cpu: bool, pods: &[Arc<Pod>], samples: Samples, rules: &Rules) -> Result<Proposal, Error> {
    if pods.is_empty() {
        return Err(Error::PodsMissing);
    }
    let groups = group(pods, &samples, is_cpu, rules);
    let ratio_of = |samples: &Samples| {
        let total: i64 = samples.values().map(|sample| sample.value).sum();
        let average = total / i64::try_from(samples.len()).unwrap_or(1).max(1);
        Ok((float(average) / float(target), average, None))
    };
    propose(current, &groups, samples, rules.tolerances, &ratio_of, |_| target)
}

/// For a value that belongs to no pod: all of it is compared with the target.
pub fn by_value(current: i32, usage: i64, target: i64, pods: &[Arc<Pod>], tolerances: Tolerances) -> Result<Proposal, Error> {
    let ratio = float(usage) / float(target);
    let replicas = if current == 0 {
        up(ratio)
    } else if tolerances.holds(ratio) {
        current
    } else if pods.is_empty() {
        return Err(Error::PodsMissing);
    } else {
        up(ratio * count(pods.iter().filter(|pod| pod_state::phase(pod) == "Running" && pod_state::is_ready(pod)).count()))
    };
    Ok(Proposal { replicas, usage, utilization: None })
}

/// The same, shared among the pods that there are.
pub fn by_value_per_pod(current: i32, usage: i64, target: i64, tolerances: Tolerances) -> Proposal {
    let ratio = float(usage) / (float(target) * f64::from(current));
    let replicas = if tolerances.holds(ratio) { current } else { up(float(usage) / float(target)) };
    let average = if current == 0 { i64::MAX } else { usage.div_euclid(i64::from(current)) + i64::from(usage % i64::from(current) != 0) };
    Proposal { replicas, usage: average, utilization: None }
}

fn milli(container: &Container, resource: &str) -> Option<i64> {
    let request = container.resources.as_ref()?.requests.as_ref()?.get(resource)?;
    Quantity::parse(&request.0).ok().map(|request| request.milli_value())
}

/// What each pod requests, or one of its containers, in thousandths.
fn requests(pods: &[Arc<Pod>], container: &str, resource: &str) -> Result<BTreeMap<String, i64>, Error> {
    pods.iter().map(|pod| Ok((pod.name().to_owned(), request(pod, container, resource)?))).collect()
}

fn request(pod: &Pod, wanted: &str, resource: &str) -> Result<i64, Error> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    let own = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()).filter(|requests| !requests.is_empty());
    if let Some(own) = own.filter(|_| wanted.is_empty()) {
        let request = own.get(resource).and_then(|text| Quantity::parse(&text.0).ok());
        return request
            .map(|request| request.milli_value())
            .ok_or_else(|| Error::PodRequestMissing { resource: resource.to_owned(), pod: pod.name().to_owned() });
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut total = 0;
    let mut found = wanted.is_empty();
    for container in spec.containers.iter().chain(sidecars).filter(|container| wanted.is_empty() || container.name == wanted) {
        found = true;
        total += milli(container, resource).ok_or_else(|| Error::RequestMissing {
            resource: resource.to_owned(),
            container: container.name.clone(),
            pod: pod.name().to_owned(),
        })?;
    }
    if found { Ok(total) } else { Err(Error::ContainerUnknown { container: wanted.to_owned(), pod: pod.name().to_owned() }) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOLERANCES: Tolerances = Tolerances { down: 0.1, up: 0.1 };
    const STARTUP: Startup =
        Startup { cpu_initialization: SignedDuration::from_secs(300), initial_readiness_delay: SignedDuration::from_secs(30) };

    fn rules() -> Rules {
        Rules { tolerances: TOLERANCES, startup: STARTUP, now: now() }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn pod(name: &str, phase: &str, ready: bool) -> Arc<Pod> {
        let time = Timestamp::from_second(1000).unwrap().to_string();
        let ready = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": time}]);
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
                "status": {"phase": phase, "startTime": time, "conditions": ready},
            }))
            .unwrap(),
        )
    }

    fn samples(values: &[(&str, i64)]) -> Samples {
        let sample = |value: i64| Sample { value, timestamp: now(), window: SignedDuration::from_secs(60) };
        values.iter().map(|(name, value)| ((*name).to_owned(), sample(*value))).collect()
    }

    fn utilized(current: i32, pods: &[Arc<Pod>], values: &[(&str, i64)]) -> Result<Proposal, Error> {
        by_utilization(current, 50, "cpu", "", pods, samples(values), &rules())
    }

    #[test]
    fn usage_over_the_target_asks_for_more() {
        let pods = [pod("a", "Running", true), pod("b", "Running", true)];
        let expected = Proposal { replicas: 4, usage: 1000, utilization: Some(100) };
        assert_eq!(utilized(2, &pods, &[("a", 1000), ("b", 1000)]), Ok(expected));
        assert_eq!(utilized(2, &pods, &[("a", 520), ("b", 520)]).unwrap().replicas, 2);
        assert_eq!(utilized(2, &pods, &[("a", 100), ("b", 100)]).unwrap().replicas, 1);
    }

    #[test]
    fn pods_without_values_dampen_the_change() {
        let pods = [pod("a", "Running", true), pod("b", "Running", true)];
        assert_eq!(utilized(2, &pods, &[("a", 1000)]).unwrap().replicas, 2);
        assert_eq!(utilized(2, &pods, &[("a", 100)]).unwrap().replicas, 2);
        assert_eq!(utilized(2, &pods, &[]), Err(Error::SamplesMissing));
        assert_eq!(utilized(2, &[], &[]), Err(Error::PodsMissing));
    }

    #[test]
    fn pods_that_are_not_ready_count_as_idle_when_more_are_asked_for() {
        let pods = [pod("a", "Running", true), pod("b", "Pending", false), pod("c", "Failed", false)];
        assert_eq!(utilized(2, &pods, &[("a", 2000)]).unwrap().replicas, 4);
    }

    #[test]
    fn a_container_without_a_request_is_an_error() {
        let pods = [pod("a", "Running", true)];
        let of = |resource, container| by_utilization(1, 50, resource, container, &pods, samples(&[("a", 1)]), &rules());
        assert!(matches!(of("memory", ""), Err(Error::RequestMissing { .. })));
        assert!(matches!(of("cpu", "other"), Err(Error::ContainerUnknown { .. })));
    }

    #[test]
    fn values_that_belong_to_no_pod_are_shared_or_compared_as_a_whole() {
        let pods = [pod("a", "Running", true), pod("b", "Running", true)];
        assert_eq!(by_value(2, 20_000, 10_000, &pods, TOLERANCES).unwrap().replicas, 4);
        assert_eq!(by_value(0, 25_000, 10_000, &[], TOLERANCES).unwrap().replicas, 3);
        assert_eq!(by_value_per_pod(2, 30_000, 10_000, TOLERANCES), Proposal { replicas: 3, usage: 15_000, utilization: None });
        assert_eq!(by_average(2, 500, false, &pods, samples(&[("a", 900), ("b", 1100)]), &rules()).unwrap().replicas, 4);
    }
}
