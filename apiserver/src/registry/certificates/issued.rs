//! The status of PodCertificateRequests: a request is issued, denied or failed, once, and what is issued fits what was asked for.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::validate_conditions;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use super::{pem, x509};
use crate::registry::declared::{changed, invalid_without_value};
use crate::registry::read::{at, int_at, list_at, str_at};

const OUTCOMES: [&str; 3] = ["Issued", "Denied", "Failed"];
const MAX_CHAIN_BYTES: usize = 100 * 1024;
/// How far the clocks of signer and server may be apart.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
/// How long before the end, and after the beginning, a refresh may begin.
const REFRESH_MARGIN: SignedDuration = SignedDuration::from_mins(10);
const MIN_LIFETIME: SignedDuration = SignedDuration::from_hours(1);

/// An update of the status of a request.
pub fn validate_status(new: &Value, old: &Value, now: Timestamp) -> ErrorList {
    let conditions = list_at(new, "/status/conditions");
    let path = Path::new("status");
    let mut errors = validate_outcomes(conditions);
    errors.extend(validate_conditions(conditions, &path.child("conditions")));
    if !errors.is_empty() {
        return errors;
    }
    let status_changed = changed(at(new, "/status"), Some(at(old, "/status")));
    let refuse = |detail: &str| vec![invalid_without_value(&path, detail)];
    if OUTCOMES.iter().any(|outcome| has_outcome(old, outcome)) {
        let detail = "immutable after PodCertificateRequest is issued, denied, or failed";
        return if status_changed { refuse(detail) } else { ErrorList::new() };
    }
    if has_outcome(new, "Denied") || has_outcome(new, "Failed") {
        let others = at(new, "/status").as_object().is_some_and(|status| status.keys().any(|field| field != "conditions"));
        let detail = "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
        return if others { refuse(detail) } else { ErrorList::new() };
    }
    if has_outcome(new, "Issued") {
        return validate_issued(new, old, now);
    }
    if status_changed {
        return refuse("status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"");
    }
    ErrorList::new()
}

fn has_outcome(object: &Value, outcome: &str) -> bool {
    list_at(object, "/status/conditions").iter().any(|c| str_at(c, "/type") == outcome && str_at(c, "/status") == "True")
}

/// At most one of the known conditions, and it is true. Upstream writes the index with a dot before it.
fn validate_outcomes(conditions: &[Value]) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut known = 0;
    for (i, condition) in conditions.iter().enumerate() {
        let index = format!("status.conditions.[{i}]");
        let path = Path::new(&index);
        let (kind, kind_path) = (str_at(condition, "/type"), path.child("type"));
        if !OUTCOMES.contains(&kind) {
            errors.push(Error::not_supported(&kind_path, kind, &OUTCOMES));
            continue;
        }
        known += 1;
        if known > 1 {
            let detail = r#"There may be at most one condition with type "Issued", "Denied", or "Failed""#;
            errors.push(Error::invalid(&kind_path, kind, detail));
        }
        let status = str_at(condition, "/status");
        if status != "True" {
            errors.push(Error::not_supported(&path.child("status"), status, &["True"]));
        }
    }
    errors
}

fn validate_issued(new: &Value, old: &Value, now: Timestamp) -> ErrorList {
    let chain = str_at(new, "/status/certificateChain");
    let path = Path::new("status.certificateChain");
    let refuse = |detail: &str| vec![Error::invalid(&path, chain, detail)];
    if chain.len() > MAX_CHAIN_BYTES {
        return vec![Error::too_long(&path, MAX_CHAIN_BYTES)];
    }
    let mut blocks = pem::blocks(chain.as_bytes());
    let Some(leaf) = blocks.next() else { return refuse("issued certificate chain must contain at least one certificate") };
    if leaf.label != "CERTIFICATE" {
        return refuse("issued certificate chain must consist entirely of CERTIFICATE PEM blocks");
    }
    let Ok(([], certificate)) = x509_parser::parse_x509_certificate(&leaf.bytes) else {
        return refuse("leaf certificate does not parse as valid X.509");
    };
    let mut errors = validate_names(&certificate, &path);
    if !is_for_the_requested_key(&certificate, old) {
        errors.extend(refuse("leaf certificate was not issued to the requested public key"));
        return errors;
    }
    errors.extend(validate_times(new, &certificate, now));
    if !errors.is_empty() {
        return errors;
    }
    for block in blocks {
        if block.label != "CERTIFICATE" {
            return refuse("issued certificate chain must consist entirely of CERTFICATE PEM blocks");
        }
        if !matches!(x509_parser::parse_x509_certificate(&block.bytes), Ok(([], _))) {
            return refuse("intermediate certificate does not parse as valid X.509");
        }
    }
    errors
}

fn validate_names(certificate: &X509Certificate<'_>, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let names = certificate.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    for name in names.into_iter().flatten() {
        match name {
            GeneralName::DNSName(name) => {
                let mut refuse = |detail: &str| errors.push(Error::invalid(path, *name, detail));
                if name.is_empty() {
                    refuse("leaf certificate should not contain empty DNSName");
                }
                if name.contains("..") {
                    refuse("leaf certificate's DNSName should not contain '..'");
                }
                if name.starts_with('.') || name.ends_with('.') {
                    refuse("leaf certificate's DNSName should not start or end with '.'");
                }
            }
            GeneralName::RFC822Name(address) if !is_address(address) => {
                errors.push(Error::invalid(path, *address, "leaf certificate should not contain invalid EmailAddress"));
            }
            _ => {}
        }
    }
    errors
}

/// A mailbox without a display name.
fn is_address(text: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c.is_control() || "()<>,;:\\\"".contains(c));
    text.rsplit_once('@').is_some_and(|(local, domain)| part(local) && !local.contains('@') && part(domain))
}

fn is_for_the_requested_key(certificate: &X509Certificate<'_>, old: &Value) -> bool {
    use base64::Engine;
    let der = base64::engine::general_purpose::STANDARD.decode(str_at(old, "/spec/stubPKCS10Request")).unwrap_or_default();
    let Ok(request) = x509::parse_request(&der) else { return false };
    let (wanted, found) = (&request.certification_request_info.subject_pki, &certificate.tbs_certificate.subject_pki);
    wanted.algorithm == found.algorithm && wanted.subject_public_key == found.subject_public_key
}

/// The status's times, which are the certificate's, and the time of the refresh between them.
fn validate_times(new: &Value, certificate: &X509Certificate<'_>, now: Timestamp) -> ErrorList {
    let status = Path::new("status");
    let (before_path, after_path, refresh_path) = (status.child("notBefore"), status.child("notAfter"), status.child("beginRefreshAt"));
    let time = |field: &str| str_at(new, field).parse::<Timestamp>().ok();
    let (before, after, refresh) = match (time("/status/notBefore"), time("/status/notAfter"), time("/status/beginRefreshAt")) {
        (Some(before), Some(after), Some(refresh)) => (before, after, refresh),
        (before, after, refresh) => {
            let consistent = "must be present and consistent with the issued certificate";
            let range = "must be present and in the range [notbefore+10min, notafter-10min]";
            let fields = [(before, &before_path, consistent), (after, &after_path, consistent), (refresh, &refresh_path, range)];
            return fields.into_iter().filter(|(time, ..)| time.is_none()).map(|(_, path, detail)| Error::required(path, detail)).collect();
        }
    };
    let refuse = |path: &Path<'_>, field: &str, detail: &str| vec![Error::invalid(path, str_at(new, field), detail)];
    let validity = certificate.validity();
    if Some(before) != timestamp(validity.not_before) {
        return refuse(&before_path, "/status/notBefore", "must be set to the NotBefore time encoded in the leaf certificate");
    }
    if before.duration_since(now).abs() >= SKEW {
        return refuse(&before_path, "/status/notBefore", "must be set to within 5 minutes of kube-apiserver's current time");
    }
    if Some(after) != timestamp(validity.not_after) {
        return refuse(&after_path, "/status/notAfter", "must be set to the NotAfter time encoded in the leaf certificate");
    }
    let chain_path = status.child("certificateChain");
    let lifetime = after.duration_since(before);
    let shown = json!(i64::try_from(lifetime.as_nanos()).unwrap_or(i64::MAX));
    if lifetime < MIN_LIFETIME {
        return vec![Error::invalid(&chain_path, shown, "leaf certificate lifetime must be >= 1 hour")];
    }
    let max_seconds = int_at(new, "/spec/maxExpirationSeconds");
    if lifetime > SignedDuration::from_secs(max_seconds) {
        let detail = format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({max_seconds})");
        return vec![Error::invalid(&chain_path, shown, detail)];
    }
    if refresh.duration_since(before) < REFRESH_MARGIN {
        return refuse(&refresh_path, "/status/beginRefreshAt", "must be at least 10 minutes after status.notBefore");
    }
    if after.duration_since(refresh) < REFRESH_MARGIN {
        return refuse(&refresh_path, "/status/beginRefreshAt", "must be at least 10 minutes before status.notAfter");
    }
    ErrorList::new()
}

fn timestamp(time: ASN1Time) -> Option<Timestamp> {
    Timestamp::from_second(time.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::registry::certificates::x509::tests::request;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn condition(kind: &str) -> Value {
        json!({"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    fn pending() -> (KeyPair, Value) {
        let (key, der) = request();
        (key, json!({"spec": {"stubPKCS10Request": STANDARD.encode(der), "maxExpirationSeconds": 86400}, "status": {}}))
    }

    /// An issued request whose certificate lasts from 2026-01-01T00:00:00Z to 2026-01-01T02:00:00Z.
    fn issued(key: &KeyPair, old: &Value) -> Value {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 2);
        let chain = params.self_signed(key).unwrap().pem();
        let mut new = old.clone();
        new["status"] = json!({"conditions": [condition("Issued")], "certificateChain": chain, "notBefore": "2026-01-01T00:00:00Z",
            "notAfter": "2026-01-02T00:00:00Z", "beginRefreshAt": "2026-01-01T01:00:00Z"});
        new
    }

    #[test]
    fn what_is_issued_fits_what_was_asked_for() {
        let (key, old) = pending();
        let new = issued(&key, &old);
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        assert!(validate_status(&new, &old, now).is_empty(), "{:?}", validate_status(&new, &old, now));
        assert_eq!(
            texts(validate_status(&new, &old, "2026-01-01T00:05:00Z".parse().unwrap())),
            [
                r#"status.notBefore: Invalid value: "2026-01-01T00:00:00Z": must be set to within 5 minutes of kube-apiserver's current time"#
            ]
        );
        let (_, other) = pending();
        let errors = texts(validate_status(&new, &other, now));
        assert!(errors[0].ends_with("leaf certificate was not issued to the requested public key"), "{errors:?}");
        let mut late = new.clone();
        late["status"]["beginRefreshAt"] = "2026-01-01T23:55:00Z".into();
        assert!(texts(validate_status(&late, &old, now))[0].ends_with("must be at least 10 minutes before status.notAfter"));
        let mut short = new;
        short["spec"]["maxExpirationSeconds"] = 3600.into();
        assert_eq!(
            texts(validate_status(&short, &old, now)),
            [
                "status.certificateChain: Invalid value: 86400000000000: leaf certificate lifetime must be <= spec.maxExpirationSeconds (3600)"
            ]
        );
    }

    #[test]
    fn an_outcome_is_final() {
        let (key, old) = pending();
        let done = issued(&key, &old);
        let mut changed = done.clone();
        changed["status"]["certificateChain"] = "".into();
        assert_eq!(
            texts(validate_status(&changed, &done, Timestamp::UNIX_EPOCH)),
            ["status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed"]
        );
        let mut two = old.clone();
        two["status"] = json!({"conditions": [condition("Issued"), condition("Denied"), condition("Other")]});
        assert_eq!(
            texts(validate_status(&two, &old, Timestamp::UNIX_EPOCH)),
            [
                r#"status.conditions.[1].type: Invalid value: "Denied": There may be at most one condition with type "Issued", "Denied", or "Failed""#,
                r#"status.conditions.[2].type: Unsupported value: "Other": supported values: "Issued", "Denied", "Failed""#,
            ]
        );
    }
}
