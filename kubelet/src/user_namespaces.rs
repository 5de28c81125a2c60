//! The ranges of user ids that pods with `hostUsers: false` have: as long as each other, apart from each other and from the host's own.
//!
//! A pod's range is written into its directory (file `userns`, as upstream's), where it is found again after a restart. Blocking, short.
//!
//! Upstream: pkg/kubelet/userns/userns_manager.go.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use k8s_cri::v1::{IdMapping, NamespaceMode, UserNamespace};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

const FILE: &str = "userns";
/// The account whose subordinate ids pods get, if there is one.
const ACCOUNT: &str = "kubelet";
/// Lengths of ranges are multiples of this.
const UNIT: u32 = 65536;

/// What is written of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mappings {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

impl Mappings {
    fn of(first: u32, length: u32) -> Mappings {
        let mapping = Mapping { host_id: first, container_id: 0, length };
        Mappings { uid_mappings: vec![mapping], gid_mappings: vec![mapping] }
    }

    /// The one range of which both users and groups are.
    fn range(&self) -> Result<(u32, u32), &'static str> {
        let [uids] = self.uid_mappings.as_slice() else {
            return Err("invalid user namespace configuration: no more than one mapping allowed.");
        };
        let [gids] = self.gid_mappings.as_slice() else {
            return Err("invalid user namespace configuration: GID and UID mappings should be identical.");
        };
        if uids != gids {
            return Err("invalid user namespace configuration: GID and UID mapping should be identical");
        }
        if uids.container_id != 0 {
            return Err("invalid user namespace configuration: UID 0 must be mapped");
        }
        Ok((uids.host_id, uids.length))
    }

    fn for_runtime(&self) -> UserNamespace {
        let mapping =
            |mapping: &Mapping| IdMapping { host_id: mapping.host_id, container_id: mapping.container_id, length: mapping.length };
        UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: self.uid_mappings.iter().map(mapping).collect(),
            gids: self.gid_mappings.iter().map(mapping).collect(),
        }
    }
}

/// Which ranges there are, and whose they are. Pure.
#[derive(Debug)]
struct Ranges {
    /// The number of the first range, how many there are, and how long each is.
    offset: u32,
    count: u32,
    length: u32,
    /// By the number of the range, counted from the offset.
    used: BTreeMap<u32, String>,
    /// First ids by pod.
    by_pod: HashMap<String, u32>,
}

impl Ranges {
    /// Cuts the ids from `first` on into ranges.
    fn new(first: u32, total: u32, length: u32, max_pods: i32) -> Result<Ranges, String> {
        if length == 0 || !length.is_multiple_of(UNIT) {
            return Err(format!("kubelet user namespace length {length} is not a multiple of {UNIT}"));
        }
        if !first.is_multiple_of(length) {
            return Err(format!("kubelet user assigned ID {first} is not a multiple of {length}"));
        }
        if first < length {
            return Err(format!("kubelet user assigned ID {first} must be greater or equal to {length}"));
        }
        if !total.is_multiple_of(length) {
            return Err(format!("kubelet user assigned IDs length {total} is not a multiple of {length}"));
        }
        if i64::from(total / length) < i64::from(max_pods) {
            return Err(format!("kubelet user assigned IDs are not enough to support {max_pods} pods"));
        }
        Ok(Ranges { offset: first / length, count: total / length, length, used: BTreeMap::new(), by_pod: HashMap::new() })
    }

    /// A free range for a pod; its first id.
    fn allocate(&mut self, pod: &str) -> Result<u32, String> {
        // The first gap between those in use, which are in order.
        let gap = (0..).zip(self.used.keys()).find(|(expected, used)| expected != *used).map(|(expected, _)| expected);
        let index = gap.unwrap_or(u32::try_from(self.used.len()).unwrap_or(u32::MAX));
        if index >= self.count {
            return Err("could not find an empty slot to allocate a user namespace".to_owned());
        }
        let first = (index + self.offset) * self.length;
        self.used.insert(index, pod.to_owned());
        self.by_pod.insert(pod.to_owned(), first);
        Ok(first)
    }

    /// Takes over what a pod has already.
    fn record(&mut self, pod: &str, first: u32, length: u32) -> Result<(), String> {
        if length != self.length {
            return Err(format!("wrong user namespace length {length}"));
        }
        if !first.is_multiple_of(self.length) {
            return Err(format!("wrong user namespace offset specified {first}"));
        }
        match self.by_pod.get(pod) {
            Some(known) if *known == first => return Ok(()),
            Some(_) => return Err(format!("different user namespace range already used by pod {pod:?}")),
            None => {}
        }
        let index = (first / self.length).checked_sub(self.offset).filter(|index| *index < self.count);
        let index = index.ok_or_else(|| format!("id {first} is out of range"))?;
        if self.used.contains_key(&index) {
            return Err(format!("range picked for pod {pod:?} already taken"));
        }
        self.used.insert(index, pod.to_owned());
        self.by_pod.insert(pod.to_owned(), first);
        Ok(())
    }

    fn release(&mut self, pod: &str) {
        if self.by_pod.remove(pod).is_some() {
            self.used.retain(|_, user| user != pod);
        }
    }
}

/// Where the ranges begin and how many ids there are, as `getsubids` tells: `0: kubelet 65536 7208960`.
fn parse_subids(text: &str) -> Result<(u32, u32), String> {
    let text = text.trim_matches('\n');
    if text.contains('\n') {
        return Err(format!("error parsing line {text:?}: it must contain only one line"));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, _, first, count] = words.as_slice() else { return Err(format!("invalid line {text:?}")) };
    let number = |word: &str| word.parse::<u32>().map_err(|error| format!("error parsing line {text:?}: {error}"));
    Ok((number(first)?, number(count)?))
}

/// The ids that pods may have: those of the account `kubelet`, or all but the first range.
fn ids_of_this_host(length: u32) -> Result<(u32, u32), String> {
    let default = (length, 0_u32.wrapping_sub(length));
    let known = nix::unistd::User::from_name(ACCOUNT).map_err(|error| error.to_string())?;
    if known.is_none() {
        return Ok(default);
    }
    let ask = |arguments: &[&str]| match std::process::Command::new("getsubids").args(arguments).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("error retrieving additional ids for user {ACCOUNT:?}: {error}")),
        Ok(output) if output.status.success() => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Ok(output) => Err(format!("error retrieving additional ids for user {ACCOUNT:?}: {}", output.status)),
    };
    let (uids, gids) = (ask(&[ACCOUNT])?, ask(&["-g", ACCOUNT])?);
    if uids != gids {
        return Err(format!("mismatched subuids and subgids for user {ACCOUNT:?}"));
    }
    uids.map_or(Ok(default), |text| parse_subids(&text))
}

/// Why a pod cannot have a range, or nobody can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// The ranges of all pods of this node.
pub struct UserNamespaces {
    root_dir: PathBuf,
    ranges: Mutex<Ranges>,
}

impl UserNamespaces {
    /// Finds out which ids there are, and which of them pods have since an earlier run.
    pub fn open(root_dir: &Path, ids_per_pod: u32, max_pods: i32) -> Result<UserNamespaces, Error> {
        let (first, total) = ids_of_this_host(ids_per_pod).map_err(|error| Error(format!("kubelet mappings: {error}")))?;
        UserNamespaces::with_ids(root_dir, first, total, ids_per_pod, max_pods)
    }

    fn with_ids(root_dir: &Path, first: u32, total: u32, ids_per_pod: u32, max_pods: i32) -> Result<UserNamespaces, Error> {
        let mut ranges = Ranges::new(first, total, ids_per_pod, max_pods).map_err(Error)?;
        let pods = crate::volumes::pods_on_disk(root_dir).map_err(|error| Error(format!("read pods from disk: {error}")))?;
        for pod in pods {
            let failed = |error: String| Error(format!("record pod mappings for existing pod {pod:?}: {error}"));
            let Some(mappings) = read(root_dir, &pod).map_err(failed)? else { continue };
            let (first, length) = mappings.range().map_err(|error| failed(error.to_owned()))?;
            ranges.record(&pod, first, length).map_err(failed)?;
        }
        Ok(UserNamespaces { root_dir: root_dir.to_owned(), ranges: Mutex::new(ranges) })
    }

    /// The pod's user namespace, made if it has none. `supported`: whether the runtime's handler of this name can do it.
    pub fn get_or_create(&self, pod: &str, handler: &str, supported: Result<bool, String>) -> Result<UserNamespace, Error> {
        let refusal = match handler {
            "" => "can't set `spec.hostUsers: false`, runtime does not support user namespaces".to_owned(),
            handler => format!("can't set `spec.hostUsers: false`, RuntimeClass handler {handler:?} does not support user namespaces"),
        };
        match supported {
            Ok(true) => {}
            Ok(false) => return Err(Error(refusal)),
            Err(error) => return Err(Error(format!("{refusal}: {error}"))),
        }
        let mut ranges = self.ranges.lock();
        if let Some(mappings) = read(&self.root_dir, pod).map_err(Error)? {
            let (first, length) = mappings.range().map_err(|error| Error(format!("user namespace: {error}")))?;
            ranges.record(pod, first, length).map_err(|error| Error(format!("user namespace: {error}")))?;
            return Ok(mappings.for_runtime());
        }
        let failed = |error: String| Error(format!("create user namespace: {error}"));
        let mappings = Mappings::of(ranges.allocate(pod).map_err(failed)?, ranges.length);
        if let Err(error) = write(&self.root_dir, pod, &mappings) {
            ranges.release(pod);
            return Err(failed(error.to_string()));
        }
        Ok(mappings.for_runtime())
    }

    /// What a pod has.
    pub fn of(&self, pod: &str) -> Option<UserNamespace> {
        let ranges = self.ranges.lock();
        ranges.by_pod.get(pod).map(|first| Mappings::of(*first, ranges.length).for_runtime())
    }

    /// Takes back the ranges of pods that have no directory any more.
    pub fn release_gone(&self) {
        let mut ranges = self.ranges.lock();
        let gone: Vec<String> = ranges.by_pod.keys().filter(|pod| !file_of(&self.root_dir, pod).exists()).cloned().collect();
        gone.iter().for_each(|pod| ranges.release(pod));
    }

    /// The pod and its directory are gone.
    pub fn release(&self, pod: &str) {
        self.ranges.lock().release(pod);
    }
}

fn file_of(root_dir: &Path, pod: &str) -> PathBuf {
    root_dir.join("pods").join(pod).join(FILE)
}

fn read(root_dir: &Path, pod: &str) -> Result<Option<Mappings>, String> {
    match std::fs::read(file_of(root_dir, pod)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| format!("invalid user namespace mappings file: {error}")),
    }
}

/// Whatever happens afterwards, the file is whole and there.
fn write(root_dir: &Path, pod: &str, mappings: &Mappings) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let file = file_of(root_dir, pod);
    let dir = file.parent().unwrap_or(root_dir);
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    let next = dir.join(format!(".{FILE}.next"));
    let mut written = std::fs::File::create(&next)?;
    written.write_all(&serde_json::to_vec(mappings)?)?;
    written.sync_all()?;
    std::fs::rename(&next, &file)?;
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_cut_into_ranges_of_one_length() {
        for (first, total, length, expect) in [
            (65536, 65536 * 110, 65536, None),
            (65536, 65536 * 109, 65536, Some("kubelet user assigned IDs are not enough to support 110 pods")),
            (0, 65536 * 200, 65536, Some("kubelet user assigned ID 0 must be greater or equal to 65536")),
            (1, 65536 * 200, 65536, Some("kubelet user assigned ID 1 is not a multiple of 65536")),
            (65536, 65536 * 200 + 1, 65536, Some("kubelet user assigned IDs length 13107201 is not a multiple of 65536")),
            (65536, 65536 * 200, 1000, Some("kubelet user namespace length 1000 is not a multiple of 65536")),
        ] {
            assert_eq!(Ranges::new(first, total, length, 110).err().as_deref(), expect);
        }
    }

    #[test]
    fn each_pod_has_the_first_free_range() {
        let mut ranges = Ranges::new(65536 * 2, 65536 * 3, 65536, 3).expect("there are three");
        assert_eq!(["a", "b", "c"].map(|pod| ranges.allocate(pod)), [Ok(65536 * 2), Ok(65536 * 3), Ok(65536 * 4)]);
        assert!(ranges.allocate("d").is_err());
        ranges.release("b");
        assert_eq!(ranges.allocate("d"), Ok(65536 * 3));
        for (pod, first, length, expect) in [
            ("a", 65536 * 2, 65536, None),
            ("a", 65536 * 3, 65536, Some("different user namespace range already used by pod \"a\"")),
            ("e", 65536 * 2, 65536, Some("range picked for pod \"e\" already taken")),
            ("e", 65536 * 9, 65536, Some("id 589824 is out of range")),
            ("e", 65536, 65536, Some("id 65536 is out of range")),
            ("e", 7, 65536, Some("wrong user namespace offset specified 7")),
            ("e", 65536 * 2, 1, Some("wrong user namespace length 1")),
        ] {
            assert_eq!(ranges.record(pod, first, length).err().as_deref(), expect);
        }
    }

    #[test]
    fn the_ids_of_the_account_are_read_as_they_are_told() {
        assert_eq!(parse_subids("0: kubelet 65536 7208960\n"), Ok((65536, 7_208_960)));
        for wrong in ["", "0: kubelet 65536", "0: kubelet a b", "0: kubelet 1 2\n1: kubelet 3 4\n", "0: kubelet 1 4294967296"] {
            assert!(parse_subids(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_pod_keeps_its_range_over_a_restart() {
        let root = tempfile::tempdir().expect("there is a directory for temporary files");
        let open = || UserNamespaces::with_ids(root.path(), 65536, 65536 * 110, 65536, 110);
        let namespaces = open().expect("it is readable");
        let refused = namespaces.get_or_create("a", "", Ok(false)).expect_err("the runtime cannot");
        assert_eq!(refused.to_string(), "can't set `spec.hostUsers: false`, runtime does not support user namespaces");
        let refused = namespaces.get_or_create("a", "kata", Err("x".to_owned())).expect_err("nobody knows it");
        assert!(refused.to_string().ends_with("RuntimeClass handler \"kata\" does not support user namespaces: x"), "{refused}");
        namespaces.get_or_create("a", "", Ok(true)).expect("there is room");
        let second = namespaces.get_or_create("b", "", Ok(true)).expect("there is room");
        assert_eq!((second.uids[0].host_id, second.uids[0].length, second.gids == second.uids), (131_072, 65536, true));
        let again = open().expect("what was written is valid");
        assert_eq!(again.of("b"), Some(second.clone()));
        assert_eq!(again.get_or_create("b", "", Ok(true)), Ok(second));
        std::fs::remove_dir_all(root.path().join("pods/a")).expect("it is there");
        again.release_gone();
        assert_eq!(again.get_or_create("c", "", Ok(true)).expect("there is room").uids[0].host_id, 65536);
        std::fs::write(file_of(root.path(), "c"), r#"{"uidMappings":[],"gidMappings":[]}"#).expect("it is writable");
        assert!(open().is_err());
    }
}
