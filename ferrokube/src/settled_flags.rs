//! Flags of upstream's API server that leave nothing to choose here: what they may say is what is so.
//!
//! Manifests that installers write pass them, and go on working. A value that would change something that cannot be changed is
//! refused in words that say why; one that changes nothing is accepted.

use std::time::Duration;

use clap::{ArgAction, Args};

use crate::go_values::duration;

#[derive(Args, Clone, Debug)]
pub struct SettledFlags {
    /// Allow privileged containers: only true, which unlike upstream is the default. Namespaces say more by PodSecurity.
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = ArgAction::Set,
        value_parser = only_true("PodSecurity says whose containers may be privileged"))]
    allow_privileged: bool,
    /// Serve reads from memory: only true, all objects are there.
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = ArgAction::Set,
        value_parser = only_true("all objects are in memory"))]
    watch_cache: bool,
    /// How many objects of a kind are kept in memory: all of them are, as upstream does whatever the number.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    default_watch_cache_size: u32,
    /// How many objects of single kinds are kept in memory, resource[.group]#size: all of them are, as upstream does for every size but 0.
    #[arg(long, value_delimiter = ',', value_parser = cache_size)]
    watch_cache_sizes: Vec<String>,
    /// Let the garbage collector work by owners and finalizers: only true.
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = ArgAction::Set,
        value_parser = only_true("deletions always respect owners and finalizers"))]
    enable_garbage_collector: bool,
    /// How many objects of a collection are deleted at a time: changes nothing.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    delete_collection_workers: u32,
    /// The form of objects in etcd: protobuf for built-in kinds, as upstream has it by default.
    #[arg(long, default_value = PROTOBUF, value_parser = [PROTOBUF])]
    storage_media_type: String,
    /// How often the objects in the store are counted for a metric, which is not served here: changes nothing.
    #[arg(long, default_value = "1m0s", value_parser = duration)]
    etcd_count_metric_poll_period: Duration,
    /// How often the size of the store is measured for a metric, which is not served here: changes nothing.
    #[arg(long, default_value = "30s", value_parser = duration)]
    etcd_db_metric_poll_interval: Duration,
    /// How long the store may take to come up: nothing is served before it is there.
    #[arg(long, default_value = "1m0s", value_parser = duration)]
    storage_initialization_timeout: Duration,
    /// How long what is done at start may take before /livez fails: nothing is served before it is done.
    #[arg(long, default_value = "0s", value_parser = duration)]
    livez_grace_period: Duration,
    /// How long watches may go on while the server stops: they are ended in good order at once, and clients begin anew elsewhere.
    #[arg(long, default_value = "0s", value_parser = duration)]
    shutdown_watch_termination_grace_period: Duration,
    /// Answer 429 while the server drains: only false, connections are closed instead.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set,
        value_parser = only_false("connections are closed while requests drain"))]
    shutdown_send_retry_after: bool,
    /// By when a kubelet must have answered that a connection is opened to: 30 seconds in any case.
    #[arg(long, default_value = "5s", value_parser = duration)]
    kubelet_timeout: Duration,
    /// Bytes a second of each connection: only 0, which is no limit.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=0))]
    max_connection_bytes_per_sec: i64,
    /// How many API servers there are, for an endpoint reconciler of the type master-count.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    apiserver_count: u32,
    /// Keep clients from being led elsewhere by extension API servers: only true.
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = ArgAction::Set,
        value_parser = only_true("answers that lead elsewhere are refused"))]
    aggregator_reject_forwarding_redirect: bool,
    /// Serve this machine's logs at /logs: only false.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set,
        value_parser = only_false("there is no such page"))]
    enable_logs_handler: bool,
    /// Profiles of locks of the Go runtime: only false.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set,
        value_parser = only_false("there are no profiles"))]
    contention_profiling: bool,
    /// The version to behave as: 1.37 or kube=1.37.
    #[arg(long, value_delimiter = ',', value_parser = ["1.37", "kube=1.37"])]
    emulated_version: Vec<String>,
    /// The oldest version of API servers that run beside this one: 1.36 or 1.37.
    #[arg(long, value_delimiter = ',', value_parser = ["1.36", "kube=1.36", "1.37", "kube=1.37"])]
    min_compatibility_version: Vec<String>,
    /// Serve APIs that came after the emulated version: there are none.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    emulation_forward_compatible: bool,
    /// Accept APIs in --runtime-config that came after the emulated version: there are none.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    runtime_config_emulation_forward_compatible: bool,
    /// Serve metrics that are hidden since this version: none is.
    #[arg(long, value_parser = ["1.36"])]
    show_hidden_metrics_for_version: Option<String>,
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A switch that is on.
fn only_true(why: &'static str) -> impl Fn(&str) -> Result<bool, String> + Clone + Send + Sync + 'static {
    move |text| match text {
        "true" => Ok(true),
        _ => Err(format!("only true is supported: {why}")),
    }
}

/// A switch that is off.
fn only_false(why: &'static str) -> impl Fn(&str) -> Result<bool, String> + Clone + Send + Sync + 'static {
    move |text| match text {
        "false" => Ok(false),
        _ => Err(format!("only false is supported: {why}")),
    }
}

fn cache_size(text: &str) -> Result<String, String> {
    let (_, size) = text.split_once('#').ok_or("expecting resource[.group]#size")?;
    match size.parse::<i64>() {
        Ok(1..) => Ok(text.to_owned()),
        Ok(0) => Err("only sizes above 0 are supported: all objects are in memory".to_owned()),
        Ok(_) => Err("watch cache size cannot be negative".to_owned()),
        Err(_) => Err(format!("invalid size {}", apimachinery::field::quote(size))),
    }
}
