//! PriorityLevelConfigurations: how many requests of a level are served at once, and which of the others wait.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::name_is_dns_subdomain;
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{
    ExemptPriorityLevelConfiguration, LimitResponse, LimitedPriorityLevelConfiguration, PriorityLevelConfiguration,
    PriorityLevelConfigurationSpec, QueuingConfiguration,
};
use serde_json::{Value, json};

use super::condition::validate_conditions;
use crate::registry::declared::{Findings, changed};
use crate::registry::go_struct::{Form, Shape, show};
use crate::registry::printer::{self, text};
use crate::registry::read::{at, int_at, str_at};
use crate::registry::strategy::{
    bump_generation_if_changed, drop_field, keep_all_but_status, keep_all_metadata, keep_status, set_generation,
};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    kind: "PriorityLevelConfiguration",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: super::GROUP,
        version: "v1",
        kind: "PriorityLevelConfiguration",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["metadata", "spec"] },
    }],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const QUEUING: &str = "io.k8s.api.flowcontrol.v1.QueuingConfiguration";

/// Numbers are printed as numbers although their columns promise strings.
const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Type", Description::Field("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec", "type")),
    text(
        "NominalConcurrencyShares",
        Description::Field("io.k8s.api.flowcontrol.v1.LimitedPriorityLevelConfiguration", "nominalConcurrencyShares"),
    ),
    text("Queues", Description::Field(QUEUING, "queues")),
    text("HandSize", Description::Field(QUEUING, "handSize")),
    text("QueueLengthLimit", Description::Field(QUEUING, "queueLengthLimit")),
    printer::AGE,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let number = |parent: &str, field: &str| match at(object, parent) {
        Value::Null => "<none>".into(),
        parent => int_at(parent, field).into(),
    };
    let queuing = "/spec/limited/limitResponse/queuing";
    vec![
        printer::name(object),
        str_at(object, "/spec/type").into(),
        number("/spec/limited", "/nominalConcurrencyShares"),
        number(queuing, "/queues"),
        number(queuing, "/handSize"),
        number(queuing, "/queueLengthLimit"),
        printer::object_age(object, now),
    ]
}

const MAX_QUEUES: i32 = 10_000_000;
/// The bits of a hash that hands of queues are dealt from.
const MAX_HASH_BITS: f64 = 60.0;
/// Carries a zero through an older version of the API; objects of this one never have it.
const ZERO_SHARES_ANNOTATION: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
const TYPES: [&str; 2] = ["Exempt", "Limited"];
const RESPONSES: [&str; 2] = ["Queue", "Reject"];

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(new, None)
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        bump_generation_if_changed(new, old, &["spec"]);
        keep_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate(new, Some(old))
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        keep_all_metadata(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validate_conditions(new)
    }
}

fn validate(new: &Value, old: Option<&Value>) -> ErrorList {
    let level: PriorityLevelConfiguration = view(new);
    let spec = level.spec;
    let name = str_at(new, "/metadata/name");
    let path = Path::new("spec");
    let mut findings = Findings::default();
    if at(new, "/metadata/annotations").get(ZERO_SHARES_ANNOTATION).is_some() {
        let detail = format!("annotation '{ZERO_SHARES_ANNOTATION}' is forbidden");
        findings.written.push(Error::forbidden(&Path::new("metadata.annotations"), detail));
    }
    validate_spec(&spec, name, &path, &mut findings);
    findings.written.extend(validate_mandatory(new, name, &path));
    findings.written.extend(validate_conditions(new));
    if changed(at(new, "/spec"), old.map(|old| at(old, "/spec"))) {
        validate_declared(&spec, &path, &mut findings.declared);
    }
    findings.into_errors()
}

/// What is declared: each type has its member and no other.
fn validate_declared(spec: &PriorityLevelConfigurationSpec, path: &Path<'_>, errors: &mut ErrorList) {
    let (exempt, limited) = (path.child("exempt"), path.child("limited"));
    if spec.type_ != "Exempt" && spec.exempt.is_some() {
        errors.push(Error::forbidden(&exempt, ""));
    }
    match (spec.type_ == "Limited", &spec.limited) {
        (false, Some(_)) => errors.push(Error::forbidden(&limited, "")),
        (true, None) => errors.push(Error::required(&limited, "")),
        _ => {}
    }
    if spec.type_.is_empty() {
        errors.push(Error::required(&path.child("type"), ""));
    }
    if let Some(config) = &spec.limited {
        let (response, path) = (&config.limit_response, limited.child("limitResponse"));
        let queuing = path.child("queuing");
        match (response.type_ == "Queue", &response.queuing) {
            (false, Some(_)) => errors.push(Error::forbidden(&queuing, "")),
            (true, None) => errors.push(Error::required(&queuing, "")),
            _ => {}
        }
        if response.type_.is_empty() {
            errors.push(Error::required(&path.child("type"), ""));
        }
    }
}

fn validate_spec(spec: &PriorityLevelConfigurationSpec, name: &str, path: &Path<'_>, findings: &mut Findings) {
    let type_path = path.child("type");
    let errors = &mut findings.written;
    if (name == "exempt") != (spec.type_ == "Exempt") {
        errors.push(Error::invalid(&type_path, spec.type_.as_str(), "must be 'Exempt' if and only if `name` is 'exempt'"));
    }
    match spec.type_.as_str() {
        "Exempt" => errors.extend(spec.exempt.iter().flat_map(|exempt| validate_exempt(exempt, &path.child("exempt")))),
        "Limited" => errors.extend(spec.limited.iter().flat_map(|limited| validate_limited(limited, &path.child("limited")))),
        "" => {}
        other => errors.push(Error::not_supported(&type_path, other, &TYPES)),
    }
}

fn validate_exempt(exempt: &ExemptPriorityLevelConfiguration, path: &Path<'_>) -> ErrorList {
    validate_shares(exempt.nominal_concurrency_shares, path).into_iter().chain(validate_lendable(exempt.lendable_percent, path)).collect()
}

fn validate_shares(shares: Option<i32>, path: &Path<'_>) -> Option<Error> {
    let shares = shares.filter(|shares| *shares < 0)?;
    Some(Error::invalid(&path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer"))
}

fn validate_lendable(percent: Option<i32>, path: &Path<'_>) -> Option<Error> {
    let percent = percent.filter(|percent| !(0..=100).contains(percent))?;
    Some(Error::invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive"))
}

fn validate_limited(limited: &LimitedPriorityLevelConfiguration, path: &Path<'_>) -> ErrorList {
    let mut errors: ErrorList = validate_shares(limited.nominal_concurrency_shares, path).into_iter().collect();
    errors.extend(validate_response(&limited.limit_response, &path.child("limitResponse")));
    errors.extend(validate_lendable(limited.lendable_percent, path));
    if let Some(percent) = limited.borrowing_limit_percent.filter(|percent| *percent < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.push(Error::invalid(&path.child("borrowingLimitPercent"), percent, detail));
    }
    errors
}

fn validate_response(response: &LimitResponse, path: &Path<'_>) -> ErrorList {
    match (response.type_.as_str(), &response.queuing) {
        ("Queue", Some(queuing)) => validate_queuing(queuing, &path.child("queuing")),
        ("Queue" | "Reject" | "", _) => ErrorList::new(),
        (other, _) => vec![Error::not_supported(&path.child("type"), other, &RESPONSES)],
    }
}

fn validate_queuing(queuing: &QueuingConfiguration, path: &Path<'_>) -> ErrorList {
    let (limit, queues, hand) = (queuing.queue_length_limit.unwrap_or(0), queuing.queues.unwrap_or(0), queuing.hand_size.unwrap_or(0));
    let (queues_path, hand_path) = (path.child("queues"), path.child("handSize"));
    let mut errors = ErrorList::new();
    if limit <= 0 {
        errors.push(Error::invalid(&path.child("queueLengthLimit"), limit, "must be positive"));
    }
    if queues <= 0 {
        errors.push(Error::invalid(&queues_path, queues, "must be positive"));
    } else if queues > MAX_QUEUES {
        errors.push(Error::invalid(&queues_path, queues, format!("must not be greater than {MAX_QUEUES}")));
    }
    if hand <= 0 {
        errors.push(Error::invalid(&hand_path, hand, "must be positive"));
    } else if hand > queues {
        errors.push(Error::invalid(&hand_path, hand, format!("should not be greater than queues ({queues})")));
    } else if (f64::from(queues).log2() * f64::from(hand)).ceil() > MAX_HASH_BITS {
        let detail = format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {MAX_HASH_BITS}");
        errors.push(Error::invalid(&hand_path, hand, detail));
    }
    errors
}

/// The spec of a level that every cluster has; of the exempt one, what stands under `exempt` may change.
pub fn mandatory_spec(name: &str) -> Option<Value> {
    match name {
        "exempt" => Some(json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}})),
        "catch-all" => Some(json!({
            "type": "Limited",
            "limited": {"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}, "lendablePercent": 0},
        })),
        _ => None,
    }
}

fn validate_mandatory(new: &Value, name: &str, path: &Path<'_>) -> Option<Error> {
    let fixed = mandatory_spec(name)?;
    let spec = at(new, "/spec");
    let invalid = |detail: String| Some(Error::invalid(path, show(spec, &SPEC_SHAPE), detail));
    if name == "exempt" {
        let same = |field: &str| spec.get(field) == fixed.get(field);
        // Whether there is anything under `exempt` is free as well.
        if same("type") && same("limited") {
            return None;
        }
        return invalid(format!("spec of '{name}' except the 'spec.exempt' field must equal the fixed value"));
    }
    if *spec == fixed { None } else { invalid(format!("spec of '{name}' must equal the fixed value")) }
}

static SPEC_SHAPE: Shape = Shape(&[
    ("Type", "type", Form::Text),
    ("Limited", "limited", Form::Pointer(&LIMITED_SHAPE)),
    ("Exempt", "exempt", Form::Pointer(&EXEMPT_SHAPE)),
]);
static LIMITED_SHAPE: Shape = Shape(&[
    ("NominalConcurrencyShares", "nominalConcurrencyShares", Form::Number),
    ("LimitResponse", "limitResponse", Form::Struct(&RESPONSE_SHAPE)),
    ("LendablePercent", "lendablePercent", Form::Plain),
    ("BorrowingLimitPercent", "borrowingLimitPercent", Form::Plain),
]);
static EXEMPT_SHAPE: Shape =
    Shape(&[("NominalConcurrencyShares", "nominalConcurrencyShares", Form::Plain), ("LendablePercent", "lendablePercent", Form::Plain)]);
static RESPONSE_SHAPE: Shape = Shape(&[("Type", "type", Form::Text), ("Queuing", "queuing", Form::Pointer(&QUEUING_SHAPE))]);
static QUEUING_SHAPE: Shape = Shape(&[
    ("Queues", "queues", Form::Number),
    ("HandSize", "handSize", Form::Number),
    ("QueueLengthLimit", "queueLengthLimit", Form::Number),
]);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, spec: Value) -> Vec<String> {
        validate(&json!({"metadata": {"name": name}, "spec": spec}), None).iter().map(ToString::to_string).collect()
    }

    fn queuing(queues: i32, hand: i32) -> Value {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 1});
        json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": queuing}}})
    }

    #[test]
    fn each_type_has_its_member() {
        assert!(check("a", queuing(64, 8)).is_empty());
        assert_eq!(check("a", json!({"type": "Limited"})), ["spec.limited: Required value"]);
        assert_eq!(check("a", json!({})), ["spec.type: Required value"]);
        assert_eq!(
            check("a", json!({"type": "Exempt", "limited": {"limitResponse": {}}})),
            [
                "spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'",
                "spec.limited: Forbidden",
                "spec.limited.limitResponse.type: Required value",
            ]
        );
    }

    #[test]
    fn hands_are_dealt_from_a_bounded_hash() {
        assert_eq!(
            check("a", queuing(512, 7)),
            [
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 7: required entropy bits of deckSize 512 and handSize 7 should not be greater than 60"
            ]
        );
        assert_eq!(
            check("a", queuing(2, 3)),
            ["spec.limited.limitResponse.queuing.handSize: Invalid value: 3: should not be greater than queues (2)"]
        );
    }

    #[test]
    fn mandatory_levels_are_fixed_but_for_the_share_of_the_exempt() {
        assert!(check("catch-all", mandatory_spec("catch-all").unwrap()).is_empty());
        assert!(check("exempt", json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 3, "lendablePercent": 50}})).is_empty());
        let mut spec = mandatory_spec("catch-all").unwrap();
        spec["limited"]["nominalConcurrencyShares"] = 6.into();
        assert_eq!(
            check("catch-all", spec),
            [concat!(
                r#"spec: Invalid value: {"Type":"Limited","Limited":{"NominalConcurrencyShares":6,"LimitResponse":{"Type":"Reject","Queuing":null},"#,
                r#""LendablePercent":0,"BorrowingLimitPercent":null},"Exempt":null}: spec of 'catch-all' must equal the fixed value"#
            )]
        );
    }
}
