//! Metrics of autoscalers between autoscaling/v2 and the form that autoscaling/v1 keeps in annotations.
//!
//! The two forms say the same with different nesting: `target.averageValue` here is `targetAverageValue` there. What
//! comes from an annotation is anyone's text, so reading it fails on whatever its types could not hold.

use apimachinery::quantity::Quantity;
use serde_json::{Map, Value};

use crate::registry::read::at;

/// The annotation's text does not hold what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

type Read<T> = Result<T, Malformed>;

/// The metric types with the field that each has its parameters in, in the order of the fields.
const SOURCES: [&str; 5] = ["object", "pods", "resource", "containerResource", "external"];

/// Builds an object field by field, leaving absent ones out.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(mut self, name: &str, value: impl Into<Value>) -> Fields {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn put_some(self, name: &str, value: Option<Value>) -> Fields {
        match value {
            Some(value) => self.put(name, value),
            None => self,
        }
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

fn some(value: &Value, pointer: &str) -> Option<Value> {
    Some(at(value, pointer)).filter(|v| !v.is_null()).cloned()
}

/// A field that is no pointer in Go: the zero value where it is absent.
fn or_zero(value: &Value, pointer: &str, zero: &str) -> Value {
    some(value, pointer).unwrap_or_else(|| zero.into())
}

/// A v2 metric in the annotation's form.
pub fn spec_to_v1(metric: &Value) -> Value {
    to_v1(metric, |source, v| {
        let target = at(v, "/target");
        match source {
            "object" => Fields::default()
                .put("target", reference(at(v, "/describedObject")))
                .put("metricName", or_zero(v, "/metric/name", ""))
                .put("targetValue", or_zero(target, "/value", "0"))
                .put_some("selector", some(v, "/metric/selector"))
                .put_some("averageValue", some(target, "/averageValue")),
            "pods" => Fields::default()
                .put("metricName", or_zero(v, "/metric/name", ""))
                .put("targetAverageValue", or_zero(target, "/averageValue", "0"))
                .put_some("selector", some(v, "/metric/selector")),
            "external" => Fields::default()
                .put("metricName", or_zero(v, "/metric/name", ""))
                .put_some("metricSelector", some(v, "/metric/selector"))
                .put_some("targetValue", some(target, "/value"))
                .put_some("targetAverageValue", some(target, "/averageValue")),
            _ => {
                let fields = Fields::default()
                    .put("name", or_zero(v, "/name", ""))
                    .put_some("targetAverageUtilization", some(target, "/averageUtilization"))
                    .put_some("targetAverageValue", some(target, "/averageValue"));
                if source == "containerResource" { fields.put("container", or_zero(v, "/container", "")) } else { fields }
            }
        }
    })
}

/// A v2 metric's status in the annotation's form.
pub fn status_to_v1(metric: &Value) -> Value {
    to_v1(metric, |source, v| {
        let current = at(v, "/current");
        match source {
            "object" => Fields::default()
                .put("target", reference(at(v, "/describedObject")))
                .put("metricName", or_zero(v, "/metric/name", ""))
                .put("currentValue", or_zero(current, "/value", "0"))
                .put_some("selector", some(v, "/metric/selector"))
                .put_some("averageValue", some(current, "/averageValue")),
            "pods" => Fields::default()
                .put("metricName", or_zero(v, "/metric/name", ""))
                .put("currentAverageValue", or_zero(current, "/averageValue", "0"))
                .put_some("selector", some(v, "/metric/selector")),
            "external" => Fields::default()
                .put("metricName", or_zero(v, "/metric/name", ""))
                .put_some("metricSelector", some(v, "/metric/selector"))
                .put("currentValue", or_zero(current, "/value", "0"))
                .put_some("currentAverageValue", some(current, "/averageValue")),
            _ => {
                let fields = Fields::default()
                    .put("name", or_zero(v, "/name", ""))
                    .put_some("currentAverageUtilization", some(current, "/averageUtilization"))
                    .put("currentAverageValue", or_zero(current, "/averageValue", "0"));
                if source == "containerResource" { fields.put("container", or_zero(v, "/container", "")) } else { fields }
            }
        }
    })
}

fn to_v1(metric: &Value, convert: impl Fn(&str, &Value) -> Fields) -> Value {
    let mut out = Fields::default().put("type", or_zero(metric, "/type", ""));
    for source in SOURCES {
        if let Some(value) = some(metric, &format!("/{source}")) {
            out = out.put(source, convert(source, &value).done());
        }
    }
    out.done()
}

fn reference(reference: &Value) -> Value {
    Fields::default()
        .put("kind", or_zero(reference, "/kind", ""))
        .put("name", or_zero(reference, "/name", ""))
        .put_some("apiVersion", some(reference, "/apiVersion").filter(|v| v != ""))
        .done()
}

/// Reads fields of an annotation's object by their type. Names match in any case, as Go's decoder lets them.
struct Reader<'a>(&'a Map<String, Value>);

impl<'a> Reader<'a> {
    fn new(value: &'a Value) -> Read<Reader<'a>> {
        value.as_object().map(Reader).ok_or(Malformed)
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        let exact = self.0.get(name);
        exact.or_else(|| self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v)).filter(|v| !v.is_null())
    }

    fn object(&self, name: &str) -> Read<Option<Reader<'a>>> {
        self.get(name).map(Reader::new).transpose()
    }

    fn text(&self, name: &str) -> Read<&'a str> {
        self.get(name).map_or(Ok(""), |v| v.as_str().ok_or(Malformed))
    }

    fn int(&self, name: &str) -> Read<Option<Value>> {
        self.get(name).map(|v| v.as_i64().filter(|n| i32::try_from(*n).is_ok()).map(Value::from).ok_or(Malformed)).transpose()
    }

    fn quantity(&self, name: &str) -> Read<Option<Value>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = match value {
            Value::String(s) => s.clone(),
            Value::Number(n) => n.to_string(),
            _ => return Err(Malformed),
        };
        Quantity::parse(&text).map(|q| Some(q.canonical().into())).map_err(|_| Malformed)
    }

    fn selector(&self, name: &str) -> Read<Option<Value>> {
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
        use serde::Deserialize;
        let Some(value) = self.get(name) else { return Ok(None) };
        let typed = LabelSelector::deserialize(value).map_err(|_| Malformed)?;
        serde_json::to_value(typed).map(Some).map_err(|_| Malformed)
    }
}

fn zero_quantity() -> Value {
    "0".into()
}

/// A metric of the annotation as v2 has it.
pub fn spec_to_v2(metric: &Value) -> Read<Value> {
    to_v2(metric, |source, v| {
        let value = v.quantity("targetValue")?;
        let average = v.quantity(if source == "object" { "averageValue" } else { "targetAverageValue" })?;
        Ok(match source {
            "object" => {
                let zero = value.clone().unwrap_or_else(zero_quantity);
                let value = match &average {
                    None => Some(zero),
                    // The annotation cannot leave the value out, so 0 beside an average is none.
                    Some(_) => Some(zero).filter(|v| v != "0"),
                };
                let kind = if average.is_none() { "Value" } else { "AverageValue" };
                let target = Fields::default().put("type", kind).put_some("value", value).put_some("averageValue", average);
                Fields::default()
                    .put("describedObject", described(v)?)
                    .put("target", target.done())
                    .put("metric", identifier(v, "selector")?)
            }
            "pods" => {
                let average = average.unwrap_or_else(zero_quantity);
                let target = Fields::default().put("type", "AverageValue").put("averageValue", average);
                Fields::default().put("metric", identifier(v, "selector")?).put("target", target.done())
            }
            "external" => {
                let kind = if value.is_none() { "AverageValue" } else { "Value" };
                let target = Fields::default().put("type", kind).put_some("value", value).put_some("averageValue", average);
                Fields::default().put("metric", identifier(v, "metricSelector")?).put("target", target.done())
            }
            _ => {
                let utilization = v.int("targetAverageUtilization")?;
                let kind = if utilization.is_none() { "AverageValue" } else { "Utilization" };
                let target = Fields::default().put("type", kind).put_some("averageValue", average);
                resource(source, v, "target", target.put_some("averageUtilization", utilization))?
            }
        })
    })
}

/// A metric's status of the annotation as v2 has it.
pub fn status_to_v2(metric: &Value) -> Read<Value> {
    to_v2(metric, |source, v| {
        let value = v.quantity("currentValue")?.unwrap_or_else(zero_quantity);
        let average = v.quantity(if source == "object" { "averageValue" } else { "currentAverageValue" })?;
        Ok(match source {
            "object" => {
                let current = Fields::default().put("value", value).put_some("averageValue", average);
                Fields::default()
                    .put("metric", identifier(v, "selector")?)
                    .put("current", current.done())
                    .put("describedObject", described(v)?)
            }
            "pods" => {
                let current = Fields::default().put("averageValue", average.unwrap_or_else(zero_quantity));
                Fields::default().put("metric", identifier(v, "selector")?).put("current", current.done())
            }
            "external" => {
                let current = Fields::default().put("value", value).put_some("averageValue", average);
                Fields::default().put("metric", identifier(v, "metricSelector")?).put("current", current.done())
            }
            _ => {
                let current = Fields::default().put("averageValue", average.unwrap_or_else(zero_quantity));
                resource(source, v, "current", current.put_some("averageUtilization", v.int("currentAverageUtilization")?))?
            }
        })
    })
}

fn to_v2(metric: &Value, convert: impl Fn(&str, &Reader<'_>) -> Read<Fields>) -> Read<Value> {
    let metric = Reader::new(metric)?;
    let mut out = Fields::default().put("type", metric.text("type")?);
    for source in SOURCES {
        if let Some(value) = metric.object(source)? {
            out = out.put(source, convert(source, &value)?.done());
        }
    }
    Ok(out.done())
}

fn resource(source: &str, v: &Reader<'_>, field: &str, value: Fields) -> Read<Fields> {
    let fields = Fields::default().put("name", v.text("name")?).put(field, value.done());
    Ok(if source == "containerResource" { fields.put("container", v.text("container")?) } else { fields })
}

fn identifier(v: &Reader<'_>, selector: &str) -> Read<Value> {
    Ok(Fields::default().put("name", v.text("metricName")?).put_some("selector", v.selector(selector)?).done())
}

fn described(v: &Reader<'_>) -> Read<Value> {
    let empty = Map::new();
    let target = v.object("target")?.unwrap_or(Reader(&empty));
    let version = Some(target.text("apiVersion")?).filter(|version| !version.is_empty());
    let fields = Fields::default().put("kind", target.text("kind")?).put("name", target.text("name")?);
    Ok(fields.put_some("apiVersion", version.map(Value::from)).done())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metrics_survive_the_way_there_and_back() {
        let selector = json!({"matchLabels": {"a": "b"}});
        let metrics = [
            json!({"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s", "apiVersion": "v1"},
                "target": {"type": "Value", "value": "5"}, "metric": {"name": "m", "selector": selector}}}),
            json!({"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"},
                "target": {"type": "AverageValue", "averageValue": "5"}, "metric": {"name": "m"}}}),
            json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1500m"}}}),
            json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 50}}}),
            json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "1"},
                "container": "c"}}),
            json!({"type": "External", "external": {"metric": {"name": "m", "selector": selector}, "target": {"type": "Value", "value": "3"}}}),
        ];
        for metric in metrics {
            assert_eq!(spec_to_v2(&spec_to_v1(&metric)), Ok(metric));
        }
        let status = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageValue": "1", "averageUtilization": 5}}});
        assert_eq!(status_to_v2(&status_to_v1(&status)), Ok(status));
    }

    #[test]
    fn text_of_the_wrong_types_is_refused() {
        for bad in [
            json!(1),
            json!({"type": 1}),
            json!({"pods": 5}),
            json!({"pods": {"targetAverageValue": "x"}}),
            json!({"resource": {"targetAverageUtilization": 1.5}}),
        ] {
            assert_eq!(spec_to_v2(&bad), Err(Malformed), "{bad}");
        }
    }
}
