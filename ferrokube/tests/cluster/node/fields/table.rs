//! `docs/pod-fields.md` against the schema, the tests and the ledger: every field has a line, and what a line leans on is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use apimachinery::schema::{StructType, Type, TypeId, Types};

const CORE: &str = "io.k8s.api.core.v1.";
/// Where fields are followed from.
const ROOTS: [&str; 2] = ["PodSpec", "ServiceSpec"];
/// Types of other subjects, whose fields are not looked at: metadata, selectors, and what a claim asks for.
const OTHERS: [&str; 3] = [
    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.api.core.v1.PersistentVolumeClaimSpec",
];
/// What a line may say instead of naming a test.
const REASONS: [&str; 3] = ["not here: ", "off by default: ", "API only: "];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn element(ty: &Type) -> Option<TypeId> {
    match ty {
        Type::Struct(id) => Some(*id),
        Type::List(list) => element(&list.item),
        Type::Map(map) => element(&map.value),
        _ => None,
    }
}

/// The fields of every type that is part of a pod's or a Service's spec, by the type's short name.
fn fields(types: &Types) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    let mut open: Vec<TypeId> = ROOTS.iter().filter_map(|name| types.lookup(&format!("{CORE}{name}"))).collect();
    assert_eq!(open.len(), ROOTS.len());
    while let Some(id) = open.pop() {
        let StructType { name, fields, .. } = types.get(id);
        let Some(short) = name.strip_prefix(CORE) else { continue };
        if found.contains_key(short) {
            continue;
        }
        found.insert(short.to_owned(), fields.iter().map(|field| field.json.to_string()).collect());
        let is_ours = |id: &TypeId| !OTHERS.contains(&&*types.get(*id).name);
        open.extend(fields.iter().filter_map(|field| element(&field.ty)).filter(is_ours));
    }
    found
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The lines of the table: by type and field, what is leaned on.
fn lines(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut kind = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            name.clone_into(&mut kind);
        }
        let Some((names, proofs)) = line.strip_prefix("| `").and_then(|rest| rest.trim_end_matches(" |").split_once(" | ")) else {
            continue;
        };
        for name in quoted(&format!("`{names}")) {
            let old = found.entry(kind.clone()).or_default().insert(name.to_owned(), proofs.to_owned());
            assert_eq!(old, None, "{kind}.{name} has two lines");
        }
    }
    found
}

struct Sources {
    ledger: String,
    table: BTreeMap<String, BTreeMap<String, String>>,
}

impl Sources {
    /// What is wrong with one thing that a field's line leans on.
    fn wrong(&self, field: &str, proof: &str) -> Option<String> {
        if REASONS.iter().any(|reason| proof.strip_prefix(reason).is_some_and(|rest| !rest.trim().is_empty())) {
            return None;
        }
        let [what] = quoted(proof)[..] else { return Some(format!("{proof:?} names no test")) };
        if proof.starts_with("as ") {
            let is_there = self.table.get(what).is_some_and(|fields| fields.contains_key(field));
            return (!is_there).then(|| format!("{what} has no such field"));
        }
        if what.starts_with("[sig-") {
            let has_passed = self.ledger.split_once("## Passed").is_some_and(|(_, passed)| passed.contains(&format!("- `{what}")));
            return (!has_passed).then(|| format!("the ledger has not passed {what}"));
        }
        let path = format!("ferrokube/tests/cluster/node/{what}");
        match std::fs::read_to_string(root().join(&path)) {
            Ok(text) if text.contains(&format!("\"{field}\"")) => None,
            Ok(_) => Some(format!("{what} does not name the field")),
            Err(error) => Some(format!("{path}: {error}")),
        }
    }
}

#[test]
fn every_field_of_pods_and_services_says_what_proves_it() {
    let table = lines(&read("docs/pod-fields.md"));
    let sources = Sources { ledger: read("conformance/ledger.md"), table };
    let wanted = fields(apimachinery::schema::builtin());
    let mut wrong = Vec::new();
    for (kind, fields) in &wanted {
        let empty = BTreeMap::new();
        let lines = sources.table.get(kind).unwrap_or(&empty);
        wrong.extend(fields.iter().filter(|field| !lines.contains_key(*field)).map(|field| format!("{kind}.{field} has no line")));
        for (field, proofs) in lines {
            if !fields.contains(field) {
                wrong.push(format!("{kind} has no field {field}"));
            }
            wrong.extend(proofs.split("; ").filter_map(|proof| sources.wrong(field, proof)).map(|what| format!("{kind}.{field}: {what}")));
        }
    }
    wrong.extend(sources.table.keys().filter(|kind| !wanted.contains_key(*kind)).map(|kind| format!("{kind} is no part of a spec")));
    assert!(wrong.is_empty(), "{} lines of docs/pod-fields.md are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_line_that_leans_on_nothing_is_wrong() {
    let table = lines("## Container\n\n| field | shown by |\n|---|---|\n| `env`, `name` | `fields/environment.rs`; as `Probe` |\n");
    assert_eq!(table["Container"].keys().collect::<Vec<_>>(), ["env", "name"]);
    let sources = Sources { ledger: "## Passed\n\n- `[sig-node] This works [Conformance]` (1, 0 s)\n".to_owned(), table };
    for (proof, is_right) in [
        ("`fields/environment.rs`", true),
        ("`fields/none.rs`", false),
        ("`fields/identity.rs`", false),
        ("`[sig-node] This works [Conformance]`", true),
        ("`[sig-node] That works`", false),
        ("not here: no such kernel", true),
        ("not here: ", false),
        ("as `Container`", true),
        ("as `Probe`", false),
        ("somebody has seen it", false),
    ] {
        assert_eq!(sources.wrong("envFrom", proof).is_none() || sources.wrong("env", proof).is_none(), is_right, "{proof}");
    }
}
