//! Metrics that every component has: what it costs, which build it is, and whether it leads.

use std::fmt::Write;

use apiserver::discovery::documents::GIT_VERSION;
use client::lease::Watchdog;

/// The exposition text. `name` is the component's.
pub fn render(name: &str, watchdog: &Watchdog) -> String {
    let mut out = String::with_capacity(1024);
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "# HELP kubernetes_build_info [ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.\n# TYPE kubernetes_build_info gauge\nkubernetes_build_info{{git_version=\"{GIT_VERSION}\",platform=\"{}/{}\"}} 1",
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    let _ = writeln!(
        out,
        "# HELP leader_election_master_status [ALPHA] Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease. Please make sure to group by name.\n# TYPE leader_election_master_status gauge\nleader_election_master_status{{name=\"{name}\"}} {}",
        u8::from(watchdog.leads())
    );
    if let Some((seconds, resident)) = cost() {
        let _ = writeln!(
            out,
            "# HELP process_cpu_seconds_total Total user and system CPU time spent in seconds.\n# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {seconds}\n# HELP process_resident_memory_bytes Resident memory size in bytes.\n# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {resident}"
        );
    }
    render_clients(&mut out);
    out
}

/// What queues, requests and elections of this process tell.
pub fn render_clients(out: &mut String) {
    for told in [client::queue::METRICS, client::requests::METRICS, client::lease::METRICS] {
        client::metrics::render(out, told);
    }
}

/// Seconds of CPU and bytes of memory that this process has used and uses.
fn cost() -> Option<(f64, u64)> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name is in parentheses and may hold spaces.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
    let ticks = number(11)? + number(12)?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some((ticks as f64 / per_second as f64, number(21)? * u64::try_from(page).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_costs() {
        let (seconds, resident) = cost().unwrap();
        assert!(seconds >= 0.0 && resident > 1 << 20, "{seconds} {resident}");
        assert!(render("kube-scheduler", &Watchdog::default()).contains("leader_election_master_status{name=\"kube-scheduler\"} 0\n"));
    }
}
