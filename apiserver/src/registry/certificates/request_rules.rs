//! The rules of CertificateSigningRequests, and which of them an older object may break.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::view::view;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use serde_json::Value;

use super::signer_name::validate_signer_name;
use super::{pem, x509};
use crate::registry::declared::{Findings, changed};
use crate::registry::diff;
use crate::registry::go_struct::{Form, Shape, show_list};
use crate::registry::read::{at, list_at, str_at};

/// Which endpoint is written to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Main,
    /// May issue the certificate.
    Status,
    /// May approve or deny.
    Approval,
}

const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const MIN_SECONDS: i32 = 600;
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

/// Sorted, as messages list them.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// A request as a whole; what `old` already broke, `new` may.
pub fn validate(new: &Value, old: Option<&Value>) -> Findings {
    let request: CertificateSigningRequest = view(new);
    let before: Option<CertificateSigningRequest> = old.map(view);
    let mut findings = Findings::default();
    findings.written.extend(validate_spec(new, &request, before.as_ref()));
    validate_conditions(&request, before.as_ref(), &mut findings);

    let certificate = certificate_of(&request);
    let tolerated =
        before.as_ref().is_some_and(|old| certificate_of(old) == certificate || check_certificate(certificate_of(old)).is_err());
    if !tolerated && let Err(problem) = check_certificate(certificate) {
        findings.written.push(Error::invalid(&Path::new("status.certificate"), "<certificate data>", problem));
    }
    if let Some(union) = declared_union(new, old) {
        findings.declared.push(union);
    }
    findings
}

fn certificate_of(request: &CertificateSigningRequest) -> &[u8] {
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    certificate.map_or(&[], |bytes| bytes.0.as_slice())
}

fn conditions_of(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn usages_of(request: &CertificateSigningRequest) -> &[String] {
    request.spec.usages.as_deref().unwrap_or_default()
}

fn validate_spec(raw: &Value, request: &CertificateSigningRequest, old: Option<&CertificateSigningRequest>) -> ErrorList {
    let (spec, path) = (&request.spec, Path::new("spec"));
    let usages_path = path.child("usages");
    let mut errors = ErrorList::new();
    if let Err(problem) = check_request(&spec.request.0) {
        errors.push(Error::invalid(&path.child("request"), at(raw, "/spec/request").clone(), problem));
    }
    let usages = usages_of(request);
    if usages.is_empty() {
        errors.push(Error::required(&usages_path, ""));
    }
    let is_unknown = |usage: &String| !USAGES.contains(&usage.as_str());
    if !old.is_some_and(|old| usages_of(old).iter().any(is_unknown)) {
        for (i, usage) in usages.iter().enumerate().filter(|(_, usage)| is_unknown(usage)) {
            errors.push(Error::not_supported(&usages_path.index(i), usage.as_str(), &USAGES));
        }
    }
    let repeated = |usages: &[String]| (0..usages.len()).filter(|i| usages[..*i].contains(&usages[*i])).collect::<Vec<_>>();
    if old.is_none_or(|old| repeated(usages_of(old)).is_empty()) {
        errors.extend(repeated(usages).into_iter().map(|i| Error::duplicate(&usages_path.index(i), usages[i].as_str())));
    }
    let (signer, signer_path) = (spec.signer_name.as_str(), path.child("signerName"));
    if signer == LEGACY_SIGNER && old.is_none_or(|old| old.spec.signer_name != LEGACY_SIGNER) {
        errors.push(Error::invalid(&signer_path, signer, "the legacy signerName is not allowed via this API version"));
    } else {
        errors.extend(validate_signer_name(signer, &signer_path));
    }
    if let Some(seconds) = spec.expiration_seconds.filter(|seconds| *seconds < MIN_SECONDS) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(Error::invalid(&path.child("expirationSeconds"), seconds, detail));
    }
    errors
}

/// One block that is a request, signed by the key it is about.
fn check_request(text: &[u8]) -> Result<(), String> {
    let block = pem::blocks(text).next().filter(|block| block.label == "CERTIFICATE REQUEST");
    let block = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    let request = x509::parse_request(&block.bytes)?;
    Ok(x509::check_signature(&request)?)
}

/// Certificates alone, at least one, unless there is nothing at all.
fn check_certificate(text: &[u8]) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let mut count = 0;
    for block in pem::blocks(text) {
        if block.label != "CERTIFICATE" {
            let found = apimachinery::field::quote(&block.label);
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {found}"));
        }
        if block.has_headers {
            return Err("no PEM block headers are permitted".to_owned());
        }
        if block.bytes.is_empty() {
            return Err("found CERTIFICATE PEM block containing 0 certificates".to_owned());
        }
        x509::check_certificates(&block.bytes)?;
        count += 1;
    }
    if count == 0 { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}

fn repeats_a_type(conditions: &[CertificateSigningRequestCondition]) -> bool {
    (0..conditions.len()).any(|i| conditions[..i].iter().any(|earlier| earlier.type_ == conditions[i].type_))
}

fn validate_conditions(request: &CertificateSigningRequest, old: Option<&CertificateSigningRequest>, findings: &mut Findings) {
    let conditions = conditions_of(request);
    let may_be_empty = old.is_some_and(|old| conditions_of(old).iter().any(|c| c.type_.is_empty()));
    let may_repeat = old.is_some_and(|old| repeats_a_type(conditions_of(old)));
    let path = Path::new("status.conditions");
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        let (kind, kind_path) = (condition.type_.as_str(), path.child("type"));
        if kind.is_empty() && !may_be_empty {
            findings.written.push(Error::required(&kind_path, ""));
        }
        let supported: &[&str] = if matches!(kind, "Approved" | "Denied" | "Failed") { &["True"] } else { &STATUSES };
        let (status, status_path) = (condition.status.as_str(), path.child("status"));
        if status.is_empty() {
            findings.written.push(Error::required(&status_path, ""));
        } else if !supported.contains(&status) {
            findings.written.push(Error::not_supported(&status_path, status, supported));
        }
        if !may_repeat && conditions[..i].iter().any(|earlier| earlier.type_ == kind) {
            findings.written.push(Error::duplicate(&kind_path, kind));
        }
    }
}

/// At most one decision stands; a decision that stood as it does before is not looked at again.
fn declared_union(new: &Value, old: Option<&Value>) -> Option<Error> {
    let has = |object: &Value, kind: &str| list_at(object, "/status/conditions").iter().any(|c| str_at(c, "/type") == kind);
    let decisions = |object: &Value| (has(object, "Approved"), has(object, "Denied"));
    if decisions(new) != (true, true) || old.is_some_and(|old| decisions(old) == (true, true)) {
        return None;
    }
    if !changed(at(new, "/status/conditions"), old.map(|old| at(old, "/status/conditions"))) {
        return None;
    }
    let member = |kind: &str| format!("conditions[{{\"type\": \"{kind}\"}}]");
    let (approved, denied) = (member("Approved"), member("Denied"));
    let detail = format!("must specify at most one of: `{approved}`, `{denied}`");
    Some(Error::invalid(&Path::new("status.conditions"), format!("{{{approved}, {denied}}}"), detail))
}

/// An update through one of the endpoints.
pub fn validate_change(new: &Value, old: &Value, endpoint: Endpoint) -> ErrorList {
    let mut findings = validate(new, Some(old));
    let errors = &mut findings.written;
    let path = Path::new("status.conditions");
    let of_kind = |object: &Value, kind: &str| {
        let found = list_at(object, "/status/conditions").iter().filter(|c| str_at(c, "/type") == kind);
        found.cloned().collect::<Vec<Value>>()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        if of_kind(new, kind).len() < of_kind(old, kind).len() {
            errors.push(Error::forbidden(&path, format!("updates may not remove a condition of type {kind:?}")));
        }
    }
    if endpoint != Endpoint::Approval {
        for kind in ["Approved", "Denied"] {
            let (before, after) = (of_kind(old, kind), of_kind(new, kind));
            if after.len() > before.len() {
                errors.push(Error::forbidden(&path, format!("updates may not add a condition of type {kind:?}")));
            } else if after.len() == before.len() && before != after {
                let difference = diff::of_values(&show_list(&before.into(), &CONDITION), &show_list(&after.into(), &CONDITION));
                errors.push(Error::forbidden(&path, format!("updates may not modify a condition of type {kind:?}\n{difference}")));
            }
        }
    }
    let certificate_path = Path::new("status.certificate");
    if at(new, "/status/certificate") != at(old, "/status/certificate") {
        if endpoint != Endpoint::Status {
            errors.push(Error::forbidden(&certificate_path, "updates may not set certificate content"));
        } else if !str_at(old, "/status/certificate").is_empty() {
            errors.push(Error::forbidden(&certificate_path, "updates may not modify existing certificate content"));
        }
    }
    findings.into_errors()
}

static CONDITION: Shape = Shape(&[
    ("Type", "type", Form::Text),
    ("Status", "status", Form::Text),
    ("Reason", "reason", Form::Text),
    ("Message", "message", Form::Text),
    ("LastUpdateTime", "lastUpdateTime", Form::Plain),
    ("LastTransitionTime", "lastTransitionTime", Form::Plain),
]);

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;
    use crate::registry::certificates::x509::tests::{certificate, request};

    fn encoded(label: &str, der: &[u8]) -> String {
        STANDARD.encode(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der)))
    }

    fn object() -> Value {
        json!({"spec": {"request": encoded("CERTIFICATE REQUEST", &request().1), "usages": ["client auth"], "signerName": "a.com/s"}})
    }

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_is_whole() {
        assert!(validate(&object(), None).into_errors().is_empty());
        let mut bad = object();
        bad["spec"] = json!({"request": "YWJj", "usages": ["fly", "fly"], "signerName": LEGACY_SIGNER, "expirationSeconds": 599});
        let errors = texts(validate(&bad, None).into_errors());
        assert_eq!(errors[0], r#"spec.request: Invalid value: "YWJj": PEM block type must be CERTIFICATE REQUEST"#);
        assert!(errors[1].starts_with(r#"spec.usages[0]: Unsupported value: "fly": supported values: "any", "cert sign", "#));
        assert_eq!(errors[3], r#"spec.usages[1]: Duplicate value: "fly""#);
        assert_eq!(
            errors[4],
            r#"spec.signerName: Invalid value: "kubernetes.io/legacy-unknown": the legacy signerName is not allowed via this API version"#
        );
        assert_eq!(errors.len(), 6);
    }

    #[test]
    fn only_the_approver_decides_and_only_the_signer_issues() {
        let old = object();
        let mut new = object();
        new["spec"] = old["spec"].clone();
        new["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": encoded("CERTIFICATE", certificate(false).der())});
        assert_eq!(
            texts(validate_change(&new, &old, Endpoint::Main)),
            [
                r#"status.conditions: Forbidden: updates may not add a condition of type "Approved""#,
                "status.certificate: Forbidden: updates may not set certificate content"
            ]
        );
        assert_eq!(texts(validate_change(&new, &old, Endpoint::Status)).len(), 1);
        assert_eq!(
            texts(validate_change(&old, &new, Endpoint::Approval)),
            [
                r#"status.conditions: Forbidden: updates may not remove a condition of type "Approved""#,
                "status.certificate: Forbidden: updates may not set certificate content"
            ]
        );
    }

    #[test]
    fn a_decision_stands_alone_and_is_true() {
        let mut both = object();
        both["status"] = json!({"conditions": [{"type": "Approved", "status": "False"}, {"type": "Denied", "status": "True"}]});
        let errors = texts(validate(&both, None).into_errors());
        assert_eq!(errors[0], r#"status.conditions[0].status: Unsupported value: "False": supported values: "True""#);
        assert!(errors[1].contains("must specify at most one of: "), "{errors:?}");
        assert!(validate(&both, Some(&both)).declared.is_empty());
    }

    #[test]
    fn a_certificate_is_nothing_else() {
        assert_eq!(check_certificate(b"x"), Err("must contain at least one CERTIFICATE PEM block".to_owned()));
        let key = STANDARD.decode(encoded("KEY", b"x")).unwrap();
        assert_eq!(check_certificate(&key), Err("only CERTIFICATE PEM blocks are allowed, found \"KEY\"".to_owned()));
    }
}
