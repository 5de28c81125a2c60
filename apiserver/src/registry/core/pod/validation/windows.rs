//! Windows: security options and host process pods.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::is_dns1123_subdomain;
use k8s_openapi::api::core::v1::{PodSpec, WindowsSecurityContextOptions};

use super::invalid_all;
use crate::registry::core::pod::access::{on, visit_containers};

const MAX_CREDENTIAL_SPEC_KIB: usize = 64;
const MAX_DOMAIN: usize = 256;
const MAX_USER: usize = 104;

pub(super) fn validate_windows_options(options: &WindowsSecurityContextOptions, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(name) = &options.gmsa_credential_spec_name {
        errors.extend(invalid_all(&path.child("gmsaCredentialSpecName"), name.as_str(), is_dns1123_subdomain(name)));
    }
    if let Some(spec) = &options.gmsa_credential_spec {
        let path = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.push(Error::invalid(&path, spec.as_str(), "gmsaCredentialSpec cannot be an empty string"));
        } else if spec.len() > MAX_CREDENTIAL_SPEC_KIB * 1024 {
            let detail = format!("gmsaCredentialSpec size must be under {MAX_CREDENTIAL_SPEC_KIB} KiB");
            errors.push(Error::invalid(&path, spec.as_str(), detail));
        }
    }
    if let Some(name) = &options.run_as_user_name {
        errors.extend(invalid_all(&path.child("runAsUserName"), name.as_str(), user_name_problems(name)));
    }
    errors
}

/// What is wrong with `user` or `domain\user`.
fn user_name_problems(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".to_owned()];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".to_owned()];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec!["runAsUserName cannot contain more than one backslash".to_owned()],
    };
    let mut problems = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= MAX_DOMAIN {
            problems.push(format!("runAsUserName's Domain length must be under {MAX_DOMAIN} characters"));
        }
        if !is_net_bios_name(domain) && !is_dns_name(domain) {
            problems.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
        }
    }
    if user.is_empty() {
        problems.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > MAX_USER {
        problems.push(format!("runAsUserName's User length must not be longer than {MAX_USER} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        problems.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        problems.push(r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#.to_owned());
    }
    problems
}

fn is_net_bios_name(name: &str) -> bool {
    let reserved = ['\\', '/', ':', '*', '?', '"', '<', '>', '|'];
    let count = name.chars().count();
    (1..=15).contains(&count) && !name.starts_with('.') && !name.contains(reserved)
}

fn is_dns_name(name: &str) -> bool {
    let label = |l: &str| {
        let b = l.as_bytes();
        b.len() <= 63
            && b.first().is_some_and(u8::is_ascii_alphanumeric)
            && b.last().is_some_and(u8::is_ascii_alphanumeric)
            && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
    };
    name.split('.').all(label)
}

/// A pod has only host process containers or none, and such a pod is on the host's network.
pub(super) fn validate_host_process_pod(spec: &PodSpec, path: &Path<'_>) -> ErrorList {
    let of_pod = spec.security_context.as_ref().and_then(|sc| sc.windows_options.as_ref()).and_then(|o| o.host_process);
    let (mut containers, mut host_processes) = (0, 0);
    let mut errors = ErrorList::new();
    visit_containers(spec, path, &mut |container, path| {
        containers += 1;
        let own = container.security_context.as_ref().and_then(|sc| sc.windows_options.as_ref()).and_then(|o| o.host_process);
        if let (Some(of_pod), Some(own)) = (of_pod, own)
            && of_pod != own
        {
            let path = path.child("securityContext").child("windowsOptions").child("hostProcess").to_string();
            let detail = format!("pod hostProcess value must be identical if both are specified, was {of_pod}");
            errors.push(Error::invalid(&Path::new(&path), own, detail));
        }
        if own.or(of_pod) == Some(true) {
            host_processes += 1;
        }
    });
    if host_processes > 0 {
        if host_processes != containers {
            let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
            errors.push(Error::invalid(path, "", detail));
        }
        if !on(spec.host_network) {
            let detail = "hostNetwork must be true if pod contains any hostProcess containers";
            errors.push(Error::invalid(&path.child("hostNetwork"), false, detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_have_an_optional_domain() {
        let cases = [
            ("user", 0),
            (r"DOMAIN\user", 0),
            (r"sub.example.com\user", 0),
            ("", 1),
            (r"a\b\c", 1),
            (r".bad\user", 1),
            (r"d\", 1),
            ("..", 1),
            ("a@b", 1),
            ("a\tb", 1),
        ];
        for (name, problems) in cases {
            assert_eq!(user_name_problems(name).len(), problems, "{name}");
        }
    }
}
