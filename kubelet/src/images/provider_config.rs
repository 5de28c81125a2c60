//! CredentialProviderConfig: which plugins give credentials for which images. Read once, at the start.
//!
//! Upstream: pkg/credentialprovider/plugin/config.go.

use std::collections::BTreeSet;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use apimachinery::field::{Error as FieldError, Path, aggregate};
use serde::Deserialize;

const KIND: &str = "CredentialProviderConfig";
const GROUP: &str = "kubelet.config.k8s.io";
const VERSIONS: [&str; 3] = ["v1", "v1alpha1", "v1beta1"];
/// What plugins speak.
const PLUGIN_VERSIONS: [&str; 3] =
    ["credentialprovider.kubelet.k8s.io/v1", "credentialprovider.kubelet.k8s.io/v1alpha1", "credentialprovider.kubelet.k8s.io/v1beta1"];
const CACHE_TYPES: [&str; 2] = ["ServiceAccount", "Token"];

/// Why plugins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unable to access path {0:?}: {1}")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("no configuration files found in directory {0:?}")]
    Empty(PathBuf),
    #[error("error decoding config {0:?}: {1}")]
    Decode(PathBuf, String),
    #[error("duplicate provider name {0:?} found in configuration file(s)")]
    Twice(String),
    #[error("failed to validate credential provider config: {0}")]
    Invalid(String),
    #[error("plugin binary directory {0} did not exist")]
    NoDirectory(PathBuf),
    #[error("plugin binary executable {0} did not exist")]
    NoPlugin(PathBuf),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<Written>,
}

/// A plugin as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Written {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    api_version: String,
    args: Vec<String>,
    env: Vec<Variable>,
    token_attributes: Option<Attributes>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Variable {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Attributes {
    service_account_token_audience: String,
    require_service_account: Option<bool>,
    required_service_account_annotation_keys: Vec<String>,
    optional_service_account_annotation_keys: Vec<String>,
    cache_type: String,
}

/// A plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    pub name: String,
    /// The images that it is asked about.
    pub match_images: Vec<String>,
    /// How long what it says is kept if it does not say that itself.
    pub default_cache: Duration,
    /// The version of the messages that it speaks.
    pub api_version: String,
    pub args: Vec<String>,
    pub env: Vec<Variable>,
    pub account: Option<Account>,
}

/// What a plugin is told of the pod's service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub audience: String,
    /// Whether it is asked only for pods that have an account.
    pub is_required: bool,
    pub required_annotations: Vec<String>,
    pub optional_annotations: Vec<String>,
    /// Whether what it says is for one token, not for all of the account.
    pub per_token: bool,
}

/// The plugins of a file, or of all files of a directory, in the order of the files' names.
pub fn read(path: &FilePath) -> Result<Vec<Provider>, Error> {
    let failed = |error| Error::Read(path.to_owned(), error);
    let mut files = vec![path.to_owned()];
    if std::fs::metadata(path).map_err(failed)?.is_dir() {
        let named = |file: &PathBuf| file.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml");
        let entries: Result<Vec<PathBuf>, _> = std::fs::read_dir(path).map_err(failed)?.map(|entry| Ok(entry?.path())).collect();
        files = entries.map_err(failed)?.into_iter().filter(|file| named(file) && !file.is_dir()).collect();
        files.sort();
        if files.is_empty() {
            return Err(Error::Empty(path.to_owned()));
        }
    }
    let (mut providers, mut names) = (Vec::new(), BTreeSet::new());
    for file in files {
        let text = std::fs::read(&file).map_err(|error| Error::Read(file.clone(), error))?;
        for written in decode(&text).map_err(|error| Error::Decode(file.clone(), error))? {
            if !names.insert(written.name.clone()) {
                return Err(Error::Twice(written.name));
            }
            providers.push(written);
        }
    }
    checked(providers)
}

fn decode(text: &[u8]) -> Result<Vec<Written>, String> {
    let value = apimachinery::yaml::parse(text).map_err(|error| error.to_string())?.value;
    let file: File = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if file.kind != KIND {
        return Err(format!("failed to decode {:?} (wrong Kind)", file.kind));
    }
    let version = file.api_version.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix('/'));
    if !version.is_some_and(|version| VERSIONS.contains(&version)) {
        return Err(format!("no kind {KIND:?} is registered for version {:?}", file.api_version));
    }
    Ok(file.providers)
}

fn checked(written: Vec<Written>) -> Result<Vec<Provider>, Error> {
    let path = Path::new("providers");
    let mut errors = Vec::new();
    if written.is_empty() {
        errors.push(FieldError::required(&path, "at least 1 item in plugins is required"));
    }
    let providers = written.into_iter().map(|provider| check(&path, provider, &mut errors)).collect();
    if errors.is_empty() { Ok(providers) } else { Err(Error::Invalid(aggregate(&errors))) }
}

fn check(path: &Path<'_>, written: Written, errors: &mut Vec<FieldError>) -> Provider {
    let name = written.name;
    for (wrong, why) in [
        (name.contains('/'), "provider name cannot contain '/'"),
        (name.contains(' '), "provider name cannot contain spaces"),
        (name == ".", "provider name cannot be '.'"),
        (name == "..", "provider name cannot be '..'"),
    ] {
        if wrong {
            errors.push(FieldError::invalid(&path.child("name"), name.clone(), why));
        }
    }
    let version = path.child("apiVersion");
    if written.api_version.is_empty() {
        errors.push(FieldError::required(&version, ""));
    } else if !PLUGIN_VERSIONS.contains(&written.api_version.as_str()) {
        errors.push(FieldError::not_supported(&version, written.api_version.clone(), &PLUGIN_VERSIONS));
    }
    if written.match_images.is_empty() {
        errors.push(FieldError::required(&path.child("matchImages"), "at least 1 item in matchImages is required"));
    }
    let cache = path.child("defaultCacheDuration");
    let mut default_cache = Duration::ZERO;
    match written.default_cache_duration.as_deref().map(apimachinery::time::parse_duration) {
        None => errors.push(FieldError::required(&cache, "")),
        Some(Ok(nanoseconds)) => match u64::try_from(nanoseconds) {
            Ok(nanoseconds) => default_cache = Duration::from_nanos(nanoseconds),
            Err(_) => errors.push(FieldError::invalid(&cache, written.default_cache_duration, "must be greater than or equal to 0")),
        },
        Some(Err(error)) => errors.push(FieldError::invalid(&cache, written.default_cache_duration, error)),
    }
    let is_v1 = written.api_version == PLUGIN_VERSIONS[0];
    let account = written.token_attributes.map(|attributes| check_account(path, attributes, is_v1, errors));
    Provider {
        name,
        match_images: written.match_images,
        default_cache,
        api_version: written.api_version,
        args: written.args,
        env: written.env,
        account,
    }
}

fn check_account(path: &Path<'_>, written: Attributes, is_v1: bool, errors: &mut Vec<FieldError>) -> Account {
    let path = path.child("tokenAttributes");
    if written.service_account_token_audience.is_empty() {
        errors.push(FieldError::required(&path.child("serviceAccountTokenAudience"), ""));
    }
    let (required, optional) = (written.required_service_account_annotation_keys, written.optional_service_account_annotation_keys);
    if written.require_service_account.is_none() {
        errors.push(FieldError::required(&path.child("requireServiceAccount"), ""));
    }
    if !is_v1 {
        let message = format!("tokenAttributes is only supported for {} API version", PLUGIN_VERSIONS[0]);
        errors.push(FieldError::forbidden(&path, message));
    }
    let required_path = path.child("requiredServiceAccountAnnotationKeys");
    if written.require_service_account == Some(false) && !required.is_empty() {
        let message = "requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set";
        errors.push(FieldError::forbidden(&required_path, message));
    }
    for (path, keys) in [(required_path, &required), (path.child("optionalServiceAccountAnnotationKeys"), &optional)] {
        let mut seen = BTreeSet::new();
        for key in keys.iter().filter(|key| !seen.insert(*key)) {
            errors.push(FieldError::duplicate(&path, key.clone()));
        }
    }
    let both: Vec<serde_json::Value> = required.iter().filter(|key| optional.contains(key)).map(|key| key.clone().into()).collect();
    if !both.is_empty() {
        errors.push(FieldError::invalid(&path, both, "annotation keys cannot be both required and optional"));
    }
    let cache_type = path.child("cacheType");
    match written.cache_type.as_str() {
        "" => {
            let message = "cacheType is required to be set when tokenAttributes is specified. Supported values are: ServiceAccount, Token";
            errors.push(FieldError::required(&cache_type, message));
        }
        known if CACHE_TYPES.contains(&known) => {}
        other => errors.push(FieldError::not_supported(&cache_type, other.to_owned(), &CACHE_TYPES)),
    }
    Account {
        audience: written.service_account_token_audience,
        is_required: written.require_service_account == Some(true),
        required_annotations: required,
        optional_annotations: optional,
        per_token: written.cache_type == "Token",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(providers: &str) -> Result<Vec<Provider>, String> {
        let text = format!("apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n{providers}");
        checked(decode(text.as_bytes())?).map_err(|error| error.to_string())
    }

    const GOOD: &str =
        "- name: p\n  matchImages: ['*.x.io']\n  defaultCacheDuration: 12h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n";

    #[test]
    fn a_plugin_says_what_it_is_for() {
        let providers = parse(&format!("{GOOD}  args: [get]\n  env: [{{name: A, value: b}}]\n")).expect("it is valid");
        assert_eq!((providers[0].name.as_str(), providers[0].default_cache), ("p", Duration::from_secs(12 * 3600)));
        assert_eq!((providers[0].args.as_slice(), providers[0].env[0].value.as_str()), (&["get".to_owned()][..], "b"));
        let attributes = "  tokenAttributes:\n    serviceAccountTokenAudience: a\n    requireServiceAccount: true\n    cacheType: Token\n";
        let account = parse(&format!("{GOOD}{attributes}")).expect("it is valid").remove(0).account.expect("it has one");
        assert!(account.per_token && account.is_required);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let cases = [
            ("  []".to_owned(), "providers: Required value: at least 1 item in plugins is required"),
            (GOOD.replace("name: p", "name: a/b"), "providers.name: Invalid value: \"a/b\": provider name cannot contain '/'"),
            (GOOD.replace("12h", "-1s"), "providers.defaultCacheDuration: Invalid value: \"-1s\": must be greater than or equal to 0"),
            (GOOD.replace("kubelet.k8s.io/v1", "kubelet.k8s.io/v2"), "providers.apiVersion: Unsupported value"),
            (format!("{GOOD}  more: 1\n"), "unknown field `more`"),
            (
                format!("{GOOD}  tokenAttributes: {{serviceAccountTokenAudience: a, requireServiceAccount: true}}\n"),
                "providers.tokenAttributes.cacheType: Required value",
            ),
        ];
        for (text, expect) in cases {
            let error = parse(&text).expect_err(expect);
            assert!(error.contains(expect), "{error}");
        }
    }

    #[test]
    fn the_files_of_a_directory_are_one_and_no_name_comes_twice() {
        let dir = tempfile::tempdir().expect("there is a directory for temporary files");
        assert!(matches!(read(dir.path()), Err(Error::Empty(_))));
        let head = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n";
        let write = |file: &str, name: &str| {
            let text = format!("{head}{}", GOOD.replace("name: p", &format!("name: {name}")));
            std::fs::write(dir.path().join(file), text).expect("it is writable");
        };
        write("b.yaml", "first-written");
        write("a.yml", "second-written");
        write("c.txt", "ignored");
        let names: Vec<String> = read(dir.path()).expect("they are valid").into_iter().map(|provider| provider.name).collect();
        assert_eq!(names, ["second-written", "first-written"]);
        write("d.json", "first-written");
        assert!(matches!(read(dir.path()), Err(Error::Twice(_))));
    }
}
