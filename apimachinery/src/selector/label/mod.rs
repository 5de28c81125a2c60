//! Label selectors: `app=web,tier in (a,b),!canary,size>3`, and the structured form of the API (`matchLabels`, `matchExpressions`).

mod parse;

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Map, Value, json};

use crate::field::{self, ErrorList, Path, quote};
use crate::validation::{is_qualified_name, is_valid_label_value};

pub use parse::Error;

/// What a requirement asks of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

/// All requirements must hold; no requirement selects everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The selector of an absent `LabelSelector`.
    Nothing,
    /// Sorted by key.
    All(Vec<Requirement>),
}

/// Labels that can be looked up by key.
pub trait Labels {
    fn get_label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn get_label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Map<String, Value> {
    fn get_label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

/// Absent labels are no labels.
impl<L: Labels> Labels for Option<L> {
    fn get_label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.get_label(key))
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn get_label(&self, key: &str) -> Option<&str> {
        (**self).get_label(key)
    }
}

/// Why a structured selector cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StructuredError {
    #[error("{} is not a valid label selector operator", quote(.0))]
    Operator(String),
    /// The requirement's field errors, as one text.
    #[error("{0}")]
    Requirement(String),
}

impl Requirement {
    /// Checks key and values against the operator. Field errors are placed under `key` and `values`.
    pub fn new(key: String, operator: Operator, values: Vec<String>) -> Result<Requirement, ErrorList> {
        let mut errors = ErrorList::new();
        let key_errors = is_qualified_name(&key);
        if !key_errors.is_empty() {
            errors.push(field::Error::invalid(&Path::new("key"), key.as_str(), key_errors.join("; ")));
        }
        let place = Path::new("values");
        let mut refuse = |detail: &str| errors.push(field::Error::invalid(&place, json!(values), detail));
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => refuse("for 'in', 'notin' operators, values set can't be empty"),
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                refuse("exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                refuse("values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    refuse("for 'Gt', 'Lt' operators, exactly one value is required");
                }
                for (i, value) in values.iter().enumerate().filter(|(_, v)| go_integer(v).is_none()) {
                    let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                    errors.push(field::Error::invalid(&place.index(i), value.as_str(), detail));
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let value_errors = is_valid_label_value(value);
            if !value_errors.is_empty() {
                errors.push(field::Error::invalid(&place.index(i).key(&key), value.as_str(), value_errors.join("; ")));
            }
        }
        if errors.is_empty() { Ok(Requirement { key, operator, values }) } else { Err(errors) }
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn operator(&self) -> Operator {
        self.operator
    }

    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether labels fulfil the requirement; an absent label fulfils `notin`, `!=` and `!`.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        let value = labels.get_label(&self.key);
        let listed = |v: &str| self.values.iter().any(|wanted| wanted == v);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let (Some(value), [bound]) = (value.and_then(go_integer), self.values.as_slice()) else { return false };
                go_integer(bound).is_some_and(|b| if self.operator == Operator::GreaterThan { value > b } else { value < b })
            }
        }
    }
}

/// A decimal integer as Go's `ParseInt` reads it: an optional sign and digits.
fn go_integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        values.sort_unstable();
        let (key, values) = (&self.key, values.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl Selector {
    /// Selects everything.
    pub const fn everything() -> Selector {
        Selector::All(Vec::new())
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Selector, Error> {
        parse::parse(text).map(Selector::of)
    }

    /// All of these requirements.
    pub fn of(mut requirements: Vec<Requirement>) -> Selector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Selector::All(requirements)
    }

    /// Every label must be there with its value, as in a Service's `spec.selector`. Keys and values are not checked.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Selector {
        let equals =
            |(key, value): (&str, &str)| Requirement { key: key.to_owned(), operator: Operator::Equals, values: vec![value.to_owned()] };
        Selector::of(labels.into_iter().map(equals).collect())
    }

    /// The structured form; absent selects nothing, empty selects everything.
    pub fn from_label_selector(selector: Option<&LabelSelector>) -> Result<Selector, StructuredError> {
        let Some(selector) = selector else { return Ok(Selector::Nothing) };
        let mut requirements = Vec::new();
        let mut add = |key: &str, operator, values| match Requirement::new(key.to_owned(), operator, values) {
            Ok(requirement) => {
                requirements.push(requirement);
                Ok(())
            }
            Err(errors) => Err(StructuredError::Requirement(field::aggregate(&errors))),
        };
        for (key, value) in selector.match_labels.iter().flatten() {
            add(key, Operator::Equals, vec![value.clone()])?;
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(StructuredError::Operator(other.to_owned())),
            };
            add(&expression.key, operator, expression.values.clone().unwrap_or_default())?;
        }
        Ok(Selector::of(requirements))
    }

    /// As [`Selector::from_label_selector`], from the API object's value.
    pub fn from_value(selector: Option<&Value>) -> Result<Selector, StructuredError> {
        match selector.filter(|v| !v.is_null()) {
            None => Ok(Selector::Nothing),
            Some(value) => Selector::from_label_selector(Some(&crate::view::view(value))),
        }
    }

    /// Selects everything.
    pub fn is_empty(&self) -> bool {
        matches!(self, Selector::All(requirements) if requirements.is_empty())
    }

    /// The requirements; `Nothing` has none.
    pub fn requirements(&self) -> &[Requirement] {
        match self {
            Selector::Nothing => &[],
            Selector::All(requirements) => requirements,
        }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        match self {
            Selector::Nothing => false,
            Selector::All(requirements) => requirements.iter().all(|r| r.matches(labels)),
        }
    }

    /// The one value that the label must have, if the first requirement on it says so.
    pub fn requires_exact(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements().iter().find(|r| r.key == key)?;
        match (requirement.operator, requirement.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }
}

/// The canonical text; empty for everything and for nothing.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements().iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

/// A structured selector as tables print it: `<none>` if it has no text, `<error>` if it cannot be used.
pub fn format_label_selector(selector: Option<&Value>) -> String {
    match Selector::from_value(selector).map(|s| s.to_string()) {
        Err(_) => "<error>".to_owned(),
        Ok(text) if text.is_empty() => "<none>".to_owned(),
        Ok(text) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_match_labels() {
        let labels: BTreeMap<String, String> = [("app", "web"), ("size", "5")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let table = [
            ("", true),
            ("app", true),
            ("!app", false),
            ("app=web", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (a,web)", true),
            ("app notin (a,web)", false),
            ("other notin (a)", true),
            ("other in (a)", false),
            ("size>4,size<6", true),
            ("size>5", false),
            ("app>1", false),
            ("app=web,other", false),
        ];
        for (text, expected) in table {
            assert_eq!(Selector::parse(text).unwrap().matches(&labels), expected, "{text:?}");
        }
        assert!(!Selector::Nothing.matches(&labels));
        assert!(!Selector::parse("app").unwrap().matches(&None::<BTreeMap<String, String>>));
    }

    #[test]
    fn structured_selectors_become_requirements() {
        let text = |value: Value| format_label_selector(Some(&value));
        assert_eq!(text(json!({"matchLabels": {"b": "1", "a": "2"}})), "a=2,b=1");
        assert_eq!(
            text(
                json!({"matchExpressions": [{"key": "k", "operator": "NotIn", "values": ["y", "x"]}, {"key": "a", "operator": "DoesNotExist"}]})
            ),
            "!a,k notin (x,y)"
        );
        assert_eq!(text(json!({})), "<none>");
        assert_eq!(text(json!({"matchExpressions": [{"key": "k", "operator": "Nope"}]})), "<error>");
        assert_eq!(format_label_selector(None), "<none>");
        let error = Selector::from_value(Some(&json!({"matchExpressions": [{"key": "k", "operator": "In"}]}))).unwrap_err();
        assert_eq!(error.to_string(), "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty");
    }

    #[test]
    fn an_exact_requirement_is_found_for_the_index() {
        let exact = |text: &str| Selector::parse(text).unwrap().requires_exact("a").map(str::to_owned);
        assert_eq!(exact("b=2,a=1").as_deref(), Some("1"));
        assert_eq!(exact("a in (1)").as_deref(), Some("1"));
        assert_eq!(exact("a in (1,2)"), None);
        assert_eq!(exact("a!=1"), None);
    }
}
