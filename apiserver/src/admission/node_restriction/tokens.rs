//! Tokens: a kubelet asks for tokens of the accounts of its pods, for the audiences that the pods ask for.

use apimachinery::field::quote;
use apimachinery::status::Status;
use serde_json::Value;

use super::Write;
use crate::admission::Operation;
use crate::filters::authorization::Decision;
use crate::filters::request_info::RequestInfo;
use crate::registry::read::{at, list_at, str_at};

pub(super) fn check(write: &Write<'_>) -> Result<(), Status> {
    if write.attributes.operation != Operation::Create || write.attributes.subresource != "token" {
        return Ok(());
    }
    let reference = at(write.new(), "/spec/boundObjectRef");
    let (name, uid) = (str_at(reference, "/name"), str_at(reference, "/uid"));
    if (str_at(reference, "/apiVersion"), str_at(reference, "/kind")) != ("v1", "Pod") || name.is_empty() {
        return write.refuse("node requested token not bound to a pod");
    }
    if uid.is_empty() {
        return write.refuse("node requested token with a pod binding without a uid");
    }
    let pod = write.find("pods", write.attributes.namespace, name)?;
    if str_at(&pod, "/metadata/uid") != uid {
        return write.refuse(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        ));
    }
    if str_at(&pod, "/spec/nodeName") != write.node {
        return write.refuse("node requested token bound to a pod scheduled on a different node");
    }
    check_audience(write, &pod).or_else(|why| write.refuse(why))
}

/// The audience must be one that a volume of the pod needs a token for, or that the node has been allowed to ask for.
fn check_audience(write: &Write<'_>, pod: &Value) -> Result<(), String> {
    let audience = match list_at(write.new(), "/spec/audiences") {
        [] => "",
        [one] => one.as_str().unwrap_or(""),
        _ => return Err("node may only request 0 or 1 audiences".to_owned()),
    };
    if asks_for(write, pod, audience).map_err(|why| format!("error validating audience {}: {why}", quote(audience)))? {
        return Ok(());
    }
    if may(write, "request-serviceaccounts-token-audience", audience, write.attributes.name) {
        return Ok(());
    }
    Err(format!("{} is not authorized to request tokens for audience {}", write.attributes.user.name, quote(audience)))
}

/// Whether the kubelet's user has a verb of the requested resource's group on a made-up resource.
pub(super) fn may(write: &Write<'_>, verb: &str, resource: &str, name: &str) -> bool {
    let request = RequestInfo {
        is_resource: true,
        verb: verb.to_owned(),
        group: write.attributes.group().to_owned(),
        version: write.attributes.resource.gvk.version.to_string(),
        resource: resource.to_owned(),
        namespace: write.attributes.namespace.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    };
    matches!(write.lookup.authorize(write.attributes.user, &request), Decision::Allow(_))
}

/// The CSI drivers that took over from volume plugins of old.
const MIGRATED: [(&str, &str); 7] = [
    ("awsElasticBlockStore", "ebs.csi.aws.com"),
    ("gcePersistentDisk", "pd.csi.storage.gke.io"),
    ("cinder", "cinder.csi.openstack.org"),
    ("azureDisk", "disk.csi.azure.com"),
    ("azureFile", "file.csi.azure.com"),
    ("vsphereVolume", "csi.vsphere.vmware.com"),
    ("portworxVolume", "pxd.portworx.com"),
];

fn migrated(source: &Value) -> Option<&'static str> {
    MIGRATED.iter().find(|(field, _)| source.get(field).is_some_and(|s| !s.is_null())).map(|(_, driver)| *driver)
}

/// Whether a volume of the pod needs a token for the audience, itself or by its driver.
fn asks_for(write: &Write<'_>, pod: &Value, audience: &str) -> Result<bool, String> {
    let mut problems = Vec::new();
    for volume in list_at(pod, "/spec/volumes") {
        let mut tokens = list_at(volume, "/projected/sources").iter().filter_map(|source| source.get("serviceAccountToken"));
        if tokens.any(|token| str_at(token, "/audience") == audience) {
            return Ok(true);
        }
        match driver_asks_for(write, pod, volume, audience) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(why) => problems.push(why),
        }
    }
    match problems.as_slice() {
        [] => Ok(false),
        [one] => Err(one.clone()),
        several => Err(format!("[{}]", several.join(", "))),
    }
}

fn driver_asks_for(write: &Write<'_>, pod: &Value, volume: &Value, audience: &str) -> Result<bool, String> {
    let namespace = str_at(pod, "/metadata/namespace");
    let claim = str_at(volume, "/persistentVolumeClaim/claimName");
    let driver = if volume.pointer("/ephemeral/volumeClaimTemplate").is_some() {
        let claim = format!("{}-{}", str_at(pod, "/metadata/name"), str_at(volume, "/name"));
        driver_of_claim(write, namespace, &claim)?
    } else if !claim.is_empty() {
        driver_of_claim(write, namespace, claim)?
    } else if volume.get("csi").is_some() {
        str_at(volume, "/csi/driver").to_owned()
    } else {
        migrated(volume).unwrap_or("").to_owned()
    };
    if driver.is_empty() {
        return Ok(false);
    }
    let object = write.lookup.get("storage.k8s.io", "csidrivers", "", &driver);
    let object = object.ok_or_else(|| format!("csidriver.storage.k8s.io {} not found", quote(&driver)))?;
    Ok(list_at(&object, "/spec/tokenRequests").iter().any(|request| str_at(request, "/audience") == audience))
}

/// The driver of the volume that a claim is bound to; "" if it has none.
fn driver_of_claim(write: &Write<'_>, namespace: &str, claim: &str) -> Result<String, String> {
    let claim = write.find("persistentvolumeclaims", namespace, claim).map_err(|s| s.message)?;
    let volume = write.find("persistentvolumes", "", str_at(&claim, "/spec/volumeName")).map_err(|s| s.message)?;
    let own = str_at(&volume, "/spec/csi/driver");
    Ok(if own.is_empty() { migrated(at(&volume, "/spec")).unwrap_or("") } else { own }.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::NodeRestriction;
    use super::super::tests::by_node;
    use super::*;
    use crate::admission::testing::Objects;

    fn ask(pod_spec: Value, audiences: &[&str], allowed: Vec<&'static str>) -> Result<(), String> {
        let pod = json!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u" }, "spec": pod_spec });
        let driver = json!({ "metadata": { "name": "d" }, "spec": { "tokenRequests": [{ "audience": "vault" }] } });
        let mut objects = Objects::of(vec![("", "pods", pod), ("storage.k8s.io", "csidrivers", driver)]);
        objects.allowed = allowed;
        let reference = json!({ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u" });
        let mut request = json!({ "spec": { "boundObjectRef": reference, "audiences": audiences } });
        let write = by_node(Operation::Create, "", "v1", "serviceaccounts").to("token");
        write.admit(&NodeRestriction, &objects, &mut request).map_err(|e| e.replace("serviceaccounts \"x\" is forbidden: ", ""))
    }

    #[test]
    fn tokens_are_for_pods_of_the_node_and_their_audiences() {
        let token = |audience: &str| json!({ "projected": { "sources": [{ "serviceAccountToken": { "audience": audience } }] } });
        let spec = json!({ "nodeName": "n", "volumes": [token(""), { "csi": { "driver": "d" } }] });
        assert_eq!(ask(spec.clone(), &[], vec![]), Ok(()));
        assert_eq!(ask(spec.clone(), &["vault"], vec![]), Ok(()));
        assert_eq!(ask(spec.clone(), &["x"], vec![]).unwrap_err(), "system:node:n is not authorized to request tokens for audience \"x\"");
        assert_eq!(ask(spec.clone(), &["x"], vec!["request-serviceaccounts-token-audience /x x"]), Ok(()));
        assert_eq!(ask(spec, &["x", "y"], vec![]).unwrap_err(), "node may only request 0 or 1 audiences");
        assert_eq!(
            ask(json!({ "nodeName": "m" }), &[], vec![]).unwrap_err(),
            "node requested token bound to a pod scheduled on a different node"
        );
    }

    #[test]
    fn tokens_are_bound_to_pods() {
        let write = by_node(Operation::Create, "", "v1", "serviceaccounts").to("token");
        let refused = write.admit(&NodeRestriction, &Objects::default(), &mut json!({ "spec": {} })).unwrap_err();
        assert!(refused.ends_with("node requested token not bound to a pod"));
    }
}
