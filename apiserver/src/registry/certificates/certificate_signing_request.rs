//! CertificateSigningRequests: a certificate is asked for, approved or denied, and issued, each by someone else.

use apimachinery::field::ErrorList;
use apimachinery::time::{format_time, human_duration};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::request_rules::{Endpoint, validate, validate_change};
use crate::registry::printer::{self, text};
use crate::registry::read::{at, list_at, optional_int_at, str_at};
use crate::registry::strategy::{drop_field, keep_field, set_field};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    kind: "CertificateSigningRequest",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &["csr"],
    categories: &[],
    schema: "io.k8s.api.certificates.v1.CertificateSigningRequest",
    name: |_, _| Vec::new(),
    strategy: &Main,
    subresources: &[
        Subresource {
            name: "approval",
            group: super::GROUP,
            version: "v1",
            kind: "CertificateSigningRequest",
            verbs: SUBRESOURCE_VERBS,
            behaviour: Behaviour::Object { strategy: &Approval, reset_fields: &["spec", "status.certificate"] },
        },
        Subresource {
            name: "status",
            group: super::GROUP,
            version: "v1",
            kind: "CertificateSigningRequest",
            verbs: SUBRESOURCE_VERBS,
            behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["spec", "status.conditions"] },
        },
    ],
    selectable: &[("spec.signerName", |request| str_at(request, "/spec/signerName").into())],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["spec", "status"],
};

const SPEC: &str = "io.k8s.api.certificates.v1.CertificateSigningRequestSpec";

const SIGNER_NAME: &str = "Requested signer for the request. It is a qualified name in the form: `scope-hostname.io/name`. If empty, it will be defaulted:\n 1. If it's a kubelet client certificate, it is assigned\n    \"kubernetes.io/kube-apiserver-client-kubelet\".\n 2. If it's a kubelet serving certificate, it is assigned\n    \"kubernetes.io/kubelet-serving\".\n 3. Otherwise, it is assigned \"kubernetes.io/legacy-unknown\".\nDistribution of trust for signers happens out of band. You can select on this field using `spec.signerName`.";

/// Upstream's columns keep the descriptions of v1beta1; the requestor's is that of the request.
const COLUMNS: &[Column] = &[
    printer::NAME,
    printer::AGE,
    text("SignerName", Description::Text(SIGNER_NAME)),
    text("Requestor", Description::Text("Base64-encoded PKCS#10 CSR data")),
    text("RequestedDuration", Description::Field(SPEC, "expirationSeconds")),
    text("Condition", Description::Text("Conditions applied to the request, such as approval or denial.")),
];

const NANOSECONDS: i64 = 1_000_000_000;

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let signer = str_at(object, "/spec/signerName");
    let duration = optional_int_at(object, "/spec/expirationSeconds");
    vec![
        printer::name(object),
        printer::object_age(object, now),
        if signer.is_empty() { "<none>" } else { signer }.into(),
        str_at(object, "/spec/username").into(),
        duration.map_or_else(|| "<none>".to_owned(), |seconds| human_duration(seconds.saturating_mul(NANOSECONDS))).into(),
        condition(object).into(),
    ]
}

fn condition(object: &Value) -> String {
    let has = |kind: &str| list_at(object, "/status/conditions").iter().any(|c| str_at(c, "/type") == kind);
    let mut text = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        text.push_str(",Failed");
    }
    if !str_at(object, "/status/certificate").is_empty() {
        text.push_str(",Issued");
    }
    text
}

struct Main;

impl Strategy for Main {
    /// The request says who asks, whatever its author wrote there.
    fn prepare_for_create(&self, cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
        for field in ["uid", "extra"] {
            spec.shift_remove(field);
        }
        spec.insert("username".to_owned(), cx.user.into());
        spec.insert("groups".to_owned(), json!(cx.groups));
        if !cx.uid.is_empty() {
            spec.insert("uid".to_owned(), cx.uid.into());
        }
        if !cx.extra.is_empty() {
            let extra: Map<String, Value> = cx.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect();
            spec.insert("extra".to_owned(), extra.into());
        }
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(new, None).into_errors()
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_field(new, old, "spec");
        keep_field(new, old, "status");
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate_change(new, old, Endpoint::Main)
    }
}

struct Status;

impl UpdateStrategy for Status {
    /// Decisions are the approver's: where as many stand as before, they stand as before.
    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_field(new, old, "spec");
        for kind in ["Approved", "Denied"] {
            keep_conditions(new, old, kind);
        }
        fill_in_times(new, old, cx.now);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate_change(new, old, Endpoint::Status)
    }
}

struct Approval;

impl UpdateStrategy for Approval {
    /// Of the status, only conditions change.
    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        fill_in_times(new, old, cx.now);
        let conditions = at(new, "/status/conditions").clone();
        keep_field(new, old, "spec");
        keep_field(new, old, "status");
        if new.get("status").is_none_or(Value::is_null) {
            set_field(new, "status", json!({}));
        }
        if let Some(status) = new.get_mut("status") {
            set_field(status, "conditions", conditions);
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate_change(new, old, Endpoint::Approval)
    }
}

fn keep_conditions(new: &mut Value, old: &Value, kind: &str) {
    let kept: Vec<Value> = list_at(old, "/status/conditions").iter().filter(|c| str_at(c, "/type") == kind).cloned().collect();
    let Some(conditions) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
    let mut places: Vec<&mut Value> = conditions.iter_mut().filter(|c| str_at(c, "/type") == kind).collect();
    if places.len() == kept.len() {
        for (place, kept) in places.iter_mut().zip(kept) {
            **place = kept;
        }
    }
}

/// A condition without times was made now; if it stood before with the same status, it has stood since then.
fn fill_in_times(new: &mut Value, old: &Value, now: Timestamp) {
    let now = format_time(now);
    let Some(conditions) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
    for condition in conditions {
        if at(condition, "/lastUpdateTime").is_null() {
            set_field(condition, "lastUpdateTime", now.as_str());
        }
        if at(condition, "/lastTransitionTime").is_null() {
            let stood = list_at(old, "/status/conditions").iter().find(|before| {
                let same = |field: &str| at(before, field) == at(condition, field);
                same("/type") && same("/status") && !at(before, "/lastTransitionTime").is_null()
            });
            let since = stood.map_or(now.as_str(), |before| str_at(before, "/lastTransitionTime")).to_owned();
            set_field(condition, "lastTransitionTime", since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cx() -> Cx<'static> {
        Cx { now: Timestamp::UNIX_EPOCH, subresource: "", namespace: "", user: "alice", uid: "", groups: &[], extra: &[] }
    }

    #[test]
    fn the_request_says_who_asks() {
        let mut request = json!({"spec": {"username": "root", "uid": "x", "signerName": "a/b"}, "status": {"certificate": "YQ=="}});
        Main.prepare_for_create(&cx(), &mut request);
        assert_eq!(request, json!({"spec": {"username": "alice", "signerName": "a/b", "groups": []}}));
        let extra = [("scopes".to_owned(), vec!["all".to_owned()])];
        Main.prepare_for_create(&Cx { uid: "7", extra: &extra, ..cx() }, &mut request);
        assert_eq!(request["spec"]["uid"], "7");
        assert_eq!(request["spec"]["extra"], json!({"scopes": ["all"]}));
    }

    #[test]
    fn approval_changes_conditions_alone_and_dates_them() {
        let old = json!({"spec": {"a": 1}, "status": {"certificate": "YQ==",
            "conditions": [{"type": "x", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]}});
        let mut new = json!({"spec": {"a": 2}, "status": {"conditions": [
            {"type": "x", "status": "True"}, {"type": "Approved", "status": "True"}]}});
        Approval.prepare_for_update(&cx(), &mut new, &old);
        assert_eq!(
            new,
            json!({"spec": {"a": 1}, "status": {"certificate": "YQ==", "conditions": [
                {"type": "x", "status": "True", "lastUpdateTime": "1970-01-01T00:00:00Z", "lastTransitionTime": "2020-01-01T00:00:00Z"},
                {"type": "Approved", "status": "True", "lastUpdateTime": "1970-01-01T00:00:00Z", "lastTransitionTime": "1970-01-01T00:00:00Z"}]}})
        );
    }

    #[test]
    fn a_status_update_keeps_decisions() {
        let old = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "r", "lastUpdateTime": "t", "lastTransitionTime": "t"}]}});
        let mut new = json!({"status": {"certificate": "YQ==", "conditions": [{"type": "Approved", "status": "True", "reason": "other"}]}});
        Status.prepare_for_update(&cx(), &mut new, &old);
        assert_eq!(new["status"]["conditions"], old["status"]["conditions"]);
        assert_eq!(condition(&new), "Approved,Issued");
    }
}
