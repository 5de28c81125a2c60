//! Whose a volume is: the pod's `fsGroup` on everything in it. Blocking.
//!
//! Upstream: pkg/volume/volume_linux.go.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

/// The group that a volume is to belong to, and whether to look only at its root first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    pub group: u32,
    pub only_on_mismatch: bool,
}

impl Ownership {
    /// What the pod's security context says.
    pub fn of(pod: &Pod) -> Option<Ownership> {
        let context = pod.spec.as_ref()?.security_context.as_ref()?;
        let group = u32::try_from(context.fs_group?).ok()?;
        Some(Ownership { group, only_on_mismatch: context.fs_group_change_policy.as_deref() == Some("OnRootMismatch") })
    }

    /// For volumes that are written anew: the policy says nothing about them.
    pub fn always(self) -> Ownership {
        Ownership { only_on_mismatch: false, ..self }
    }

    /// Gives everything below (and at last the root itself) to the group, readable and, unless it is `read_only`, writable for it.
    pub fn apply(self, root: &Path, read_only: bool) -> io::Result<()> {
        if self.only_on_mismatch && !self.mismatches(root, read_only) {
            return Ok(());
        }
        self.apply_deep(root, read_only)
    }

    fn mask(read_only: bool) -> u32 {
        if read_only { 0o440 } else { 0o660 }
    }

    fn mismatches(self, root: &Path, read_only: bool) -> bool {
        let Ok(metadata) = std::fs::metadata(root) else { return true };
        let needed = Ownership::mask(read_only) | 0o110 | 0o2000;
        !metadata.is_dir() || metadata.gid() != self.group || metadata.mode() & needed != needed
    }

    fn apply_deep(self, path: &Path, read_only: bool) -> io::Result<()> {
        let metadata = std::fs::symlink_metadata(path)?;
        if metadata.is_dir() {
            for entry in std::fs::read_dir(path)? {
                match self.apply_deep(&entry?.path(), read_only) {
                    // Whoever uses the volume already may have removed it meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        }
        // A single file that cannot be given away does not keep the pod from starting.
        if let Err(error) = lchown(path, None, Some(self.group)) {
            tracing::warn!(path = %path.display(), %error, "cannot change the group of a file of a volume");
        }
        if metadata.is_symlink() {
            return Ok(());
        }
        let mut mask = Ownership::mask(read_only);
        if metadata.is_dir() {
            mask |= 0o2000 | 0o110;
        }
        let mode = metadata.mode() & 0o7777 | mask;
        if let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)) {
            tracing::warn!(path = %path.display(), %error, "cannot change the mode of a file of a volume");
        }
        Ok(())
    }
}

/// The user that all containers of a pod run as, if it is one and the same.
pub fn common_user(pod: &Pod) -> Option<i64> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(|container| container.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn modes_are_widened_for_the_group() {
        let dir = tempfile::tempdir().expect("there is a directory for temporary files");
        let file = dir.path().join("a");
        std::fs::write(&file, "").expect("it is writable");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        let group = std::fs::metadata(&file).expect("it is there").gid();
        let ownership = Ownership { group, only_on_mismatch: true };
        assert!(ownership.mismatches(dir.path(), false));
        ownership.apply(dir.path(), false).expect("it is ours");
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").mode() & 0o7777;
        assert_eq!((mode(&file), mode(dir.path()) & 0o2770), (0o660, 0o2770));
        assert!(!ownership.mismatches(dir.path(), false));
    }

    #[test]
    fn a_user_is_common_only_if_everyone_has_it() {
        let pod = |spec: serde_json::Value| serde_json::from_value::<Pod>(json!({ "spec": spec })).expect("it is a pod");
        let user = |n: i64| json!({"runAsUser": n});
        assert_eq!(common_user(&pod(json!({"containers": [{"name": "a"}]}))), None);
        assert_eq!(common_user(&pod(json!({"securityContext": user(5), "containers": [{"name": "a"}]}))), Some(5));
        assert_eq!(common_user(&pod(json!({"containers": [{"name": "a", "securityContext": user(5)}, {"name": "b"}]}))), None);
        let two = json!({"securityContext": user(5), "containers": [{"name": "a", "securityContext": user(6)}, {"name": "b"}]});
        assert_eq!(common_user(&pod(two)), None);
    }
}
