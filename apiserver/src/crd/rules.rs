//! Runs the rules of a schema (`x-kubernetes-validations`) over objects: on what is new, and on transitions from what was before
//! where that can be told apart. What a rule refuses but has not changed is a warning, not an error.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::field::{Error, ErrorKind, ErrorList, Path};
use cel::{Activation, Budget};
use serde_json::Value;

use super::rule::{Rule, Scope};
use crate::expressions::{BUDGET, OUT_OF_BUDGET};
use crate::registry::read::{bool_at, list_at, str_at};

/// Bytes of a message that an expression makes.
const MAX_MESSAGE_BYTES: usize = 5 * 1024;

/// The rules of a schema and of all within.
#[derive(Default)]
pub struct Rules {
    /// The rules, as they are written and compiled.
    own: Vec<(Value, Rule)>,
    scope: Option<Arc<Scope>>,
    /// The schema's type.
    kind: String,
    items: Option<Box<Rules>>,
    additional: Option<Box<Rules>>,
    properties: BTreeMap<String, Rules>,
    all_of: Vec<Rules>,
    /// The properties that tell the items of a list apart, with the defaults of those that have one.
    keys: Vec<(String, Value)>,
}

/// What rules refuse.
#[derive(Default)]
pub struct Findings {
    pub errors: ErrorList,
    /// What was no better before.
    pub warnings: Vec<String>,
    /// What it has cost to find out; all there was if it was too much.
    pub cost: i64,
}

impl Rules {
    /// Compiles the rules of a root schema; none if there are none.
    pub fn read(schema: &Value) -> Option<Rules> {
        Rules::node(schema, schema, true)
    }

    /// Compiles the rules of a schema within another.
    pub fn read_part(schema: &Value, is_root: bool) -> Option<Rules> {
        Rules::node(schema, schema, is_root)
    }

    /// `rules` says what must hold, `schema` what the data is; they differ only within `allOf`. Rules about what expressions cannot
    /// name are left out.
    fn node(rules: &Value, schema: &Value, is_root: bool) -> Option<Rules> {
        let boxed = |name: &str| {
            let (rules, schema) = (rules.get(name)?, schema.get(name)?);
            let both = rules.is_object() && schema.is_object();
            both.then(|| Rules::node(rules, schema, false)).flatten().map(Box::new)
        };
        let listed = list_at(rules, "/x-kubernetes-validations");
        let scope = if listed.is_empty() { None } else { Scope::new(schema, is_root, true).map(Arc::new) };
        let compile = |rule: &Value| scope.as_ref().map(|scope| (rule.clone(), scope.compile(schema, rule)));
        let properties = rules.get("properties").and_then(Value::as_object).into_iter().flatten();
        let properties: BTreeMap<String, Rules> = properties
            .filter_map(|(name, rules)| Some((name.clone(), Rules::node(rules, schema.get("properties")?.get(name)?, false)?)))
            .collect();
        let default = |key: &str| schema.pointer("/items/properties").and_then(|p| p.get(key)?.get("default")).cloned();
        let is_keyed = str_at(schema, "/x-kubernetes-list-type") == "map";
        let keys = list_at(schema, "/x-kubernetes-list-map-keys").iter().filter(|_| is_keyed).filter_map(Value::as_str);
        let node = Rules {
            own: listed.iter().filter_map(compile).collect(),
            scope,
            kind: str_at(schema, "/type").to_owned(),
            items: boxed("items"),
            additional: boxed("additionalProperties"),
            properties,
            all_of: list_at(rules, "/allOf").iter().filter_map(|rules| Rules::node(rules, schema, is_root)).collect(),
            keys: keys.map(|key| (key.to_owned(), default(key).unwrap_or_default())).collect(),
        };
        let has_any = !node.own.is_empty()
            || node.items.is_some()
            || node.additional.is_some()
            || !node.properties.is_empty()
            || !node.all_of.is_empty();
        has_any.then_some(node)
    }

    /// What the rules say about an object, which was something else before, or nothing.
    pub fn run(&self, new: &Value, old: Option<&Value>) -> Findings {
        let mut run = Run::new(BUDGET, true);
        let before = Before { old, was_same: false };
        run.node(self, new, old, &before, "");
        run.findings.cost = if run.is_over { BUDGET + 1 } else { BUDGET - run.budget.remaining() };
        run.findings
    }

    /// What the rules refuse of a default at a place: as a value that stays, and as one that was not there. `budget` is what may be
    /// spent, and then what is left of it; below zero if it was not enough.
    pub fn run_on_default(&self, value: &Value, at: &str, budget: &mut i64) -> ErrorList {
        let mut left = *budget;
        let mut errors = ErrorList::new();
        for old in [Some(value), None] {
            let mut run = Run::new(*budget, false);
            run.node(self, value, old, &Before { old: None, was_same: false }, at);
            left = left.min(if run.is_over { -1 } else { run.budget.remaining() });
            errors.append(&mut run.findings.errors);
            if !errors.is_empty() {
                break;
            }
        }
        *budget = left;
        errors
    }
}

/// Whether earlier errors are such that rules cannot be run, and what is said then.
pub fn blocked(errors: &[Error]) -> Option<Error> {
    const KINDS: [ErrorKind; 5] =
        [ErrorKind::NotSupported, ErrorKind::Required, ErrorKind::TooLong, ErrorKind::TooMany, ErrorKind::TypeInvalid];
    let detail =
        "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
    errors.iter().any(|error| KINDS.contains(&error.kind)).then(|| Error::invalid(&Path::new("<nil>"), Value::Null, detail))
}

/// What is known of the past of a place, for telling new faults from old ones.
struct Before<'v> {
    /// What stood here, if the place can be told apart.
    old: Option<&'v Value>,
    /// The nearest place around that can be told apart has not changed.
    was_same: bool,
}

impl<'v> Before<'v> {
    fn is_same(&self, new: &Value) -> bool {
        self.old.map_or(self.was_same, |old| old == new)
    }

    fn within(&self, new: &Value, old: Option<&'v Value>) -> Before<'v> {
        Before { old, was_same: self.is_same(new) }
    }
}

struct Run {
    budget: Budget,
    /// What was no better before is no error.
    ratchets: bool,
    /// No more rules are run.
    is_over: bool,
    findings: Findings,
}

fn field(at: &str) -> &str {
    let at = at.strip_prefix('.').unwrap_or(at);
    if at.is_empty() { "<nil>" } else { at }
}

fn trimmed<'r>(rule: &'r Value, pointer: &str) -> &'r str {
    str_at(rule, pointer).trim()
}

/// What a rule is called in messages: its own message, or its text.
fn shown(rule: &Value) -> &str {
    if str_at(rule, "/message").is_empty() { trimmed(rule, "/rule") } else { trimmed(rule, "/message") }
}

impl Run {
    fn new(budget: i64, ratchets: bool) -> Run {
        Run { budget: Budget::new(budget), ratchets, is_over: false, findings: Findings::default() }
    }

    fn refuse(&mut self, rules: &Rules, at: &str, detail: String) {
        self.findings.errors.push(Error::invalid(&Path::new(field(at)), rules.kind.as_str(), detail));
    }

    fn node(&mut self, rules: &Rules, new: &Value, old: Option<&Value>, before: &Before<'_>, at: &str) {
        if new.is_null() || self.is_over {
            return;
        }
        self.own(rules, new, old.filter(|old| !old.is_null()), before, at);
        for all in &rules.all_of {
            // What is within `allOf` is not told apart from its surroundings.
            let before = Before { old: None, was_same: before.was_same };
            self.node(all, new, old, &before, at);
        }
        match new {
            Value::Object(members) => {
                let old = old.and_then(Value::as_object);
                for (name, member) in members {
                    let old = old.and_then(|old| old.get(name));
                    let is_type = at.is_empty() && (name == "apiVersion" || name == "kind");
                    let inner = if is_type { Before { old: None, was_same: false } } else { before.within(new, old) };
                    if let Some(rules) = rules.additional.as_deref() {
                        self.node(rules, member, old, &inner, &format!("{at}[{name}]"));
                    }
                    if let Some(rules) = rules.properties.get(name) {
                        self.node(rules, member, old, &inner, &format!("{at}.{name}"));
                    }
                }
            }
            Value::Array(items) => {
                let Some(inner) = rules.items.as_deref() else { return };
                let old = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                for (index, item) in items.iter().enumerate() {
                    let old = rules.counterpart(item, old);
                    self.node(inner, item, old, &before.within(new, old), &format!("{at}[{index}]"));
                }
            }
            _ => {}
        }
    }

    /// The rules of one schema.
    fn own(&mut self, rules: &Rules, new: &Value, old: Option<&Value>, before: &Before<'_>, at: &str) {
        let Some(scope) = rules.scope.clone().filter(|_| !rules.own.is_empty()) else { return };
        if self.budget.remaining() <= 0 {
            self.refuse(rules, at, OUT_OF_BUDGET.to_owned());
            self.is_over = true;
            return;
        }
        let mut plain = Activation::default();
        let own = scope.schema.value(new);
        plain.set("self", own);
        let mut optional = plain.clone();
        // Where no rule is about a transition, no message can be either.
        let uses_old = rules.own.iter().any(|(_, rule)| rule.uses_old);
        match old.filter(|_| uses_old) {
            Some(old) => {
                let old = scope.schema.value(old);
                optional.set("oldSelf", old.clone().map(|old| cel::Value::Optional(Some(Arc::new(old)))));
                plain.set("oldSelf", old);
            }
            None => optional.set("oldSelf", Ok(cel::Value::Optional(None))),
        }
        for (rule, compiled) in &rules.own {
            if let Some(why) = &compiled.error {
                self.refuse(rules, at, format!("rule compile error: {why}"));
                continue;
            }
            let Some(program) = &compiled.program else { continue };
            let is_optional = bool_at(rule, "/optionalOldSelf");
            if compiled.uses_old && old.is_none() && !is_optional {
                continue;
            }
            let mut spent = Budget::new(0);
            let result = program.evaluate(if is_optional { &optional } else { &plain }, &mut spent);
            let cost = -spent.remaining();
            if cost > self.budget.remaining() {
                self.refuse(rules, at, OUT_OF_BUDGET.to_owned());
                self.is_over = true;
                return;
            }
            self.budget.spend(cost.unsigned_abs());
            match result {
                Ok(value) if value.as_bool() == Some(true) => {}
                Ok(_) => {
                    self.fails(rules, rule, compiled, &plain, new, before, at);
                    if self.is_over {
                        return;
                    }
                }
                Err(error) if error.over_budget => {
                    let why = format!(
                        "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                        shown(rule)
                    );
                    self.refuse(rules, at, why);
                    self.is_over = true;
                    return;
                }
                Err(error) if error.message.starts_with("no such overload") => {
                    let why = format!(
                        "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                        shown(rule)
                    );
                    self.refuse(rules, at, why);
                }
                Err(error) => self.refuse(rules, at, format!("{error} evaluating rule: {}", shown(rule))),
            }
        }
    }

    /// A rule that does not hold.
    #[expect(clippy::too_many_arguments, reason = "all that a message may be made of")]
    fn fails(
        &mut self,
        rules: &Rules,
        rule: &Value,
        compiled: &Rule,
        activation: &Activation<'_>,
        new: &Value,
        before: &Before<'_>,
        at: &str,
    ) {
        let at = if compiled.field_path.is_empty() { at.to_owned() } else { format!("{at}.{}", compiled.field_path) };
        let path = Path::new(field(&at));
        let made = match &compiled.message {
            None => None,
            Some(program) => match self.message(program, rule, activation) {
                Ok(made) => made,
                Err(why) => {
                    self.add(Error::invalid(&path, rules.kind.as_str(), why), compiled, new, before);
                    self.is_over = true;
                    return;
                }
            },
        };
        let detail = made.unwrap_or_else(|| match trimmed(rule, "/message") {
            "" => format!("failed rule: {}", shown(rule)),
            message => message.to_owned(),
        });
        let mut error = match str_at(rule, "/reason") {
            "FieldValueForbidden" => Error::forbidden(&path, detail),
            "FieldValueRequired" => Error::required(&path, detail),
            "FieldValueDuplicate" => Error::duplicate(&path, new.clone()),
            _ => Error::invalid(&path, new.clone(), detail),
        };
        if matches!(rules.kind.as_str(), "object" | "array") {
            // The whole is too much to show.
            error.value = None;
        }
        self.add(error, compiled, new, before);
    }

    fn add(&mut self, error: Error, compiled: &Rule, new: &Value, before: &Before<'_>) {
        if self.ratchets && !compiled.uses_old && before.is_same(new) {
            self.findings.warnings.push(error.to_string());
        } else {
            self.findings.errors.push(error);
        }
    }

    /// The message that an expression makes; none if it makes none that can be used. The error ends all rules.
    fn message(&mut self, program: &cel::Program, rule: &Value, activation: &Activation<'_>) -> Result<Option<String>, String> {
        let mut spent = Budget::new(0);
        let made = program.evaluate(activation, &mut spent);
        let cost = -spent.remaining();
        if cost > self.budget.remaining() {
            return Err(
                "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".to_owned()
            );
        }
        self.budget.spend(cost.unsigned_abs());
        match made {
            Err(error) if error.over_budget => {
                let text = apimachinery::field::quote(str_at(rule, "/messageExpression"));
                Err(format!("no further validation rules will be run due to call cost exceeds limit for messageExpression: {text}"))
            }
            Err(_) => Ok(None),
            Ok(made) => {
                let made = made.as_str().map(str::trim);
                let usable = made.filter(|made| !made.is_empty() && made.len() <= MAX_MESSAGE_BYTES && !made.contains('\n'));
                Ok(usable.map(str::to_owned))
            }
        }
    }
}

impl Rules {
    /// What an item of a list with keys was before.
    fn counterpart<'v>(&self, item: &Value, old: &'v [Value]) -> Option<&'v Value> {
        if self.keys.is_empty() {
            return None;
        }
        let same =
            |old: &&Value| self.keys.iter().all(|(key, default)| item.get(key).unwrap_or(default) == old.get(key).unwrap_or(default));
        old.iter().find(same)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(schema: Value, new: Value, old: Option<Value>) -> (Vec<String>, Vec<String>) {
        let findings = Rules::read(&schema).unwrap().run(&new, old.as_ref());
        (findings.errors.iter().map(ToString::to_string).collect(), findings.warnings)
    }

    fn errors(schema: Value, new: Value, old: Option<Value>) -> Vec<String> {
        run(schema, new, old).0
    }

    #[test]
    fn rules_hold_or_are_told_with_their_message() {
        let schema = json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 10"}]}},
            "x-kubernetes-validations": [
                {"rule": "self.min <= self.max", "messageExpression": "'min is ' + string(self.min)"},
                {"rule": "self.min > 0", "message": "must be positive", "reason": "FieldValueForbidden", "fieldPath": ".min"},
            ],
        }}});
        assert!(errors(schema.clone(), json!({"spec": {"min": 1, "max": 2}}), None).is_empty());
        assert_eq!(
            errors(schema.clone(), json!({"spec": {"min": 0, "max": -1}}), None),
            ["spec: Invalid value: min is 0", "spec.min: Forbidden: must be positive"]
        );
        assert_eq!(
            errors(schema.clone(), json!({"spec": {"min": 1, "max": 20}}), None),
            ["spec.max: Invalid value: 20: failed rule: self < 10"]
        );
        assert_eq!(
            errors(schema, json!({"spec": {"max": 2}}), None),
            [
                r#"spec: Invalid value: "object": no such key: min evaluating rule: self.min <= self.max"#,
                r#"spec: Invalid value: "object": no such key: min evaluating rule: must be positive"#
            ]
        );
    }

    #[test]
    fn transitions_are_judged_where_the_past_is_known() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object",
                "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule": "self.v == oldSelf.v"}]}}}});
        assert!(errors(schema.clone(), json!({"n": 1}), None).is_empty());
        assert_eq!(errors(schema.clone(), json!({"n": 1}), Some(json!({"n": 2}))), ["n: Invalid value: 1: failed rule: self >= oldSelf"]);
        let old = json!({"list": [{"k": "b", "v": 2}, {"k": "a", "v": 1}]});
        assert_eq!(
            errors(schema, json!({"list": [{"k": "a", "v": 1}, {"k": "b", "v": 3}, {"k": "c", "v": 9}]}), Some(old)),
            ["list[1]: Invalid value: failed rule: self.v == oldSelf.v"]
        );
        let optional = json!({"type": "object", "x-kubernetes-validations": [{"rule": "oldSelf.hasValue()", "optionalOldSelf": true}]});
        assert_eq!(errors(optional.clone(), json!({}), None), ["<nil>: Invalid value: failed rule: oldSelf.hasValue()"]);
        assert!(errors(optional, json!({}), Some(json!({}))).is_empty());
    }

    #[test]
    fn what_was_wrong_before_and_has_not_changed_is_a_warning() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 5"}]}, "b": {"type": "integer"}}});
        let (found, warnings) = run(schema.clone(), json!({"a": 1, "b": 2}), Some(json!({"a": 1, "b": 1})));
        assert!(found.is_empty());
        assert_eq!(warnings, ["a: Invalid value: 1: failed rule: self > 5"]);
        assert_eq!(errors(schema, json!({"a": 2}), Some(json!({"a": 1}))), ["a: Invalid value: 2: failed rule: self > 5"]);
    }

    #[test]
    fn rules_that_cost_too_much_end_all() {
        let schema = json!({"type": "object", "properties": {"list": {"type": "array", "maxItems": 100000, "items": {"type": "integer"},
            "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}, {"rule": "false"}]}}});
        let list: Vec<i64> = vec![1; 3000];
        assert_eq!(
            errors(schema, json!({ "list": list }), None),
            [
                r#"list: Invalid value: "array": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: self.all(x, self.all(y, x == y))"#
            ]
        );
    }

    #[test]
    fn embedded_objects_have_a_name_for_rules() {
        let schema = json!({"type": "object", "properties": {"e": {"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-validations": [{"rule": "self.metadata.name == 'x' && self.kind == 'K'"}]}}});
        let named = |name: &str| json!({"e": {"apiVersion": "v1", "kind": "K", "metadata": {"name": name}}});
        assert!(errors(schema.clone(), named("x"), None).is_empty());
        assert_eq!(errors(schema, named("y"), None).len(), 1);
    }
}
