//! Holding one write against the quotas of its namespace. Pure: what the quotas would say afterwards, or why not.

use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::limited::Limited;
use super::usage::{Counted, Scope};
use crate::admission::amounts::{self, Amounts, add, minus_to_zero, only, print};
use crate::admission::{Attributes, Operation};
use crate::registry::read::{at, list_at, str_at};

/// A quota as it was read, and what is used of it.
#[derive(Clone, Debug)]
pub struct Quota {
    pub name: String,
    hard: Amounts,
    pub used: Amounts,
    scopes: Vec<Scope>,
    object: Value,
}

impl Quota {
    pub fn read(object: Value) -> Quota {
        let plain = list_at(&object, "/spec/scopes").iter().filter_map(Value::as_str);
        let mut scopes: Vec<Scope> =
            plain.map(|name| Scope { name: name.to_owned(), operator: "Exists".to_owned(), values: Vec::new() }).collect();
        scopes.extend(list_at(&object, "/spec/scopeSelector/matchExpressions").iter().map(|e| Scope {
            name: str_at(e, "/scopeName").to_owned(),
            operator: str_at(e, "/operator").to_owned(),
            values: list_at(e, "/values").iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
        }));
        Quota {
            name: str_at(&object, "/metadata/name").to_owned(),
            hard: amounts::read(object.pointer("/status/hard")),
            used: amounts::read(object.pointer("/status/used")),
            scopes,
            object,
        }
    }

    /// The object with what is used of it now.
    pub fn to_object(&self) -> Value {
        let mut object = self.object.clone();
        if let Some(map) = object.as_object_mut() {
            let mut status = map.get("status").cloned().unwrap_or_else(|| json!({}));
            status["used"] = amounts::write(&self.used);
            map.insert("status".to_owned(), status);
        }
        object
    }

    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// The names of what it limits and this sort of objects counts for.
    fn limited_by(&self, counted: &Counted) -> Vec<&str> {
        self.hard.keys().map(String::as_str).filter(|name| counted.counts_for(name)).collect()
    }

    fn applies_to(&self, counted: &Counted, object: &Value) -> bool {
        !self.limited_by(counted).is_empty() && self.scopes.iter().all(|scope| counted.is_in_scope(scope, object))
    }
}

/// A write that asks for its share.
#[derive(Clone, Debug)]
pub struct Claim {
    counted: Counted,
    new: Value,
    old: Option<Value>,
    now: Timestamp,
    /// Whether this is a status update, which is counted but never refused.
    is_status: bool,
    pub dry_run: bool,
    /// The Status of a refusal, but for its reason.
    group: String,
    plural: String,
    name: String,
}

impl Claim {
    /// The claim of a write; `None` if it changes nothing that is counted.
    pub fn of(attributes: &Attributes<'_>, new: &Value, old: Option<&Value>) -> Option<Claim> {
        let counted = Counted::of(attributes.group(), attributes.plural())?;
        if !counted.handles(attributes, new, old) {
            return None;
        }
        let name = [attributes.name, str_at(new, "/metadata/name"), str_at(new, "/metadata/generateName"), "Unknown"];
        Some(Claim {
            counted,
            new: new.clone(),
            old: old.filter(|_| attributes.operation == Operation::Update).cloned(),
            now: attributes.now,
            is_status: attributes.subresource == "status",
            dry_run: attributes.dry_run,
            group: attributes.group().to_owned(),
            plural: attributes.plural().to_owned(),
            name: name.into_iter().find(|n| !n.is_empty()).unwrap_or_default().to_owned(),
        })
    }

    fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(&self.group, &self.plural, &self.name, why)
    }

    /// The quotas that apply; they must have been counted, and the object must state what they count.
    fn applying<'q>(&self, quotas: &'q [Quota]) -> Result<Vec<(usize, &'q Quota)>, Status> {
        let mut applying = Vec::new();
        for (i, quota) in quotas.iter().enumerate().filter(|(_, q)| q.applies_to(&self.counted, &self.new)) {
            let limited = quota.limited_by(&self.counted);
            let stated = self.counted.check_stated(&limited, &self.new);
            stated.map_err(|why| self.forbidden(&format!("failed quota: {}: {why}", quota.name)))?;
            if limited.iter().any(|name| !quota.used.contains_key(*name)) {
                let why = format!("status unknown for quota: {}, resources: {}", quota.name, limited.join(","));
                return Err(self.forbidden(&why));
            }
            applying.push((i, quota));
        }
        Ok(applying)
    }

    /// Whether quotas cover all that the configuration wants covered of what is used now and was not before.
    fn check_covered(&self, quotas: &[Quota], applying: &[(usize, &Quota)], limited: &Limited, usage: &Amounts) -> Result<(), Status> {
        if limited.is_empty() {
            return Ok(());
        }
        let whole = || usage.values().any(|amount| !amount.is_zero());
        let growth = || match &self.old {
            Some(old) => minus_to_zero(usage, &self.counted.usage(old, self.now)).values().any(|amount| !amount.is_zero()),
            None => whole(),
        };
        // Whoever comes into a quota's scope brings all that it uses.
        let was_in = |quota: &Quota| self.old.as_ref().is_some_and(|old| quota.applies_to(&self.counted, old));
        let grows = match applying {
            [] => growth(),
            applying => applying.iter().any(|(_, quota)| if was_in(quota) { growth() } else { whole() }),
        };
        if !grows {
            return Ok(());
        }
        let needed = limited.needed(&self.group, &self.plural, &self.counted, &self.new, usage);
        let by_quotas: Vec<&str> = applying.iter().flat_map(|(_, quota)| quota.limited_by(&self.counted)).collect();
        let names = needed.uncovered_names(&by_quotas);
        if !names.is_empty() {
            return Err(self.forbidden(&format!("insufficient quota to consume: {}", names.join(","))));
        }
        match needed.uncovered_scopes(quotas, &self.counted, &self.new) {
            Some(scopes) => Err(Status::unknown(format!("insufficient quota to match these scopes: {scopes}"))),
            None => Ok(()),
        }
    }

    /// What would be used of each quota that the write changes, by its place in the list; or why the write is refused.
    pub fn charge(&self, quotas: &[Quota], limited: &Limited) -> Result<Vec<(usize, Amounts)>, Status> {
        let applying = self.applying(quotas)?;
        let usage = self.counted.usage(&self.new, self.now);
        let negative: Vec<&str> = usage.iter().filter(|(_, amount)| amount.sign() < 0).map(|(name, _)| name.as_str()).collect();
        if !negative.is_empty() {
            return Err(self.forbidden(&format!("quota usage is negative for resource(s): {}", negative.join(","))));
        }
        self.check_covered(quotas, &applying, limited, &usage)?;
        let growth = self.old.as_ref().map(|old| minus_to_zero(&usage, &self.counted.usage(old, self.now)));
        let mut changed = Vec::new();
        for (i, quota) in applying {
            // Whoever comes into a quota's scope brings all that it uses.
            let was_in = self.old.as_ref().is_some_and(|old| quota.applies_to(&self.counted, old));
            let delta = growth.as_ref().filter(|_| was_in).unwrap_or(&usage);
            let requested: Amounts = delta
                .iter()
                .filter(|(name, amount)| !amount.is_zero() && quota.hard.contains_key(*name))
                .map(|(n, a)| (n.clone(), a.clone()))
                .collect();
            let mut used = quota.used.clone();
            add(&mut used, &requested);
            if !self.is_status {
                self.check_within(quota, &requested, &used)?;
            }
            if used != quota.used {
                changed.push((i, used));
            }
        }
        Ok(changed)
    }

    fn check_within(&self, quota: &Quota, requested: &Amounts, used: &Amounts) -> Result<(), Status> {
        let exceeds = |name: &str| match (used.get(name), quota.hard.get(name)) {
            (Some(used), Some(hard)) => used > hard,
            _ => false,
        };
        let exceeded = only(requested, exceeds);
        if exceeded.is_empty() {
            return Ok(());
        }
        let of = |amounts: &Amounts| print(&only(amounts, |name| exceeded.contains_key(name)));
        Err(self.forbidden(&format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            quota.name,
            print(&exceeded),
            of(&quota.used),
            of(&quota.hard)
        )))
    }
}

/// Whether the quota's object has a status to count against; until a controller has counted, it limits nothing.
pub fn is_counted(object: &Value) -> bool {
    at(object, "/status/hard").as_object().is_some_and(|hard| !hard.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::Write;
    use super::*;

    fn quota(hard: Value, used: Value, scopes: Value) -> Quota {
        Quota::read(json!({ "metadata": { "name": "q" }, "spec": { "scopes": scopes }, "status": { "hard": hard, "used": used } }))
    }

    fn pod(cpu: &str) -> Value {
        json!({ "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] } })
    }

    fn charge(quota: &Quota, operation: Operation, subresource: &'static str, new: &Value, old: Option<&Value>) -> Result<String, String> {
        let write = Write::new(operation, "", "v1", "pods").to(subresource);
        let claim = Claim::of(&write.attributes(), new, old).unwrap();
        let changed = claim.charge(std::slice::from_ref(quota), &Limited::default()).map_err(|s| s.message)?;
        Ok(changed.iter().map(|(_, used)| print(used)).collect())
    }

    #[test]
    fn what_fits_is_added_and_what_does_not_is_refused() {
        let quota = quota(json!({ "cpu": "4", "pods": "2" }), json!({ "cpu": "3", "pods": "1" }), json!([]));
        assert_eq!(charge(&quota, Operation::Create, "", &pod("1"), None).unwrap(), "cpu=4,pods=2");
        assert_eq!(
            charge(&quota, Operation::Create, "", &pod("1500m"), None).unwrap_err(),
            "pods \"x\" is forbidden: exceeded quota: q, requested: cpu=1500m, used: cpu=3, limited: cpu=4"
        );
        let silent = json!({ "spec": { "containers": [{ "name": "c" }] } });
        assert_eq!(
            charge(&quota, Operation::Create, "", &silent, None).unwrap_err(),
            "pods \"x\" is forbidden: failed quota: q: must specify cpu for: c"
        );
    }

    #[test]
    fn an_update_is_charged_for_its_growth() {
        let quota = quota(json!({ "cpu": "4" }), json!({ "cpu": "3" }), json!([]));
        assert_eq!(charge(&quota, Operation::Update, "resize", &pod("2"), Some(&pod("1"))).unwrap(), "cpu=4");
        assert_eq!(charge(&quota, Operation::Update, "resize", &pod("1"), Some(&pod("2"))).unwrap(), "");
        assert!(charge(&quota, Operation::Update, "resize", &pod("3"), Some(&pod("1"))).is_err());
    }

    #[test]
    fn who_comes_into_scope_is_charged_for_all() {
        let quota = quota(json!({ "pods": "1" }), json!({ "pods": "0" }), json!(["Terminating"]));
        let mut ending = pod("1");
        assert_eq!(charge(&quota, Operation::Create, "", &ending, None).unwrap(), "");
        ending["spec"]["activeDeadlineSeconds"] = json!(1);
        assert_eq!(charge(&quota, Operation::Update, "", &ending, Some(&pod("1"))).unwrap(), "pods=1");
    }

    #[test]
    fn nothing_is_admitted_before_it_is_known_what_is_used() {
        let quota = quota(json!({ "pods": "1", "count/pods": "1" }), json!({}), json!([]));
        assert_eq!(
            charge(&quota, Operation::Create, "", &pod("1"), None).unwrap_err(),
            "pods \"x\" is forbidden: status unknown for quota: q, resources: count/pods,pods"
        );
    }

    #[test]
    fn what_is_limited_needs_a_quota_that_covers_it() {
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: ResourceQuotaConfiguration\nlimitedResources: [{resource: pods, matchContains: [cpu], matchScopes: [{scopeName: PriorityClass, operator: In, values: [high]}]}]";
        let limited = Limited::read(Some(text.as_bytes())).unwrap();
        let charge = |quotas: &[Quota], operation, new: &Value, old: Option<&Value>| {
            let write = Write::new(operation, "", "v1", "pods").to(if operation == Operation::Update { "resize" } else { "" });
            Claim::of(&write.attributes(), new, old).unwrap().charge(quotas, &limited).map_err(|status| status.message).map(drop)
        };
        let mut high = pod("1");
        high["spec"]["priorityClassName"] = json!("high");
        let uncovered = "pods \"x\" is forbidden: insufficient quota to consume: cpu,requests.cpu";
        assert_eq!(charge(&[], Operation::Create, &pod("1"), None).unwrap_err(), uncovered);
        assert_eq!(charge(&[], Operation::Update, &pod("2"), Some(&pod("1"))).unwrap_err(), uncovered);
        assert_eq!(charge(&[], Operation::Update, &pod("1"), Some(&pod("1"))), Ok(()), "nothing more is used");
        assert_eq!(charge(&[], Operation::Create, &json!({ "spec": { "containers": [{ "name": "c" }] } }), None), Ok(()));
        let covering = || quota(json!({ "cpu": "4", "requests.cpu": "4" }), json!({ "cpu": "0", "requests.cpu": "0" }), json!([]));
        assert_eq!(charge(&[covering()], Operation::Create, &pod("1"), None), Ok(()));
        assert_eq!(
            charge(&[covering()], Operation::Create, &high, None).unwrap_err(),
            "insufficient quota to match these scopes: [{PriorityClass In [high]}]"
        );
        let of_class = quota(json!({ "pods": "4" }), json!({ "pods": "0" }), json!(["PriorityClass"]));
        assert_eq!(charge(&[covering(), of_class], Operation::Create, &high, None), Ok(()));
        let uncounted = Quota::read(json!({ "metadata": { "name": "new" }, "spec": { "scopes": ["PriorityClass"] } }));
        assert_eq!(charge(&[covering(), uncounted], Operation::Create, &high, None), Ok(()), "a scope covers before it is counted");
        let services = Write::new(Operation::Create, "", "v1", "services");
        assert!(Claim::of(&services.attributes(), &json!({}), None).unwrap().charge(&[], &limited).is_ok());
    }
}
