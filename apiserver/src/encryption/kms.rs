//! Envelope encryption by a KMS plugin (v2): values are sealed with keys that are derived from a seed, which the plugin has encrypted and
//! which stands, encrypted, with each value.
//!
//! Owns the seed that is written with, how long it may be used, and the seeds that have been decrypted. The plugin is asked for its key
//! once a minute (every ten seconds while something is wrong); with another key there is another seed. A plugin that is lost is missed
//! for writes three minutes later, for reads only where a seed has not been seen yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use ring::digest::{SHA256, digest};
use tokio::task::JoinHandle;

use super::ciphers::{Gcm, Seeded, random};
use super::config::Kms;
use super::kms_metrics::KMS;
use super::kms_service::{Service, StatusResponse};

const POSITIVE_INTERVAL: Duration = Duration::from_secs(60);
const NEGATIVE_INTERVAL: Duration = Duration::from_secs(10);
const SEED_MAX_TTL: Duration = Duration::from_secs(180);
/// How long a check that has been made is believed.
const HEALTHY_TTL: Duration = Duration::from_secs(20);
const UNHEALTHY_TTL: Duration = Duration::from_secs(3);
/// How long a plugin that could not decrypt a seed is not asked for it again.
const FAILURE_TTL: Duration = Duration::from_secs(1);

const MAX_SEED_BYTES: usize = 1024;
const MAX_KEY_ID_BYTES: usize = 1024;
const MAX_ANNOTATION_BYTES: usize = 32 * 1024;
/// Seeds that are remembered: about one for each start of a server and each key.
const MAX_SEEDS: usize = 4096;

const AES_GCM_KEY: i32 = 0;
const HKDF_SEED: i32 = 1;

/// What lies in the store.
#[derive(Clone, PartialEq, Message)]
pub struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    pub encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub encrypted_dek_source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    pub encrypted_dek_source_type: i32,
}

impl EncryptedObject {
    fn validate(&self) -> Result<(), String> {
        if ![AES_GCM_KEY, HKDF_SEED].contains(&self.encrypted_dek_source_type) {
            return Err(format!("unknown encryptedDEKSourceType: {}", self.encrypted_dek_source_type));
        }
        if self.encrypted_data.is_empty() {
            return Err("encrypted data is empty".to_owned());
        }
        let within = |what: &str, name: &str, size: usize, max: usize| match size {
            0 => Err(format!("failed to validate {what}: {name} is empty")),
            size if size > max => Err(format!("failed to validate {what}: {name} is {size} bytes, which exceeds the max size of {max}")),
            _ => Ok(()),
        };
        within("encrypted DEK source", "encrypted DEK source", self.encrypted_dek_source.len(), MAX_SEED_BYTES)?;
        within("key id", "keyID", self.key_id.len(), MAX_KEY_ID_BYTES)?;
        let total: usize = self.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        if total > MAX_ANNOTATION_BYTES {
            let why = format!("total size of annotations is {total}, which exceeds the max size of {MAX_ANNOTATION_BYTES}");
            return Err(format!("failed to validate annotations: {why}"));
        }
        Ok(())
    }

    /// What tells one seed from another.
    fn seed_id(&self) -> Vec<u8> {
        EncryptedObject { encrypted_data: Vec::new(), ..self.clone() }.encode_to_vec()
    }
}

/// What opens values.
enum Opener {
    Seeded(Seeded),
    /// As servers before v1.29 may have written.
    Key(Gcm),
}

impl Opener {
    fn open(&self, sealed: &[u8], at: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Opener::Seeded(seeded) => seeded.open(sealed, at),
            Opener::Key(gcm) => gcm.open(sealed, at),
        }
    }
}

/// The seed that is written with.
struct Current {
    opener: Arc<Opener>,
    /// Without data.
    object: EncryptedObject,
    expires: Instant,
}

struct Probe {
    at: Option<Instant>,
    ttl: Duration,
    outcome: Result<(), String>,
    /// The version of the API that the plugin has told first.
    version: String,
}

/// One plugin and what has been got from it.
pub struct Envelope {
    name: String,
    service: Service,
    current: ArcSwapOption<Current>,
    seeds: Mutex<HashMap<Vec<u8>, Arc<Opener>>>,
    failures: Mutex<HashMap<Vec<u8>, (Instant, String)>>,
    probe: tokio::sync::Mutex<Probe>,
}

impl Envelope {
    /// Asks the plugin once; it may come up later.
    pub async fn start(kms: &Kms) -> (Arc<Envelope>, Follower) {
        let probe = Probe { at: None, ttl: Duration::ZERO, outcome: Ok(()), version: String::new() };
        let envelope = Arc::new(Envelope {
            name: kms.name.clone(),
            service: Service::new(kms),
            current: ArcSwapOption::empty(),
            seeds: Mutex::default(),
            failures: Mutex::default(),
            probe: tokio::sync::Mutex::new(probe),
        });
        if let Err(error) = envelope.check().await {
            tracing::warn!(plugin = kms.name, error, "the KMS plugin is not healthy");
        }
        let following = envelope.clone();
        let task = tokio::spawn(async move {
            loop {
                let healthy = following.probe.lock().await.outcome.is_ok();
                tokio::time::sleep(if healthy { POSITIVE_INTERVAL } else { NEGATIVE_INTERVAL }).await;
                if let Err(error) = following.check().await {
                    tracing::warn!(plugin = following.name, error, "the KMS plugin is not healthy");
                }
            }
        });
        (envelope, Follower(task))
    }

    /// Whether the plugin is well, and whether its key is the one that is written with. What was found a moment ago counts.
    pub async fn check(&self) -> Result<(), String> {
        let mut probe = self.probe.lock().await;
        if probe.at.is_some_and(|at| at.elapsed() < probe.ttl) {
            return probe.outcome.clone();
        }
        let outcome = match self.service.status().await {
            Ok(status) => self.take(&status, &mut probe.version).await,
            Err(why) => Err(format!("failed to perform status section of the healthz check for KMS Provider {}, error: {why}", self.name)),
        };
        probe.ttl = if outcome.is_ok() { HEALTHY_TTL } else { UNHEALTHY_TTL };
        probe.at = Some(Instant::now());
        probe.outcome.clone_from(&outcome);
        outcome
    }

    async fn take(&self, status: &StatusResponse, known_version: &mut String) -> Result<(), String> {
        let mut errors = Vec::new();
        if status.healthz != "ok" {
            errors.push(format!("got unexpected healthz status: {}", status.healthz));
        }
        if !["v2", "v2beta1"].contains(&status.version.as_str()) {
            errors.push(format!("expected KMSv2 API version v2, got {}", status.version));
        } else if known_version.is_empty() {
            known_version.clone_from(&status.version);
        } else if *known_version != status.version {
            let (known, got) = (known_version, &status.version);
            errors.push(format!("KMSv2 API version should not change after the initial status response version {known}, got {got}"));
        }
        match status.key_id.len() {
            0 => {
                KMS.invalid(&self.name, "empty");
                errors.push("got invalid KMSv2 KeyID hash \"\": keyID is empty".to_owned());
            }
            size if size > MAX_KEY_ID_BYTES => {
                KMS.invalid(&self.name, "too_long");
                let hash = hash(&status.key_id);
                let why = format!("keyID is {size} bytes, which exceeds the max size of {MAX_KEY_ID_BYTES}");
                errors.push(format!("got invalid KMSv2 KeyID hash \"{hash}\": {why}"));
            }
            _ => {
                KMS.told(&self.name, hash(&status.key_id));
                errors.extend(self.rotate(&status.key_id).await.err());
            }
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(format!("kmsv2 Provider {} is not healthy, error: {one}", self.name)),
            all => Err(format!("kmsv2 Provider {} is not healthy, error: [{}]", self.name, all.join(", "))),
        }
    }

    /// Goes on with the seed if the key is the same, makes another otherwise.
    async fn rotate(&self, key_id: &str) -> Result<(), String> {
        // Counted from before the call, so that it is the most that it can be.
        let expires = Instant::now() + SEED_MAX_TTL;
        let current = self.current.load_full();
        if let Some(current) = current.as_ref().filter(|current| current.object.key_id == key_id) {
            let current = Current { opener: current.opener.clone(), object: current.object.clone(), expires };
            self.current.store(Some(Arc::new(current)));
            return Ok(());
        }
        let failed = |why: &str, encrypted_with: &str| {
            let of = |key_id: &str| if key_id.is_empty() { String::new() } else { hash(key_id) };
            let old = current.as_ref().map_or("", |current| current.object.key_id.as_str());
            format!(
                "failed to rotate DEK useSeed=true, errGen={why}, statusKeyIDHash=\"{}\", encryptKeyIDHash=\"{}\", stateKeyIDHash=\"{}\"",
                of(key_id),
                of(encrypted_with),
                of(old)
            )
        };
        let seed: [u8; 32] = random()?;
        let opener = Arc::new(Opener::Seeded(Seeded::new(&seed)?));
        let encrypted = self.service.encrypt(seed.to_vec()).await;
        let encrypted = encrypted.map_err(|why| failed(&format!("failed to encrypt DEK, error: {why}"), ""))?;
        let object = EncryptedObject {
            // Any data, for the check.
            encrypted_data: vec![0],
            key_id: encrypted.key_id,
            encrypted_dek_source: encrypted.ciphertext,
            annotations: encrypted.annotations,
            encrypted_dek_source_type: HKDF_SEED,
        };
        object.validate().map_err(|why| failed(&why, &object.key_id))?;
        if object.key_id != key_id {
            return Err(failed("<nil>", &object.key_id));
        }
        let object = EncryptedObject { encrypted_data: Vec::new(), ..object };
        self.remember(object.seed_id(), opener.clone());
        self.current.store(Some(Arc::new(Current { opener, object, expires })));
        Ok(())
    }

    fn remember(&self, id: Vec<u8>, opener: Arc<Opener>) {
        let mut seeds = self.seeds.lock();
        if seeds.len() >= MAX_SEEDS {
            // They can be had again.
            seeds.clear();
        }
        seeds.insert(id, opener);
        KMS.seeds(&self.name, seeds.len());
    }

    /// The value sealed, with all that is needed to open it.
    pub fn seal(&self, plain: &[u8], at: &[u8]) -> Result<Vec<u8>, String> {
        // Upstream's words for a plugin that has never been well.
        let current = self.current.load_full().ok_or("got unexpected nil transformer")?;
        if Instant::now() > current.expires {
            let hash = hash(&current.object.key_id);
            return Err(format!("encryptedDEKSource with keyID hash \"{hash}\" expired, the KMS provider {} is not healthy", self.name));
        }
        KMS.used("to_storage", &self.name, hash(&current.object.key_id));
        let Opener::Seeded(seeded) = &*current.opener else { return Err("got unexpected nil transformer".to_owned()) };
        Ok(EncryptedObject { encrypted_data: seeded.seal(plain, at)?, ..current.object.clone() }.encode_to_vec())
    }

    /// The value, and whether it would be written with another key now.
    pub async fn open(&self, stored: Bytes, at: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let object = EncryptedObject::decode(stored).map_err(|error| error.to_string())?;
        object.validate()?;
        let current = self.current.load_full().ok_or("got unexpected nil transformer")?;
        let id = object.seed_id();
        let known = self.seeds.lock().get(&id).cloned();
        let opener = match known {
            Some(opener) => opener,
            None => self.decrypt(&object, id).await?,
        };
        KMS.used("from_storage", &self.name, hash(&object.key_id));
        let plain = opener.open(&object.encrypted_data, at)?;
        let stale = object.key_id != current.object.key_id || object.encrypted_dek_source_type != current.object.encrypted_dek_source_type;
        Ok((plain, stale))
    }

    async fn decrypt(&self, object: &EncryptedObject, id: Vec<u8>) -> Result<Arc<Opener>, String> {
        if let Some((at, why)) = self.failures.lock().get(&id)
            && at.elapsed() < FAILURE_TTL
        {
            return Err(why.clone());
        }
        let (source, key_id, annotations) = (object.encrypted_dek_source.clone(), object.key_id.clone(), object.annotations.clone());
        let key = match self.service.decrypt(source, key_id, annotations).await {
            Ok(key) => key,
            Err(why) => {
                let why = format!("failed to decrypt DEK, error: {why}");
                let mut failures = self.failures.lock();
                failures.retain(|_, (at, _)| at.elapsed() < FAILURE_TTL);
                failures.insert(id, (Instant::now(), why.clone()));
                return Err(why);
            }
        };
        let opener = match object.encrypted_dek_source_type {
            HKDF_SEED => Opener::Seeded(Seeded::new(&key)?),
            _ => Opener::Key(Gcm::new(&key)?),
        };
        let opener = Arc::new(opener);
        self.remember(id, opener.clone());
        Ok(opener)
    }
}

/// Asks a plugin from time to time, as long as this lives.
pub struct Follower(JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a key's id is shown: not as it is.
pub fn hash(key_id: &str) -> String {
    let hex: String = digest(&SHA256, key_id.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
