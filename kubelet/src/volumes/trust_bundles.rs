//! The trust anchors of ClusterTrustBundles, for projected volumes.
//!
//! Upstream: pkg/kubelet/clustertrustbundle.

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use kube::api::ListParams;
use kube::{Api, Client};

/// The anchors that a projection names, by bundle or by signer, each once.
pub async fn anchors(client: &Client, source: &ClusterTrustBundleProjection) -> Result<String, String> {
    let bundles: Api<ClusterTrustBundle> = Api::all(client.clone());
    let optional = source.optional == Some(true);
    if let Some(name) = &source.name {
        return match bundles.get(name).await {
            Ok(bundle) => normalized([&bundle]),
            Err(error) if client::answer::is_not_found(&error) && optional => Ok(String::new()),
            Err(error) => Err(format!("while getting ClusterTrustBundle: {}", super::message(&error))),
        };
    }
    let Some(signer) = &source.signer_name else {
        return Err("ClusterTrustBundle projection requires either name or signerName to be set".to_owned());
    };
    // A selector that is absent selects nothing, one that is empty selects everything.
    let selected = match &source.label_selector {
        None => Vec::new(),
        Some(selector) => {
            let labels =
                kube::core::Selector::try_from(selector.clone()).map_err(|error| format!("while parsing label selector: {error}"))?;
            let parameters = ListParams::default().fields(&format!("spec.signerName={signer}")).labels_from(&labels);
            bundles.list(&parameters).await.map_err(|error| format!("while listing ClusterTrustBundles: {}", super::message(&error)))?.items
        }
    };
    if selected.is_empty() {
        return if optional {
            Ok(String::new())
        } else {
            Err("combination of signerName and labelSelector matched zero ClusterTrustBundles".to_owned())
        };
    }
    normalized(&selected)
}

fn normalized<'a>(bundles: impl IntoIterator<Item = &'a ClusterTrustBundle>) -> Result<String, String> {
    let mut blocks = BTreeSet::new();
    for bundle in bundles {
        blocks.extend(certificates(&bundle.spec.trust_bundle));
    }
    if blocks.is_empty() {
        return Err("no trust anchors in the ClusterTrustBundles".to_owned());
    }
    Ok(blocks.into_iter().collect())
}

/// The certificates of a PEM text, without what stands between them.
pub fn certificates(text: &str) -> Vec<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let Some((body, tail)) = after.split_once(END) else { break };
        let lines: Vec<&str> = body.split_whitespace().filter(|line| !line.contains(':')).collect();
        out.push(format!("{BEGIN}\n{}\n{END}\n", lines.join("\n")));
        rest = tail;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_told_once_and_without_remarks() {
        let one = "-----BEGIN CERTIFICATE-----\nAAAA\nBBBB\n-----END CERTIFICATE-----\n";
        let text = format!("# remark\n{one}other\n{one}");
        assert_eq!(certificates(&text), [one, one]);
        let mut bundle = ClusterTrustBundle::default();
        bundle.spec.trust_bundle = text;
        assert_eq!(normalized([&bundle]).as_deref(), Ok(one));
    }
}
