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
            &b"k8s\0\n3\n\x1bcertificates.k8s.io/v1beta1"[..],
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

#[test]
fn a_definition_is_written_in_the_older_version_and_read_back() {
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let column = json!([{"name": "Age", "type": "date", "jsonPath": ".x"}]);
    let spec = json!({"group": "e.com", "names": {"plural": "ws", "kind": "W"}, "scope": "Namespaced",
        "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": schema, "additionalPrinterColumns": column},
            {"name": "v2", "served": true, "storage": false, "schema": schema}],
        "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://a"}, "conversionReviewVersions": ["v1"]}}});
    let older = definitions::to_v1beta1(json!({"spec": spec}));
    let written = json!({"spec": {"group": "e.com", "version": "v1", "names": {"plural": "ws", "kind": "W"}, "scope": "Namespaced", "validation": schema,
        "versions": [
            {"name": "v1", "served": true, "storage": true, "additionalPrinterColumns": [{"name": "Age", "type": "date", "JSONPath": ".x"}]},
            {"name": "v2", "served": true, "storage": false}],
        "conversion": {"strategy": "Webhook", "webhookClientConfig": {"url": "https://a"}, "conversionReviewVersions": ["v1"]},
        "preserveUnknownFields": false}});
    assert_eq!(older.to_string(), written.to_string());
    let mut back = definitions::from_v1beta1(older);
    assert_eq!(back["spec"].as_object_mut().unwrap().remove("preserveUnknownFields"), Some(json!(false)));
    assert_eq!(back, json!({"spec": spec}));
    let bare = definitions::from_v1beta1(json!({"spec": {"version": "v1", "validation": schema}}));
    assert_eq!(bare["spec"]["versions"], json!([{"name": "v1", "served": true, "storage": true, "schema": schema}]));
    assert_eq!(bare["spec"]["preserveUnknownFields"], true);
}
