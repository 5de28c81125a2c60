//! LabelSelector (`matchLabels`, `matchExpressions`) as a predicate over labels and as text.
//!
//! Owns the rule that an absent selector selects nothing and an empty one everything. Reporting what is wrong with a
//! selector, field by field, is `apimachinery::validation`'s.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::validation::{is_qualified_name, is_valid_label_value};
use apimachinery::view::view;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

type Labels = BTreeMap<String, String>;

/// Why a LabelSelector stands for no selector: an unknown operator, or a key or value that no label can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable;

/// A LabelSelector that can be evaluated.
#[derive(Debug)]
pub enum Selector<'a> {
    Nothing,
    /// All must hold; sorted by key. Without requirements everything is selected.
    All(Vec<Requirement<'a>>),
}

#[derive(Debug)]
pub struct Requirement<'a> {
    key: &'a str,
    test: Test<'a>,
}

#[derive(Debug)]
enum Test<'a> {
    Equals(&'a str),
    In(BTreeSet<&'a str>),
    NotIn(BTreeSet<&'a str>),
    Exists,
    DoesNotExist,
}

impl<'a> Selector<'a> {
    pub fn new(selector: Option<&'a LabelSelector>) -> Result<Selector<'a>, Unusable> {
        let Some(selector) = selector else { return Ok(Selector::Nothing) };
        let mut all = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            all.push(Requirement::new(key, Test::Equals(value))?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let values: BTreeSet<&str> = expression.values.iter().flatten().map(String::as_str).collect();
            let test = match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Test::In(values),
                ("NotIn", false) => Test::NotIn(values),
                ("Exists", true) => Test::Exists,
                ("DoesNotExist", true) => Test::DoesNotExist,
                _ => return Err(Unusable),
            };
            all.push(Requirement::new(&expression.key, test)?);
        }
        all.sort_by(|a, b| a.key.cmp(b.key));
        Ok(Selector::All(all))
    }

    /// There is nothing that labels could fail.
    pub fn is_empty(&self) -> bool {
        matches!(self, Selector::All(all) if all.is_empty())
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Selector::Nothing => false,
            Selector::All(all) => all.iter().all(|requirement| requirement.holds(labels)),
        }
    }

    /// The text that label selectors in queries have: `a=b,c in (d,e),!f`.
    pub fn text(&self) -> String {
        match self {
            Selector::Nothing => String::new(),
            Selector::All(all) => all.iter().map(Requirement::text).collect::<Vec<_>>().join(","),
        }
    }
}

impl<'a> Requirement<'a> {
    fn new(key: &'a str, test: Test<'a>) -> Result<Requirement<'a>, Unusable> {
        let values_fit = match &test {
            Test::Equals(value) => is_valid_label_value(value).is_empty(),
            Test::In(values) | Test::NotIn(values) => values.iter().all(|v| is_valid_label_value(v).is_empty()),
            Test::Exists | Test::DoesNotExist => true,
        };
        if values_fit && is_qualified_name(key).is_empty() { Ok(Requirement { key, test }) } else { Err(Unusable) }
    }

    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(self.key).map(String::as_str);
        match &self.test {
            Test::Equals(wanted) => value == Some(wanted),
            Test::In(set) => value.is_some_and(|v| set.contains(v)),
            Test::NotIn(set) => !value.is_some_and(|v| set.contains(v)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }

    fn text(&self) -> String {
        let list = |set: &BTreeSet<&str>| set.iter().copied().collect::<Vec<_>>().join(",");
        match &self.test {
            Test::Equals(value) => format!("{}={value}", self.key),
            Test::In(set) => format!("{} in ({})", self.key, list(set)),
            Test::NotIn(set) => format!("{} notin ({})", self.key, list(set)),
            Test::Exists => self.key.to_owned(),
            Test::DoesNotExist => format!("!{}", self.key),
        }
    }
}

/// The text of a LabelSelector value; null selects nothing and has no text.
pub fn canonical_text(selector: &Value) -> Result<String, Unusable> {
    let typed: Option<LabelSelector> = view(selector);
    Selector::new(typed.as_ref()).map(|s| s.text())
}

/// The selector names a value that no label can have. Updates of objects stored with one tolerate it.
pub fn has_invalid_label_value(selector: Option<&LabelSelector>) -> bool {
    let expressions = selector.and_then(|s| s.match_expressions.as_deref()).unwrap_or_default();
    expressions.iter().flat_map(|e| e.values.iter().flatten()).any(|v| !is_valid_label_value(v).is_empty())
}

/// Neither labels nor expressions.
pub fn selects_by_nothing(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_is_that_of_queries() {
        let selector = json!({"matchLabels": {"b": "1"}, "matchExpressions": [
            {"key": "c", "operator": "NotIn", "values": ["y", "x"]}, {"key": "a", "operator": "In", "values": ["z"]},
            {"key": "e", "operator": "DoesNotExist"}, {"key": "d", "operator": "Exists"}]});
        assert_eq!(canonical_text(&selector).as_deref(), Ok("a in (z),b=1,c notin (x,y),d,!e"));
        assert_eq!(canonical_text(&Value::Null).as_deref(), Ok(""));
        assert_eq!(canonical_text(&json!({"matchExpressions": [{"key": "a", "operator": "Near"}]})), Err(Unusable));
        assert_eq!(canonical_text(&json!({"matchLabels": {"a b": "c"}})), Err(Unusable));
    }

    #[test]
    fn an_absent_selector_selects_nothing_and_an_empty_one_everything() {
        let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
        assert!(!Selector::new(None).expect("usable").matches(&labels));
        assert!(Selector::new(Some(&LabelSelector::default())).expect("usable").matches(&labels));
        let typed: LabelSelector = view(&json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["x"]}]}));
        assert!(Selector::new(Some(&typed)).expect("usable").matches(&labels));
    }
}
