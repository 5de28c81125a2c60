//! The names of custom resources: which definition has which, and whether it is established.
//!
//! Within a group, a name belongs to the definition that had it first; the others wait, and say so in their conditions.

use std::collections::{HashMap, HashSet};

use apimachinery::field::quote;
use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::api_services::is_of_group;
use super::keyed::{self, Next, Reconciler, Source};
use super::watched::cache;
use crate::crd::summary::Summary;
use crate::loopback::Loopback;
use crate::registry::conditions::{Condition, find, is_true};
use crate::registry::read::str_at;
use crate::storage::Revision;

pub const GROUP: &str = "apiextensions.k8s.io";
pub const PLURAL: &str = "customresourcedefinitions";
pub const COLLECTION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const NAMES_ACCEPTED: &str = "NamesAccepted";
pub const ESTABLISHED: &str = "Established";
const ACCEPTED_MESSAGE: &str = "the initial names have been accepted";

/// Starts the controller.
pub fn spawn(client: &Loopback) {
    if client.serves(GROUP, PLURAL) {
        let controller = Names { client: client.clone(), accepted: HashMap::new() };
        keyed::spawn(client, "crd-names", vec![Source::own(GROUP, PLURAL)], controller);
    }
}

struct Names {
    client: Loopback,
    /// The names that each definition has, as of a revision: definitions are large, and read once.
    accepted: HashMap<String, (Revision, Claims)>,
}

/// Names that are taken: of resources (plural, singular, short) and of kinds.
#[derive(Clone, Debug, Default)]
struct Claims {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Claims {
    /// Those of one definition, by the names that it has.
    fn of(names: &Map<String, Value>) -> Claims {
        let text = |field: &str| names.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let short = names.get("shortNames").and_then(Value::as_array).into_iter().flatten();
        let short = short.filter_map(|n| n.as_str().map(str::to_owned));
        let resources = [text("plural"), text("singular")].into_iter().chain(short).collect();
        Claims { resources, kinds: [text("kind"), text("listKind")].into() }
    }
}

impl Names {
    /// The names that the definitions of a group have, and the definitions other than `name`.
    fn claims(&mut self, name: &str, group: &str) -> (Claims, Vec<String>) {
        let Some(definitions) = cache(self.client.api(), GROUP, PLURAL) else { return Default::default() };
        let snapshot = definitions.snapshot();
        if self.accepted.len() > snapshot.len() * 2 {
            self.accepted.retain(|name, _| snapshot.get("", name).is_some());
        }
        let mut all = Claims::default();
        let mut others = Vec::new();
        for definition in snapshot.range("", None).filter(|d| is_of_group(d.name(), group)) {
            let read = || (definition.revision(), Claims::of(&Summary::read(definition).status.accepted_names.unwrap_or_default()));
            let known = self.accepted.entry(definition.name().to_owned()).or_insert_with(read);
            if known.0 != definition.revision() {
                *known = read();
            }
            all.resources.extend(known.1.resources.iter().cloned());
            all.kinds.extend(known.1.kinds.iter().cloned());
            if definition.name() != name {
                others.push(definition.name().to_owned());
            }
        }
        (all, others)
    }
}

impl Reconciler for Names {
    async fn reconcile(&mut self, name: &str) -> Result<Next, Status> {
        let group = name.split_once('.').map_or("", |(_, group)| group).to_owned();
        let Some(definition) = cache(self.client.api(), GROUP, PLURAL).and_then(|definitions| definitions.get("", name)) else {
            // Its names are free now, and others may wait for them.
            let (_, others) = self.claims(name, &group);
            return Ok(Next { also: others, ..Next::default() });
        };
        let summary = Summary::read(&definition);
        if summary.has_its_names() && (!summary.is_true(NAMES_ACCEPTED) || summary.is_true(ESTABLISHED)) {
            return Ok(Next::default());
        }
        let mut definition = definition.value();
        let path = format!("{COLLECTION}/{name}/status");
        let mut also = Vec::new();
        if definition.pointer("/spec/names") != definition.pointer("/status/acceptedNames") {
            let (claims, others) = self.claims(name, &group);
            if accept(&mut definition, &claims, Timestamp::now()) {
                definition = self.client.replace(&path, definition).await?;
                also = others;
            }
        }
        if is_true(&definition, NAMES_ACCEPTED) && !is_true(&definition, ESTABLISHED) {
            let condition = established(&definition);
            if !condition.holds(&definition) {
                condition.set(&mut definition, Timestamp::now());
                self.client.replace(&path, definition).await?;
            }
        }
        Ok(Next { also, ..Next::default() })
    }
}

/// Gives a definition the names that are free; says whether its status has changed.
fn accept(definition: &mut Value, claims: &Claims, now: Timestamp) -> bool {
    let wanted = definition.pointer("/spec/names").and_then(Value::as_object).cloned().unwrap_or_default();
    let had = definition.pointer("/status/acceptedNames").and_then(Value::as_object).cloned().unwrap_or_default();
    let (names, condition) = decide(&wanted, &had, claims);
    if names == had && condition.holds(definition) {
        return false;
    }
    definition["status"]["acceptedNames"] = Value::Object(names);
    condition.set(definition, now);
    let installing = match (is_true(definition, ESTABLISHED), condition.status) {
        (true, _) => None,
        (false, "True") => Some(Condition::new(ESTABLISHED, "False", "Installing", ACCEPTED_MESSAGE)),
        (false, _) if find(definition, ESTABLISHED).is_some() => None,
        (false, _) => Some(Condition::new(ESTABLISHED, "False", "NotAccepted", "not all names are accepted")),
    };
    if let Some(installing) = installing {
        installing.set(definition, now);
    }
    true
}

/// The names that a definition gets of those it wants, and what is to be said about that: the last conflict, if there are some.
fn decide(wanted: &Map<String, Value>, had: &Map<String, Value>, claims: &Claims) -> (Map<String, Value>, Condition) {
    let text = |map: &Map<String, Value>, field: &str| map.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    let mut names = had.clone();
    let mut condition = Condition::new(NAMES_ACCEPTED, "True", "NoConflicts", "no conflicts found");
    let mut set = |field: &str, conflicts: Vec<String>, reason: &'static str| {
        if let Some(message) = aggregate(conflicts) {
            condition = Condition::new(NAMES_ACCEPTED, "False", reason, message);
            return;
        }
        match wanted.get(field) {
            Some(value) => names.insert(field.to_owned(), value.clone()),
            None => names.shift_remove(field),
        };
    };
    let taken = |wanted: &str, had: &str, used: &HashSet<String>| {
        (wanted != had && used.contains(wanted)).then(|| format!("{} is already in use", quote(wanted)))
    };
    let single = |field: &str, used: &HashSet<String>| taken(&text(wanted, field), &text(had, field), used).into_iter().collect();

    set("plural", single("plural", &claims.resources), "PluralConflict");
    set("singular", single("singular", &claims.resources), "SingularConflict");
    let list = |map: &Map<String, Value>| -> Vec<String> {
        map.get("shortNames").and_then(Value::as_array).into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let own = list(had);
    let conflicts = list(wanted).iter().filter(|name| !own.contains(name)).filter_map(|name| taken(name, "", &claims.resources)).collect();
    set("shortNames", conflicts, "ShortNamesConflict");
    set("kind", single("kind", &claims.kinds), "KindConflict");
    set("listKind", single("listKind", &claims.kinds), "ListKindConflict");
    set("categories", Vec::new(), "");
    (names, condition)
}

/// Several errors as Go prints them together.
fn aggregate(errors: Vec<String>) -> Option<String> {
    let mut distinct: Vec<String> = Vec::new();
    for error in errors {
        if !distinct.contains(&error) {
            distinct.push(error);
        }
    }
    match distinct.len() {
        0 => None,
        1 => distinct.pop(),
        _ => Some(format!("[{}]", distinct.join(", "))),
    }
}

/// What is to be said of a definition that has its names.
fn established(definition: &Value) -> Condition {
    let bundle = str_at(definition, "/spec/conversion/webhook/clientConfig/caBundle");
    if !bundle.is_empty() && !is_bundle(bundle) {
        return Condition::new(ESTABLISHED, "False", "InvalidCABundle", "The conversion webhook CABundle is invalid");
    }
    Condition::new(ESTABLISHED, "True", "InitialNamesAccepted", ACCEPTED_MESSAGE)
}

/// Whether a base64 text is PEM with certificates.
fn is_bundle(text: &str) -> bool {
    use base64::Engine;
    let Ok(pem) = base64::engine::general_purpose::STANDARD.decode(text) else { return false };
    let blocks: Vec<_> = x509_parser::pem::Pem::iter_from_buffer(&pem).collect();
    let certificates = || blocks.iter().flatten().filter(|b| b.label == "CERTIFICATE");
    certificates().next().is_some() && certificates().all(|b| b.parse_x509().is_ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(plural: &str, short: &[&str]) -> Value {
        json!({
            "spec": {"group": "a.b", "names": {"plural": plural, "singular": "one", "kind": "Kind", "listKind": "KindList", "shortNames": short}},
            "status": {"acceptedNames": {"plural": "", "kind": ""}, "conditions": null, "storedVersions": ["v1"]},
        })
    }

    #[test]
    fn the_first_definition_has_its_names_and_is_installed() {
        let mut first = definition("ones", &["o"]);
        assert!(accept(&mut first, &Claims::default(), Timestamp::UNIX_EPOCH));
        assert_eq!(first["status"]["acceptedNames"], first["spec"]["names"]);
        assert!(is_true(&first, NAMES_ACCEPTED));
        assert_eq!(str_at(&first, "/status/conditions/1/reason"), "Installing");
        assert_eq!(established(&first).reason, "InitialNamesAccepted");
        let same = first.clone();
        assert!(!accept(&mut first, &Claims::of(same["status"]["acceptedNames"].as_object().unwrap()), Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn names_that_are_taken_are_not_given() {
        let mut first = definition("ones", &["o", "p"]);
        accept(&mut first, &Claims::default(), Timestamp::UNIX_EPOCH);
        let mut second = definition("twos", &["o", "p", "q"]);
        assert!(accept(&mut second, &Claims::of(first["status"]["acceptedNames"].as_object().unwrap()), Timestamp::UNIX_EPOCH));
        // Singular, short names, kind and list kind are taken; the last conflict is told.
        assert_eq!(second["status"]["acceptedNames"], json!({"plural": "twos", "kind": ""}));
        let names = &second["status"]["conditions"][0];
        assert_eq!((&names["reason"], &names["message"]), (&json!("ListKindConflict"), &json!("\"KindList\" is already in use")));
        assert_eq!(str_at(&second, "/status/conditions/1/reason"), "NotAccepted");
        assert_eq!(aggregate(vec!["a".into(), "b".into(), "a".into()]), Some("[a, b]".into()));
    }
}
