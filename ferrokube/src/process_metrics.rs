//! Metrics that every component has: what it costs, which build it is, and whether it leads.

use std::fmt::Write;

use apiserver::metrics::process;
use client::lease::Watchdog;

/// The exposition text. `name` is the component's.
pub fn render(name: &str, watchdog: &Watchdog) -> String {
    let mut out = String::with_capacity(1024);
    process::render_build(&mut out);
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "# HELP leader_election_master_status [ALPHA] Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease. Please make sure to group by name.\n# TYPE leader_election_master_status gauge\nleader_election_master_status{{name=\"{name}\"}} {}",
        u8::from(watchdog.leads())
    );
    process::render(&mut out);
    render_clients(&mut out);
    out
}

/// What queues, requests and elections of this process tell.
pub fn render_clients(out: &mut String) {
    for told in [client::queue::METRICS, client::requests::METRICS, client::lease::METRICS] {
        client::metrics::render(out, told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_tells_what_it_costs_and_whether_it_leads() {
        let text = render("kube-scheduler", &Watchdog::default());
        assert!(text.contains("leader_election_master_status{name=\"kube-scheduler\"} 0\n"), "{text}");
        assert!(text.contains("\nprocess_resident_memory_bytes ") && text.contains("kubernetes_build_info{"), "{text}");
    }
}
