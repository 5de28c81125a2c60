//! AdmissionReview: the question and the answer (`admission.k8s.io/v1` and `v1beta1`, which are alike).

use apimachinery::schema::embedded;
use apimachinery::status::{Cause, Details, Status};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::admission::Attributes;
use crate::admission::matching::{Invocation, kind_of};
use crate::catalog::Gvk;
use crate::registry::read::{at, bool_at, int_at, list_at, str_at};

const GROUP: &str = "admission.k8s.io";

/// What a webhook said.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// Its `status` if it does not allow the write.
    pub denial: Option<Value>,
    /// A JSON patch, decoded from base64; never empty.
    pub patch: Option<Vec<u8>>,
    pub warnings: Vec<String>,
    /// For the audit log.
    pub annotations: Vec<(String, String)>,
}

fn kind(gvk: &Gvk) -> Value {
    json!({ "group": &*gvk.group, "version": &*gvk.version, "kind": &*gvk.kind })
}

fn resource(gvk: &Gvk, plural: &str) -> Value {
    json!({ "group": &*gvk.group, "version": &*gvk.version, "resource": plural })
}

/// The question.
pub fn request(
    uid: &str,
    version: &str,
    attributes: &Attributes<'_>,
    as_what: &Invocation,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Value {
    let mut request = Map::new();
    let mut put = |key: &str, value: Value| request.insert(key.to_owned(), value);
    let asked = attributes.resource;
    let shown = as_what.other.as_deref().unwrap_or(asked);
    put("uid", uid.into());
    put("kind", kind(&as_what.kind));
    put("resource", resource(&shown.gvk, &as_what.plural));
    put("requestKind", kind(&kind_of(attributes, asked)));
    put("requestResource", resource(&asked.gvk, &asked.plural));
    for (key, text) in [
        ("subResource", attributes.subresource),
        ("requestSubResource", attributes.subresource),
        ("name", attributes.name),
        ("namespace", attributes.namespace),
    ] {
        if !text.is_empty() {
            put(key, text.into());
        }
    }
    put("operation", attributes.operation.as_str().into());
    put("userInfo", user(attributes));
    let shown_as_json = |object: &Value| embedded::without_texts(&shown.embedded, object).unwrap_or_else(|| object.clone());
    put("object", new.map_or(Value::Null, shown_as_json));
    put("oldObject", old.map_or(Value::Null, shown_as_json));
    put("dryRun", attributes.dry_run.into());
    put("options", attributes.options.clone());
    json!({ "kind": "AdmissionReview", "apiVersion": format!("{GROUP}/{version}"), "request": request })
}

fn user(attributes: &Attributes<'_>) -> Value {
    let user = attributes.user;
    let mut info = Map::new();
    info.insert("username".to_owned(), user.name.clone().into());
    if !user.uid.is_empty() {
        info.insert("uid".to_owned(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".to_owned(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        let extra: Map<String, Value> = user.extra.iter().map(|(key, values)| (key.clone(), values.clone().into())).collect();
        info.insert("extra".to_owned(), extra.into());
    }
    info.into()
}

/// The answer to the question with this uid. An error says why it is none.
pub fn read(review: &Value, uid: &str, version: &str, mutating: bool) -> Result<Answer, String> {
    let response = at(review, "/response");
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    // The older version never had these checked.
    if version == "v1" {
        let said = str_at(response, "/uid");
        if said != uid {
            return Err(format!("expected response.uid={uid:?}, got {said:?}"));
        }
        let (api_version, kind) = (str_at(review, "/apiVersion"), str_at(review, "/kind"));
        if api_version != "admission.k8s.io/v1" || kind != "AdmissionReview" {
            return Err(format!("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {api_version}, Kind={kind}"));
        }
    }
    let patch = match str_at(response, "/patch") {
        "" => None,
        text => Some(STANDARD.decode(text).map_err(|error| format!("response.patch is not base64: {error}"))?),
    };
    let patch_type = at(response, "/patchType").as_str();
    check_patch(patch.is_some(), patch_type, version, mutating)?;
    let warnings = list_at(response, "/warnings").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let denial = (!bool_at(response, "/allowed")).then(|| at(response, "/status").clone());
    let annotations = at(response, "/auditAnnotations").as_object().into_iter().flatten();
    let annotations = annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    Ok(Answer { denial, patch: patch.filter(|_| mutating), warnings, annotations })
}

fn check_patch(has_patch: bool, patch_type: Option<&str>, version: &str, mutating: bool) -> Result<(), String> {
    if version != "v1" {
        return Ok(());
    }
    let refused = |why: &str| Err(why.to_owned());
    match (mutating, has_patch, patch_type) {
        (false, true, _) => refused("validating webhook may not return response.patch"),
        (false, false, Some(_)) => refused("validating webhook may not return response.patchType"),
        (true, true, None) => refused("webhook returned response.patch but not response.patchType"),
        (true, false, Some(_)) => refused("webhook returned response.patchType but not response.patch"),
        (true, true, Some("")) => refused("webhook returned invalid response.patchType of \"\""),
        (true, true, Some(other)) if other != "JSONPatch" => Err(format!("unsupported patch type {other:?}")),
        _ => Ok(()),
    }
}

/// What a client is told of a webhook that does not allow its write.
pub fn denial(name: &str, result: &Value) -> Status {
    let (message, reason) = (str_at(result, "/message"), str_at(result, "/reason"));
    let denied = format!("admission webhook {name:?} denied the request");
    let message = match (message, reason) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = u16::try_from(int_at(result, "/code")).unwrap_or(0).max(400);
    let text = |value: &Value, pointer: &str| str_at(value, pointer).to_owned();
    let details = at(result, "/details").is_object().then(|| {
        let details = at(result, "/details");
        let cause =
            |cause: &Value| Cause { reason: text(cause, "/reason"), message: text(cause, "/message"), field: text(cause, "/field") };
        Details {
            name: text(details, "/name"),
            group: text(details, "/group"),
            kind: text(details, "/kind"),
            uid: text(details, "/uid"),
            causes: list_at(details, "/causes").iter().map(cause).collect(),
            retry_after_seconds: u32::try_from(int_at(details, "/retryAfterSeconds")).unwrap_or(0),
        }
    });
    Status { code, reason: reason.to_owned().into(), message, details, ..Status::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(response: Value) -> Value {
        json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response })
    }

    #[test]
    fn an_answer_must_fit_the_question() {
        let read_v1 = |response: Value, mutating| read(&review(response), "1", "v1", mutating);
        assert_eq!(read(&json!({}), "1", "v1", true), Err("webhook response was absent".to_owned()));
        assert_eq!(read_v1(json!({ "uid": "2" }), true), Err("expected response.uid=\"1\", got \"2\"".to_owned()));
        let patch = json!({ "uid": "1", "allowed": true, "patch": "W10=", "patchType": "JSONPatch" });
        assert_eq!(read_v1(patch.clone(), true).unwrap().patch.as_deref(), Some(&b"[]"[..]));
        assert_eq!(read_v1(patch, false), Err("validating webhook may not return response.patch".to_owned()));
        let untyped = json!({ "uid": "1", "allowed": true, "patch": "W10=" });
        assert_eq!(read_v1(untyped, true), Err("webhook returned response.patch but not response.patchType".to_owned()));
        assert!(read_v1(json!({ "uid": "1" }), true).unwrap().denial.is_some());
        assert!(read(&json!({ "response": { "allowed": true } }), "1", "v1beta1", true).unwrap().denial.is_none());
    }

    #[test]
    fn a_denial_names_its_webhook() {
        let status = denial("h.x", &json!({ "code": 200, "message": "no pods today", "reason": "Forbidden" }));
        assert_eq!((status.code, &*status.reason), (400, "Forbidden"));
        assert_eq!(status.message, "admission webhook \"h.x\" denied the request: no pods today");
        let own_words = denial("h.x", &json!({ "reason": "Because" }));
        assert_eq!(own_words.message, "admission webhook \"h.x\" denied the request: Because");
        assert_eq!(own_words.reason, "Because");
        assert_eq!(denial("h.x", &Value::Null).message, "admission webhook \"h.x\" denied the request without explanation");
    }
}
