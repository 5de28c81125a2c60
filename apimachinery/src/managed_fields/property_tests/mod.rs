//! What holds for every sequence of writes: random objects of random types, and of built-in kinds, against a slow model of ownership.
//!
//! Each case has a seed of its own, which a failure names. `FERROKUBE_CASES` multiplies the number of cases.

mod chance;
mod model;
mod objects;
mod schemas;
mod versions;

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use self::{
    chance::Chance,
    model::{Flat, Model, Node, Owners, Path},
    objects::Objects,
    schemas::{RandomTypes, random_types},
};
use super::*;
use crate::schema::{TypeId, builtin};

/// Cases of each property; enough to find what these tests have found, within a few seconds.
const CASES: u64 = 120;
/// Writes to one object.
const WRITES: i64 = 8;
const MANAGERS: [&str; 3] = ["ann", "bob", "cid"];

/// Built-in kinds with sets, lists with one and several keys, atomics within lists, and unions.
const KINDS: [(&str, &str, &str); 5] =
    [("apps", "v1", "Deployment"), ("", "v1", "Pod"), ("", "v1", "Service"), ("networking.k8s.io", "v1", "Ingress"), ("", "v1", "Node")];

fn seeds() -> impl Iterator<Item = u64> {
    let times: u64 = std::env::var("FERROKUBE_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    0..CASES * times
}

fn at(second: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second)
}

/// One object's kind, in which writes are made up.
struct Case {
    made: Option<RandomTypes>,
    root: TypeId,
    api_version: String,
    kind: &'static str,
    filter: Filter,
    status_filter: Filter,
    seed: u64,
}

impl Case {
    /// Every other case is about a built-in kind.
    fn new(seed: u64, chance: &mut Chance) -> Case {
        let (filter, status_filter) = match chance.below(3) {
            0 => (Filter::All, Filter::All),
            _ => (Filter::except(&["status"]), Filter::except(&["spec"])),
        };
        if chance.one_in(2) {
            let made = random_types(chance);
            return Case { made: Some(made), root: TypeId(0), api_version: "x.io/v1".into(), kind: "X", filter, status_filter, seed };
        }
        let (group, version, kind) = *chance.pick(&KINDS);
        let root = builtin().by_kind(group, version, kind).unwrap();
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        Case { made: None, root, api_version, kind, filter, status_filter, seed }
    }

    fn types(&self) -> &Types {
        self.made.as_ref().map_or(builtin(), |made| &made.types)
    }

    fn scope(&self, subresource: &'static str) -> Scope<'_> {
        let root = if self.made.is_some() { Root::Custom(self.root) } else { Root::Builtin(self.root) };
        let filter = if subresource.is_empty() { &self.filter } else { &self.status_filter };
        Scope { types: self.types(), root, api_version: &self.api_version, kind: self.kind, subresource, filter, converter: &OneVersion }
    }

    fn model(&self) -> Model<'_> {
        Model::new(self.types(), self.root)
    }

    fn objects<'c>(&'c self, chance: &'c mut Chance) -> Objects<'c> {
        Objects::new(self.types(), self.root, &self.api_version, self.kind, self.seed, chance)
    }

    /// As a write of the whole object by somebody who does not apply.
    fn updated(&self, live: Option<&Value>, mut new: Value, manager: &str, subresource: &'static str, now: Timestamp) -> Value {
        if let Some(metadata) = new["metadata"].as_object_mut() {
            metadata.shift_remove("managedFields");
        }
        on_update(&self.scope(subresource), live, &mut new, manager, now, false);
        new
    }

    fn applied(&self, live: Option<&Value>, config: &Value, manager: &str, force: bool, now: Timestamp) -> Result<Value, ApplyError> {
        apply(&self.scope(""), live, config, manager, now, force)
    }

    /// An object with a history, as a server would have stored it.
    fn history(&self, chance: &mut Chance, writes: i64) -> Option<Value> {
        let mut live: Option<Value> = None;
        for second in 0..writes {
            let manager = *chance.pick(&MANAGERS);
            if chance.one_in(2) {
                let config = self.objects(chance).configuration();
                let force = live.is_none() || chance.one_in(2);
                if let Ok(object) = self.applied(live.as_ref(), &config, manager, force, at(second)) {
                    live = Some(stored(object));
                }
            } else {
                let new = self.objects(chance).update_of(live.as_ref());
                live = Some(stored(self.updated(live.as_ref(), new, manager, "", at(second))));
            }
        }
        live
    }
}

/// What the server adds and takes away before it stores an object.
fn stored(mut object: Value) -> Value {
    without_voids(&mut object);
    if object["metadata"].is_object() {
        object["metadata"]["uid"] = "u".into();
    }
    object
}

/// What is not stored: null and a list without items, which nobody owns either.
fn is_void(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// Whether there is a value with nothing in it.
fn has_void(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty() || members.values().any(has_void),
        Value::Array(items) => items.is_empty() || items.iter().any(has_void),
        value => value.is_null(),
    }
}

fn without_voids(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !is_void(member));
            members.values_mut().for_each(without_voids);
        }
        Value::Array(items) => items.iter_mut().for_each(without_voids),
        _ => {}
    }
}

fn owners(object: &Value) -> Owners {
    let managed = Managed::of(object).unwrap();
    managed.fields.into_iter().map(|(id, owned)| (id, owned.set.paths().into_iter().collect())).collect()
}

fn conflicts_of(error: &ApplyError) -> BTreeSet<(ManagerId, Path)> {
    match error {
        ApplyError::Conflict(conflicts) => conflicts.0.iter().cloned().collect(),
        other => panic!("no conflict: {other}"),
    }
}

fn id_of(case: &Case, manager: &str, operation: Operation, subresource: &str) -> ManagerId {
    ManagerId::new(manager, operation, &case.api_version, subresource)
}

/// Says which case it was, for what else a failed assertion says.
fn told(case: &Case, what: &str, live: Option<&Value>, written: &Value) -> String {
    format!("seed {}: {what} of {written}\nonto {}", case.seed, live.unwrap_or(&Value::Null))
}

#[test]
fn every_write_has_the_outcome_of_the_slow_model() {
    for seed in seeds() {
        let mut chance = Chance::new(seed);
        let case = Case::new(seed, &mut chance);
        let keeps_nulls = case.made.is_some() && chance.one_in(3);
        let mut live: Option<Value> = None;
        for second in 0..WRITES {
            let manager = *chance.pick(&MANAGERS);
            let written = if chance.one_in(2) {
                apply_as_the_model_says(&case, &mut chance, live.as_ref(), manager, at(second))
            } else {
                Some(update_as_the_model_says(&case, &mut chance, live.as_ref(), manager, at(second)))
            };
            if let Some(object) = written {
                let mut object = if keeps_nulls { object } else { stored(object) };
                object["metadata"]["uid"] = "u".into();
                if chance.one_in(12) {
                    object["metadata"].as_object_mut().unwrap().shift_remove("managedFields");
                }
                live = Some(object);
            }
        }
    }
}

fn update_as_the_model_says(case: &Case, chance: &mut Chance, live: Option<&Value>, manager: &str, now: Timestamp) -> Value {
    let subresource = if chance.one_in(4) { "status" } else { "" };
    let new = case.objects(chance).update_of(live);
    let scope = case.scope(subresource);
    let model = case.model();
    let before = live.map(owners).unwrap_or_default();
    let zero = typed::Schema::new(scope.types).zero_object(scope.root);
    let id = id_of(case, manager, Operation::Update, subresource);
    let expected = if live.is_some() && before.is_empty() {
        // Nobody begins to own an object that existed without owners.
        Owners::new()
    } else {
        model.update(scope.filter, &model.flat(live.unwrap_or(&zero)), &model.flat(&new), before, &id)
    };
    let object = case.updated(live, new.clone(), manager, subresource, now);
    assert_eq!(model.flat(&object), model.flat(&new), "{}", told(case, "update", live, &new));
    assert_eq!(owners(&object), expected, "{}", told(case, "update", live, &new));
    object
}

fn apply_as_the_model_says(case: &Case, chance: &mut Chance, live: Option<&Value>, manager: &str, now: Timestamp) -> Option<Value> {
    let config = case.objects(chance).configuration();
    let force = chance.one_in(2);
    let scope = case.scope("");
    let model = case.model();
    let mut zero = typed::Schema::new(scope.types).zero_object(scope.root);
    zero["apiVersion"] = case.api_version.as_str().into();
    zero["kind"] = case.kind.into();
    let flat_live = model.flat(live.unwrap_or(&zero));
    let mut before = live.map(owners).unwrap_or_default();
    if before.is_empty() {
        let id = id_of(case, "before-first-apply", Operation::Update, "");
        before = model.update(scope.filter, &model.flat(&zero), &flat_live, before, &id);
    }
    let id = id_of(case, manager, Operation::Apply, "");
    let expected = model.apply(scope.filter, &flat_live, &model.flat(&config), before, &id, force);
    let told = told(case, "apply", live, &config);
    match (case.applied(live, &config, manager, force, now), expected) {
        (Ok(object), Ok((flat, after))) => {
            assert_eq!(model.flat(&object), flat, "{told}");
            assert_eq!(owners(&object), after, "{told}");
            Some(object)
        }
        (Err(error), Err(conflicts)) => {
            assert_eq!(conflicts_of(&error), conflicts, "{told}");
            None
        }
        (done, expected) => panic!("{told}\nis {done:?}, but the model says {expected:?}"),
    }
}

#[test]
fn applying_again_changes_nothing() {
    for seed in seeds() {
        let mut chance = Chance::new(seed);
        let case = Case::new(seed, &mut chance);
        let writes = chance.below(5) as i64;
        let live = case.history(&mut chance, writes);
        let config = case.objects(&mut chance).configuration();
        let mut once = stored(case.applied(live.as_ref(), &config, "ann", true, at(100)).unwrap());
        if has_void(&config) {
            // Where a map that is to be empty loses what the applier had in it, the first time leaves nothing and the second the map.
            once = stored(case.applied(Some(&once), &config, "ann", true, at(100)).unwrap());
        }
        for force in [false, true] {
            let mut again = stored(case.applied(Some(&once), &config, "ann", force, at(200)).unwrap());
            if has_void(&config) {
                // What is not stored is missing again. Only the time says so, and a time alone is no reason to write.
                keep_timestamps(&once, &mut again);
            }
            assert_eq!(again, once, "{}", told(&case, "apply", Some(&once), &config));
        }
    }
}

#[test]
fn appliers_of_different_fields_may_come_in_any_order() {
    for seed in seeds() {
        let mut chance = Chance::new(seed);
        let case = Case::new(seed, &mut chance);
        let writes = 1 + chance.below(4) as i64;
        // Whoever comes first to an object without owners finds some; that is not meant here.
        let live = case.history(&mut chance, writes).filter(|live| !owners(live).is_empty());
        if live.is_none() {
            continue;
        }
        let config = case.objects(&mut chance).configuration();
        let (one, two) = case.objects(&mut chance).split(&config);
        let both = |first: (&Value, &str), second: (&Value, &str)| {
            let object = case.applied(live.as_ref(), first.0, first.1, true, at(100)).unwrap();
            case.applied(Some(&stored(object)), second.0, second.1, true, at(101)).unwrap()
        };
        let (a, b) = (both((&one, "dan"), (&two, "eve")), both((&two, "eve"), (&one, "dan")));
        let told = told(&case, "apply", live.as_ref(), &json!([one, two]));
        let model = case.model();
        assert_eq!(model.flat(&stored(a.clone())), model.flat(&stored(b.clone())), "{told}");
        assert_eq!(owners(&a), owners(&b), "{told}");
    }
}

#[test]
fn a_field_that_somebody_else_owns_is_never_lost_to_an_apply() {
    let mut kept = 0;
    for seed in seeds() {
        let mut chance = Chance::new(seed);
        let case = Case::new(seed, &mut chance);
        let live = stored(case.history(&mut chance, 6).unwrap_or_else(|| case.objects(&mut Chance::new(seed)).configuration()));
        let config = case.objects(&mut chance).configuration();
        let Ok(object) = case.applied(Some(&live), &config, "ann", false, at(100)) else { continue };
        let model = case.model();
        let (before, after) = (model.flat(&live), model.flat(&object));
        let own = id_of(&case, "ann", Operation::Apply, "");
        let owned = owners(&live);
        let last = owned.get(&own).cloned().unwrap_or_default();
        let others: Owners = owned.into_iter().filter(|(id, _)| *id != own).collect();
        let told = told(&case, "apply", Some(&live), &config);
        for (id, path) in others.iter().flat_map(|(id, set)| set.iter().map(move |path| (id, path))) {
            // What holds the field may go with all that is in it: an item is the business of those who own the item itself,
            // and what has no type may cease to be a map.
            let holder_went = (1..path.len()).any(|n| {
                let holder = &path[..n];
                let let_go = last.contains(holder) && !after.has(holder) && !others.values().any(|set| set.contains(holder));
                let_go || matches!(after.node(holder), Some(Node::Whole(value)) if !value.is_null())
            });
            if holder_went || !before.has(path) {
                continue;
            }
            kept += 1;
            assert!(after.has(path), "{told}\nlost {} of {id:?}", path::text(path));
            if let (Some(Node::Whole(old)), Some(Node::Whole(new))) = (before.node(path), after.node(path)) {
                let hollow = |v: &Value| v.is_null() || *v == json!({}) || *v == json!([]);
                assert!(path::same(old, new) || hollow(old) || hollow(new), "{told}\nchanged {} of {id:?}", path::text(path));
            }
            assert!(owners(&object).get(id).is_some_and(|set| set.contains(path)), "{told}\n{id:?} no more owns {}", path::text(path));
        }
    }
    assert!(kept > 100, "only {kept} fields of others were seen");
}

#[test]
fn what_its_last_applier_lets_go_is_removed() {
    let mut removed = 0;
    for seed in seeds() {
        let mut chance = Chance::new(seed);
        let case = Case::new(seed, &mut chance);
        let writes = chance.below(4) as i64;
        let live = case.history(&mut chance, writes);
        let first = case.objects(&mut chance).configuration();
        let live = stored(case.applied(live.as_ref(), &first, "ann", true, at(100)).unwrap());
        let (less, _) = case.objects(&mut chance).split(&first);
        let Ok(object) = case.applied(Some(&live), &less, "ann", false, at(200)) else { continue };
        let model = case.model();
        let own = id_of(&case, "ann", Operation::Apply, "");
        let last = owners(&live).remove(&own).unwrap_or_default();
        let still = model.with_named(&owners(&object).into_values().flatten().collect());
        let after = model.flat(&object);
        for path in last.iter().filter(|path| !still.contains(*path)) {
            removed += 1;
            assert!(!after.has(path), "{}\nstill has {}", told(&case, "apply", Some(&live), &less), path::text(path));
        }
        // And nothing else was: all that the shorter configuration owns is there.
        let said = model.flat(&less);
        for path in said.members() {
            if let (Some(Node::Whole(value)), Some(Node::Whole(found))) = (said.node(&path), after.node(&path)) {
                assert!(path::same(value, found), "{}\nlost {}", told(&case, "apply", Some(&live), &less), path::text(&path));
            }
            assert!(after.has(&path), "{}\nlost {}", told(&case, "apply", Some(&live), &less), path::text(&path));
        }
    }
    assert!(removed > 100, "only {removed} fields were let go");
}

#[test]
fn force_takes_exactly_what_was_refused_without_it() {
    let mut refused = 0;
    for seed in seeds() {
        let mut chance = Chance::new(seed);
        let case = Case::new(seed, &mut chance);
        let Some(live) = case.history(&mut chance, 4) else { continue };
        let config = case.objects(&mut chance).configuration();
        let forced = case.applied(Some(&live), &config, "ann", true, at(100)).unwrap();
        let told = told(&case, "apply", Some(&live), &config);
        match case.applied(Some(&live), &config, "ann", false, at(100)) {
            Ok(object) => assert_eq!(object, forced, "{told}"),
            Err(error) => {
                refused += 1;
                let after = owners(&forced);
                for (id, path) in conflicts_of(&error) {
                    assert!(!after.get(&id).is_some_and(|set| set.contains(&path)), "{told}\n{id:?} still owns {}", path::text(&path));
                }
            }
        }
    }
    assert!(refused > 20, "only {refused} applies were refused");
}

#[test]
fn items_keep_the_order_of_the_configuration_and_the_others_their_own() {
    for seed in seeds() {
        let mut chance = Chance::new(seed);
        let case = Case::new(seed, &mut chance);
        let writes = 1 + chance.below(3) as i64;
        let Some(live) = case.history(&mut chance, writes) else { continue };
        let config = case.objects(&mut chance).configuration();
        let object = case.applied(Some(&live), &config, "dan", true, at(100)).unwrap();
        let told = told(&case, "apply", Some(&live), &config);
        let model = case.model();
        let (of_live, of_config) = (model.orders(&live), model.orders(&config));
        for (path, order) in model.orders(&object) {
            let wanted = of_config.get(&path).cloned().unwrap_or_default();
            let found: Vec<_> = order.iter().filter(|item| wanted.contains(item)).cloned().collect();
            assert_eq!(found, wanted, "{told}\nat {}", path::text(&path));
            let others = |items: &[PathElement]| items.iter().filter(|item| !wanted.contains(item)).cloned().collect::<Vec<_>>();
            assert_eq!(others(&order), others(of_live.get(&path).map_or(&[], Vec::as_slice)), "{told}\nat {}", path::text(&path));
        }
    }
}

#[test]
fn entries_survive_their_text() {
    for seed in seeds() {
        let mut chance = Chance::new(seed);
        let case = Case::new(seed, &mut chance);
        let Some(live) = case.history(&mut chance, 5) else { continue };
        let managed = Managed::of(&live).unwrap();
        assert_eq!(managed.encode().as_ref(), live.pointer("/metadata/managedFields"), "seed {seed}");
        let text = live.to_string();
        assert_eq!(Managed::of(&serde_json::from_str(&text).unwrap()).unwrap(), managed, "seed {seed}");
    }
}

/// The model itself: what it says of a few writes that are written out.
#[test]
fn the_model_knows_the_textbook() {
    let mut chance = Chance::new(0);
    let case = Case { made: None, ..Case::new(0, &mut chance) };
    let root = builtin().by_kind("", "v1", "Pod").unwrap();
    let case = Case { root, api_version: "v1".into(), kind: "Pod", ..case };
    let model = case.model();
    let pod = |containers: Value| model.flat(&json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": containers}}));
    let id = |name: &str| ManagerId::new(name, Operation::Apply, "v1", "");
    let ann = pod(json!([{"name": "a", "image": "1"}, {"name": "b"}]));
    let (flat, owned) = model.apply(&Filter::All, &Flat::default(), &ann, Owners::new(), &id("ann"), false).unwrap();
    assert_eq!(flat, ann);
    let bob = pod(json!([{"name": "a", "tty": true}]));
    let (flat, owned) = model.apply(&Filter::All, &flat, &bob, owned, &id("bob"), false).unwrap();
    assert_eq!(flat, pod(json!([{"name": "a", "image": "1", "tty": true}, {"name": "b"}])));
    let (flat, owned) = model.apply(&Filter::All, &flat, &pod(json!([{"name": "c"}])), owned, &id("ann"), false).unwrap();
    assert_eq!(flat, pod(json!([{"name": "a", "tty": true}, {"name": "c"}])));
    let refused = model.apply(&Filter::All, &flat, &pod(json!([{"name": "a", "tty": false}])), owned, &id("cid"), false).unwrap_err();
    assert_eq!(
        refused.into_iter().map(|(id, path)| (id.manager, path::text(&path))).collect::<Vec<_>>(),
        [("bob".to_owned(), r#".spec.containers[name="a"].tty"#.to_owned())]
    );
}
