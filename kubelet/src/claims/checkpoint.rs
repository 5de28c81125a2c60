//! `dra_manager_state`: the claims that pods use, for the kubelet that comes after this one, ours or upstream's.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ledger::{Info, Ledger};
use crate::state_file::{self, Error};

const FILE: &str = "dra_manager_state";
const KIND: &str = "DRACheckpoint";
const API_VERSION: &str = "checkpoint.dra.kubelet.k8s.io/v1";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    /// JSON of [`Data`], as a text.
    data: String,
    checksum: u32,
}

#[derive(Serialize, Deserialize)]
struct Data {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    #[serde(rename = "ClaimInfoStateList")]
    claims: Option<Vec<Info>>,
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Content(error.to_string())
}

fn written(ledger: &Ledger) -> Result<String, Error> {
    let data = Data { kind: KIND.to_owned(), api_version: API_VERSION.to_owned(), claims: Some(ledger.all().cloned().collect()) };
    let data = serde_json::to_string(&data).map_err(failed)?;
    let checksum = crc32(data.as_bytes());
    serde_json::to_string(&File { data, checksum }).map_err(failed)
}

fn read_text(text: &str) -> Result<Ledger, Error> {
    let File { data, checksum } = serde_json::from_str(text).map_err(failed)?;
    if crc32(data.as_bytes()) != checksum {
        return Err(Error::Corrupt);
    }
    let data: Data = serde_json::from_str(&data).map_err(failed)?;
    Ok(Ledger::recalled(data.claims.unwrap_or_default()))
}

pub async fn write(root_dir: &Path, ledger: &Ledger) -> Result<(), Error> {
    state_file::write(&root_dir.join(FILE), written(ledger)?).await
}

/// What is written; nothing if nothing is.
pub async fn read(root_dir: &Path) -> Result<Ledger, Error> {
    match state_file::read(&root_dir.join(FILE)).await? {
        None => Ok(Ledger::default()),
        Some(text) => read_text(&text),
    }
}

/// The checksum that is called IEEE.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Device, DriverState};
    use super::*;

    #[test]
    fn the_file_is_as_upstream_writes_it() {
        let device = Device { pool: "p".to_owned(), device: "d".to_owned(), cdi_devices: vec!["v/c=d".to_owned()], ..Device::default() };
        let info = Info {
            uid: "u".to_owned(),
            name: "c".to_owned(),
            namespace: "n".to_owned(),
            pods: ["pod".to_owned()].into(),
            drivers: [("driver".to_owned(), DriverState { devices: vec![device] })].into(),
            ..Info::default()
        };
        let text = written(&Ledger::recalled(vec![info.clone()])).expect("it can be written");
        let file: File = serde_json::from_str(&text).expect("it is well formed");
        assert_eq!(
            file.data,
            r#"{"kind":"DRACheckpoint","apiVersion":"checkpoint.dra.kubelet.k8s.io/v1","ClaimInfoStateList":[{"ClaimUID":"u","ClaimName":"c","Namespace":"n","PodUIDs":{"pod":{}},"DriverState":{"driver":{"Devices":[{"PoolName":"p","DeviceName":"d","ShareID":null,"RequestNames":[],"CDIDeviceIDs":["v/c=d"]}]}}}]}"#
        );
        assert_eq!(read_text(&text).expect("it can be read").get("n", "c"), Some(&info));
        assert!(matches!(read_text(&text.replace("driver", "dreiver")), Err(Error::Corrupt)));
        // Go writes null for what is empty.
        let data = r#"{"kind":"DRACheckpoint","apiVersion":"checkpoint.dra.kubelet.k8s.io/v1","ClaimInfoStateList":[{"ClaimUID":"u","ClaimName":"c","Namespace":"n","PodUIDs":{},"DriverState":{"driver":{"Devices":null}}}]}"#;
        let text = serde_json::to_string(&File { data: data.to_owned(), checksum: crc32(data.as_bytes()) }).expect("it can be written");
        assert!(read_text(&text).is_ok());
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
