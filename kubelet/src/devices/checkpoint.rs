//! `kubelet_internal_checkpoint`: who has which devices, for the kubelet that comes after this one, ours or upstream's.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::ledger::{Allocation, Ledger, OfPod};
use super::messages::ContainerAllocateResponse;
use crate::state_file::{self, Error};

/// The file's name in the directory of the plugins' sockets.
pub const FILE: &str = "kubelet_internal_checkpoint";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: Data,
    checksum: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Option<Vec<Entry>>,
    registered_devices: Option<BTreeMap<String, Option<Vec<String>>>>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    #[serde(rename = "ContainerName")]
    container_name: String,
    #[serde(rename = "ResourceName")]
    resource_name: String,
    #[serde(rename = "DeviceIDs")]
    device_ids: Option<BTreeMap<i64, Option<Vec<String>>>>,
    /// Base64 of the message.
    #[serde(rename = "AllocResp")]
    alloc_resp: Option<String>,
}

impl Data {
    /// The text that upstream takes the checksum of.
    fn spelled(&self) -> Result<String, Error> {
        let list = |ids: &Option<Vec<String>>| ids.as_ref().map_or("<nil>".to_owned(), |ids| format!("[{}]", ids.join(" ")));
        let entry = |entry: &Entry| -> Result<String, Error> {
            let ids = entry.device_ids.as_ref().map_or("<nil>".to_owned(), |ids| {
                let nodes: Vec<String> = ids.iter().map(|(node, ids)| format!("{node}:{}", list(ids))).collect();
                format!("map[{}]", nodes.join(" "))
            });
            let response = match &entry.alloc_resp {
                None => "<nil>".to_owned(),
                Some(text) => {
                    let bytes: Vec<String> = decoded(text)?.iter().map(u8::to_string).collect();
                    format!("[{}]", bytes.join(" "))
                }
            };
            let Entry { pod_uid, container_name, resource_name, .. } = entry;
            Ok(format!(
                "{{PodUID:(string){pod_uid} ContainerName:(string){container_name} ResourceName:(string){resource_name} \
                 DeviceIDs:(checkpoint.DevicesPerNUMA){ids} AllocResp:([]uint8){response}}}"
            ))
        };
        let entries = match &self.pod_device_entries {
            None => "<nil>".to_owned(),
            Some(entries) => format!("[{}]", entries.iter().map(entry).collect::<Result<Vec<String>, Error>>()?.join(" ")),
        };
        let registered = self.registered_devices.as_ref().map_or("<nil>".to_owned(), |registered| {
            let resources: Vec<String> = registered.iter().map(|(name, ids)| format!("{name}:{}", list(ids))).collect();
            format!("map[{}]", resources.join(" "))
        });
        Ok(format!(
            "(checkpoint.checkpointData){{PodDeviceEntries:([]checkpoint.PodDevicesEntry){entries} \
             RegisteredDevices:(map[string][]string){registered}}}"
        ))
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, Error> {
    STANDARD.decode(text).map_err(|error| Error::Content(error.to_string()))
}

/// What the file says of a ledger.
fn written(ledger: &Ledger) -> Result<String, Error> {
    let mut entries = Vec::new();
    for (uid, of_pod) in ledger.pods() {
        for (container, resources) in of_pod {
            entries.extend(resources.iter().map(|(resource, allocation)| Entry {
                pod_uid: uid.clone(),
                container_name: container.clone(),
                resource_name: resource.clone(),
                device_ids: Some(allocation.devices.iter().map(|(node, ids)| (*node, Some(ids.clone()))).collect()),
                alloc_resp: Some(STANDARD.encode(allocation.response.encode_to_vec())),
            }));
        }
    }
    let registered = ledger.healthy().iter().map(|(resource, ids)| (resource.clone(), Some(ids.iter().cloned().collect()))).collect();
    let data = Data { pod_device_entries: (!entries.is_empty()).then_some(entries), registered_devices: Some(registered) };
    let checksum = u64::from(state_file::fnv32a(data.spelled()?.as_bytes()));
    serde_json::to_string(&File { data, checksum }).map_err(|error| Error::Content(error.to_string()))
}

fn read_text(text: &str) -> Result<Ledger, Error> {
    let File { data, checksum } = serde_json::from_str(text).map_err(|error| Error::Content(error.to_string()))?;
    let actual = u64::from(state_file::fnv32a(data.spelled()?.as_bytes()));
    if actual != checksum {
        return Err(Error::Corrupt);
    }
    let mut pods: BTreeMap<String, OfPod> = BTreeMap::new();
    for entry in data.pod_device_entries.unwrap_or_default() {
        let bytes = decoded(entry.alloc_resp.as_deref().unwrap_or(""))?;
        let response = ContainerAllocateResponse::decode(bytes.as_slice()).map_err(|error| Error::Content(error.to_string()))?;
        let devices = entry.device_ids.unwrap_or_default().into_iter().map(|(node, ids)| (node, ids.unwrap_or_default())).collect();
        let of_container = pods.entry(entry.pod_uid).or_default().entry(entry.container_name).or_default();
        of_container.insert(entry.resource_name, Allocation { devices, response });
    }
    Ok(Ledger::recalled(pods, data.registered_devices.unwrap_or_default().into_keys()))
}

/// Writes the file, all of it or nothing.
pub async fn write(directory: &Path, ledger: &Ledger) -> Result<(), Error> {
    state_file::write(&directory.join(FILE), written(ledger)?).await
}

/// Reads the file; none if there is none.
pub async fn read(directory: &Path) -> Result<Option<Ledger>, Error> {
    state_file::read(&directory.join(FILE)).await?.map(|text| read_text(&text)).transpose()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::ledger::Holder;
    use super::super::messages::{Device, HEALTHY};
    use super::*;

    #[test]
    fn the_checksum_is_upstreams() {
        // Numbers of upstream's own code over the same data.
        let entry = |uid: &str, ids, resp: Option<&[u8]>| Entry {
            pod_uid: uid.to_owned(),
            container_name: "c".to_owned(),
            resource_name: if uid == "u" { "r/x" } else { "r" }.to_owned(),
            device_ids: ids,
            alloc_resp: resp.map(|bytes| STANDARD.encode(bytes)),
        };
        let owned = |ids: &[&str]| Some(ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
        let ids = BTreeMap::from([(-1, owned(&["d1", "d\"2"])), (0, owned(&["é"]))]);
        let bytes: &[u8] = &[1, 2, 255, 16, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 97];
        let registered = BTreeMap::from([("b".to_owned(), owned(&["x"])), ("a".to_owned(), Some(vec![])), ("c".to_owned(), None)]);
        let data = Data {
            pod_device_entries: Some(vec![entry("u", Some(ids), Some(bytes)), entry("v", None, None)]),
            registered_devices: Some(registered),
        };
        let empty = Data { pod_device_entries: None, registered_devices: None };
        let sums = [data, empty].map(|data| state_file::fnv32a(data.spelled().expect("it is well formed").as_bytes()));
        assert_eq!(sums, [CHECKSUM_FULL, CHECKSUM_EMPTY]);
    }

    const CHECKSUM_FULL: u32 = 1_085_600_732;
    const CHECKSUM_EMPTY: u32 = 1_944_006_890;

    #[test]
    fn what_is_written_is_read_again_and_damage_is_noticed() {
        let mut ledger = Ledger::default();
        ledger.update("example.com/r", vec![Device { id: "1".to_owned(), health: HEALTHY.to_owned(), topology: None }]);
        let response = ContainerAllocateResponse { envs: HashMap::from([("K".to_owned(), "v".to_owned())]), ..Default::default() };
        let holder = Holder { pod_uid: "p", container: "c" };
        ledger.give(holder, "example.com/r", &["1".to_owned()].into(), response);
        let text = written(&ledger).expect("it can be written");
        let read = read_text(&text).expect("it can be read");
        assert_eq!(read.pods(), ledger.pods());
        assert_eq!((read.amounts("example.com/r"), read.knows("example.com/r")), ((0, 0), true));
        assert!(matches!(read_text(&text.replace("\"p\"", "\"q\"")), Err(Error::Corrupt)));
    }
}
