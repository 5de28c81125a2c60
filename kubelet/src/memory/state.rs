//! `memory_manager_state`: who has which memory, for the kubelet that comes after this one, ours or upstream's.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::policy::{Assignments, NodeState, State};
use crate::state_file::{self, Error};

const FILE: &str = "memory_manager_state";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    policy_name: String,
    machine_state: BTreeMap<usize, NodeState>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: Assignments,
    /// JSON of [`Data`], as a text.
    data: String,
    data_checksum: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    policy_name: String,
    machine_state: Option<BTreeMap<usize, NodeState>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: Assignments,
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Content(error.to_string())
}

fn written(policy: &str, state: &State) -> Result<String, Error> {
    let data = Data { policy_name: policy.to_owned(), machine_state: Some(state.nodes.clone()), entries: state.assignments.clone() };
    let text = serde_json::to_string(&data).map_err(failed)?;
    let file = File {
        policy_name: data.policy_name,
        machine_state: state.nodes.clone(),
        entries: data.entries,
        data_checksum: state_file::text_checksum(&text),
        data: text,
    };
    serde_json::to_string(&file).map_err(failed)
}

fn read_text(policy: &str, text: &str) -> Result<State, Error> {
    let file: File = serde_json::from_str(text).map_err(failed)?;
    if state_file::text_checksum(&file.data) != file.data_checksum {
        return Err(Error::Corrupt);
    }
    let data: Data = serde_json::from_str(&file.data).map_err(failed)?;
    if data.policy_name != policy {
        return Err(failed(format!(
            "could not restore state from checkpoint: [memorymanager] configured policy {policy:?} differs from state checkpoint policy {:?}, please drain this node and delete the memory manager checkpoint file before restarting Kubelet",
            data.policy_name
        )));
    }
    Ok(State { nodes: data.machine_state.unwrap_or_default(), assignments: data.entries })
}

pub async fn write(root_dir: &Path, policy: &str, state: &State) -> Result<(), Error> {
    state_file::write(&root_dir.join(FILE), written(policy, state)?).await
}

/// What is written; nothing if nothing is.
pub async fn read(root_dir: &Path, policy: &str) -> Result<State, Error> {
    match state_file::read(&root_dir.join(FILE)).await? {
        None => Ok(State::default()),
        Some(text) => read_text(policy, &text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::{Block, Table};
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_damage_is_noticed() {
        let table = Table { total: 4, system_reserved: 1, allocatable: 3, reserved: 2, free: 1 };
        let node = NodeState { number_of_assignments: 1, memory_map: [("memory".to_owned(), table)].into(), cells: vec![0] };
        let block = Block { numa_affinity: vec![0], kind: "memory".to_owned(), size: 2 };
        let state = State { nodes: [(0, node)].into(), assignments: [("p".to_owned(), [("c".to_owned(), vec![block])].into())].into() };
        let text = written("Static", &state).expect("it can be written");
        let file: File = serde_json::from_str(&text).expect("it is well formed");
        assert_eq!(
            file.data,
            r#"{"policyName":"Static","machineState":{"0":{"numberOfAssignments":1,"memoryMap":{"memory":{"total":4,"systemReserved":1,"allocatable":3,"reserved":2,"free":1}},"cells":[0]}},"entries":{"p":{"c":[{"numaAffinity":[0],"type":"memory","size":2}]}}}"#
        );
        assert_eq!(read_text("Static", &text).expect("it can be read"), state);
        assert!(read_text("None", &text).expect_err("it is another policy's").to_string().contains("configured policy \"None\" differs"));
        assert!(matches!(read_text("Static", &text.replace("total\\\":4", "total\\\":5")), Err(Error::Corrupt)));
    }
}
