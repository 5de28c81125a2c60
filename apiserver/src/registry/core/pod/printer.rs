//! How `kubectl get pods` shows a pod.

use jiff::Timestamp;
use serde_json::Value;

use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::{at, bool_at, int_at, list_at, str_at};
use crate::registry::{Description, Printer};

const SPEC: &str = "io.k8s.api.core.v1.PodSpec";
const STATUS: &str = "io.k8s.api.core.v1.PodStatus";

pub(super) const PRINTER: Printer = Printer {
    columns: &[
        NAME,
        printer::text("Ready", Description::Text("The aggregate readiness state of this pod for accepting traffic.")),
        printer::text("Status", Description::Text("The aggregate status of the containers in this pod.")),
        printer::text(
            "Restarts",
            Description::Text(
                "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
            ),
        ),
        AGE,
        printer::wide("IP", Description::Field(STATUS, "podIP")),
        printer::wide("Node", Description::Field(SPEC, "nodeName")),
        printer::wide("Nominated Node", Description::Field(STATUS, "nominatedNodeName")),
        printer::wide("Readiness Gates", Description::Field(SPEC, "readinessGates")),
    ],
    cells,
};

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let or_none = |text: &str| Value::from(if text.is_empty() { "<none>" } else { text });
    vec![
        printer::name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        summary.restarts.text(now).into(),
        printer::object_age(pod, now),
        or_none(str_at(pod, "/status/podIPs/0/ip")),
        or_none(str_at(pod, "/spec/nodeName")),
        or_none(str_at(pod, "/status/nominatedNodeName")),
        readiness_gates(pod).into(),
    ]
}

#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count = self.count.saturating_add(int_at(status, "/restartCount"));
        self.last = self.last.max(printer::parse_time(at(status, "/lastState/terminated/finishedAt")));
    }

    fn text(&self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => {
                let age = printer::age(&Value::String(last.to_string()), now);
                format!("{} ({} ago)", self.count, age.as_str().unwrap_or_default())
            }
            _ => self.count.to_string(),
        }
    }
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: Restarts,
}

impl Summary {
    fn of(pod: &Value) -> Summary {
        let init = list_at(pod, "/spec/initContainers");
        let sidecar = |name: &str| init.iter().any(|c| str_at(c, "/name") == name && str_at(c, "/restartPolicy") == "Always");
        let sidecars = init.iter().filter(|c| str_at(c, "/restartPolicy") == "Always").count();
        let mut summary = Summary {
            ready: 0,
            total: list_at(pod, "/spec/containers").len() + sidecars,
            reason: initial_reason(pod),
            restarts: Restarts::default(),
        };
        let mut of_sidecars = Restarts::default();
        let mut initializing = false;
        for (i, status) in list_at(pod, "/status/initContainerStatuses").iter().enumerate() {
            summary.restarts.add(status);
            let is_sidecar = sidecar(str_at(status, "/name"));
            if is_sidecar {
                of_sidecars.add(status);
            }
            if is_sidecar && !ended_well(status) && bool_at(status, "/started") {
                summary.ready += usize::from(bool_at(status, "/ready"));
                continue;
            }
            if let Some(reason) = init_reason(status, i, init.len()) {
                summary.reason = reason;
                initializing = true;
                break;
            }
        }
        if !initializing || has_true_condition(pod, "Initialized") {
            summary.restarts = of_sidecars;
            summary.add_containers(pod);
        }
        let terminal = matches!(str_at(pod, "/status/phase"), "Succeeded" | "Failed");
        if !at(pod, "/metadata/deletionTimestamp").is_null() {
            if str_at(pod, "/status/reason") == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !terminal {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    fn add_containers(&mut self, pod: &Value) {
        let mut running = false;
        let mut failure = None;
        for status in list_at(pod, "/status/containerStatuses").iter().rev() {
            self.restarts.add(status);
            let waiting = str_at(status, "/state/waiting/reason");
            let terminated = at(status, "/state/terminated");
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if !terminated.is_null() {
                self.reason = terminated_reason(terminated, "");
                if int_at(terminated, "/exitCode") != 0 {
                    failure = Some(self.reason.clone());
                }
            } else if bool_at(status, "/ready") && !at(status, "/state/running").is_null() {
                running = true;
                self.ready += 1;
            }
        }
        // Some containers have completed, but others may still run or have failed.
        if self.reason == "Completed" {
            if running && has_true_condition(pod, "Ready") {
                self.reason = "Running".to_owned();
            } else if let Some(failure) = failure {
                self.reason = failure;
            } else if running {
                self.reason = "NotReady".to_owned();
            }
        }
    }
}

fn initial_reason(pod: &Value) -> String {
    let gated = |c: &Value| str_at(c, "/type") == "PodScheduled" && str_at(c, "/reason") == "SchedulingGated";
    if list_at(pod, "/status/conditions").iter().any(gated) {
        return "SchedulingGated".to_owned();
    }
    let reason = str_at(pod, "/status/reason");
    if reason.is_empty() { str_at(pod, "/status/phase").to_owned() } else { reason.to_owned() }
}

fn ended_well(status: &Value) -> bool {
    let terminated = at(status, "/state/terminated");
    !terminated.is_null() && int_at(terminated, "/exitCode") == 0
}

/// Why initialization has come no further than this init container; `None` if it has.
fn init_reason(status: &Value, index: usize, count: usize) -> Option<String> {
    let terminated = at(status, "/state/terminated");
    if ended_well(status) {
        return None;
    }
    if !terminated.is_null() {
        return Some(terminated_reason(terminated, "Init:"));
    }
    match str_at(status, "/state/waiting/reason") {
        "" | "PodInitializing" => Some(format!("Init:{index}/{count}")),
        waiting => Some(format!("Init:{waiting}")),
    }
}

fn terminated_reason(terminated: &Value, prefix: &str) -> String {
    match (str_at(terminated, "/reason"), int_at(terminated, "/signal")) {
        ("", 0) => format!("{prefix}ExitCode:{}", int_at(terminated, "/exitCode")),
        ("", signal) => format!("{prefix}Signal:{signal}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

fn has_true_condition(pod: &Value, kind: &str) -> bool {
    let conditions = list_at(pod, "/status/conditions");
    conditions.iter().any(|c| str_at(c, "/type") == kind && str_at(c, "/status") == "True")
}

/// How many readiness gates are passed, of how many.
fn readiness_gates(pod: &Value) -> String {
    let gates = list_at(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let conditions = list_at(pod, "/status/conditions");
    let passed = |gate: &&Value| {
        let kind = str_at(gate, "/conditionType");
        conditions.iter().find(|c| str_at(c, "/type") == kind).is_some_and(|c| str_at(c, "/status") == "True")
    };
    format!("{}/{}", gates.iter().filter(passed).count(), gates.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(pod: &Value) -> (String, String, String) {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().expect("a time");
        let cells = cells(pod, now);
        let text = |i: usize| cells[i].as_str().expect("a string").to_owned();
        (text(1), text(2), text(3))
    }

    fn pod(spec: Value, status: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": spec, "status": status})
    }

    #[test]
    fn ready_status_and_restarts_read_as_upstream_prints_them() {
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let init = json!({
            "containers": [{"name": "a"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        });
        let up = json!({"name": "a", "ready": true, "state": {"running": {}}, "restartCount": 0});
        let done = json!({"name": "b", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}, "restartCount": 0});
        let cases = [
            (pod(two.clone(), json!({"phase": "Pending"})), ("0/2", "Pending", "0")),
            (
                pod(
                    two.clone(),
                    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [up, done]}),
                ),
                ("1/2", "Running", "0"),
            ),
            (pod(two.clone(), json!({"phase": "Running", "containerStatuses": [up, done]})), ("1/2", "NotReady", "0")),
            (
                pod(
                    two.clone(),
                    json!({"phase": "Running", "containerStatuses": [{
                        "name": "a",
                        "restartCount": 3,
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:05:00Z"}},
                    }]}),
                ),
                ("0/2", "CrashLoopBackOff", "3 (5m ago)"),
            ),
            (
                pod(
                    init.clone(),
                    json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 1, "state": {"running": {}}}]}),
                ),
                ("0/2", "Init:0/2", "1"),
            ),
            (
                pod(
                    init.clone(),
                    json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 2}}}]}),
                ),
                ("0/2", "Init:ExitCode:2", "0"),
            ),
            (
                pod(
                    init,
                    json!({
                        "phase": "Running",
                        "initContainerStatuses": [
                            {"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 0}}},
                            {"name": "s", "restartCount": 1, "started": true, "ready": true, "state": {"running": {}}},
                        ],
                        "containerStatuses": [up],
                    }),
                ),
                ("2/2", "Running", "1"),
            ),
            (
                pod(two, json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]})),
                ("0/2", "SchedulingGated", "0"),
            ),
        ];
        for (pod, (ready, status, restarts)) in cases {
            assert_eq!(shown(&pod), (ready.to_owned(), status.to_owned(), restarts.to_owned()), "{pod}");
        }
    }

    #[test]
    fn a_pod_being_deleted_is_terminating() {
        let mut pod = pod(json!({"containers": [{}]}), json!({"phase": "Running"}));
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(shown(&pod).1, "Terminating");
        pod["status"]["reason"] = "NodeLost".into();
        assert_eq!(shown(&pod).1, "Unknown");
    }
}
