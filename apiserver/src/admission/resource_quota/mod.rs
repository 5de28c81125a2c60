//! ResourceQuota: what a namespace uses stays within its quotas, whoever asks at the same time.
//!
//! A write is admitted only after what it uses has been written into the status of every quota that it counts for, over the
//! revision at which that was read: two servers cannot hand out the same share. Claims that wait for each other in one server
//! are settled together, with one write. What is handed out for a write that fails afterwards comes back when the quota
//! controller counts again.

mod charge;
mod limited;
mod usage;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

use self::charge::{Claim, Quota, is_counted};
use self::limited::Limited;
use super::{Attributes, Cluster, Operation, WaitingPlugin, WriteError};

/// How long a claim may wait for its turn and its writes.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often quotas that have changed underneath are read again.
const RETRIES: usize = 3;

/// The plugin, and the claims that wait in each namespace.
#[derive(Default)]
pub struct ResourceQuota {
    limited: Limited,
    queues: Mutex<HashMap<String, Arc<Queue>>>,
}

/// The claims of a namespace.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Vec<Waiting>>,
    /// Held by the one who settles for all that wait.
    turn: tokio::sync::Mutex<()>,
}

struct Waiting {
    claim: Claim,
    answer: oneshot::Sender<Result<(), Status>>,
}

impl WaitingPlugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        cluster: &'a dyn Cluster,
        new: Option<&'a Value>,
        old: Option<&'a Value>,
        _warnings: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let namespace = attributes.namespace;
            let Some(object) = new.filter(|_| attributes.operation.writes() && !namespace.is_empty()) else { return Ok(()) };
            if attributes.operation == Operation::Create && attributes.is("", "namespaces") {
                return Ok(());
            }
            if self.limited.is_empty() && read_quotas(cluster, namespace, &self.limited).is_empty() {
                return Ok(());
            }
            let Some(claim) = Claim::of(attributes, object, old) else { return Ok(()) };
            let settled = tokio::time::timeout(TIMEOUT, self.settle(cluster, namespace, claim)).await;
            settled.unwrap_or_else(|_| Err(Status::internal_error("resource quota evaluation timed out")))
        })
    }
}

impl ResourceQuota {
    pub fn new(told: Option<&[u8]>) -> Result<ResourceQuota, String> {
        Ok(ResourceQuota { limited: Limited::read(told)?, ..ResourceQuota::default() })
    }

    /// Waits for the namespace's turn, and settles for all that have come by then, unless another has done so.
    async fn settle(&self, cluster: &dyn Cluster, namespace: &str, claim: Claim) -> Result<(), Status> {
        let queue = self.queues.lock().entry(namespace.to_owned()).or_default().clone();
        let answer = loop {
            let (answer, mut answered) = oneshot::channel();
            queue.waiting.lock().push(Waiting { claim: claim.clone(), answer });
            let _turn = queue.turn.lock().await;
            match answered.try_recv() {
                Ok(answer) => break answer,
                // Who took the claim went away before it was settled.
                Err(oneshot::error::TryRecvError::Closed) => continue,
                Err(oneshot::error::TryRecvError::Empty) => {}
            }
            let (claims, answers): (Vec<Claim>, Vec<_>) =
                std::mem::take(&mut *queue.waiting.lock()).into_iter().map(|w| (w.claim, w.answer)).unzip();
            for (result, answer) in settle_all(cluster, namespace, &claims, &self.limited).await.into_iter().zip(answers) {
                // A claim whose request has gone away needs no answer.
                let _ = answer.send(result);
            }
            match answered.try_recv() {
                Ok(answer) => break answer,
                Err(_) => continue,
            }
        };
        self.forget(namespace, queue);
        answer
    }

    /// Drops the queue of a namespace that nobody waits in.
    fn forget(&self, namespace: &str, queue: Arc<Queue>) {
        let mut queues = self.queues.lock();
        drop(queue);
        if queues.get(namespace).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            queues.remove(namespace);
        }
    }
}

/// The quotas that count. Where something needs a quota, those that have not been counted yet are among them: their scopes cover already.
fn read_quotas(cluster: &dyn Cluster, namespace: &str, limited: &Limited) -> Vec<Quota> {
    let objects = cluster.list("", "resourcequotas", namespace);
    objects.iter().filter(|quota| is_counted(quota) || !limited.is_empty()).map(|quota| Quota::read(Value::clone(quota))).collect()
}

/// Settles claims in their order; each gets its answer when all that it changes is written.
async fn settle_all(cluster: &dyn Cluster, namespace: &str, claims: &[Claim], limited: &Limited) -> Vec<Result<(), Status>> {
    let mut answers: Vec<Option<Result<(), Status>>> = vec![None; claims.len()];
    let mut quotas = read_quotas(cluster, namespace, limited);
    let nothing = Limited::default();
    for attempt in 0..=RETRIES {
        let before = quotas.clone();
        // What must be covered was found covered before, by quotas that are not all looked at again.
        let limited = if attempt == 0 { limited } else { &nothing };
        charge_pending(claims, &mut quotas, limited, &mut answers);
        let failed = write_changed(cluster, &before, &quotas).await;
        let Some((_, error)) = failed.last() else { break };
        if attempt == RETRIES || failed.iter().any(|(_, error)| matches!(error, WriteError::Refused(_))) {
            let (WriteError::Stale(status) | WriteError::Refused(status)) = error;
            answers.iter_mut().filter(|a| a.is_none()).for_each(|a| *a = Some(Err(status.clone())));
            break;
        }
        // What has been written holds the pending claims already; only what was stale is charged again.
        quotas = read_quotas(cluster, namespace, limited);
        quotas.retain(|quota| failed.iter().any(|(name, _)| *name == quota.name));
    }
    answers.into_iter().map(|answer| answer.unwrap_or(Ok(()))).collect()
}

/// Charges the claims that have no answer yet. Those that are refused or change nothing get it.
fn charge_pending(claims: &[Claim], quotas: &mut [Quota], limited: &Limited, answers: &mut [Option<Result<(), Status>>]) {
    for (claim, answer) in claims.iter().zip(answers).filter(|(_, answer)| answer.is_none()) {
        match claim.charge(quotas, limited) {
            Err(status) => *answer = Some(Err(status)),
            Ok(changed) if claim.dry_run || changed.is_empty() => *answer = Some(Ok(())),
            Ok(changed) => {
                for (i, used) in changed {
                    quotas[i].used = used;
                }
            }
        }
    }
}

/// Writes the quotas that have changed; gives those that could not be written.
async fn write_changed(cluster: &dyn Cluster, before: &[Quota], after: &[Quota]) -> Vec<(String, WriteError)> {
    let mut failed = Vec::new();
    for quota in before.iter().zip(after).filter(|(old, new)| old.used != new.used).map(|(_, new)| new) {
        if let Err(error) = cluster.update_status("resourcequotas", quota.to_object()).await {
            failed.push((quota.name.clone(), error));
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::super::{Lookup, RequestInfo};
    use super::*;
    use crate::filters::authentication::User;
    use crate::filters::authorization::Decision;

    /// A cluster of one quota, whose every `stale_every`-th write finds that another server was faster.
    struct Shared {
        quota: Mutex<Value>,
        writes: Mutex<usize>,
        stale_every: usize,
        webhooks: std::sync::Arc<crate::webhook_client::Connections>,
    }

    impl Lookup for Shared {
        fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Arc<Value>> {
            None
        }
        fn list(&self, _: &str, resource: &str, _: &str) -> Vec<Arc<Value>> {
            let found: Vec<Value> = if resource == "resourcequotas" { vec![self.quota.lock().clone()] } else { Vec::new() };
            found.into_iter().map(Arc::new).collect()
        }
        fn authorizer(&self) -> Arc<dyn crate::filters::authorization::Authorizer> {
            Objects::default().authorizer()
        }
        fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
            Objects::default().authorize(user, request)
        }
        fn resources_of_kind(&self, _: &str, _: &str, _: &str) -> Vec<(String, bool)> {
            Vec::new()
        }
        fn resource(&self, _: &str, _: &str, _: &str) -> Option<std::sync::Arc<crate::catalog::Resource>> {
            None
        }
        fn versions_of(&self, _: &crate::catalog::Resource) -> Vec<std::sync::Arc<crate::catalog::Resource>> {
            Vec::new()
        }
        fn webhook_connections(&self) -> &std::sync::Arc<crate::webhook_client::Connections> {
            &self.webhooks
        }
    }

    impl Cluster for Shared {
        fn update_status<'a>(&'a self, _: &'a str, object: Value) -> BoxFuture<'a, Result<(), WriteError>> {
            Box::pin(async move {
                tokio::task::yield_now().await;
                let mut quota = self.quota.lock();
                let mut writes = self.writes.lock();
                *writes += 1;
                let version = quota["metadata"]["resourceVersion"].as_u64().unwrap();
                if writes.is_multiple_of(self.stale_every) {
                    let used: u64 = quota["status"]["used"]["pods"].as_str().unwrap().parse().unwrap();
                    quota["status"]["used"]["pods"] = json!((used + 1).to_string());
                    quota["metadata"]["resourceVersion"] = json!(version + 1);
                }
                if quota["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
                    return Err(WriteError::Stale(Status::modified("", "resourcequotas", "q")));
                }
                *quota = object;
                quota["metadata"]["resourceVersion"] = json!(version + 1);
                Ok(())
            })
        }

        fn create_namespace<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), Status>> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    async fn admit_at_once(cluster: &Shared, count: usize) -> usize {
        let plugin = ResourceQuota::default();
        let write = Write::new(Operation::Create, "", "v1", "pods");
        let pod = json!({ "spec": { "containers": [{ "name": "c" }] } });
        let all = (0..count).map(|_| async {
            let (attributes, mut warnings) = (write.attributes(), Vec::new());
            plugin.validate(&attributes, cluster, Some(&pod), None, &mut warnings).await.is_ok()
        });
        let admitted = futures::future::join_all(all).await.into_iter().filter(|ok| *ok).count();
        assert!(plugin.queues.lock().is_empty(), "nobody waits any more");
        admitted
    }

    fn shared(hard: &str, stale_every: usize) -> Shared {
        let quota = json!({
            "metadata": { "name": "q", "namespace": "ns", "resourceVersion": 1 },
            "status": { "hard": { "pods": hard }, "used": { "pods": "0" } },
        });
        Shared { quota: Mutex::new(quota), writes: Mutex::new(0), stale_every, webhooks: Default::default() }
    }

    #[tokio::test]
    async fn no_more_is_handed_out_than_there_is() {
        let cluster = shared("7", usize::MAX);
        assert_eq!(admit_at_once(&cluster, 20).await, 7);
        assert_eq!(cluster.quota.lock()["status"]["used"]["pods"], "7");
        assert!(*cluster.writes.lock() <= 2, "claims that wait are settled together");
    }

    #[tokio::test]
    async fn what_another_server_hands_out_counts() {
        let cluster = shared("10", 1 << 1);
        let mut admitted = 0;
        for _ in 0..12 {
            admitted += admit_at_once(&cluster, 1).await;
        }
        let taken_by_others = *cluster.writes.lock() / 2;
        assert_eq!(admitted + taken_by_others, 10);
        assert_eq!(cluster.quota.lock()["status"]["used"]["pods"], "10");
    }

    #[tokio::test]
    async fn who_always_comes_too_late_is_told_so() {
        let cluster = shared("1000", 1);
        assert_eq!(admit_at_once(&cluster, 1).await, 0);
        assert_eq!(*cluster.writes.lock(), RETRIES + 1);
    }
}
