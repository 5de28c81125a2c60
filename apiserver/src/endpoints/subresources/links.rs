//! Links of a proxied page: what leads to the target itself is made to lead through the API server. Pure.

/// How links of one answer are changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    /// The API server's path to the target's root, without a slash at its end.
    pub prefix: String,
    /// The target, `host:port`.
    pub target: String,
    /// Whom the client believes to speak to.
    pub request_host: String,
}

impl Links {
    /// `request_path` is the client's, `target_path` what of it the target sees.
    pub fn new(request_path: &str, target_path: &str, target: String, request_host: String) -> Links {
        let with_slash = request_path.ends_with('/') && !target_path.ends_with('/');
        let suffix = if with_slash { format!("{target_path}/") } else { target_path.to_owned() };
        let prefix = request_path.strip_suffix(suffix.as_str()).unwrap_or(request_path);
        Links { prefix: prefix.to_owned(), target, request_host }
    }

    /// The link as the client must have it; nothing if it is right as it is.
    pub fn changed(&self, link: &str) -> Option<String> {
        let (origin, host, rest) = split(link);
        let (path, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        let leads_elsewhere = !host.is_empty() && host != self.target && host != self.request_host;
        if leads_elsewhere || !path.starts_with('/') {
            return None;
        }
        // The client's own name for us stays; the target's is nobody's business.
        let origin = if !host.is_empty() && host == self.request_host { origin } else { "" };
        let path = if path.starts_with(self.prefix.as_str()) { path.to_owned() } else { joined(&self.prefix, path) };
        let changed = format!("{origin}{path}{query}");
        (changed != link).then_some(changed)
    }
}

/// Scheme and host with what is around them, the host alone, and what follows.
fn split(link: &str) -> (&str, &str, &str) {
    let has_scheme = |scheme: &str| !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let start = match link.find("//") {
        Some(0) => 2,
        Some(at) if link[..at].strip_suffix(':').is_some_and(has_scheme) => at + 2,
        _ => return ("", "", link),
    };
    let end = link[start..].find(['/', '?', '#']).map_or(link.len(), |at| start + at);
    (&link[..end], &link[start..end], &link[end..])
}

/// The path below the prefix, with `.`, `..` and doubled slashes resolved; a last slash stays.
fn joined(prefix: &str, path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in prefix.split('/').chain(path.split('/')) {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let slash = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{slash}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_target_lead_through_the_api_server() {
        let links = Links::new("/api/v1/pods/p/proxy/a/", "/a", "10.0.0.1:80".to_owned(), "localhost:8001".to_owned());
        assert_eq!(links.prefix, "/api/v1/pods/p/proxy");
        let check = |link: &str, expected: Option<&str>| assert_eq!(links.changed(link).as_deref(), expected, "{link}");
        check("/b", Some("/api/v1/pods/p/proxy/b"));
        check("/", Some("/api/v1/pods/p/proxy/"));
        check("/b/../c/?d=/e#f", Some("/api/v1/pods/p/proxy/c/?d=/e#f"));
        check("http://10.0.0.1:80/b?c", Some("/api/v1/pods/p/proxy/b?c"));
        check("http://localhost:8001/b", Some("http://localhost:8001/api/v1/pods/p/proxy/b"));
        check("http://localhost:8001/api/v1/pods/p/proxy/b", None);
        check("/api/v1/pods/p/proxy/x", None);
        check("https://elsewhere/", None);
        check("//elsewhere/", None);
        check("b", None);
        check("mailto:a@b", None);
        check("http://10.0.0.1:80", None);
        check("", None);
    }
}
