//! Steps that stand for many: each of several principals, verbs or resources with each of the others. Pure.
//!
//! A step with `each` has axes, which are lists of values. It stands for one step for every combination of them, the last axis changing
//! fastest. `{axis}` is the value of an axis there, `{axis.member}` a member of a value that is an object. A string that is nothing but
//! that becomes the value itself, of whatever type; if there is no value, the member that it belongs to is left out. Other braces stay.

use serde_json::{Map, Value};

const EACH: &str = "each";
/// A scenario has no more steps than this.
const MAX_STEPS: usize = 5_000;

/// The steps of a scenario's file, each that stands for many replaced by these.
///
/// # Errors
/// If an axis is not a list with values in it, or there are too many steps.
pub fn expand(steps: Vec<Value>) -> anyhow::Result<Vec<Value>> {
    let mut out = Vec::new();
    for mut step in steps {
        let axes = step.as_object_mut().and_then(|members| members.shift_remove(EACH));
        let combinations = match &axes {
            None => vec![Vec::new()],
            Some(Value::Object(axes)) => combinations(axes)?,
            Some(_) => anyhow::bail!("{EACH} must be an object of lists: {step}"),
        };
        anyhow::ensure!(out.len() + combinations.len() <= MAX_STEPS, "more than {MAX_STEPS} steps");
        out.extend(combinations.iter().map(|chosen| filled(&step, chosen).unwrap_or_default()));
    }
    Ok(out)
}

type Chosen<'a> = Vec<(&'a str, &'a Value)>;

fn combinations(axes: &Map<String, Value>) -> anyhow::Result<Vec<Chosen<'_>>> {
    let mut all: Vec<Chosen<'_>> = vec![Vec::new()];
    for (axis, values) in axes {
        let values = values.as_array().filter(|values| !values.is_empty());
        let values = values.ok_or_else(|| anyhow::anyhow!("axis {axis} must be a list with something in it"))?;
        anyhow::ensure!(all.len() * values.len() <= MAX_STEPS, "more than {MAX_STEPS} steps");
        let mut longer = Vec::with_capacity(all.len() * values.len());
        for chosen in &all {
            longer.extend(values.iter().map(|value| chosen.iter().copied().chain([(axis.as_str(), value)]).collect()));
        }
        all = longer;
    }
    Ok(all)
}

/// `None` for what stands for a value that is not there.
fn filled(template: &Value, chosen: &Chosen<'_>) -> Option<Value> {
    Some(match template {
        Value::String(text) => match whole(text, chosen) {
            Some(found) => found?.clone(),
            None => Value::String(text_filled(text, chosen)),
        },
        Value::Array(items) => items.iter().filter_map(|item| filled(item, chosen)).collect(),
        Value::Object(members) => {
            let filled = members.iter().filter_map(|(key, value)| Some((text_filled(key, chosen), filled(value, chosen)?)));
            Value::Object(filled.collect())
        }
        other => other.clone(),
    })
}

/// What a text that is one placeholder stands for; `None` for another text.
fn whole<'a>(text: &str, chosen: &Chosen<'a>) -> Option<Option<&'a Value>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    if inner.contains(['{', '}']) { None } else { looked_up(inner, chosen) }
}

/// The value of `axis` or `axis.member`; `None` if there is no such axis.
fn looked_up<'a>(name: &str, chosen: &Chosen<'a>) -> Option<Option<&'a Value>> {
    let (axis, member) = name.split_once('.').map_or((name, None), |(axis, member)| (axis, Some(member)));
    let (_, value) = chosen.iter().find(|(name, _)| *name == axis)?;
    Some(match member {
        None => Some(value),
        Some(member) => value.get(member),
    })
}

fn text_filled(text: &str, chosen: &Chosen<'_>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let found = rest.find('}').and_then(|end| Some((end, looked_up(&rest[1..end], chosen)?)));
        let length = match found {
            Some((end, value)) => {
                match value {
                    Some(Value::String(text)) => out.push_str(text),
                    Some(other) => out.push_str(&other.to_string()),
                    None => {}
                }
                end + 1
            }
            None => {
                out.push('{');
                1
            }
        };
        rest = &rest[length..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_stands_for_every_combination_of_its_axes() {
        let step = json!({"name": "{who} {what.verb}s {what}", "as": "{who}", "path": "/{ns}/{what.path}", "body": {"a": "{what.body}", "b": "{who}-{ns}"},
            "each": {"who": ["ann", "bob"], "what": [{"verb": "get", "path": "p"}, {"verb": "put", "body": {"x": "{ns}"}}]}});
        let plain = json!({"name": "as it is {what}"});
        let steps = expand(vec![plain.clone(), step]).unwrap();
        assert_eq!(steps.len(), 5);
        assert_eq!(steps[0], plain);
        let expect = json!({"name": r#"ann gets {"verb":"get","path":"p"}"#, "as": "ann", "path": "/{ns}/p", "body": {"b": "ann-{ns}"}});
        assert_eq!(steps[1], expect);
        assert_eq!(steps[4]["body"], json!({"a": {"x": "{ns}"}, "b": "bob-{ns}"}));
        assert_eq!((&steps[2]["as"], &steps[3]["as"]), (&json!("ann"), &json!("bob")));
    }

    #[test]
    fn axes_without_values_are_refused() {
        for each in [json!({"a": []}), json!({"a": "x"}), json!([])] {
            assert!(expand(vec![json!({"name": "n", "each": each})]).is_err());
        }
        assert!(expand(vec![json!({"each": {"a": vec![0; 100], "b": vec![0; 100]}})]).is_err());
    }
}
