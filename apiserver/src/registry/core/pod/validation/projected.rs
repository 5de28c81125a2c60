//! Volumes whose files are projected from the API: the downward API and the projected volume with its many sources.

use std::collections::BTreeSet;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{
    LabelSelectorOptions, is_dns1123_label, is_dns1123_subdomain, is_domain_prefixed_key, name_is_dns_subdomain, validate_label_selector,
};
use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, DownwardAPIVolumeFile, DownwardAPIVolumeSource, KeyToPath, PodCertificateProjection,
    ProjectedVolumeSource, ServiceAccountTokenProjection,
};

use super::env::{validate_container_resource_field_selector, validate_object_field_selector};
use super::options::Options;
use super::paths::validate_local_non_reserved_path;
use super::volume_sources::{file_mode, key_to_path, required, user};
use super::{invalid_all, printed};
use crate::registry::core::pod::access::{items, text};

const DUPLICATE_PATH: &str = "conflicting duplicate paths";
const FIELD_PATHS: &[&str] = &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const KEY_TYPES: &[&str] = &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const DAY_SECONDS: i32 = 24 * 60 * 60;
/// The most that all annotations of an object may take together.
const ANNOTATIONS_BYTES: usize = 256 * 1024;

pub(super) fn downward_api(source: &DownwardAPIVolumeSource, path: &Path<'_>) -> ErrorList {
    let mut errors = file_mode(source.default_mode, &path.child("defaultMode"));
    errors.extend(user(source.default_user, &path.child("defaultUser")));
    // Upstream reports the files at the volume's path, without their index.
    errors.extend(items(&source.items).iter().flat_map(|file| downward_api_file(file, path)));
    errors
}

fn downward_api_file(file: &DownwardAPIVolumeFile, path: &Path<'_>) -> ErrorList {
    let mut errors = required(&file.path, &path.child("path"));
    errors.extend(validate_local_non_reserved_path(&file.path, &path.child("path")));
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            errors.extend(validate_object_field_selector(field, FIELD_PATHS, &path.child("fieldRef")));
            if resource.is_some() {
                errors.push(Error::invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"));
            }
        }
        (None, Some(resource)) => {
            errors.extend(validate_container_resource_field_selector(resource, &path.child("resourceFieldRef"), true));
        }
        (None, None) => errors.push(Error::required(path, "one of fieldRef and resourceFieldRef is required")),
    }
    errors.extend(file_mode(file.mode, &path.child("mode")));
    errors.extend(user(file.user, &path.child("user")));
    errors
}

pub(super) fn projected(source: &ProjectedVolumeSource, path: &Path<'_>, opts: &Options) -> ErrorList {
    let mut errors = file_mode(source.default_mode, &path.child("defaultMode"));
    errors.extend(user(source.default_user, &path.child("defaultUser")));
    let sources = path.child("sources");
    let mut taken = Taken { path, seen: BTreeSet::new() };
    for (i, source) in items(&source.sources).iter().enumerate() {
        let path = sources.index(i);
        let mut count = 0;
        if let Some(secret) = &source.secret {
            count += 1;
            errors.extend(keyed(&secret.name, &secret.items, &path.child("secret"), &mut taken));
        }
        if let Some(config_map) = &source.config_map {
            count += 1;
            errors.extend(keyed(&config_map.name, &config_map.items, &path.child("configMap"), &mut taken));
        }
        if let Some(downward) = &source.downward_api {
            count += 1;
            let path = path.child("downwardAPI");
            for file in items(&downward.items) {
                errors.extend(downward_api_file(file, &path));
                errors.extend(taken.claim(&file.path, &file.path));
            }
        }
        if let Some(token) = &source.service_account_token {
            count += 1;
            errors.extend(service_account_token(token, taken.path, &path.child("serviceAccountToken"), opts));
        }
        if let Some(bundle) = &source.cluster_trust_bundle {
            count += 1;
            errors.extend(cluster_trust_bundle(bundle, &path.child("clusterTrustBundle"), &mut taken));
        }
        if let Some(certificate) = &source.pod_certificate {
            count += 1;
            errors.extend(pod_certificate(certificate, &path.child("podCertificate"), &mut taken));
        }
        if count > 1 {
            errors.push(Error::forbidden(&path, "may not specify more than 1 volume type per source"));
        }
    }
    errors
}

/// The file paths that sources of one volume have taken.
struct Taken<'p, 'q, 's> {
    path: &'p Path<'q>,
    seen: BTreeSet<&'s str>,
}

impl<'s> Taken<'_, '_, 's> {
    /// An error that shows `value` if the file path is taken; empty paths never are.
    fn claim(&mut self, file: &'s str, value: &str) -> Option<Error> {
        (!file.is_empty() && !self.seen.insert(file)).then(|| Error::invalid(self.path, value, DUPLICATE_PATH))
    }
}

fn keyed<'s>(name: &str, keys: &'s Option<Vec<KeyToPath>>, path: &Path<'_>, taken: &mut Taken<'_, '_, 's>) -> ErrorList {
    let mut errors = required(name, &path.child("name"));
    let items_path = path.child("items");
    for (i, item) in items(keys).iter().enumerate() {
        errors.extend(key_to_path(item, &items_path.index(i)));
        errors.extend(taken.claim(&item.path, name));
    }
    errors
}

fn service_account_token(token: &ServiceAccountTokenProjection, volume: &Path<'_>, path: &Path<'_>, opts: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    let expiration = path.child("expirationSeconds");
    match token.expiration_seconds {
        None => errors.push(Error::required(&expiration, "")),
        Some(seconds) if seconds < 600 => {
            errors.push(Error::invalid(&expiration, seconds, "may not specify a duration less than 10 minutes"));
        }
        Some(seconds) if seconds > 1 << 32 => {
            errors.push(Error::invalid(&expiration, seconds, "may not specify a duration larger than 2^32 seconds"));
        }
        Some(_) => {}
    }
    // Upstream reports the path at the volume, not at the source.
    if token.path.is_empty() {
        errors.push(Error::required(&volume.child("path"), ""));
    } else if !opts.allow_non_local_projected_token_path {
        errors.extend(validate_local_non_reserved_path(&token.path, &volume.child("path")));
    }
    errors.extend(user(token.user, &path.child("user")));
    errors
}

fn cluster_trust_bundle<'s>(bundle: &'s ClusterTrustBundleProjection, path: &Path<'_>, taken: &mut Taken<'_, '_, 's>) -> ErrorList {
    let mut errors = ErrorList::new();
    match (&bundle.name, &bundle.signer_name) {
        (Some(_), Some(_)) => {
            errors.push(Error::invalid(
                path,
                printed::structure("ClusterTrustBundleProjection", bundle),
                "only one of name and signerName may be used",
            ));
        }
        (Some(name), None) => {
            let name_path = path.child("name");
            if name.is_empty() {
                errors.push(Error::required(&name_path, "must be a valid object name"));
            }
            for message in trust_bundle_name(name) {
                errors.push(Error::invalid(&name_path, name.as_str(), format!("not a valid clustertrustbundlename: {message}")));
            }
            if let Some(selector) = &bundle.label_selector {
                let shown = serde_json::to_value(selector).unwrap_or_default();
                errors.push(Error::invalid(&path.child("labelSelector"), shown, "labelSelector must be unset if name is specified"));
            }
        }
        (None, Some(signer)) => {
            let signer_path = path.child("signerName");
            if signer.is_empty() {
                errors.push(Error::required(&signer_path, "must be a valid signer name"));
            }
            errors.extend(validate_signer_name(signer, &signer_path));
            if let Some(selector) = &bundle.label_selector {
                errors.extend(validate_label_selector(selector, LabelSelectorOptions::default(), &path.child("labelSelector")));
            }
        }
        (None, None) => errors.push(Error::required(path, "either name or signerName must be specified")),
    }
    errors.extend(required(&bundle.path, &path.child("path")));
    errors.extend(user(bundle.user, &path.child("user")));
    errors.extend(validate_local_non_reserved_path(&bundle.path, &path.child("path")));
    if !taken.seen.insert(&bundle.path) {
        errors.push(Error::invalid(taken.path, bundle.path.as_str(), DUPLICATE_PATH));
    }
    errors
}

/// A ClusterTrustBundle's name: a subdomain, after `<signer with ':' for '/'>:` if it has a signer.
fn trust_bundle_name(name: &str) -> Vec<String> {
    let Some((prefix, rest)) = name.rsplit_once(':') else { return name_is_dns_subdomain(name, false) };
    if prefix.is_empty() {
        return vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()];
    }
    if prefix.contains('/') {
        let (signer, required) = (prefix.replace(':', "/"), prefix.replace('/', ":"));
        return vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {required}:")];
    }
    name_is_dns_subdomain(rest, false)
}

fn pod_certificate<'s>(certificate: &'s PodCertificateProjection, path: &Path<'_>, taken: &mut Taken<'_, '_, 's>) -> ErrorList {
    let mut errors = validate_signer_name(&certificate.signer_name, &path.child("signerName"));
    if let Some(annotations) = &certificate.user_annotations {
        let path = path.child("userAnnotations");
        errors.extend(annotations.keys().flat_map(|key| is_domain_prefixed_key(&path, &key.to_lowercase())));
        if annotations.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > ANNOTATIONS_BYTES {
            errors.push(Error::too_long(&path, ANNOTATIONS_BYTES));
        }
    }
    errors.extend(user(certificate.user, &path.child("user")));
    if !KEY_TYPES.contains(&certificate.key_type.as_str()) {
        errors.push(Error::not_supported(&path.child("keyType"), certificate.key_type.as_str(), KEY_TYPES));
    }
    if let Some(seconds) = certificate.max_expiration_seconds {
        let path = path.child("maxExpirationSeconds");
        let most = if is_kubernetes_signer_name(&certificate.signer_name) { DAY_SECONDS } else { 91 * DAY_SECONDS };
        if seconds < 3600 {
            errors.push(Error::invalid(&path, seconds, "if provided, maxExpirationSeconds must be >= 3600"));
        }
        if seconds > most {
            errors.push(Error::invalid(&path, seconds, format!("if provided, maxExpirationSeconds must be <= {most}")));
        }
    }
    let files = [
        ("credentialBundlePath", text(&certificate.credential_bundle_path)),
        ("keyPath", text(&certificate.key_path)),
        ("certificateChainPath", text(&certificate.certificate_chain_path)),
    ];
    for (name, file) in files.iter().filter(|(_, file)| !file.is_empty()) {
        errors.extend(validate_local_non_reserved_path(file, &path.child(name)));
        errors.extend(taken.claim(file, file));
    }
    if files.iter().all(|(_, file)| file.is_empty()) {
        errors.push(Error::required(path, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"));
    }
    errors
}

fn is_kubernetes_signer_name(signer: &str) -> bool {
    let host = signer.split_once('/').map_or(signer, |(host, _)| host);
    host == "kubernetes.io" || host.ends_with(".kubernetes.io")
}

/// A signer's name: a domain of at least two labels, a slash, and a path of dotted subdomains.
pub(crate) fn validate_signer_name(signer: &str, path: &Path<'_>) -> ErrorList {
    if signer.is_empty() {
        return vec![Error::required(path, "")];
    }
    let (domain, name) = match signer.split_once('/') {
        Some((domain, name)) if !name.contains('/') => (domain, name),
        _ => return vec![Error::invalid(path, signer, "must be a fully qualified domain and path of the form 'example.com/signer-name'")],
    };
    let mut errors = ErrorList::new();
    if domain.len() > 253 {
        errors.push(Error::too_long(path, 253));
    }
    // Only the first bad label is reported.
    let first_bad = |segment: &str, check: fn(&str) -> Vec<String>| -> ErrorList {
        segment
            .split('.')
            .map(|label| (label, check(label)))
            .find(|(_, messages)| !messages.is_empty())
            .map(|(label, messages)| {
                let messages = messages.into_iter().map(|m| format!("validating label {}: {m}", apimachinery::field::quote(label)));
                invalid_all(path, segment, messages.collect())
            })
            .unwrap_or_default()
    };
    errors.extend(first_bad(domain, is_dns1123_label));
    if !domain.contains('.') {
        errors.push(Error::invalid(path, domain, "should be a domain with at least two segments separated by dots"));
    }
    errors.extend(first_bad(name, is_dns1123_subdomain));
    let most = 253 + (253 + 63 + 1) + 1;
    if signer.len() > most {
        errors.push(Error::too_long(path, most));
    }
    errors
}
