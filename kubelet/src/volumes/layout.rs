//! Where things lie below the root directory. The same places as upstream's, so that either kubelet finds the other's.

use std::path::{Path, PathBuf};

/// The kinds of volumes, by the directory that they are kept in. Their contents belong to the pod and go with it, or they are someone else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub directory: &'static str,
}

pub const EMPTY_DIR: Kind = Kind { directory: "kubernetes.io~empty-dir" };
pub const CONFIG_MAP: Kind = Kind { directory: "kubernetes.io~configmap" };
pub const SECRET: Kind = Kind { directory: "kubernetes.io~secret" };
pub const PROJECTED: Kind = Kind { directory: "kubernetes.io~projected" };
pub const DOWNWARD_API: Kind = Kind { directory: "kubernetes.io~downward-api" };
pub const LOCAL: Kind = Kind { directory: "kubernetes.io~local-volume" };
pub const NFS: Kind = Kind { directory: "kubernetes.io~nfs" };

pub const CSI: Kind = Kind { directory: "kubernetes.io~csi" };

/// The kinds whose directories are deleted with everything in them. Of others only the empty mount point is removed.
pub const OWNED: [Kind; 5] = [EMPTY_DIR, CONFIG_MAP, SECRET, PROJECTED, DOWNWARD_API];

pub fn pods_dir(root: &Path) -> PathBuf {
    root.join("pods")
}

pub fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    pods_dir(root).join(uid)
}

pub fn volume_dir(root: &Path, uid: &str, kind: Kind, name: &str) -> PathBuf {
    pod_dir(root, uid).join("volumes").join(kind.directory).join(name)
}

/// Where a driver puts a volume for all pods of the node.
pub fn csi_staging(root: &Path, driver: &str, hashed_handle: &str) -> PathBuf {
    root.join("plugins/kubernetes.io/csi").join(driver).join(hashed_handle).join("globalmount")
}

fn csi_devices(root: &Path) -> PathBuf {
    root.join("plugins/kubernetes.io/csi/volumeDevices")
}

/// Where what is known of a volume that is a device is kept: `dev` and `data`.
pub fn csi_device(root: &Path, name: &str) -> PathBuf {
    csi_devices(root).join(name)
}

/// Where a driver puts a device for all pods of the node.
pub fn csi_device_staging(root: &Path, name: &str) -> PathBuf {
    csi_devices(root).join("staging").join(name)
}

/// Where a driver puts a device for single pods, each under the pod's uid.
pub fn csi_device_publish(root: &Path, name: &str) -> PathBuf {
    csi_devices(root).join("publish").join(name)
}

/// Where a pod's devices of drivers are linked to by name.
pub fn pod_devices(root: &Path, uid: &str) -> PathBuf {
    pod_dir(root, uid).join("volumeDevices").join(CSI.directory)
}

/// Where a path below a volume is mounted for one mount of a container.
pub fn sub_path_target(root: &Path, uid: &str, volume: &str, container: &str, index: usize) -> PathBuf {
    pod_dir(root, uid).join("volume-subpaths").join(volume).join(container).join(index.to_string())
}
