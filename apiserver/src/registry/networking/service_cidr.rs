//! ServiceCIDRs: the ranges that services get their addresses from.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{Cidr, FIELD_IMMUTABLE, is_valid_cidr, name_is_dns_subdomain};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::printer::{self, text};
use crate::registry::read::{at, list_at};
use crate::registry::strategy::{drop_field, keep_all_but_status, keep_metadata, keep_status};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: "networking.k8s.io",
    version: "v1",
    plural: "servicecidrs",
    singular: "servicecidr",
    kind: "ServiceCIDR",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.networking.v1.ServiceCIDR",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: "networking.k8s.io",
        version: "v1",
        kind: "ServiceCIDR",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["metadata", "spec"] },
    }],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const COLUMNS: &[Column] =
    &[printer::NAME, text("CIDRs", Description::Field("io.k8s.api.networking.v1.ServiceCIDRSpec", "cidrs")), printer::AGE];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![printer::name(object), cidrs(object).join(",").into(), printer::object_age(object, now)]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate_cidrs(&cidrs(new), &Path::new("spec.cidrs"))
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate_change(&cidrs(new), &cidrs(old), at(new, "/spec/cidrs"), &Path::new("spec.cidrs"))
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        keep_metadata(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, _new: &Value, _old: &Value) -> ErrorList {
        Vec::new()
    }
}

fn cidrs(object: &Value) -> Vec<&str> {
    list_at(object, "/spec/cidrs").iter().filter_map(Value::as_str).collect()
}

fn validate_cidrs(cidrs: &[&str], path: &Path<'_>) -> ErrorList {
    if cidrs.is_empty() {
        return vec![Error::required(path, "at least one CIDR required")];
    }
    if cidrs.len() > 2 {
        return vec![Error::invalid(path, json!({"CIDRs": cidrs}), "may only hold up to 2 values")];
    }
    let mut errors: ErrorList = cidrs.iter().enumerate().flat_map(|(i, cidr)| is_valid_cidr(&path.index(i), cidr)).collect();
    if let [Some(first), Some(second)] = cidrs.iter().map(|c| Cidr::parse_sloppy(c)).collect::<Vec<_>>().as_slice()
        && first.ip.is_v6() == second.ip.is_v6()
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(Error::invalid(path, json!(cidrs), detail));
    }
    errors
}

/// Ranges never change, but a second one, of the other family, may be added.
fn validate_change(new: &[&str], old: &[&str], raw: &Value, path: &Path<'_>) -> ErrorList {
    let changed = |i: usize| Error::invalid(&path.index(i), new[i], FIELD_IMMUTABLE);
    if new.len() == old.len() {
        return (0..new.len()).filter(|i| new[*i] != old[*i]).map(changed).collect();
    }
    if let ([before], [first, _]) = (old, new) {
        let mut errors: ErrorList = if first == before { Vec::new() } else { vec![changed(0)] };
        errors.extend(validate_cidrs(new, path));
        return errors;
    }
    vec![Error::invalid(path, raw.clone(), FIELD_IMMUTABLE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn there_is_one_range_for_a_family() {
        let check = |cidrs: &[&str]| texts(validate_cidrs(cidrs, &Path::new("c")));
        assert!(check(&["10.0.0.0/24", "fd00::/112"]).is_empty());
        assert_eq!(check(&[]), ["c: Required value: at least one CIDR required"]);
        assert_eq!(
            check(&["10.0.0.0/24", "10.0.1.0/24"]),
            [
                r#"c: Invalid value: ["10.0.0.0/24","10.0.1.0/24"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"#
            ]
        );
        assert_eq!(check(&["a", "b", "c"]), [r#"c: Invalid value: {"CIDRs":["a","b","c"]}: may only hold up to 2 values"#]);
    }

    #[test]
    fn ranges_are_only_added() {
        let check = |new: &[&str], old: &[&str]| texts(validate_change(new, old, &Value::Null, &Path::new("c")));
        assert!(check(&["10.0.0.0/24", "fd00::/112"], &["10.0.0.0/24"]).is_empty());
        assert_eq!(check(&["10.0.1.0/24"], &["10.0.0.0/24"]), ["c[0]: Invalid value: \"10.0.1.0/24\": field is immutable"]);
        assert_eq!(check(&[], &["10.0.0.0/24"]), ["c: Invalid value: null: field is immutable"]);
    }
}
