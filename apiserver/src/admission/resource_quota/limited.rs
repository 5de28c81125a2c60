//! ResourceQuotaConfiguration: what nobody uses without a quota that covers it.

use apimachinery::field::{self, Error, ErrorList, Path};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::charge::Quota;
use super::usage::{Counted, Scope};
use crate::admission::amounts::Amounts;
use crate::config_file::{self, Strictness};

const KINDS: [(&str, &str); 3] = [
    ("apiserver.config.k8s.io/v1", "ResourceQuotaConfiguration"),
    ("resourcequota.admission.k8s.io/v1beta1", "Configuration"),
    ("resourcequota.admission.k8s.io/v1alpha1", "Configuration"),
];

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Configuration {
    limited_resources: Option<Vec<LimitedResource>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LimitedResource {
    api_group: String,
    resource: String,
    match_contains: Option<Vec<String>>,
    match_scopes: Option<Vec<MatchScope>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MatchScope {
    scope_name: String,
    operator: String,
    values: Option<Vec<String>>,
}

/// What is limited of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Limit {
    group: String,
    resource: String,
    contained: Vec<String>,
    scopes: Vec<Scope>,
}

/// All that is limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limited(Vec<Limit>);

/// What a write uses that needs a quota.
#[derive(Debug, Default)]
pub struct Needed<'a> {
    names: Vec<String>,
    scopes: Vec<&'a Scope>,
}

impl Limited {
    pub fn read(told: Option<&[u8]>) -> Result<Limited, String> {
        let Some(text) = told else { return Ok(Limited::default()) };
        let configuration: Configuration = config_file::decode_any(text, &KINDS, Strictness::Strict).map_err(|error| error.to_string())?;
        let limits = configuration.limited_resources.unwrap_or_default();
        let root = Path::new("limitedResources");
        let nameless = limits.iter().enumerate().filter(|(_, limit)| limit.resource.is_empty());
        let errors: ErrorList = nameless.map(|(at, _)| Error::required(&root.index(at).child("resource"), "")).collect();
        if !errors.is_empty() {
            return Err(field::aggregate(&errors));
        }
        let scope =
            |scope: MatchScope| Scope { name: scope.scope_name, operator: scope.operator, values: scope.values.unwrap_or_default() };
        let limit = |limit: LimitedResource| Limit {
            group: limit.api_group,
            resource: limit.resource,
            contained: limit.match_contains.unwrap_or_default(),
            scopes: limit.match_scopes.unwrap_or_default().into_iter().map(scope).collect(),
        };
        Ok(Limited(limits.into_iter().map(limit).collect()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What needs a quota of what an object uses and is. Scopes count whatever resource they are told of, as upstream has it.
    pub fn needed(&self, group: &str, plural: &str, counted: &Counted, object: &Value, usage: &Amounts) -> Needed<'_> {
        let is_limited = |name: &str| {
            let of_resource = |limit: &&Limit| limit.group == group && limit.resource == plural;
            self.0.iter().filter(of_resource).any(|limit| limit.contained.iter().any(|part| name.contains(part.as_str())))
        };
        Needed {
            names: usage.iter().filter(|(name, amount)| amount.sign() > 0 && is_limited(name)).map(|(name, _)| name.clone()).collect(),
            scopes: self.0.iter().flat_map(|limit| &limit.scopes).filter(|scope| counted.is_in_scope(scope, object)).collect(),
        }
    }
}

impl Needed<'_> {
    /// The names that no quota which applies limits.
    pub fn uncovered_names(&self, limited_by_quotas: &[&str]) -> Vec<&str> {
        self.names.iter().map(String::as_str).filter(|name| !limited_by_quotas.contains(name)).collect()
    }

    /// The scopes that no quota with such a scope covers, as Go prints them.
    pub fn uncovered_scopes(&self, quotas: &[Quota], counted: &Counted, object: &Value) -> Option<String> {
        let covers = |scope: &Scope, of_quota: &Scope| of_quota.name == scope.name && counted.is_in_scope(of_quota, object);
        let is_covered = |scope: &Scope| quotas.iter().any(|quota| quota.scopes().iter().any(|of_quota| covers(scope, of_quota)));
        let print = |scope: &&Scope| format!("{{{} {} [{}]}}", scope.name, scope.operator, scope.values.join(" "));
        let uncovered: Vec<String> = self.scopes.iter().copied().filter(|scope| !is_covered(scope)).map(|scope| print(&scope)).collect();
        (!uncovered.is_empty()).then(|| format!("[{}]", uncovered.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_has_three_names_and_is_checked() {
        let limits = "limitedResources: [{resource: pods, matchContains: [cpu], matchScopes: [{scopeName: PriorityClass, operator: In, values: [a]}]}]";
        for (version, kind) in KINDS {
            let read = Limited::read(Some(format!("apiVersion: {version}\nkind: {kind}\n{limits}").as_bytes())).unwrap();
            assert_eq!(
                (read.0[0].contained.as_slice(), read.0[0].scopes[0].values.as_slice()),
                (&["cpu".to_owned()][..], &["a".to_owned()][..])
            );
        }
        let refusal = |body: &str| {
            let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: ResourceQuotaConfiguration\n{body}");
            Limited::read(Some(text.as_bytes())).unwrap_err()
        };
        assert_eq!(refusal("limitedResources: [{}]"), "limitedResources[0].resource: Required value");
        assert_eq!(refusal("limited: []"), "strict decoding error: unknown field \"limited\"");
        assert!(Limited::read(None).unwrap().is_empty());
    }
}
