//! APIServices: a group and version, and the service that serves it if this server does not.

use apimachinery::field::{Error, ErrorList, Path, quote};
use apimachinery::time::format_time;
use apimachinery::validation::{
    is_dns1035_label, is_dns1123_subdomain, is_valid_path_segment_name, is_valid_port_num, validate_path_segment_name,
};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec, ServiceReference};
use serde_json::{Value, json};

use crate::registry::printer::{self, text};
use crate::registry::read::{at, list_at, str_at};
use crate::registry::strategy::{drop_field, keep_all_but_status, keep_metadata, keep_status, set_field};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: "apiregistration.k8s.io",
    version: "v1",
    plural: "apiservices",
    singular: "apiservice",
    kind: "APIService",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &["api-extensions"],
    schema: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
    name: validate_path_segment_name,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: "apiregistration.k8s.io",
        version: "v1",
        kind: "APIService",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["spec", "metadata"] },
    }],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Service", Description::Text("The reference to the service that hosts this API endpoint.")),
    text("Available", Description::Text("Whether this service is available.")),
    printer::AGE,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let service = match at(object, "/spec/service") {
        Value::Null => "Local".to_owned(),
        service => format!("{}/{}", str_at(service, "/namespace"), str_at(service, "/name")),
    };
    let condition = list_at(object, "/status/conditions").iter().find(|c| str_at(c, "/type") == "Available");
    let available = match condition.map(|c| (str_at(c, "/status"), str_at(c, "/reason"))) {
        None => "Unknown".to_owned(),
        Some(("True", _)) => "True".to_owned(),
        Some((status, "")) => status.to_owned(),
        Some((status, reason)) => format!("{status} ({reason})"),
    };
    vec![printer::name(object), service.into(), available.into(), printer::object_age(object, now)]
}

struct Main;

impl Strategy for Main {
    /// What this server serves itself is available as soon as it is registered.
    fn prepare_for_create(&self, cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        if at(new, "/spec/service").is_null() {
            let condition = json!({
                "type": "Available", "status": "True", "lastTransitionTime": format_time(cx.now),
                "reason": "Local", "message": "Local APIServices are always available",
            });
            set_field(new, "status", json!({ "conditions": [condition] }));
        }
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(new)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validate(new)
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        keep_metadata(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        let conditions = Path::new("status.conditions");
        let mut errors = ErrorList::new();
        for (i, condition) in list_at(new, "/status/conditions").iter().enumerate() {
            let status = str_at(condition, "/status");
            if !matches!(status, "True" | "False" | "Unknown") {
                errors.push(Error::not_supported(&conditions.index(i).child("status"), status, &["True", "False", "Unknown"]));
            }
        }
        errors
    }
}

fn validate(object: &Value) -> ErrorList {
    let service: APIService = view(object);
    let spec = service.spec.unwrap_or_default();
    let mut errors = validate_name(object, &spec);
    errors.extend(validate_group_version(&spec));
    let minimum = spec.group_priority_minimum;
    if minimum <= 0 || minimum > 20000 {
        errors.push(Error::invalid(&Path::new("spec.groupPriorityMinimum"), minimum, "must be positive and less than 20000"));
    }
    let priority = spec.version_priority;
    if priority <= 0 || priority > 1000 {
        errors.push(Error::invalid(&Path::new("spec.versionPriority"), priority, "must be positive and less than 1000"));
    }

    let bundle_bytes = spec.ca_bundle.as_ref().map_or(0, |bundle| bundle.0.len());
    let insecure = spec.insecure_skip_tls_verify == Some(true);
    let insecure_path = Path::new("spec.insecureSkipTLSVerify");
    let Some(service) = &spec.service else {
        if bundle_bytes != 0 {
            let detail = "local APIServices may not have a caBundle";
            errors.push(Error::invalid(&Path::new("spec.caBundle"), format!("{bundle_bytes} bytes"), detail));
        }
        if insecure {
            errors.push(Error::invalid(&insecure_path, true, "local APIServices may not have insecureSkipTLSVerify"));
        }
        return errors;
    };
    errors.extend(validate_service(service));
    if insecure && bundle_bytes > 0 {
        errors.push(Error::invalid(&insecure_path, true, "may not be true if caBundle is present"));
    }
    errors
}

/// The name is the version and the group.
fn validate_name(object: &Value, spec: &APIServiceSpec) -> ErrorList {
    let required = format!("{}.{}", spec.version.as_deref().unwrap_or(""), spec.group.as_deref().unwrap_or(""));
    let metadata = Path::new("metadata");
    let mut errors = ErrorList::new();
    for (field, pointer) in [("generateName", "/metadata/generateName"), ("name", "/metadata/name")] {
        let name = str_at(object, pointer);
        if !name.is_empty() && name != required && is_valid_path_segment_name(name).is_empty() {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {}", quote(&required));
            errors.push(Error::invalid(&metadata.child(field), name, detail));
        }
    }
    errors
}

fn validate_group_version(spec: &APIServiceSpec) -> ErrorList {
    let (group, version) = (spec.group.as_deref().unwrap_or(""), spec.version.as_deref().unwrap_or(""));
    let (group_path, version_path) = (Path::new("spec.group"), Path::new("spec.version"));
    let mut errors = ErrorList::new();
    if !group.is_empty() {
        errors.extend(is_dns1123_subdomain(group).into_iter().map(|message| Error::invalid(&group_path, group, message)));
    } else if version != "v1" {
        errors.push(Error::required(&group_path, "only v1 may have an empty group and it better be legacy kube"));
    }
    errors.extend(is_dns1035_label(version).into_iter().map(|message| Error::invalid(&version_path, version, message)));
    errors
}

fn validate_service(service: &ServiceReference) -> ErrorList {
    let path = Path::new("spec.service");
    let mut errors = ErrorList::new();
    if service.namespace.as_deref().unwrap_or("").is_empty() {
        errors.push(Error::required(&path.child("namespace"), ""));
    }
    if service.name.as_deref().unwrap_or("").is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    let port = service.port.unwrap_or(0);
    let problems = is_valid_port_num(i64::from(port));
    if !problems.is_empty() {
        errors.push(Error::invalid(&path.child("port"), port, format!("port is not valid: {}", problems.join(", "))));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(object: Value) -> Vec<String> {
        validate(&object).iter().map(ToString::to_string).collect()
    }

    fn local() -> Value {
        json!({"metadata": {"name": "v1.a.com"}, "spec": {"group": "a.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}})
    }

    #[test]
    fn the_name_is_the_version_and_the_group() {
        assert!(check(local()).is_empty());
        let mut other = local();
        other["metadata"]["name"] = "b".into();
        assert_eq!(check(other), ["metadata.name: Invalid value: \"b\": must be `spec.version+\".\"+spec.group`: \"v1.a.com\""]);
    }

    #[test]
    fn a_local_service_needs_no_trust() {
        let mut object = local();
        object["spec"]["caBundle"] = "YWJj".into();
        object["spec"]["insecureSkipTLSVerify"] = true.into();
        assert_eq!(
            check(object),
            [
                "spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle",
                "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify"
            ]
        );
    }

    #[test]
    fn a_service_is_named_in_full() {
        let mut object = local();
        object["spec"]["service"] = json!({"port": 0});
        object["spec"]["versionPriority"] = 1001.into();
        let errors = check(object);
        assert_eq!(errors.len(), 4, "{errors:?}");
        assert!(errors[0].starts_with("spec.versionPriority: Invalid value: 1001"));
        assert_eq!(errors[1], "spec.service.namespace: Required value");
        assert!(errors[3].starts_with("spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535"));
    }

    #[test]
    fn what_is_served_here_is_available_at_once() {
        let mut object = local();
        let cx = Cx { now: Timestamp::UNIX_EPOCH, subresource: "", namespace: "", user: "u", uid: "", groups: &[], extra: &[] };
        Main.prepare_for_create(&cx, &mut object);
        assert_eq!(row(&object, Timestamp::UNIX_EPOCH)[1..3], [json!("Local"), json!("True")]);
        object["spec"]["service"] = json!({"namespace": "n", "name": "s"});
        Main.prepare_for_create(&cx, &mut object);
        assert_eq!(row(&object, Timestamp::UNIX_EPOCH)[1..3], [json!("n/s"), json!("Unknown")]);
    }
}
