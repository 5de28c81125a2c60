//! The rules that tie a service's addresses, its address families and its family policy together.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{Ip, is_valid_ip_for_legacy_field};
use k8s_openapi::api::core::v1::ServiceSpec;
use serde_json::{Value, json};

use super::fields::NONE;

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];

fn list(of: &Option<Vec<String>>) -> &[String] {
    of.as_deref().unwrap_or_default()
}

/// A list as it is shown: null where there is none.
pub(super) fn shown(of: &Option<Vec<String>>) -> Value {
    json!(of.as_ref().filter(|list| !list.is_empty()))
}

pub(super) fn is_external_name(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("ExternalName")
}

/// Without an address of its own.
pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(list(&spec.cluster_ips), [only] if only == NONE)
}

fn is_v6(address: &str) -> bool {
    Ip::parse_sloppy(address).is_some_and(Ip::is_v6)
}

/// The addresses are well formed, of the families that are said, and at most one of each.
pub(super) fn validate(spec: &ServiceSpec, old: Option<&ServiceSpec>) -> ErrorList {
    let mut errors = ErrorList::new();
    if is_external_name(spec) {
        return errors;
    }
    let path = Path::new("spec");
    let place = path.child("clusterIPs");
    let ips = list(&spec.cluster_ips);
    let refuse = |why: &str| Error::invalid(&place, shown(&spec.cluster_ips), why);
    match (spec.cluster_ip.as_deref().unwrap_or(""), ips.first()) {
        ("", None) => {}
        ("", Some(_)) => errors.push(refuse("must be empty when `clusterIP` is not specified")),
        (_, None) => errors.push(Error::required(&place, "")),
        (one, Some(first)) if one != first => errors.push(refuse("first value must match `clusterIP`")),
        _ => {}
    }
    errors.extend(validate_families(spec, &path));
    let mut bad_ips = false;
    let old_ips: Vec<&str> = old.iter().flat_map(|old| list(&old.cluster_ips)).map(String::as_str).collect();
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == NONE {
            if ips.len() > 1 {
                bad_ips = true;
                errors.push(refuse("'None' must be the first and only value"));
            }
            continue;
        }
        let found = is_valid_ip_for_legacy_field(&place.index(i), ip, true, &old_ips);
        bad_ips |= !found.is_empty();
        errors.extend(found);
    }
    if ips.len() > 2 {
        errors.push(refuse("may only hold up to 2 values"));
    }
    if !bad_ips {
        errors.extend(validate_agreement(spec, &place));
    }
    errors
}

fn validate_families(spec: &ServiceSpec, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let place = path.child("ipFamilies");
    let families = list(&spec.ip_families);
    for (i, family) in families.iter().enumerate() {
        if !FAMILIES.contains(&family.as_str()) {
            errors.push(Error::not_supported(&place.index(i), family.as_str(), &FAMILIES));
        }
        if families[..i].contains(family) {
            errors.push(Error::duplicate(&place.index(i), family.as_str()));
        }
    }
    if let Some(policy) = spec.ip_family_policy.as_deref().filter(|policy| !POLICIES.contains(policy)) {
        errors.push(Error::not_supported(&path.child("ipFamilyPolicy"), policy, &POLICIES));
    }
    errors
}

/// Well-formed addresses fit each other and the families.
fn validate_agreement(spec: &ServiceSpec, place: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let ips = list(&spec.cluster_ips);
    let sixes = ips.iter().filter(|ip| is_v6(ip)).count();
    // An address of the old service passes unread.
    let unread = ips.iter().position(|ip| Ip::parse_sloppy(ip).is_none()).filter(|_| ips.len() > 1);
    if let Some(i) = unread {
        errors.push(Error::internal(place, format!("failed to check for dual stack with error:invalid IP[{i}]: {}", ips[i])));
    }
    if ips.len() > 1 && (unread.is_some() || sixes == 0 || sixes == ips.len()) {
        let why = "may specify no more than one IP for each IP family";
        errors.push(Error::invalid(place, shown(&spec.cluster_ips), why));
    }
    if is_headless(spec) {
        return errors;
    }
    for (i, (ip, family)) in ips.iter().zip(list(&spec.ip_families)).enumerate() {
        let wrong = (family == "IPv4" && is_v6(ip)) || (family == "IPv6" && !is_v6(ip));
        if wrong {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.push(Error::invalid(&place.index(i), ip.as_str(), why));
        }
    }
    errors
}

/// A second address may come and go, the first stays.
pub(super) fn validate_change(new: &ServiceSpec, old: &ServiceSpec) -> ErrorList {
    if is_external_name(new) || is_external_name(old) {
        return ErrorList::new();
    }
    let mut errors = ErrorList::new();
    if !(is_headless(new) && is_headless(old)) {
        errors.extend(validate_ip_change(new, old));
    }
    if !is_headless(new) && !is_headless(old) {
        errors.extend(validate_family_change(new, old));
    }
    errors
}

const ONCE: &str = "may not change once set";

fn released_without_policy(new: &ServiceSpec, what: &str) -> Option<Error> {
    let policy = new.ip_family_policy.as_deref();
    let path = Path::new("spec");
    let why = format!("must be set to 'SingleStack' when releasing the secondary {what}");
    (policy != Some("SingleStack")).then(|| Error::invalid(&path.child("ipFamilyPolicy"), json!(policy), why))
}

fn validate_ip_change(new: &ServiceSpec, old: &ServiceSpec) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let place = path.child("clusterIPs");
    let (after, before) = (list(&new.cluster_ips), list(&old.cluster_ips));
    let refuse = |i: usize, why: &str| Error::invalid(&place.index(i), shown(&new.cluster_ips), why);
    if after.len() == before.len() {
        errors.extend(after.iter().zip(before).enumerate().filter(|(_, (a, b))| a != b).map(|(i, _)| refuse(i, ONCE)));
        return errors;
    }
    if after.is_empty() {
        errors.push(refuse(0, "primary clusterIP can not be unset"));
    }
    if let (Some(after), Some(before)) = (after.first(), before.first())
        && after != before
    {
        errors.push(refuse(0, ONCE));
    }
    if before.len() > after.len() && after.len() == 1 {
        errors.extend(released_without_policy(new, "clusterIP"));
    }
    errors
}

fn validate_family_change(new: &ServiceSpec, old: &ServiceSpec) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let place = path.child("ipFamilies");
    let place = place.index(0);
    let (after, before) = (list(&new.ip_families), list(&old.ip_families));
    if after.len() == before.len() {
        let changed = after.iter().zip(before).filter(|(a, b)| a != b);
        errors.extend(changed.map(|_| Error::invalid(&place, shown(&new.ip_families), ONCE)));
        return errors;
    }
    if before.len() > after.len() && list(&new.cluster_ips).is_empty() {
        errors.push(Error::invalid(&place, shown(&new.ip_families), "primary ipFamily can not be unset"));
    }
    if let (Some(after), Some(before)) = (after.first(), before.first())
        && after != before
    {
        // Upstream shows the addresses here, not the families.
        errors.push(Error::invalid(&place, shown(&new.cluster_ips), ONCE));
    }
    if before.len() > after.len() && after.len() == 1 {
        errors.extend(released_without_policy(new, "ipFamily"));
    }
    errors
}
