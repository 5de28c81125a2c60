//! How whole structs are shown in "Invalid value" errors: with the field names, order and nulls of upstream's internal
//! types, which have no JSON names.
//!
//! The names come from a table that `apiserver/schema/internal_form.py` writes. Nothing that is stored or served is
//! made here.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::{Map, Value};

/// The types, one a line; the shapes are explained in the script.
const TABLE: &str = include_str!("../../schema/internal_form.txt");

type Types = HashMap<&'static str, Vec<&'static str>>;

fn types() -> &'static Types {
    static TYPES: OnceLock<Types> = OnceLock::new();
    TYPES.get_or_init(|| {
        let lines = TABLE.lines().filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.collect()))
        });
        lines.collect()
    })
}

/// A struct of the type `name`; null stays null.
pub fn render(name: &str, value: &Value) -> Value {
    if value.is_null() { Value::Null } else { render_struct(name, value) }
}

/// A list of structs of the type `name`; absent it is null.
pub fn render_list(name: &str, value: &Value) -> Value {
    value.as_array().map_or(Value::Null, |items| items.iter().map(|item| render_struct(name, item)).collect())
}

fn render_struct(name: &str, value: &Value) -> Value {
    let mut out = Map::new();
    add_fields(name, value, &mut out);
    Value::Object(out)
}

fn add_fields(name: &str, value: &Value, out: &mut Map<String, Value>) {
    for field in types().get(name).into_iter().flatten() {
        if let Some(embedded) = field.strip_prefix("E:") {
            add_fields(embedded, value, out);
        } else if *field == "O" {
            let metadata = value.get("metadata").and_then(Value::as_object);
            out.extend(metadata.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
        } else if let Some((go, rest)) = field.split_once('=')
            && let Some((json, shape)) = rest.split_once(':')
        {
            out.insert(go.to_owned(), render_shape(shape, value.get(json).unwrap_or(&Value::Null)));
        }
    }
}

fn render_shape(shape: &str, value: &Value) -> Value {
    match (shape.split_once(':'), value) {
        (Some(("S", name)), value) => render_struct(name, value),
        (Some(("P", name)), value) => render(name, value),
        (Some(("L", name)), value) => render_list(name, value),
        (Some(("M", name)), Value::Object(map)) => {
            Value::Object(map.iter().map(|(key, item)| (key.clone(), render_struct(name, item))).collect())
        }
        (None, Value::Null) => match shape {
            "s" => "".into(),
            "n" => 0.into(),
            "b" => false.into(),
            "q" => "0".into(),
            _ => Value::Null,
        },
        (_, value) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_shows_every_field_of_its_internal_form() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "c", "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5}}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        let shown = render("PodTemplateSpec", &template);
        let keys: Vec<&str> = shown.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, ["labels", "Spec"]);
        let spec = &shown["Spec"];
        assert_eq!(spec["HostNetwork"], false);
        assert_eq!(spec["Tolerations"], Value::Null);
        assert_eq!(spec["Containers"][0]["Resources"], json!({"Limits": null, "Requests": null, "Claims": null}));
        let probe = &spec["Containers"][0]["LivenessProbe"];
        assert_eq!((&probe["HTTPGet"]["Port"], &probe["PeriodSeconds"], &probe["Exec"]), (&json!(80), &json!(5), &Value::Null));
        assert_eq!(spec["Volumes"][0]["EmptyDir"], json!({"Medium": "", "SizeLimit": null, "Mode": null}));
    }

    #[test]
    fn every_type_that_is_named_is_in_the_table() {
        for (name, fields) in types() {
            for field in fields {
                let (_, shape) = field.split_once('=').unwrap_or(("", field));
                if let Some((_, inner)) = shape.rsplit_once(':').filter(|(_, inner)| inner.starts_with(char::is_uppercase)) {
                    assert!(types().contains_key(inner), "{name} names {inner}");
                }
            }
        }
    }
}
