//! Name resolution in a pod: its DNS settings, host aliases and host name.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_dns1123_subdomain, is_dns1123_subdomain_with_underscore, is_valid_ip_for_legacy_field};
use k8s_openapi::api::core::v1::{HostAlias, PodDNSConfig, PodSpec};

use super::invalid_all;
use crate::registry::core::pod::access::{items, on, text};

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;
const MAX_HOSTNAME: usize = 64;

pub(super) fn validate_dns_config(config: Option<&PodDNSConfig>, policy: &str, path: &Path<'_>) -> ErrorList {
    let servers_path = path.child("nameservers");
    if policy == "None" {
        match config {
            None => return vec![Error::required(path, "must provide `dnsConfig` when `dnsPolicy` is None")],
            Some(config) if items(&config.nameservers).is_empty() => {
                return vec![Error::required(&servers_path, "must provide at least one DNS nameserver when `dnsPolicy` is None")];
            }
            Some(_) => {}
        }
    }
    let Some(config) = config else { return ErrorList::new() };
    let (servers, searches) = (items(&config.nameservers), items(&config.searches));
    let mut errors = ErrorList::new();
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.push(Error::invalid(&servers_path, servers.to_vec(), detail));
    }
    for (i, server) in servers.iter().enumerate() {
        errors.extend(is_valid_ip_for_legacy_field(&servers_path.index(i), server, true, &[]));
    }
    let searches_path = path.child("searches");
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.push(Error::invalid(&searches_path, searches.to_vec(), detail));
    }
    if searches.join(" ").len() > MAX_SEARCH_CHARACTERS {
        let detail = format!("must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list");
        errors.push(Error::invalid(&searches_path, searches.to_vec(), detail));
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        errors.extend(invalid_all(&searches_path.index(i), search, is_dns1123_subdomain_with_underscore(search)));
    }
    let options_path = path.child("options");
    for (i, _) in items(&config.options).iter().enumerate().filter(|(_, option)| text(&option.name).is_empty()) {
        errors.push(Error::required(&options_path.index(i), "must not be empty"));
    }
    errors
}

pub(super) fn validate_host_aliases(aliases: &[HostAlias], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, alias) in aliases.iter().enumerate() {
        let path = path.index(i);
        errors.extend(is_valid_ip_for_legacy_field(&path.child("ip"), &alias.ip, true, &[]));
        let names = path.child("hostnames");
        for (j, name) in items(&alias.hostnames).iter().enumerate() {
            errors.extend(invalid_all(&names.index(j), name.as_str(), is_dns1123_subdomain(name)));
        }
    }
    errors
}

pub(super) fn validate_hostname_override(spec: &PodSpec, path: &Path<'_>) -> ErrorList {
    let Some(name) = spec.hostname_override.as_deref() else { return ErrorList::new() };
    let path = path.child("hostnameOverride");
    let mut errors = ErrorList::new();
    if on(spec.set_hostname_as_fqdn) {
        errors.push(Error::forbidden(&path, "may not be specified when setHostnameAsFQDN is true"));
    }
    if on(spec.host_network) {
        errors.push(Error::forbidden(&path, "may not be specified when hostNetwork is true"));
    }
    if name.len() > MAX_HOSTNAME {
        errors.push(Error::too_long(&path, MAX_HOSTNAME));
    }
    errors.extend(invalid_all(&path, name, is_dns1123_subdomain(name)));
    errors
}
