//! What a deletion does to an object: nothing yet, a mark and a grace period, finalizers to wait for, or its end.
//!
//! Decides only; storage, admission and answers are [`super::delete`]'s.

use apimachinery::time;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::meta;
use super::options::DeleteOptions;
use crate::registry::Propagation;
use crate::registry::conditions::Condition;
use crate::registry::strategy::generation;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Plan {
    /// The object is removed as it is.
    Remove,
    /// A deletion that would not end sooner than the one under way: nothing changes.
    Keep,
    /// The object is written so; it stays until somebody has finished with it.
    Mark(Box<Value>),
    /// The object is written so for watchers to see, and then removed.
    MarkAndRemove(Box<Value>),
}

/// What the kind has to say.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The grace period that the kind gives this request; `None` for kinds that are not deleted gracefully.
    pub grace: Option<i64>,
    /// What becomes of dependents by default; `None` for kinds that never have any.
    pub dependents: Option<Propagation>,
}

/// Decides on an object of any kind but namespaces.
pub fn plan(old: &Value, options: &DeleteOptions, rules: Rules, now: Timestamp) -> Plan {
    let requested = options.grace_period_seconds.map(at_least_one_second);
    let grace = match rules.grace {
        None => Grace::None,
        Some(period) => graceful(old, period, requested, now),
    };
    if grace == Grace::Pending {
        return Plan::Keep;
    }
    let finalizers = rules.dependents.map_or_else(|| finalizers(old), |default| finalizers_for(default, old, options));
    let waits = !finalizers.is_empty();
    let mut new = old.clone();
    set_finalizers(&mut new, finalizers);
    match grace {
        Grace::Marked { at, period } => {
            if !is_being_deleted(old) {
                bump_generation(&mut new);
            }
            mark(&mut new, at, period);
            if waits || period > 0 { Plan::Mark(Box::new(new)) } else { Plan::MarkAndRemove(Box::new(new)) }
        }
        _ if waits => {
            if !is_being_deleted(old) {
                bump_generation(&mut new);
            }
            let at = deletion_time(old).map_or(now, |set| set.min(now));
            mark(&mut new, at, 0);
            Plan::Mark(Box::new(new))
        }
        _ => Plan::Remove,
    }
}

/// Decides on a namespace: it is marked first, and goes when whoever empties it has taken its finalizers away.
pub fn plan_namespace(old: &Value, options: &DeleteOptions, rules: Rules, now: Timestamp) -> Plan {
    if is_being_deleted(old) {
        let waits = old.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
        return if waits { Plan::Keep } else { plan(old, options, rules, now) };
    }
    let mut new = old.clone();
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation.as_deref()) {
        (Some(orphan), _) => (orphan, !orphan),
        (None, Some(policy)) => (policy == "Orphan", policy == "Foreground"),
        (None, None) => (has_finalizer(old, ORPHAN), has_finalizer(old, FOREGROUND)),
    };
    set_finalizers(&mut new, with_dependents(old, orphan, foreground));
    meta::set_text(&mut new, "deletionTimestamp", &time::format_time(now));
    if let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) {
        status.insert("phase".to_owned(), Value::String("Terminating".to_owned()));
    }
    Plan::Mark(Box::new(new))
}

/// The finalizer that holds a CustomResourceDefinition until its objects are gone.
pub const CUSTOM_RESOURCE_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Decides on a CustomResourceDefinition: it is marked first, and goes when its objects have gone.
pub fn plan_definition(old: &Value, options: &DeleteOptions, rules: Rules, now: Timestamp) -> Plan {
    if is_being_deleted(old) {
        return plan(old, options, rules, now);
    }
    let mut new = old.clone();
    let mut finalizers = finalizers(old);
    if !finalizers.iter().any(|f| f == CUSTOM_RESOURCE_CLEANUP) {
        finalizers.push(CUSTOM_RESOURCE_CLEANUP.to_owned());
    }
    set_finalizers(&mut new, finalizers);
    meta::set_text(&mut new, "deletionTimestamp", &time::format_time(now));
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    Condition::new("Terminating", "True", "InstanceDeletionPending", message).set(&mut new, now);
    Plan::Mark(Box::new(new))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grace {
    /// The kind is not deleted gracefully, or all its grace has been used up.
    None,
    /// The deletion under way ends as soon as this one would.
    Pending,
    Marked {
        at: Timestamp,
        period: i64,
    },
}

fn graceful(old: &Value, period: i64, requested: Option<i64>, now: Timestamp) -> Grace {
    if !is_being_deleted(old) {
        return Grace::Marked { at: after(now, period), period };
    }
    let pending = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).map_or(0, at_least_one_second);
    if pending == 0 {
        // The mark was written and the removal after it failed: it is made good now.
        return Grace::None;
    }
    let Some(requested) = requested.filter(|requested| *requested < pending) else { return Grace::Pending };
    // A shortened period counts from the first request.
    let at = after(deletion_time(old).unwrap_or(now), requested.saturating_sub(pending));
    if at >= now {
        return Grace::Marked { at, period: requested };
    }
    Grace::Marked { at: now, period: requested.min(1) }
}

/// A negative period stands for one second.
fn at_least_one_second(period: i64) -> i64 {
    if period < 0 { 1 } else { period }
}

fn after(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(time)
}

fn is_being_deleted(object: &Value) -> bool {
    !meta::text(object, "deletionTimestamp").is_empty()
}

fn deletion_time(object: &Value) -> Option<Timestamp> {
    meta::text(object, "deletionTimestamp").parse().ok()
}

fn mark(object: &mut Value, at: Timestamp, period: i64) {
    let metadata = meta::metadata_mut(object);
    metadata.insert("deletionTimestamp".to_owned(), Value::String(time::format_time(at)));
    metadata.insert("deletionGracePeriodSeconds".to_owned(), period.into());
}

/// Kinds that count generations count the deletion too.
fn bump_generation(object: &mut Value) {
    let count = generation(object);
    if count > 0 {
        meta::metadata_mut(object).insert("generation".to_owned(), count.saturating_add(1).into());
    }
}

fn finalizers(object: &Value) -> Vec<String> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|f| f.as_str().map(str::to_owned)).collect()
}

fn has_finalizer(object: &Value, name: &str) -> bool {
    finalizers(object).iter().any(|f| f == name)
}

fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    let metadata = meta::metadata_mut(object);
    if finalizers.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
}

/// The object's finalizers with those that the garbage collector waits for, as the options (or else the object itself, or else
/// the kind's default) say.
fn finalizers_for(default: Propagation, old: &Value, options: &DeleteOptions) -> Vec<String> {
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation.as_deref()) {
        (Some(orphan), _) => (orphan, false),
        (None, Some(policy)) => (policy == "Orphan", policy == "Foreground"),
        // Of the two, the one that stands first in the object decides.
        (None, None) => match finalizers(old).iter().find(|f| matches!(f.as_str(), ORPHAN | FOREGROUND)) {
            Some(found) => (found == ORPHAN, found == FOREGROUND),
            None => (default == Propagation::Orphan, default == Propagation::Foreground),
        },
    };
    with_dependents(old, orphan, foreground)
}

fn with_dependents(old: &Value, orphan: bool, foreground: bool) -> Vec<String> {
    let before = finalizers(old);
    if orphan == before.iter().any(|f| f == ORPHAN) && foreground == before.iter().any(|f| f == FOREGROUND) {
        return before;
    }
    let mut after: Vec<String> = before.into_iter().filter(|f| f != ORPHAN && f != FOREGROUND).collect();
    after.extend(orphan.then(|| ORPHAN.to_owned()));
    after.extend(foreground.then(|| FOREGROUND.to_owned()));
    after
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PLAIN: Rules = Rules { grace: None, dependents: Some(Propagation::Background) };

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn policy(name: &str) -> DeleteOptions {
        DeleteOptions { propagation: Some(name.to_owned()), ..DeleteOptions::default() }
    }

    fn grace(seconds: i64) -> DeleteOptions {
        DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() }
    }

    fn marked(plan: Plan) -> Value {
        match plan {
            Plan::Mark(object) | Plan::MarkAndRemove(object) => object["metadata"].clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_object_without_finalizers_is_removed_at_once() {
        let old = json!({"metadata": {"generation": 1}});
        assert_eq!(plan(&old, &DeleteOptions::default(), PLAIN, now()), Plan::Remove);
        assert_eq!(plan(&old, &policy("Background"), PLAIN, now()), Plan::Remove);
        let orphans = Rules { dependents: Some(Propagation::Orphan), ..PLAIN };
        assert_eq!(marked(plan(&old, &DeleteOptions::default(), orphans, now()))["finalizers"], json!(["orphan"]));
        let never = Rules { dependents: None, ..PLAIN };
        assert_eq!(plan(&old, &policy("Orphan"), never, now()), Plan::Remove);
    }

    #[test]
    fn finalizers_keep_a_marked_object() {
        let old = json!({"metadata": {"generation": 1, "finalizers": ["a", "orphan"]}});
        let metadata = marked(plan(&old, &policy("Foreground"), PLAIN, now()));
        assert_eq!(
            metadata,
            json!({"generation": 2, "finalizers": ["a", "foregroundDeletion"], "deletionTimestamp": "1970-01-12T13:46:40Z",
                "deletionGracePeriodSeconds": 0})
        );
        let again = marked(plan(&json!({"metadata": metadata}), &DeleteOptions::default(), PLAIN, now()));
        assert_eq!(again, metadata);
    }

    #[test]
    fn a_grace_period_is_only_ever_shortened() {
        let with = |period| Rules { grace: Some(period), ..PLAIN };
        let old = json!({"metadata": {"generation": 1}});
        let first = marked(plan(&old, &DeleteOptions::default(), with(30), now()));
        assert_eq!((&first["generation"], &first["deletionTimestamp"]), (&json!(2), &json!("1970-01-12T13:47:10Z")));
        let pending = json!({"metadata": first});
        assert_eq!(plan(&pending, &DeleteOptions::default(), with(30), now()), Plan::Keep);
        assert_eq!(plan(&pending, &grace(30), with(30), now()), Plan::Keep);
        let shorter = marked(plan(&pending, &grace(5), with(5), now()));
        assert_eq!((&shorter["generation"], &shorter["deletionTimestamp"]), (&json!(2), &json!("1970-01-12T13:46:45Z")));
        let late = Timestamp::from_second(1_000_020).unwrap();
        assert_eq!(marked(plan(&pending, &grace(5), with(5), late))["deletionGracePeriodSeconds"], 1);
        assert!(matches!(plan(&pending, &grace(0), with(0), late), Plan::MarkAndRemove(_)));
        assert!(matches!(plan(&old, &grace(0), with(0), now()), Plan::MarkAndRemove(_)));
    }

    #[test]
    fn a_namespace_waits_for_its_finalizers() {
        let old = json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let Plan::Mark(new) = plan_namespace(&old, &DeleteOptions::default(), PLAIN, now()) else { panic!("not marked") };
        assert_eq!(new["metadata"], json!({"deletionTimestamp": "1970-01-12T13:46:40Z"}));
        assert_eq!(new["status"]["phase"], "Terminating");
        assert_eq!(plan_namespace(&new, &DeleteOptions::default(), PLAIN, now()), Plan::Keep);
        let mut empty = *new;
        empty["spec"] = json!({});
        assert_eq!(plan_namespace(&empty, &DeleteOptions::default(), PLAIN, now()), Plan::Remove);
    }
}
