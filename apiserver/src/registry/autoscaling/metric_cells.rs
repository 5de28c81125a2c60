//! The `Targets` cell of autoscalers: `cpu: 40%/80%, 3/5 (avg)`.

use serde_json::Value;

use crate::registry::read::{at, str_at};

const SHOWN: usize = 2;

/// What each metric is now and what it should be; the first two, and how many more.
pub fn targets(specs: &[Value], statuses: &[Value]) -> String {
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let shown: Vec<String> =
        specs.iter().enumerate().take(SHOWN).map(|(i, spec)| target(spec, statuses.get(i).unwrap_or(&Value::Null))).collect();
    let text = shown.join(", ");
    match specs.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{text} + {more} more..."),
        _ => text,
    }
}

fn target(spec: &Value, status: &Value) -> String {
    let source = match str_at(spec, "/type") {
        "External" => "external",
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let wanted = at(spec, &format!("/{source}/target")).clone();
    let current = at(status, &format!("/{source}/current")).clone();
    let average = at(&wanted, "/averageValue").as_str();
    match (source, average) {
        ("external" | "object", Some(average)) => format!("{}/{average} (avg)", quantity(&current, "/averageValue", "<unknown>")),
        ("external" | "object", None) => format!("{}/{}", value(&current), quantity(&wanted, "/value", "<nil>")),
        ("pods", _) => format!("{}/{}", quantity(&current, "/averageValue", "<unknown>"), quantity(&wanted, "/averageValue", "<nil>")),
        (_, Some(average)) => {
            format!("{}: {}/{average}", str_at(spec, &format!("/{source}/name")), quantity(&current, "/averageValue", "<unknown>"))
        }
        (_, None) => {
            let now = percent(&current).unwrap_or_else(|| "<unknown>".to_owned());
            let goal = percent(&wanted).unwrap_or_else(|| "<auto>".to_owned());
            format!("{}: {now}/{goal}", str_at(spec, &format!("/{source}/name")))
        }
    }
}

fn quantity<'a>(value: &'a Value, pointer: &str, absent: &'a str) -> &'a str {
    at(value, pointer).as_str().unwrap_or(absent)
}

/// A status without a value is one of a metric that is reported as an average only.
fn value(current: &Value) -> &str {
    quantity(current, "/value", if current.is_null() { "<unknown>" } else { "<nil>" })
}

fn percent(metric: &Value) -> Option<String> {
    at(metric, "/averageUtilization").as_i64().map(|share| format!("{share}%"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn targets_read_as_current_and_wanted() {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "5"}}});
        let external = json!({"type": "External", "external": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "10"}}});
        let status = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 40, "averageValue": "1"}}});
        assert_eq!(targets(&[], &[]), "<none>");
        assert_eq!(targets(std::slice::from_ref(&cpu), &[]), "cpu: <unknown>/80%");
        assert_eq!(targets(std::slice::from_ref(&cpu), &[status]), "cpu: 40%/80%");
        assert_eq!(targets(&[cpu, pods, external.clone()], &[]), "cpu: <unknown>/80%, <unknown>/5 + 1 more...");
        assert_eq!(targets(&[external], &[json!({"external": {"current": {"value": "7"}}})]), "7/10");
        assert_eq!(targets(&[json!({"type": "x"})], &[]), "<unknown type>");
    }
}
