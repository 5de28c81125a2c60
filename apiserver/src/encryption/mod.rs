//! Encryption at rest: what lies in the store of the resources that EncryptionConfiguration names.
//!
//! Stands between storage and the store ([`crate::storage::encrypted`]): the first provider of a resource writes, all read, and what
//! another than the first has written is stale. Formats are upstream's, so that either server reads what the other wrote.

mod ciphers;
mod config;
mod kms;
mod kms_metrics;
mod kms_service;
mod metrics;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use ring::digest::{SHA256, digest};
use tokio::sync::watch;

use self::ciphers::{Cbc, Gcm, Secretbox};
use self::config::{GroupResource, Key, Provider, Rule};
use self::kms::{Envelope, Follower};
use self::metrics::Metrics;
use crate::storage::encrypted::{Ciphers, Kind};
use crate::system::identity_lease;

/// How often a file that is to be read again is looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// How long what a former configuration knows is still good for reads that are under way.
const GRACE: Duration = Duration::from_secs(10);

/// What all encrypted values begin with.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// What the API server is told of encryption. Field names follow upstream's flags.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub encryption_provider_config: Option<PathBuf>,
    pub automatic_reload: bool,
}

/// One provider and what stands before the values that it has written.
struct Prefixed {
    prefix: Vec<u8>,
    cipher: Cipher,
}

enum Cipher {
    Identity,
    Gcm(Gcm),
    Cbc(Cbc),
    Secretbox(Secretbox),
    Kms(Arc<Envelope>),
    /// Keys of one provider.
    Keys(Vec<Prefixed>, &'static str),
}

/// The providers of every resource.
#[derive(Default)]
struct Providers {
    by_resource: HashMap<(String, String), Arc<Vec<Prefixed>>>,
    /// In the order of the file.
    plugins: Vec<Arc<Envelope>>,
    _followers: Vec<Follower>,
}

/// Encryption as it is configured now.
pub struct Encryption {
    providers: ArcSwap<Providers>,
    metrics: Metrics,
    /// Whether plugins are told of by one health check, if at all.
    reloads: bool,
}

/// Why encryption could not start, in upstream's words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Cipher {
    fn of_keys(keys: &[Key], make: impl Fn(&Key) -> Result<Cipher, String>, of: &'static str) -> Result<Cipher, String> {
        let key = |key: &Key| {
            let cipher = make(key).map_err(|why| format!("error while creating cipher for named key {}: {why}", key.name))?;
            Ok(Prefixed { prefix: format!("{}:", key.name).into_bytes(), cipher })
        };
        Ok(Cipher::Keys(keys.iter().map(key).collect::<Result<_, String>>()?, of))
    }

    fn seal<'a>(&'a self, plain: &'a [u8], at: &'a [u8]) -> Result<Vec<u8>, String> {
        match self {
            Cipher::Identity => Ok(plain.to_vec()),
            Cipher::Gcm(gcm) => gcm.seal(plain, at),
            Cipher::Cbc(cbc) => cbc.seal(plain),
            Cipher::Secretbox(secretbox) => secretbox.seal(plain),
            Cipher::Kms(envelope) => envelope.seal(plain, at),
            Cipher::Keys(keys, none) => {
                let first = keys.first().ok_or(*none)?;
                Ok([first.prefix.as_slice(), &first.cipher.seal(plain, at)?].concat())
            }
        }
    }

    fn open<'a>(&'a self, stored: Bytes, at: &'a [u8]) -> BoxFuture<'a, Result<(Vec<u8>, bool), String>> {
        async move {
            Ok(match self {
                Cipher::Identity if stored.starts_with(ENCRYPTED) => {
                    return Err("identity transformer tried to read encrypted data".to_owned());
                }
                Cipher::Identity => (stored.to_vec(), false),
                Cipher::Gcm(gcm) => (gcm.open(&stored, at)?, false),
                Cipher::Cbc(cbc) => (cbc.open(&stored)?, false),
                Cipher::Secretbox(secretbox) => (secretbox.open(&stored)?, false),
                Cipher::Kms(envelope) => envelope.open(stored, at).await?,
                Cipher::Keys(keys, none) => open_first(keys, stored, at, none).await?.0,
            })
        }
        .boxed()
    }
}

/// What the first provider makes of a value that it knows by what stands before it; and which it was.
async fn open_first<'p>(providers: &'p [Prefixed], stored: Bytes, at: &[u8], none: &str) -> Result<((Vec<u8>, bool), &'p [u8]), String> {
    let mut errors: Vec<String> = Vec::new();
    for (place, provider) in providers.iter().enumerate() {
        let Some(rest) = stored.strip_prefix(provider.prefix.as_slice()) else { continue };
        match provider.cipher.open(stored.slice_ref(rest), at).await {
            Ok((plain, stale)) => return Ok(((plain, stale || place > 0), &provider.prefix)),
            // What is encrypted may be a later provider's.
            Err(_) if provider.prefix.is_empty() => {}
            Err(why) if errors.contains(&why) => {}
            Err(why) => errors.push(why),
        }
    }
    Err(match errors.as_slice() {
        [] => none.to_owned(),
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    })
}

impl Providers {
    async fn of(rules: Vec<Rule>) -> Result<Providers, String> {
        let mut lists: HashMap<(String, String), Vec<Prefixed>> = HashMap::new();
        let mut made = Providers::default();
        for rule in rules {
            let mut plugins = Vec::new();
            for provider in &rule.providers {
                if let Provider::Kms(kms) = provider {
                    let (envelope, follower) = Envelope::start(kms).await;
                    made.plugins.push(envelope.clone());
                    made._followers.push(follower);
                    plugins.push(envelope);
                }
            }
            for GroupResource { group, resource } in &rule.resources {
                let list = lists.entry((group.clone(), resource.clone())).or_default();
                let mut plugins = plugins.iter();
                for provider in &rule.providers {
                    list.push(prefixed(provider, &mut plugins)?);
                }
            }
        }
        made.by_resource = lists.into_iter().map(|(resource, list)| (resource, Arc::new(list))).collect();
        Ok(made)
    }

    /// The providers of a resource; `None` for those that lie as they are.
    fn find(&self, kind: &Kind) -> Option<&Arc<Vec<Prefixed>>> {
        let of = |group: &str, resource: &str| self.by_resource.get(&(group.to_owned(), resource.to_owned()));
        of(&kind.group, &kind.resource).or_else(|| of(&kind.group, "*")).or_else(|| of("*", "*"))
    }
}

fn prefixed<'a>(provider: &Provider, plugins: &mut impl Iterator<Item = &'a Arc<Envelope>>) -> Result<Prefixed, String> {
    const NO_AES: &str = "no matching key was found for the provided AES transformer";
    const NO_SECRETBOX: &str = "no matching key was found for the provided Secretbox transformer";
    let (prefix, cipher) = match provider {
        Provider::Identity => (String::new(), Cipher::Identity),
        Provider::AesGcm(keys) => {
            ("k8s:enc:aesgcm:v1:".to_owned(), Cipher::of_keys(keys, |key| Gcm::new(&key.secret).map(Cipher::Gcm), NO_AES)?)
        }
        Provider::AesCbc(keys) => {
            ("k8s:enc:aescbc:v1:".to_owned(), Cipher::of_keys(keys, |key| Cbc::new(key.secret.clone()).map(Cipher::Cbc), NO_AES)?)
        }
        Provider::Secretbox(keys) => {
            let make = |key: &Key| Secretbox::new(&key.secret).map(Cipher::Secretbox);
            ("k8s:enc:secretbox:v1:".to_owned(), Cipher::of_keys(keys, make, NO_SECRETBOX)?)
        }
        Provider::Kms(kms) => {
            let envelope = plugins.next().cloned().ok_or("a plugin is missing")?;
            (format!("k8s:enc:kms:v2:{}:", kms.name), Cipher::Kms(envelope))
        }
    };
    Ok(Prefixed { prefix: prefix.into_bytes(), cipher })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| {
        let path = apimachinery::field::quote(&path.display().to_string());
        format!("error while parsing file: error while loading file: error reading encryption provider configuration file {path}: {error}")
    })
}

fn hash(text: &[u8]) -> Vec<u8> {
    digest(&SHA256, text).as_ref().to_vec()
}

impl Encryption {
    /// Reads the configuration; without one, values lie as they are. Reads it again as it changes, if that is wanted.
    pub async fn start(config: &Config, shutdown: watch::Receiver<bool>) -> Result<Arc<Encryption>, Error> {
        let reloads = config.automatic_reload && config.encryption_provider_config.is_some();
        let (providers, known) = match &config.encryption_provider_config {
            None => (Providers::default(), Vec::new()),
            Some(path) => {
                let text = read(path).map_err(Error)?;
                let rules = config::parse(&text, &path.display().to_string(), config.automatic_reload).map_err(Error)?;
                let building = |why| Error(format!("error while building transformers: {why}"));
                (Providers::of(rules).await.map_err(building)?, hash(&text))
            }
        };
        let encryption = Arc::new(Encryption { providers: ArcSwap::from_pointee(providers), metrics: Metrics::default(), reloads });
        if let Some(path) = config.encryption_provider_config.clone().filter(|_| reloads) {
            tokio::spawn(follow(encryption.clone(), path, known, shutdown));
        }
        Ok(encryption)
    }

    /// Takes a new configuration, if it is good and its plugins are well.
    async fn reload(&self, path: &Path, text: &[u8]) -> Result<(), String> {
        let rules = config::parse(text, &path.display().to_string(), true)?;
        let providers = Providers::of(rules).await.map_err(|why| format!("error while building transformers: {why}"))?;
        for plugin in &providers.plugins {
            plugin.check().await?;
        }
        let former = self.providers.swap(Arc::new(providers));
        // Whoever reads with it now still may.
        tokio::spawn(async move {
            tokio::time::sleep(GRACE).await;
            drop(former);
        });
        Ok(())
    }

    /// The name of the health check of all plugins; `None` if there is nothing to check.
    pub fn health_check(&self) -> Option<&'static str> {
        (self.reloads || !self.providers.load().plugins.is_empty()).then_some("kms-providers")
    }

    /// Whether all plugins are well.
    pub async fn check(&self) -> Result<(), String> {
        let plugins = self.providers.load_full();
        let mut errors = Vec::new();
        for (at, plugin) in plugins.plugins.iter().enumerate() {
            errors.extend(plugin.check().await.err().map(|why| format!("kms-provider-{at}: {why}")));
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            all => Err(format!("[{}]", all.join(", "))),
        }
    }

    pub fn render(&self, out: &mut String) {
        self.metrics.render(out);
        kms_metrics::KMS.render(out, &kms::hash(&identity_lease::name(&identity_lease::hostname())));
    }
}

/// Looks at the file from time to time. One that is not good changes nothing.
async fn follow(encryption: Arc<Encryption>, path: PathBuf, mut known: Vec<u8>, mut shutdown: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RELOAD_INTERVAL) => {}
            // An error says that nobody is left who could give the signal.
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        let text = match read(&path) {
            Ok(text) if hash(&text) == known => continue,
            read => read,
        };
        let outcome = match text {
            Ok(text) => encryption.reload(&path, &text).await.inspect(|()| known = hash(&text)),
            Err(why) => Err(why),
        };
        encryption.metrics.reloaded(outcome.is_ok());
        match outcome {
            Ok(()) => tracing::info!(path = %path.display(), "loaded new encryption config content"),
            Err(error) => tracing::error!(path = %path.display(), error, "the new encryption config was not taken"),
        }
    }
}

impl Ciphers for Encryption {
    fn is_plain(&self, kind: &Kind) -> bool {
        self.providers.load().find(kind).is_none()
    }

    fn seal(&self, kind: &Kind, key: &str, plain: Bytes) -> Result<Bytes, String> {
        let providers = self.providers.load();
        let Some(first) = providers.find(kind).and_then(|list| list.first()) else { return Ok(plain) };
        let sealed = first.cipher.seal(&plain, key.as_bytes());
        self.metrics.transformed(kind, "to_storage", &first.prefix, sealed.as_ref().err());
        Ok([first.prefix.as_slice(), &sealed?].concat().into())
    }

    fn open<'a>(&'a self, kind: &'a Kind, key: &'a str, stored: Bytes) -> BoxFuture<'a, Result<(Bytes, bool), String>> {
        const NO_PREFIX: &str = "no matching prefix found";
        async move {
            let Some(list) = self.providers.load().find(kind).cloned() else {
                return if stored.starts_with(ENCRYPTED) {
                    Err("identity transformer tried to read encrypted data".to_owned())
                } else {
                    Ok((stored, false))
                };
            };
            let opened = open_first(&list, stored, key.as_bytes(), NO_PREFIX).await;
            let prefix = opened.as_ref().map_or(b"unknown".as_slice(), |(_, prefix)| prefix);
            self.metrics.transformed(kind, "from_storage", prefix, opened.as_ref().err());
            opened.map(|((plain, stale), _)| (plain.into(), stale))
        }
        .boxed()
    }
}
