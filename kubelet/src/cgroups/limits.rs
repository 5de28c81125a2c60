//! What a group is limited to, and how the two versions of cgroups write that. Pure.

use apimachinery::quantity::Quantity;
use k8s_openapi::api::core::v1::Pod;

use crate::container_config::pod_resources::{self, has_pod_level, limit, pod_level_limit};
use crate::container_config::qos;
use crate::container_config::resources::{cpu_quota, cpu_shares};

/// What a group may use; what is none stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: Option<i64>,
    /// Microseconds in each period; zero or less is no limit.
    pub cpu_quota: Option<i64>,
    pub cpu_period: Option<u64>,
    /// Bytes.
    pub memory: Option<i64>,
    pub pids: Option<i64>,
    /// Bytes by the page size as files name it: `2MB`.
    pub huge_pages: Vec<(String, i64)>,
}

/// A controller, a file of its, and what is written there.
pub type Setting = (&'static str, String, String);

impl Limits {
    pub fn shares(shares: i64) -> Limits {
        Limits { cpu_shares: Some(shares), ..Limits::default() }
    }

    /// All pods together get what the node has for them.
    pub fn of_node(memory: Option<i64>, cpu_milli: Option<i64>) -> Limits {
        Limits { memory: memory.filter(|bytes| *bytes > 0), cpu_shares: cpu_milli.map(cpu_shares), ..Limits::default() }
    }

    /// A pod gets what its containers get together, unless one of them is not limited.
    pub fn of_pod(pod: &Pod, enforce_cpu: bool, period: u64, pids: Option<i64>) -> Limits {
        let (requests, limits) = (pod_resources::requests(pod, true), pod_resources::limits(pod, true));
        let milli = |list: &pod_resources::ResourceList| list.get("cpu").map_or(0, Quantity::milli_value);
        let spec = pod.spec.as_ref();
        let all_limited = |name: &str| {
            let containers = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
            let own = containers.into_iter().all(|container| !limit(container, name).is_zero());
            own || (has_pod_level(pod) && !pod_level_limit(pod, name).is_zero())
        };
        let huge_pages =
            requests.iter().filter_map(|(name, amount)| Some((page_size(name.strip_prefix("hugepages-")?)?, amount.value()))).collect();
        let mut made = Limits { cpu_shares: Some(cpu_shares(milli(&requests))), pids, huge_pages, ..Limits::default() };
        let class = qos::class(pod);
        if class == qos::Class::BestEffort {
            made.cpu_shares = Some(cpu_shares(0));
            return made;
        }
        if class == qos::Class::Guaranteed || all_limited("cpu") {
            let quota = cpu_quota(milli(&limits), i64::try_from(period).unwrap_or(i64::MAX));
            made.cpu_quota = Some(if enforce_cpu { quota } else { -1 });
            made.cpu_period = Some(period);
        }
        if class == qos::Class::Guaranteed || all_limited("memory") {
            made.memory = limits.get("memory").map(Quantity::value).filter(|bytes| *bytes > 0);
        }
        made
    }

    /// As version 1 takes it.
    pub fn settings_v1(&self) -> Vec<Setting> {
        let mut settings: Vec<Setting> = Vec::new();
        let mut set = |controller: &'static str, file: &str, value: String| settings.push((controller, file.to_owned(), value));
        if let Some(shares) = self.cpu_shares {
            set("cpu", "cpu.shares", shares.to_string());
        }
        if let Some(period) = self.cpu_period {
            set("cpu", "cpu.cfs_period_us", period.to_string());
        }
        if let Some(quota) = self.cpu_quota {
            set("cpu", "cpu.cfs_quota_us", if quota > 0 { quota } else { -1 }.to_string());
        }
        if let Some(bytes) = self.memory {
            set("memory", "memory.limit_in_bytes", bytes.to_string());
        }
        if let Some(pids) = self.pids {
            set("pids", "pids.max", pids.to_string());
        }
        for (size, bytes) in &self.huge_pages {
            set("hugetlb", &format!("hugetlb.{size}.limit_in_bytes"), bytes.to_string());
        }
        settings
    }

    /// As version 2 takes it.
    pub fn settings_v2(&self) -> Vec<Setting> {
        let mut settings: Vec<Setting> = Vec::new();
        let mut set = |controller: &'static str, file: &str, value: String| settings.push((controller, file.to_owned(), value));
        if let Some(shares) = self.cpu_shares {
            set("cpu", "cpu.weight", weight(shares).to_string());
        }
        if let Some(quota) = self.cpu_quota {
            let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
            set("cpu", "cpu.max", self.cpu_period.map_or(quota.clone(), |period| format!("{quota} {period}")));
        }
        if let Some(bytes) = self.memory {
            set("memory", "memory.max", bytes.to_string());
        }
        if let Some(pids) = self.pids {
            set("pids", "pids.max", pids.to_string());
        }
        for (size, bytes) in &self.huge_pages {
            set("hugetlb", &format!("hugetlb.{size}.max"), bytes.to_string());
        }
        settings
    }
}

/// The weight that stands for so many shares: a curve through the least, the usual (1024 is 100) and the most of both scales.
fn weight(shares: i64) -> i64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as i64
        }
    }
}

fn page_size(text: &str) -> Option<String> {
    let bytes = Quantity::parse(text).ok()?.value();
    [("GB", 30), ("MB", 20), ("KB", 10)]
        .into_iter()
        .find(|(_, shift)| bytes >> shift > 0)
        .map(|(unit, shift)| format!("{}{unit}", bytes >> shift))
}

/// Burstable pods together get what they ask for together.
pub fn burstable_shares<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> i64 {
    let burstable = pods.into_iter().filter(|pod| qos::class(pod) == qos::Class::Burstable);
    let milli = |pod: &Pod| pod_resources::requests(pod, true).get("cpu").map_or(0, Quantity::milli_value);
    cpu_shares(burstable.map(milli).fold(0, i64::saturating_add))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn limits(containers: Value) -> Limits {
        let pod = serde_json::from_value(json!({"spec": {"containers": containers}})).expect("it is a pod");
        Limits::of_pod(&pod, true, 100_000, None)
    }

    #[test]
    fn a_pod_is_limited_only_if_all_of_it_is() {
        let limited = json!({"requests": {"cpu": "250m", "memory": "1Mi"}, "limits": {"cpu": "500m", "memory": "2Mi"}});
        let both = limits(json!([{"name": "a", "resources": limited}, {"name": "b", "resources": limited}]));
        let expect = Limits {
            cpu_shares: Some(512),
            cpu_quota: Some(100_000),
            cpu_period: Some(100_000),
            memory: Some(4 << 20),
            ..Limits::default()
        };
        assert_eq!(both, expect);
        let one = limits(json!([{"name": "a", "resources": limited}, {"name": "b"}]));
        assert_eq!(one, Limits::shares(256));
        assert_eq!(limits(json!([{"name": "a"}])), Limits::shares(2));
    }

    #[test]
    fn both_versions_are_told_the_same() {
        let limits = Limits {
            cpu_shares: Some(1024),
            cpu_quota: Some(0),
            cpu_period: Some(100_000),
            memory: Some(5),
            pids: Some(7),
            ..Limits::default()
        };
        let written = |settings: Vec<Setting>| settings.into_iter().map(|(_, file, value)| format!("{file}={value}")).collect::<Vec<_>>();
        assert_eq!(
            written(limits.settings_v1()),
            ["cpu.shares=1024", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=-1", "memory.limit_in_bytes=5", "pids.max=7"]
        );
        assert_eq!(written(limits.settings_v2()), ["cpu.weight=100", "cpu.max=max 100000", "memory.max=5", "pids.max=7"]);
        assert_eq!([2, 102, 1024, 262_144].map(weight), [1, 17, 100, 10_000]);
    }
}
