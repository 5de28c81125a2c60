//! The downward API: what a pod can be told of itself, as variables and as files.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use apimachinery::validation::is_qualified_name;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::Error;
use super::pod_resources::{limit, parse, pod_level_limit, request};

/// The value of a field of the pod's metadata: what files and variables have in common.
pub fn metadata_field(pod: &Pod, path: &str) -> Result<String, Error> {
    let metadata = &pod.metadata;
    if let Some((list, key)) = subscripted(path) {
        let (entries, invalid) = match list {
            "metadata.annotations" => (&metadata.annotations, is_qualified_name(&key.to_lowercase())),
            "metadata.labels" => (&metadata.labels, is_qualified_name(key)),
            _ => return Err(Error::new(format!("fieldPath {path:?} does not support subscript"))),
        };
        if !invalid.is_empty() {
            return Err(Error::new(format!("invalid key subscript in {path}: {}", invalid.join(";"))));
        }
        return Ok(entries.as_ref().and_then(|entries| entries.get(key)).cloned().unwrap_or_default());
    }
    match path {
        "metadata.annotations" => Ok(format_map(metadata.annotations.as_ref())),
        "metadata.labels" => Ok(format_map(metadata.labels.as_ref())),
        "metadata.name" => Ok(metadata.name.clone().unwrap_or_default()),
        "metadata.namespace" => Ok(metadata.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Ok(metadata.uid.clone().unwrap_or_default()),
        _ => Err(Error::new(format!("unsupported fieldPath: {path}"))),
    }
}

/// `metadata.labels['a']` taken apart.
fn subscripted(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['").filter(|(list, _)| !list.is_empty())
}

/// One line a pair, as Go quotes strings.
fn format_map(entries: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = entries.into_iter().flatten().map(|(key, value)| format!("{key}={}", quote(value))).collect();
    lines.join("\n")
}

/// Go's `strconv.Quote`.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) < 0x80 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x10000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Whether Go prints the character as it is: what Rust's debug form does not escape, without spaces other than the common one.
fn is_printable(c: char) -> bool {
    c == ' ' || c == '\'' || (!c.is_whitespace() && !c.is_control() && c.escape_debug().count() == 1)
}

/// The value of a container's request or limit in units of the selector's divisor, rounded up. Limits that nobody has set are the
/// node's allocatable amounts.
pub fn container_resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, Text>,
) -> Result<String, Error> {
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => find(pod, name).ok_or_else(|| Error::new(format!("container {name} not found")))?,
        None => own.ok_or_else(|| Error::new("container  not found"))?,
    };
    let divisor = selector.divisor.as_ref().map(parse).filter(|divisor| !divisor.is_zero());
    let divisor = divisor.unwrap_or_else(|| Quantity::new(1, apimachinery::quantity::Format::DecimalSi));
    let amount = match selector.resource.split_once('.') {
        Some(("limits", name)) if is_known(name) => effective_limit(pod, container, name, allocatable),
        Some(("requests", name)) if is_known(name) => request(container, name),
        _ => return Err(Error::new(format!("unsupported container resource : {}", selector.resource))),
    };
    let (amount, divisor) =
        if selector.resource.ends_with(".cpu") { (amount.milli_value(), divisor.milli_value()) } else { (amount.value(), divisor.value()) };
    Ok(divided_up(amount, divisor).to_string())
}

fn is_known(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

fn divided_up(amount: i64, divisor: i64) -> i64 {
    if divisor == 0 {
        return 0;
    }
    let (amount, divisor) = (i128::from(amount), i128::from(divisor));
    let (quotient, rest) = (amount / divisor, amount % divisor);
    let up = if rest != 0 && (rest > 0) == (divisor > 0) { 1 } else { 0 };
    i64::try_from(quotient + up).unwrap_or(i64::MAX)
}

fn effective_limit(pod: &Pod, container: &Container, name: &str, allocatable: &BTreeMap<String, Text>) -> Quantity {
    let own = limit(container, name);
    // Huge pages are never overcommitted: who has no limit has none of them.
    if !own.is_zero() || name.starts_with("hugepages-") {
        return own;
    }
    let of_pod = pod_level_limit(pod, name);
    if name != "ephemeral-storage" && !of_pod.is_zero() && allocatable.contains_key(name) {
        return of_pod;
    }
    allocatable.get(name).map(parse).unwrap_or_default()
}

fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|container| container.name == name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "1"}, "annotations": {"example.com/K": "x\n\"y\"é"}},
            "spec": {"containers": [
                {"name": "a", "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}, "requests": {"cpu": "250m"}}},
                {"name": "b"}]}}))
        .expect("it is a pod")
    }

    #[test]
    fn fields_of_the_metadata_are_told() {
        let cases = [
            ("metadata.name", Ok("p")),
            ("metadata.labels", Ok("a=\"1\"\nb=\"2\"")),
            ("metadata.labels['a']", Ok("1")),
            ("metadata.labels['c']", Ok("")),
            ("metadata.annotations", Ok("example.com/K=\"x\\n\\\"y\\\"é\"")),
            ("metadata.annotations['example.com/K']", Ok("x\n\"y\"é")),
            ("metadata.name['a']", Err("fieldPath \"metadata.name['a']\" does not support subscript")),
            ("spec.nodeName", Err("unsupported fieldPath: spec.nodeName")),
        ];
        for (path, expect) in cases {
            let got = metadata_field(&pod(), path).map_err(|error| error.message);
            assert_eq!(got.as_deref().map_err(String::as_str), expect, "{path}");
        }
    }

    #[test]
    fn resources_are_counted_in_the_divisors_units_rounded_up() {
        let allocatable: BTreeMap<String, Text> = [("cpu", "4"), ("memory", "8Gi")].map(|(k, v)| (k.to_owned(), Text(v.to_owned()))).into();
        let pod = pod();
        let cases = [
            ("a", "limits.cpu", "0", "2"),
            ("a", "limits.cpu", "1m", "1500"),
            ("a", "limits.memory", "1Mi", "1024"),
            ("a", "requests.cpu", "1", "1"),
            ("a", "requests.memory", "1", "0"),
            ("b", "limits.cpu", "1", "4"),
            ("b", "limits.memory", "1", "8589934592"),
        ];
        for (container, resource, divisor, expect) in cases {
            let selector = ResourceFieldSelector {
                container_name: Some(container.to_owned()),
                resource: resource.to_owned(),
                divisor: Some(Text(divisor.to_owned())),
            };
            assert_eq!(container_resource(&pod, None, &selector, &allocatable).as_deref(), Ok(expect), "{container} {resource}");
        }
        let unknown = ResourceFieldSelector { container_name: Some("c".to_owned()), resource: "limits.cpu".to_owned(), divisor: None };
        assert_eq!(container_resource(&pod, None, &unknown, &allocatable), Err(Error::new("container c not found")));
    }
}
