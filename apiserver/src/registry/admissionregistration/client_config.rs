//! How a webhook is reached: by URL, or through a service. Webhooks of admission and of conversion share these rules.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_dns1123_subdomain, is_valid_port_num};
use k8s_openapi::api::admissionregistration::v1::{ServiceReference, WebhookClientConfig};

use super::url::Url;

const FORM: &str = "; desired format: https://host[/path]";

/// A configuration has a URL or a service. The trust bundle is checked by those who use it.
pub fn validate_client_config(config: &WebhookClientConfig, path: &Path<'_>) -> ErrorList {
    match (&config.url, &config.service) {
        (Some(url), None) => validate_url(url, &path.child("url")),
        (None, Some(service)) => validate_service(service, &path.child("service")),
        _ => vec![Error::required(path, "exactly one of url or service is required")],
    }
}

fn validate_url(text: &str, path: &Path<'_>) -> ErrorList {
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(problem) => return vec![Error::required(path, format!("url must be a valid URL: {problem}{FORM}"))],
    };
    let mut errors = ErrorList::new();
    if url.scheme != "https" {
        errors.push(Error::invalid(path, url.scheme, format!("'https' is the only allowed URL scheme{FORM}")));
    }
    if url.host.is_empty() {
        errors.push(Error::invalid(path, "", format!("host must be specified{FORM}")));
    }
    if let Some(user) = url.user {
        errors.push(Error::invalid(path, user, "user information is not permitted in the URL"));
    }
    if !url.fragment.is_empty() {
        errors.push(Error::invalid(path, url.fragment, "fragments are not permitted in the URL"));
    }
    if !url.query.is_empty() {
        errors.push(Error::invalid(path, url.query, "query parameters are not permitted in the URL"));
    }
    errors
}

/// Upstream takes the service's name for its namespace and the other way round, so what is missing is said of the other.
fn validate_service(service: &ServiceReference, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if service.namespace.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    if service.name.is_empty() {
        errors.push(Error::required(&path.child("namespace"), ""));
    }
    let port = service.port.unwrap_or(0);
    let problems = is_valid_port_num(i64::from(port));
    if !problems.is_empty() {
        errors.push(Error::invalid(&path.child("port"), port, format!("port is not valid: {}", problems.join(", "))));
    }
    if let Some(url_path) = &service.path {
        errors.extend(validate_service_path(url_path, &path.child("path")));
    }
    errors
}

fn validate_service_path(url_path: &str, path: &Path<'_>) -> ErrorList {
    let invalid = |detail: String| Error::invalid(path, url_path, detail);
    if matches!(url_path, "/" | "") {
        return ErrorList::new();
    }
    if url_path == "//" {
        return vec![invalid("segment[0] may not be empty".to_owned())];
    }
    let mut errors = ErrorList::new();
    if !url_path.starts_with('/') {
        errors.push(invalid("must start with a '/'".to_owned()));
    }
    // Whatever the first byte is, it is not looked at.
    let rest = String::from_utf8_lossy(&url_path.as_bytes()[1..]);
    for (i, step) in rest.strip_suffix('/').unwrap_or(&rest).split('/').enumerate() {
        if step.is_empty() {
            errors.push(invalid(format!("segment[{i}] may not be empty")));
            continue;
        }
        errors.extend(is_dns1123_subdomain(step).into_iter().map(|problem| invalid(format!("segment[{i}]: {problem}"))));
    }
    errors
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::{Value, json};

    use super::*;

    fn check(config: Value) -> Vec<String> {
        validate_client_config(&view(&config), &Path::new("c")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn there_is_a_url_or_a_service() {
        assert!(check(json!({"url": "https://a/b"})).is_empty());
        assert_eq!(check(json!({})), ["c: Required value: exactly one of url or service is required"]);
    }

    #[test]
    fn urls_are_plain_https() {
        assert_eq!(
            check(json!({"url": "http://u@/a?b#c"})),
            [
                "c.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "c.url: Invalid value: \"\": host must be specified; desired format: https://host[/path]",
                "c.url: Invalid value: \"u\": user information is not permitted in the URL",
                "c.url: Invalid value: \"c\": fragments are not permitted in the URL",
                "c.url: Invalid value: \"b\": query parameters are not permitted in the URL",
            ]
        );
    }

    #[test]
    fn a_service_without_a_name_is_said_to_lack_a_namespace() {
        assert_eq!(check(json!({"service": {"namespace": "n", "port": 1}})), ["c.service.namespace: Required value"]);
        assert_eq!(
            check(json!({"service": {"namespace": "n", "name": "s", "port": 1, "path": "/a//b"}})),
            ["c.service.path: Invalid value: \"/a//b\": segment[1] may not be empty"]
        );
    }
}
