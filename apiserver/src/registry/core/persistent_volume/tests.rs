use super::*;
use crate::registry::core::tests::{cx, messages};

fn volume(spec: Value) -> Value {
    let mut full = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"});
    for (key, value) in spec.as_object().unwrap() {
        full[key] = value.clone();
    }
    json!({"metadata": {"name": "v"}, "spec": full})
}

#[test]
fn an_empty_spec_is_refused_as_upstream_does() {
    let mut empty = json!({"metadata": {"name": "v"}});
    default_volume(empty.as_object_mut().unwrap());
    assert_eq!(
        messages(&VolumeStrategy.validate(&cx(), &empty)),
        [
            "spec.accessModes: Required value",
            "spec.capacity: Required value",
            "spec.capacity: Unsupported value: null: supported values: \"storage\"",
            "spec: Required value: must specify a volume type",
        ]
    );
}

#[test]
fn there_is_one_type_of_volume() {
    let cases = [
        (json!({"hostPath": {"path": "/a", "type": ""}}), vec![]),
        (
            json!({"hostPath": {"path": "/a"}, "nfs": {"server": "s", "path": "/"}}),
            vec!["spec.nfs: Forbidden: may not specify more than 1 volume type"],
        ),
        (json!({"nfs": {"server": "s", "path": "x"}}), vec!["spec.nfs.path: Invalid value: \"x\": must be an absolute path"]),
        (json!({"local": {"path": "/a"}}), vec!["spec.nodeAffinity: Required value: Local volume requires node affinity"]),
        (
            json!({"csi": {"driver": "d"}, "volumeAttributesClassName": ""}),
            vec!["spec.csi.volumeHandle: Required value", "spec.volumeAttributesClassName: Required value: an empty string is disallowed"],
        ),
        (
            json!({"hostPath": {"path": "/x/.."}, "persistentVolumeReclaimPolicy": "Recycle"}),
            vec![
                "spec.hostPath.path: Invalid value: \"/x/..\": must not contain '..'",
                "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
            ],
        ),
        (
            json!({"gcePersistentDisk": {"partition": 256}}),
            vec![
                "spec.persistentDisk.pdName: Required value",
                "spec.persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive",
            ],
        ),
    ];
    for (spec, want) in cases {
        assert_eq!(messages(&VolumeStrategy.validate(&cx(), &volume(spec.clone()))), want, "{spec}");
    }
}

#[test]
fn the_source_never_changes() {
    let old = volume(json!({"nfs": {"server": "a", "path": "/"}}));
    let new = volume(json!({"nfs": {"server": "b", "path": "/"}}));
    let text = messages(&VolumeStrategy.validate_update(&cx(), &new, &old));
    assert_eq!(
        text,
        [
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n@@ -4,7 +4,7 @@\n  \"HostPath\": null,\n  \"Glusterfs\": null,\n  \"NFS\": {\n-  \"Server\": \"a\",\n+  \"Server\": \"b\",\n   \"Path\": \"/\",\n   \"ReadOnly\": false\n  },\n"
        ]
    );
    let plain = volume(json!({"csi": {"driver": "d", "volumeHandle": "h"}}));
    let expandable =
        volume(json!({"csi": {"driver": "d", "volumeHandle": "h", "controllerExpandSecretRef": {"name": "a", "namespace": "b"}}}));
    assert!(VolumeStrategy.validate_update(&cx(), &expandable, &plain).is_empty());
    assert_eq!(VolumeStrategy.validate_update(&cx(), &plain, &expandable).len(), 1);
}

#[test]
fn a_label_key_may_leave_beta() {
    let with = |key: &str| {
        let term = json!({"matchExpressions": [{"key": key, "operator": "In", "values": ["a"]}]});
        volume(json!({"hostPath": {"path": "/a"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}))
    };
    let beta = with("failure-domain.beta.kubernetes.io/zone");
    assert!(VolumeStrategy.validate_update(&cx(), &with("topology.kubernetes.io/zone"), &beta).is_empty());
    let text = messages(&VolumeStrategy.validate_update(&cx(), &with("x"), &beta));
    assert_eq!(
        text,
        [
            "nodeAffinity: Invalid value: {\"Required\":{\"NodeSelectorTerms\":[{\"MatchExpressions\":[{\"Key\":\"x\",\"Operator\":\"In\",\"Values\":[\"a\"]}],\"MatchFields\":null}]}}: field is immutable, except for updating from beta label to GA"
        ]
    );
}

#[test]
fn the_time_of_a_transition_follows_the_phase() {
    let old = json!({"metadata": {}, "status": {"phase": "Pending", "lastPhaseTransitionTime": "2020-01-01T00:00:00Z"}});
    let mut same = json!({"metadata": {}, "status": {"phase": "Pending", "message": "x"}});
    StatusStrategy.prepare_for_update(&cx(), &mut same, &old);
    assert_eq!(same["status"]["lastPhaseTransitionTime"], "2020-01-01T00:00:00Z");
    let mut bound = json!({"metadata": {}, "status": {"phase": "Bound", "lastPhaseTransitionTime": "2020-01-01T00:00:00Z"}});
    StatusStrategy.prepare_for_update(&cx(), &mut bound, &old);
    assert_eq!(bound["status"]["lastPhaseTransitionTime"], "1970-01-01T00:00:00Z");
}

#[test]
fn old_ways_are_warned_about() {
    let mut old = volume(json!({"rbd": {"monitors": ["a"], "image": "i"}, "persistentVolumeReclaimPolicy": "Recycle"}));
    old["metadata"]["annotations"] = json!({STORAGE_CLASS_ANNOTATION: "x"});
    assert_eq!(
        VolumeStrategy.warnings_on_create(&cx(), &old),
        [
            "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \"storageClassName\" attribute instead",
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
            "spec.rbd: deprecated in v1.28, non-functional in v1.31+",
        ]
    );
}

#[test]
fn tables_shorten_access_modes() {
    assert_eq!(access_modes_text(&[json!("ReadOnlyMany"), json!("ReadWriteOnce"), json!("ReadOnlyMany")]), "RWO,ROX");
}
