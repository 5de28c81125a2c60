//! The node's Lease: renewed every quarter of its duration, so that the cluster knows the node lives.

use std::time::Duration;

use client::{Object, Shutdown, answer};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

const NAMESPACE: &str = "kube-node-lease";
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(7);

pub struct Heart {
    pub client: Client,
    pub node_name: String,
    pub duration_seconds: i32,
}

impl Heart {
    /// Beats until shutdown.
    pub async fn beat(self, shutdown: Shutdown) {
        let period = Duration::from_secs(u64::try_from(self.duration_seconds).unwrap_or(40)) / 4;
        let mut known: Option<Lease> = None;
        let mut retry = RETRY_MIN;
        loop {
            let wait = match self.renew(known.take()).await {
                Ok(lease) => {
                    known = Some(lease);
                    retry = RETRY_MIN;
                    period.mul_f64(rand::random_range(1.0..1.04))
                }
                Err(error) => {
                    tracing::warn!(node = %self.node_name, %error, "cannot renew the node's lease");
                    let wait = retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn renew(&self, known: Option<Lease>) -> Result<Lease, kube::Error> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let existing = match known {
            Some(lease) => Some(lease),
            None => answer::or_absent(leases.get(&self.node_name).await)?,
        };
        match existing {
            Some(lease) => {
                let renewed = leases.replace(&self.node_name, &PostParams::default(), &self.renewed(lease)).await;
                match renewed {
                    Err(error) if answer::is_conflict(&error) => {
                        let fresh = leases.get(&self.node_name).await?;
                        leases.replace(&self.node_name, &PostParams::default(), &self.renewed(fresh)).await
                    }
                    other => other,
                }
            }
            None => {
                let mut lease = Lease::default();
                lease.metadata.name = Some(self.node_name.clone());
                lease.metadata.namespace = Some(NAMESPACE.to_owned());
                lease.metadata.owner_references = self.owner().await?.map(|owner| vec![owner]);
                leases.create(&PostParams::default(), &self.renewed(lease)).await
            }
        }
    }

    /// The node owns its lease, so that they go together.
    async fn owner(&self) -> Result<Option<OwnerReference>, kube::Error> {
        let node = answer::or_absent(Api::<Node>::all(self.client.clone()).get(&self.node_name).await)?;
        Ok(node.map(|node| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node_name.clone(),
            uid: node.uid().to_owned(),
            ..OwnerReference::default()
        }))
    }

    fn renewed(&self, mut lease: Lease) -> Lease {
        let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap_or_default();
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        spec.holder_identity = Some(self.node_name.clone());
        spec.lease_duration_seconds = Some(self.duration_seconds);
        spec.renew_time = Some(MicroTime(now));
        lease.metadata.managed_fields = None;
        lease
    }
}
