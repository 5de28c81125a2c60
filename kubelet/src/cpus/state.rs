//! `cpu_manager_state`: who has which CPUs, for the kubelet that comes after this one, ours or upstream's.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::policy::{Assignments, State};
use super::set::CpuSet;
use crate::state_file::{self, Error};

const FILE: &str = "cpu_manager_state";

type Entries = BTreeMap<String, BTreeMap<String, String>>;

/// Newer kubelets read `data`, older ones what is beside it.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    policy_name: String,
    default_cpu_set: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    entries: Entries,
    checksum: u32,
    /// JSON of [`Data`], as a text.
    data: Option<String>,
    data_checksum: u32,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Data {
    policy_name: String,
    default_cpu_set: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    entries: Entries,
}

impl Data {
    /// The checksum that older kubelets look at.
    fn checksum(&self) -> u32 {
        let map = |pairs: Vec<String>| format!("map[{}]", pairs.join(" "));
        let containers = |entries: &BTreeMap<String, String>| map(entries.iter().map(|(name, cpus)| format!("{name}:{cpus}")).collect());
        let entries = map(self.entries.iter().map(|(pod, entries)| format!("{pod}:{}", containers(entries))).collect());
        let spelled = format!(
            "(*state.CPUManagerCheckpoint){{PolicyName:(string){} DefaultCPUSet:(string){} \
             Entries:(map[string]map[string]string){entries} Checksum:(checksum.Checksum)0}}",
            self.policy_name, self.default_cpu_set
        );
        state_file::fnv32a(spelled.as_bytes())
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Content(error.to_string())
}

fn written(policy: &str, state: &State) -> Result<String, Error> {
    let of_pod = |containers: &BTreeMap<String, CpuSet>| containers.iter().map(|(name, cpus)| (name.clone(), cpus.to_string())).collect();
    let entries: Entries = state.assignments.iter().map(|(pod, containers)| (pod.clone(), of_pod(containers))).collect();
    let data = Data { policy_name: policy.to_owned(), default_cpu_set: state.shared.to_string(), entries };
    let text = serde_json::to_string(&data).map_err(failed)?;
    let file = File {
        checksum: data.checksum(),
        data_checksum: state_file::text_checksum(&text),
        data: Some(text),
        policy_name: data.policy_name,
        default_cpu_set: data.default_cpu_set,
        entries: data.entries,
    };
    serde_json::to_string(&file).map_err(failed)
}

fn read_text(policy: &str, text: &str) -> Result<State, Error> {
    let file: File = serde_json::from_str(text).map_err(failed)?;
    let data = match file.data {
        Some(text) if state_file::text_checksum(&text) == file.data_checksum => serde_json::from_str(&text).map_err(failed)?,
        Some(_) => return Err(Error::Corrupt),
        None => {
            let data = Data { policy_name: file.policy_name, default_cpu_set: file.default_cpu_set, entries: file.entries };
            if file.checksum != 0 && file.checksum != data.checksum() {
                return Err(Error::Corrupt);
            }
            data
        }
    };
    if data.policy_name != policy {
        return Err(Error::Content(format!(
            "could not restore state from checkpoint: configured policy {policy:?} differs from state checkpoint policy {:?}, please drain this node and delete the CPU manager checkpoint file before restarting Kubelet",
            data.policy_name
        )));
    }
    let mut assignments = Assignments::new();
    for (pod, containers) in &data.entries {
        for (container, cpus) in containers {
            let cpus = CpuSet::parse(cpus)
                .map_err(|error| failed(format!("could not parse cpuset {cpus:?} for container {container:?} in pod {pod:?}: {error}")))?;
            assignments.entry(pod.clone()).or_default().insert(container.clone(), cpus);
        }
    }
    let shared = CpuSet::parse(&data.default_cpu_set).map_err(|error| failed(format!("could not parse default cpu set: {error}")))?;
    Ok(State { shared, assignments })
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
    use super::*;

    #[test]
    fn the_file_is_as_upstream_writes_and_reads_it() {
        let set = |text: &str| CpuSet::parse(text).expect("it is a set");
        let containers = [("c".to_owned(), set("1")), ("a".to_owned(), set("2"))].into();
        let state = State { shared: set("0-3"), assignments: [("p".to_owned(), containers)].into() };
        let text = written("static", &state).expect("it can be written");
        let file: File = serde_json::from_str(&text).expect("it is well formed");
        // A number of upstream's own code over the same data.
        assert_eq!(file.checksum, 4_192_735_519);
        assert_eq!(file.data.as_deref(), Some(r#"{"policyName":"static","defaultCpuSet":"0-3","entries":{"p":{"a":"2","c":"1"}}}"#));
        assert_eq!(read_text("static", &text).expect("it can be read"), state);
        assert!(read_text("none", &text).expect_err("it is another policy's").to_string().contains("configured policy \"none\" differs"));
        assert!(matches!(read_text("static", &text.replace("0-3", "0-4")), Err(Error::Corrupt)));
        let old = r#"{"policyName":"static","defaultCpuSet":"0-3","entries":{"p":{"c":"1","a":"2"}},"checksum":4192735519}"#;
        assert_eq!(read_text("static", old).expect("it can be read"), state);
    }
}
