//! What is remembered of pulls, so that a pod gets an image that is there already only if it could have pulled it itself: which images the
//! kubelet pulled, and with whose credentials.
//!
//! Records are files below `<root dir>/image_manager`, as upstream's: an intent in `pulling` before a pull, a record in `pulled` after it.
//! Blocking.
//!
//! Upstream: pkg/kubelet/images/pullmanager.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::credentials::{Coordinates, Credential, Source};
use super::reference;
use crate::cri::v1;

const PREFIX: &str = "sha256-";
const TEMPORARY: &str = ".tmp";
const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// Secrets of one image are remembered while they are only compared as long as there are fewer of them.
const MOST_LEARNT: usize = 100;

/// Which images are given only to pods that could pull them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    Never,
    /// Those that the kubelet pulled.
    Pulled,
    /// All but these: names, and beginnings of names.
    NotListed {
        names: HashSet<String>,
        prefixes: Vec<String>,
    },
    Always,
}

impl Policy {
    /// From `imagePullCredentialsVerificationPolicy` and `preloadedImagesVerificationAllowlist`.
    pub fn parse(policy: &str, listed: &[String]) -> Result<Policy, String> {
        match policy {
            "" | "NeverVerifyPreloadedImages" => Ok(Policy::Pulled),
            "NeverVerify" => Ok(Policy::Never),
            "AlwaysVerify" => Ok(Policy::Always),
            "NeverVerifyAllowlistedImages" => {
                let (mut names, mut prefixes) = (HashSet::new(), Vec::new());
                for pattern in listed {
                    match listed_image(pattern)? {
                        (prefix, true) => prefixes.push(prefix),
                        (name, false) => drop(names.insert(name)),
                    }
                }
                Ok(Policy::NotListed { names, prefixes })
            }
            other => Err(format!("unknown image pull credential verification policy: {other}")),
        }
    }

    fn verifies(&self, image: &str, pulled: bool) -> bool {
        match self {
            Policy::Never => false,
            Policy::Pulled => pulled,
            Policy::Always => true,
            Policy::NotListed { names, prefixes } => {
                let name = without_version(image).unwrap_or(image);
                !names.contains(name) && !prefixes.iter().any(|prefix| name.starts_with(prefix))
            }
        }
    }
}

/// A pattern of the list: a name, or (true) how names begin.
fn listed_image(pattern: &str) -> Result<(String, bool), String> {
    if pattern != pattern.trim() {
        return Err(format!("leading/trailing spaces are not allowed: {pattern}"));
    }
    let (bare, is_prefix) = if pattern.ends_with("/*") { (&pattern[..pattern.len() - 1], true) } else { (pattern, false) };
    if bare.is_empty() {
        return Err(format!("the supplied pattern is too short: {pattern}"));
    }
    if bare.contains('*') {
        return Err(format!("not a valid wildcard pattern, only patterns ending with '/*' are allowed: {pattern}"));
    }
    if is_prefix && bare.len() == 1 {
        return Err("at least registry hostname is required".to_owned());
    }
    if !is_prefix && without_version(bare) != Some(bare) {
        return Err(format!("neither tag nor digest is accepted in an image reference: {pattern}"));
    }
    Ok((bare.to_owned(), is_prefix))
}

/// An image's name without tag and digest; none if it is no name.
fn without_version(image: &str) -> Option<&str> {
    let parsed = reference::parse(image).ok()?;
    let mut name = image;
    if let Some(digest) = &parsed.digest {
        name = name.strip_suffix(digest.as_str())?.strip_suffix('@')?;
    }
    if let Some(tag) = &parsed.tag {
        name = name.strip_suffix(tag.as_str())?.strip_suffix(':')?;
    }
    Some(name)
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Intent {
    kind: String,
    api_version: String,
    image: String,
}

/// What is known of a pulled image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    kind: String,
    api_version: String,
    last_updated_time: Timestamp,
    image_ref: String,
    /// By the image's name without tag and digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    credential_mapping: BTreeMap<String, Credentials>,
}

/// Whose credentials open an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Credentials {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<Secret>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_service_accounts: Vec<Coordinates>,
    /// Everybody's on the node, or nobody's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Secret {
    #[serde(flatten)]
    of: Coordinates,
    credential_hash: String,
}

impl Credentials {
    /// What a pull has shown. `None` is one without credentials.
    fn shown(used: Option<&Credential>) -> Credentials {
        match used.map(|credential| &credential.source) {
            None | Some(Source::Node) => Credentials { node_pods_accessible: true, ..Credentials::default() },
            Some(Source::Secret(of)) => {
                let credential_hash = used.map(Credential::hash).unwrap_or_default();
                Credentials { kubernetes_secrets: vec![Secret { of: of.clone(), credential_hash }], ..Credentials::default() }
            }
            Some(Source::ServiceAccount(of)) => Credentials { kubernetes_service_accounts: vec![of.clone()], ..Credentials::default() },
        }
    }

    /// Takes over what else is known; whether anything is new.
    fn learn(&mut self, new: Credentials) -> bool {
        let before = self.clone();
        if self.node_pods_accessible {
            return false;
        }
        if new.node_pods_accessible {
            *self = new;
            return true;
        }
        for secret in new.kubernetes_secrets {
            self.kubernetes_secrets.retain(|known| known.of != secret.of);
            self.kubernetes_secrets.push(secret);
        }
        self.kubernetes_secrets.sort_by(|a, b| (&a.of.namespace, &a.of.name, &a.of.uid).cmp(&(&b.of.namespace, &b.of.name, &b.of.uid)));
        for account in new.kubernetes_service_accounts {
            if !self.kubernetes_service_accounts.contains(&account) {
                self.kubernetes_service_accounts.push(account);
            }
        }
        *self != before
    }
}

/// Whether a pod may have an image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    Granted,
    /// Only by pulling it.
    Refused,
    /// It depends on what credentials the pod has.
    Depends(Known),
}

/// Whose credentials open an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known(Credentials);

/// What a pod's credentials are worth.
#[derive(Clone, Debug, PartialEq)]
pub enum Worth {
    Granted {
        /// A secret that is to be remembered too.
        learnt: Option<Box<Credential>>,
    },
    Refused,
}

impl Known {
    pub fn worth(&self, pods: &[Credential]) -> Worth {
        let known = &self.0.kubernetes_secrets;
        let may_learn = known.len() < MOST_LEARNT;
        for credential in pods {
            match &credential.source {
                Source::Node => {}
                Source::Secret(of) => {
                    let hash = credential.hash();
                    for secret in known {
                        let (same_words, same_secret) = (secret.credential_hash == hash, secret.of == *of);
                        if same_words {
                            let learnt = (!same_secret && may_learn).then(|| Box::new(credential.clone()));
                            return Worth::Granted { learnt };
                        }
                        // The secret has another content since: its owner had access.
                        if same_secret && may_learn {
                            return Worth::Granted { learnt: Some(Box::new(credential.clone())) };
                        }
                    }
                }
                Source::ServiceAccount(of) if self.0.kubernetes_service_accounts.contains(of) => return Worth::Granted { learnt: None },
                Source::ServiceAccount(_) => {}
            }
        }
        Worth::Refused
    }
}

/// Decides from what is recorded. `pulled`: a pull by the kubelet has begun at least.
fn access(policy: &Policy, image: &str, record: Option<&Record>, pulled: bool) -> Access {
    if !policy.verifies(image, pulled) {
        return Access::Granted;
    }
    let known = record.zip(without_version(image)).and_then(|(record, name)| record.credential_mapping.get(name));
    match known {
        Some(known) if known.node_pods_accessible => Access::Granted,
        Some(known) if known.kubernetes_secrets.is_empty() && known.kubernetes_service_accounts.is_empty() => Access::Refused,
        Some(known) => Access::Depends(Known(known.clone())),
        None => Access::Refused,
    }
}

/// The records. Clones are the same.
#[derive(Clone)]
pub struct PullRecords {
    shared: Arc<Shared>,
}

struct Shared {
    pulling: PathBuf,
    pulled: PathBuf,
    policy: Policy,
    /// How many pulls of an image are under way. One lock for all files too.
    intents: Mutex<HashMap<String, usize>>,
}

pub(super) fn sha256(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{PREFIX}{}", sha256(name)))
}

fn read<T: DeserializeOwned>(file: &Path) -> io::Result<Option<T>> {
    match std::fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => Ok(Some(serde_json::from_slice(&text?)?)),
    }
}

fn write(file: &Path, value: &impl Serialize) -> io::Result<()> {
    let next = file.with_extension(&TEMPORARY[1..]);
    std::fs::write(&next, serde_json::to_vec(value)?)?;
    std::fs::rename(&next, file)
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whatever is in a directory and can be read.
fn all<T: DeserializeOwned>(directory: &Path) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !name.starts_with(PREFIX) || name.ends_with(TEMPORARY) {
            continue;
        }
        match read(&path) {
            Ok(value) => found.extend(value),
            Err(error) => tracing::warn!(file = %path.display(), %error, "a record of a pull cannot be read"),
        }
    }
    Ok(found)
}

impl PullRecords {
    /// Opens the records, and takes what earlier pulls left: of `images` that are there now it is not known who may have them.
    pub fn open(root_dir: &Path, policy: Policy, images: &[v1::Image]) -> io::Result<PullRecords> {
        use std::os::unix::fs::DirBuilderExt;
        let directory = root_dir.join("image_manager");
        let (pulling, pulled) = (directory.join("pulling"), directory.join("pulled"));
        for directory in [&pulling, &pulled] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let shared = Shared { pulling, pulled, policy, intents: Mutex::default() };
        let intents: HashSet<String> = all::<Intent>(&shared.pulling)?.into_iter().map(|intent| intent.image).collect();
        for image in images {
            for name in image.repo_digests.iter().chain(&image.repo_tags).filter(|name| intents.contains(*name)) {
                shared.remember(name, &image.id, None)?;
                remove(&file(&shared.pulling, name))?;
            }
        }
        Ok(PullRecords { shared: Arc::new(shared) })
    }

    /// Whether a pod may have an image (as its container names it) that is there under this reference.
    pub fn access(&self, image: &str, image_ref: &str) -> Access {
        let intents = self.shared.intents.lock();
        let record = match self.shared.record(image_ref) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(image, %error, "the record of a pull cannot be read");
                return Access::Refused;
            }
        };
        let is_intended = || intents.contains_key(image) || file(&self.shared.pulling, image).exists();
        let pulled = record.is_some() || is_intended();
        access(&self.shared.policy, image, record.as_ref(), pulled)
    }

    /// Writes down that an image is about to be pulled.
    pub fn begin(&self, image: &str) -> io::Result<()> {
        let mut intents = self.shared.intents.lock();
        let intent = Intent { kind: "ImagePullIntent".to_owned(), api_version: API_VERSION.to_owned(), image: image.to_owned() };
        write(&file(&self.shared.pulling, image), &intent)?;
        *intents.entry(image.to_owned()).or_default() += 1;
        Ok(())
    }

    /// A pull has ended: in this image, with these credentials, if it did not fail.
    pub fn end(&self, image: &str, pulled: Option<(&str, Option<&Credential>)>) -> io::Result<()> {
        let mut intents = self.shared.intents.lock();
        if let Some((image_ref, used)) = pulled {
            // If that fails the intent stays, so that the image still counts as pulled.
            self.shared.remember(image, image_ref, Some(Credentials::shown(used)))?;
        }
        let left = intents.get(image).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            remove(&file(&self.shared.pulling, image))?;
            intents.remove(image);
        } else {
            intents.insert(image.to_owned(), left);
        }
        Ok(())
    }

    /// Remembers that these credentials open an image too.
    pub fn learn(&self, image: &str, image_ref: &str, credential: &Credential) -> io::Result<()> {
        let _one_at_a_time = self.shared.intents.lock();
        self.shared.remember(image, image_ref, Some(Credentials::shown(Some(credential))))
    }

    /// Forgets images that are not among these, unless they were pulled since the list was asked for.
    pub fn prune(&self, images: &[v1::Image], listed: Timestamp) -> io::Result<()> {
        let _one_at_a_time = self.shared.intents.lock();
        for record in all::<Record>(&self.shared.pulled)? {
            if record.last_updated_time < listed && !images.iter().any(|image| image.id == record.image_ref) {
                remove(&file(&self.shared.pulled, &record.image_ref))?;
            }
        }
        Ok(())
    }
}

impl Shared {
    fn record(&self, image_ref: &str) -> io::Result<Option<Record>> {
        Ok(read::<Record>(&file(&self.pulled, image_ref))?.filter(|record| record.image_ref == image_ref))
    }

    fn remember(&self, image: &str, image_ref: &str, credentials: Option<Credentials>) -> io::Result<()> {
        let name = without_version(image).ok_or_else(|| io::Error::other(format!("invalid image name {image:?}")))?;
        let known = self.record(image_ref).unwrap_or_else(|error| {
            tracing::warn!(image, %error, "the record of a pull cannot be read and is made anew");
            None
        });
        let is_new = known.is_none();
        let mut record = known.unwrap_or_else(|| Record {
            kind: "ImagePulledRecord".to_owned(),
            api_version: API_VERSION.to_owned(),
            last_updated_time: Timestamp::UNIX_EPOCH,
            image_ref: image_ref.to_owned(),
            credential_mapping: BTreeMap::new(),
        });
        let has_learnt = credentials.is_some_and(|new| match record.credential_mapping.get_mut(name) {
            Some(known) => known.learn(new),
            None => record.credential_mapping.insert(name.to_owned(), new).is_none(),
        });
        if !is_new && !has_learnt {
            return Ok(());
        }
        let now = Timestamp::now();
        record.last_updated_time = Timestamp::from_second(now.as_second()).unwrap_or(now);
        write(&file(&self.pulled, image_ref), &record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::AuthConfig;

    fn secret(name: &str, password: &str) -> Credential {
        let of = Coordinates { uid: name.to_owned(), namespace: "n".to_owned(), name: name.to_owned() };
        let auth = AuthConfig { username: "u".to_owned(), password: password.to_owned(), ..AuthConfig::default() };
        Credential { auth, source: Source::Secret(of) }
    }

    fn image(id: &str, tag: &str) -> v1::Image {
        v1::Image { id: id.to_owned(), repo_tags: vec![tag.to_owned()], ..v1::Image::default() }
    }

    #[test]
    fn a_policy_says_which_images_are_verified() {
        let listed = ["r.io/a".to_owned(), "r.io/team/*".to_owned()];
        for (policy, image, pulled, expect) in [
            ("", "a", true, true),
            ("", "a", false, false),
            ("NeverVerify", "a", true, false),
            ("AlwaysVerify", "a", false, true),
            ("NeverVerifyAllowlistedImages", "r.io/a:1", true, false),
            ("NeverVerifyAllowlistedImages", "r.io/team/b", true, false),
            ("NeverVerifyAllowlistedImages", "r.io/b", false, true),
        ] {
            assert_eq!(Policy::parse(policy, &listed).expect("it is one").verifies(image, pulled), expect, "{policy} {image}");
        }
        for wrong in ["a:1", " a", "*", "a*b/*", "/*"] {
            assert!(Policy::parse("NeverVerifyAllowlistedImages", &[wrong.to_owned()]).is_err(), "{wrong}");
        }
        assert!(Policy::parse("Sometimes", &[]).is_err());
        let digest = format!("a:1@sha256:{}", "0".repeat(64));
        assert_eq!(
            (without_version(&digest), without_version("r.io:5000/a:1"), without_version("A b")),
            (Some("a"), Some("r.io:5000/a"), None)
        );
    }

    #[test]
    fn who_could_pull_an_image_gets_it() {
        let root = tempfile::tempdir().expect("there is a directory for temporary files");
        let records = PullRecords::open(root.path(), Policy::Pulled, &[]).expect("it is writable");
        // Nobody pulled it: it was there before.
        assert_eq!(records.access("r.io/a:1", "sha256:1"), Access::Granted);
        records.begin("r.io/a:1").expect("it is writable");
        assert_eq!(records.access("r.io/a:1", "sha256:1"), Access::Refused);
        records.end("r.io/a:1", Some(("sha256:1", Some(&secret("s", "p"))))).expect("it is writable");
        let Access::Depends(known) = records.access("r.io/a:1", "sha256:1") else { panic!("it depends") };
        assert_eq!(known.worth(&[]), Worth::Refused);
        assert_eq!(known.worth(&[secret("s", "p")]), Worth::Granted { learnt: None });
        assert_eq!(known.worth(&[secret("other", "q")]), Worth::Refused);
        assert_eq!(known.worth(&[secret("s", "changed")]), Worth::Granted { learnt: Some(Box::new(secret("s", "changed"))) });
        assert_eq!(known.worth(&[secret("other", "p")]), Worth::Granted { learnt: Some(Box::new(secret("other", "p"))) });
        records.learn("r.io/a:1", "sha256:1", &secret("other", "p")).expect("it is writable");
        let Access::Depends(known) = records.access("r.io/a:1", "sha256:1") else { panic!("it depends") };
        assert_eq!(known.worth(&[secret("other", "p")]), Worth::Granted { learnt: None });
        // Under another name nobody has shown anything.
        assert_eq!(records.access("r.io/b:1", "sha256:1"), Access::Refused);
        records.begin("r.io/a:1").expect("it is writable");
        records.end("r.io/a:1", Some(("sha256:1", None))).expect("it is writable");
        assert_eq!(records.access("r.io/a:1", "sha256:1"), Access::Granted);
    }

    #[test]
    fn records_survive_and_go_with_their_images() {
        let root = tempfile::tempdir().expect("there is a directory for temporary files");
        let open = |images: &[v1::Image]| PullRecords::open(root.path(), Policy::Pulled, images).expect("it is writable");
        let records = open(&[]);
        records.begin("a:1").expect("it is writable");
        records.begin("b:1").expect("it is writable");
        records.begin("b:1").expect("it is writable");
        records.end("b:1", None).expect("it is writable");
        assert_eq!(records.access("b:1", "sha256:b"), Access::Refused);
        records.end("b:1", None).expect("it is writable");
        assert_eq!(records.access("b:1", "sha256:b"), Access::Granted);
        // The pull of the first ended while nobody looked.
        let records = open(&[image("sha256:a", "a:1")]);
        assert_eq!(records.access("a:1", "sha256:a"), Access::Refused);
        assert_eq!(std::fs::read_dir(root.path().join("image_manager/pulling")).expect("it is there").count(), 0);
        let later = Timestamp::now() + k8s_openapi::jiff::SignedDuration::from_secs(5);
        records.prune(&[image("sha256:a", "a:1")], later).expect("it is writable");
        assert_eq!(records.access("a:1", "sha256:a"), Access::Refused);
        records.prune(&[], later).expect("it is writable");
        assert_eq!(records.access("a:1", "sha256:a"), Access::Granted);
    }
}
