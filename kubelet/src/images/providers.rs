//! Plugins that give credentials for images: programs that read a request and write an answer, which is kept for as long as it says.
//!
//! Upstream: pkg/credentialprovider/plugin/plugin.go.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Object;
use futures::future::{BoxFuture, FutureExt, Shared};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::credentials::{Coordinates, Credential, Keyring, Source, url_matches};
use super::provider_config::{Account, Error, Provider, read};
use crate::instruments::{Instruments, PLUGIN_DURATION, PLUGIN_ERRORS};
use crate::volumes::Volumes;

/// How long a plugin may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How much a plugin may say.
const MAX_OUTPUT: u64 = 1 << 20;
/// Answers that are kept of one plugin; the one that ends first makes room.
const MAX_CACHED: usize = 1000;

/// An account's uid and annotations.
pub type Named = (String, BTreeMap<String, String>);

/// Where tokens and accounts of pods come from.
pub trait Accounts: Send + Sync + 'static {
    /// Who an account is.
    fn account(&self, namespace: String, name: String) -> BoxFuture<'_, Result<Named, String>>;
    /// A token of the pod's account.
    fn token<'a>(&'a self, pod: &'a Pod, audience: &'a str) -> BoxFuture<'a, Result<String, String>>;
}

/// The API server's accounts.
pub struct Cluster {
    pub client: Client,
    pub volumes: Volumes,
}

impl Accounts for Cluster {
    fn account(&self, namespace: String, name: String) -> BoxFuture<'_, Result<Named, String>> {
        Box::pin(async move {
            let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
            let account = accounts.get(&name).await.map_err(|error| error.to_string())?;
            Ok((account.uid().to_owned(), account.metadata.annotations.unwrap_or_default()))
        })
    }

    fn token<'a>(&'a self, pod: &'a Pod, audience: &'a str) -> BoxFuture<'a, Result<String, String>> {
        Box::pin(self.volumes.token(pod, audience))
    }
}

/// What a plugin says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: String,
    kind: String,
    #[serde(default)]
    cache_key_type: String,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: BTreeMap<String, Pair>,
}

#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Pair {
    username: String,
    password: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("username", &self.username).finish_non_exhaustive()
    }
}

type Auths = Arc<BTreeMap<String, Pair>>;
type Flight = Shared<BoxFuture<'static, Result<Arc<Answer>, String>>>;

/// Whose account an answer is for; nobody's where plugins are not told of accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct AccountKey {
    account: Coordinates,
    annotations: BTreeMap<String, String>,
    /// The pod and the hash of its token, if the answer is for that alone.
    token: Option<(String, String)>,
}

/// What an answer is for: an image, a registry, or (empty) everything.
type CacheKey = (String, AccountKey);

struct Kept {
    auths: Auths,
    until: Instant,
}

struct Plugin {
    provider: Provider,
    program: PathBuf,
    cache: Mutex<HashMap<CacheKey, Kept>>,
    /// Programs that run, by what they were asked: whoever asks the same waits for the same answer.
    flights: Mutex<HashMap<(String, AccountKey), Flight>>,
    metrics: Instruments,
}

/// All plugins. Clones are the same.
#[derive(Clone)]
pub struct Providers {
    plugins: Arc<Vec<Plugin>>,
    accounts: Arc<dyn Accounts>,
}

/// What a plugin is told of a pod's account.
#[derive(Default)]
struct Identity {
    key: AccountKey,
    coordinates: Option<Coordinates>,
    token: String,
}

impl Providers {
    /// Reads the configuration and looks for the programs.
    pub fn new(config: &Path, directory: &Path, accounts: Arc<dyn Accounts>, metrics: Instruments) -> Result<Providers, Error> {
        if !directory.is_dir() {
            return Err(Error::NoDirectory(directory.to_owned()));
        }
        let mut plugins = Vec::new();
        for provider in read(config)? {
            let program = directory.join(&provider.name);
            if !is_executable(&program) {
                return Err(Error::NoPlugin(program));
            }
            let (cache, flights, metrics) = (Mutex::default(), Mutex::default(), metrics.clone());
            plugins.push(Plugin { provider, program, cache, flights, metrics });
        }
        Ok(Providers { plugins: Arc::new(plugins), accounts })
    }

    /// What the plugins give for a repository that this pod pulls from. A plugin that fails gives nothing.
    pub async fn lookup(&self, repository: &str, pod: &Pod) -> Vec<Credential> {
        let mut keyring = Keyring::default();
        for plugin in self.plugins.iter() {
            match plugin.provide(repository, pod, &*self.accounts).await {
                Ok(Some((auths, account))) => {
                    let source = account.map_or(Source::Node, Source::ServiceAccount);
                    for (key, pair) in &*auths {
                        keyring.add_pair(key, pair.username.clone(), pair.password.clone(), source.clone());
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    let pod = crate::pod::describe(pod);
                    tracing::error!(
                        provider = plugin.provider.name,
                        image = repository,
                        pod,
                        error,
                        "failed to provide credentials for an image"
                    );
                }
            }
        }
        keyring.lookup(repository)
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn registry_of(image: &str) -> &str {
    image.split('/').next().unwrap_or(image)
}

impl Plugin {
    /// None if the plugin has nothing to say about the image.
    async fn provide(&self, image: &str, pod: &Pod, accounts: &dyn Accounts) -> Result<Option<(Auths, Option<Coordinates>)>, String> {
        if !self.provider.match_images.iter().any(|pattern| url_matches(pattern, image)) {
            return Ok(None);
        }
        let Some(identity) = self.identity(pod, accounts).await? else { return Ok(None) };
        if let Some(auths) = self.kept(image, &identity.key) {
            return Ok(Some((auths, identity.coordinates)));
        }
        let answer = self.ask(image, &identity).await;
        let answer = answer.map_err(|error| format!("failed to get credential from external registry credential provider: {error}"))?;
        let per_token = self.provider.account.as_ref().is_some_and(|account| account.per_token);
        if !identity.token.is_empty() && !per_token && answer.auth.values().any(|pair| pair.password == identity.token) {
            return Err("credential provider plugin returned the service account token as the password which is not allowed when service account cache type is not set to 'Token'".to_owned());
        }
        let base = match answer.cache_key_type.as_str() {
            "Image" => image,
            "Registry" => registry_of(image),
            "Global" => "",
            other => return Err(format!("credential provider plugin did not return a valid cacheKeyType: {other}")),
        };
        let auths: Auths = Arc::new(answer.auth.clone());
        let keep = match answer.cache_duration.as_deref() {
            None => self.provider.default_cache,
            Some(text) => Duration::from_nanos(u64::try_from(apimachinery::time::parse_duration(text)?).unwrap_or(0)),
        };
        if !keep.is_zero() {
            self.keep((base.to_owned(), identity.key), auths.clone(), keep);
        }
        Ok(Some((auths, identity.coordinates)))
    }

    /// What the plugin is told of the pod's account; none if it is not to be asked for this pod.
    async fn identity(&self, pod: &Pod, accounts: &dyn Accounts) -> Result<Option<Identity>, String> {
        let Some(wanted) = &self.provider.account else { return Ok(Some(Identity::default())) };
        let name = crate::pod::spec(pod).service_account_name.clone().unwrap_or_default();
        if name.is_empty() {
            return Ok((!wanted.is_required).then(Identity::default));
        }
        let account = accounts.account(pod.namespace().to_owned(), name.clone()).await;
        let (uid, all) = account.map_err(|error| format!("failed to get service account: {error}"))?;
        let Some(annotations) = annotations(wanted, &all) else { return Ok(None) };
        let token = accounts.token(pod, &wanted.audience).await.map_err(|error| format!("failed to get service account token: {error}"))?;
        let coordinates = Coordinates { uid, namespace: pod.namespace().to_owned(), name };
        let hash = || super::pull_records::sha256(&token);
        let key = AccountKey { account: coordinates.clone(), annotations, token: wanted.per_token.then(|| (pod.uid().to_owned(), hash())) };
        Ok(Some(Identity { key, coordinates: Some(coordinates), token }))
    }

    fn kept(&self, image: &str, account: &AccountKey) -> Option<Auths> {
        let now = Instant::now();
        let cache = self.cache.lock();
        let mut found = [image, registry_of(image), ""].into_iter().filter_map(|base| cache.get(&(base.to_owned(), account.clone())));
        found.find(|kept| kept.until > now).map(|kept| kept.auths.clone())
    }

    fn keep(&self, key: CacheKey, auths: Auths, time: Duration) {
        let now = Instant::now();
        // What would be kept for longer than the clock can tell is not kept.
        let Some(until) = now.checked_add(time) else { return };
        let mut cache = self.cache.lock();
        cache.retain(|_, kept| kept.until > now);
        if cache.len() >= MAX_CACHED
            && let Some(first) = cache.iter().min_by_key(|(_, kept)| kept.until).map(|(key, _)| key.clone())
        {
            cache.remove(&first);
        }
        cache.insert(key, Kept { auths, until });
    }

    /// Runs the program, or waits for one that was asked the same.
    async fn ask(&self, image: &str, identity: &Identity) -> Result<Arc<Answer>, String> {
        let flying = (image.to_owned(), identity.key.clone());
        let flight = {
            let mut flights = self.flights.lock();
            let start = || {
                let request = request(&self.provider.api_version, image, identity);
                let running = run(self.program.clone(), self.provider.clone(), image.to_owned(), request);
                let (metrics, name) = (self.metrics.clone(), self.provider.name.clone());
                let measured = async move {
                    let began = Instant::now();
                    let answer = running.await;
                    metrics.took(&PLUGIN_DURATION, &[&name], began.elapsed());
                    if answer.is_err() {
                        metrics.count(&PLUGIN_ERRORS, &[&name]);
                    }
                    answer
                };
                measured.boxed().shared()
            };
            flights.entry(flying.clone()).or_insert_with(start).clone()
        };
        let answer = flight.await;
        self.flights.lock().remove(&flying);
        answer
    }
}

/// The annotations that a plugin is told of; none if one that it needs is not there.
fn annotations(wanted: &Account, all: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for key in &wanted.required_annotations {
        found.insert(key.clone(), all.get(key)?.clone());
    }
    let optional = wanted.optional_annotations.iter().filter_map(|key| Some((key.clone(), all.get(key)?.clone())));
    found.extend(optional);
    Some(found)
}

fn request(api_version: &str, image: &str, identity: &Identity) -> Value {
    let mut request = json!({"kind": "CredentialProviderRequest", "apiVersion": api_version, "image": image});
    if !identity.token.is_empty() {
        request["serviceAccountToken"] = json!(identity.token);
    }
    if !identity.key.annotations.is_empty() {
        request["serviceAccountAnnotations"] = json!(identity.key.annotations);
    }
    request
}

async fn run(program: PathBuf, provider: Provider, image: String, request: Value) -> Result<Arc<Answer>, String> {
    let name = &provider.name;
    let failed = |error: String| format!("error execing credential provider plugin {name} for image {image}: {error}");
    let mut command = tokio::process::Command::new(&program);
    command.args(&provider.args).envs(provider.env.iter().map(|variable| (&variable.name, &variable.value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
        return Err(failed("it has no pipes".to_owned()));
    };
    let work = async {
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let (mut stdout, mut stderr) = (stdout.take(MAX_OUTPUT), stderr.take(MAX_OUTPUT));
        let text = request.to_string();
        let ask = async {
            // A plugin that does not read to the end has its reasons.
            let _ = stdin.write_all(text.as_bytes()).await;
            drop(stdin);
        };
        let ((), read, read_errors) = tokio::join!(ask, stdout.read_to_end(&mut said), stderr.read_to_end(&mut complained));
        let status = child.wait().await?;
        read.and(read_errors)?;
        Ok::<_, std::io::Error>((status, said, complained))
    };
    let ended = tokio::time::timeout(TIMEOUT, work).await.map_err(|_| failed("context deadline exceeded".to_owned()))?;
    let (status, said, complained) = ended.map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(format!("{}: {}", failed(status.to_string()), String::from_utf8_lossy(&complained)));
    }
    answer(&said, &provider.api_version).map(Arc::new)
}

fn answer(said: &[u8], api_version: &str) -> Result<Answer, String> {
    // The answer may hold credentials, so that the error does not show it.
    let answer: Answer =
        serde_json::from_slice(said).map_err(|_| "error decoding credential provider plugin response from stdout".to_owned())?;
    if answer.api_version != api_version {
        return Err(format!(
            "apiVersion from credential plugin response did not match expected apiVersion:{api_version}, actual apiVersion:{}",
            answer.api_version
        ));
    }
    if answer.kind != "CredentialProviderResponse" {
        return Err("error decoding credential provider plugin response from stdout".to_owned());
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An account with an annotation; tokens tell for whom they are.
    struct One;

    impl Accounts for One {
        fn account(&self, _: String, _: String) -> BoxFuture<'_, Result<Named, String>> {
            Box::pin(async { Ok(("uid".to_owned(), BTreeMap::from([("example.com/role".to_owned(), "reader".to_owned())]))) })
        }

        fn token<'a>(&'a self, pod: &'a Pod, audience: &'a str) -> BoxFuture<'a, Result<String, String>> {
            let token = format!("{}@{audience}", pod.uid());
            Box::pin(async { Ok(token) })
        }
    }

    fn pod(uid: &str, account: &str) -> Pod {
        let spec = json!({"containers": [], "serviceAccountName": account});
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": uid}, "spec": spec})).expect("it is a pod")
    }

    /// Plugins in a directory: a shell script that counts its calls and answers with what it was told, and its configuration.
    fn providers(dir: &Path, cache: &str, attributes: &str) -> Providers {
        let script = format!(
            "#!/bin/sh\nread request\necho \"$request\" >> {0}/calls\necho '{{\"kind\": \"CredentialProviderResponse\", \"apiVersion\": \"credentialprovider.kubelet.k8s.io/v1\", {cache}, \"auth\": {{\"*.x.io\": {{\"username\": \"'$NAME'\", \"password\": \"'$1'\"}}}}}}'\n",
            dir.display()
        );
        let file = dir.join("script");
        std::fs::write(&file, script).expect("it is writable");
        // A program that was written a moment ago may be held open by another test's child.
        std::os::unix::fs::symlink("/bin/sh", dir.join("plugin")).expect("it is writable");
        let config = format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: plugin\n  matchImages: ['*.x.io']\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  args: [{}, secret]\n  env: [{{name: NAME, value: me}}]\n{attributes}",
            file.display()
        );
        let file = dir.join("config.yaml");
        std::fs::write(&file, config).expect("it is writable");
        Providers::new(&file, dir, Arc::new(One), Instruments::default()).expect("it is valid")
    }

    fn calls(dir: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(dir.join("calls")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
    }

    #[tokio::test]
    async fn a_plugin_is_asked_once_for_what_its_answer_holds_for() {
        for (cache, images, expect) in [
            ("\"cacheKeyType\": \"Image\"", ["a.x.io/a", "a.x.io/a", "a.x.io/b"], 2),
            ("\"cacheKeyType\": \"Registry\"", ["a.x.io/a", "a.x.io/b", "b.x.io/a"], 2),
            ("\"cacheKeyType\": \"Global\"", ["a.x.io/a", "a.x.io/b", "b.x.io/a"], 1),
            ("\"cacheKeyType\": \"Global\", \"cacheDuration\": \"0s\"", ["a.x.io/a", "a.x.io/a", "a.x.io/a"], 3),
        ] {
            let dir = tempfile::tempdir().expect("there is a directory for temporary files");
            let providers = providers(dir.path(), cache, "");
            for image in images {
                let found = providers.lookup(image, &pod("u", "")).await;
                assert_eq!((found[0].auth.username.as_str(), found[0].auth.password.as_str()), ("me", "secret"), "{cache}");
                assert_eq!(found[0].source, Source::Node);
            }
            assert_eq!(calls(dir.path()).len(), expect, "{cache}");
            assert!(providers.lookup("other.io/a", &pod("u", "")).await.is_empty());
            assert_eq!(
                calls(dir.path())[0],
                json!({"kind": "CredentialProviderRequest", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "image": "a.x.io/a"})
            );
        }
    }

    #[tokio::test]
    async fn a_plugin_hears_of_the_pods_account_and_its_answer_is_for_that() {
        let attributes = |kind: &str, key: &str| {
            format!(
                "  tokenAttributes: {{serviceAccountTokenAudience: reg, requireServiceAccount: true, cacheType: {kind}, requiredServiceAccountAnnotationKeys: [{key}]}}\n"
            )
        };
        for (kind, key, expect) in
            [("ServiceAccount", "example.com/role", 1), ("Token", "example.com/role", 2), ("Token", "example.com/none", 0)]
        {
            let dir = tempfile::tempdir().expect("there is a directory for temporary files");
            let providers = providers(dir.path(), "\"cacheKeyType\": \"Image\"", &attributes(kind, key));
            for uid in ["u", "w"] {
                let found = providers.lookup("a.x.io/a", &pod(uid, "robot")).await;
                let account = Coordinates { uid: "uid".to_owned(), namespace: "n".to_owned(), name: "robot".to_owned() };
                assert!(found.iter().all(|found| found.source == Source::ServiceAccount(account.clone())));
            }
            assert!(providers.lookup("a.x.io/a", &pod("x", "")).await.is_empty());
            let calls = calls(dir.path());
            assert_eq!(calls.len(), expect, "{kind} {key}");
            if let Some(call) = calls.first() {
                assert_eq!(
                    (&call["serviceAccountToken"], &call["serviceAccountAnnotations"]["example.com/role"]),
                    (&json!("u@reg"), &json!("reader"))
                );
            }
        }
    }

    #[test]
    fn an_answer_has_to_be_of_the_version_that_was_asked_for() {
        let version = "credentialprovider.kubelet.k8s.io/v1";
        let other = answer(br#"{"kind": "CredentialProviderResponse", "apiVersion": "a/v2"}"#, version).expect_err("it is another");
        assert!(other.ends_with("actual apiVersion:a/v2"), "{other}");
        assert_eq!(answer(b"secret", version).expect_err("it is none"), "error decoding credential provider plugin response from stdout");
    }
}
