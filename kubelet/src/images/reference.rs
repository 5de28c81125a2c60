//! Names of images, as registries' clients read them: `nginx` is `docker.io/library/nginx:latest`.

/// A name in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// With its registry, `docker.io/library/nginx`.
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<String>,
}

/// A name that nobody could pull.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {name:?}: {problem}")]
pub struct Error {
    name: String,
    problem: &'static str,
}

const FORMAT: &str = "invalid reference format";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

fn is_registry(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.chars().any(|c| c.is_ascii_uppercase())
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= MAX_TAG && text.starts_with(word) && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let named = algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
        && algorithm.chars().all(|c| c.is_ascii_alphanumeric() || "+.-_".contains(c));
    named && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
}

/// Lower case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(alphanumeric) || !text.ends_with(alphanumeric) {
        return false;
    }
    let separators = text.split(alphanumeric).filter(|between| !between.is_empty());
    separators.into_iter().all(|between| matches!(between, "." | "_" | "__") || between.chars().all(|c| c == '-'))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let label = |label: &str| {
        let alphanumeric = |c: char| c.is_ascii_alphanumeric();
        label.starts_with(alphanumeric) && label.ends_with(alphanumeric) && label.chars().all(|c| alphanumeric(c) || c == '-')
    };
    let six = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    (six || host.split('.').all(label)) && port.is_none_or(|port| !port.is_empty() && port.chars().all(|c| c.is_ascii_digit()))
}

/// Reads a name.
pub fn parse(name: &str) -> Result<Reference, Error> {
    let error = |problem| Error { name: name.to_owned(), problem };
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
        Some(_) => return Err(error(FORMAT)),
        None => (name, None),
    };
    let last_slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match rest[last_slash..].split_once(':') {
        Some((last, tag)) if is_tag(tag) => (&rest[..last_slash + last.len()], Some(tag.to_owned())),
        Some(_) => return Err(error(FORMAT)),
        None => (rest, None),
    };
    let (registry, remote) = match path.split_once('/') {
        Some((first, remote)) if is_registry(first) => (first, remote),
        _ => ("docker.io", path),
    };
    if !is_domain(registry) {
        return Err(error(FORMAT));
    }
    if remote.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(error("invalid reference format: repository name must be lowercase"));
    }
    if !remote.split('/').all(is_component) {
        return Err(error(FORMAT));
    }
    let remote = if registry == "docker.io" && !remote.contains('/') { format!("library/{remote}") } else { remote.to_owned() };
    let repository = format!("{registry}/{remote}");
    if repository.len() > MAX_NAME {
        return Err(error("repository name must not be more than 255 characters"));
    }
    Ok(Reference { repository, tag, digest })
}

/// The name with the tag `latest`, if it has neither tag nor digest.
pub fn with_default_tag(name: &str) -> Result<String, Error> {
    let reference = parse(name)?;
    Ok(if reference.tag.is_none() && reference.digest.is_none() { format!("{name}:latest") } else { name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_registries_clients_do() {
        for (name, repository, tag) in [
            ("nginx", "docker.io/library/nginx", None),
            ("nginx:1", "docker.io/library/nginx", Some("1")),
            ("a/b", "docker.io/a/b", None),
            ("localhost:5000/a", "localhost:5000/a", None),
            ("registry.k8s.io/e2e-test-images/agnhost:2.53", "registry.k8s.io/e2e-test-images/agnhost", Some("2.53")),
            ("x__y--z", "docker.io/library/x__y--z", None),
        ] {
            let read = parse(name).expect(name);
            assert_eq!((read.repository.as_str(), read.tag.as_deref()), (repository, tag), "{name}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["", "a b", "a:", "-a", "a/", "a@sha256:1", "a..b", "http://a"] {
            assert!(parse(name).is_err(), "{name:?}");
        }
        let message = parse("FOO/bar:1").map(|read| read.repository);
        assert_eq!(message, Ok("FOO/bar".to_owned()));
        assert_eq!(
            parse("x/FOO").expect_err("it is in upper case").to_string(),
            "couldn't parse image name \"x/FOO\": invalid reference format: repository name must be lowercase"
        );
    }

    #[test]
    fn a_name_without_version_means_the_latest() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        assert_eq!(with_default_tag("a").as_deref(), Ok("a:latest"));
        assert_eq!(with_default_tag("a:1").as_deref(), Ok("a:1"));
        assert_eq!(with_default_tag(&digest).as_deref(), Ok(digest.as_str()));
    }
}
