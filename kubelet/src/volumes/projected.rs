//! The files of a projected volume: those of all its sources, later ones over earlier ones.
//!
//! Upstream: pkg/volume/projected/projected.go.

use k8s_openapi::api::core::v1::{Pod, ProjectedVolumeSource, VolumeProjection};
use k8s_openapi::jiff::Timestamp;

use client::Object;

use super::ownership::common_user;
use super::payload::{self, Defaults, File, Payload};
use super::{ObjectError, Shared, pod_certificates, trust_bundles};

/// Collects the files; every source that fails is told.
pub async fn collect(shared: &Shared, pod: &Pod, volume: &str, source: &ProjectedVolumeSource, now: Timestamp) -> Result<Payload, String> {
    let defaults = Defaults::new(source.default_mode, source.default_user);
    let (mut files, mut errors) = (Payload::new(), Vec::new());
    for (index, projection) in source.sources.iter().flatten().enumerate() {
        match of_source(shared, pod, volume, index, projection, defaults, now).await {
            Ok(more) => files.extend(more),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(files) } else { Err(payload::aggregate(errors)) }
}

async fn of_source(
    shared: &Shared,
    pod: &Pod,
    volume: &str,
    index: usize,
    projection: &VolumeProjection,
    defaults: Defaults,
    now: Timestamp,
) -> Result<Payload, String> {
    let namespace = pod.namespace();
    if let Some(source) = &projection.secret {
        let optional = source.optional == Some(true);
        let object = or_absent(shared.secrets.get(namespace, &source.name).await, optional)?;
        return payload::of_secret(object.as_deref(), source.items.as_deref().unwrap_or(&[]), optional, defaults);
    }
    if let Some(source) = &projection.config_map {
        let optional = source.optional == Some(true);
        let object = or_absent(shared.config_maps.get(namespace, &source.name).await, optional)?;
        return payload::of_config_map(object.as_deref(), source.items.as_deref().unwrap_or(&[]), optional, defaults);
    }
    if let Some(source) = &projection.downward_api {
        let allocatable = shared.allocatable.read().clone();
        return payload::of_downward_api(pod, source.items.as_deref().unwrap_or(&[]), &allocatable, defaults);
    }
    if let Some(source) = &projection.service_account_token {
        let audience = source.audience.as_deref().unwrap_or("");
        let token = shared.tokens.get(pod, audience, source.expiration_seconds, now).await?;
        return Ok(Payload::from([(source.path.clone(), private(pod, defaults, source.user, token.into_bytes()))]));
    }
    if let Some(source) = &projection.cluster_trust_bundle {
        let anchors = trust_bundles::anchors(&shared.config.client, source).await?;
        return Ok(Payload::from([(source.path.clone(), private(pod, defaults, source.user, anchors.into_bytes()))]));
    }
    if let Some(source) = &projection.pod_certificate {
        let credentials = shared.certificates.get(pod, volume, index, source, now).await?;
        let files = pod_certificates::files(source, &credentials).into_iter();
        return Ok(files.map(|(path, data)| (path, private(pod, defaults, source.user, data.into_bytes()))).collect());
    }
    Ok(Payload::new())
}

/// What nobody but the pod's user reads, if it has one. With a group for its volumes, that group reads it too.
fn private(pod: &Pod, defaults: Defaults, user: Option<i64>, data: Vec<u8>) -> File {
    let user = user.or(defaults.user).or_else(|| common_user(pod));
    let has_group = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).is_some_and(|context| context.fs_group.is_some());
    let mode = (user.is_some() || has_group).then_some(0o600);
    defaults.file(data, mode, user)
}

/// Nothing if the object is not there and need not be.
pub fn or_absent<T>(object: Result<T, ObjectError>, optional: bool) -> Result<Option<T>, String> {
    match object {
        Ok(object) => Ok(Some(object)),
        Err(ObjectError::NotFound(_)) if optional => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_are_for_the_pods_user_and_group() {
        let file = |spec: serde_json::Value| {
            let pod = serde_json::from_value(json!({ "spec": spec })).expect("it is a pod");
            let file = private(&pod, Defaults::new(None, None), None, Vec::new());
            (file.mode, file.owner)
        };
        assert_eq!(file(json!({"containers": [{"name": "a"}]})), (0o644, None));
        assert_eq!(file(json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "a"}]})), (0o600, Some(7)));
        assert_eq!(file(json!({"securityContext": {"fsGroup": 8}, "containers": [{"name": "a"}]})), (0o600, None));
    }
}
