//! What this process costs, when it began, and which build it is.

use std::time::{SystemTime, UNIX_EPOCH};

use apimachinery::metrics::{head, pairs, sample};
use nix::unistd::{SysconfVar, sysconf};

use crate::discovery::documents::GIT_VERSION;
use crate::version::BUILD;

/// Which build this is, as every component tells it.
pub fn render_build(out: &mut String) {
    let number = GIT_VERSION.trim_start_matches('v');
    let mut parts = number.split(['.', '-', '+']);
    let (major, minor) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let labels = ["major", "minor", "git_version", "git_commit", "git_tree_state", "build_date", "go_version", "compiler", "platform"];
    let values = [
        major,
        minor,
        GIT_VERSION,
        BUILD.git_commit,
        BUILD.git_tree_state,
        BUILD.build_date,
        BUILD.toolchain,
        BUILD.compiler,
        BUILD.platform,
    ];
    let name = "kubernetes_build_info";
    head(out, name, "gauge", "[BETA] Always 1: the labels say which build this is, and of what.");
    sample(out, name, &pairs(&labels, &values), 1.0);
}

/// What this process costs. What the system does not tell is left out.
pub fn render(out: &mut String) {
    let mut tell = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            head(out, name, kind, help);
            sample(out, name, "", value);
        }
    };
    let stat = Stat::read();
    let of = |value: fn(&Stat) -> f64| stat.as_ref().map(value);
    tell("process_cpu_seconds_total", "counter", "Seconds of CPU that were used.", of(|stat| stat.cpu_seconds));
    tell("process_max_fds", "gauge", "File descriptors that may be open.", most_descriptors());
    tell("process_open_fds", "gauge", "File descriptors that are open.", open_descriptors());
    tell("process_resident_memory_bytes", "gauge", "Bytes of memory that are used.", of(|stat| stat.resident_bytes));
    tell("process_start_time_seconds", "gauge", "When this began, in seconds of Unix time.", of(|stat| stat.started));
    tell("process_virtual_memory_bytes", "gauge", "Bytes of addresses that are used.", of(|stat| stat.virtual_bytes));
}

/// `/proc/self/stat`.
#[derive(Debug)]
struct Stat {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    started: f64,
}

impl Stat {
    fn read() -> Option<Stat> {
        let text = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The program's name is in parentheses and may hold spaces.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
        let per_second = sysconf(SysconfVar::CLK_TCK).ok()?? as f64;
        let since_boot = std::fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse::<f64>().ok()?;
        let age = since_boot - number(19)? / per_second;
        Some(Stat {
            cpu_seconds: (number(11)? + number(12)?) / per_second,
            virtual_bytes: number(20)?,
            resident_bytes: number(21)? * sysconf(SysconfVar::PAGE_SIZE).ok()?? as f64,
            started: SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64() - age,
        })
    }
}

fn open_descriptors() -> Option<f64> {
    // The one by which they are counted is among them.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn most_descriptors() -> Option<f64> {
    Some(rustix::process::getrlimit(rustix::process::Resource::Nofile).current? as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_costs_and_when_it_began() {
        let stat = Stat::read().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(stat.cpu_seconds >= 0.0 && stat.resident_bytes > 1e6 && stat.virtual_bytes >= stat.resident_bytes, "{stat:?}");
        assert!((0.0..3600.0).contains(&(now - stat.started + 1.0)), "{stat:?} {now}");
        let mut text = String::new();
        render(&mut text);
        render_build(&mut text);
        assert!(text.contains("\nprocess_open_fds ") && text.contains("\nprocess_max_fds "), "{text}");
        assert!(text.contains("kubernetes_build_info{major=\"1\",minor=\"37\",git_version=\"v1.37"), "{text}");
    }
}
