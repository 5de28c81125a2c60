//! The names under which upstream's controllers are known: to `--controllers`, to RBAC, and in events.
//!
//! All of upstream's are here, also those that do not run in this manager: a flag that names one is no mistake.

/// One controller's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    pub controller: &'static str,
    /// What the controller was called before, which flags may still say. Empty for none.
    pub alias: &'static str,
    /// The service account in `kube-system` that it acts as. Empty for one that acts as the manager itself: it makes the tokens of
    /// all others.
    pub account: &'static str,
    /// The source of its events.
    pub component: &'static str,
}

const fn names(controller: &'static str, alias: &'static str, account: &'static str, component: &'static str) -> Names {
    Names { controller, alias, account, component }
}

/// In upstream's order. A component is the controller's own name where upstream's sends no events.
#[rustfmt::skip]
pub const ALL: &[Names] = &[
    names("serviceaccount-token-controller", "serviceaccount-token", "", "serviceaccount-token-controller"),
    names("endpoints-controller", "endpoint", "endpoint-controller", "endpoint-controller"),
    names("endpointslice-controller", "endpointslice", "endpointslice-controller", "endpoint-slice-controller"),
    names("endpointslice-mirroring-controller", "endpointslicemirroring", "endpointslicemirroring-controller", "endpoint-slice-mirroring-controller"),
    names("replicationcontroller-controller", "replicationcontroller", "replication-controller", "replication-controller"),
    names("pod-garbage-collector-controller", "podgc", "pod-garbage-collector", "pod-garbage-collector-controller"),
    names("resourcequota-controller", "resourcequota", "resourcequota-controller", "resourcequota-controller"),
    names("namespace-controller", "namespace", "namespace-controller", "namespace-controller"),
    names("serviceaccount-controller", "serviceaccount", "service-account-controller", "serviceaccount-controller"),
    names("garbage-collector-controller", "garbagecollector", "generic-garbage-collector", "garbage-collector-controller"),
    names("daemonset-controller", "daemonset", "daemon-set-controller", "daemonset-controller"),
    names("job-controller", "job", "job-controller", "job-controller"),
    names("podgroup-protection-controller", "", "podgroup-protection-controller", "podgroup-protection-controller"),
    names("deployment-controller", "deployment", "deployment-controller", "deployment-controller"),
    names("replicaset-controller", "replicaset", "replicaset-controller", "replicaset-controller"),
    names("horizontal-pod-autoscaler-controller", "horizontalpodautoscaling", "horizontal-pod-autoscaler", "horizontal-pod-autoscaler"),
    names("disruption-controller", "disruption", "disruption-controller", "controllermanager"),
    names("statefulset-controller", "statefulset", "statefulset-controller", "statefulset-controller"),
    names("cronjob-controller", "cronjob", "cronjob-controller", "cronjob-controller"),
    names("certificatesigningrequest-signing-controller", "csrsigning", "certificate-controller", "certificatesigningrequest-signing-controller"),
    names("certificatesigningrequest-approving-controller", "csrapproving", "certificate-controller", "certificatesigningrequest-approving-controller"),
    names("certificatesigningrequest-cleaner-controller", "csrcleaner", "certificate-controller", "certificatesigningrequest-cleaner-controller"),
    names("podcertificaterequest-cleaner-controller", "", "podcertificaterequestcleaner", "podcertificaterequest-cleaner-controller"),
    names("ttl-controller", "ttl", "ttl-controller", "ttl-controller"),
    names("bootstrap-signer-controller", "bootstrapsigner", "bootstrap-signer", "bootstrap-signer-controller"),
    names("token-cleaner-controller", "tokencleaner", "token-cleaner", "token-cleaner-controller"),
    names("node-ipam-controller", "nodeipam", "node-controller", "cidrAllocator"),
    names("node-lifecycle-controller", "nodelifecycle", "node-controller", "node-controller"),
    names("persistentvolume-binder-controller", "persistentvolume-binder", "persistent-volume-binder", "persistentvolume-controller"),
    names("persistentvolume-attach-detach-controller", "attachdetach", "attachdetach-controller", "attachdetach-controller"),
    names("persistentvolume-expander-controller", "persistentvolume-expander", "expand-controller", "volume_expand"),
    names("clusterrole-aggregation-controller", "clusterrole-aggregation", "clusterrole-aggregation-controller", "clusterrole-aggregation-controller"),
    names("persistentvolumeclaim-protection-controller", "pvc-protection", "pvc-protection-controller", "persistentvolumeclaim-protection-controller"),
    names("persistentvolume-protection-controller", "pv-protection", "pv-protection-controller", "persistentvolume-protection-controller"),
    names("volumeattributesclass-protection-controller", "", "volumeattributesclass-protection-controller", "volumeattributesclass-protection-controller"),
    names("ttl-after-finished-controller", "ttl-after-finished", "ttl-after-finished-controller", "ttl-after-finished-controller"),
    names("root-ca-certificate-publisher-controller", "root-ca-cert-publisher", "root-ca-cert-publisher", "root-ca-certificate-publisher-controller"),
    names("kube-apiserver-serving-clustertrustbundle-publisher-controller", "", "kube-apiserver-serving-clustertrustbundle-publisher", "kube-apiserver-serving-clustertrustbundle-publisher-controller"),
    names("ephemeral-volume-controller", "ephemeral-volume", "ephemeral-volume-controller", "ephemeral_volume"),
    names("storageversion-garbage-collector-controller", "storage-version-gc", "storage-version-garbage-collector", "storageversion-garbage-collector-controller"),
    names("resourceclaim-controller", "resource-claim-controller", "resource-claim-controller", "resource_claim"),
    names("resourcepoolstatusrequest-controller", "", "resourcepoolstatusrequest-controller", "resourcepoolstatusrequest-controller"),
    names("device-taint-eviction-controller", "", "device-taint-eviction-controller", "device-taint-eviction-controller"),
    names("legacy-serviceaccount-token-cleaner-controller", "legacy-service-account-token-cleaner", "legacy-service-account-token-cleaner", "legacy-serviceaccount-token-cleaner-controller"),
    names("validatingadmissionpolicy-status-controller", "", "validatingadmissionpolicy-status-controller", "validatingadmissionpolicy-status-controller"),
    names("taint-eviction-controller", "", "node-controller", "taint-eviction-controller"),
    names("service-cidr-controller", "", "service-cidrs-controller", "service-cidr-controller"),
    names("storage-version-migrator-controller", "svm", "storage-version-migrator-controller", "storage-version-migrator-controller"),
    names("selinux-warning-controller", "", "selinux-warning-controller", "selinux_warning"),
];

/// The names of a controller, found by its name or by its alias.
pub fn find(name: &str) -> Option<&'static Names> {
    ALL.iter().find(|n| n.controller == name || (!n.alias.is_empty() && n.alias == name))
}
