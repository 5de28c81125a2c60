//! Pods that kube-apiserver v1.37.2 was asked to create, and how it answered.

use apimachinery::schema::canonical::{Empties, canonicalize};
use apimachinery::schema::decode::decode;
use apimachinery::schema::defaults::{Hooks, apply_defaults};
use apimachinery::schema::{Types, builtin};
use serde_json::{Value, json};

use super::recorded_answers::{CASES, WARNED};
use crate::registry::core::pod::{RESOURCE, defaults::DEFAULTS};
use crate::registry::core::tests::{cx, messages};
use crate::registry::{Behaviour, UpdateStrategy};

/// A pod after everything that the engine does with it before validation.
fn created(spec: &str) -> Value {
    created_with(spec, "{}")
}

fn created_with(spec: &str, annotations: &str) -> Value {
    let types: &Types = builtin();
    let id = types.lookup("io.k8s.api.core.v1.Pod").expect("in the table");
    let hooks = Hooks::new(types, DEFAULTS).expect("known types");
    let spec: Value = serde_json::from_str(spec).expect("JSON");
    let annotations: Value = serde_json::from_str(annotations).expect("JSON");
    let metadata = json!({"name": "p", "annotations": annotations});
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    assert_eq!(decode(types, id, &mut pod).expect("a pod"), Vec::<String>::new());
    apply_defaults(types, &hooks, id, &mut pod);
    canonicalize(types, id, &mut pod, Empties::Keep);
    RESOURCE.strategy.prepare_for_create(&cx(), &mut pod);
    canonicalize(types, id, &mut pod, Empties::Keep);
    pod
}

#[test]
fn an_absent_spec_lacks_only_its_containers() {
    let types: &Types = builtin();
    let hooks = Hooks::new(types, DEFAULTS).expect("known types");
    for (definition, field) in
        [(&RESOURCE, "spec.containers"), (&crate::registry::core::pod_template::RESOURCE, "template.spec.containers")]
    {
        let id = types.lookup(definition.schema).expect("in the table");
        let mut object = json!({"apiVersion": "v1", "kind": definition.kind, "metadata": {"name": "p"}});
        decode(types, id, &mut object).expect("decodes");
        apply_defaults(types, &hooks, id, &mut object);
        canonicalize(types, id, &mut object, Empties::Keep);
        definition.strategy.prepare_for_create(&cx(), &mut object);
        assert_eq!(messages(&definition.strategy.validate(&cx(), &object)), [format!("{field}: Required value")]);
    }
}

#[test]
fn pods_are_refused_with_upstreams_words() {
    for (name, spec, want) in CASES {
        let pod = created(spec);
        assert_eq!(messages(&RESOURCE.strategy.validate(&cx(), &pod)), *want, "{name}: {spec}");
    }
}

/// A live pod, as the cases of edits find it.
const LIVE: &str = r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}]}"#;

#[test]
fn edits_of_a_pod_are_refused_with_upstreams_words() {
    const OTHER_FIELDS: &str = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
        `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
        `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    let edit = |pointer: &'static str, value: Value| (pointer, value);
    let cases = [
        (
            None,
            edit("/spec/containers/1", json!({"name": "d", "image": "i"})),
            vec!["spec.containers: Forbidden: pod updates may not add or remove containers"],
        ),
        (None, edit("/spec/containers/0/image", json!("other")), vec![]),
        (None, edit("/spec/containers/0/image", json!("")), vec!["spec.containers[0].image: Required value"]),
        (None, edit("/spec/nodeName", json!("n")), vec![OTHER_FIELDS]),
        (None, edit("/spec/activeDeadlineSeconds", json!(5)), vec![]),
        (
            Some(5),
            edit("/spec/activeDeadlineSeconds", json!(9)),
            vec!["spec.activeDeadlineSeconds: Invalid value: 9: must be less than or equal to previous value"],
        ),
        (
            Some(5),
            edit("/spec/activeDeadlineSeconds", Value::Null),
            vec!["spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"],
        ),
        (Some(5), edit("/spec/restartPolicy", json!("Never")), vec![OTHER_FIELDS]),
        (None, edit("/spec/tolerations", json!([{"key": "x", "operator": "Exists"}])), vec![]),
    ];
    for (deadline, (pointer, value), want) in cases {
        let mut old = created(LIVE);
        if let Some(seconds) = deadline {
            old["spec"]["activeDeadlineSeconds"] = json!(seconds);
        }
        let mut new = old.clone();
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        match new.pointer_mut(parent).expect("the parent") {
            Value::Array(items) => items.push({
                let mut added = old["spec"]["containers"][0].clone();
                added.as_object_mut().expect("object").extend(value.as_object().cloned().expect("object"));
                added
            }),
            parent => parent[field] = value,
        }
        RESOURCE.strategy.prepare_for_update(&cx(), &mut new, &old);
        let errors = messages(&RESOURCE.strategy.validate_update(&cx(), &new, &old));
        let first_lines: Vec<&str> = errors.iter().filter_map(|e| e.lines().next()).collect();
        assert_eq!(without_repeats(&first_lines), want, "{pointer}");
    }
}

#[test]
fn changes_of_ephemeral_containers_are_shown_as_upstream_shows_them() {
    let with = |image: &str| {
        let mut pod = created(LIVE);
        let container = json!({"name": "dbg", "image": image, "imagePullPolicy": "Always", "terminationMessagePolicy": "File"});
        pod["spec"]["ephemeralContainers"] = json!([container]);
        pod
    };
    let (old, mut new) = (with("d"), with("changed"));
    let endpoint = subresource("ephemeralcontainers");
    endpoint.prepare_for_update(&cx(), &mut new, &old);
    assert_eq!(
        messages(&endpoint.validate_update(&cx(), &new, &old)),
        ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"dbg\" may not be changed\n\
             @@ -1,6 +1,6 @@\n {\n  \"Name\": \"dbg\",\n- \"Image\": \"d\",\n+ \"Image\": \"changed\",\n  \"Command\": null,\n  \
             \"Args\": null,\n  \"WorkingDir\": \"\",\n"]
    );
}

#[test]
fn a_resize_changes_amounts_of_cpu_and_memory_alone() {
    let with = |resources: Value| {
        let spec = json!({"containers": [{"name": "c", "image": "registry.example/image:1", "resources": resources}]});
        created(&spec.to_string())
    };
    let old = with(json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "300m"}}));
    let cases = [
        (json!({"requests": {"cpu": "150m"}, "limits": {"cpu": "300m"}}), vec![]),
        (
            json!({"requests": {"cpu": "300m"}, "limits": {"cpu": "300m", "memory": "1Gi"}}),
            vec!["spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"],
        ),
        (
            json!({"requests": {"cpu": "900m"}, "limits": {"cpu": "300m"}}),
            vec!["spec.containers[0].resources.requests: Invalid value: \"900m\": must be less than or equal to cpu limit of 300m"],
        ),
        (
            json!({"requests": {"cpu": "100m", "example.com/x": "1"}, "limits": {"cpu": "300m", "example.com/x": "1"}}),
            vec!["spec: Forbidden: only cpu and memory resources are mutable"],
        ),
        (
            json!({"limits": {"cpu": "300m"}, "requests": {}}),
            vec!["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
        ),
    ];
    let endpoint = subresource("resize");
    for (resources, want) in cases {
        let mut new = old.clone();
        new["spec"]["containers"][0]["resources"] = with(resources.clone())["spec"]["containers"][0]["resources"].take();
        if resources["requests"] == json!({}) {
            new["spec"]["containers"][0]["resources"] = resources.clone();
        }
        endpoint.prepare_for_update(&cx(), &mut new, &old);
        assert_eq!(messages(&endpoint.validate_update(&cx(), &new, &old)), want, "{resources}");
    }
}

#[test]
fn a_status_is_refused_with_upstreams_words() {
    let old = created(LIVE);
    let cases = [
        (json!({"phase": "Nope", "conditions": [{"type": "Ready", "status": "Bad"}]}), vec![]),
        (json!({"qosClass": "Guaranteed"}), vec!["status.qosClass: Invalid value: \"Guaranteed\": field is immutable"]),
        (
            json!({"podIP": "not-an-ip", "podIPs": [{"ip": "not-an-ip"}]}),
            vec!["status.podIPs[0]: Invalid value: \"not-an-ip\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
        ),
    ];
    let endpoint = subresource("status");
    for (status, want) in cases {
        let mut new = old.clone();
        new["status"] = status.clone();
        endpoint.prepare_for_update(&cx(), &mut new, &old);
        assert_eq!(messages(&endpoint.validate_update(&cx(), &new, &old)), want, "{status}");
    }
}

fn subresource(name: &str) -> &'static dyn UpdateStrategy {
    let found = RESOURCE.subresources.iter().find(|s| s.name == name).expect("listed");
    match found.behaviour {
        Behaviour::Object { strategy, .. } => strategy,
        _ => panic!("{name} is no view of the pod"),
    }
}

/// A Status names each error once.
fn without_repeats<'a>(errors: &[&'a str]) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for error in errors {
        if !seen.contains(error) {
            seen.push(*error);
        }
    }
    seen
}

#[test]
fn pods_are_warned_of_with_upstreams_words() {
    for (name, spec, annotations, want, warnings) in WARNED {
        let pod = created_with(spec, annotations);
        assert_eq!(messages(&RESOURCE.strategy.validate(&cx(), &pod)), *want, "{name}");
        // What is refused is not warned of.
        if want.is_empty() {
            assert_eq!(RESOURCE.strategy.warnings_on_create(&cx(), &pod), *warnings, "{name}");
        }
    }
}
