//! A volume's source as the message about its immutability shows it.
//!
//! Upstream prints its internal types there, which have Go's field names and leave nothing out.

use serde_json::{Map, Value};

/// What stands where a field is absent, and how a present one is printed.
#[derive(Clone, Copy)]
enum Kind {
    /// A string that is no pointer.
    Text,
    Number,
    Flag,
    /// A pointer, list or map: null when absent.
    Nullable,
    /// A pointer to a structure with fields of its own.
    Struct(&'static [Entry]),
}

/// JSON name, Go name, kind; in Go's order.
type Entry = (&'static str, &'static str, Kind);

use Kind::{Flag, Nullable, Number, Struct, Text};

const SECRET: Kind = Struct(&[("name", "Name", Text), ("namespace", "Namespace", Text)]);
const OBJECT: Kind = Struct(&[
    ("kind", "Kind", Text),
    ("namespace", "Namespace", Text),
    ("name", "Name", Text),
    ("uid", "UID", Text),
    ("apiVersion", "APIVersion", Text),
    ("resourceVersion", "ResourceVersion", Text),
    ("fieldPath", "FieldPath", Text),
]);
const READ_ONLY: Entry = ("readOnly", "ReadOnly", Flag);
const FS_TYPE: Entry = ("fsType", "FSType", Text);

const SOURCES: &[Entry] = &[
    (
        "gcePersistentDisk",
        "GCEPersistentDisk",
        Struct(&[("pdName", "PDName", Text), FS_TYPE, ("partition", "Partition", Number), READ_ONLY]),
    ),
    (
        "awsElasticBlockStore",
        "AWSElasticBlockStore",
        Struct(&[("volumeID", "VolumeID", Text), FS_TYPE, ("partition", "Partition", Number), READ_ONLY]),
    ),
    ("hostPath", "HostPath", Struct(&[("path", "Path", Text), ("type", "Type", Nullable)])),
    (
        "glusterfs",
        "Glusterfs",
        Struct(&[
            ("endpoints", "EndpointsName", Text),
            ("path", "Path", Text),
            READ_ONLY,
            ("endpointsNamespace", "EndpointsNamespace", Nullable),
        ]),
    ),
    ("nfs", "NFS", Struct(&[("server", "Server", Text), ("path", "Path", Text), READ_ONLY])),
    (
        "rbd",
        "RBD",
        Struct(&[
            ("monitors", "CephMonitors", Nullable),
            ("image", "RBDImage", Text),
            FS_TYPE,
            ("pool", "RBDPool", Text),
            ("user", "RadosUser", Text),
            ("keyring", "Keyring", Text),
            ("secretRef", "SecretRef", SECRET),
            READ_ONLY,
        ]),
    ),
    (
        "iscsi",
        "ISCSI",
        Struct(&[
            ("targetPortal", "TargetPortal", Text),
            ("iqn", "IQN", Text),
            ("lun", "Lun", Number),
            ("iscsiInterface", "ISCSIInterface", Text),
            FS_TYPE,
            READ_ONLY,
            ("portals", "Portals", Nullable),
            ("chapAuthDiscovery", "DiscoveryCHAPAuth", Flag),
            ("chapAuthSession", "SessionCHAPAuth", Flag),
            ("secretRef", "SecretRef", SECRET),
            ("initiatorName", "InitiatorName", Nullable),
        ]),
    ),
    ("cinder", "Cinder", Struct(&[("volumeID", "VolumeID", Text), FS_TYPE, READ_ONLY, ("secretRef", "SecretRef", SECRET)])),
    (
        "cephfs",
        "CephFS",
        Struct(&[
            ("monitors", "Monitors", Nullable),
            ("path", "Path", Text),
            ("user", "User", Text),
            ("secretFile", "SecretFile", Text),
            ("secretRef", "SecretRef", SECRET),
            READ_ONLY,
        ]),
    ),
    (
        "fc",
        "FC",
        Struct(&[("targetWWNs", "TargetWWNs", Nullable), ("lun", "Lun", Nullable), FS_TYPE, READ_ONLY, ("wwids", "WWIDs", Nullable)]),
    ),
    ("flocker", "Flocker", Struct(&[("datasetName", "DatasetName", Text), ("datasetUUID", "DatasetUUID", Text)])),
    (
        "flexVolume",
        "FlexVolume",
        Struct(&[("driver", "Driver", Text), FS_TYPE, ("secretRef", "SecretRef", SECRET), READ_ONLY, ("options", "Options", Nullable)]),
    ),
    (
        "azureFile",
        "AzureFile",
        Struct(&[
            ("secretName", "SecretName", Text),
            ("shareName", "ShareName", Text),
            READ_ONLY,
            ("secretNamespace", "SecretNamespace", Nullable),
        ]),
    ),
    (
        "vsphereVolume",
        "VsphereVolume",
        Struct(&[
            ("volumePath", "VolumePath", Text),
            FS_TYPE,
            ("storagePolicyName", "StoragePolicyName", Text),
            ("storagePolicyID", "StoragePolicyID", Text),
        ]),
    ),
    (
        "quobyte",
        "Quobyte",
        Struct(&[
            ("registry", "Registry", Text),
            ("volume", "Volume", Text),
            READ_ONLY,
            ("user", "User", Text),
            ("group", "Group", Text),
            ("tenant", "Tenant", Text),
        ]),
    ),
    (
        "azureDisk",
        "AzureDisk",
        Struct(&[
            ("diskName", "DiskName", Text),
            ("diskURI", "DataDiskURI", Text),
            ("cachingMode", "CachingMode", Nullable),
            ("fsType", "FSType", Nullable),
            ("readOnly", "ReadOnly", Nullable),
            ("kind", "Kind", Nullable),
        ]),
    ),
    ("photonPersistentDisk", "PhotonPersistentDisk", Struct(&[("pdID", "PdID", Text), FS_TYPE])),
    ("portworxVolume", "PortworxVolume", Struct(&[("volumeID", "VolumeID", Text), FS_TYPE, READ_ONLY])),
    (
        "scaleIO",
        "ScaleIO",
        Struct(&[
            ("gateway", "Gateway", Text),
            ("system", "System", Text),
            ("secretRef", "SecretRef", SECRET),
            ("sslEnabled", "SSLEnabled", Flag),
            ("protectionDomain", "ProtectionDomain", Text),
            ("storagePool", "StoragePool", Text),
            ("storageMode", "StorageMode", Text),
            ("volumeName", "VolumeName", Text),
            FS_TYPE,
            READ_ONLY,
        ]),
    ),
    ("local", "Local", Struct(&[("path", "Path", Text), ("fsType", "FSType", Nullable)])),
    (
        "storageos",
        "StorageOS",
        Struct(&[
            ("volumeName", "VolumeName", Text),
            ("volumeNamespace", "VolumeNamespace", Text),
            FS_TYPE,
            READ_ONLY,
            ("secretRef", "SecretRef", OBJECT),
        ]),
    ),
    (
        "csi",
        "CSI",
        Struct(&[
            ("driver", "Driver", Text),
            ("volumeHandle", "VolumeHandle", Text),
            READ_ONLY,
            FS_TYPE,
            ("volumeAttributes", "VolumeAttributes", Nullable),
            ("controllerPublishSecretRef", "ControllerPublishSecretRef", SECRET),
            ("nodeStageSecretRef", "NodeStageSecretRef", SECRET),
            ("nodePublishSecretRef", "NodePublishSecretRef", SECRET),
            ("controllerExpandSecretRef", "ControllerExpandSecretRef", SECRET),
            ("nodeExpandSecretRef", "NodeExpandSecretRef", SECRET),
        ]),
    ),
];

/// The source part of a `PersistentVolumeSpec` with every type of volume. Two specs have the same source if this is equal.
pub(super) fn source(spec: &Value) -> Value {
    structure(spec, SOURCES)
}

fn structure(value: &Value, entries: &[Entry]) -> Value {
    let print = |(json, go, kind): &Entry| ((*go).to_owned(), field(value.get(*json).unwrap_or(&Value::Null), *kind));
    Value::Object(entries.iter().map(print).collect::<Map<_, _>>())
}

fn field(value: &Value, kind: Kind) -> Value {
    match (value, kind) {
        (Value::Null, Text) => "".into(),
        (Value::Null, Number) => 0.into(),
        (Value::Null, Flag) => false.into(),
        (Value::Object(_), Struct(entries)) => structure(value, entries),
        (Value::Object(map), Nullable) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| *key);
            Value::Object(pairs.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect())
        }
        (other, _) => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_is_left_out() {
        let printed = source(&json!({"nfs": {"server": "s"}, "capacity": {"storage": "1"}}));
        assert_eq!(printed["NFS"], json!({"Server": "s", "Path": "", "ReadOnly": false}));
        assert_eq!(printed["HostPath"], Value::Null);
        assert_eq!(printed.as_object().map(Map::len), Some(22));
    }
}
