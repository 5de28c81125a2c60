//! The rules of a job's status. Controllers other than upstream's may write it, so it is checked that they tell a
//! consistent story; what did not change is not held against them.

use std::collections::HashSet;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::validate_nonnegative_field;
use serde_json::{Value, json};

use super::indexes;
use super::job_policies::invalid_without_value;
use crate::registry::printer::parse_time;
use crate::registry::read::{at, bool_at, int_at, list_at, optional_int_at, str_at};

/// All field errors of a changed status.
pub fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let path = Path::new("status");
    let change = Change { new: Facts::of(new), old: Facts::of(old), path };
    let mut errors = validate_counts(&change.new, &path);
    errors.extend(change.end());
    errors.extend(change.indexes());
    errors.extend(change.pods_at_the_end());
    errors.extend(change.success_policy());
    errors.extend(change.history());
    errors
}

/// Whether a condition of the type `kind` stands and is true.
pub fn is_true(conditions: &[Value], kind: &str) -> bool {
    has(conditions, kind, "True")
}

fn has(conditions: &[Value], kind: &str, status: &str) -> bool {
    conditions.iter().any(|c| str_at(c, "/type") == kind && str_at(c, "/status") == status)
}

/// A job as the rules see it.
struct Facts<'a> {
    status: &'a Value,
    spec: &'a Value,
    conditions: &'a [Value],
}

impl<'a> Facts<'a> {
    fn of(job: &'a Value) -> Facts<'a> {
        Facts { status: at(job, "/status"), spec: at(job, "/spec"), conditions: list_at(job, "/status/conditions") }
    }

    fn is(&self, kind: &str) -> bool {
        is_true(self.conditions, kind)
    }

    fn finished(&self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    fn field(&self, name: &str) -> &'a Value {
        self.status.get(name).unwrap_or(&Value::Null)
    }

    fn count(&self, name: &str) -> i64 {
        self.field(name).as_i64().unwrap_or(0)
    }

    fn completions(&self) -> Option<i32> {
        optional_int_at(self.spec, "/completions").and_then(|n| i32::try_from(n).ok())
    }

    fn indexed(&self) -> bool {
        at(self.spec, "/completionMode") == "Indexed"
    }
}

struct Change<'a> {
    new: Facts<'a>,
    old: Facts<'a>,
    path: Path<'a>,
}

impl Change<'_> {
    fn changed(&self, field: &str) -> bool {
        self.new.field(field) != self.old.field(field)
    }

    fn turned(&self, kind: &str) -> bool {
        self.new.is(kind) != self.old.is(kind)
    }

    fn finish_turned(&self) -> bool {
        self.new.finished() != self.old.finished()
    }

    /// The conditions and times of a job that ends.
    fn end(&self) -> ErrorList {
        let (new, conditions) = (&self.new, self.path.child("conditions"));
        let (completion, start) = (new.field("completionTime"), new.field("startTime"));
        let completion_path = self.path.child("completionTime");
        let complete_turned = self.turned("Complete");
        let time_moved = complete_turned || self.changed("completionTime");
        let mut errors = Vec::new();
        let mut refuse = |when: bool, detail: &str| {
            if when {
                errors.push(invalid_without_value(&conditions, detail));
            }
        };
        refuse(
            (complete_turned || self.turned("Failed")) && new.is("Complete") && new.is("Failed"),
            "cannot set Complete=True and Failed=true conditions",
        );
        refuse(
            (complete_turned || self.turned("FailureTarget")) && new.is("Complete") && new.is("FailureTarget"),
            "cannot set Complete=True and FailureTarget=true conditions",
        );
        if time_moved && !completion.is_null() && !new.is("Complete") {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.push(Error::invalid(&completion_path, completion.clone(), detail));
        }
        if time_moved && completion.is_null() && new.is("Complete") {
            errors.push(Error::required(&completion_path, "completionTime is required for Complete jobs"));
        }
        if (self.changed("startTime") || self.changed("completionTime"))
            && let (Some(start), Some(end)) = (parse_time(start), parse_time(completion))
            && end < start
        {
            errors.push(Error::invalid(&completion_path, completion.clone(), "must be equal to or after `startTime`"));
        }
        let mut refuse = |when: bool, detail: &str| {
            if when {
                errors.push(invalid_without_value(&conditions, detail));
            }
        };
        refuse(
            (self.turned("Failed") || self.changed("failedIndexes")) && new.is("Failed") && !new.is("FailureTarget"),
            "cannot set Failed=True condition without the FailureTarget=true condition",
        );
        refuse(
            (complete_turned || self.turned("SuccessCriteriaMet")) && new.is("Complete") && !new.is("SuccessCriteriaMet"),
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        );
        if (self.finish_turned() || self.changed("active")) && new.count("active") > 0 && new.finished() {
            errors.push(Error::invalid(&self.path.child("active"), new.count("active"), "active>0 is invalid for finished job"));
        }
        let never_started = bool_at(new.spec, "/suspend") && new.completions() == Some(0);
        if (self.finish_turned() || self.changed("startTime")) && !never_started && start.is_null() && new.finished() {
            errors.push(Error::required(&self.path.child("startTime"), "startTime is required for finished job"));
        }
        if self.finish_turned() || self.changed("uncountedTerminatedPods") {
            errors.extend(self.uncounted_at_the_end());
        }
        errors
    }

    fn uncounted_at_the_end(&self) -> Option<Error> {
        let pods = self.new.field("uncountedTerminatedPods");
        let counted = list_at(pods, "/failed").is_empty() && list_at(pods, "/succeeded").is_empty();
        if !self.new.finished() || counted {
            return None;
        }
        let shown = json!({"Succeeded": at(pods, "/succeeded"), "Failed": at(pods, "/failed")});
        Some(Error::invalid(&self.path.child("uncountedTerminatedPods"), shown, "must be empty for finished job"))
    }

    /// The indexes that are done with, one way or the other.
    fn indexes(&self) -> ErrorList {
        let new = &self.new;
        let (completed_path, failed_path) = (self.path.child("completedIndexes"), self.path.child("failedIndexes"));
        let (completed, failed) = (new.field("completedIndexes").as_str().unwrap_or(""), new.field("failedIndexes").as_str());
        let (completed_changed, failed_changed) = (self.changed("completedIndexes"), self.changed("failedIndexes"));
        let per_index = !at(new.spec, "/backoffLimitPerIndex").is_null();
        let mut errors = Vec::new();
        if completed_changed
            && let Some(completions) = new.completions()
            && let Err(problem) = indexes::count(completed, completions)
        {
            errors.push(Error::invalid(&completed_path, completed, format!("error parsing completedIndexes: {problem}")));
        }
        if failed_changed
            && per_index
            && let (Some(completions), Some(failed)) = (new.completions(), failed)
            && let Err(problem) = indexes::count(failed, completions)
        {
            errors.push(Error::invalid(&failed_path, failed, format!("error parsing failedIndexes: {problem}")));
        }
        if completed_changed && !completed.is_empty() && !new.indexed() {
            let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.push(Error::invalid(&completed_path, completed, detail));
        }
        if let Some(failed) = failed.filter(|_| failed_changed && !per_index) {
            let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            errors.push(Error::invalid(&failed_path, failed, detail));
        }
        if (failed_changed || completed_changed)
            && let (Some(completions), Some(failed)) = (new.completions(), failed)
            && let Err(problem) = indexes::overlap(completed, failed, completions)
        {
            errors.push(Error::invalid(&failed_path, failed, problem));
        }
        errors
    }

    fn pods_at_the_end(&self) -> ErrorList {
        let new = &self.new;
        let (terminating, ready) = (new.count("terminating"), new.count("ready"));
        let mut errors = Vec::new();
        if (self.finish_turned() || self.changed("terminating")) && terminating > 0 && new.finished() {
            errors.push(Error::invalid(&self.path.child("terminating"), terminating, "terminating>0 is invalid for finished job"));
        }
        if (self.changed("ready") || self.changed("active")) && ready > new.count("active") && !new.field("ready").is_null() {
            errors.push(Error::invalid(&self.path.child("ready"), ready, "cannot set more ready pods than active"));
        }
        errors
    }

    fn success_policy(&self) -> ErrorList {
        let (new, conditions) = (&self.new, self.path.child("conditions"));
        let met = new.is("SuccessCriteriaMet");
        let has_policy = !at(new.spec, "/successPolicy").is_null();
        let rules = [
            (met && new.is("Failed"), "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
            (met && new.is("FailureTarget"), "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
            (
                has_policy && !met && new.is("Complete"),
                "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
            ),
        ];
        rules.iter().filter(|(broken, _)| *broken).map(|(_, detail)| invalid_without_value(&conditions, *detail)).collect()
    }

    /// What has been said is not taken back.
    fn history(&self) -> ErrorList {
        let (new, old, conditions) = (&self.new, &self.old, self.path.child("conditions"));
        let mut errors = Vec::new();
        for kind in ["Failed", "Complete", "FailureTarget"] {
            if old.is(kind) && !new.is(kind) {
                errors.push(invalid_without_value(&conditions, format!("cannot disable the terminal {kind}=True condition")));
            }
        }
        if new.count("failed") < old.count("failed") {
            errors.push(Error::invalid(&self.path.child("failed"), new.count("failed"), "cannot decrease the failed counter"));
        }
        // Indexed jobs that are scaled down forget pods beyond their completions.
        let scalable = new.indexed() && at(new.spec, "/completions") == at(new.spec, "/parallelism");
        if !scalable && new.count("succeeded") < old.count("succeeded") {
            errors.push(Error::invalid(&self.path.child("succeeded"), new.count("succeeded"), "cannot decrease the succeeded counter"));
        }
        let (completion, start) = (new.field("completionTime"), new.field("startTime"));
        if !completion.is_null() && !old.field("completionTime").is_null() && self.changed("completionTime") {
            errors.push(Error::invalid(&self.path.child("completionTime"), completion.clone(), "field is immutable"));
        }
        let resuming = old.is("Suspended") && has(new.conditions, "Suspended", "False");
        if self.changed("startTime") && !resuming && !old.field("startTime").is_null() && !bool_at(new.spec, "/suspend") {
            let detail = "field is immutable for unsuspended job once set";
            errors.push(Error::invalid(&self.path.child("startTime"), start.clone(), detail));
        }
        let (met, was_met) = (new.is("SuccessCriteriaMet"), old.is("SuccessCriteriaMet"));
        if was_met && !met {
            errors.push(invalid_without_value(&conditions, "cannot disable the SuccessCriteriaMet=True condition"));
        }
        if old.is("Complete") && !was_met && met {
            let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
            errors.push(invalid_without_value(&conditions, detail));
        }
        errors
    }
}

fn validate_counts(facts: &Facts<'_>, path: &Path<'_>) -> ErrorList {
    let mut errors = Vec::new();
    for count in ["active", "succeeded", "failed", "ready", "terminating"] {
        errors.extend(validate_nonnegative_field(int_at(facts.status, &format!("/{count}")), &path.child(count)));
    }
    let uncounted = path.child("uncountedTerminatedPods");
    let mut seen = HashSet::new();
    for list in ["succeeded", "failed"] {
        let list_path = uncounted.child(list);
        for (i, uid) in list_at(facts.status, &format!("/uncountedTerminatedPods/{list}")).iter().enumerate() {
            let uid = uid.as_str().unwrap_or("");
            if uid.is_empty() {
                errors.push(Error::invalid(&list_path.index(i), uid, "must not be empty"));
            } else if !seen.insert(uid) {
                errors.push(Error::duplicate(&list_path.index(i), uid));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(new: Value, old: Value) -> Vec<String> {
        validate_update(&json!({"status": new}), &json!({"status": old})).iter().map(ToString::to_string).collect()
    }

    fn conditions(kinds: &[&str]) -> Value {
        kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
    }

    #[test]
    fn a_job_completes_with_its_time_and_its_reason() {
        let done = json!({"conditions": conditions(&["SuccessCriteriaMet", "Complete"]), "startTime": "2024-01-01T00:00:00Z",
            "completionTime": "2024-01-01T00:00:01Z"});
        assert!(check(done.clone(), json!({})).is_empty());
        assert_eq!(
            check(json!({"conditions": conditions(&["Complete"])}), json!({})),
            [
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "status.startTime: Required value: startTime is required for finished job"
            ]
        );
        assert_eq!(
            check(json!({}), done),
            [
                "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
                "status.startTime: Invalid value: null: field is immutable for unsuspended job once set",
                "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition"
            ]
        );
    }

    #[test]
    fn a_job_fails_only_on_purpose() {
        let failed = |kinds: &[&str]| json!({"conditions": conditions(kinds), "startTime": "2024-01-01T00:00:00Z"});
        assert!(check(failed(&["FailureTarget", "Failed"]), json!({})).is_empty());
        assert_eq!(
            check(failed(&["Failed"]), json!({})),
            ["status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"]
        );
    }

    #[test]
    fn counters_only_grow() {
        assert_eq!(
            check(json!({"failed": 1, "succeeded": 0}), json!({"failed": 2, "succeeded": 1})),
            [
                "status.failed: Invalid value: 1: cannot decrease the failed counter",
                "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter"
            ]
        );
        assert_eq!(
            check(json!({"ready": 2, "active": 1, "uncountedTerminatedPods": {"succeeded": ["a", ""], "failed": ["a"]}}), json!({})),
            [
                "status.uncountedTerminatedPods.succeeded[1]: Invalid value: \"\": must not be empty",
                "status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
                "status.ready: Invalid value: 2: cannot set more ready pods than active"
            ]
        );
    }
}
