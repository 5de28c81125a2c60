//! Where a container sees its volumes. Pure: what has to be made on the host first (sub paths) is only named here.
//!
//! Upstream: `makeMounts` in pkg/kubelet/kubelet_pods.go.

use std::path::{Component, Path, PathBuf};

use k8s_cri::v1::{Device, Mount, MountPropagation};
use k8s_openapi::api::core::v1::VolumeMount;

use super::env::Env;
use super::{Error, Inputs, expansion};
use crate::volumes::Source;

/// The file that every pod gets unless a container mounts something there.
pub const ETC_HOSTS: &str = "/etc/hosts";

/// A mount, and what is to be prepared for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    pub mount: Mount,
    /// A path below the volume's that is to be mounted instead of the whole, to be resolved so that nothing leads out of the volume.
    pub sub_path: Option<SubPath>,
    /// A path below an image's root.
    pub image_sub_path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubPath {
    /// The place of the mount among its container's, which names the directory it is prepared in.
    pub index: usize,
    pub volume: String,
    pub volume_path: PathBuf,
    pub path: PathBuf,
}

/// The container's mounts in the order of its spec.
pub fn plan(inputs: &Inputs<'_>, env: &Env) -> Result<Vec<Planned>, Error> {
    let mounts = inputs.container.volume_mounts.iter().flatten().enumerate();
    mounts.map(|(index, mount)| plan_one(inputs, env, index, mount)).collect()
}

fn plan_one(inputs: &Inputs<'_>, env: &Env, index: usize, mount: &VolumeMount) -> Result<Planned, Error> {
    let name = &mount.name;
    let missing = || Error::new(format!("cannot find volume {name:?} to mount into container {:?}", inputs.container.name));
    let volume = inputs.volumes.by_name.get(name).ok_or_else(missing)?;
    let sub_path = sub_path(mount, env)?;
    let mut planned = Planned {
        mount: Mount {
            container_path: absolute(&mount.mount_path),
            readonly: mount.read_only == Some(true) || volume.read_only,
            recursive_read_only: recursive_read_only(mount, inputs.node.recursive_read_only)?,
            propagation: propagation(mount)?.into(),
            selinux_relabel: volume.selinux_relabel && inputs.node.selinux,
            ..Default::default()
        },
        sub_path: None,
        image_sub_path: String::new(),
    };
    match (&volume.source, inputs.image_volumes.get(name)) {
        (_, Some(image)) => {
            planned.mount.image = Some(image.clone());
            planned.image_sub_path = sub_path;
        }
        (Source::Path(path), None) => {
            planned.mount.host_path = path.to_string_lossy().into_owned();
            if !sub_path.is_empty() {
                let (volume_path, path) = (path.clone(), PathBuf::from(sub_path));
                planned.sub_path = Some(SubPath { index, volume: name.clone(), volume_path, path });
            }
        }
        (Source::Image | Source::Device(_), None) => return Err(missing()),
    }
    Ok(planned)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn sub_path(mount: &VolumeMount, env: &Env) -> Result<String, Error> {
    let sub_path = match mount.sub_path_expr.as_deref().filter(|expression| !expression.is_empty()) {
        None => mount.sub_path.clone().unwrap_or_default(),
        Some(expression) => {
            let mut missing = std::collections::BTreeSet::new();
            let expanded = expansion::expand_or(expression, |name| match env.get(name).filter(|value| !value.is_empty()) {
                Some(value) => value.clone(),
                None => {
                    missing.insert(name.to_owned());
                    String::new()
                }
            });
            if !missing.is_empty() {
                let missing: Vec<String> = missing.into_iter().collect();
                return Err(Error::new(format!("missing value for {}", missing.join(", "))));
            }
            expanded
        }
    };
    if sub_path.starts_with('/') {
        return Err(Error::new(format!("error SubPath `{sub_path}` must not be an absolute path")));
    }
    if Path::new(&sub_path).components().any(|part| part == Component::ParentDir) {
        return Err(Error::new(format!("unable to provision SubPath `{sub_path}`: must not contain '..'")));
    }
    Ok(sub_path)
}

fn propagation(mount: &VolumeMount) -> Result<MountPropagation, Error> {
    match mount.mount_propagation.as_deref() {
        None | Some("None") => Ok(MountPropagation::PropagationPrivate),
        Some("HostToContainer") => Ok(MountPropagation::PropagationHostToContainer),
        Some("Bidirectional") => Ok(MountPropagation::PropagationBidirectional),
        Some(other) => Err(Error::new(format!("invalid MountPropagation mode: {other:?}"))),
    }
}

fn recursive_read_only(mount: &VolumeMount, supported: bool) -> Result<bool, Error> {
    let refuse = |what: String| Err(Error::new(format!("failed to resolve recursive read-only mode: {what}")));
    let name = &mount.name;
    let mode = match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => return Ok(false),
        Some(mode) => mode,
    };
    if mount.read_only != Some(true) {
        return refuse(format!("volume {name:?} requested recursive read-only mode, but it is not read-only"));
    }
    if let Some(propagation) = mount.mount_propagation.as_deref().filter(|propagation| *propagation != "None") {
        return refuse(format!(
            "volume {name:?} requested recursive read-only mode, but it is not compatible with propagation {propagation:?}"
        ));
    }
    match mode {
        "IfPossible" => Ok(supported),
        "Enabled" if supported => Ok(true),
        "Enabled" => refuse(format!("volume {name:?} requested recursive read-only mode, but it is not supported by the runtime")),
        other => refuse(format!("unknown recursive read-only mode {other:?}")),
    }
}

/// Whether the container gets the pod's hosts file: not before the pod has an address, and not over what it mounts there itself.
pub fn wants_hosts_file(inputs: &Inputs<'_>) -> bool {
    let host_network = inputs.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let taken = inputs.container.volume_mounts.iter().flatten().any(|mount| mount.mount_path == ETC_HOSTS);
    (host_network || !inputs.pod_ips.is_empty()) && !taken
}

/// The block devices that the container sees.
pub fn devices(inputs: &Inputs<'_>) -> Result<Vec<Device>, Error> {
    let devices = inputs.container.volume_devices.iter().flatten().map(|device| {
        if !device.device_path.starts_with('/') {
            return Err(Error::new(format!("error DevicePath `{}` must be an absolute path", device.device_path)));
        }
        let volume = inputs.volumes.by_name.get(&device.name);
        let Some((Source::Device(path), read_only)) = volume.map(|volume| (&volume.source, volume.read_only)) else {
            return Err(Error::new(format!("cannot find volume {:?} to pass into container {:?}", device.name, inputs.container.name)));
        };
        Ok(Device {
            container_path: device.device_path.clone(),
            host_path: path.to_string_lossy().into_owned(),
            permissions: if read_only { "r" } else { "mrw" }.to_owned(),
        })
    });
    devices.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_cri::v1::ImageSpec;
    use serde_json::{Value, json};

    use super::*;
    use crate::container_config::{Image, test_node};
    use crate::volumes::{PodVolume, PodVolumes};

    fn run(mount: Value) -> Result<Planned, String> {
        let pod = serde_json::from_value(json!({"spec": {"containers": []}})).expect("it is a pod");
        let container = serde_json::from_value(json!({"name": "c", "volumeMounts": [mount]})).expect("it is a container");
        let volume = |path: &str, read_only| PodVolume { source: Source::Path(PathBuf::from(path)), read_only, selinux_relabel: true };
        let mut volumes = PodVolumes::default();
        volumes.by_name.insert("v".to_owned(), volume("/host/v", false));
        volumes.by_name.insert("ro".to_owned(), volume("/host/ro", true));
        volumes.by_name.insert("i".to_owned(), PodVolume { source: Source::Image, read_only: true, selinux_relabel: false });
        let inputs = Inputs {
            pod: &pod,
            container: &container,
            node: &test_node(),
            pod_ips: &[],
            volumes: &volumes,
            image: &Image::default(),
            image_volumes: &BTreeMap::from([("i".to_owned(), ImageSpec { image: "sha256:1".to_owned(), ..Default::default() })]),
            restart_count: 0,
            target_id: None,
            services: &[],
        };
        let env = Env::from([("NAME".to_owned(), "x".to_owned())]);
        plan(&inputs, &env).map(|mut planned| planned.remove(0)).map_err(|error| error.message)
    }

    #[test]
    fn a_mount_says_where_and_how_its_volume_is_seen() {
        let planned =
            run(json!({"name": "v", "mountPath": "data", "readOnly": true, "mountPropagation": "HostToContainer"})).expect("it is valid");
        assert_eq!((planned.mount.host_path.as_str(), planned.mount.container_path.as_str()), ("/host/v", "/data"));
        assert!(planned.mount.readonly);
        assert_eq!(planned.mount.propagation, i32::from(MountPropagation::PropagationHostToContainer));
        assert!(run(json!({"name": "ro", "mountPath": "/data"})).expect("it is valid").mount.readonly);
        let image = run(json!({"name": "i", "mountPath": "/i", "subPath": "a"})).expect("it is valid");
        assert_eq!((image.mount.image.expect("it has one").image.as_str(), image.image_sub_path.as_str()), ("sha256:1", "a"));
    }

    #[test]
    fn sub_paths_are_expanded_and_stay_inside() {
        let planned = run(json!({"name": "v", "mountPath": "/d", "subPathExpr": "a/$(NAME)"})).expect("it is valid");
        let expect = SubPath { index: 0, volume: "v".to_owned(), volume_path: "/host/v".into(), path: "a/x".into() };
        assert_eq!(planned.sub_path, Some(expect));
        for (mount, message) in [
            (json!({"name": "v", "mountPath": "/d", "subPathExpr": "$(B)/$(A)"}), "missing value for A, B"),
            (json!({"name": "v", "mountPath": "/d", "subPathExpr": "/$(NAME)"}), "error SubPath `/x` must not be an absolute path"),
            (json!({"name": "v", "mountPath": "/d", "subPath": "a/../.."}), "unable to provision SubPath `a/../..`: must not contain '..'"),
            (json!({"name": "none", "mountPath": "/d"}), "cannot find volume \"none\" to mount into container \"c\""),
            (
                json!({"name": "v", "mountPath": "/d", "recursiveReadOnly": "Enabled"}),
                "failed to resolve recursive read-only mode: volume \"v\" requested recursive read-only mode, but it is not read-only",
            ),
            (
                json!({"name": "v", "mountPath": "/d", "readOnly": true, "recursiveReadOnly": "Enabled"}),
                "failed to resolve recursive read-only mode: volume \"v\" requested recursive read-only mode, but it is not supported by the runtime",
            ),
        ] {
            assert_eq!(run(mount), Err(message.to_owned()));
        }
    }
}
