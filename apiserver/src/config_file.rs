//! Configuration files: read strictly, as upstream reads its own, and read again when they change.
//!
//! Knows nothing of what a configuration says.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use apimachinery::field::quote;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;

/// How often files are looked at. Looking costs a `stat`.
const INTERVAL: Duration = Duration::from_secs(1);
/// The group of the API server's own configuration files.
const GROUP: &str = "apiserver.config.k8s.io";

/// Whether fields that are not known are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    Strict,
    Lenient,
}

/// Decodes a configuration of one kind and one of some versions of the server's own group, which are read alike. Unknown and duplicate
/// fields are refused.
pub fn decode<T: DeserializeOwned + Serialize>(data: &[u8], kind: &str, versions: &[&str]) -> Result<T, String> {
    let known = versions.iter().map(|version| (format!("{GROUP}/{version}"), kind)).collect::<Vec<_>>();
    let known: Vec<(&str, &str)> = known.iter().map(|(api_version, kind)| (api_version.as_str(), *kind)).collect();
    decode_any(data, &known, Strictness::Strict).map_err(|error| error.to_string())
}

/// Why a document is not the configuration that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It does not say what it is, or is something else.
    #[error("{0}")]
    OtherKind(String),
    #[error("{0}")]
    Malformed(String),
}

/// The same of any of some pairs of `apiVersion` and `kind`, which are read alike.
pub fn decode_any<T: DeserializeOwned + Serialize>(data: &[u8], known: &[(&str, &str)], strictness: Strictness) -> Result<T, DecodeError> {
    let malformed = DecodeError::Malformed;
    let no_document = |why: &dyn std::fmt::Display| malformed(format!("couldn't get version/kind; json parse error: {why}"));
    // What looks like JSON is held to be JSON.
    if data.trim_ascii_start().starts_with(b"{") {
        apimachinery::json::parse(data).map_err(|error| no_document(&error))?;
    }
    let parsed = apimachinery::yaml::parse(data).map_err(|error| no_document(&error))?;
    let mut value = parsed.value;
    let shown = || String::from_utf8_lossy(data);
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, found) = (text("apiVersion"), text("kind"));
    if found.is_empty() {
        return Err(DecodeError::OtherKind(format!("Object 'Kind' is missing in '{}'", shown())));
    }
    if api_version.is_empty() {
        return Err(DecodeError::OtherKind(format!("Object 'apiVersion' is missing in '{}'", shown())));
    }
    if !known.contains(&(api_version.as_str(), found.as_str())) {
        let (kind, version) = (quote(&found), quote(&api_version));
        let why = format!("no kind {kind} is registered for version {version} in scheme \"pkg/runtime/scheme.go:111\"");
        return Err(DecodeError::OtherKind(why));
    }
    if let Some(map) = value.as_object_mut() {
        map.shift_remove("apiVersion");
        map.shift_remove("kind");
    }
    let decoded: T = serde_json::from_value(value.clone()).map_err(|error| malformed(error.to_string()))?;
    if strictness == Strictness::Lenient {
        return Ok(decoded);
    }
    let mut problems: Vec<String> = parsed.strict_error.iter().map(ToString::to_string).collect();
    let known = serde_json::to_value(&decoded).map_err(|error| malformed(error.to_string()))?;
    unknown_fields(&value, &known, "", &mut problems);
    if problems.is_empty() {
        return Ok(decoded);
    }
    Err(malformed(format!("strict decoding error: {}", problems.join(", "))))
}

/// The fields that are in a document and not in what was understood of it.
fn unknown_fields(told: &Value, understood: &Value, path: &str, problems: &mut Vec<String>) {
    match (told, understood) {
        (Value::Object(told), Value::Object(understood)) => {
            for (name, value) in told {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match understood.get(name) {
                    Some(known) => unknown_fields(value, known, &path, problems),
                    None => problems.push(format!("unknown field {}", quote(&path))),
                }
            }
        }
        (Value::Array(told), Value::Array(understood)) => {
            for (at, (value, known)) in told.iter().zip(understood).enumerate() {
                unknown_fields(value, known, &format!("{path}[{at}]"), problems);
            }
        }
        _ => {}
    }
}

/// What tells one state of a file from another without reading it. A file that is no more has none.
fn mark(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// Tells of each change of some files, until the shutdown or the end of whoever listens.
///
/// The receiver is told of a change once, however many there were before it looked; and once at the beginning, since a file may have changed
/// since it was read.
pub fn changes(paths: Vec<PathBuf>, mut shutdown: watch::Receiver<bool>) -> watch::Receiver<()> {
    let (sender, mut receiver) = watch::channel(());
    receiver.mark_changed();
    let state = |paths: &[PathBuf]| paths.iter().map(|path| mark(path)).collect::<Vec<_>>();
    let mut before = state(&paths);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return,
                () = sender.closed() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let now = state(&paths);
            if now != before {
                before = now;
                sender.send_replace(());
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Example {
        names: Vec<Name>,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Name {
        first: String,
    }

    fn read(body: &str) -> Result<Example, String> {
        decode(format!("apiVersion: apiserver.config.k8s.io/v1\nkind: Example\n{body}").as_bytes(), "Example", &["v1"])
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert_eq!(read("names: [{first: a}]").unwrap().names[0].first, "a");
        let refusal = read("names: [{first: a, last: b}]\nextra: 1").unwrap_err();
        assert_eq!(refusal, r#"strict decoding error: unknown field "extra", unknown field "names[0].last""#);
        assert!(read("names: []\nnames: []").unwrap_err().starts_with("strict decoding error: yaml: unmarshal errors:"));
    }

    #[test]
    fn kind_and_version_are_checked() {
        let read = |text: &str| decode::<Example>(text.as_bytes(), "Example", &["v1"]).unwrap_err();
        assert_eq!(read("kind: Example"), "Object 'apiVersion' is missing in 'kind: Example'");
        assert!(read("a: b").starts_with("Object 'Kind' is missing in"));
        let other = read("apiVersion: apiserver.config.k8s.io/v2\nkind: Example");
        assert!(other.starts_with(r#"no kind "Example" is registered for version "apiserver.config.k8s.io/v2""#), "{other}");
    }

    #[test]
    fn what_is_read_leniently_may_have_more_fields_and_another_group() {
        let known = [("example.com/v1", "Example"), ("example.com/v2", "Sample")];
        let read = |text: &str| decode_any::<Example>(text.as_bytes(), &known, Strictness::Lenient);
        let sample = read("apiVersion: example.com/v2\nkind: Sample\nnames: [{first: a, last: b}]\nextra: 1").unwrap();
        assert_eq!(sample.names[0].first, "a");
        let crossed = read("apiVersion: example.com/v1\nkind: Sample");
        assert!(matches!(crossed, Err(DecodeError::OtherKind(_))), "{crossed:?}");
        let expect = "couldn't get version/kind; json parse error: invalid character 'a' looking for beginning of object key string";
        assert_eq!(read("{a: b").unwrap_err().to_string(), expect);
    }

    #[tokio::test]
    async fn a_change_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "a").unwrap();
        let (_stop, shutdown) = watch::channel(false);
        let mut changes = changes(vec![path.clone()], shutdown);
        changes.changed().await.unwrap();
        std::fs::write(&path, "bb").unwrap();
        tokio::time::timeout(Duration::from_secs(20), changes.changed()).await.unwrap().unwrap();
    }
}
