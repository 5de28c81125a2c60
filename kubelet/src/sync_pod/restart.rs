//! Whether a container that is not running shall run (again).

use client::Object;
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod, PodSpec, PodStatus as ApiStatus};

use crate::pod;
use crate::runtime_status::{PodStatus, State};

const RESTART_ALL: &str = "RestartAllContainers";

/// The first of a container's rules that speaks of this exit code.
fn matching_rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

/// Whether the end of this container is the end of all containers, which then start anew.
pub fn asks_for_all(container: &Container, exit_code: i32) -> bool {
    matching_rule(container, exit_code).is_some_and(|rule| rule.action == RESTART_ALL)
}

/// Whether a container that ended like this is to run again: by its rules, its own policy, or the pod's.
pub fn after_exit(container: &Container, spec: &PodSpec, exit_code: i32) -> bool {
    let by_policy = |policy: &str| match policy {
        "OnFailure" => exit_code != 0,
        "Never" => false,
        _ => true,
    };
    let pods = spec.restart_policy.as_deref().unwrap_or("Always");
    let Some(own) = container.restart_policy.as_deref() else { return by_policy(pods) };
    match matching_rule(container, exit_code).map(|rule| rule.action.as_str()) {
        Some("Restart" | RESTART_ALL) => true,
        _ if matches!(own, "Always" | "OnFailure" | "Never") => by_policy(own),
        _ => by_policy(pods),
    }
}

/// Whether a container that is not running shall be started.
pub fn should_start(container: &Container, pod: &Pod, status: &PodStatus) -> bool {
    if pod.is_terminating() {
        return false;
    }
    match status.container(&container.name) {
        None => true,
        Some(known) => match known.state {
            State::Running => false,
            State::Unknown | State::Created => true,
            State::Exited => after_exit(container, pod::spec(pod), known.exit_code),
        },
    }
}

/// Whether any container of the pod may ask for all to be restarted.
pub fn all_could_restart(pod: &Pod) -> bool {
    let containers = pod::init_containers(pod).iter().chain(pod::containers(pod));
    containers.flat_map(|container| container.restart_policy_rules.iter().flatten()).any(|rule| rule.action == RESTART_ALL)
}

/// Whether all containers are to be restarted, because it was begun or because one asks for it.
pub fn all_should_restart(pod: &Pod, status: &PodStatus, told: &ApiStatus) -> bool {
    let begun = told.conditions.iter().flatten().any(|c| c.type_ == "AllContainersRestarting" && c.status == "True");
    let asks = |container: &Container| {
        let exited = status.container(&container.name).filter(|known| known.state == State::Exited);
        exited.is_some_and(|known| asks_for_all(container, known.exit_code))
    };
    begun || pod::init_containers(pod).iter().chain(pod::containers(pod)).any(asks)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(value: serde_json::Value) -> Container {
        let mut fields = json!({"name": "a"});
        if let (Some(all), Some(more)) = (fields.as_object_mut(), value.as_object()) {
            all.extend(more.clone());
        }
        serde_json::from_value(fields).expect("it is a container")
    }

    #[test]
    fn rules_come_before_the_containers_policy_and_that_before_the_pods() {
        let spec = PodSpec { restart_policy: Some("Never".to_owned()), ..Default::default() };
        let rule = |operator: &str, action: &str| {
            json!({"restartPolicy": "OnFailure",
                "restartPolicyRules": [{"action": action, "exitCodes": {"operator": operator, "values": [42]}}]})
        };
        for (fields, exit_code, expected) in [
            (json!({}), 1, false),
            (json!({"restartPolicy": "Always"}), 0, true),
            (json!({"restartPolicy": "OnFailure"}), 0, false),
            (json!({"restartPolicy": "OnFailure"}), 1, true),
            (rule("In", "Restart"), 42, true),
            (rule("In", "Restart"), 0, false),
            (rule("NotIn", "Restart"), 0, true),
        ] {
            assert_eq!(after_exit(&container(fields.clone()), &spec, exit_code), expected, "{fields} {exit_code}");
        }
        assert!(asks_for_all(&container(rule("In", RESTART_ALL)), 42));
        assert!(!asks_for_all(&container(rule("In", RESTART_ALL)), 41));
    }
}
