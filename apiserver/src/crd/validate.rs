//! Validation of values by a schema, in the words of upstream's OpenAPI validator.
//!
//! An update is judged leniently: what has not changed is not looked at again, so that objects that a stricter schema would refuse
//! can still be changed elsewhere. Composite errors have no field of their own and are reported at the path validation began at.

use apimachinery::field::{Error, ErrorList, Path};
use serde_json::{Map, Value};

use super::format;
use super::schema::{Additional, ListType, Rules, Schema};

/// All errors of `value`. Paths in messages begin at the value; fields of errors begin at `base` (none: the object itself).
pub fn validate(schema: &Schema, value: &Value, old: Option<&Value>, base: Option<&str>) -> ErrorList {
    let mut walk = Walk { base, errors: ErrorList::new(), checks: 0 };
    walk.value(schema, value, old, "");
    walk.errors
}

struct Walk<'a> {
    base: Option<&'a str>,
    errors: ErrorList,
    /// Checks that went well, by which upstream picks the alternative that came closest.
    checks: usize,
}

impl Walk<'_> {
    /// The field of an error at a path.
    fn field(&self, at: &str) -> String {
        let at = at.strip_prefix('.').unwrap_or(at);
        match (self.base, at) {
            (None, "") => "<nil>".to_owned(),
            (Some(base), "") => base.to_owned(),
            (None, at) => at.to_owned(),
            (Some(base), at) => format!("{base}.{at}"),
        }
    }

    fn add(&mut self, at: &str, make: impl FnOnce(&Path<'_>) -> Error) {
        let field = self.field(at);
        self.errors.push(make(&Path::new(&field)));
    }

    fn invalid(&mut self, at: &str, value: Value, detail: String) {
        self.add(at, |path| Error::invalid(path, value, detail));
    }

    /// An error of the whole, which names its place in its text alone.
    fn composite(&mut self, detail: String) {
        self.invalid("", Value::String(String::new()), detail);
    }

    fn type_invalid(&mut self, at: &str, value: Value, expected: &str) {
        let shown = apimachinery::field::quote(value.as_str().unwrap_or_default());
        let detail = format!("{at} in body must be of type {expected}: {shown}");
        self.add(at, |path| Error::type_invalid(path, value, detail));
    }

    fn value(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, at: &str) {
        if old.is_some_and(|old| old == value) {
            return;
        }
        let before = self.errors.len();
        self.types(schema, value, at);
        if !value.is_null() {
            self.alternatives(&schema.rules, value, at);
            match value {
                Value::String(text) => self.text(schema, text, at),
                Value::Number(_) => self.number(schema, value, at),
                Value::Array(items) => self.array(schema, items, old, at),
                _ => {}
            }
        }
        self.allowed(&schema.rules, value, at);
        if let Value::Object(map) = value {
            self.object(schema, map, old, at);
        }
        if self.errors.len() == before {
            self.checks += 1;
        }
    }

    fn types(&mut self, schema: &Schema, value: &Value, at: &str) {
        let found = match value {
            Value::Null if schema.nullable => return,
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
            Value::Number(n) if n.is_f64() => "number",
            Value::Number(_) => "integer",
        };
        let admits = |kind: &str| schema.types.iter().any(|t| t == kind);
        if schema.types.is_empty() || admits(found) || (found == "integer" && admits("number")) {
            return;
        }
        // A format stands for the type of what is no text.
        let is_numeric = admits("number") || admits("integer");
        let expected = match found {
            "null" => schema.types.join(","),
            "string" | "array" if !schema.format.is_empty() && !is_numeric => return,
            "string" | "array" => schema.types.join(","),
            _ if !schema.format.is_empty() => schema.format.clone(),
            _ => schema.types.join(","),
        };
        let found = if !schema.format.is_empty() && !matches!(found, "null" | "string" | "array") { go_format(found) } else { found };
        self.type_invalid(at, Value::String(found.to_owned()), &expected);
    }

    fn allowed(&mut self, rules: &Rules, value: &Value, at: &str) {
        if rules.allowed.is_empty() || rules.allowed.contains(value) {
            return;
        }
        let shown: Vec<String> = rules.allowed.iter().map(|v| v.as_str().map_or_else(|| sorted(v).to_string(), str::to_owned)).collect();
        self.add(at, |path| Error::not_supported(path, value.clone(), &shown));
    }

    fn text(&mut self, schema: &Schema, text: &str, at: &str) {
        let rules = &schema.rules;
        let length = text.chars().count() as u64;
        let given = || Value::String(text.to_owned());
        if let Some(max) = rules.max_length.filter(|max| length > *max) {
            self.add(at, |path| Error::too_long(path, usize::try_from(max).unwrap_or(usize::MAX)));
        } else if let Some(min) = rules.min_length.filter(|min| length < *min) {
            self.invalid(at, given(), format!("{at} in body should be at least {min} chars long"));
        } else if let Some(pattern) = rules.pattern.as_ref().filter(|p| !p.matches(text)) {
            self.invalid(at, given(), format!("{at} in body should match '{}'", pattern.text));
        }
        if !schema.format.is_empty() && !format::matches(&schema.format, text) {
            self.type_invalid(at, given(), &schema.format);
        }
    }

    fn number(&mut self, schema: &Schema, value: &Value, at: &str) {
        let rules = &schema.rules;
        let kind = if schema.types.len() == 1 { schema.types[0].as_str() } else { "" };
        let number = value.as_f64().unwrap_or(0.0);
        let is_integer = !value.is_f64();
        let checked = |walk: &mut Self, fits: bool, what: &str| {
            if fits {
                return;
            }
            let form = if schema.format.is_empty() { " (default format)".to_owned() } else { format!(" with format {}", schema.format) };
            walk.composite(format!("{what} value must be of type integer{form} in {at}"));
        };
        let fits = |n: f64, exact: Option<i64>| {
            kind != "integer" || (n.fract() == 0.0 && (schema.format != "int32" || exact.is_some_and(|n| i32::try_from(n).is_ok())))
        };
        checked(self, fits(number, value.as_i64()), "Checked");
        if let Some(factor) = rules.multiple_of {
            checked(self, fits(factor, Some(factor as i64)), "MultipleOf");
            // Integers are divided as integers, by what is left of the factor then.
            let factor = if is_integer { factor.trunc() } else { factor };
            let multiple = if !is_integer && factor < 1.0 { 1.0 / factor * number } else { number / factor };
            if factor <= 0.0 {
                let shown = as_number(factor);
                let detail = format!("factor MultipleOf declared for {at} must be positive: {shown}");
                self.invalid(at, shown, detail);
            } else if !is_whole(multiple) {
                self.invalid(at, value.clone(), format!("{at} in body should be a multiple of {}", as_number(factor)));
            }
        }
        if let Some(bound) = rules.minimum
            && (number < bound || (rules.exclusive_minimum && number == bound))
        {
            let than = if rules.exclusive_minimum { "greater than" } else { "greater than or equal to" };
            self.invalid(at, value.clone(), format!("{at} in body should be {than} {}", as_number(bound)));
        }
        if let Some(bound) = rules.maximum
            && (number > bound || (rules.exclusive_maximum && number == bound))
        {
            let than = if rules.exclusive_maximum { "less than" } else { "less than or equal to" };
            self.invalid(at, value.clone(), format!("{at} in body should be {than} {}", as_number(bound)));
        }
    }

    fn array(&mut self, schema: &Schema, items: &[Value], old: Option<&Value>, at: &str) {
        if let Some(item_schema) = schema.items.as_deref() {
            for (i, item) in items.iter().enumerate() {
                self.value(item_schema, item, counterpart(&schema.list_type, item, old), &format!("{at}[{i}]"));
            }
        }
        let count = items.len();
        if let Some(min) = schema.rules.min_items.filter(|min| (count as u64) < *min) {
            self.invalid(at, count.into(), format!("{at} in body should have at least {min} items"));
        }
        if let Some(max) = schema.rules.max_items.filter(|max| count as u64 > *max) {
            self.add(at, |path| Error::too_many(path, count, usize::try_from(max).unwrap_or(usize::MAX)));
        }
    }

    fn object(&mut self, schema: &Schema, map: &Map<String, Value>, old: Option<&Value>, at: &str) {
        let count = map.len();
        if let Some(min) = schema.rules.min_properties.filter(|min| (count as u64) < *min) {
            self.invalid(at, count.into(), format!("{at} in body should have at least {min} properties"));
        }
        if let Some(max) = schema.rules.max_properties.filter(|max| count as u64 > *max) {
            self.add(at, |path| Error::too_many(path, count, usize::try_from(max).unwrap_or(usize::MAX)));
        }
        for (key, value) in map {
            // Upstream tells the two from each other at the root.
            let member_at = if at.is_empty() && schema.properties.contains_key(key) { key.clone() } else { format!("{at}.{key}") };
            match (schema.properties.get(key), &schema.additional) {
                (Some(property), _) => self.value(property, value, old.and_then(|o| o.get(key)), &member_at),
                (None, Additional::Schema(other)) => self.value(other, value, old.and_then(|o| o.get(key)), &member_at),
                (None, Additional::Any(false)) => self.invalid(at, "".into(), format!("{at}.{key} in body is a forbidden property")),
                _ => {}
            }
        }
        for name in schema.rules.required.iter().filter(|name| !map.contains_key(*name)) {
            self.add(&format!("{at}.{name}"), |path| Error::required(path, ""));
        }
    }

    /// The outcome of one alternative, apart from the others.
    fn trial(&self, schema: &Schema, value: &Value, at: &str) -> (ErrorList, usize) {
        let mut walk = Walk { base: self.base, errors: ErrorList::new(), checks: 0 };
        walk.value(schema, value, None, at);
        (walk.errors, walk.checks)
    }

    fn alternatives(&mut self, rules: &Rules, value: &Value, at: &str) {
        let quoted = format!("\"{at}\"");
        if !rules.any_of.is_empty() {
            let trials: Vec<_> = rules.any_of.iter().map(|s| self.trial(s, value, at)).collect();
            if trials.iter().all(|(errors, _)| !errors.is_empty()) {
                self.composite(format!("{quoted} must validate at least one schema (anyOf)"));
                self.errors.extend(closest(trials));
            }
        }
        if !rules.one_of.is_empty() {
            let trials: Vec<_> = rules.one_of.iter().map(|s| self.trial(s, value, at)).collect();
            match trials.iter().filter(|(errors, _)| errors.is_empty()).count() {
                1 => {}
                0 => {
                    self.composite(format!("{quoted} must validate one and only one schema (oneOf). Found none valid"));
                    self.errors.extend(closest(trials));
                }
                n => self.composite(format!("{quoted} must validate one and only one schema (oneOf). Found {n} valid alternatives")),
            }
        }
        if !rules.all_of.is_empty() {
            let trials: Vec<_> = rules.all_of.iter().map(|s| self.trial(s, value, at)).collect();
            let valid = trials.iter().filter(|(errors, _)| errors.is_empty()).count();
            let total = trials.len();
            self.errors.extend(trials.into_iter().flat_map(|(errors, _)| errors));
            if valid != total {
                let none = if valid == 0 { ". None validated" } else { "" };
                self.composite(format!("{quoted} must validate all the schemas (allOf){none}"));
            }
        }
        if let Some(not) = &rules.not
            && self.trial(not, value, at).0.is_empty()
        {
            self.composite(format!("{quoted} must not validate the schema (not)"));
        }
    }
}

/// The errors of the alternative with the most that went well; the first of equals.
fn closest(trials: Vec<(ErrorList, usize)>) -> ErrorList {
    let mut best: Option<(ErrorList, usize)> = None;
    for trial in trials {
        if best.as_ref().is_none_or(|(_, checks)| trial.1 > *checks) {
            best = Some(trial);
        }
    }
    best.map(|(errors, _)| errors).unwrap_or_default()
}

/// A value as maps of Go are printed.
pub fn sorted(value: &Value) -> Value {
    let mut value = value.clone();
    value.sort_all_objects();
    value
}

/// The item of the old list that an item of an associative list stands for. Other items have none.
fn counterpart<'o>(list: &ListType, item: &Value, old: Option<&'o Value>) -> Option<&'o Value> {
    let ListType::Map(keys) = list else { return None };
    old?.as_array()?.iter().find(|other| keys.iter().all(|key| other.get(key) == item.get(key)))
}

/// The format that Go's numbers have.
fn go_format(kind: &str) -> &str {
    match kind {
        "integer" => "int64",
        "number" => "float64",
        _ => "",
    }
}

/// A bound as it is printed: whole numbers without a point.
fn as_number(value: f64) -> Value {
    if is_whole(value) && value.abs() < 1e15 { Value::from(value as i64) } else { Value::from(value) }
}

/// Whether a number is whole, but for what calculating with floats loses.
fn is_whole(value: f64) -> bool {
    let rounded = value.round();
    (value - rounded).abs() <= 1e-9 * rounded.abs().max(1.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(schema: Value, value: Value) -> Vec<String> {
        let schema = Schema::read(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"x": schema}}}}));
        validate(&schema, &json!({"spec": {"x": value}}), None, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_are_refused_in_upstreams_words() {
        let table = [
            (
                json!({"type": "string", "minLength": 2}),
                json!("x"),
                vec![r#"spec.x: Invalid value: "x": spec.x in body should be at least 2 chars long"#],
            ),
            (
                json!({"type": "string"}),
                json!(5),
                vec![r#"spec.x: Invalid value: "integer": spec.x in body must be of type string: "integer""#],
            ),
            (
                json!({"type": "integer"}),
                json!(1.5),
                vec![
                    r#"spec.x: Invalid value: "number": spec.x in body must be of type integer: "number""#,
                    r#"<nil>: Invalid value: "": Checked value must be of type integer (default format) in spec.x"#,
                ],
            ),
            (
                json!({"type": "integer", "format": "int32"}),
                json!(1_i64 << 40),
                vec![r#"<nil>: Invalid value: "": Checked value must be of type integer with format int32 in spec.x"#],
            ),
            (
                json!({"type": "number", "multipleOf": 0.5, "minimum": 0, "exclusiveMinimum": true}),
                json!(0),
                vec![
                    "spec.x: Invalid value: 0: factor MultipleOf declared for spec.x must be positive: 0",
                    "spec.x: Invalid value: 0: spec.x in body should be greater than 0",
                ],
            ),
            (
                json!({"type": "number", "multipleOf": 0.5}),
                json!(0.3),
                vec!["spec.x: Invalid value: 0.3: spec.x in body should be a multiple of 0.5"],
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(1.5),
                vec![r#"spec.x: Invalid value: "number": spec.x in body must be of type integer,string: "number""#],
            ),
            (json!({"type": "array", "maxItems": 1}), json!([1, 2]), vec!["spec.x: Too many: 2: must have at most 1 item"]),
            (
                json!({"type": "object", "oneOf": [{"required": ["l"]}, {"required": ["r"]}]}),
                json!({}),
                vec![
                    r#"<nil>: Invalid value: "": "spec.x" must validate one and only one schema (oneOf). Found none valid"#,
                    "spec.x.l: Required value",
                ],
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("z"),
                vec![r#"spec.x: Unsupported value: "z": supported values: "a", "b""#],
            ),
            (
                json!({"type": "string", "format": "date-time"}),
                json!("yesterday"),
                vec![r#"spec.x: Invalid value: "yesterday": spec.x in body must be of type date-time: "yesterday""#],
            ),
        ];
        for (schema, value, expected) in table {
            assert_eq!(texts(schema, value), expected);
        }
    }

    #[test]
    fn what_has_not_changed_is_not_refused() {
        let schema = Schema::read(&json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}));
        let (old, new) = (json!({"a": 1, "b": "x"}), json!({"a": 1, "b": "y"}));
        assert!(validate(&schema, &new, Some(&old), None).is_empty());
        assert_eq!(validate(&schema, &new, None, None).len(), 1);
    }
}
