//! The kernel's switches that kube-proxy sets. One that cannot be set is told of and left as it is.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::config;

const HASH_SIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// More tracked connections than this cost more memory than big machines win by it.
const MAX_CONNTRACK: u64 = 1 << 20;

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

/// The value of a switch such as `net/ipv4/ip_forward`.
pub fn get(name: &str) -> std::io::Result<i64> {
    let text = fs::read_to_string(path(name))?;
    text.trim().parse().map_err(|_| std::io::Error::other(format!("{name} is {:?}", text.trim())))
}

/// Sets a switch, unless it has the value already.
pub fn ensure(name: &str, value: i64) -> std::io::Result<()> {
    if get(name).is_ok_and(|old| old == value) {
        return Ok(());
    }
    fs::write(path(name), value.to_string())
}

/// How many connections the kernel shall track; nothing: as many as it does.
fn conntrack_max(config: &config::Conntrack, cpus: u64) -> Option<u64> {
    let per_core = config.max_per_core.filter(|number| *number > 0)?;
    let scaled = u64::from(per_core) * cpus;
    if scaled > MAX_CONNTRACK { Some(MAX_CONNTRACK) } else { Some(scaled.max(u64::from(config.min.unwrap_or(0)))) }
}

/// The processors that the host has, whatever share of them is ours.
fn cpus() -> u64 {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<u64>().ok()?.checked_sub(first.parse().ok()?)? + 1)
    };
    online.trim().split(',').map(range).sum::<Option<u64>>().filter(|number| *number > 0).unwrap_or(1)
}

/// Sets what the configuration says about the tracking of connections.
pub fn set_conntrack(config: &config::Conntrack) {
    let told = |name: &str, result: std::io::Result<()>| {
        if let Err(error) = result {
            tracing::warn!(name, %error, "cannot set what the conntrack configuration says, leaving it as it is");
        }
    };
    let set = |name: &str, value: i64| told(name, ensure(&format!("net/netfilter/{name}"), value));
    let seconds = |period: config::Period| i64::try_from(period.0.as_secs()).unwrap_or(i64::MAX);
    if let Some(max) = conntrack_max(config, cpus()).and_then(|max| i64::try_from(max).ok()) {
        if !get("net/netfilter/nf_conntrack_max").is_ok_and(|old| old >= max) {
            set("nf_conntrack_max", max);
        }
        let size = fs::read_to_string(HASH_SIZE).ok().and_then(|text| text.trim().parse::<i64>().ok());
        if size.is_some_and(|size| size < max / 4) {
            told(HASH_SIZE, fs::write(HASH_SIZE, (max / 4).to_string()));
        }
    }
    let periods = [
        ("nf_conntrack_tcp_timeout_established", config.tcp_established_timeout.unwrap_or_default()),
        ("nf_conntrack_tcp_timeout_close_wait", config.tcp_close_wait_timeout.unwrap_or_default()),
        ("nf_conntrack_udp_timeout", config.udp_timeout),
        ("nf_conntrack_udp_timeout_stream", config.udp_stream_timeout),
    ];
    for (name, period) in periods.into_iter().filter(|(_, period)| period.0 > Duration::ZERO) {
        set(name, seconds(period));
    }
    if config.tcp_be_liberal {
        set("nf_conntrack_tcp_be_liberal", 1);
    }
}

/// Says how willingly the kernel shall end this process when memory is short.
pub fn set_oom_score_adj(score: Option<i32>) {
    if let Some(Err(error)) = score.map(|score| fs::write("/proc/self/oom_score_adj", score.to_string())) {
        tracing::debug!(%error, "cannot set the score by which processes are ended when memory is short");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_connections_follows_the_processors() {
        let config = |max_per_core, min| config::Conntrack { max_per_core, min, ..config::Conntrack::default() };
        assert_eq!(conntrack_max(&config(Some(32768), Some(131_072)), 2), Some(131_072));
        assert_eq!(conntrack_max(&config(Some(32768), Some(131_072)), 8), Some(262_144));
        assert_eq!(conntrack_max(&config(Some(32768), Some(131_072)), 64), Some(MAX_CONNTRACK));
        assert_eq!(conntrack_max(&config(Some(0), Some(131_072)), 8), None);
        assert!(cpus() >= 1);
    }
}
