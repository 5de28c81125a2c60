//! ServiceAccount: every pod runs as an account of its namespace, and gets that account's token and pull secrets.

use std::sync::Arc;

use std::time::Duration;

use apimachinery::field::quote;
use apimachinery::go_bool;
use apimachinery::status::Status;
use futures::future::BoxFuture;
use rand::RngExt;
use serde_json::{Value, json};

use super::pod_references::{append, invalid_name, is_mirror, names_a_secret, object_mut};
use super::{Attributes, Cluster, Operation, WaitingPlugin};
use crate::endpoints::meta::generate_name;
use crate::registry::read::{at, list_at, str_at};

/// The account of pods that name none; a controller makes it in every namespace.
const DEFAULT: &str = "default";
/// Where containers find the token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What the names of token volumes start with.
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour, and seven seconds by which the token's users are known to expect an old-fashioned token.
const EXPIRATION_SECONDS: u32 = 3607;
/// Accounts with this annotation let pods use only the secrets that the account lists.
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
/// How often the default account of a new namespace is looked for, because its controller may not have been there yet.
const DEFAULT_ATTEMPTS: usize = 10;

/// The plugin.
pub struct ServiceAccount;

impl WaitingPlugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn admit<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        cluster: &'a dyn Cluster,
        new: &'a mut Value,
        _old: Option<&'a Value>,
        _warnings: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if attributes.operation != Operation::Create || !attributes.is_main("", "pods") {
                return Ok(());
            }
            // A kubelet compares the mirror with its static pod, so it stays as it is.
            if is_mirror(new) {
                return check_mirror(attributes, new);
            }
            default_name(new);
            let account = account_of(attributes, cluster, new).await?;
            if mounts_token(&account, new) {
                mount_token(new, || generate_name(VOLUME_PREFIX));
            }
            take_pull_secrets(&account, new);
            check_mountable(attributes, &account, new)
        })
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        cluster: &'a dyn Cluster,
        new: Option<&'a Value>,
        _old: Option<&'a Value>,
        _warnings: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(pod) = new.filter(|_| attributes.is("", "pods")) else { return Ok(()) };
            match (attributes.operation, attributes.subresource) {
                (Operation::Create, "") if is_mirror(pod) => check_mirror(attributes, pod),
                (Operation::Create, "") => {
                    let account = account_of(attributes, cluster, pod).await?;
                    check_mountable(attributes, &account, pod)
                }
                (Operation::Update, "ephemeralcontainers") => {
                    let account = account_of(attributes, cluster, pod).await?;
                    check_ephemeral(attributes, &account, pod)
                }
                _ => Ok(()),
            }
        })
    }
}

fn check_mirror(attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    let refuse = |what: &str| Err(attributes.forbidden(Some(pod), what));
    if !str_at(pod, "/spec/serviceAccountName").is_empty() {
        return refuse("a mirror pod may not reference service accounts");
    }
    if names_a_secret(pod) {
        return refuse("a mirror pod may not reference secrets");
    }
    let mut projections = list_at(pod, "/spec/volumes").iter().flat_map(|v| list_at(v, "/projected/sources"));
    if projections.any(|source| source.get("serviceAccountToken").is_some()) {
        return refuse("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// Names the default account, under the field's old name too.
fn default_name(pod: &mut Value) {
    if str_at(pod, "/spec/serviceAccountName").is_empty()
        && let Some(spec) = object_mut(pod, &["spec"])
    {
        spec.insert("serviceAccountName".to_owned(), DEFAULT.into());
        spec.insert("serviceAccount".to_owned(), DEFAULT.into());
    }
}

/// The pod's account, waited for a little if it is the default one.
async fn account_of(attributes: &Attributes<'_>, cluster: &dyn Cluster, pod: &Value) -> Result<Arc<Value>, Status> {
    let namespace = attributes.namespace;
    let name = str_at(pod, "/spec/serviceAccountName");
    if name.is_empty() {
        let pod_name = str_at(pod, "/metadata/name");
        return Err(attributes.forbidden(Some(pod), &format!("no service account specified for pod {namespace}/{pod_name}")));
    }
    let attempts = if name == DEFAULT { DEFAULT_ATTEMPTS } else { 1 };
    let interval = Duration::from_millis(rand::rng().random_range(100..200));
    for attempt in 0..attempts {
        if attempt > 0 {
            tokio::time::sleep(interval).await;
        }
        if let Some(account) = cluster.get("", "serviceaccounts", namespace, name) {
            return Ok(account);
        }
    }
    let cause = match invalid_name(name) {
        Some(invalid) => invalid,
        None => format!("serviceaccount {} not found", quote(name)),
    };
    let why = format!("error looking up service account {namespace}/{name}: {cause}");
    Err(attributes.forbidden(Some(pod), &why))
}

/// The pod decides, then the account; otherwise the token is mounted.
fn mounts_token(account: &Value, pod: &Value) -> bool {
    let of_pod = at(pod, "/spec/automountServiceAccountToken").as_bool();
    of_pod.or_else(|| at(account, "/automountServiceAccountToken").as_bool()).unwrap_or(true)
}

/// Mounts the token into every container that has nothing else at its place; `new_name` names a volume.
fn mount_token(pod: &mut Value, new_name: impl FnOnce() -> String) {
    let existing = list_at(pod, "/spec/volumes").iter().map(|v| str_at(v, "/name")).find(|name| name.starts_with(VOLUME_PREFIX));
    let existing = existing.map(str::to_owned);
    let has_volume = existing.is_some();
    let name = existing.unwrap_or_else(new_name);
    let mut needed = false;
    let Some(spec) = object_mut(pod, &["spec"]) else { return };
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if list_at(container, "/volumeMounts").iter().all(|m| str_at(m, "/mountPath") != MOUNT_PATH) {
                let mount = json!({ "name": name, "readOnly": true, "mountPath": MOUNT_PATH });
                append(container, &["volumeMounts"], vec![mount]);
                needed = true;
            }
        }
    }
    if needed && !has_volume {
        append(pod, &["spec", "volumes"], vec![json!({ "name": name, "projected": token_volume() })]);
    }
}

/// The token, the authority that signs the server's certificate, and the namespace.
fn token_volume() -> Value {
    json!({
        "sources": [
            { "serviceAccountToken": { "expirationSeconds": EXPIRATION_SECONDS, "path": "token" } },
            { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
            { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }] } },
        ],
        "defaultMode": 0o644,
    })
}

/// A pod without pull secrets gets those of its account.
fn take_pull_secrets(account: &Value, pod: &mut Value) {
    if list_at(pod, "/spec/imagePullSecrets").is_empty() {
        let names = list_at(account, "/imagePullSecrets").iter().map(|secret| json!({ "name": str_at(secret, "/name") }));
        let names = names.collect();
        append(pod, &["spec", "imagePullSecrets"], names);
    }
}

fn enforces_mountable(account: &Value) -> bool {
    let value = at(account, "/metadata/annotations").get(ENFORCE_MOUNTABLE).and_then(Value::as_str);
    value.is_some_and(|value| go_bool::parse(value) == Ok(true))
}

fn is_listed(account: &Value, list: &str, name: &str) -> bool {
    list_at(account, list).iter().any(|secret| str_at(secret, "/name") == name)
}

/// If the account asks for it: the pod uses only secrets that the account lists.
fn check_mountable(attributes: &Attributes<'_>, account: &Value, pod: &Value) -> Result<(), Status> {
    if !enforces_mountable(account) {
        return Ok(());
    }
    let account_name = str_at(account, "/metadata/name");
    let refuse = |why: String| Err(attributes.forbidden(Some(pod), &why));
    for volume in list_at(pod, "/spec/volumes").iter().filter(|v| v.get("secret").is_some()) {
        let secret = str_at(volume, "/secret/secretName");
        if !is_listed(account, "/secrets", secret) {
            return refuse(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {account_name} does not reference that secret"
            ));
        }
    }
    for (list, what) in [("/spec/initContainers", "init container"), ("/spec/containers", "container")] {
        if let Some(why) = unlisted_env(account, list_at(pod, list), what) {
            return refuse(why);
        }
    }
    for (i, secret) in list_at(pod, "/spec/imagePullSecrets").iter().enumerate() {
        let name = str_at(secret, "/name");
        if !is_listed(account, "/imagePullSecrets", name) {
            return refuse(format!(
                "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {account_name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

fn check_ephemeral(attributes: &Attributes<'_>, account: &Value, pod: &Value) -> Result<(), Status> {
    if !enforces_mountable(account) {
        return Ok(());
    }
    match unlisted_env(account, list_at(pod, "/spec/ephemeralContainers"), "ephemeral container") {
        Some(why) => Err(attributes.forbidden(Some(pod), &why)),
        None => Ok(()),
    }
}

/// The first secret in the environment of a container that the account does not list.
fn unlisted_env(account: &Value, containers: &[Value], what: &str) -> Option<String> {
    let account_name = str_at(account, "/metadata/name");
    let is_unlisted = |secret: Option<&Value>| {
        let name = secret.map(|s| str_at(s, "/name"))?;
        (!is_listed(account, "/secrets", name)).then(|| name.to_owned())
    };
    let refusal = |container: &Value, how: String, secret: String| {
        let name = str_at(container, "/name");
        format!(
            "{what} {name} with {how} referencing secret.secretName=\"{secret}\" is not allowed because service account {account_name} does not reference that secret"
        )
    };
    containers.iter().find_map(|container| {
        let env = list_at(container, "/env").iter().find_map(|var| {
            let secret = is_unlisted(var.pointer("/valueFrom/secretKeyRef"))?;
            Some(refusal(container, format!("envVar {}", str_at(var, "/name")), secret))
        });
        env.or_else(|| {
            let secret = list_at(container, "/envFrom").iter().find_map(|from| is_unlisted(from.get("secretRef")))?;
            Some(refusal(container, "envFrom".to_owned(), secret))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::Write;
    use super::*;

    #[test]
    fn the_token_is_mounted_where_nothing_else_is() {
        let taken = json!({ "name": "b", "volumeMounts": [{ "name": "v", "mountPath": MOUNT_PATH }] });
        let mut pod = json!({ "spec": { "initContainers": [{ "name": "a" }], "containers": [taken] } });
        mount_token(&mut pod, || "kube-api-access-x".to_owned());
        assert_eq!(str_at(&pod, "/spec/volumes/0/name"), "kube-api-access-x");
        assert_eq!(str_at(&pod, "/spec/initContainers/0/volumeMounts/0/name"), "kube-api-access-x");
        assert_eq!(list_at(&pod, "/spec/containers/0/volumeMounts").len(), 1);

        let before = pod.clone();
        mount_token(&mut pod, || "other".to_owned());
        assert_eq!(pod, before, "a pod that has it all stays as it is");

        let mut all_taken = json!({ "spec": { "containers": [taken] } });
        mount_token(&mut all_taken, || "x".to_owned());
        assert_eq!(list_at(&all_taken, "/spec/volumes").len(), 0);
    }

    #[test]
    fn the_pod_decides_about_the_token_before_its_account_does() {
        let account = |on: Value| json!({ "automountServiceAccountToken": on });
        let pod = |on: Value| json!({ "spec": { "automountServiceAccountToken": on } });
        assert!(mounts_token(&json!({}), &json!({})));
        assert!(!mounts_token(&account(json!(false)), &json!({})));
        assert!(mounts_token(&account(json!(false)), &pod(json!(true))));
        assert!(!mounts_token(&json!({}), &pod(json!(false))));
    }

    #[test]
    fn strict_accounts_refuse_secrets_that_they_do_not_list() {
        let write = Write::new(Operation::Create, "", "v1", "pods");
        let account = json!({ "metadata": { "name": "s", "annotations": { ENFORCE_MOUNTABLE: "true" } }, "secrets": [{ "name": "ok" }] });
        let check = |spec: Value| check_mountable(&write.attributes(), &account, &json!({ "spec": spec })).map_err(|s| s.message);
        let env = |name: &str| json!({ "name": "c", "env": [{ "name": "E", "valueFrom": { "secretKeyRef": { "name": name } } }] });
        assert_eq!(check(json!({ "containers": [env("ok")] })), Ok(()));
        assert_eq!(
            check(json!({ "containers": [env("no")] })).unwrap_err(),
            "pods \"x\" is forbidden: container c with envVar E referencing secret.secretName=\"no\" is not allowed because service account s does not reference that secret"
        );
        assert_eq!(
            check(json!({ "imagePullSecrets": [{ "name": "p" }] })).unwrap_err(),
            "pods \"x\" is forbidden: imagePullSecrets[0].name=\"p\" is not allowed because service account s does not reference that imagePullSecret"
        );
    }

    #[test]
    fn mirror_pods_refer_to_nothing_secret() {
        let write = Write::new(Operation::Create, "", "v1", "pods");
        let check = |spec: Value| check_mirror(&write.attributes(), &json!({ "spec": spec })).map_err(|s| s.message);
        assert_eq!(check(json!({})), Ok(()));
        let token = json!({ "volumes": [{ "name": "t", "projected": { "sources": [{ "serviceAccountToken": {} }] } }] });
        assert_eq!(check(token).unwrap_err(), "pods \"x\" is forbidden: a mirror pod may not use ServiceAccountToken volume projections");
    }
}
