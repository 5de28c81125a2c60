"""What programs on the official Python client do to an API server; it ends at the first thing that is not as it should be.

    client.py KUBECONFIG

Asks for an API server and nothing else: controllers would change the objects under its hands.
"""

import json
import os
import sys
import tempfile
import threading
import time

import yaml
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError

NAMESPACE = "python"
MANIFESTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: from-yaml, namespace: python}
data: {a: "1"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: from-yaml, namespace: python}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: example.com/web, env: [{name: A, value: "1"}]}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: from-yaml, namespace: python}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: example.com/c}]}}}}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: from-yaml, namespace: python}, spec: {ports: [{port: 80}], selector: {app: web}}}
- {apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: from-yaml}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}
- {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: from-yaml, namespace: python}, spec: {podSelector: {}}}
"""
WIDGETS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.python.example.com"},
    "spec": {
        "group": "python.example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 1}}}}}}}],
    },
}


def refused(code, call, *args, **kwargs):
    """That the call is refused with this code, and with a Status."""
    try:
        call(*args, **kwargs)
    except ApiException as e:
        assert e.status == code and json.loads(e.body)["kind"] == "Status", e
        return
    raise AssertionError(f"{call} is not refused")


def from_yaml(api):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        file.write(MANIFESTS)
    try:
        made = utils.create_from_yaml(api, file.name)
        assert sum(map(len, made)) == 6, made
        try:
            utils.create_from_yaml(api, file.name)
            raise AssertionError("made twice")
        except utils.FailToCreateError as e:
            assert all(cause.status == 409 for cause in e.api_exceptions), e
        objects = list(yaml.safe_load_all(MANIFESTS))
        utils.create_from_yaml(api, yaml_objects=objects[:3], namespace=NAMESPACE, apply=True)
    finally:
        os.unlink(file.name)
    deployment = client.AppsV1Api(api).read_namespaced_deployment("from-yaml", NAMESPACE)
    assert deployment.spec.replicas == 2 and deployment.spec.template.spec.containers[0].image_pull_policy == "Always", deployment
    assert deployment.metadata.creation_timestamp.tzinfo is not None


def typed(api):
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="typed", labels={"a": "b"}), data={"a": "1"}, binary_data={"b": "AP8="})
    made = core.create_namespaced_config_map(NAMESPACE, body)
    refused(409, core.create_namespaced_config_map, NAMESPACE, body)
    made.data["a"] = "2"
    replaced = core.replace_namespaced_config_map("typed", NAMESPACE, made)
    made.data["a"] = "3"
    refused(409, core.replace_namespaced_config_map, "typed", NAMESPACE, made)
    assert replaced.data["a"] == "2"
    # A dict is a strategic merge and a list is a JSON patch.
    patched = core.patch_namespaced_config_map("typed", NAMESPACE, {"data": {"c": "4"}})
    assert patched.data == {"a": "2", "c": "4"}, patched
    patched = core.patch_namespaced_config_map("typed", NAMESPACE, [{"op": "remove", "path": "/data/c"}])
    assert patched.data == {"a": "2"}, patched
    merged = apps.patch_namespaced_deployment("from-yaml", NAMESPACE, {"spec": {"template": {"spec": {"containers": [
        {"name": "web", "env": [{"name": "B", "value": "2"}]}, {"name": "side", "image": "example.com/side"}]}}}})
    containers = {c.name: [e.name for e in c.env or []] for c in merged.spec.template.spec.containers}
    assert {n: sorted(e) for n, e in containers.items()} == {"web": ["A", "B"], "side": []}, containers
    scale = apps.patch_namespaced_deployment_scale("from-yaml", NAMESPACE, {"spec": {"replicas": 4}})
    assert scale.spec.replicas == 4, scale
    refused(422, core.create_namespaced_config_map, NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="Not_A_Name")))
    refused(404, core.read_namespaced_config_map, "nothing", NAMESPACE)

    names, token = [], None
    for n in range(7):
        core.create_namespaced_secret(NAMESPACE, client.V1Secret(metadata=client.V1ObjectMeta(name=f"page-{n}", labels={"pages": "1"}), string_data={"n": str(n)}))
    while True:
        page = core.list_namespaced_secret(NAMESPACE, label_selector="pages in (1)", limit=3, _continue=token)
        names += [o.metadata.name for o in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"page-{n}" for n in range(7)], names
    core.delete_collection_namespaced_secret(NAMESPACE, label_selector="pages=1")
    assert not core.list_namespaced_secret(NAMESPACE, label_selector="pages=1").items
    core.delete_namespaced_config_map("typed", NAMESPACE)
    refused(404, core.delete_namespaced_config_map, "typed", NAMESPACE)
    assert client.VersionApi(api).get_code().minor == "37"
    review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(
        resource_attributes=client.V1ResourceAttributes(verb="get", resource="pods")))
    assert client.AuthorizationV1Api(api).create_self_subject_access_review(review).status.allowed
    lease = client.V1Lease(metadata=client.V1ObjectMeta(name="l"), spec=client.V1LeaseSpec(holder_identity="me", renew_time="2026-01-02T03:04:05.678901Z"))
    assert client.CoordinationV1Api(api).create_namespaced_lease(NAMESPACE, lease).spec.renew_time.microsecond == 678901


def watches(api):
    core = client.CoreV1Api(api)
    start = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version

    def change():
        for n in range(30):
            core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name=f"watched-{n}")))
            core.patch_namespaced_config_map(f"watched-{n}", NAMESPACE, {"data": {"n": str(n)}})
            core.delete_namespaced_config_map(f"watched-{n}", NAMESPACE)

    changing = threading.Thread(target=change)
    changing.start()
    told, versions = [], []
    watching = watch.Watch()
    for event in watching.stream(core.list_namespaced_config_map, NAMESPACE, resource_version=start, timeout_seconds=30):
        told.append(f"{event['type']} {event['object'].metadata.name}")
        versions.append(int(event["object"].metadata.resource_version))
        if len(told) == 90:
            watching.stop()
    changing.join()
    assert told == [f"{what} watched-{n}" for n in range(30) for what in ("ADDED", "MODIFIED", "DELETED")], told
    assert versions == sorted(set(versions)), versions
    # One that begins at a version that is not there yet is told so.
    try:
        for event in watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE, resource_version="18446744073709551615", timeout_seconds=2):
            raise AssertionError(event)
    except ApiException as e:
        assert e.status in (400, 410, 504), e


def dynamically(api):
    with tempfile.TemporaryDirectory() as cache:
        kinds = dynamic.DynamicClient(api, cache_file=os.path.join(cache, "discovery"))
        definitions = kinds.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
        definitions.create(body=WIDGETS)
        deadline = time.time() + 20
        while True:
            conditions = {c.type: c.status for c in definitions.get(name=WIDGETS["metadata"]["name"]).status.conditions or []}
            if conditions.get("Established") == "True":
                break
            assert time.time() < deadline, conditions
            time.sleep(0.05)
        while True:
            kinds.resources.invalidate_cache()
            try:
                widgets = kinds.resources.get(api_version="python.example.com/v1", kind="Widget")
                widgets.get(namespace=NAMESPACE)
                break
            except (dynamic.exceptions.ResourceNotFoundError, NotFoundError):
                assert time.time() < deadline
                time.sleep(0.05)
        for api_version, kind, more in (
            ("v1", "ConfigMap", {"data": {"a": "1"}}),
            ("v1", "Pod", {"spec": {"containers": [{"name": "c", "image": "i"}]}}),
            ("storage.k8s.io/v1", "StorageClass", {"provisioner": "example.com/p"}),
            ("policy/v1", "PodDisruptionBudget", {"spec": {"minAvailable": "50%", "selector": {}}}),
            ("python.example.com/v1", "Widget", {"spec": {}}),
        ):
            resource = kinds.resources.get(api_version=api_version, kind=kind)
            where = {"namespace": NAMESPACE} if resource.namespaced else {}
            body = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "dynamic", "labels": {"d": "1"}}, **more}
            made = resource.create(body=body, **where)
            watching = resource.watch(timeout=20, label_selector="d=1", resource_version=made.metadata.resourceVersion, **where)
            try:
                resource.create(body=body, **where)
                raise AssertionError("made twice")
            except ConflictError:
                pass
            patch = {"metadata": {"annotations": {"p": "1"}}}
            merged = resource.patch(name="dynamic", body=patch, content_type="application/merge-patch+json", **where)
            assert merged.metadata.annotations.p == "1"
            current = resource.get(name="dynamic", **where).to_dict()
            current["metadata"]["annotations"]["p"] = "2"
            replaced = resource.replace(body=current, **where)
            body["metadata"]["annotations"] = {"s": "1"}
            applied = resource.server_side_apply(body=body, name="dynamic", field_manager="python", force_conflicts=True, **where)
            assert {m.manager for m in applied.metadata.managedFields} >= {"python"}, applied
            events = [(event["type"], event["object"].metadata.resourceVersion) for _, event in zip(range(3), watching)]
            assert events == [("MODIFIED", o.metadata.resourceVersion) for o in (merged, replaced, applied)], events
            assert [o.metadata.name for o in resource.get(label_selector="d=1", **where).items] == ["dynamic"]
            resource.delete(name="dynamic", **where)
            try:
                resource.get(name="dynamic", **where)
                raise AssertionError(f"{kind} is not gone")
            except NotFoundError:
                pass


def main():
    config.load_kube_config(sys.argv[1])
    api = client.ApiClient()
    core = client.CoreV1Api(api)
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    core.create_namespaced_service_account(NAMESPACE, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="default")))
    for part in (from_yaml, typed, watches, dynamically):
        started = time.time()
        part(api)
        print(f"{part.__name__}: {int((time.time() - started) * 1000)} ms", flush=True)


main()
