//! What a pod, and what a persistent volume, makes its node need. Pure.

use serde_json::Value;

use super::graph::Kind;
use crate::registry::read::{at, list_at, str_at};

/// Volume sources of pods that name a secret: the source, and where the name is in it.
const POD_VOLUME_SECRETS: [(&str, &str); 10] = [
    ("secret", "/secretName"),
    ("azureFile", "/secretName"),
    ("cephfs", "/secretRef/name"),
    ("cinder", "/secretRef/name"),
    ("flexVolume", "/secretRef/name"),
    ("rbd", "/secretRef/name"),
    ("scaleIO", "/secretRef/name"),
    ("iscsi", "/secretRef/name"),
    ("storageos", "/secretRef/name"),
    ("csi", "/nodePublishSecretRef/name"),
];

/// Visits everything in the pod's namespace that its node must be able to read.
pub fn pod_references(pod: &Value, visit: &mut impl FnMut(Kind, &str)) {
    let mut see = |kind: Kind, name: &str| {
        if !name.is_empty() {
            visit(kind, name);
        }
    };
    see(Kind::ServiceAccount, str_at(pod, "/spec/serviceAccountName"));
    for secret in list_at(pod, "/spec/imagePullSecrets") {
        see(Kind::Secret, str_at(secret, "/name"));
    }
    for list in ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"] {
        for container in list_at(pod, list) {
            for source in list_at(container, "/envFrom") {
                see(Kind::ConfigMap, str_at(source, "/configMapRef/name"));
                see(Kind::Secret, str_at(source, "/secretRef/name"));
            }
            for variable in list_at(container, "/env") {
                see(Kind::ConfigMap, str_at(variable, "/valueFrom/configMapKeyRef/name"));
                see(Kind::Secret, str_at(variable, "/valueFrom/secretKeyRef/name"));
            }
        }
    }
    for volume in list_at(pod, "/spec/volumes") {
        for (source, name) in POD_VOLUME_SECRETS {
            see(Kind::Secret, str_at(at(volume, &format!("/{source}")), name));
        }
        see(Kind::ConfigMap, str_at(volume, "/configMap/name"));
        for source in list_at(volume, "/projected/sources") {
            see(Kind::ConfigMap, str_at(source, "/configMap/name"));
            see(Kind::Secret, str_at(source, "/secret/name"));
        }
        see(Kind::Claim, str_at(volume, "/persistentVolumeClaim/claimName"));
        if !at(volume, "/ephemeral").is_null() {
            see(Kind::Claim, &format!("{}-{}", str_at(pod, "/metadata/name"), str_at(volume, "/name")));
        }
    }
    for claim in list_at(pod, "/spec/resourceClaims") {
        see(Kind::ResourceClaim, str_at(claim, "/resourceClaimName"));
    }
    for status in list_at(pod, "/status/resourceClaimStatuses") {
        see(Kind::ResourceClaim, str_at(status, "/resourceClaimName"));
    }
    see(Kind::ResourceClaim, str_at(pod, "/status/extendedResourceClaimStatus/resourceClaimName"));
}

/// Volume sources of persistent volumes whose secret a kubelet reads. A reference without a namespace is to the claim's.
const VOLUME_SECRETS: [&str; 10] = [
    "/cephfs/secretRef",
    "/cinder/secretRef",
    "/flexVolume/secretRef",
    "/rbd/secretRef",
    "/scaleIO/secretRef",
    "/iscsi/secretRef",
    "/storageos/secretRef",
    "/csi/nodePublishSecretRef",
    "/csi/nodeStageSecretRef",
    "/csi/nodeExpandSecretRef",
];

/// Visits the secrets that mounting a persistent volume takes: namespace and name.
pub fn volume_secrets(volume: &Value, visit: &mut impl FnMut(&str, &str)) {
    let spec = at(volume, "/spec");
    let home = str_at(spec, "/claimRef/namespace");
    let mut see = |namespace: &str, name: &str| {
        if !name.is_empty() {
            visit(if namespace.is_empty() { home } else { namespace }, name);
        }
    };
    see(str_at(spec, "/azureFile/secretNamespace"), str_at(spec, "/azureFile/secretName"));
    for pointer in VOLUME_SECRETS {
        let reference = at(spec, pointer);
        see(str_at(reference, "/namespace"), str_at(reference, "/name"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_needs_what_its_containers_and_volumes_name() {
        let pod = json!({
            "metadata": { "name": "p" },
            "spec": {
                "imagePullSecrets": [{ "name": "pull" }],
                "initContainers": [{ "envFrom": [{ "configMapRef": { "name": "cm1" } }] }],
                "containers": [{ "env": [{ "valueFrom": { "secretKeyRef": { "name": "s1" } } }, { "value": "x" }] }],
                "volumes": [
                    { "name": "e", "ephemeral": {} },
                    { "name": "j", "projected": { "sources": [{ "secret": { "name": "s2" } }, { "configMap": { "name": "cm2" } }] } },
                    { "name": "c", "csi": { "nodePublishSecretRef": { "name": "s3" } } }
                ]
            },
            "status": { "resourceClaimStatuses": [{ "name": "r", "resourceClaimName": "rc" }] }
        });
        let mut seen = Vec::new();
        pod_references(&pod, &mut |kind, name| seen.push(format!("{kind:?} {name}")));
        seen.sort();
        assert_eq!(
            seen,
            ["Claim p-e", "ConfigMap cm1", "ConfigMap cm2", "ResourceClaim rc", "Secret pull", "Secret s1", "Secret s2", "Secret s3"]
        );
    }
}
