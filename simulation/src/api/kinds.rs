//! The kinds that the API has.

/// A kind, in the one version that it has here.
#[derive(Debug)]
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
}

impl Kind {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}

const fn kind(group: &'static str, plural: &'static str, kind: &'static str, namespaced: bool) -> Kind {
    Kind { group, version: "v1", plural, kind, namespaced }
}

/// A place in [`KINDS`].
pub type KindId = usize;

macro_rules! kinds {
    ($($name:ident = ($group:literal, $plural:literal, $kind:literal, $namespaced:literal);)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[repr(usize)]
        enum Place { $($name),* }
        $(pub const $name: KindId = Place::$name as KindId;)*
        pub const KINDS: &[Kind] = &[$(kind($group, $plural, $kind, $namespaced)),*];
    };
}

kinds! {
    NAMESPACE = ("", "namespaces", "Namespace", false);
    NODE = ("", "nodes", "Node", false);
    POD = ("", "pods", "Pod", true);
    SERVICE = ("", "services", "Service", true);
    ENDPOINTS = ("", "endpoints", "Endpoints", true);
    CONFIG_MAP = ("", "configmaps", "ConfigMap", true);
    SECRET = ("", "secrets", "Secret", true);
    SERVICE_ACCOUNT = ("", "serviceaccounts", "ServiceAccount", true);
    RESOURCE_QUOTA = ("", "resourcequotas", "ResourceQuota", true);
    REPLICATION_CONTROLLER = ("", "replicationcontrollers", "ReplicationController", true);
    PERSISTENT_VOLUME = ("", "persistentvolumes", "PersistentVolume", false);
    PERSISTENT_VOLUME_CLAIM = ("", "persistentvolumeclaims", "PersistentVolumeClaim", true);
    EVENT = ("", "events", "Event", true);
    DEPLOYMENT = ("apps", "deployments", "Deployment", true);
    REPLICA_SET = ("apps", "replicasets", "ReplicaSet", true);
    STATEFUL_SET = ("apps", "statefulsets", "StatefulSet", true);
    DAEMON_SET = ("apps", "daemonsets", "DaemonSet", true);
    CONTROLLER_REVISION = ("apps", "controllerrevisions", "ControllerRevision", true);
    JOB = ("batch", "jobs", "Job", true);
    CRON_JOB = ("batch", "cronjobs", "CronJob", true);
    POD_DISRUPTION_BUDGET = ("policy", "poddisruptionbudgets", "PodDisruptionBudget", true);
    ENDPOINT_SLICE = ("discovery.k8s.io", "endpointslices", "EndpointSlice", true);
    LEASE = ("coordination.k8s.io", "leases", "Lease", true);
    SERIES_EVENT = ("events.k8s.io", "events", "Event", true);
    STORAGE_CLASS = ("storage.k8s.io", "storageclasses", "StorageClass", false);
    CSI_NODE = ("storage.k8s.io", "csinodes", "CSINode", false);
    CSI_DRIVER = ("storage.k8s.io", "csidrivers", "CSIDriver", false);
    CSI_STORAGE_CAPACITY = ("storage.k8s.io", "csistoragecapacities", "CSIStorageCapacity", true);
    DEVICE_CLASS = ("resource.k8s.io", "deviceclasses", "DeviceClass", false);
    DEVICE_TAINT_RULE = ("resource.k8s.io", "devicetaintrules", "DeviceTaintRule", false);
    RESOURCE_SLICE = ("resource.k8s.io", "resourceslices", "ResourceSlice", false);
    RESOURCE_CLAIM = ("resource.k8s.io", "resourceclaims", "ResourceClaim", true);
    RESOURCE_CLAIM_TEMPLATE = ("resource.k8s.io", "resourceclaimtemplates", "ResourceClaimTemplate", true);
    VOLUME_ATTACHMENT = ("storage.k8s.io", "volumeattachments", "VolumeAttachment", false);
}

/// The kind of a group's resource.
pub fn find(group: &str, plural: &str) -> Option<KindId> {
    KINDS.iter().position(|kind| kind.group == group && kind.plural == plural)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_type() {
        let types = apimachinery::schema::builtin();
        for kind in KINDS {
            assert!(types.by_kind(kind.group, kind.version, kind.kind).is_some(), "{kind:?}");
        }
        assert_eq!(KINDS[POD].kind, "Pod");
    }
}
