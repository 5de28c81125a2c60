//! The token controller: fills Secrets of type `kubernetes.io/service-account-token` for the service accounts that they name, and
//! deletes them with these.
//!
//! It makes no Secret. Pods get tokens from the API server, which end; these are for whoever needs one that does not.

mod sign;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use client::controller::Outcome;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};

use crate::failure;
use crate::manager::Context;
use sign::Signer;

pub const TYPE: &str = "kubernetes.io/service-account-token";
pub const NAME_ANNOTATION: &str = "kubernetes.io/service-account.name";
pub const UID_ANNOTATION: &str = "kubernetes.io/service-account.uid";

/// How often a file that cannot be used is looked at.
const FILE_PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Sign(#[from] sign::Error),
    #[error("{}", failure::message(.0))]
    Request(#[from] kube::Error),
}

/// A Secret that is gone, which the service account may still list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Removed {
    account: ObjectKey,
    secret: String,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.secret, self.account)
    }
}

struct Controller {
    client: Client,
    accounts: Informer<ServiceAccount>,
    secrets: Informer<Secret>,
    signer: Signer,
    /// What pods trust the API server by; empty if nobody said.
    root_ca: Vec<u8>,
}

pub async fn run(context: Context) {
    let Some(path) = &context.config.service_account_private_key_file else {
        tracing::warn!(controller = context.name, "no private key is given, Secrets get no tokens");
        return;
    };
    let Some(signer) = read(&context, path, |pem| Signer::from_pem(pem).map_err(|error| error.to_string())).await else { return };
    let root_ca = match &context.config.root_ca_file {
        None => Vec::new(),
        Some(path) => match read(&context, path, |text| Ok(text.as_bytes().to_vec())).await {
            Some(bytes) => bytes,
            None => return,
        },
    };
    let informers = &context.informers;
    let controller = Controller { client: context.client.clone(), accounts: informers.of(), secrets: informers.of(), signer, root_ca };
    let (queue, removed) = (Queue::named("serviceaccount_tokens_service"), Queue::named("serviceaccount_tokens_service"));
    controller.watch(&queue, &removed);
    controller.accounts.synced().await;
    controller.secrets.synced().await;
    let (workers, stop) = (context.config.concurrent_serviceaccount_token_syncs, &context.shutdown);
    let secrets = client::controller::run(context.name, queue, workers, stop.clone(), |key: ObjectKey| controller.sync(key));
    let references = client::controller::run(context.name, removed, workers, stop.clone(), |key: Removed| controller.unlist(key));
    tokio::join!(secrets, references);
}

/// What a file holds, as soon as it does: an API server that starts at the same time may yet have to make its key. Nothing if
/// shutdown comes first.
async fn read<T>(context: &Context, path: &Path, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
    let mut told = false;
    loop {
        let error = match tokio::fs::read_to_string(path).await.map_err(|error| error.to_string()).and_then(|text| parse(&text)) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(controller = context.name, path = %path.display(), %error, "the file cannot be used, waiting for it");
        }
        tokio::select! {
            biased;
            () = context.shutdown.cancelled() => return None,
            () = tokio::time::sleep(FILE_PERIOD) => {}
        }
    }
}

/// The service account that a Secret is for: its name and, once the Secret is filled, its uid.
fn account_of(secret: &Secret) -> Option<(&str, &str)> {
    let name = secret.annotation(NAME_ANNOTATION).filter(|name| !name.is_empty())?;
    (secret.type_.as_deref() == Some(TYPE)).then(|| (name, secret.annotation(UID_ANNOTATION).unwrap_or("")))
}

fn is_account(account: &ServiceAccount, uid: &str) -> bool {
    uid.is_empty() || account.uid() == uid
}

/// The Secret with all that it should hold; nothing if it holds that.
fn fill(secret: &Secret, account: &ServiceAccount, root_ca: &[u8], signer: &Signer) -> Result<Option<Secret>, sign::Error> {
    let data = secret.data.clone().unwrap_or_default();
    let value = |key: &str| data.get(key).map_or(&[][..], |bytes| bytes.0.as_slice());
    let needs_ca = !root_ca.is_empty() && value("ca.crt") != root_ca;
    let (needs_namespace, needs_token) = (value("namespace").is_empty(), value("token").is_empty());
    if !needs_ca && !needs_namespace && !needs_token {
        return Ok(None);
    }
    let mut filled = secret.clone();
    let data = filled.data.get_or_insert_default();
    if needs_ca {
        data.insert("ca.crt".to_owned(), ByteString(root_ca.to_vec()));
    }
    if needs_namespace {
        data.insert("namespace".to_owned(), ByteString(secret.namespace().as_bytes().to_vec()));
    }
    if needs_token {
        let claims = sign::claims(secret.namespace(), account.name(), account.uid(), secret.name());
        data.insert("token".to_owned(), ByteString(signer.sign(&claims)?.into_bytes()));
    }
    let annotations = filled.metadata.annotations.get_or_insert_default();
    annotations.insert(NAME_ANNOTATION.to_owned(), account.name().to_owned());
    annotations.insert(UID_ANNOTATION.to_owned(), account.uid().to_owned());
    Ok(Some(filled))
}

impl Controller {
    fn watch(&self, queue: &Queue<ObjectKey>, removed: &Queue<Removed>) {
        let (sink, removed) = (queue.clone(), removed.clone());
        self.secrets.on_change(move |change| {
            let secret = change.object();
            let Some((account, _)) = account_of(secret) else { return };
            if matches!(change, Change::Deleted(_)) {
                removed.add(Removed { account: ObjectKey::new(secret.namespace(), account), secret: secret.name().to_owned() });
            } else {
                sink.add(secret.key());
            }
        });
        let (sink, secrets) = (queue.clone(), self.secrets.clone());
        self.accounts.on_change(move |change| {
            let account = change.object();
            if !matches!(change, Change::Updated { .. }) {
                let theirs = |secret: &Secret| account_of(secret).is_some_and(|(name, _)| name == account.name());
                secrets
                    .list_namespace(account.namespace())
                    .iter()
                    .filter(|secret| theirs(secret))
                    .for_each(|secret| sink.add(secret.key()));
            }
        });
    }

    async fn sync(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(secret) = self.secrets.get_key(&key) else { return Ok(Outcome::Done) };
        let Some((name, uid)) = account_of(&secret) else { return Ok(Outcome::Done) };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let account = match self.accounts.get(&key.namespace, name).filter(|account| is_account(account, uid)) {
            Some(account) => Some(account.as_ref().clone()),
            // It may be too new for the informer.
            None => {
                let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
                accounts.get_opt(name).await?.filter(|account| is_account(account, uid))
            }
        };
        let Some(account) = account else {
            let preconditions = Some(Preconditions { uid: secret.metadata.uid.clone(), resource_version: None });
            let params = DeleteParams { preconditions, ..DeleteParams::default() };
            return match api.delete(&key.name, &params).await {
                Err(error) if !answer::is_not_found(&error) && !answer::is_conflict(&error) => Err(error.into()),
                _ => Ok(Outcome::Done),
            };
        };
        if let Some(filled) = fill(&secret, &account, &self.root_ca, &self.signer)? {
            match api.replace(&key.name, &PostParams::default(), &filled).await {
                // Whoever changed it will be shown, and then it is looked at again.
                Err(error) if !answer::is_not_found(&error) && !answer::is_conflict(&error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(Outcome::Done)
    }

    /// Takes a Secret that is gone off its service account's list.
    async fn unlist(&self, removed: Removed) -> Result<Outcome, kube::Error> {
        let lists =
            |account: &ServiceAccount| account.secrets.iter().flatten().any(|secret| secret.name.as_deref() == Some(&removed.secret));
        let Some(account) = self.accounts.get_key(&removed.account).filter(|account| lists(account)) else { return Ok(Outcome::Done) };
        let mut account = account.as_ref().clone();
        account.secrets.iter_mut().for_each(|secrets| secrets.retain(|secret| secret.name.as_deref() != Some(&removed.secret)));
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &removed.account.namespace);
        answer::or_absent(api.replace(&removed.account.name, &PostParams::default(), &account).await)?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_filled_once() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let signer = Signer::from_pem(&pair.serialize_pem()).unwrap();
        let (mut secret, mut account) = (Secret::default(), ServiceAccount::default());
        (secret.metadata.name, secret.metadata.namespace) = (Some("s".to_owned()), Some("n".to_owned()));
        (account.metadata.name, account.metadata.uid) = (Some("a".to_owned()), Some("u".to_owned()));
        let filled = fill(&secret, &account, b"CA", &signer).unwrap().unwrap();
        assert_eq!(filled.data.as_ref().unwrap().keys().collect::<Vec<_>>(), ["ca.crt", "namespace", "token"]);
        assert_eq!(filled.annotation(UID_ANNOTATION), Some("u"));
        assert_eq!(fill(&filled, &account, b"CA", &signer).unwrap(), None);
        let renewed = fill(&filled, &account, b"other", &signer).unwrap().unwrap();
        assert_eq!(renewed.data.as_ref().unwrap()["token"], filled.data.unwrap()["token"]);
    }

    #[test]
    fn only_secrets_of_the_type_belong_to_an_account() {
        let mut secret = Secret::default();
        secret.metadata.annotations = Some([(NAME_ANNOTATION.to_owned(), "a".to_owned())].into());
        assert_eq!(account_of(&secret), None);
        secret.type_ = Some(TYPE.to_owned());
        assert_eq!(account_of(&secret), Some(("a", "")));
    }
}
