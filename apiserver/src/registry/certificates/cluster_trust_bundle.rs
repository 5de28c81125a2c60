//! ClusterTrustBundles: certificates that everyone may trust, those of one signer or of none.

use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::go_print;
use apimachinery::validation::{FIELD_IMMUTABLE, name_is_dns_subdomain};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::pem;
use super::signer_name::validate_signer_name;
use crate::registry::printer::{self, text};
use crate::registry::read::{at, str_at};
use crate::registry::{ALL_VERBS, Column, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "clustertrustbundles",
    singular: "clustertrustbundle",
    kind: "ClusterTrustBundle",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.certificates.v1.ClusterTrustBundle",
    // How a bundle may be named depends on its signer, so its own rules say so.
    name: |_, _| Vec::new(),
    strategy: &Main,
    subresources: &[],
    selectable: &[("spec.signerName", |bundle| str_at(bundle, "/spec/signerName").into())],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &[],
};

const COLUMNS: &[Column] =
    &[printer::NAME, text("SignerName", Description::Field("io.k8s.api.certificates.v1.ClusterTrustBundleSpec", "signerName"))];

fn row(object: &Value, _now: Timestamp) -> Vec<Value> {
    let signer = str_at(object, "/spec/signerName");
    vec![printer::name(object), if signer.is_empty() { "<none>" } else { signer }.into()]
}

const MAX_BYTES: usize = 1 << 20;
/// Stands for the certificates, which would fill the message.
const OMITTED: &str = "<value omitted>";

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let mut errors = validate_names(new);
        errors.extend(validate_trust_bundle(str_at(new, "/spec/trustBundle")));
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = validate_names(new);
        let bundle = str_at(new, "/spec/trustBundle");
        if bundle != str_at(old, "/spec/trustBundle") {
            errors.extend(validate_trust_bundle(bundle));
        }
        let signer = str_at(new, "/spec/signerName");
        if signer != str_at(old, "/spec/signerName") {
            errors.push(Error::invalid(&Path::new("spec.signerName"), signer, FIELD_IMMUTABLE));
        }
        errors
    }
}

/// The bundle's own name and its signer's.
fn validate_names(object: &Value) -> ErrorList {
    let signer = str_at(object, "/spec/signerName");
    let metadata = Path::new("metadata");
    let mut errors = ErrorList::new();
    for (field, prefix) in [("generateName", true), ("name", false)] {
        let name = at(object, "/metadata").get(field).and_then(Value::as_str).unwrap_or("");
        if !name.is_empty() {
            let problems = problems_of_name(name, signer, prefix);
            errors.extend(problems.into_iter().map(|message| Error::invalid(&metadata.child(field), name, message)));
        }
    }
    if !signer.is_empty() {
        errors.extend(validate_signer_name(signer, &Path::new("spec.signerName")));
    }
    errors
}

/// A bundle of a signer is named after it.
fn problems_of_name(name: &str, signer: &str, prefix: bool) -> Vec<String> {
    if signer.is_empty() {
        if name.contains(':') {
            return vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()];
        }
        return name_is_dns_subdomain(name, prefix);
    }
    let required = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&required) {
        Some(rest) => name_is_dns_subdomain(rest, prefix),
        None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {required}")],
    }
}

fn validate_trust_bundle(bundle: &str) -> ErrorList {
    let path = Path::new("spec.trustBundle");
    if bundle.len() > MAX_BYTES {
        return vec![Error::too_long(&path, MAX_BYTES)];
    }
    let invalid = |detail: String| Error::invalid(&path, OMITTED, detail);
    let mut errors = ErrorList::new();
    let mut places: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    for (i, block) in pem::blocks(bundle.as_bytes()).enumerate() {
        match problem_of_anchor(&block) {
            Some(problem) => errors.push(invalid(format!("entry {i} {problem}"))),
            None => places.entry(block.bytes).or_default().push(i),
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    if places.is_empty() {
        errors.push(invalid("at least one trust anchor must be provided".to_owned()));
    }
    let mut repeated: Vec<Vec<usize>> = places.into_values().filter(|indices| indices.len() > 1).collect();
    repeated.sort_unstable();
    for indices in repeated {
        errors.push(invalid(format!("duplicate trust anchor (indices {})", go_print::plain(&json!(indices)))));
    }
    errors
}

fn problem_of_anchor(block: &pem::Block) -> Option<String> {
    if block.label != "CERTIFICATE" {
        return Some(format!("has bad block type: {}", block.label));
    }
    if block.has_headers {
        return Some("has PEM block headers".to_owned());
    }
    let Ok(([], certificate)) = x509_parser::parse_x509_certificate(&block.bytes) else {
        return Some("does not parse as X.509".to_owned());
    };
    if certificate.is_ca() { None } else { Some("does not have the CA bit set".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::certificates::x509::tests::certificate;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bundle_holds_authorities_once() {
        let anchor = certificate(true).pem();
        assert!(validate_trust_bundle(&anchor).is_empty());
        assert_eq!(
            texts(validate_trust_bundle("")),
            [r#"spec.trustBundle: Invalid value: "<value omitted>": at least one trust anchor must be provided"#]
        );
        assert_eq!(
            texts(validate_trust_bundle(&format!("{anchor}{anchor}"))),
            [r#"spec.trustBundle: Invalid value: "<value omitted>": duplicate trust anchor (indices [0 1])"#]
        );
        let leaf = certificate(false).pem();
        assert_eq!(
            texts(validate_trust_bundle(&format!("{anchor}{leaf}-----BEGIN X-----\nYQ==\n-----END X-----\n"))),
            [
                r#"spec.trustBundle: Invalid value: "<value omitted>": entry 1 does not have the CA bit set"#,
                r#"spec.trustBundle: Invalid value: "<value omitted>": entry 2 has bad block type: X"#,
            ]
        );
    }

    #[test]
    fn a_bundle_is_named_after_its_signer() {
        assert!(problems_of_name("a.com:s:x", "a.com/s", false).is_empty());
        assert_eq!(
            problems_of_name("x", "a.com/s", false),
            ["ClusterTrustBundle for signerName a.com/s must be named with prefix a.com:s:"]
        );
        assert_eq!(problems_of_name("a:x", "", false), ["ClusterTrustBundle without signer name must not have \":\" in its name"]);
    }
}
