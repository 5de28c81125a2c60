//! Image references: which tag one names.

/// The references that a container runtime would read as the moving tag `latest`: named so, or naming neither tag nor digest.
pub fn is_latest(image: &str) -> bool {
    match parse(image) {
        Some((Some(tag), _)) => tag == "latest",
        Some((None, digest)) => digest.is_none(),
        None => false,
    }
}

/// Tag and digest of a well-formed reference.
fn parse(image: &str) -> Option<(Option<&str>, Option<&str>)> {
    const MAX_NAME: usize = 255;
    if image.len() == 64 && image.bytes().all(|c| matches!(c, b'a'..=b'f' | b'0'..=b'9')) {
        return None;
    }
    let (domain, remainder) = match image.split_once('/') {
        Some((domain, rest)) if domain == "localhost" || domain.contains(['.', ':']) || domain != domain.to_lowercase() => {
            (Some(domain), rest)
        }
        _ => (None, image),
    };
    let (reference, digest) = match remainder.split_once('@') {
        Some((reference, digest)) => (reference, Some(digest)),
        None => (remainder, None),
    };
    let (path, tag) = match reference.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (reference, None),
    };
    let good_name = path.split('/').all(is_path_component)
        && domain.is_none_or(|domain| is_domain(domain) || is_path_component(domain))
        && domain.map_or("docker.io/library/".len(), |d| d.len() + 1) + path.len() <= MAX_NAME;
    (good_name && tag.is_none_or(is_tag) && digest.is_none_or(is_digest)).then_some((tag, digest))
}

/// Lower-case letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_path_component(s: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = s.split(plain).filter(|separator| !separator.is_empty());
    s.starts_with(plain)
        && s.ends_with(plain)
        && separators.into_iter().all(|sep| matches!(sep, "." | "_" | "__") || sep.bytes().all(|c| c == b'-'))
}

fn is_domain(s: &str) -> bool {
    let (host, port) = match s.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            if address.is_empty() || !address.bytes().all(|c| c.is_ascii_hexdigit() || c == b':') {
                return false;
            }
            (None, (!port.is_empty()).then(|| port.strip_prefix(':').unwrap_or_default()))
        }
        None => s.split_once(':').map_or((Some(s), None), |(host, port)| (Some(host), Some(port))),
    };
    let component = |label: &str| {
        let b = label.as_bytes();
        b.first().is_some_and(u8::is_ascii_alphanumeric)
            && b.last().is_some_and(u8::is_ascii_alphanumeric)
            && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
    };
    host.is_none_or(|host| host.split('.').all(component)) && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|c| c.is_ascii_digit()))
}

fn is_tag(s: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let b = s.as_bytes();
    b.len() <= 128 && b.first().is_some_and(|c| word(*c)) && b.iter().all(|c| word(*c) || matches!(c, b'.' | b'-'))
}

/// A digest of an algorithm that upstream links in.
fn is_digest(s: &str) -> bool {
    let Some((algorithm, hex)) = s.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(|c| matches!(c, b'a'..=b'f' | b'0'..=b'9'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_is_what_names_no_other_tag() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        let cases = [
            ("a", true),
            ("a:latest", true),
            ("a:v1", false),
            (digest.as_str(), false),
            ("r.example:5000/a", true),
            ("r.example:5000/a:1", false),
            ("localhost/a", true),
            ("[::1]:5000/a", true),
            ("a/b__c/d-e", true),
            // Malformed references have no tag at all.
            (" a ", false),
            ("A", false),
            ("a..b", false),
            ("a@sha256:00", false),
            ("", false),
            ("a:", false),
        ];
        for (image, latest) in cases {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
