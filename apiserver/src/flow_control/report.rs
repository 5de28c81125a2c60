//! The state of flow control as `/debug/api_priority_and_fairness/` and `/metrics` tell it.

use std::fmt::Write;
use std::time::Instant;

use apimachinery::metrics::distribution;
use jiff::Timestamp;

use super::gate::{Gate, WAIT_SECONDS};
use super::queue_set::{QueueSet, Request};
use super::{ActiveLevel, FlowControl};
use crate::metrics;

/// One row per level, queue or request; cells end with a comma, columns are aligned.
type Rows = Vec<Vec<String>>;

impl FlowControl {
    /// A dump by the last segment of its path.
    pub fn dump(&self, name: &str) -> Option<String> {
        let active = self.active.load();
        let mut levels: Vec<&ActiveLevel> = active.levels.iter().collect();
        levels.sort_by(|a, b| a.gate.name.cmp(&b.gate.name));
        let gates = levels.iter().map(|l| &*l.gate);
        let rows = match name {
            "dump_priority_levels" => dump_levels(gates),
            "dump_queues" => dump_queues(gates),
            "dump_requests" => dump_requests(gates),
            _ => return None,
        };
        Some(align(&rows))
    }

    /// Appends the metrics, in Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        let active = self.active.load();
        let per_level = |out: &mut String, name: &str, help: &str, value: &dyn Fn(&ActiveLevel) -> f64| {
            head(out, name, help, "gauge");
            for level in &active.levels {
                line(out, name, &format!("priority_level=\"{}\"", level.gate.name), value(level));
            }
        };
        let in_use = |l: &ActiveLevel| l.gate.look(|set, _| set.limit().unwrap_or(set.seats_in_use));
        per_level(out, "current_limit_seats", "[ALPHA] current derived number of execution seats available to each priority level", &|l| {
            f64::from(in_use(l))
        });
        per_level(out, "current_r", "[ALPHA] R(time of last change)", &|l| l.gate.look(|set, _| set.virtual_time()));
        per_level(
            out,
            "lower_limit_seats",
            "[ALPHA] Configured lower bound on number of execution seats available to each priority level",
            &|l| f64::from(l.bounds.lower),
        );
        per_level(out, "nominal_limit_seats", "[BETA] Nominal number of execution seats configured for each priority level", &|l| {
            f64::from(l.bounds.nominal)
        });
        per_level(
            out,
            "upper_limit_seats",
            "[ALPHA] Configured upper bound on number of execution seats available to each priority level",
            &|l| f64::from(l.bounds.upper),
        );
        let gates = || active.levels.iter().map(|l| &*l.gate);
        now(
            out,
            gates(),
            "current_executing_requests",
            "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
            |r| u64::from(r.started.is_some()),
        );
        now(
            out,
            gates(),
            "current_executing_seats",
            "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
            |r| if r.started.is_some() { u64::from(r.flow.seats) } else { 0 },
        );
        now(
            out,
            gates(),
            "current_inqueue_requests",
            "[BETA] Number of requests currently pending in queues of the API Priority and Fairness subsystem",
            |r| u64::from(r.started.is_none()),
        );
        now(
            out,
            gates(),
            "current_inqueue_seats",
            "[ALPHA] Number of seats currently pending in queues of the API Priority and Fairness subsystem",
            |r| if r.started.is_none() { u64::from(r.flow.seats) } else { 0 },
        );
        totals(out, gates());
        waits(out, gates());
    }
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    metrics::head(out, &format!("apiserver_flowcontrol_{name}"), kind, help);
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "apiserver_flowcontrol_{name}{{{labels}}} {value}");
}

/// A gauge over the requests that are there now, by schema.
fn now<'g>(out: &mut String, gates: impl Iterator<Item = &'g Gate>, name: &str, help: &str, value: impl Fn(&Request) -> u64) {
    head(out, name, help, "gauge");
    for gate in gates {
        let values = gate.look(|set, counts| {
            let mut values: Vec<(String, u64)> = counts.keys().map(|schema| (schema.to_string(), 0)).collect();
            for (_, request) in set.requests() {
                if let Some((_, sum)) = values.iter_mut().find(|(schema, _)| **schema == *request.flow.schema) {
                    *sum += value(request);
                }
            }
            values
        });
        for (schema, value) in values {
            line(out, name, &format!("flow_schema=\"{schema}\",priority_level=\"{}\"", gate.name), value as f64);
        }
    }
}

fn totals<'g>(out: &mut String, gates: impl Iterator<Item = &'g Gate> + Clone) {
    let name = "dispatched_requests_total";
    head(out, name, "[BETA] Number of requests executed by API Priority and Fairness subsystem", "counter");
    for gate in gates.clone() {
        for (schema, counts) in gate.look(|_, counts| counts.clone()) {
            line(out, name, &format!("flow_schema=\"{schema}\",priority_level=\"{}\"", gate.name), counts.dispatched as f64);
        }
    }
    let name = "rejected_requests_total";
    head(out, name, "[BETA] Number of requests rejected by API Priority and Fairness subsystem", "counter");
    for gate in gates {
        for (schema, counts) in gate.look(|_, counts| counts.clone()) {
            for (reason, count) in counts.rejected {
                let labels = format!("flow_schema=\"{schema}\",priority_level=\"{}\",reason=\"{}\"", gate.name, reason.as_str());
                line(out, name, &labels, count as f64);
            }
        }
    }
}

fn waits<'g>(out: &mut String, gates: impl Iterator<Item = &'g Gate>) {
    let mut samples = String::new();
    for gate in gates {
        for (schema, counts) in gate.look(|_, counts| counts.clone()) {
            for (waits, ran) in counts.waits.iter().zip([false, true]).filter(|(waits, _)| waits.counts.iter().any(|count| *count > 0)) {
                let labels = format!("execute=\"{ran}\",flow_schema=\"{schema}\",priority_level=\"{}\"", gate.name);
                let bounds = WAIT_SECONDS.into_iter().chain([f64::INFINITY]).zip(waits.counts);
                distribution(&mut samples, "apiserver_flowcontrol_request_wait_duration_seconds", &labels, bounds, waits.seconds);
            }
        }
    }
    if !samples.is_empty() {
        head(
            out,
            "request_wait_duration_seconds",
            "[BETA] How long requests waited in queues, in seconds, by whether they ran then.",
            "histogram",
        );
        out.push_str(&samples);
    }
}

fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn dump_levels<'g>(gates: impl Iterator<Item = &'g Gate>) -> Rows {
    let mut rows = vec![header(&[
        "PriorityLevelName",
        "ActiveQueues",
        "IsIdle",
        "IsQuiescing",
        "WaitingRequests",
        "ExecutingRequests",
        "DispatchedRequests",
        "RejectedRequests",
        "TimedoutRequests",
        "CancelledRequests",
    ])];
    rows.extend(gates.map(|gate| {
        gate.look(|set, _| {
            let active = set.queues.iter().filter(|q| !q.waiting.is_empty()).count();
            vec![
                gate.name.clone(),
                active.to_string(),
                set.is_idle().to_string(),
                // A level that is no longer configured is not told about.
                false.to_string(),
                set.waiting.to_string(),
                set.executing.to_string(),
                set.totals.dispatched.to_string(),
                set.totals.rejected.to_string(),
                0.to_string(),
                set.totals.cancelled.to_string(),
            ]
        })
    }));
    rows
}

fn dump_queues<'g>(gates: impl Iterator<Item = &'g Gate>) -> Rows {
    let mut rows = vec![header(&[
        "PriorityLevelName",
        "Index",
        "PendingRequests",
        "ExecutingRequests",
        "SeatsInUse",
        "NextDispatchR",
        "InitialSeatsSum",
        "MaxSeatsSum",
        "TotalWorkSum",
    ])];
    for gate in gates {
        rows.extend(gate.look(|set, _| {
            let row = |(at, queue): (usize, &super::queue_set::Queue)| {
                vec![
                    gate.name.clone(),
                    at.to_string(),
                    queue.waiting.len().to_string(),
                    queue.executing.to_string(),
                    queue.seats_in_use.to_string(),
                    format!("{:.8}ss", queue.next_r),
                    queue.seats_waiting.to_string(),
                    queue.seats_waiting.to_string(),
                    format!("{:.8}ss", queue.work_waiting),
                ]
            };
            set.queues.iter().enumerate().map(row).collect::<Rows>()
        }));
    }
    rows
}

fn dump_requests<'g>(gates: impl Iterator<Item = &'g Gate>) -> Rows {
    let mut rows = vec![header(&[
        "PriorityLevelName",
        "FlowSchemaName",
        "QueueIndex",
        "RequestIndexInQueue",
        "FlowDistingsher",
        "ArriveTime",
        "InitialSeats",
        "FinalSeats",
        "AdditionalLatency",
        "StartTime",
    ])];
    for gate in gates {
        rows.extend(gate.look(|set, _| {
            let mut requests: Vec<_> = set.requests().collect();
            requests.sort_by_key(|(id, _)| **id);
            requests.into_iter().map(|(id, request)| request_row(&gate.name, set, *id, request)).collect::<Rows>()
        }));
    }
    rows
}

fn request_row(level: &str, set: &QueueSet, id: u64, request: &Request) -> Vec<String> {
    let queue = request.queue.and_then(|at| set.queues.get(at));
    let place = queue.and_then(|q| q.waiting.iter().position(|waiting| *waiting == id));
    let number = |n: Option<usize>| n.map_or("-1".to_owned(), |n| n.to_string());
    vec![
        level.to_owned(),
        request.flow.schema.to_string(),
        number(request.queue),
        number(place),
        request.flow.distinguisher.to_string(),
        wall(request.arrived),
        request.flow.seats.to_string(),
        0.to_string(),
        "0s".to_owned(),
        // Go's zero time, for one that has not begun.
        request.started.map_or("0001-01-01T00:00:00Z".to_owned(), wall),
    ]
}

/// When an instant was, by the clock on the wall.
fn wall(instant: Instant) -> String {
    let now = Timestamp::now();
    now.checked_sub(instant.elapsed()).unwrap_or(now).to_string()
}

/// Columns as Go's tabwriter sets them here: at least eight wide, a space between.
fn align(rows: &Rows) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count() + 2).max().unwrap_or(0).max(8);
    let widths: Vec<usize> = (0..columns.saturating_sub(1)).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            match widths.get(at) {
                Some(width) => {
                    let cell = format!("{cell},");
                    let _ = write!(out, "{cell:width$}");
                }
                None => out.push_str(cell),
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![header(&["PriorityLevelName", "Index", "Pending"]), header(&["a", "10", "0"])];
        assert_eq!(align(&rows), "PriorityLevelName, Index,  Pending\na,                 10,     0\n");
    }

    #[test]
    fn every_level_is_told_about() {
        let control = FlowControl::default();
        control.replace(super::super::config::Config::digest(&[], &[]).0);
        let dump = control.dump("dump_priority_levels").unwrap();
        assert!(dump.contains("\ncatch-all,") && dump.contains("\nexempt,"), "{dump}");
        assert!(control.dump("dump_queues").is_some() && control.dump("dump_requests").is_some() && control.dump("x").is_none());
        let mut metrics = String::new();
        control.render(&mut metrics);
        assert!(metrics.contains("apiserver_flowcontrol_nominal_limit_seats{priority_level=\"catch-all\"} 600\n"), "{metrics}");
    }
}
