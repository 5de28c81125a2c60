//! Every resource that can be created, sent and read as JSON, YAML and protobuf: the same object comes back in all three.

use std::collections::BTreeSet;

use apimachinery::{json, protobuf, yaml};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use crate::process::Cluster;

#[derive(Clone, Copy, Debug)]
enum Form {
    Json,
    Yaml,
    Protobuf,
}

impl Form {
    const ALL: [Form; 3] = [Form::Json, Form::Yaml, Form::Protobuf];

    fn media_type(self) -> &'static str {
        match self {
            Form::Json => "application/json",
            Form::Yaml => "application/yaml",
            Form::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    /// What stands for `NAME` in the objects that are sent in this form.
    fn name(self) -> &'static str {
        match self {
            Form::Json => "in-json",
            Form::Yaml => "in-yaml",
            Form::Protobuf => "in-protobuf",
        }
    }

    fn write(self, object: &Value) -> Vec<u8> {
        match self {
            Form::Json => json::to_vec(object),
            Form::Yaml => yaml::to_string(object).into_bytes(),
            Form::Protobuf => protobuf::builtin().encode_object(object).expect("a message"),
        }
    }

    fn read(self, bytes: &[u8]) -> Value {
        match self {
            Form::Json => serde_json::from_slice(bytes).expect("JSON"),
            Form::Yaml => yaml::parse(bytes).expect("YAML").value,
            Form::Protobuf => protobuf::builtin().decode_object(bytes).expect("a message"),
        }
    }
}

pub struct Sample {
    /// Where it is posted.
    pub path: &'static str,
    /// With NAME and ADDRESS in the place of what tells it from others.
    pub object: Value,
    /// The answer is no object that can be read again.
    pub only_posted: bool,
}

fn sample(path: &'static str, api_version: &str, kind: &str, mut rest: Value) -> Sample {
    let mut object = json!({ "kind": kind, "apiVersion": api_version, "metadata": { "name": "NAME" } });
    let members = rest.as_object_mut().expect("members");
    for (key, value) in std::mem::take(members) {
        object[key] = value;
    }
    Sample { path, object, only_posted: false }
}

/// A question, or a binding, to which the answer is all there is.
fn posted(path: &'static str, api_version: &str, kind: &str, rest: Value) -> Sample {
    let mut sample = sample(path, api_version, kind, rest);
    if kind != "Binding" {
        sample.object["metadata"] = json!({});
    }
    Sample { only_posted: true, ..sample }
}

fn template() -> Value {
    json!({ "metadata": { "labels": { "app": "a" } }, "spec": { "containers": [{ "name": "c", "image": "registry.example/a:1" }] } })
}

/// Without the token, whose volume gets another name in every pod.
fn pod() -> Value {
    let mut template = template();
    template["spec"]["automountServiceAccountToken"] = false.into();
    json!({ "spec": template["spec"] })
}

fn job_template() -> Value {
    let mut template = template();
    template["spec"]["restartPolicy"] = "Never".into();
    template
}

/// Asks for nothing but a name.
fn certificate_request() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    rcgen::CertificateParams::default().serialize_request(&key).and_then(|request| request.pem()).expect("a request")
}

fn authority() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.self_signed(&key).expect("a certificate").pem()
}

/// What a kubelet asks for on behalf of a pod.
fn pod_certificate_request() -> Value {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    let request = parameters.serialize_request(&key).expect("a request");
    json!({ "spec": {
        "signerName": "example.com/signer", "podName": "p", "podUID": "uid-of-p", "serviceAccountName": "s", "serviceAccountUID": "uid-of-s",
        "nodeName": "n", "nodeUID": "uid-of-n", "maxExpirationSeconds": 86400, "stubPKCS10Request": STANDARD.encode(request.der()),
    } })
}

fn core() -> Vec<Sample> {
    let v1 = |plural: &'static str, kind: &str, rest: Value| sample(plural, "v1", kind, rest);
    let selector = || json!({ "app": "a" });
    vec![
        v1("/api/v1/namespaces", "Namespace", json!({})),
        v1("/api/v1/nodes", "Node", json!({ "spec": { "unschedulable": true } })),
        v1(
            "/api/v1/persistentvolumes",
            "PersistentVolume",
            json!({ "spec": { "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "hostPath": { "path": "/v" } } }),
        ),
        v1(
            "/api/v1/namespaces/default/configmaps",
            "ConfigMap",
            json!({ "data": { "a": "line\nline\n", "b": "true" }, "binaryData": { "c": "AAEC" } }),
        ),
        v1(
            "/api/v1/namespaces/default/endpoints",
            "Endpoints",
            json!({ "subsets": [{ "addresses": [{ "ip": "10.0.0.1" }], "ports": [{ "port": 80 }] }] }),
        ),
        v1(
            "/api/v1/namespaces/default/events",
            "Event",
            json!({ "involvedObject": { "kind": "Pod", "namespace": "default", "name": "p" }, "reason": "Tested", "message": "m", "firstTimestamp": "2020-01-01T00:00:00Z" }),
        ),
        v1(
            "/api/v1/namespaces/kube-public/limitranges",
            "LimitRange",
            json!({ "spec": { "limits": [{ "type": "Pod", "max": { "cpu": "1500m" } }] } }),
        ),
        v1(
            "/api/v1/namespaces/default/persistentvolumeclaims",
            "PersistentVolumeClaim",
            json!({ "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } }),
        ),
        v1("/api/v1/namespaces/default/pods", "Pod", pod()),
        posted("/api/v1/namespaces/default/bindings", "v1", "Binding", json!({ "target": { "kind": "Node", "name": "NAME" } })),
        v1("/api/v1/namespaces/default/podtemplates", "PodTemplate", json!({ "template": template() })),
        v1(
            "/api/v1/namespaces/default/replicationcontrollers",
            "ReplicationController",
            json!({ "spec": { "selector": selector(), "template": template() } }),
        ),
        v1(
            "/api/v1/namespaces/kube-public/resourcequotas",
            "ResourceQuota",
            json!({ "spec": { "hard": { "requests.cpu": "0.5", "services": "9" } } }),
        ),
        v1("/api/v1/namespaces/default/secrets", "Secret", json!({ "data": { "k": "dg==" } })),
        v1(
            "/api/v1/namespaces/default/services",
            "Service",
            json!({ "spec": { "selector": selector(), "ports": [{ "port": 80, "targetPort": "web" }] } }),
        ),
        v1("/api/v1/namespaces/default/serviceaccounts", "ServiceAccount", json!({})),
    ]
}

fn workloads() -> Vec<Sample> {
    let selector = || json!({ "matchLabels": { "app": "a" } });
    let with_template = || json!({ "spec": { "selector": selector(), "template": template() } });
    vec![
        sample(
            "/apis/apps/v1/namespaces/default/controllerrevisions",
            "apps/v1",
            "ControllerRevision",
            json!({ "revision": 3, "data": { "b": [1, { "a": null }] } }),
        ),
        sample("/apis/apps/v1/namespaces/default/daemonsets", "apps/v1", "DaemonSet", with_template()),
        sample("/apis/apps/v1/namespaces/default/deployments", "apps/v1", "Deployment", with_template()),
        sample("/apis/apps/v1/namespaces/default/replicasets", "apps/v1", "ReplicaSet", with_template()),
        sample("/apis/apps/v1/namespaces/default/statefulsets", "apps/v1", "StatefulSet", with_template()),
        sample(
            "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
            "autoscaling/v1",
            "HorizontalPodAutoscaler",
            json!({ "metadata": { "name": "one-NAME" }, "spec": { "maxReplicas": 3, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "a" } } }),
        ),
        sample(
            "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            json!({ "spec": { "maxReplicas": 3, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "a" } } }),
        ),
        sample(
            "/apis/batch/v1/namespaces/default/jobs",
            "batch/v1",
            "Job",
            json!({ "spec": { "manualSelector": true, "selector": selector(), "template": job_template() } }),
        ),
        sample(
            "/apis/batch/v1/namespaces/default/cronjobs",
            "batch/v1",
            "CronJob",
            json!({ "spec": { "schedule": "*/5 * * * *", "jobTemplate": { "spec": { "template": job_template() } } } }),
        ),
        sample(
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            "policy/v1",
            "PodDisruptionBudget",
            json!({ "spec": { "minAvailable": "50%", "selector": selector() } }),
        ),
        sample("/apis/scheduling.k8s.io/v1/priorityclasses", "scheduling.k8s.io/v1", "PriorityClass", json!({ "value": 1000 })),
        sample(
            "/apis/coordination.k8s.io/v1/namespaces/default/leases",
            "coordination.k8s.io/v1",
            "Lease",
            json!({ "spec": { "holderIdentity": "h", "renewTime": "2020-01-01T00:00:00.123456Z" } }),
        ),
        sample("/apis/node.k8s.io/v1/runtimeclasses", "node.k8s.io/v1", "RuntimeClass", json!({ "handler": "h" })),
    ]
}

fn network_and_storage() -> Vec<Sample> {
    let service = json!({ "service": { "name": "s", "port": { "number": 80 } } });
    vec![
        sample(
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({ "addressType": "IPv4", "endpoints": [{ "addresses": ["10.0.0.1"] }], "ports": [{ "port": 80 }] }),
        ),
        sample(
            "/apis/events.k8s.io/v1/namespaces/default/events",
            "events.k8s.io/v1",
            "Event",
            json!({ "metadata": { "name": "new-NAME" }, "regarding": { "kind": "Pod", "namespace": "default", "name": "p" }, "reason": "Tested", "action": "Test", "type": "Normal",
                "reportingController": "example.com/c", "reportingInstance": "i", "eventTime": "2020-01-01T00:00:00.000001Z" }),
        ),
        sample(
            "/apis/networking.k8s.io/v1/ingressclasses",
            "networking.k8s.io/v1",
            "IngressClass",
            json!({ "spec": { "controller": "example.com/c" } }),
        ),
        sample(
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            "networking.k8s.io/v1",
            "Ingress",
            json!({ "spec": { "defaultBackend": service } }),
        ),
        sample(
            "/apis/networking.k8s.io/v1/ipaddresses",
            "networking.k8s.io/v1",
            "IPAddress",
            json!({ "metadata": { "name": "2001:db8::ADDRESS" }, "spec": { "parentRef": { "group": "", "resource": "services", "namespace": "default", "name": "NAME" } } }),
        ),
        sample(
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            "networking.k8s.io/v1",
            "NetworkPolicy",
            json!({ "spec": { "podSelector": {} } }),
        ),
        sample(
            "/apis/networking.k8s.io/v1/servicecidrs",
            "networking.k8s.io/v1",
            "ServiceCIDR",
            json!({ "spec": { "cidrs": ["192.168.0.0/24"] } }),
        ),
        sample("/apis/storage.k8s.io/v1/csidrivers", "storage.k8s.io/v1", "CSIDriver", json!({ "spec": { "attachRequired": false } })),
        sample(
            "/apis/storage.k8s.io/v1/csinodes",
            "storage.k8s.io/v1",
            "CSINode",
            json!({ "spec": { "drivers": [{ "name": "d", "nodeID": "n", "topologyKeys": ["example.com/zone"] }] } }),
        ),
        sample(
            "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities",
            "storage.k8s.io/v1",
            "CSIStorageCapacity",
            json!({ "storageClassName": "s", "capacity": "1Gi" }),
        ),
        sample("/apis/storage.k8s.io/v1/storageclasses", "storage.k8s.io/v1", "StorageClass", json!({ "provisioner": "example.com/p" })),
        sample(
            "/apis/storage.k8s.io/v1/volumeattachments",
            "storage.k8s.io/v1",
            "VolumeAttachment",
            json!({ "spec": { "attacher": "example.com", "nodeName": "n", "source": { "persistentVolumeName": "v" } } }),
        ),
        sample(
            "/apis/storage.k8s.io/v1/volumeattributesclasses",
            "storage.k8s.io/v1",
            "VolumeAttributesClass",
            json!({ "driverName": "example.com/d", "parameters": { "iops": "1" } }),
        ),
        sample(
            "/apis/storagemigration.k8s.io/v1/storageversionmigrations",
            "storagemigration.k8s.io/v1",
            "StorageVersionMigration",
            json!({ "spec": { "resource": { "group": "", "resource": "secrets" } } }),
        ),
        sample(
            "/apis/resource.k8s.io/v1/deviceclasses",
            "resource.k8s.io/v1",
            "DeviceClass",
            json!({ "spec": { "config": [{ "opaque": { "driver": "d.example.com", "parameters": { "b": 1, "a": 2 } } }] } }),
        ),
        sample(
            "/apis/resource.k8s.io/v1/devicetaintrules",
            "resource.k8s.io/v1",
            "DeviceTaintRule",
            json!({ "spec": { "taint": { "key": "example.com/k", "effect": "NoSchedule", "timeAdded": "2020-01-01T00:00:00Z" } } }),
        ),
        sample(
            "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims",
            "resource.k8s.io/v1",
            "ResourceClaim",
            json!({ "spec": { "devices": { "requests": [{ "name": "r", "exactly": { "deviceClassName": "c" } }] } } }),
        ),
        sample(
            "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates",
            "resource.k8s.io/v1",
            "ResourceClaimTemplate",
            json!({ "spec": { "spec": { "devices": { "requests": [{ "name": "r", "exactly": { "deviceClassName": "c" } }] } } } }),
        ),
        sample(
            "/apis/resource.k8s.io/v1/resourceslices",
            "resource.k8s.io/v1",
            "ResourceSlice",
            json!({ "spec": { "driver": "d.example.com", "nodeName": "n", "pool": { "name": "p", "generation": 1, "resourceSliceCount": 1 } } }),
        ),
    ]
}

fn access() -> Vec<Sample> {
    let subject = || json!([{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "u" }]);
    let rules = || json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }]);
    let role = |kind: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "r" });
    let question = || json!({ "namespace": "default", "verb": "get", "resource": "pods" });
    vec![
        sample(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            "rbac.authorization.k8s.io/v1",
            "ClusterRole",
            json!({ "rules": rules() }),
        ),
        sample(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            json!({ "subjects": subject(), "roleRef": role("ClusterRole") }),
        ),
        sample(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
            "rbac.authorization.k8s.io/v1",
            "Role",
            json!({ "rules": rules() }),
        ),
        sample(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            json!({ "subjects": subject(), "roleRef": role("Role") }),
        ),
        posted(
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            "authorization.k8s.io/v1",
            "SubjectAccessReview",
            json!({ "spec": { "user": "u", "resourceAttributes": question() } }),
        ),
        posted(
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "authorization.k8s.io/v1",
            "SelfSubjectAccessReview",
            json!({ "spec": { "resourceAttributes": question() } }),
        ),
        posted(
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
            "authorization.k8s.io/v1",
            "SelfSubjectRulesReview",
            json!({ "spec": { "namespace": "default" } }),
        ),
        posted(
            "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews",
            "authorization.k8s.io/v1",
            "LocalSubjectAccessReview",
            json!({ "spec": { "user": "u", "resourceAttributes": question() } }),
        ),
        posted(
            "/apis/authentication.k8s.io/v1/tokenreviews",
            "authentication.k8s.io/v1",
            "TokenReview",
            json!({ "spec": { "token": "unknown" } }),
        ),
        posted("/apis/authentication.k8s.io/v1/selfsubjectreviews", "authentication.k8s.io/v1", "SelfSubjectReview", json!({})),
        sample(
            "/apis/certificates.k8s.io/v1/certificatesigningrequests",
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            json!({ "spec": { "request": STANDARD.encode(certificate_request()), "signerName": "example.com/signer", "usages": ["client auth"] } }),
        ),
        sample(
            "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests",
            "certificates.k8s.io/v1",
            "PodCertificateRequest",
            pod_certificate_request(),
        ),
        sample(
            "/apis/certificates.k8s.io/v1/clustertrustbundles",
            "certificates.k8s.io/v1",
            "ClusterTrustBundle",
            json!({ "spec": { "trustBundle": authority() } }),
        ),
        sample(
            "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
            "flowcontrol.apiserver.k8s.io/v1",
            "FlowSchema",
            json!({ "spec": { "priorityLevelConfiguration": { "name": "catch-all" }, "rules": [{ "subjects": [{ "kind": "Group", "group": { "name": "g" } }], "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": ["/healthz"] }] }] } }),
        ),
        sample(
            "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
            "flowcontrol.apiserver.k8s.io/v1",
            "PriorityLevelConfiguration",
            json!({ "spec": { "type": "Limited", "limited": { "limitResponse": { "type": "Reject" } } } }),
        ),
    ]
}

fn extension() -> Vec<Sample> {
    let rules = || json!([{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"] }]);
    let hook = || {
        json!({ "webhooks": [{ "name": "a.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore", "rules": rules(),
            "namespaceSelector": { "matchLabels": { "none": "such" } }, "clientConfig": { "url": "https://127.0.0.1:1/" } }] })
    };
    let api = "admissionregistration.k8s.io/v1";
    vec![
        sample("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", api, "MutatingWebhookConfiguration", hook()),
        sample("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", api, "ValidatingWebhookConfiguration", hook()),
        sample(
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
            api,
            "ValidatingAdmissionPolicy",
            json!({ "spec": { "matchConstraints": { "resourceRules": rules() }, "validations": [{ "expression": "true" }] } }),
        ),
        sample(
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
            api,
            "ValidatingAdmissionPolicyBinding",
            json!({ "spec": { "policyName": "none-such", "validationActions": ["Deny"] } }),
        ),
        sample(
            "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies",
            api,
            "MutatingAdmissionPolicy",
            json!({ "spec": { "reinvocationPolicy": "Never", "matchConstraints": { "resourceRules": rules() },
                "mutations": [{ "patchType": "JSONPatch", "jsonPatch": { "expression": "[JSONPatch{op: \"add\", path: \"/metadata/labels/a\", value: \"b\"}]" } }] } }),
        ),
        sample(
            "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings",
            api,
            "MutatingAdmissionPolicyBinding",
            json!({ "spec": { "policyName": "none-such" } }),
        ),
        sample(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            json!({ "metadata": { "name": "things.NAME.example.com" }, "spec": { "group": "NAME.example.com", "scope": "Namespaced", "names": { "plural": "things", "kind": "Thing" },
                "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": { "type": "object", "properties": { "n": { "type": "integer", "default": 1 } } } } } } }] } }),
        ),
        sample(
            "/apis/apiregistration.k8s.io/v1/apiservices",
            "apiregistration.k8s.io/v1",
            "APIService",
            json!({ "metadata": { "name": "v1.NAME.aggregated.example.com" }, "spec": { "group": "NAME.aggregated.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10, "insecureSkipTLSVerify": true, "service": { "namespace": "default", "name": "none-such" } } }),
        ),
    ]
}

/// One of each resource that can be created.
pub fn samples() -> Vec<Sample> {
    [core(), workloads(), network_and_storage(), access(), extension()].into_iter().flatten().collect()
}

/// The end of an address that stands in place of a name.
fn address(form: Form) -> &'static str {
    match form {
        Form::Json => "1",
        Form::Yaml => "2",
        Form::Protobuf => "3",
    }
}

/// The object with the names of one form.
fn named(object: &Value, form: Form) -> Value {
    let text = object.to_string().replace("NAME", form.name()).replace("ADDRESS", address(form));
    serde_json::from_str(&text).expect("JSON as it was")
}

/// The API server itself writes the status of these, at a time of its own.
const STATUS_OF_THE_SERVER: [&str; 5] =
    ["APIService", "CustomResourceDefinition", "FlowSchema", "PriorityLevelConfiguration", "ServiceCIDR"];

/// The object without what differs between two of its kind, and with the names of no form.
fn comparable(mut object: Value, form: Form) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
            metadata.remove(field);
        }
    }
    if STATUS_OF_THE_SERVER.iter().any(|kind| object["kind"] == *kind) {
        object["status"] = Value::Null;
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        for field in ["clusterIP", "clusterIPs"] {
            spec.remove(field);
        }
    }
    // A time of the server's own.
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("lastPhaseTransitionTime");
    }
    let text = object.to_string().replace(form.name(), "NAME").replace(&format!("2001:db8::{}", address(form)), "ADDRESS");
    serde_json::from_str(&text).expect("JSON as it was")
}

async fn send(client: &Client, method: Method, path: &str, content: Option<(Form, &Value)>, accept: Form) -> (StatusCode, Vec<u8>) {
    let mut request = Request::builder().method(method).uri(path).header("Accept", accept.media_type());
    if let Some((form, _)) = content {
        request = request.header("Content-Type", form.media_type());
    }
    let body = content.map(|(form, object)| form.write(object)).unwrap_or_default();
    let response = client.send(request.body(Body::from(body)).expect("a request")).await.expect("an answer");
    let (head, body) = response.into_parts();
    (head.status, body.collect_bytes().await.expect("a body").to_vec())
}

/// Group-version and plural of what can be created, as discovery tells.
async fn creatable(client: &Client) -> BTreeSet<String> {
    let get = async |path: &str| Form::Json.read(&send(client, Method::GET, path, None, Form::Json).await.1);
    let groups = get("/apis").await;
    let versions = groups["groups"].as_array().into_iter().flatten().flat_map(|group| group["versions"].as_array().into_iter().flatten());
    let mut roots = vec!["/api/v1".to_owned()];
    roots.extend(versions.filter_map(|version| Some(format!("/apis/{}", version["groupVersion"].as_str()?))));
    let mut found = BTreeSet::new();
    for root in roots {
        let resources = get(&root).await;
        for resource in resources["resources"].as_array().into_iter().flatten() {
            let name = resource["name"].as_str().expect("a name");
            if !name.contains('/') && resource["verbs"].as_array().is_some_and(|verbs| verbs.contains(&"create".into())) {
                found.insert(format!("{root} {name}"));
            }
        }
    }
    found
}

#[tokio::test]
async fn every_resource_comes_back_the_same_in_all_forms() {
    let data = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(data.path());
    let client = cluster.client().await;
    let samples = samples();
    let covered = samples.iter().map(|sample| {
        let plural = sample.path.rsplit('/').next().expect("a plural");
        let root = sample.path.split("/namespaces/").next().expect("a root").trim_end_matches(&format!("/{plural}"));
        format!("{root} {plural}")
    });
    assert_eq!(covered.collect::<BTreeSet<_>>(), creatable(&client).await, "samples and what can be created");

    let account = json!({ "kind": "ServiceAccount", "apiVersion": "v1", "metadata": { "name": "default" } });
    let path = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(send(&client, Method::POST, path, Some((Form::Json, &account)), Form::Json).await.0, StatusCode::CREATED);

    let mut problems = Vec::new();
    for sample in &samples {
        problems.extend(compare_forms(&client, sample).await);
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Creates a sample once in each form and reads it in every form: what differs.
async fn compare_forms(client: &Client, sample: &Sample) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen: Vec<(String, Value)> = Vec::new();
    let mut see = |how: String, expected: StatusCode, status: StatusCode, answer: &[u8], form: Form, sent: Form| {
        if status == expected {
            seen.push((how, comparable(form.read(answer), sent)));
        } else {
            problems.push(format!("{}: {how}: {status} {}", sample.path, String::from_utf8_lossy(answer)));
        }
    };
    for sent in Form::ALL {
        let object = named(&sample.object, sent);
        let (status, answer) = send(client, Method::POST, sample.path, Some((sent, &object)), sent).await;
        see(format!("the answer to {sent:?}"), StatusCode::CREATED, status, &answer, sent, sent);
        let name = object.pointer("/metadata/name").and_then(Value::as_str).filter(|_| !sample.only_posted);
        for form in Form::ALL.into_iter().filter(|_| name.is_some()) {
            let path = format!("{}/{}", sample.path, name.unwrap_or_default());
            let (status, answer) = send(client, Method::GET, &path, None, form).await;
            see(format!("{sent:?} read as {form:?}"), StatusCode::OK, status, &answer, form, sent);
        }
    }
    if let Some(((_, first), others)) = seen.split_first() {
        let differing = others.iter().filter(|(_, object)| object != first);
        problems.extend(differing.map(|(how, object)| format!("{}: {how}:\n{object}\n  instead of\n{first}", sample.path)));
    }
    problems
}
