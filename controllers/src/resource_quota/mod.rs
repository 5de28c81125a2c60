//! The resource quota controller: tells in each ResourceQuota's status what is used of it.
//!
//! The API server refuses what a quota does not allow, and adds to what is used; here it is counted anew when something goes.

mod counted;
mod pod_amounts;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::clock;
use client::controller::Outcome;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, ScopedResourceSelectorRequirement, Service,
};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::discovery;
use crate::manager::Context;
use counted::Counts;
use usage::{Amounts, Counted};

/// How often discovery is asked for resources that quotas name and nobody serves yet.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);

struct Controller {
    client: Client,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    counts: Counts,
}

pub async fn run(context: Context) {
    let informers = &context.informers;
    let queue = Queue::named("resourcequota_primary");
    let quotas: Informer<ResourceQuota> = informers.of();
    let counts = {
        let (sink, quotas) = (queue.clone(), quotas.clone());
        Counts::new(context.client.clone(), context.shutdown.clone(), move |namespace| replenish(&quotas, &sink, namespace))
    };
    let controller = Controller {
        client: context.client.clone(),
        quotas,
        pods: informers.of(),
        services: informers.of(),
        claims: informers.of(),
        counts,
    };
    controller.watch(&queue);
    controller.quotas.synced().await;
    controller.pods.synced().await;
    controller.services.synced().await;
    controller.claims.synced().await;
    let resync = async {
        tokio::select! {
            biased;
            () = context.shutdown.cancelled() => {}
            () = controller.resync(&queue, context.config.resource_quota_sync_period) => {}
        }
    };
    let workers = context.config.concurrent_resource_quota_syncs;
    let work =
        client::controller::run(context.name, queue.clone(), workers, context.shutdown.clone(), |key: ObjectKey| controller.sync(key));
    tokio::join!(work, resync);
}

/// Counts anew what the namespace's quotas limit.
fn replenish(quotas: &Informer<ResourceQuota>, queue: &Queue<ObjectKey>, namespace: &str) {
    quotas.list_namespace(namespace).iter().for_each(|quota| queue.add(quota.key()));
}

/// The names that quotas count objects of other kinds by.
fn counted_names<'a>(quotas: impl IntoIterator<Item = &'a Arc<ResourceQuota>>) -> BTreeSet<String> {
    let names = quotas.into_iter().flat_map(|quota| quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten().map(|(name, _)| name)));
    names.filter_map(|name| counted::group_resource(name)).map(str::to_owned).collect()
}

impl Controller {
    fn watch(&self, queue: &Queue<ObjectKey>) {
        let sink = queue.clone();
        self.quotas.on_change(move |change| match change {
            Change::Updated { old, new } if old.spec == new.spec => {}
            Change::Deleted(_) => {}
            change => sink.add(change.object().key()),
        });
        // What is new was counted when it was let in; it is counted here only for kinds whose quotas nobody has counted before.
        let (sink, quotas) = (queue.clone(), self.quotas.clone());
        self.pods.on_change(move |change| {
            let now = clock::now();
            let amounts = |pod: &Pod| usage::pod(pod, now);
            let concerned = match change {
                Change::Added(_) => false,
                Change::Updated { old, new } => amounts(old) != amounts(new),
                Change::Deleted(_) => true,
            };
            if concerned {
                replenish(&quotas, &sink, change.object().namespace());
            }
        });
        let (sink, quotas) = (queue.clone(), self.quotas.clone());
        self.services.on_change(move |change| {
            let concerned = match change {
                Change::Added(_) => false,
                Change::Updated { old, new } => usage::service(old) != usage::service(new),
                Change::Deleted(_) => true,
            };
            if concerned {
                replenish(&quotas, &sink, change.object().namespace());
            }
        });
        let (sink, quotas) = (queue.clone(), self.quotas.clone());
        self.claims.on_change(move |change| {
            let concerned = match change {
                Change::Added(_) => false,
                Change::Updated { old, new } => usage::claim(old) != usage::claim(new) || old.status != new.status,
                Change::Deleted(_) => true,
            };
            if concerned {
                replenish(&quotas, &sink, change.object().namespace());
            }
        });
    }

    /// Counts everything anew now and then, and looks for resources that are served since.
    async fn resync(&self, queue: &Queue<ObjectKey>, period: Duration) {
        let mut since = Duration::ZERO;
        loop {
            tokio::time::sleep(DISCOVERY_PERIOD).await;
            since += DISCOVERY_PERIOD;
            let names = counted_names(&self.quotas.list());
            if self.counts.is_unsettled(&names)
                && let Err(error) = self.follow(&names).await
            {
                tracing::debug!(%error, "discovery failed, objects are counted as before");
            }
            if !period.is_zero() && since >= period {
                since = Duration::ZERO;
                self.quotas.list().iter().for_each(|quota| queue.add(quota.key()));
            }
        }
    }

    async fn follow(&self, names: &BTreeSet<String>) -> Result<(), kube::Error> {
        let served = discovery::discover(&self.client).await?;
        // A group that cannot be discovered now keeps its counts.
        if served.failed.is_empty() {
            self.counts.set(names, &served.resources);
        }
        Ok(())
    }

    async fn sync(&self, key: ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(quota) = self.quotas.get_key(&key) else { return Ok(Outcome::Done) };
        if self.counts.missing(&counted_names([&quota])) {
            self.follow(&counted_names(&self.quotas.list())).await?;
        }
        let spec = quota.spec.clone().unwrap_or_default();
        let measured = self.measure(&key.namespace, &spec, clock::now());
        if let Some(status) = new_status(&quota, &spec, measured) {
            let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &key.namespace);
            let new = ResourceQuota { status: Some(status), ..quota.as_ref().clone() };
            answer::or_absent(api.replace_status(&key.name, &PostParams::default(), &new).await)?;
        }
        Ok(Outcome::Done)
    }

    /// What is used now, of what can be told.
    fn measure(&self, namespace: &str, spec: &ResourceQuotaSpec, now: Timestamp) -> Amounts {
        let scopes = scopes(spec);
        let mut used = Amounts::new();
        let hard: Vec<&String> = spec.hard.iter().flatten().map(|(name, _)| name).collect();
        for counted in Counted::ALL {
            let names: Vec<&String> = hard.iter().copied().filter(|name| counted.counts_for(name)).collect();
            if names.is_empty() {
                continue;
            }
            let mut total: Amounts = names.into_iter().map(|name| (name.clone(), usage::number(0))).collect();
            match counted {
                Counted::Pods => self
                    .pods
                    .list_namespace(namespace)
                    .iter()
                    .filter(|pod| scopes.iter().all(|scope| usage::pod_in_scope(pod, scope)))
                    .for_each(|pod| usage::add(&mut total, &usage::pod(pod, now))),
                Counted::Services if scopes.is_empty() => {
                    self.services.list_namespace(namespace).iter().for_each(|service| usage::add(&mut total, &usage::service(service)));
                }
                Counted::Services => {}
                Counted::Claims => self
                    .claims
                    .list_namespace(namespace)
                    .iter()
                    .filter(|claim| scopes.iter().all(|scope| usage::claim_in_scope(claim, scope)))
                    .for_each(|claim| usage::add(&mut total, &usage::claim(claim))),
            }
            used.extend(total);
        }
        for name in hard {
            let count = counted::group_resource(name).and_then(|resource| self.counts.get(resource, namespace));
            if let Some(count) = count {
                used.insert(name.clone(), usage::number(if scopes.is_empty() { count } else { 0 }));
            }
        }
        used
    }
}

/// All scopes, in the form that can say more.
fn scopes(spec: &ResourceQuotaSpec) -> Vec<ScopedResourceSelectorRequirement> {
    let plain = spec.scopes.iter().flatten().map(|name| ScopedResourceSelectorRequirement {
        scope_name: name.clone(),
        operator: "Exists".to_owned(),
        values: None,
    });
    let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten().cloned());
    plain.chain(selected).collect()
}

/// The quota's status; nothing if it is that already. What could not be measured stays as it was.
fn new_status(quota: &ResourceQuota, spec: &ResourceQuotaSpec, measured: Amounts) -> Option<ResourceQuotaStatus> {
    let old = quota.status.clone().unwrap_or_default();
    let hard = usage::read(spec.hard.as_ref());
    let before = usage::read(old.used.as_ref());
    let mut used = before.clone();
    used.extend(measured);
    used.retain(|name, _| hard.contains_key(name));
    if old.hard.is_some() && old.used.is_some() && usage::read(old.hard.as_ref()) == hard && before == used {
        return None;
    }
    let text = |amounts: &Amounts| -> Option<BTreeMap<_, _>> { Some(usage::write(amounts)) };
    Some(ResourceQuotaStatus { hard: text(&hard), used: text(&used) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(hard: serde_json::Value, status: serde_json::Value) -> ResourceQuota {
        serde_json::from_value(json!({"spec": {"hard": hard}, "status": status})).unwrap()
    }

    fn updated(quota: &ResourceQuota, measured: &[(&str, usize)]) -> Option<serde_json::Value> {
        let measured = measured.iter().map(|(name, count)| ((*name).to_owned(), usage::number(*count))).collect();
        new_status(quota, quota.spec.as_ref().unwrap(), measured).map(|status| serde_json::to_value(status).unwrap())
    }

    #[test]
    fn a_status_is_written_when_it_says_something_new() {
        let first = updated(&quota(json!({"pods": "2"}), json!({})), &[("pods", 0)]);
        assert_eq!(first, Some(json!({"hard": {"pods": "2"}, "used": {"pods": "0"}})));
        let same = quota(json!({"pods": "2"}), json!({"hard": {"pods": "2"}, "used": {"pods": "0"}}));
        assert_eq!(updated(&same, &[("pods", 0)]), None);
        assert_eq!(updated(&same, &[("pods", 1)]), Some(json!({"hard": {"pods": "2"}, "used": {"pods": "1"}})));
    }

    #[test]
    fn what_cannot_be_measured_stays_and_what_is_not_limited_goes() {
        let quota = quota(json!({"count/x.y": "2"}), json!({"hard": {"pods": "1"}, "used": {"pods": "1", "count/x.y": "1"}}));
        assert_eq!(updated(&quota, &[]), Some(json!({"hard": {"count/x.y": "2"}, "used": {"count/x.y": "1"}})));
    }

    #[test]
    fn names_of_other_kinds_are_gathered_from_all_quotas() {
        let quotas =
            [Arc::new(quota(json!({"configmaps": "1", "cpu": "1"}), json!({}))), Arc::new(quota(json!({"count/a.b": "1"}), json!({})))];
        assert_eq!(counted_names(&quotas).into_iter().collect::<Vec<_>>(), ["a.b", "configmaps"]);
    }
}
