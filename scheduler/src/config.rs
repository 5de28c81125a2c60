//! `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1): what the file may say, upstream's defaults, and what is wrong with it.
//!
//! Turns a profile into the ordered list of plugins that run at each extension point ([`crate::profile`] does the merge); reads no files.

mod rules;

use std::time::Duration;

use apimachinery::field::{ErrorList, aggregate};
use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

pub const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
pub const KIND: &str = "KubeSchedulerConfiguration";
pub const DEFAULT_SCHEDULER_NAME: &str = "default-scheduler";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    Kind { api_version: String, kind: String },
    #[error("{}", aggregate(.0))]
    Rules(ErrorList),
    #[error("decoding args for plugin {plugin}: {source}")]
    Args { plugin: String, source: serde_json::Error },
    #[error("{point}Plugins: plugin {plugin:?} does not exist")]
    NoSuchPlugin { point: &'static str, plugin: String },
    #[error("plugin {plugin:?} already registered as {point:?}")]
    Twice { point: &'static str, plugin: String },
    #[error("at least one bind plugin is needed for profile with scheduler name {0:?}")]
    NoBinder(String),
    #[error("one queue sort plugin required for profile with scheduler name {profile:?}, found {found}")]
    QueueSort { profile: String, found: usize },
}

/// The configuration of a scheduler process. `default()` is what an empty file means.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    pub api_version: String,
    pub kind: String,
    /// Taken for compatibility; one scheduling cycle runs on one core.
    pub parallelism: i32,
    pub leader_election: LeaderElection,
    pub client_connection: ClientConnection,
    pub percentage_of_nodes_to_score: i32,
    pub pod_initial_backoff_seconds: i64,
    pub pod_max_backoff_seconds: i64,
    pub profiles: Vec<Profile>,
    pub extenders: Vec<Extender>,
    pub enable_profiling: bool,
    pub enable_contention_profiling: bool,
    pub delay_cache_until_active: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            parallelism: 16,
            leader_election: LeaderElection::default(),
            client_connection: ClientConnection::default(),
            percentage_of_nodes_to_score: 0,
            pod_initial_backoff_seconds: 1,
            pod_max_backoff_seconds: 10,
            profiles: vec![Profile { scheduler_name: Some(DEFAULT_SCHEDULER_NAME.to_owned()), ..Profile::default() }],
            extenders: Vec::new(),
            enable_profiling: true,
            enable_contention_profiling: true,
            delay_cache_until_active: false,
        }
    }
}

/// Which Lease, and for how long; durations as Go writes them (`15s`). [`crate::run`] leaves election to whoever calls it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LeaderElection {
    pub leader_elect: bool,
    pub lease_duration: String,
    pub renew_deadline: String,
    pub retry_period: String,
    pub resource_lock: String,
    pub resource_name: String,
    pub resource_namespace: String,
}

impl Default for LeaderElection {
    fn default() -> LeaderElection {
        LeaderElection {
            leader_elect: true,
            lease_duration: "15s".to_owned(),
            renew_deadline: "10s".to_owned(),
            retry_period: "2s".to_owned(),
            resource_lock: "leases".to_owned(),
            resource_name: "kube-scheduler".to_owned(),
            resource_namespace: "kube-system".to_owned(),
        }
    }
}

/// How to reach the API server; the client is made by whoever calls [`crate::run`].
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f32,
    pub burst: i32,
}

impl Default for ClientConnection {
    fn default() -> ClientConnection {
        ClientConnection {
            kubeconfig: String::new(),
            accept_content_types: String::new(),
            content_type: "application/vnd.kubernetes.protobuf".to_owned(),
            qps: 50.0,
            burst: 100,
        }
    }
}

/// A service that has a say in which node a pod goes to; what it leaves empty it has no part in. What it says is in
/// [`crate::extender`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Extender {
    pub url_prefix: String,
    pub filter_verb: String,
    pub preempt_verb: String,
    pub prioritize_verb: String,
    /// What its scores are multiplied with.
    pub weight: i64,
    pub bind_verb: String,
    #[serde(rename = "enableHTTPS")]
    pub enable_https: bool,
    pub tls_config: Option<ExtenderTls>,
    /// How long one call may take; zero stands for [`EXTENDER_TIMEOUT`].
    #[serde(deserialize_with = "go_duration")]
    pub http_timeout: Duration,
    /// It knows the nodes: it is sent names only.
    pub node_cache_capable: bool,
    /// It is asked about pods that request one of these; about all if there are none.
    pub managed_resources: Vec<ManagedResource>,
    /// Pods are placed without it while it cannot be reached.
    pub ignorable: bool,
}

/// How long a call to an extender may take that does not say.
pub const EXTENDER_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ManagedResource {
    pub name: String,
    /// NodeResourcesFit does not count it.
    pub ignored_by_scheduler: bool,
}

/// How an extender is trusted, and how it knows the scheduler; data is base64 and comes before files.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtenderTls {
    pub insecure: bool,
    pub server_name: Option<String>,
    pub cert_file: Option<String>,
    pub key_file: Option<String>,
    pub ca_file: Option<String>,
    pub cert_data: Option<String>,
    pub key_data: Option<String>,
    pub ca_data: Option<String>,
}

/// Reads a duration as Go writes it; nothing is zero.
fn go_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(Duration::ZERO) };
    let nanoseconds = apimachinery::time::parse_duration(&text).map_err(serde::de::Error::custom)?;
    Ok(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)))
}

/// A duration as Go has it: it may be negative until it is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nanoseconds(pub i64);

impl Nanoseconds {
    pub fn duration(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl<'de> Deserialize<'de> for Nanoseconds {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Nanoseconds, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(Nanoseconds(0)) };
        apimachinery::time::parse_duration(&text).map(Nanoseconds).map_err(serde::de::Error::custom)
    }
}

/// The plugins and their arguments for pods of one scheduler name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Profile {
    pub scheduler_name: Option<String>,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub plugins: Option<Plugins>,
    pub plugin_config: Vec<PluginConfig>,
}

/// What is switched on and off, by extension point; `multiPoint` is all of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Plugins {
    pub pre_enqueue: PluginSet,
    pub queue_sort: PluginSet,
    pub pre_filter: PluginSet,
    pub filter: PluginSet,
    pub post_filter: PluginSet,
    pub pre_score: PluginSet,
    pub score: PluginSet,
    pub reserve: PluginSet,
    pub permit: PluginSet,
    pub pre_bind: PluginSet,
    pub bind: PluginSet,
    pub post_bind: PluginSet,
    pub multi_point: PluginSet,
    pub placement_generate: PluginSet,
    pub placement_score: PluginSet,
    pub pod_group_post_filter: PluginSet,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginSet {
    pub enabled: Vec<PluginName>,
    pub disabled: Vec<PluginName>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginName {
    pub name: String,
    pub weight: Option<i32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    pub name: String,
    #[serde(default)]
    pub args: serde_json::Value,
}

/// How full a node should be for how many points.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct ShapePoint {
    pub utilization: i32,
    pub score: i32,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct ResourceSpec {
    pub name: String,
    #[serde(default)]
    pub weight: i64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum StrategyType {
    #[default]
    LeastAllocated,
    MostAllocated,
    RequestedToCapacityRatio,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RatioParam {
    pub shape: Vec<ShapePoint>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScoringStrategy {
    #[serde(rename = "type")]
    pub kind: StrategyType,
    pub resources: Vec<ResourceSpec>,
    pub requested_to_capacity_ratio: Option<RatioParam>,
}

impl Default for ScoringStrategy {
    fn default() -> ScoringStrategy {
        ScoringStrategy { kind: StrategyType::default(), resources: cpu_and_memory(), requested_to_capacity_ratio: None }
    }
}

fn cpu_and_memory() -> Vec<ResourceSpec> {
    ["cpu", "memory"].map(|name| ResourceSpec { name: name.to_owned(), weight: 1 }).into()
}

/// Arguments of NodeResourcesFit.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FitArgs {
    pub ignored_resources: Vec<String>,
    pub ignored_resource_groups: Vec<String>,
    pub scoring_strategy: ScoringStrategy,
}

/// Arguments of NodeResourcesBalancedAllocation.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct BalancedArgs {
    pub resources: Vec<ResourceSpec>,
}

impl Default for BalancedArgs {
    fn default() -> BalancedArgs {
        BalancedArgs { resources: cpu_and_memory() }
    }
}

/// Arguments of InterPodAffinity.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InterPodAffinityArgs {
    pub hard_pod_affinity_weight: i32,
    pub ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for InterPodAffinityArgs {
    fn default() -> InterPodAffinityArgs {
        InterPodAffinityArgs { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

/// Arguments of NodeAffinity.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAffinityArgs {
    pub added_affinity: Option<NodeAffinity>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum Defaulting {
    #[default]
    System,
    List,
}

/// Arguments of PodTopologySpread.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpreadArgs {
    pub default_constraints: Vec<TopologySpreadConstraint>,
    pub defaulting_type: Defaulting,
}

/// Arguments of DefaultPreemption.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreemptionArgs {
    pub min_candidate_nodes_percentage: i32,
    pub min_candidate_nodes_absolute: i32,
}

impl Default for PreemptionArgs {
    fn default() -> PreemptionArgs {
        PreemptionArgs { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

/// Arguments of VolumeBinding.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeBindingArgs {
    pub bind_timeout_seconds: i64,
    pub shape: Vec<ShapePoint>,
}

impl Default for VolumeBindingArgs {
    fn default() -> VolumeBindingArgs {
        let shape = vec![ShapePoint { utilization: 0, score: 10 }, ShapePoint { utilization: 100, score: 0 }];
        VolumeBindingArgs { bind_timeout_seconds: 600, shape }
    }
}

/// Arguments of DynamicResources.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DynamicResourcesArgs {
    /// How long devices may be looked for on one node; without end if it is zero.
    pub filter_timeout: Nanoseconds,
    /// How long devices may take to get ready for a pod.
    pub binding_timeout: Nanoseconds,
}

impl Default for DynamicResourcesArgs {
    fn default() -> DynamicResourcesArgs {
        DynamicResourcesArgs { filter_timeout: Nanoseconds(10_000_000_000), binding_timeout: Nanoseconds(600_000_000_000) }
    }
}

/// The arguments of all plugins of a profile.
#[derive(Clone, Debug, Default)]
pub struct Args {
    pub fit: FitArgs,
    pub balanced: BalancedArgs,
    pub inter_pod_affinity: InterPodAffinityArgs,
    pub node_affinity: NodeAffinityArgs,
    pub spread: SpreadArgs,
    pub preemption: PreemptionArgs,
    pub volume_binding: VolumeBindingArgs,
    pub dynamic_resources: DynamicResourcesArgs,
}

impl Args {
    /// Reads what a profile says of its plugins; plugins that it does not name have their defaults.
    pub fn read(configs: &[PluginConfig]) -> Result<Args, Error> {
        let mut args = Args::default();
        for config in configs {
            match config.name.as_str() {
                "NodeResourcesFit" => args.fit = parse(config)?,
                "NodeResourcesBalancedAllocation" => args.balanced = parse(config)?,
                "InterPodAffinity" => args.inter_pod_affinity = parse(config)?,
                "NodeAffinity" => args.node_affinity = parse(config)?,
                "PodTopologySpread" => args.spread = parse(config)?,
                "DefaultPreemption" => args.preemption = parse(config)?,
                "VolumeBinding" => args.volume_binding = parse(config)?,
                "DynamicResources" => args.dynamic_resources = parse(config)?,
                _ => {}
            }
        }
        for resources in [&mut args.fit.scoring_strategy.resources, &mut args.balanced.resources] {
            if resources.is_empty() {
                *resources = cpu_and_memory();
            }
            resources.iter_mut().filter(|spec| spec.weight == 0).for_each(|spec| spec.weight = 1);
        }
        if args.volume_binding.shape.is_empty() {
            args.volume_binding.shape = VolumeBindingArgs::default().shape;
        }
        Ok(args)
    }
}

fn parse<T: DeserializeOwned + Default>(config: &PluginConfig) -> Result<T, Error> {
    if config.args.is_null() {
        return Ok(T::default());
    }
    T::deserialize(&config.args).map_err(|source| Error::Args { plugin: config.name.clone(), source })
}

impl Config {
    /// Fills in what upstream's defaulting fills in, and checks the rest.
    pub fn complete(mut self) -> Result<Config, Error> {
        if self.api_version != API_VERSION || self.kind != KIND {
            return Err(Error::Kind { api_version: self.api_version, kind: self.kind });
        }
        if self.profiles.is_empty() {
            self.profiles.push(Profile::default());
        }
        if let [only] = self.profiles.as_mut_slice() {
            only.scheduler_name.get_or_insert_with(|| DEFAULT_SCHEDULER_NAME.to_owned());
        }
        for profile in &self.profiles {
            Args::read(&profile.plugin_config)?;
        }
        let wrong = rules::check(&self);
        if !wrong.is_empty() {
            return Err(Error::Rules(wrong));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(super) fn config(mut value: Value) -> Result<Config, String> {
        value["apiVersion"] = json!(API_VERSION);
        value["kind"] = json!(KIND);
        let config: Config = serde_json::from_value(value).map_err(|error| error.to_string())?;
        config.complete().map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_file_does_not_say_is_as_upstream_has_it() {
        let empty = config(json!({})).unwrap();
        assert_eq!((empty.pod_initial_backoff_seconds, empty.pod_max_backoff_seconds, empty.parallelism), (1, 10, 16));
        assert_eq!(empty.profiles[0].scheduler_name.as_deref(), Some("default-scheduler"));
        assert_eq!(empty.leader_election.resource_name, "kube-scheduler");
        let named = config(json!({"profiles": [{"plugins": {}}]})).unwrap();
        assert_eq!(named.profiles[0].scheduler_name.as_deref(), Some("default-scheduler"));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (value, expected) in [
            (json!({"extenders": [{"httpTimeout": "soon"}]}), "time: invalid duration \"soon\""),
            (json!({"extenders": [{"urlprefix": "x"}]}), "unknown field `urlprefix`"),
            (json!({"parallelismm": 3}), "unknown field `parallelismm`"),
            (
                json!({"profiles": [{"pluginConfig": [{"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": "much"}}]}]}),
                "decoding args for plugin InterPodAffinity",
            ),
        ] {
            let error = config(value.clone()).unwrap_err();
            assert!(error.contains(expected), "{value}: {error}");
        }
        let other = Config { kind: "Other".to_owned(), ..Config::default() };
        assert!(other.complete().is_err());
    }

    #[test]
    fn an_extender_is_read_as_upstreams_file_has_it() {
        let read =
            config(json!({"extenders": [{"urlPrefix": "https://e:1/x", "filterVerb": "f", "enableHTTPS": true, "httpTimeout": "1m30s",
            "nodeCacheCapable": true, "ignorable": true, "tlsConfig": {"insecure": true, "serverName": "e"},
            "managedResources": [{"name": "a.com/x", "ignoredByScheduler": true}]}]}))
            .unwrap();
        let extender = &read.extenders[0];
        assert_eq!(extender.http_timeout, Duration::from_secs(90));
        assert!(extender.enable_https && extender.node_cache_capable && extender.ignorable);
        assert!(extender.managed_resources[0].ignored_by_scheduler);
    }

    #[test]
    fn plugins_have_their_arguments_or_the_defaults() {
        let configs = json!([
            {"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated", "resources": [{"name": "cpu"}]}}},
            {"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 5}},
            {"name": "SomebodyElses", "args": {"x": 1}},
        ]);
        let args = Args::read(&serde_json::from_value::<Vec<PluginConfig>>(configs).unwrap()).unwrap();
        assert_eq!(args.fit.scoring_strategy.kind, StrategyType::MostAllocated);
        assert_eq!(args.fit.scoring_strategy.resources, [ResourceSpec { name: "cpu".to_owned(), weight: 1 }]);
        assert_eq!((args.inter_pod_affinity.hard_pod_affinity_weight, args.preemption.min_candidate_nodes_absolute), (5, 100));
        let empty = json!([{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"resources": []}}}, {"name": "VolumeBinding", "args": {"shape": []}}]);
        let args = Args::read(&serde_json::from_value::<Vec<PluginConfig>>(empty).unwrap()).unwrap();
        assert_eq!((args.fit.scoring_strategy.resources.len(), args.volume_binding.shape.len()), (2, 2));
    }
}
