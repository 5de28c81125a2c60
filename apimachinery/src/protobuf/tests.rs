//! Bytes as the Go marshalers of k8s.io/api v0.37.2 write them, and input that is none.

use serde_json::{Value, json};

use super::*;

/// Canonical JSON and the enveloped message that client-go writes for it.
fn examples() -> Vec<(&'static str, &'static [u8])> {
    vec![
        (
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","labels":{"b":"2","z":"1"}},"immutable":false,"data":{"k":"v"},"binaryData":{"b":"AAEC"}}"#,
            b"k8s\0\n\x0f\n\x02v1\x12\x09ConfigMap\x127\n!\n\x01a\x12\0\x1a\0\"\0*\x002\x008\0B\0Z\x06\n\x01b\x12\x012Z\x06\n\x01z\x12\x011\x12\x06\n\x01k\x12\x01v\x1a\x08\n\x01b\x12\x03\0\x01\x02 \0\x1a\0\"\0",
        ),
        (
            r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"s"},"spec":{"ports":[{"port":80,"targetPort":"web"},{"port":81,"targetPort":8081}]},"status":{"loadBalancer":{}}}"#,
            b"k8s\0\n\x0d\n\x02v1\x12\x07Service\x12Q\n\x11\n\x01s\x12\0\x1a\0\"\0*\x002\x008\0B\0\x128\n\x13\n\0\x12\0\x18P\"\x09\x08\x01\x10\0\x1a\x03web(\0\n\x11\n\0\x12\0\x18Q\"\x07\x08\0\x10\x91?\x1a\0(\0\x1a\0\"\0:\0B\0R\0Z\0`\0h\0\x1a\x02\n\0\x1a\0\"\0",
        ),
        (
            r#"{"kind":"ResourceQuota","apiVersion":"v1","metadata":{"name":"q","creationTimestamp":"2020-01-01T00:00:00Z"},"spec":{"hard":{"cpu":"1500m","pods":"4"}},"status":{}}"#,
            b"k8s\0\n\x13\n\x02v1\x12\x0dResourceQuota\x12<\n\x19\n\x01q\x12\0\x1a\0\"\0*\x002\x008\0B\x08\x08\x80\xc2\xaf\xf0\x05\x10\0\x12\x1d\n\x0e\n\x03cpu\x12\x07\n\x051500m\n\x0b\n\x04pods\x12\x03\n\x014\x1a\0\x1a\0\"\0",
        ),
        (
            r#"{"kind":"ClusterRole","apiVersion":"rbac.authorization.k8s.io/v1","metadata":{"name":"r"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}]}"#,
            b"k8s\0\n+\n\x1crbac.authorization.k8s.io/v1\x12\x0bClusterRole\x12\"\n\x11\n\x01r\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\x0d\n\x03get\x12\0\x1a\x04pods\x1a\0\"\0",
        ),
        (
            r#"{"kind":"ValidatingAdmissionPolicyBinding","apiVersion":"admissionregistration.k8s.io/v1","metadata":{"name":"p"},"spec":{"matchResources":{"resourceRules":[{"resourceNames":["n"],"operations":["CREATE"],"apiGroups":["apps"],"apiVersions":["v1"],"resources":["deployments"]}]}}}"#,
            b"k8s\0\nC\n\x1fadmissionregistration.k8s.io/v1\x12 ValidatingAdmissionPolicyBinding\x12A\n\x11\n\x01p\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12,\n\0\x1a(\x1a&\n\x01n\x12!\n\x06CREATE\x12\x17\n\x04apps\x12\x02v1\x1a\x0bdeployments\x1a\0\"\0",
        ),
        (
            r#"{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"name":"l"},"spec":{"holderIdentity":"h","leaseDurationSeconds":-1,"renewTime":"2020-01-01T00:00:00.123456Z"}}"#,
            b"k8s\0\n\x1f\n\x16coordination.k8s.io/v1\x12\x05Lease\x120\n\x11\n\x01l\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\x1b\n\x01h\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\"\x0b\x08\x80\xc2\xaf\xf0\x05\x10\x80\x94\xef:\x1a\0\"\0",
        ),
        (
            r#"{"kind":"ControllerRevision","apiVersion":"apps/v1","metadata":{"name":"c"},"data":{"x":[1,{"y":null}]},"revision":1}"#,
            b"k8s\0\n\x1d\n\x07apps/v1\x12\x12ControllerRevision\x12-\n\x11\n\x01c\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\x16\n\x14{\"x\":[1,{\"y\":null}]}\x18\x01\x1a\0\"\0",
        ),
        (
            r#"{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","metadata":{},"spec":{"user":"u","extra":{"e":["1","2"]}},"status":{"allowed":false}}"#,
            b"k8s\0\n.\n\x17authorization.k8s.io/v1\x12\x13SubjectAccessReview\x120\n\x10\n\0\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\x12\x1a\x01u*\x0b\n\x01e\x12\x06\n\x011\n\x0122\0\x1a\x08\x08\0\x12\0\x1a\0 \0\x1a\0\"\0",
        ),
        (
            r#"{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"c"},"spec":{"group":"g","names":{"plural":"p","kind":"K"},"scope":"Cluster","versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"a":{"type":"array","items":{"type":"number","default":{"x":[1]},"maximum":1.5}},"b":{"additionalProperties":false}}}}}]},"status":{"conditions":null,"acceptedNames":{"plural":"","kind":""},"storedVersions":null}}"#,
            b"k8s\0\n3\n\x17apiextensions.k8s.io/v1\x12\x18CustomResourceDefinition\x12\x8a\x02\n\x11\n\x01c\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\xe6\x01\n\x01g\x1a\n\n\x01p\x12\0\"\x01K*\0\"\x07Cluster:\xc9\x01\n\x02v1\x10\x01\x18\x01\"\xbc\x01\n\xb9\x01\n\0\x12\0\"\0*\x06object2\0:\0P\0`\0z\0\x90\x01\0\xea\x01g\n\x01a\x12b\n\0\x12\0\"\0*\x05array2\0:\0P\0`\0z\0\x90\x01\0\xc2\x01<\n:\n\0\x12\0\"\0*\x06number2\0:\0B\x0b\n\x09{\"x\":[1]}I\0\0\0\0\0\0\xf8?P\0`\0z\0\x90\x01\0\xa8\x02\0\xb8\x02\0\xc0\x02\0\xa8\x02\0\xb8\x02\0\xc0\x02\0\xea\x01(\n\x01b\x12#\n\0\x12\0\"\0*\x002\0:\0P\0`\0z\0\x90\x01\0\xf2\x01\x02\x08\0\xa8\x02\0\xb8\x02\0\xc0\x02\0\xa8\x02\0\xb8\x02\0\xc0\x02\x008\0P\0\x1a\x0c\x12\x08\n\0\x12\0\"\0*\0 \0\x1a\0\"\0",
        ),
    ]
}

#[test]
fn objects_become_the_bytes_that_go_writes_and_back() {
    for (json, bytes) in examples() {
        let object: Value = serde_json::from_str(json).expect("JSON");
        let encoded = builtin().encode_object(&object).expect("encodes");
        assert_eq!(encoded.escape_ascii().to_string(), bytes.escape_ascii().to_string(), "{json}");
        assert_eq!(builtin().decode_object(bytes).expect("decodes").to_string(), json);
    }
}

#[test]
fn the_type_is_that_of_the_envelope() {
    let refused = |object: Value| builtin().encode_object(&object).expect_err("refused").to_string();
    assert_eq!(refused(json!({"apiVersion": "v1", "kind": "Nope"})), "no kind \"Nope\" is registered for version \"v1\"");
    let table = schema::builtin().lookup("io.k8s.apimachinery.pkg.apis.meta.v1.Table").expect("a Table");
    assert_eq!(
        builtin().encode(table, &json!({})).expect_err("refused").to_string(),
        "object *v1.Table does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
    );
    assert_eq!(
        refused(json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": 1}})),
        "field Pod.spec.nodeName: cannot write a number as a string"
    );
}

#[test]
fn options_are_read_as_the_type_that_the_caller_expects() {
    let data = b"k8s\0\n\x13\n\x02v1\x12\x0dDeleteOptions\x12\x18\x08\0\x12\x03\n\x01u\"\nBackground*\x03All\x1a\0\"\0";
    let options = schema::builtin().lookup("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions").expect("DeleteOptions");
    let unknown = envelope::unwrap(data).expect("opens");
    assert_eq!(
        builtin().decode_typed(options, &unknown).expect("decodes").to_string(),
        r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0,"preconditions":{"uid":"u"},"propagationPolicy":"Background","dryRun":["All"]}"#
    );
}

#[test]
fn parts_of_a_message_are_merged_and_unknown_fields_passed_over() {
    let config_map = builtin().kind("v1", "ConfigMap").expect("a ConfigMap");
    // Two halves of metadata, an unknown group, and a map entry given twice.
    let message = b"\x0a\x03\x0a\x01a\x9b\x06\x08\x01\x9c\x06\x0a\x03\x1a\x01n\x12\x06\x0a\x01k\x12\x011\x12\x06\x0a\x01k\x12\x012";
    assert_eq!(
        builtin().decode(config_map, message).expect("decodes"),
        json!({"metadata": {"name": "a", "namespace": "n"}, "data": {"k": "2"}})
    );
    let wrong = builtin().decode(config_map, b"\x08\x01").expect_err("refused");
    assert_eq!(wrong.to_string(), "proto: wrong wireType = 0 for field ObjectMeta");
}

#[test]
fn nesting_is_bounded() {
    let schema = builtin().json_schema.expect("JSONSchemaProps is built in");
    let mut deep = json!({});
    for _ in 0..MAX_DEPTH {
        deep = json!({ "not": deep });
    }
    assert_eq!(builtin().encode(schema, &deep), Err(EncodeError::TooDeep));
    let mut message = Vec::new();
    for _ in 0..MAX_DEPTH {
        let mut w = wire::Writer::default();
        w.bytes_field(28, &message);
        message = w.finish();
    }
    assert_eq!(builtin().decode(schema, &message), Err(DecodeError::TooDeep));
}

#[test]
fn damaged_messages_never_panic() {
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut decoded = 0;
    for (_, bytes) in examples() {
        for _ in 0..2_000 {
            let mut damaged = bytes.to_vec();
            for _ in 0..=random(3) {
                let at = random(damaged.len());
                damaged[at] = random(256) as u8;
            }
            damaged.truncate(damaged.len() - random(4));
            decoded += usize::from(builtin().decode_object(&damaged).is_ok());
        }
    }
    assert!(decoded > 100, "most damage should still leave some readable messages: {decoded}");
}
