//! Whether the rules of a schema compile, and whether what they may cost is bearable: for each rule, as often as what it is about
//! may stand in one object, and for all together.

use apimachinery::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::internal::shown_rule;
use super::tolerance::{Expressions, TYPES};
use crate::crd::rule::Scope;
use crate::registry::read::{list_at, str_at};

/// Cost of one rule at most.
const MAX_COST: u64 = 10_000_000;
/// Cost of all rules of a version together at most.
const MAX_TOTAL_COST: u64 = 100_000_000;
/// How many of the most expensive rules are named when all together cost too much.
const NAMED: usize = 4;

/// The errors of all rules within a schema of sound form. Of expressions that are `in_force`, more is known than new ones may
/// use; in a schema that is `unchanged`, each may cost what it costs. Where something within is `wrong` otherwise, rules would make no sense:
/// these are the fields of such errors.
pub fn validate(schema: &Value, in_force: &Expressions, unchanged: bool, wrong: &[String], path: &Path<'_>) -> ErrorList {
    let mut walk = Walk { in_force, unchanged, wrong, is_lost: false, errors: ErrorList::new(), total: 0, expensive: Vec::new() };
    walk.schema(schema, true, Some(1), None, path);
    let Walk { mut errors, total, expensive, .. } = walk;
    if total > MAX_TOTAL_COST {
        let contributed = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        errors.extend(expensive.iter().map(|(_, at)| Error::forbidden(&Path::new(at), contributed)));
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(Error::forbidden(path, exceeded(what, total, MAX_TOTAL_COST)));
    }
    errors
}

struct Walk<'r> {
    in_force: &'r Expressions,
    unchanged: bool,
    wrong: &'r [String],
    /// Something around is of no type, and so nobody can say what is within.
    is_lost: bool,
    errors: ErrorList,
    total: u64,
    /// The most expensive rules and their places.
    expensive: Vec<(u64, String)>,
}

impl Walk<'_> {
    /// `cardinality` is how often the schema's data may stand in an object, if its surroundings say so; `uncorrelated` the part of the
    /// schema around it whose data cannot be told apart from what was there before.
    fn schema(&mut self, schema: &Value, is_root: bool, cardinality: Option<u64>, uncorrelated: Option<&str>, path: &Path<'_>) {
        let kind = str_at(schema, "/type");
        let before = self.is_lost;
        self.is_lost |= !kind.is_empty() && !TYPES.contains(&kind);
        let inner = cardinality.zip(max_elements(schema)).map(|(around, own)| around.saturating_mul(own));
        let here = path.to_string();
        if let Some(additional) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
            self.schema(additional, false, inner, uncorrelated, &path.child("additionalProperties"));
        }
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            self.schema(property, false, inner, uncorrelated, &path.child("properties").key(name));
        }
        if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
            let within =
                if str_at(schema, "/x-kubernetes-list-type") == "map" { uncorrelated } else { uncorrelated.or(Some(here.as_str())) };
            self.schema(items, false, inner, within, &path.child("items"));
        }
        let is_within = |wrong: &String| wrong.strip_prefix(&*here).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        if !self.wrong.iter().any(is_within) {
            self.rules(schema, is_root, cardinality, uncorrelated, path);
        }
        self.is_lost = before;
    }

    fn rules(&mut self, schema: &Value, is_root: bool, cardinality: Option<u64>, uncorrelated: Option<&str>, path: &Path<'_>) {
        let rules = list_at(schema, "/x-kubernetes-validations");
        if rules.is_empty() {
            return;
        }
        let path = path.child("x-kubernetes-validations");
        let Some(scope) = Scope::new(schema, is_root, false).filter(|_| !self.is_lost) else {
            let why = "internal error: failed to construct type information for x-kubernetes-validations rules: \
                       unable to convert structural schema to CEL declarations";
            self.errors.push(Error::internal(&path, why));
            return;
        };
        let is_in_force = |rule: &Value| {
            self.in_force.rules.contains(str_at(rule, "/rule")) || self.in_force.messages.contains(str_at(rule, "/messageExpression"))
        };
        let in_force = rules.iter().any(is_in_force);
        let known = if in_force { Scope::new(schema, is_root, true) } else { None };
        let scope_of = |is_known: bool| known.as_ref().filter(|_| is_known).unwrap_or(&scope);
        let cardinality = cardinality.unwrap_or_else(|| scope.schema.max_cardinality());
        for (i, rule) in rules.iter().enumerate() {
            let path = path.index(i);
            let for_rule = scope_of(self.in_force.rules.contains(str_at(rule, "/rule")));
            let for_message = scope_of(self.in_force.messages.contains(str_at(rule, "/messageExpression")));
            let compiled = for_rule.compile_with(for_message, schema, rule);
            let rule_path = path.child("rule");
            let message_path = path.child("messageExpression");
            let cost = compiled.max_cost.saturating_mul(cardinality);
            self.limit(cost, "estimated rule cost", &rule_path);
            self.observe(cost, &rule_path);
            if let Some(why) = compiled.error {
                self.errors.push(Error::invalid(&rule_path, shown_rule(rule), why));
            }
            if let Some(why) = compiled.message_error {
                self.errors.push(Error::invalid(&message_path, shown_rule(rule), why));
            } else if compiled.message.is_some() {
                self.limit(compiled.message_max_cost, "estimated messageExpression cost", &message_path);
                self.observe(compiled.message_max_cost, &message_path);
            }
            if let (true, Some(part)) = (compiled.uses_old, uncorrelated) {
                let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {part}");
                self.errors.push(Error::invalid(&rule_path, str_at(rule, "/rule"), why));
            }
            if let (false, Some(Value::Bool(optional))) = (compiled.uses_old, rule.get("optionalOldSelf")) {
                let why = "may not be set if oldSelf is not used in rule";
                self.errors.push(Error::invalid(&path.child("optionalOldSelf"), *optional, why));
            }
        }
    }

    fn limit(&mut self, cost: u64, what: &str, path: &Path<'_>) {
        if cost > MAX_COST && !self.unchanged {
            self.errors.push(Error::forbidden(path, exceeded(what, cost, MAX_COST)));
        }
    }

    fn observe(&mut self, cost: u64, path: &Path<'_>) {
        self.total = self.total.saturating_add(cost);
        if cost < MAX_TOTAL_COST / 100 {
            return;
        }
        self.expensive.push((cost, path.to_string()));
        self.expensive.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        self.expensive.truncate(NAMED);
    }
}

/// How often the data of a schema's parts may stand in its own data; none if nothing bounds that.
fn max_elements(schema: &Value) -> Option<u64> {
    let bound = |name: &str| schema.get(name).and_then(Value::as_i64).map(|bound| u64::try_from(bound).unwrap_or(0));
    match str_at(schema, "/type") {
        "object" if schema.get("additionalProperties").is_some_and(|any| !any.is_null()) => bound("maxProperties"),
        "array" => bound("maxItems"),
        _ => Some(1),
    }
}

fn exceeded(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors(schema: Value) -> Vec<String> {
        validate(&schema, &Expressions::default(), false, &[], &Path::new("s")).iter().map(ToString::to_string).collect()
    }

    fn rules(ty: Value, rules: Value) -> Value {
        let mut schema = ty;
        schema["x-kubernetes-validations"] = rules;
        schema
    }

    #[test]
    fn rules_about_something_that_is_wrong_are_not_looked_at() {
        let rule = json!([{"rule": "nosuch"}]);
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "object", "x-kubernetes-validations": rule, "properties": {"b": {"type": "bad"}}},
            "ab": {"type": "object", "x-kubernetes-validations": rule},
        }});
        let wrong = ["s.properties[a].properties[b].type".to_owned()];
        let errors = validate(&schema, &Expressions::default(), false, &wrong, &Path::new("s"));
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["s.properties[ab].x-kubernetes-validations[0].rule"]);
    }

    #[test]
    fn rules_that_do_not_compile_are_shown() {
        let object = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
        let found = errors(rules(object, json!([{"rule": "self.n > 0"}, {"rule": "self.m > 0"}, {"rule": "self.n"}])));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with(r#"s.x-kubernetes-validations[1].rule: Invalid value: {"Rule":"self.m \u003e 0","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: compilation failed: ERROR: <input>:1:5: undefined field 'm'"#), "{}", found[0]);
        assert!(found[1].ends_with("cel expression must evaluate to a bool"), "{}", found[1]);
    }

    #[test]
    fn rules_may_not_cost_too_much() {
        let list = json!({"type": "array", "items": {"type": "array", "items": {"type": "string"}}});
        let schema = rules(list, json!([{"rule": "self.all(x, x.all(y, y == 'a'))"}]));
        let found = errors(schema.clone());
        let unchanged = validate(&schema, &Expressions::default(), true, &[], &Path::new("s"));
        assert!(unchanged.iter().all(|error| error.to_string().contains("rule cost total")), "{unchanged:?}");
        assert_eq!(
            found[0],
            "s.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
        );
        assert!(found[1].contains("contributed to estimated rule cost total"), "{found:?}");
    }

    #[test]
    fn what_is_in_force_may_use_more_than_what_is_new() {
        let schema =
            rules(json!({"type": "string"}), json!([{"rule": "[1, 2].includes(1)", "messageExpression": "[1].includes(1) ? 'a' : 'b'"}]));
        let in_force = |rules: &[&str], messages: &[&str]| {
            let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
            validate(&schema, &Expressions { rules: texts(rules), messages: texts(messages) }, false, &[], &Path::new("s")).len()
        };
        let (rule, message) = ("[1, 2].includes(1)", "[1].includes(1) ? 'a' : 'b'");
        assert_eq!([in_force(&[], &[]), in_force(&[rule], &[]), in_force(&[rule], &[message])], [1, 1, 0]);
    }

    #[test]
    fn what_was_before_is_known_only_where_it_can_be_told_apart() {
        let list = json!({"type": "array", "maxItems": 5, "items": rules(json!({"type": "integer"}), json!([{"rule": "self > oldSelf"}]))});
        assert_eq!(
            errors(list),
            [
                r#"s.items.x-kubernetes-validations[0].rule: Invalid value: "self > oldSelf": oldSelf cannot be used on the uncorrelatable portion of the schema within s"#
            ]
        );
        let unused = rules(json!({"type": "integer"}), json!([{"rule": "self > 0", "optionalOldSelf": true}]));
        assert_eq!(
            errors(unused),
            ["s.x-kubernetes-validations[0].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"]
        );
    }
}
