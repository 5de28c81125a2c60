//! Files that volumes make from API objects, and where two of them want the same place.

use apimachinery::field::quote;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume, VolumeProjection};

use super::access::{items, text};

/// A file and, in projected volumes, what it comes from.
#[derive(Clone, PartialEq)]
struct File {
    path: String,
    source: String,
}

impl File {
    fn new(path: &str, source: &str) -> File {
        File { path: path.trim_end_matches('/').to_owned(), source: source.to_owned() }
    }

    fn shown(&self) -> String {
        match self.source.as_str() {
            "" => quote(&self.path),
            source => format!("{} ({source})", quote(&self.path)),
        }
    }

    /// The same place, or one within the other.
    fn overlaps(&self, other: &File) -> bool {
        let within = |outer: &str, inner: &str| format!("{inner}/").starts_with(&format!("{outer}/"));
        !self.path.is_empty() && !other.path.is_empty() && (within(&self.path, &other.path) || within(&other.path, &self.path))
    }
}

/// A warning for every two files of a volume that overlap.
pub(super) fn overlaps(volumes: &[Volume]) -> Vec<String> {
    let mut all = Vec::new();
    for volume in volumes {
        let mut warn = |kind: &str, files: Vec<File>| {
            let mut seen: Vec<File> = Vec::new();
            for file in files {
                for other in seen.iter().filter(|other| file.overlaps(other)) {
                    let (name, file, other) = (quote(&volume.name), file.shown(), other.shown());
                    all.push(format!("volume {name} ({kind}): overlapping paths: {file} with {other}"));
                }
                seen.push(file);
            }
        };
        if let Some(source) = &volume.config_map {
            warn(&format!("ConfigMap {}", quote(&source.name)), of_keys(items(&source.items), ""));
        }
        if let Some(source) = &volume.secret {
            warn(&format!("Secret {}", quote(text(&source.secret_name))), of_keys(items(&source.items), ""));
        }
        if let Some(source) = &volume.downward_api {
            warn("DownwardAPI", of_fields(items(&source.items), ""));
        }
        if let Some(source) = &volume.projected {
            let sources = items(&source.sources);
            let files = sources.iter().flat_map(of_projection).collect();
            warn("Projected", files);
            let empty = sources.iter().filter(|source| **source == VolumeProjection::default()).count();
            all.extend((0..empty).map(|_| format!("volume {} (Projected) has no sources provided", quote(&volume.name))));
        }
    }
    all
}

fn of_keys(keys: &[KeyToPath], source: &str) -> Vec<File> {
    keys.iter().map(|key| File::new(&key.path, source)).collect()
}

fn of_fields(files: &[DownwardAPIVolumeFile], source: &str) -> Vec<File> {
    files.iter().map(|file| File::new(&file.path, source)).collect()
}

fn of_projection(projection: &VolumeProjection) -> Vec<File> {
    if let Some(source) = projection.config_map.as_ref().filter(|s| s.items.is_some()) {
        return of_keys(items(&source.items), &format!("ConfigMap {}", quote(&source.name)));
    }
    if let Some(source) = projection.secret.as_ref().filter(|s| s.items.is_some()) {
        return of_keys(items(&source.items), &format!("Secret {}", quote(&source.name)));
    }
    if let Some(source) = projection.downward_api.as_ref().filter(|s| s.items.is_some()) {
        return of_fields(items(&source.items), "DownwardAPI");
    }
    if let Some(token) = &projection.service_account_token {
        return vec![File::new(&token.path, "ServiceAccountToken")];
    }
    if let Some(bundle) = &projection.cluster_trust_bundle {
        let name = bundle.name.as_deref().or(bundle.signer_name.as_deref()).unwrap_or_default();
        return vec![File::new(&bundle.path, &format!("ClusterTrustBundle {}", quote(name)))];
    }
    let Some(certificate) = &projection.pod_certificate else { return Vec::new() };
    let files = [
        (&certificate.certificate_chain_path, "PodCertificate chain"),
        (&certificate.key_path, "PodCertificate key"),
        (&certificate.credential_bundle_path, "PodCertificate credential bundle"),
    ];
    files.iter().filter(|(path, _)| !text(path).is_empty()).map(|(path, source)| File::new(text(path), source)).collect()
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn overlapping_files_are_named_with_their_sources() {
        let check = |volume: Value| overlaps(&[view(&volume)]);
        let twice = json!([{"key": "a", "path": "p"}, {"key": "b", "path": "p"}]);
        assert_eq!(
            check(json!({"name": "v", "configMap": {"name": "x", "items": twice}})),
            ["volume \"v\" (ConfigMap \"x\"): overlapping paths: \"p\" with \"p\""]
        );
        let sources = json!([
            {"serviceAccountToken": {"path": "dir/token"}},
            {"secret": {"name": "s", "items": [{"key": "k", "path": "dir"}]}},
        ]);
        assert_eq!(
            check(json!({"name": "v", "projected": {"sources": sources}})),
            ["volume \"v\" (Projected): overlapping paths: \"dir\" (Secret \"s\") with \"dir/token\" (ServiceAccountToken)"]
        );
        assert!(check(json!({"name": "v", "secret": {"items": [{"key": "a", "path": "p"}, {"key": "b", "path": "pq"}]}})).is_empty());
    }
}
