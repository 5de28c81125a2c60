//! What a Job's policies say: of a failed pod (`podFailurePolicy`) and of the indexes that have succeeded (`successPolicy`). Pure.

use client::Object;
use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use super::indexes::Indexes;

/// What follows from a pod's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Count,
    Ignore,
    FailIndex,
    /// The Job fails, for this reason.
    FailJob(String),
}

/// The verdict of the first rule that matches; without one the failure counts.
pub fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let Some(status) = &pod.status else { return Verdict::Count };
    for (i, rule) in policy.iter().flat_map(|policy| policy.rules.iter()).enumerate() {
        let why = if let Some(codes) = &rule.on_exit_codes {
            matching_container(status, codes)
                .map(|(name, code)| format!("Container {name} for pod {} failed with exit code {code}", pod.key()))
        } else {
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
            matching_condition(status, patterns).map(|condition| format!("Pod {} has condition {}", pod.key(), condition.type_))
        };
        let Some(why) = why else { continue };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignore,
            "FailIndex" => return Verdict::FailIndex,
            "Count" => return Verdict::Count,
            "FailJob" => return Verdict::FailJob(format!("{why} matching FailJob rule at index {i}")),
            // An action of a later version: as if the rule were not there.
            _ => {}
        }
    }
    Verdict::Count
}

fn matching_container<'a>(status: &'a PodStatus, rule: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let exit_code = |container: &ContainerStatus| Some(container.state.as_ref()?.terminated.as_ref()?.exit_code);
    let matches = |container: &'a ContainerStatus| {
        let code = exit_code(container).filter(|code| *code != 0)?;
        let named = rule.container_name.as_ref().is_none_or(|name| *name == container.name);
        let listed = rule.values.contains(&code);
        let meant = match rule.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        (named && meant).then_some((container.name.as_str(), code))
    };
    let containers = status.container_statuses.iter().flatten();
    containers.chain(status.init_container_statuses.iter().flatten()).find_map(matches)
}

fn matching_condition<'a>(status: &'a PodStatus, patterns: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<&'a PodCondition> {
    let matches = |condition: &&PodCondition| {
        patterns.iter().any(|pattern| pattern.type_ == condition.type_ && pattern.status.as_deref().unwrap_or("True") == condition.status)
    };
    status.conditions.iter().flatten().find(matches)
}

/// Whether enough indexes have succeeded for the Job to be a success, and by which rule.
pub fn is_success(policy: Option<&SuccessPolicy>, completions: i32, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let met = |(indexes, count): (Option<&String>, Option<i32>)| match indexes {
        Some(text) => {
            let required = Indexes::parse(text, completions);
            let common = required.common(succeeded);
            !required.is_empty() && (common == required.count() || count.is_some_and(|count| common >= count))
        }
        None => count.is_some_and(|count| succeeded.count() >= count),
    };
    let mut rules = policy?.rules.iter();
    let rule = rules.position(|rule| met((rule.succeeded_indexes.as_ref(), rule.succeeded_count)))?;
    Some(format!("Matched rules at index {rule}"))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::{PodFailurePolicyRule, SuccessPolicyRule};
    use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated};

    use super::*;

    fn failed(name: &str, exit_code: i32) -> Pod {
        let mut pod = crate::pod_state::tests::pod("p", None);
        let terminated = ContainerStateTerminated { exit_code, ..ContainerStateTerminated::default() };
        let state = ContainerState { terminated: Some(terminated), ..ContainerState::default() };
        let status = ContainerStatus { name: name.to_owned(), state: Some(state), ..ContainerStatus::default() };
        pod.status.get_or_insert_default().container_statuses = Some(vec![status]);
        pod
    }

    fn on_codes(action: &str, container: Option<&str>, operator: &str, values: &[i32]) -> PodFailurePolicyRule {
        PodFailurePolicyRule {
            action: action.to_owned(),
            on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                container_name: container.map(str::to_owned),
                operator: operator.to_owned(),
                values: values.to_vec(),
            }),
            on_pod_conditions: None,
        }
    }

    fn on_condition(action: &str, kind: &str, status: &str) -> PodFailurePolicyRule {
        let pattern = PodFailurePolicyOnPodConditionsPattern { type_: kind.to_owned(), status: Some(status.to_owned()) };
        PodFailurePolicyRule { action: action.to_owned(), on_exit_codes: None, on_pod_conditions: Some(vec![pattern]) }
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let policy = PodFailurePolicy {
            rules: vec![
                on_condition("Ignore", "DisruptionTarget", "True"),
                on_codes("FailIndex", Some("main"), "In", &[3]),
                on_codes("FailJob", Some("main"), "NotIn", &[1, 2]),
            ],
        };
        let judge = |pod: &Pod| judge(Some(&policy), pod);
        assert_eq!(judge(&failed("main", 1)), Verdict::Count);
        assert_eq!(judge(&failed("main", 3)), Verdict::FailIndex);
        assert_eq!(judge(&failed("other", 42)), Verdict::Count);
        assert_eq!(judge(&failed("main", 0)), Verdict::Count);
        let message = "Container main for pod d/p failed with exit code 42 matching FailJob rule at index 2";
        assert_eq!(judge(&failed("main", 42)), Verdict::FailJob(message.to_owned()));
        let mut disrupted = failed("main", 42);
        let condition = PodCondition { type_: "DisruptionTarget".to_owned(), status: "True".to_owned(), ..PodCondition::default() };
        disrupted.status.get_or_insert_default().conditions = Some(vec![condition]);
        assert_eq!(judge(&disrupted), Verdict::Ignore);
        let fail = PodFailurePolicy { rules: vec![on_condition("FailJob", "DisruptionTarget", "True")] };
        let message = "Pod d/p has condition DisruptionTarget matching FailJob rule at index 0";
        assert_eq!(super::judge(Some(&fail), &disrupted), Verdict::FailJob(message.to_owned()));
        assert_eq!(super::judge(None, &disrupted), Verdict::Count);
    }

    #[test]
    fn a_success_needs_the_indexes_or_the_count_of_one_rule() {
        let rule =
            |indexes: Option<&str>, succeeded_count| SuccessPolicyRule { succeeded_indexes: indexes.map(str::to_owned), succeeded_count };
        let policy = SuccessPolicy { rules: vec![rule(Some("0-2"), None), rule(Some("5-9"), Some(2)), rule(None, Some(6))] };
        let met = |succeeded: &str| is_success(Some(&policy), 20, &Indexes::parse(succeeded, 20));
        assert_eq!(met(""), None);
        assert_eq!(met("0,1"), None);
        assert_eq!(met("0-2").as_deref(), Some("Matched rules at index 0"));
        assert_eq!(met("5,9").as_deref(), Some("Matched rules at index 1"));
        assert_eq!(met("10-15").as_deref(), Some("Matched rules at index 2"));
        assert_eq!(is_success(None, 20, &Indexes::parse("0-19", 20)), None);
    }
}
