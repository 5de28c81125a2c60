//! How whole structures are shown in "Invalid value" errors: with the field names and nulls of upstream's internal types.
//!
//! Only the structures that some rule prints are here; nothing that is stored or served is made from them.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, ClusterTrustBundleProjection, NodeSelectorRequirement, NodeSelectorTerm, PodResourceClaim, SeccompProfile,
    SecurityContext,
};
use serde_json::{Value, json};

pub(super) fn security_context(sc: &SecurityContext) -> Value {
    json!({
        "Capabilities": sc.capabilities.as_ref().map(|c| json!({"Add": c.add, "Drop": c.drop})),
        "Privileged": sc.privileged,
        "SELinuxOptions": sc.se_linux_options.as_ref().map(|o| json!({
            "User": o.user.as_deref().unwrap_or(""),
            "Role": o.role.as_deref().unwrap_or(""),
            "Type": o.type_.as_deref().unwrap_or(""),
            "Level": o.level.as_deref().unwrap_or(""),
        })),
        "WindowsOptions": sc.windows_options.as_ref().map(|o| json!({
            "GMSACredentialSpecName": o.gmsa_credential_spec_name,
            "GMSACredentialSpec": o.gmsa_credential_spec,
            "RunAsUserName": o.run_as_user_name,
            "HostProcess": o.host_process,
        })),
        "RunAsUser": sc.run_as_user,
        "RunAsGroup": sc.run_as_group,
        "RunAsNonRoot": sc.run_as_non_root,
        "ReadOnlyRootFilesystem": sc.read_only_root_filesystem,
        "AllowPrivilegeEscalation": sc.allow_privilege_escalation,
        "ProcMount": sc.proc_mount,
        "SeccompProfile": sc.seccomp_profile.as_ref().map(seccomp_profile),
        "AppArmorProfile": sc.app_armor_profile.as_ref().map(app_armor_profile),
    })
}

pub(super) fn seccomp_profile(profile: &SeccompProfile) -> Value {
    json!({"Type": profile.type_, "LocalhostProfile": profile.localhost_profile})
}

fn app_armor_profile(profile: &AppArmorProfile) -> Value {
    json!({"Type": profile.type_, "LocalhostProfile": profile.localhost_profile})
}

pub(super) fn resource_claim(claim: &PodResourceClaim) -> Value {
    json!({
        "Name": claim.name,
        "ResourceClaimName": claim.resource_claim_name,
        "ResourceClaimTemplateName": claim.resource_claim_template_name,
    })
}

pub(super) fn cluster_trust_bundle(source: &ClusterTrustBundleProjection) -> Value {
    json!({
        "Name": source.name,
        "SignerName": source.signer_name,
        "LabelSelector": source.label_selector,
        "Optional": source.optional,
        "Path": source.path,
        "User": source.user,
    })
}

pub(super) fn node_selector_term(term: &NodeSelectorTerm) -> Value {
    json!({
        "MatchExpressions": term.match_expressions.as_ref().map(|list| requirements(list)),
        "MatchFields": term.match_fields.as_ref().map(|list| requirements(list)),
    })
}

fn requirements(list: &[NodeSelectorRequirement]) -> Value {
    list.iter().map(|r| json!({"Key": r.key, "Operator": r.operator, "Values": r.values})).collect()
}

/// `PodIP` and `HostIP` lists.
pub(super) fn ips<'a>(list: impl Iterator<Item = &'a str>) -> Value {
    let list: Vec<Value> = list.map(|ip| json!({"IP": ip})).collect();
    if list.is_empty() { Value::Null } else { Value::Array(list) }
}
