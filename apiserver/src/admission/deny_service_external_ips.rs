//! DenyServiceExternalIPs: services take no external addresses beyond those that they have.

use apimachinery::status::Status;
use serde_json::Value;

use super::{Attributes, Lookup, Plugin};
use crate::registry::read::list_at;

/// The plugin.
pub struct DenyServiceExternalIps;

impl Plugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let Some(service) = new.filter(|_| attributes.operation.writes() && attributes.is_main("", "services")) else { return Ok(()) };
        let known = old.map_or(&[][..], |old| list_at(old, "/spec/externalIPs"));
        if list_at(service, "/spec/externalIPs").iter().all(|ip| known.contains(ip)) {
            return Ok(());
        }
        Err(attributes.forbidden(new, "Use of external IPs is denied by admission control"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Operation;
    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn addresses_may_only_become_fewer() {
        let service = |ips: &[&str]| json!({ "spec": { "externalIPs": ips } });
        let check = |new: &[&str], old: &[&str]| {
            let (new, old) = (service(new), service(old));
            Write::new(Operation::Update, "", "v1", "services")
                .validate(&DenyServiceExternalIps, &Objects::default(), Some(&new), Some(&old))
                .is_ok()
        };
        assert!(check(&["1.1.1.1"], &["1.1.1.1", "2.2.2.2"]));
        assert!(!check(&["3.3.3.3"], &["1.1.1.1"]));
    }
}
