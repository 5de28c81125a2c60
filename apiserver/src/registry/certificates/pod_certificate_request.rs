//! PodCertificateRequests: a kubelet asks for a certificate for a pod.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{FIELD_IMMUTABLE, is_domain_prefixed_key, name_is_dns_subdomain};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use serde_json::Value;

use super::issued;
use super::signer_name::{is_kubernetes_signer, validate_signer_name};
use super::x509::{self, Key};
use crate::registry::declared::{changed, invalid_without_value};
use crate::registry::go_struct::{Form, Shape, show};
use crate::registry::printer::{self, labels_text, text};
use crate::registry::read::{at, list_at, str_at};
use crate::registry::strategy::{drop_field, keep_all_but_status, keep_metadata, keep_status};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "podcertificaterequests",
    singular: "podcertificaterequest",
    kind: "PodCertificateRequest",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.certificates.v1.PodCertificateRequest",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: super::GROUP,
        version: "v1",
        kind: "PodCertificateRequest",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["metadata", "spec"] },
    }],
    selectable: &[
        ("spec.signerName", |request| str_at(request, "/spec/signerName").into()),
        ("spec.podName", |request| str_at(request, "/spec/podName").into()),
        ("spec.nodeName", |request| str_at(request, "/spec/nodeName").into()),
    ],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const SPEC: &str = "io.k8s.api.certificates.v1.PodCertificateRequestSpec";

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("PodName", Description::Field(SPEC, "podName")),
    text("ServiceAccountName", Description::Field(SPEC, "serviceAccountName")),
    text("NodeName", Description::Field(SPEC, "nodeName")),
    text("SignerName", Description::Field(SPEC, "signerName")),
    text("State", Description::Text("Is the request Pending, Issued, Denied, or Failed?")),
    text("UnverifiedUserAnnotations", Description::Field(SPEC, "unverifiedUserAnnotations")),
];

fn row(object: &Value, _now: Timestamp) -> Vec<Value> {
    let mut states = list_at(object, "/status/conditions").iter().map(|condition| str_at(condition, "/type"));
    let state = states.rfind(|kind| matches!(*kind, "Issued" | "Denied" | "Failed")).unwrap_or("Pending");
    let field = |pointer: &str| Value::from(str_at(object, pointer));
    vec![
        printer::name(object),
        field("/spec/podName"),
        field("/spec/serviceAccountName"),
        field("/spec/nodeName"),
        field("/spec/signerName"),
        state.into(),
        labels_text(at(object, "/spec/unverifiedUserAnnotations")),
    ]
}

const MAX_UID_BYTES: usize = 128;
/// Keys and values together, as for the annotations of objects.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;
const MAX_REQUEST_BYTES: usize = 10 * 1024;
const MIN_SECONDS: i32 = 60 * 60;
const MAX_SECONDS: i32 = 91 * 24 * 60 * 60;
const MAX_KUBERNETES_SECONDS: i32 = 24 * 60 * 60;
const RSA_BITS: [usize; 2] = [3072, 4096];

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(&view(new))
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if !changed(at(new, "/spec"), Some(at(old, "/spec"))) {
            return ErrorList::new();
        }
        vec![Error::invalid(&Path::new("spec"), show(at(new, "/spec"), &SPEC_SHAPE), FIELD_IMMUTABLE)]
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        keep_metadata(new, old);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        issued::validate_status(new, old, cx.now)
    }
}

fn validate(request: &PodCertificateRequest) -> ErrorList {
    let (spec, path) = (&request.spec, Path::new("spec"));
    let mut errors = validate_signer_name(&spec.signer_name, &path.child("signerName"));
    if let Some(annotations) = &spec.unverified_user_annotations {
        let path = path.child("unverifiedUserAnnotations");
        // Case does not matter, so keys are checked in lower case.
        errors.extend(annotations.keys().flat_map(|key| is_domain_prefixed_key(&path, &key.to_lowercase())));
        if annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > MAX_ANNOTATION_BYTES {
            errors.push(Error::too_long(&path, MAX_ANNOTATION_BYTES));
        }
    }
    let references = [
        ("podName", &spec.pod_name, "podUID", &spec.pod_uid),
        ("serviceAccountName", &spec.service_account_name, "serviceAccountUID", &spec.service_account_uid),
        ("nodeName", &spec.node_name, "nodeUID", &spec.node_uid),
    ];
    for (name_field, name, uid_field, uid) in references {
        let (name_path, uid_path) = (path.child(name_field), path.child(uid_field));
        let problems = name_is_dns_subdomain(name, false);
        errors.extend(problems.into_iter().map(|message| Error::invalid(&name_path, name.as_str(), message)));
        if uid.is_empty() {
            errors.push(Error::invalid(&uid_path, "", "must not be empty"));
        }
        if uid.len() > MAX_UID_BYTES {
            errors.push(Error::too_long(&uid_path, MAX_UID_BYTES));
        }
    }
    let expiration_path = path.child("maxExpirationSeconds");
    let Some(seconds) = spec.max_expiration_seconds else {
        errors.push(Error::required(&expiration_path, "must be set"));
        return errors;
    };
    let max = if is_kubernetes_signer(&spec.signer_name) { MAX_KUBERNETES_SECONDS } else { MAX_SECONDS };
    if !(MIN_SECONDS..=max).contains(&seconds) {
        errors.push(Error::invalid(&expiration_path, seconds, format!("must be in the range [{MIN_SECONDS}, {max}]")));
    }
    if spec.stub_pkc_s10_request.0.is_empty() {
        let detail = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
        errors.push(invalid_without_value(&path, detail));
    } else {
        errors.extend(validate_stub(&spec.stub_pkc_s10_request.0, &path.child("stubPKCS10Request")));
    }
    errors
}

/// The request inside names a key of a kind that is strong enough, and is signed by it. What else it says is ignored.
fn validate_stub(der: &[u8], path: &Path<'_>) -> Option<Error> {
    if der.len() > MAX_REQUEST_BYTES {
        return Some(Error::too_long(path, MAX_REQUEST_BYTES));
    }
    let Ok(request) = x509::parse_request(der) else {
        return Some(invalid_without_value(path, "must be a valid PKCS#10 CSR"));
    };
    match x509::key(&request.certification_request_info.subject_pki) {
        Key::Ec(curve) if !matches!(curve, "P-256" | "P-384" | "P-521") => {
            let detail = "elliptic public keys must use curve P256, P384, or P521";
            Some(Error::invalid(path, format!("curve {curve}"), detail))
        }
        Key::Rsa(bits) if !RSA_BITS.contains(&bits) => {
            Some(Error::invalid(path, format!("{bits}-bit modulus"), "RSA keys must have modulus size 3072 or 4096"))
        }
        Key::Unknown => Some(invalid_without_value(path, "unknown public key type; supported types are Ed25519, ECDSA, and RSA")),
        Key::Ed25519 | Key::Ec(_) | Key::Rsa(_) => {
            x509::check_signature(&request).is_err().then(|| invalid_without_value(path, "invalid signature"))
        }
    }
}

static SPEC_SHAPE: Shape = Shape(&[
    ("SignerName", "signerName", Form::Text),
    ("PodName", "podName", Form::Text),
    ("PodUID", "podUID", Form::Text),
    ("ServiceAccountName", "serviceAccountName", Form::Text),
    ("ServiceAccountUID", "serviceAccountUID", Form::Text),
    ("NodeName", "nodeName", Form::Text),
    ("NodeUID", "nodeUID", Form::Text),
    ("MaxExpirationSeconds", "maxExpirationSeconds", Form::Plain),
    ("PKIXPublicKey", "pkixPublicKey", Form::Plain),
    ("ProofOfPossession", "proofOfPossession", Form::Plain),
    ("StubPKCS10Request", "stubPKCS10Request", Form::Plain),
    ("UnverifiedUserAnnotations", "unverifiedUserAnnotations", Form::Plain),
]);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A request with an Ed25519 key, as kubelets make them.
    const STUB: &str = "MIGNMEECAQAwDjEMMAoGA1UEAxMDZm9vMCowBQYDK2VwAyEA33notc99UJwFQmOojmMx5+OHh3eSxnCXPD8y4+3fCOigADAFBgMrZXADQQB201a14Mlk73XPyT7Ff/Ln0SIDL/YO4MIqPDYnpO1pA2s3vyo0H8qkvxo9WMNLeY5MZa2uG3gqZzXjjyWV38QA";

    fn object() -> Value {
        json!({"spec": {"signerName": "example.com/signer", "podName": "pod-1", "podUID": "pod-uid-1", "serviceAccountName": "sa-1",
            "serviceAccountUID": "sa-uid-1", "nodeName": "node-1", "nodeUID": "node-uid-1", "maxExpirationSeconds": 86400, "stubPKCS10Request": STUB}})
    }

    fn check(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = object();
        change(&mut object["spec"]);
        validate(&view(&object)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_names_its_pod_and_its_key() {
        assert!(check(|_| {}).is_empty());
        assert_eq!(
            check(|spec| {
                spec["podUID"] = "".into();
                spec["maxExpirationSeconds"] = 1.into();
                spec["stubPKCS10Request"] = "".into();
            }),
            [
                r#"spec.podUID: Invalid value: "": must not be empty"#,
                "spec.maxExpirationSeconds: Invalid value: 1: must be in the range [3600, 7862400]",
                "spec: Invalid value: exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set",
            ]
        );
        assert_eq!(
            check(|spec| spec["stubPKCS10Request"] = "YWJj".into()),
            ["spec.stubPKCS10Request: Invalid value: must be a valid PKCS#10 CSR"]
        );
        assert_eq!(
            check(|spec| spec["stubPKCS10Request"] = STUB.replace("WV38QA", "WV38QB").into()),
            ["spec.stubPKCS10Request: Invalid value: invalid signature"]
        );
    }

    #[test]
    fn certificates_of_the_projects_signers_are_short_lived() {
        let errors = check(|spec| {
            spec["signerName"] = "kubernetes.io/x".into();
            spec["maxExpirationSeconds"] = 86401.into();
        });
        assert_eq!(errors, ["spec.maxExpirationSeconds: Invalid value: 86401: must be in the range [3600, 86400]"]);
    }
}
