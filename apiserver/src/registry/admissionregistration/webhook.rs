//! The webhooks of a configuration, mutating or validating: the one kind has a reinvocation policy, else they are alike.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{LabelSelectorOptions, is_dns1035_label, is_fully_qualified_name, validate_label_selector};
use apimachinery::view::view;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhook;
use serde_json::{Value, json};

use super::client_config::validate_client_config;
use super::match_condition::{self, validate_match_conditions};
use super::rule::validate_rule_with_operations;
use crate::registry::read::{at, list_at, str_at};
use crate::registry::{Column, Description, printer};

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const REINVOCATION_POLICIES: [&str; 2] = ["IfNeeded", "Never"];
const SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];
const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];

/// Reviews, which no webhook ever sees.
const EXCLUDED: [(&str, &str); 6] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

pub const COLUMNS: &[Column] = &[
    printer::NAME,
    printer::integer("Webhooks", Description::Text("Webhooks indicates the number of webhooks registered in this configuration")),
    printer::AGE,
];

/// The cells of a configuration.
pub fn row(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    vec![printer::name(object), list_at(object, "/webhooks").len().into(), printer::object_age(object, now)]
}

/// Which rules hold. An object that broke one before it existed, or by an older version, may go on to.
struct Rules {
    check_match_conditions: bool,
    no_side_effects: bool,
    known_review_version: bool,
    unique_names: bool,
    selectors: LabelSelectorOptions,
}

impl Rules {
    const STRICT: Rules = Rules {
        check_match_conditions: true,
        no_side_effects: true,
        known_review_version: true,
        unique_names: true,
        selectors: LabelSelectorOptions { allow_invalid_label_value_in_selector: false, allow_unknown_operator_in_requirement: false },
    };

    fn for_update(new: &Value, old: &Value, old_hooks: &[MutatingWebhook]) -> Rules {
        let conditions = |object| list_at(object, "/webhooks").iter().map(|hook| list_at(hook, "/matchConditions")).collect::<Vec<_>>();
        let mut names: Vec<&str> = old_hooks.iter().map(|hook| hook.name.as_str()).collect();
        names.sort_unstable();
        let strict = |selector: &Option<_>| {
            let errors = selector.as_ref().map(|s| validate_label_selector(s, LabelSelectorOptions::default(), &Path::ROOT));
            errors.is_none_or(|errors| errors.is_empty())
        };
        Rules {
            check_match_conditions: conditions(new) != conditions(old),
            no_side_effects: old_hooks.iter().all(|hook| NO_SIDE_EFFECTS.contains(&hook.side_effects.as_str())),
            known_review_version: old_hooks
                .iter()
                .all(|hook| hook.admission_review_versions.is_empty() || has_known_version(&hook.admission_review_versions)),
            unique_names: names.windows(2).all(|pair| pair[0] != pair[1]),
            selectors: LabelSelectorOptions {
                allow_invalid_label_value_in_selector: !old_hooks
                    .iter()
                    .all(|hook| strict(&hook.namespace_selector) && strict(&hook.object_selector)),
                ..LabelSelectorOptions::default()
            },
        }
    }
}

/// All webhooks of a configuration.
pub fn validate_webhooks(new: &Value, old: Option<&Value>) -> ErrorList {
    let hooks = webhooks(new);
    let rules = old.map_or(Rules::STRICT, |old| Rules::for_update(new, old, &webhooks(old)));
    let path = Path::new("webhooks");
    let mut errors = ErrorList::new();
    let mut seen: Vec<&str> = Vec::with_capacity(hooks.len());
    for (i, hook) in hooks.iter().enumerate() {
        let path = path.index(i);
        let has_side_effects_field = !list_at(new, "/webhooks").get(i).is_none_or(|raw| at(raw, "/sideEffects").is_null());
        errors.extend(validate_webhook(hook, has_side_effects_field, &rules, &path));
        let versions = &hook.admission_review_versions;
        errors.extend(validate_review_versions(versions, rules.known_review_version, &path.child("admissionReviewVersions")));
        if rules.unique_names && !hook.name.is_empty() {
            if seen.contains(&hook.name.as_str()) {
                errors.push(Error::duplicate(&path.child("name"), hook.name.as_str()));
            } else {
                seen.push(&hook.name);
            }
        }
    }
    errors
}

fn webhooks(object: &Value) -> Vec<MutatingWebhook> {
    match at(object, "/webhooks") {
        Value::Null => Vec::new(),
        hooks => view(hooks),
    }
}

fn validate_webhook(hook: &MutatingWebhook, has_side_effects_field: bool, rules: &Rules, path: &Path<'_>) -> ErrorList {
    let mut errors = is_fully_qualified_name(&path.child("name"), &hook.name);
    let rules_path = path.child("rules");
    for (i, rule) in hook.rules.iter().flatten().enumerate() {
        errors.extend(validate_rule_with_operations(rule, &rules_path.index(i)));
    }
    let mut one_of = |field: &str, value: Option<&str>, supported: &[&str]| {
        if let Some(value) = value.filter(|value| !supported.contains(value)) {
            errors.push(Error::not_supported(&path.child(field), value, supported));
        }
    };
    one_of("failurePolicy", hook.failure_policy.as_deref(), &FAILURE_POLICIES);
    one_of("matchPolicy", hook.match_policy.as_deref(), &MATCH_POLICIES);
    let side_effects: &[&str] = if rules.no_side_effects { &NO_SIDE_EFFECTS } else { &SIDE_EFFECTS };
    if has_side_effects_field {
        one_of("sideEffects", Some(&hook.side_effects), side_effects);
    } else {
        errors.push(Error::required(&path.child("sideEffects"), format!("must specify one of {}", side_effects.join(", "))));
    }
    if let Some(seconds) = hook.timeout_seconds.filter(|seconds| !(1..=30).contains(seconds)) {
        errors.push(Error::invalid(&path.child("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds"));
    }
    for (field, selector) in [("namespaceSelector", &hook.namespace_selector), ("objectSelector", &hook.object_selector)] {
        if let Some(selector) = selector {
            errors.extend(validate_label_selector(selector, rules.selectors, &path.child(field)));
        }
    }
    if let Some(policy) = hook.reinvocation_policy.as_deref().filter(|policy| !REINVOCATION_POLICIES.contains(policy)) {
        errors.push(Error::not_supported(&path.child("reinvocationPolicy"), policy, &REINVOCATION_POLICIES));
    }
    errors.extend(validate_client_config(&hook.client_config, &path.child("clientConfig")));
    if rules.check_match_conditions {
        errors.extend(validate_match_conditions(
            hook.match_conditions.as_deref().unwrap_or_default(),
            &match_condition::VARIABLES,
            &path.child("matchConditions"),
        ));
    }
    errors
}

fn has_known_version(versions: &[String]) -> bool {
    versions.iter().any(|version| REVIEW_VERSIONS.contains(&version.as_str()))
}

fn validate_review_versions(versions: &[String], require_known: bool, path: &Path<'_>) -> ErrorList {
    if versions.is_empty() {
        return vec![Error::required(path, format!("must specify one of {}", REVIEW_VERSIONS.join(", ")))];
    }
    let mut errors = ErrorList::new();
    for (i, version) in versions.iter().enumerate() {
        let path = path.index(i);
        if versions[..i].contains(version) {
            errors.push(Error::invalid(&path, version.as_str(), "duplicate version"));
            continue;
        }
        errors.extend(is_dns1035_label(version).into_iter().map(|message| Error::invalid(&path, version.as_str(), message)));
    }
    if require_known && !has_known_version(versions) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(Error::invalid(path, json!(versions), detail));
    }
    errors
}

/// Rules that name a review have no effect; a wildcard leaves open what was meant.
pub fn warnings(object: &Value) -> Vec<String> {
    let webhooks = Path::new("webhooks");
    let mut warnings = Vec::new();
    for (i, hook) in list_at(object, "/webhooks").iter().enumerate() {
        let hook_path = webhooks.index(i);
        let rules_path = hook_path.child("rules");
        for (j, rule) in list_at(hook, "/rules").iter().enumerate() {
            for (group, resource) in excluded_by(rule) {
                let path = rules_path.index(j);
                warnings.push(format!("{path}: {resource}.{group} is excluded from admission webhooks; this rule will have no effect"));
            }
        }
    }
    warnings
}

fn excluded_by(rule: &Value) -> Vec<(&str, &str)> {
    let (groups, resources) = (list_at(rule, "/apiGroups"), list_at(rule, "/resources"));
    let mut found = Vec::new();
    if groups.iter().chain(resources).any(|item| item == "*") {
        return found;
    }
    for group in groups {
        for resource in resources {
            let pair = (str_at(group, ""), str_at(resource, ""));
            if EXCLUDED.contains(&pair) && !found.contains(&pair) {
                found.push(pair);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook() -> Value {
        json!({"name": "a.b.c", "clientConfig": {"url": "https://a"}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Fail", "matchPolicy": "Exact", "namespaceSelector": {}, "objectSelector": {}, "timeoutSeconds": 10})
    }

    fn check(hooks: Value, old: Option<Value>) -> Vec<String> {
        let old = old.map(|hooks| json!({ "webhooks": hooks }));
        validate_webhooks(&json!({ "webhooks": hooks }), old.as_ref()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_webhook_is_named_and_without_side_effects() {
        assert!(check(json!([hook()]), None).is_empty());
        let mut bad = hook();
        bad["sideEffects"] = "Some".into();
        bad["timeoutSeconds"] = 31.into();
        bad["admissionReviewVersions"] = json!(["v3", "v3"]);
        assert_eq!(
            check(json!([bad.clone()]), None),
            [
                r#"webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun""#,
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                r#"webhooks[0].admissionReviewVersions[1]: Invalid value: "v3": duplicate version"#,
                r#"webhooks[0].admissionReviewVersions: Invalid value: ["v3","v3"]: must include at least one of v1, v1beta1"#,
            ]
        );
        // What an old object did, it may go on doing.
        assert_eq!(check(json!([bad.clone()]), Some(json!([bad]))).len(), 2);
        bad = hook();
        bad.as_object_mut().unwrap().shift_remove("sideEffects");
        assert_eq!(check(json!([bad]), None), ["webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"]);
    }

    #[test]
    fn names_are_unique_unless_they_were_not() {
        assert_eq!(check(json!([hook(), hook()]), None), [r#"webhooks[1].name: Duplicate value: "a.b.c""#]);
        assert!(check(json!([hook(), hook()]), Some(json!([hook(), hook()]))).is_empty());
    }

    #[test]
    fn rules_for_reviews_are_warned_about() {
        let rule = |resources: Value| json!({"webhooks": [{"rules": [{"apiGroups": ["authentication.k8s.io"], "resources": resources}]}]});
        assert_eq!(
            warnings(&rule(json!(["tokenreviews"]))),
            ["webhooks[0].rules[0]: tokenreviews.authentication.k8s.io is excluded from admission webhooks; this rule will have no effect"]
        );
        assert!(warnings(&rule(json!(["*"]))).is_empty());
    }
}
