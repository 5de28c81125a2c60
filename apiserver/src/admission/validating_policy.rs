//! ValidatingAdmissionPolicy: expressions that must hold for what is written, bound to writes and parameters by bindings.
//!
//! What policies have to say to the audit log goes there once all have been asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::json;
use apimachinery::status::{Cause, Status};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::matching::Subject;
use super::policy::{self, Compiled, InForce, compiled};
use super::shown::Shown;
use super::static_manifests;
use super::webhook::is_exempt;
use super::{Attributes, Cluster, WaitingPlugin};
use crate::audit;
use crate::expressions::{self, Composed, Quick, Variables};
use crate::registry::read::{list_at, str_at};

/// Bytes of a message that an expression makes; longer ones are not used.
const MAX_MESSAGE_BYTES: usize = 5 * 1024;

/// Bytes of an annotation that an expression makes; longer ones are cut.
const MAX_ANNOTATION_BYTES: usize = 10 * 1024;
/// Failed validations that the audit log is told of.
const MAX_FAILURES: usize = 50;

/// The plugin.
pub struct ValidatingPolicies(InForce<Rules>);

impl Default for ValidatingPolicies {
    fn default() -> ValidatingPolicies {
        ValidatingPolicies(InForce::new("validatingadmissionpolicies", "validatingadmissionpolicybindings", Rules::read))
    }
}

/// What keeps a write from happening, or would if its binding were stricter.
#[derive(Debug, Default, PartialEq)]
struct Decision {
    message: String,
    /// Empty for the default.
    reason: String,
    /// Which of the policy's validations does not hold.
    index: usize,
    /// It is an audit annotation that failed, or a binding that is not as it should be: that is never only a warning.
    always_denies: bool,
}

/// What a policy says of a write.
#[derive(Debug, Default, PartialEq)]
struct Said {
    against: Vec<Decision>,
    /// For the audit log, under the policy's name.
    annotations: Vec<(String, String)>,
}

/// The expressions of a policy, ready to be evaluated.
struct Rules {
    ignores_failures: bool,
    conditions: Vec<Compiled>,
    variables: Composed,
    validations: Vec<Validation>,
    annotations: Vec<Annotation>,
}

struct Annotation {
    key: String,
    value: Compiled,
}

struct Validation {
    text: String,
    expression: Compiled,
    message: String,
    message_expression: Option<Compiled>,
    reason: String,
}

impl Rules {
    fn read(policy: &Value) -> Rules {
        let validation = |rule: &Value| Validation {
            text: str_at(rule, "/expression").trim().to_owned(),
            expression: compiled(rule, "/expression"),
            message: str_at(rule, "/message").trim().to_owned(),
            message_expression: (!str_at(rule, "/messageExpression").is_empty()).then(|| compiled(rule, "/messageExpression")),
            reason: str_at(rule, "/reason").to_owned(),
        };
        let annotation =
            |annotation: &Value| Annotation { key: str_at(annotation, "/key").to_owned(), value: compiled(annotation, "/valueExpression") };
        let all = |pointer| list_at(policy, pointer).iter();
        Rules {
            ignores_failures: policy::ignores_failures(policy),
            conditions: policy::conditions(policy),
            variables: policy::variables(policy),
            validations: all("/spec/validations").map(validation).collect(),
            annotations: all("/spec/auditAnnotations").map(annotation).collect(),
        }
    }

    fn on_failure(&self, message: String) -> Option<Decision> {
        (!self.ignores_failures).then(|| Decision { message, ..Decision::default() })
    }

    fn only_failure(&self, message: String) -> Said {
        Said { against: self.on_failure(message).into_iter().collect(), annotations: Vec::new() }
    }

    /// What stands against the write, and what is to be told of it.
    fn evaluate(&self, variables: Variables) -> Said {
        match expressions::all_hold(&self.conditions, &variables) {
            Ok(true) => {}
            Ok(false) => return Said::default(),
            Err(why) => return self.only_failure(why),
        }
        // One that fails does so where it is used.
        let variables = variables.composing(&self.variables);
        let decide = |(index, rule): (usize, &Validation)| self.validate(rule, &variables).map(|against| Decision { index, ..against });
        let mut said = Said { against: self.validations.iter().enumerate().filter_map(decide).collect(), annotations: Vec::new() };
        for annotation in &self.annotations {
            match annotation.evaluate(&variables) {
                Ok(Some(value)) => said.annotations.push((annotation.key.clone(), value)),
                Ok(None) => {}
                Err(why) => said.against.extend(self.on_failure(why).map(|against| Decision { always_denies: true, ..against })),
            }
        }
        said
    }

    fn validate(&self, rule: &Validation, variables: &Variables) -> Option<Decision> {
        let given = rule.expression.as_ref().map_err(Clone::clone).and_then(|expression| expression.evaluate(variables));
        match given {
            Ok(value) if expressions::is_true(&value) => None,
            Ok(_) => Some(Decision { message: rule.message(variables), reason: rule.reason.clone(), ..Decision::default() }),
            Err(why) => self.on_failure(why),
        }
    }
}

impl Annotation {
    /// `None` for nothing to tell.
    fn evaluate(&self, variables: &Variables) -> Result<Option<String>, String> {
        let value = self.value.as_ref().map_err(Clone::clone)?.evaluate(variables)?;
        // What is no text is null: the policy has been checked.
        let Some(text) = expressions::text(&value) else { return Ok(None) };
        let mut text = text.trim();
        if text.len() > MAX_ANNOTATION_BYTES {
            text = &text[..text.floor_char_boundary(MAX_ANNOTATION_BYTES)];
        }
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }
}

impl Validation {
    /// What is said when it does not hold: what an expression makes, else what the policy says, else the expression itself.
    fn message(&self, variables: &Variables) -> String {
        let made = self.message_expression.as_ref().and_then(|expression| expression.as_ref().ok()?.evaluate(variables).ok());
        let made = made.as_ref().and_then(expressions::text).map(str::trim);
        match made.filter(|made| !made.is_empty() && made.len() <= MAX_MESSAGE_BYTES && !made.contains('\n')) {
            Some(made) => made.to_owned(),
            None if !self.message.is_empty() => self.message.clone(),
            None => format!("failed expression: {}", self.text),
        }
    }
}

/// The refusal of a policy.
fn denial(attributes: &Attributes<'_>, object: Option<&Value>, by: &str, decision: &Decision) -> Status {
    let message = format!("{by} denied request: {}", decision.message);
    let mut status = attributes.forbidden(object, &message);
    let reason = if decision.reason.is_empty() { "Invalid" } else { &decision.reason };
    (status.reason, status.code) = match reason {
        "Forbidden" => ("Forbidden".into(), 403),
        "Unauthorized" => ("Unauthorized".into(), 401),
        "RequestEntityTooLarge" => ("RequestEntityTooLarge".into(), 413),
        _ => ("Invalid".into(), 422),
    };
    status.details.get_or_insert_default().causes.push(Cause { message, ..Cause::default() });
    status
}

impl ValidatingPolicies {
    pub fn new(told: Option<&[u8]>) -> Result<ValidatingPolicies, String> {
        static_manifests::check_policies(told, "ValidatingAdmissionPolicyConfiguration")?;
        Ok(ValidatingPolicies::default())
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        cluster: &dyn Cluster,
        new: Option<&Value>,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let policies = self.0.get(cluster);
        if policies.is_empty() || is_exempt(attributes) {
            return Ok(());
        }
        let subject = Subject::new(attributes, cluster);
        let mut shown = Shown::new(&subject, cluster, new, old);
        let quick = Quick::default();
        let mut denied: Option<Status> = None;
        let mut failures: Vec<Value> = Vec::new();
        for policy in &*policies {
            let name = &policy.name;
            let Some(invocation) = policy.matcher.concerns(&subject, new, old)? else { continue };
            let told = shown.told(&invocation).await?;
            let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for binding in &policy.bindings {
                if let Some(within) = &binding.within
                    && !within.allows(&subject, new, old)?
                {
                    continue;
                }
                let said = match policy::parameters(cluster, &policy.object, &binding.object, attributes.namespace).await {
                    Err(why) => {
                        let mut said = policy.rules.only_failure(format!("failed to configure binding: {why}"));
                        said.against.iter_mut().for_each(|against| against.always_denies = true);
                        said
                    }
                    Ok(all) => evaluate(&quick, &policy.rules, &told, all).await,
                };
                for (key, value) in said.annotations {
                    let values = annotations.entry(key).or_default();
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
                for decision in said.against {
                    let by = || format!("ValidatingAdmissionPolicy '{name}' with binding '{}'", binding.name);
                    if !decision.always_denies && binding.wants("Audit") {
                        failures.push(json!({
                            "message": decision.message,
                            "policy": name,
                            "binding": binding.name,
                            "expressionIndex": decision.index,
                            "validationActions": binding.actions,
                        }));
                    }
                    if !decision.always_denies && binding.wants("Warn") {
                        warnings.push(format!("Validation failed for {}: {}", by(), decision.message));
                    }
                    if decision.always_denies || binding.wants("Deny") {
                        denied.get_or_insert_with(|| denial(attributes, new.or(old), &by(), &decision));
                    }
                }
            }
            for (key, values) in annotations {
                audit::annotate(&format!("{name}/{key}"), || values.join(", "));
            }
        }
        if !failures.is_empty() {
            failures.truncate(MAX_FAILURES);
            audit::annotate("validation.policy.admission.k8s.io/validation_failure", || json::to_string(&failures.into()));
        }
        denied.map_or(Ok(()), Err)
    }
}

/// The policy's say with each of the parameters.
async fn evaluate(quick: &Quick, rules: &Arc<Rules>, told: &Variables, parameters: Vec<Option<Arc<Value>>>) -> Said {
    let mut all = Said::default();
    for parameter in parameters {
        let variables = told.clone().with("params", parameter.unwrap_or_default());
        let evaluating = rules.clone();
        let said = expressions::evaluated(quick, variables, move |variables| evaluating.evaluate(variables.clone())).await;
        let said = said.unwrap_or_else(|why| rules.only_failure(why));
        all.against.extend(said.against);
        all.annotations.extend(said.annotations);
    }
    all
}

impl WaitingPlugin for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        cluster: &'a dyn Cluster,
        new: Option<&'a Value>,
        old: Option<&'a Value>,
        warnings: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(ValidatingPolicies::validate(self, attributes, cluster, new, old, warnings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn against(spec: &Value, object: &Value) -> Vec<String> {
        let rules = Rules::read(&json!({ "spec": spec }));
        let variables = Variables::default().with("object", object.clone());
        rules.evaluate(variables).against.into_iter().map(|decision| decision.message).collect()
    }

    #[test]
    fn what_does_not_hold_is_told() {
        let object = json!({ "spec": { "replicas": 2 } });
        let one = |validation: Value| against(&json!({ "validations": [validation] }), &object);
        assert!(one(json!({ "expression": "object.spec.replicas > 1" })).is_empty());
        assert_eq!(one(json!({ "expression": "object.spec.replicas > 2" })), ["failed expression: object.spec.replicas > 2"]);
        assert_eq!(one(json!({ "expression": "false", "message": " no " })), ["no"]);
        let made = json!({ "expression": "false", "message": "no", "messageExpression": "'got ' + string(object.spec.replicas)" });
        assert_eq!(one(made), ["got 2"]);
        let failing = json!({ "expression": "false", "message": "no", "messageExpression": "object.absent" });
        assert_eq!(one(failing), ["no"]);
        assert_eq!(one(json!({ "expression": "object.x == 1" })), ["expression 'object.x == 1' resulted in error: no such key: x"]);
    }

    #[test]
    fn annotations_are_texts_or_nothing() {
        let annotations = json!([
            { "key": "a", "valueExpression": "' n is ' + string(object.n) + ' '" },
            { "key": "b", "valueExpression": "null" },
            { "key": "c", "valueExpression": "object.n > 5 ? 'big' : ' '" },
            { "key": "d", "valueExpression": "object.absent" },
        ]);
        let rules = Rules::read(&json!({ "spec": { "auditAnnotations": annotations } }));
        let said = rules.evaluate(Variables::default().with("object", json!({ "n": 3 })));
        assert_eq!(said.annotations, [("a".to_owned(), "n is 3".to_owned())]);
        assert!(said.against.len() == 1 && said.against[0].always_denies, "{:?}", said.against);
    }

    #[test]
    fn conditions_variables_and_failure_policies_count() {
        let object = json!({ "n": 3 });
        let spec = json!({
            "variables": [{ "name": "double", "expression": "object.n * 2" }, { "name": "more", "expression": "variables.double + 1" }],
            "validations": [{ "expression": "variables.more == 8" }],
        });
        assert_eq!(against(&spec, &object), ["failed expression: variables.more == 8"]);
        let mut conditional = spec.clone();
        conditional["matchConditions"] = json!([{ "name": "c", "expression": "object.n > 3" }]);
        assert!(against(&conditional, &object).is_empty());
        let ignoring = json!({ "failurePolicy": "Ignore", "validations": [{ "expression": "object.absent == 1" }] });
        assert!(against(&ignoring, &object).is_empty());
    }
}
