//! A pod's volumes: their names, and that each has exactly one source.
//!
//! Owns which source is checked when, with the paths that upstream uses (some of which are not the field's name); the sources'
//! own rules are in `volume_sources` and `projected`.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_dns1123_label, name_is_dns_subdomain};
use k8s_openapi::api::core::v1::Volume;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::claim_template::validate_ephemeral;
use super::options::Options;
use super::resources::amount;
use super::{invalid_all, projected, volume_sources as sources};
use crate::registry::core::pod::access::text;

const ONE_SOURCE: &str = "may not specify more than 1 volume type";
const EMPTY_DIR_MODE: &str = "must be a number between 0 and 01777 (octal), both inclusive";

/// The volumes that mounts can name: those without an error.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Volume>;

/// All errors of the volumes, and the volumes that have none.
pub(super) fn validate_volumes<'a>(
    volumes: &'a [Volume],
    meta: Option<&ObjectMeta>,
    path: &Path<'_>,
    opts: &Options,
) -> (Volumes<'a>, ErrorList) {
    let pod_name = meta.map(|m| text(&m.name)).filter(|name| !name.is_empty());
    let created: BTreeSet<String> = pod_name
        .into_iter()
        .flat_map(|pod| volumes.iter().filter(|v| v.ephemeral.is_some()).map(move |v| format!("{pod}-{}", v.name)))
        .collect();

    let mut valid = Volumes::new();
    let mut all = ErrorList::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        let name_path = path.child("name");
        let mut errors = validate_volume_source(volume, pod_name, &path, opts);
        if volume.name.is_empty() {
            errors.push(Error::required(&name_path, ""));
        } else {
            errors.extend(invalid_all(&name_path, volume.name.as_str(), is_dns1123_label(&volume.name)));
        }
        if valid.contains_key(volume.name.as_str()) {
            errors.push(Error::duplicate(&name_path, volume.name.as_str()));
        }
        if errors.is_empty() {
            valid.insert(&volume.name, volume);
        }
        all.extend(errors);
        if let Some(claim) = &volume.persistent_volume_claim
            && created.contains(&claim.claim_name)
        {
            all.push(Error::invalid(
                &path.child("persistentVolumeClaim").child("claimName"),
                claim.claim_name.as_str(),
                "must not reference a PVC that gets created for an ephemeral volume",
            ));
        }
    }
    (valid, all)
}

/// Counts the sources of one volume while they are checked in their fixed order.
struct Sources<'p, 'q> {
    path: &'p Path<'q>,
    seen: bool,
    errors: ErrorList,
}

impl Sources<'_, '_> {
    /// Checks a source, or refuses it if one came before. `refused_as` is the field of the refusal, `name` that of the source's own errors.
    fn take_as<T>(&mut self, source: &Option<T>, refused_as: &str, name: &str, check: impl FnOnce(&T, &Path<'_>) -> ErrorList) -> bool {
        let Some(source) = source else { return false };
        if self.seen {
            self.errors.push(Error::forbidden(&self.path.child(refused_as), ONE_SOURCE));
            return false;
        }
        self.seen = true;
        self.errors.extend(check(source, &self.path.child(name)));
        true
    }

    fn take<T>(&mut self, source: &Option<T>, name: &str, check: impl FnOnce(&T, &Path<'_>) -> ErrorList) -> bool {
        self.take_as(source, name, name, check)
    }
}

fn validate_volume_source(volume: &Volume, pod_name: Option<&str>, path: &Path<'_>, opts: &Options) -> ErrorList {
    let mut s = Sources { path, seen: false, errors: ErrorList::new() };
    s.take(&volume.empty_dir, "emptyDir", |source, path| {
        let mut errors = ErrorList::new();
        if source.size_limit.as_ref().is_some_and(|limit| amount(limit).sign() < 0) {
            errors.push(Error::forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity"));
        }
        if let Some(mode) = source.mode.filter(|mode| !(0..=0o1777).contains(mode)) {
            errors.push(Error::invalid(&path.child("mode"), mode, EMPTY_DIR_MODE));
        }
        errors
    });
    s.take(&volume.host_path, "hostPath", sources::host_path);
    s.take(&volume.git_repo, "gitRepo", sources::git_repo);
    s.take_as(&volume.gce_persistent_disk, "gcePersistentDisk", "persistentDisk", sources::gce_persistent_disk);
    s.take(&volume.aws_elastic_block_store, "awsElasticBlockStore", sources::aws_elastic_block_store);
    s.take(&volume.secret, "secret", sources::secret);
    s.take(&volume.nfs, "nfs", sources::nfs);
    s.take(&volume.iscsi, "iscsi", sources::iscsi);
    if let Some(iscsi) = &volume.iscsi
        && iscsi.initiator_name.is_some()
        && volume.name.len() + 1 + iscsi.target_portal.len() > 64
    {
        s.errors.push(Error::invalid(
            &path.child("name"),
            volume.name.as_str(),
            "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.",
        ));
    }
    s.take(&volume.glusterfs, "glusterfs", sources::glusterfs);
    s.take(&volume.flocker, "flocker", sources::flocker);
    s.take(&volume.persistent_volume_claim, "persistentVolumeClaim", |source, path| {
        sources::required(&source.claim_name, &path.child("claimName"))
    });
    s.take(&volume.rbd, "rbd", sources::rbd);
    s.take(&volume.cinder, "cinder", sources::cinder);
    s.take_as(&volume.cephfs, "cephFS", "cephfs", |source, path| sources::required_list(&source.monitors, &path.child("monitors")));
    s.take(&volume.quobyte, "quobyte", sources::quobyte);
    s.take_as(&volume.downward_api, "downwarAPI", "downwardAPI", projected::downward_api);
    s.take(&volume.fc, "fc", sources::fc);
    s.take(&volume.flex_volume, "flexVolume", sources::flex);
    s.take(&volume.config_map, "configMap", sources::config_map);
    s.take(&volume.azure_file, "azureFile", sources::azure_file);
    s.take(&volume.vsphere_volume, "vsphereVolume", |source, path| sources::required(&source.volume_path, &path.child("volumePath")));
    s.take(&volume.photon_persistent_disk, "photonPersistentDisk", |source, path| sources::required(&source.pd_id, &path.child("pdID")));
    s.take(&volume.portworx_volume, "portworxVolume", |source, path| sources::required(&source.volume_id, &path.child("volumeID")));
    s.take(&volume.azure_disk, "azureDisk", sources::azure_disk);
    s.take(&volume.storageos, "storageos", sources::storage_os);
    s.take(&volume.projected, "projected", |source, path| projected::projected(source, path, opts));
    s.take(&volume.scale_io, "scaleIO", sources::scale_io);
    s.take(&volume.csi, "csi", sources::csi);
    if s.take(&volume.ephemeral, "ephemeral", validate_ephemeral)
        && let Some(pod) = pod_name
        && !volume.name.is_empty()
    {
        let claim = format!("{pod}-{}", volume.name);
        for message in name_is_dns_subdomain(&claim, false) {
            s.errors.push(Error::invalid(&path.child("name"), volume.name.as_str(), format!("PVC name \"{claim}\": {message}")));
        }
    }
    s.take(&volume.image, "image", |source, path| sources::image(source, path, opts));
    if !s.seen {
        s.errors.push(Error::required(path, "must specify a volume type"));
    }
    s.errors
}
