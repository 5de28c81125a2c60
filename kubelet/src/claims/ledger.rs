//! The claims of the pods on this node: which drivers they concern, what these prepared, and who uses them.
//!
//! Decisions alone. Upstream: pkg/kubelet/cm/dra/claiminfo.go.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde::{Deserialize, Serialize};

use client::Object;

use super::messages;
use crate::container_config::pod_resources;
use crate::pod;

/// What each driver has to prepare or undo.
pub type Batches = BTreeMap<String, Vec<messages::Claim>>;

/// A claim as the checkpoint keeps it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Info {
    #[serde(rename = "ClaimUID")]
    pub uid: String,
    #[serde(rename = "ClaimName")]
    pub name: String,
    #[serde(rename = "Namespace")]
    pub namespace: String,
    /// Pods that use it; a set as Go writes it.
    #[serde(rename = "PodUIDs", with = "go_set")]
    pub pods: BTreeSet<String>,
    #[serde(rename = "DriverState")]
    pub drivers: BTreeMap<String, DriverState>,
    #[serde(skip)]
    pub prepared: bool,
    /// Its last pod is gone, and the drivers are being told.
    #[serde(skip)]
    pub unpreparing: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DriverState {
    #[serde(rename = "Devices", deserialize_with = "or_default")]
    pub devices: Vec<Device>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    #[serde(rename = "PoolName")]
    pub pool: String,
    #[serde(rename = "DeviceName")]
    pub device: String,
    #[serde(rename = "ShareID")]
    pub share_id: Option<String>,
    #[serde(rename = "RequestNames", deserialize_with = "or_default")]
    pub requests: Vec<String>,
    #[serde(rename = "CDIDeviceIDs", deserialize_with = "or_default")]
    pub cdi_devices: Vec<String>,
}

/// What Go writes `null` for is empty.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

mod go_set {
    use std::collections::{BTreeMap, BTreeSet};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Nothing {}

    pub fn serialize<S: Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(set.iter().map(|element| (element, Nothing {})))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
        Ok(Option::<BTreeMap<String, Nothing>>::deserialize(deserializer)?.unwrap_or_default().into_keys().collect())
    }
}

impl Info {
    /// What is to be known of an allocated claim, or why it cannot be used.
    pub fn of(claim: &ResourceClaim) -> Result<Info, String> {
        let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref()).ok_or("not allocated")?;
        let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
        let mut drivers = BTreeMap::new();
        for result in results {
            if result.skip_node_operations.as_ref().is_some_and(|operations| !operations.is_empty()) {
                return Err("DRAOptionalNodeOperations feature gate is disabled on kubelet".to_owned());
            }
            drivers.insert(result.driver.clone(), DriverState::default());
        }
        Ok(Info {
            uid: claim.uid().to_owned(),
            name: claim.name().to_owned(),
            namespace: claim.namespace().to_owned(),
            drivers,
            ..Info::default()
        })
    }

    pub fn message(&self) -> messages::Claim {
        messages::Claim { namespace: self.namespace.clone(), uid: self.uid.clone(), name: self.name.clone() }
    }

    /// The names by which the runtime knows the devices of a request; of all if it names none.
    fn cdi_devices(&self, request: &str) -> impl Iterator<Item = &String> {
        let devices = self.drivers.values().flat_map(|driver| &driver.devices);
        let is_meant =
            move |device: &&Device| request.is_empty() || device.requests.is_empty() || device.requests.iter().any(|name| name == request);
        devices.filter(is_meant).flat_map(|device| &device.cdi_devices)
    }
}

/// A claim that a pod names, by the name of the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What the pod calls it; nothing for the one that stands behind extended resources.
    pub reference: Option<String>,
    pub name: String,
    /// It was made for the pod, so the pod must own it.
    pub is_own: bool,
}

/// The claims of a pod that it needs.
pub fn of_pod(pod: &Pod) -> Result<Vec<Named>, String> {
    let mut found = Vec::new();
    for claim in pod::spec(pod).resource_claims.iter().flatten() {
        if let Some(name) = &claim.resource_claim_name {
            found.push(Named { reference: Some(claim.name.clone()), name: name.clone(), is_own: false });
        } else if claim.resource_claim_template_name.is_some() {
            let statuses = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
            let status = statuses.into_iter().find(|status| status.name == claim.name);
            let status = status.ok_or_else(|| format!("pod \"{}/{}\": ResourceClaim not created yet", pod.namespace(), pod.name()))?;
            // Without a name, none is needed.
            if let Some(name) = &status.resource_claim_name {
                found.push(Named { reference: Some(claim.name.clone()), name: name.clone(), is_own: true });
            }
        } else {
            return Err(format!(
                "pod \"{}/{}\", spec.resourceClaim {:?}: none of the supported fields are set",
                pod.namespace(),
                pod.name(),
                claim.name
            ));
        }
    }
    let extended = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    found.extend(extended.map(|status| Named { reference: None, name: status.resource_claim_name.clone(), is_own: false }));
    Ok(found)
}

/// Why a pod may not use a claim.
pub fn refusal(pod: &Pod, named: &Named, claim: &ResourceClaim) -> Option<String> {
    let owners = claim.metadata.owner_references.iter().flatten();
    let controlled = owners.filter(|owner| owner.controller == Some(true)).any(|owner| owner.uid == pod.uid());
    if named.is_own && !controlled {
        return Some(format!(
            "ResourceClaim {}/{} was not created for Pod {}/{} (Pod is not owner)",
            claim.namespace(),
            claim.name(),
            pod.namespace(),
            pod.name()
        ));
    }
    let mut reserved = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    if reserved.any(|consumer| consumer.uid == pod.uid()) {
        return None;
    }
    Some(format!("pod {} ({}) is not allowed to use ResourceClaim {} ({})", pod.name(), pod.uid(), claim.name(), claim.uid()))
}

/// The requests of a container, by claim. An empty name: all of the claim.
pub fn requests(pod: &Pod, container: &Container) -> Result<Vec<(Named, Vec<String>)>, String> {
    let wanted = container.resources.iter().flat_map(|resources| resources.claims.iter().flatten());
    let wanted: Vec<(&str, &str)> = wanted.map(|claim| (claim.name.as_str(), claim.request.as_deref().unwrap_or(""))).collect();
    let extended = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    let mut found = Vec::new();
    for named in of_pod(pod)? {
        let requests: Vec<String> = match &named.reference {
            Some(reference) => wanted.iter().filter(|(name, _)| name == reference).map(|(_, request)| (*request).to_owned()).collect(),
            None => {
                let mappings = extended.into_iter().flat_map(|status| &status.request_mappings);
                let of_container = mappings.filter(|mapping| mapping.container_name == container.name);
                let asked = of_container.filter(|mapping| !pod_resources::request(container, &mapping.resource_name).is_zero());
                asked.map(|mapping| mapping.request_name.clone()).collect()
            }
        };
        if !requests.is_empty() {
            found.push((named, requests));
        }
    }
    Ok(found)
}

/// All claims that are known, by namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    claims: BTreeMap<(String, String), Info>,
}

impl Ledger {
    pub fn recalled(claims: Vec<Info>) -> Ledger {
        Ledger { claims: claims.into_iter().map(|info| ((info.namespace.clone(), info.name.clone()), info)).collect() }
    }

    pub fn all(&self) -> impl Iterator<Item = &Info> {
        self.claims.values()
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&Info> {
        self.claims.get(&(namespace.to_owned(), name.to_owned()))
    }

    fn get_mut(&mut self, namespace: &str, name: &str) -> Option<&mut Info> {
        self.claims.get_mut(&(namespace.to_owned(), name.to_owned()))
    }

    /// A pod is about to use these claims. What each driver has to prepare: claims that are prepared already are left out.
    pub fn begin(&mut self, pod_uid: &str, claims: &[Info]) -> Result<Batches, String> {
        let mut batches = Batches::new();
        for new in claims {
            let known = self.claims.entry((new.namespace.clone(), new.name.clone())).or_insert_with(|| new.clone());
            if known.uid != new.uid {
                return Err(format!(
                    "old ResourceClaim with same name {} and different UID {} still exists (previous pod force-deleted?!)",
                    new.name, known.uid
                ));
            }
            if known.unpreparing {
                return Err(format!("ResourceClaim {} is being unprepared", new.name));
            }
            known.pods.insert(pod_uid.to_owned());
            if !known.prepared {
                for driver in known.drivers.keys() {
                    batches.entry(driver.clone()).or_default().push(known.message());
                }
            }
        }
        Ok(batches)
    }

    /// A driver has prepared these, or says why not.
    pub fn take_prepared(&mut self, driver: &str, asked: &[messages::Claim], response: messages::PrepareResponse) -> Result<(), String> {
        let count = response.claims.len();
        for (uid, prepared) in response.claims {
            let claim = asked.iter().find(|claim| claim.uid == uid);
            let claim = claim.ok_or_else(|| format!("NodePrepareResources returned result for unknown claim UID {uid}"))?;
            if !prepared.error.is_empty() {
                return Err(format!("NodePrepareResources failed for ResourceClaim {}: {}", claim.name, prepared.error));
            }
            let info = self.get_mut(&claim.namespace, &claim.name).ok_or_else(|| missing(&claim.name, &claim.namespace))?;
            let devices = prepared.devices.into_iter().map(|device| Device {
                pool: device.pool_name,
                device: device.device_name,
                share_id: device.share_id,
                requests: device.request_names,
                cdi_devices: device.cdi_device_ids,
            });
            info.drivers.entry(driver.to_owned()).or_default().devices = devices.collect();
        }
        match asked.len() - count.min(asked.len()) {
            0 => Ok(()),
            left => Err(format!("NodePrepareResources skipped {left} ResourceClaims")),
        }
    }

    /// All drivers have prepared these.
    pub fn set_prepared(&mut self, claims: &[Info]) {
        for claim in claims {
            if let Some(info) = self.get_mut(&claim.namespace, &claim.name) {
                info.prepared = true;
            }
        }
    }

    /// The claims that a pod uses.
    pub fn of_pod(&self, pod_uid: &str) -> Vec<(String, String)> {
        self.claims.iter().filter(|(_, info)| info.pods.contains(pod_uid)).map(|(key, _)| key.clone()).collect()
    }

    /// A pod does not use its claims any more. What each driver has to undo: what nobody else uses; and which claims these are.
    pub fn end(&mut self, pod_uid: &str) -> (Batches, Vec<(String, String)>) {
        let mut batches = Batches::new();
        let mut last = Vec::new();
        for (key, info) in self.claims.iter_mut().filter(|(_, info)| info.pods.contains(pod_uid)) {
            if info.pods.len() > 1 {
                info.pods.remove(pod_uid);
                continue;
            }
            info.unpreparing = true;
            last.push(key.clone());
            for driver in info.drivers.keys() {
                batches.entry(driver.clone()).or_default().push(info.message());
            }
        }
        (batches, last)
    }

    /// Drivers have undone these.
    pub fn forget(&mut self, claims: &[(String, String)]) {
        self.claims.retain(|key, _| !claims.contains(key));
    }

    /// The pods with claims that are not among these.
    pub fn left_behind(&self, active: &BTreeSet<String>) -> BTreeSet<String> {
        self.claims.values().flat_map(|info| &info.pods).filter(|uid| !active.contains(*uid)).cloned().collect()
    }

    /// The devices that a container gets, by the names that the runtime knows.
    pub fn cdi_devices(&self, pod: &Pod, container: &Container) -> Result<Vec<String>, String> {
        let mut devices = Vec::new();
        for (named, requests) in requests(pod, container)? {
            let info = self.get(pod.namespace(), &named.name).ok_or_else(|| missing(&named.name, pod.namespace()))?;
            devices.extend(requests.iter().flat_map(|request| info.cdi_devices(request)).cloned());
        }
        Ok(devices)
    }

    /// How many claims are prepared, for each driver and in all.
    pub fn in_use(&self) -> (BTreeMap<String, usize>, usize) {
        let mut by_driver = BTreeMap::new();
        let prepared = self.claims.values().filter(|info| info.prepared);
        let all =
            prepared.inspect(|info| info.drivers.keys().for_each(|driver| *by_driver.entry(driver.clone()).or_default() += 1)).count();
        (by_driver, all)
    }

    /// The pods that have one of these devices (pool and name) of a driver.
    pub fn pods_with(&self, driver: &str, devices: &BTreeSet<(String, String)>) -> BTreeSet<String> {
        let has = |info: &&Info| {
            let of_driver = info.drivers.get(driver).into_iter().flat_map(|state| &state.devices);
            of_driver.into_iter().any(|device| devices.contains(&(device.pool.clone(), device.device.clone())))
        };
        self.claims.values().filter(has).flat_map(|info| info.pods.iter().cloned()).collect()
    }
}

fn missing(name: &str, namespace: &str) -> String {
    format!("internal error: unable to get claim info for ResourceClaim {name} in namespace {namespace}")
}

/// What a driver says of claims that it was to undo.
pub fn undone(asked: &[messages::Claim], response: &messages::UnprepareResponse) -> Result<(), String> {
    for (uid, result) in &response.claims {
        let claim = asked.iter().find(|claim| claim.uid == *uid);
        let claim = claim.ok_or_else(|| format!("NodeUnprepareResources returned result for unknown claim UID {uid}"))?;
        if !result.error.is_empty() {
            return Err(format!("NodeUnprepareResources failed for ResourceClaim {}: {}", claim.name, result.error));
        }
    }
    match asked.len() - response.claims.len().min(asked.len()) {
        0 => Ok(()),
        left => Err(format!("NodeUnprepareResources skipped {left} ResourceClaims")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "pu"}, "status": status, "spec": {
            "resourceClaims": [{"name": "a", "resourceClaimName": "shared"}, {"name": "b", "resourceClaimTemplateName": "t"}],
            "containers": [
                {"name": "all", "resources": {"claims": [{"name": "a"}]}},
                {"name": "one", "resources": {"claims": [{"name": "a", "request": "second"}], "requests": {"x.com/gpu": "1"}}},
                {"name": "none"}]}}))
        .expect("it is a pod")
    }

    fn claim(reserved: &str, owner: &str) -> ResourceClaim {
        serde_json::from_value(json!({"metadata": {"name": "shared", "namespace": "n", "uid": "cu",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]},
            "spec": {}, "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": reserved}], "allocation": {"devices": {"results": [
                {"driver": "d", "pool": "pool", "device": "1", "request": "first"},
                {"driver": "e", "pool": "pool", "device": "2", "request": "second"}]}}}}))
        .expect("it is a claim")
    }

    fn prepared(uid: &str, request: &str, cdi: &str) -> messages::PrepareResponse {
        let device = messages::Device {
            request_names: vec![request.to_owned()],
            pool_name: "pool".to_owned(),
            device_name: cdi.to_owned(),
            cdi_device_ids: vec![format!("v/c={cdi}")],
            share_id: None,
        };
        let prepared = messages::Prepared { devices: vec![device], error: String::new() };
        messages::PrepareResponse { claims: [(uid.to_owned(), prepared)].into() }
    }

    #[test]
    fn a_pods_claims_have_names_once_they_are_made() {
        let error = of_pod(&pod(json!({}))).expect_err("one is not made");
        assert_eq!(error, "pod \"n/p\": ResourceClaim not created yet");
        let named = of_pod(&pod(json!({"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "made"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "ext", "requestMappings": []}})))
        .expect("all are made");
        let told: Vec<(&str, bool)> = named.iter().map(|named| (named.name.as_str(), named.is_own)).collect();
        assert_eq!(told, [("shared", false), ("made", true), ("ext", false)]);
    }

    #[test]
    fn a_claim_is_for_those_that_it_is_reserved_for() {
        let pod = pod(json!({}));
        let named = |is_own| Named { reference: Some("a".to_owned()), name: "shared".to_owned(), is_own };
        assert_eq!(refusal(&pod, &named(true), &claim("pu", "pu")), None);
        assert_eq!(refusal(&pod, &named(false), &claim("pu", "other")), None);
        assert_eq!(
            refusal(&pod, &named(true), &claim("pu", "other")).as_deref(),
            Some("ResourceClaim n/shared was not created for Pod n/p (Pod is not owner)")
        );
        assert_eq!(
            refusal(&pod, &named(false), &claim("other", "pu")).as_deref(),
            Some("pod p (pu) is not allowed to use ResourceClaim shared (cu)")
        );
    }

    #[test]
    fn drivers_prepare_once_and_undo_with_the_last_pod() {
        let mut ledger = Ledger::default();
        let info = Info::of(&claim("pu", "pu")).expect("it is allocated");
        let batches = ledger.begin("pu", std::slice::from_ref(&info)).expect("it can be used");
        assert_eq!(batches.keys().collect::<Vec<_>>(), ["d", "e"]);
        assert_eq!(
            ledger.take_prepared("d", &batches["d"], messages::PrepareResponse::default()),
            Err("NodePrepareResources skipped 1 ResourceClaims".to_owned())
        );
        assert_eq!(
            ledger.take_prepared("d", &batches["d"], prepared("x", "first", "1")),
            Err("NodePrepareResources returned result for unknown claim UID x".to_owned())
        );
        ledger.take_prepared("d", &batches["d"], prepared("cu", "first", "1")).expect("it is well");
        ledger.take_prepared("e", &batches["e"], prepared("cu", "second", "2")).expect("it is well");
        ledger.set_prepared(std::slice::from_ref(&info));
        assert!(ledger.begin("qu", std::slice::from_ref(&info)).expect("it can be shared").is_empty());
        assert_eq!(ledger.in_use(), ([("d".to_owned(), 1), ("e".to_owned(), 1)].into(), 1));
        let with_all = pod(json!({"resourceClaimStatuses": [{"name": "b"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "shared", "requestMappings": [
                {"containerName": "one", "resourceName": "x.com/gpu", "requestName": "first"}]}}));
        let devices = |index: usize| ledger.cdi_devices(&with_all, &pod::containers(&with_all)[index]).expect("they are prepared");
        assert_eq!(
            (devices(0), devices(1), devices(2)),
            (vec!["v/c=1".to_owned(), "v/c=2".to_owned()], vec!["v/c=2".to_owned(), "v/c=1".to_owned()], vec![])
        );
        assert_eq!(ledger.pods_with("d", &[("pool".to_owned(), "1".to_owned())].into()), ["pu".to_owned(), "qu".to_owned()].into());
        assert_eq!(ledger.left_behind(&["qu".to_owned()].into()), ["pu".to_owned()].into());

        assert_eq!(ledger.end("qu"), (BTreeMap::new(), vec![]));
        let (batches, last) = ledger.end("pu");
        assert_eq!((batches.len(), last.len()), (2, 1));
        let error = ledger.begin("ru", std::slice::from_ref(&info)).expect_err("it is going away");
        assert_eq!(error, "ResourceClaim shared is being unprepared");
        ledger.forget(&last);
        let other = Info { uid: "other".to_owned(), ..info.clone() };
        ledger.begin("ru", std::slice::from_ref(&info)).expect("it is as new");
        assert_eq!(
            ledger.begin("su", &[other]),
            Err("old ResourceClaim with same name shared and different UID cu still exists (previous pod force-deleted?!)".to_owned())
        );
        let failed = messages::UnprepareResponse { claims: [("cu".to_owned(), messages::Unprepared { error: "x".to_owned() })].into() };
        assert_eq!(undone(&[info.message()], &failed), Err("NodeUnprepareResources failed for ResourceClaim shared: x".to_owned()));
    }
}
