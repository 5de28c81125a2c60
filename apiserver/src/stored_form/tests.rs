use apimachinery::schema;
use apimachinery::schema::defaults::Hooks;
use serde_json::json;

use super::*;
use crate::registry;

fn form(group: &str, plural: &str) -> StoredForm {
    let types = schema::builtin();
    let hooks = Hooks::new(types, &registry::default_hooks()).unwrap();
    let catalog = Catalog::builtin(types, &registry::definitions(), &registry::versioned(), hooks).unwrap();
    let stored = catalog.stored_resource(group, plural).unwrap();
    StoredForm::of(&catalog, stored)
}

#[test]
fn an_object_is_stored_as_upstream_stores_it_and_comes_back_whole() {
    let cases = [
        (
            ("", "configmaps"),
            &b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap"[..],
            json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "n", "uid": "u"}, "data": {"k": "v"}}),
        ),
        (
            ("certificates.k8s.io", "clustertrustbundles"),
            &b"k8s\0\n1\n\x1bcertificates.k8s.io/v1beta1"[..],
            json!({"kind": "ClusterTrustBundle", "apiVersion": "certificates.k8s.io/v1", "metadata": {"name": "a"}, "spec": {"trustBundle": "t"}}),
        ),
        (
            ("apiregistration.k8s.io", "apiservices"),
            &b"{\"kind\":\"APIService\",\"apiVersion\":\"apiregistration.k8s.io/v1\""[..],
            json!({"kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1", "metadata": {"name": "v1.a"},
                "spec": {"group": "a", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}, "status": {}}),
        ),
    ];
    for ((group, plural), start, object) in cases {
        let form = form(group, plural);
        let mut with_revision = object.clone();
        with_revision["metadata"]["resourceVersion"] = json!("7");
        let text = Bytes::from(object.to_string());
        let stored = form.encode(&with_revision, &text).unwrap();
        assert!(stored.starts_with(start), "{plural}: {}", stored.escape_ascii());
        assert_eq!(form.decode(&stored).unwrap().to_string(), object.to_string());
        // The other encoding is understood as well.
        assert_eq!(form.decode(&text).unwrap().to_string(), object.to_string());
        assert_eq!((form.is_current(&stored), form.is_current(&text)), (true, plural == "apiservices"));
    }
}

#[test]
fn an_object_of_another_version_is_read_as_the_storage_version() {
    let form = form("autoscaling", "horizontalpodautoscalers");
    let old = json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v1", "metadata": {"name": "a", "namespace": "n"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50}});
    let stored = Bytes::from(protobuf::builtin().encode_object(&old).unwrap());
    let read = form.decode(&stored).unwrap();
    assert_eq!(read["apiVersion"], "autoscaling/v2");
    assert_eq!(read["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    assert!(!form.is_current(&stored), "a write that changes nothing else brings it up to date");
}

#[test]
fn what_is_no_object_of_the_resource_is_refused_with_its_reason() {
    let form = form("", "configmaps");
    let reason = |bytes: &'static [u8]| form.decode(&Bytes::from_static(bytes)).unwrap_err().to_string();
    assert_eq!(reason(b"{\"kind\":\"Pod\",\"apiVersion\":\"v1\"}"), "a Pod lies where ConfigMap belongs");
    assert_eq!(reason(b"{\"kind\":\"ConfigMap\",\"apiVersion\":\"v9\"}"), "no kind \"ConfigMap\" is registered for version \"v9\"");
    assert_eq!(reason(b"k8s\0\n\x05"), "unexpected EOF");
    assert!(reason(b"k8s:enc:aescbc:v1:").starts_with("expected value"));
}

/// A definition as kube-apiserver v1.37.2 stored it, and as it served it (without status, revision and ownership).
const STORED: &str = concat!(
    r#"{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1beta1","metadata":{"name":"ws.e.com","#,
    r#""uid":"69e673f3-329b-48d8-a14e-e23380bba7fb","generation":1,"creationTimestamp":"2026-11-23T17:35:15Z"},"#,
    r#""spec":{"group":"e.com","version":"v1","names":{"plural":"ws","singular":"w","kind":"W","listKind":"WList"},"#,
    r#""scope":"Namespaced","validation":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","#,
    r#""properties":{"n":{"type":"integer","default":3}}}}}},"subresources":{"status":{}},"versions":[{"name":"v1","#,
    r#""served":true,"storage":true,"additionalPrinterColumns":[{"name":"N","type":"integer","JSONPath":".spec.n"}]},"#,
    r#"{"name":"v2","served":true,"storage":false,"deprecated":true,"additionalPrinterColumns":[{"name":"M","type":"integer","#,
    r#""priority":1,"JSONPath":".spec.n"}]}],"conversion":{"strategy":"Webhook","#,
    r#""webhookClientConfig":{"service":{"namespace":"a","name":"b","path":"/c","port":443}},"#,
    r#""conversionReviewVersions":["v1"]},"preserveUnknownFields":false}}"#,
);
const SERVED: &str = concat!(
    r#"{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"ws.e.com","#,
    r#""uid":"69e673f3-329b-48d8-a14e-e23380bba7fb","generation":1,"creationTimestamp":"2026-11-23T17:35:15Z"},"#,
    r#""spec":{"group":"e.com","names":{"plural":"ws","singular":"w","kind":"W","listKind":"WList"},"scope":"Namespaced","#,
    r#""versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","#,
    r#""properties":{"spec":{"type":"object","properties":{"n":{"type":"integer","default":3}}}}}},"#,
    r#""subresources":{"status":{}},"additionalPrinterColumns":[{"name":"N","type":"integer","jsonPath":".spec.n"}]},"#,
    r#"{"name":"v2","served":true,"storage":false,"deprecated":true,"schema":{"openAPIV3Schema":{"type":"object","#,
    r#""properties":{"spec":{"type":"object","properties":{"n":{"type":"integer","default":3}}}}}},"#,
    r#""subresources":{"status":{}},"additionalPrinterColumns":[{"name":"M","type":"integer","priority":1,"#,
    r#""jsonPath":".spec.n"}]}],"conversion":{"strategy":"Webhook","webhook":{"clientConfig":{"service":{"namespace":"a","#,
    r#""name":"b","path":"/c","port":443}},"conversionReviewVersions":["v1"]}}}}"#,
);

#[test]
fn a_definition_is_stored_in_the_older_version_as_upstream_stores_it() {
    let types = schema::builtin();
    let id = types.by_kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    let served: Value = serde_json::from_str(SERVED).unwrap();
    let mut written = definitions::to_v1beta1(served);
    written["apiVersion"] = json!("apiextensions.k8s.io/v1beta1");
    assert_eq!(written.to_string(), STORED);
    let mut read = definitions::from_v1beta1(written);
    lenient(types, id, &mut read).unwrap();
    read["apiVersion"] = json!("apiextensions.k8s.io/v1");
    canonicalize(types, id, &mut read, apimachinery::schema::canonical::Empties::Keep);
    read.as_object_mut().unwrap().remove("status");
    assert_eq!(read.to_string(), SERVED);
}

#[test]
fn what_a_definition_leaves_out_is_what_the_older_version_takes_it_for() {
    let bare = definitions::from_v1beta1(json!({"spec": {"version": "v1", "validation": {"a": 1}}}));
    assert_eq!(bare["spec"]["versions"], json!([{"name": "v1", "served": true, "storage": true, "schema": {"a": 1}}]));
    assert_eq!(bare["spec"]["preserveUnknownFields"], true);
    // Versions that differ keep what they differ in.
    let versions = json!([{"name": "v1", "subresources": {"status": {}}}, {"name": "v2"}]);
    let older = definitions::to_v1beta1(json!({"spec": {"versions": versions}}));
    assert_eq!(older, json!({"spec": {"version": "v1", "versions": versions, "preserveUnknownFields": false}}));
}
