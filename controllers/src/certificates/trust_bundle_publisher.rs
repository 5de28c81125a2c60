//! The publisher of the trust bundle of `kubernetes.io/kube-apiserver-serving`: one ClusterTrustBundle with what vouches for API servers.
//!
//! Its name is made of its content, so that a new CA is a new bundle; those of former content are deleted.

use client::controller::Outcome;
use client::{Object, ObjectKey, Queue, answer};
use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;

use crate::manager::Context;
use crate::metrics;

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
const WORKERS: usize = 1;
/// Bytes of the digest that are part of the name.
const DIGEST_BYTES: usize = 12;

pub async fn run(context: Context) {
    let Some(path) = &context.config.root_ca_file else { return };
    let content = match tokio::fs::read_to_string(path).await {
        Ok(content) => content,
        Err(error) => {
            tracing::error!(controller = context.name, path = %path.display(), %error, "the root CA file cannot be read");
            return;
        }
    };
    let bundles = context.informers.of::<ClusterTrustBundle>();
    let key = ObjectKey::new("", &name(&content));
    let queue = Queue::named("ca_cert_publisher_cluster_trust_bundles");
    let (sink, only) = (queue.clone(), key.clone());
    bundles.on_change(move |change| {
        if change.object().spec.signer_name.as_deref() == Some(SIGNER) {
            sink.add(only.clone());
        }
    });
    bundles.synced().await;
    queue.add(key);
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |_| {
        let known = bundles.list();
        let plan = plan(&content, known.iter().map(|bundle| &**bundle));
        let client = context.client.clone();
        async move {
            let started = Instant::now();
            let result = carry_out(client, plan).await;
            metrics::synced(&metrics::TRUST_BUNDLE_SYNCS, &metrics::TRUST_BUNDLE_DURATION, &result, started.elapsed());
            result
        }
    })
    .await;
}

/// `kubernetes.io:kube-apiserver-serving:` and the beginning of the content's digest.
fn name(content: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, content.as_bytes());
    let hex: String = digest.as_ref().iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{hex}", SIGNER.replace('/', ":"))
}

#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: Option<ClusterTrustBundle>,
    update: Option<ClusterTrustBundle>,
    delete: Vec<String>,
}

fn plan<'a>(content: &str, known: impl Iterator<Item = &'a ClusterTrustBundle>) -> Plan {
    let name = name(content);
    let spec = || ClusterTrustBundleSpec { signer_name: Some(SIGNER.to_owned()), trust_bundle: content.to_owned() };
    let mut plan = Plan::default();
    let mut found = false;
    for bundle in known.filter(|bundle| bundle.spec.signer_name.as_deref() == Some(SIGNER)) {
        if Object::name(bundle) != name {
            plan.delete.push(Object::name(bundle).to_owned());
            continue;
        }
        found = true;
        if bundle.spec.trust_bundle != content {
            plan.update = Some(ClusterTrustBundle { spec: spec(), ..bundle.clone() });
        }
    }
    if !found {
        let mut bundle = ClusterTrustBundle { spec: spec(), ..ClusterTrustBundle::default() };
        bundle.metadata.name = Some(name);
        plan.create = Some(bundle);
    }
    plan
}

async fn carry_out(client: Client, plan: Plan) -> Result<Outcome, kube::Error> {
    let api: Api<ClusterTrustBundle> = Api::all(client);
    if let Some(bundle) = &plan.create {
        match api.create(&PostParams::default(), bundle).await {
            Err(error) if answer::is_already_exists(&error) => {}
            created => drop(created?),
        }
    }
    if let Some(bundle) = &plan.update {
        api.replace(Object::name(bundle), &PostParams::default(), bundle).await?;
    }
    // The others are deleted although one could not be.
    let mut failed = None;
    for name in &plan.delete {
        if let Err(error) = answer::or_absent(api.delete(name, &DeleteParams::default()).await) {
            failed = Some(error);
        }
    }
    failed.map_or(Ok(Outcome::Done), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundles_name_is_made_of_its_content() {
        // The first 12 bytes of the SHA-256 of "abc".
        assert_eq!(name("abc"), "kubernetes.io:kube-apiserver-serving:ba7816bf8f01cfea414140de");
    }

    #[test]
    fn a_new_ca_is_a_new_bundle_and_the_former_goes() {
        let first = plan("a", [].into_iter()).create.unwrap();
        assert_eq!(plan("a", [&first].into_iter()), Plan::default());
        let other = ClusterTrustBundle { spec: ClusterTrustBundleSpec { signer_name: None, ..first.spec.clone() }, ..first.clone() };
        let next = plan("b", [&first, &other].into_iter());
        assert_eq!((next.create.map(|b| b.spec.trust_bundle), next.delete), (Some("b".to_owned()), vec![name("a")]));
        let mut changed = first;
        changed.spec.trust_bundle = "x".to_owned();
        assert_eq!(plan("a", [&changed].into_iter()).update.unwrap().spec.trust_bundle, "a");
    }
}
