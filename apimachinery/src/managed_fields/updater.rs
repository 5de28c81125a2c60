//! The engine under update and apply: compares objects at every version in use and moves ownership.
//!
//! Pure set and object algebra. Names of managers, times and metadata are dealt with by the callers.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
};

use serde_json::Value;

use super::{
    Converted, Scope,
    compare::{Comparison, compare},
    entries::{ManagerId, Owned},
    merge::merge,
    path::{PathElement, same},
    reconcile::{reconcile, with_named_fields},
    remove::remove,
    set::FieldSet,
    typed::{Schema, TypeRef},
    validate::{ShapeErrors, validate},
    walk::to_field_set,
};

/// Who owns what.
pub(super) type Owners = BTreeMap<ManagerId, Owned>;

/// Why ownership could not be moved.
#[derive(Debug)]
pub(super) enum Error {
    /// Others own fields that an apply would change.
    Conflicts(Vec<(ManagerId, Vec<PathElement>)>),
    Other(String),
}

/// An object at one version, with its type.
#[derive(Clone)]
pub(super) struct Versioned<'a> {
    schema: Schema<'a>,
    ty: TypeRef<'a>,
    version: Cow<'a, str>,
    pub(super) value: Cow<'a, Value>,
}

impl<'a> Versioned<'a> {
    /// At the scope's version.
    pub(super) fn new(scope: &Scope<'a>, value: Cow<'a, Value>) -> Versioned<'a> {
        let schema = Schema::new(scope.types);
        Versioned { schema, ty: schema.root(scope.root), version: Cow::Borrowed(scope.api_version), value }
    }

    pub(super) fn validate(&self, allow_duplicates: bool) -> Result<(), ShapeErrors> {
        validate(self.schema, self.ty, &self.value, allow_duplicates)
    }

    pub(super) fn field_set(&self) -> FieldSet {
        to_field_set(self.schema, self.ty, &self.value)
    }

    pub(super) fn compare(&self, new: &Versioned<'_>) -> Comparison {
        // Both values are at the same version, whose types are this one's.
        compare(self.schema, self.ty, &self.value, &new.value)
    }

    fn with(&self, value: Value) -> Versioned<'a> {
        Versioned { value: Cow::Owned(value), ..self.clone() }
    }

    fn without(&self, fields: &FieldSet) -> Versioned<'a> {
        let value = remove(self.schema, self.ty, &self.value, fields);
        self.with(value)
    }

    fn named(&self, set: &FieldSet) -> FieldSet {
        with_named_fields(self.schema, Some(self.ty), set)
    }

    /// The same object at another version; `None` if that version is no longer served.
    fn at(&self, scope: &Scope<'a>, version: &str) -> Result<Option<Versioned<'a>>, Error> {
        if self.version == version {
            return Ok(Some(self.clone()));
        }
        let converted = scope.converter.convert(&self.value, version).map_err(Error::Other)?;
        Ok(converted.map(|Converted { object, types, root }| {
            let schema = Schema::new(types);
            Versioned { schema, ty: schema.root(root), version: Cow::Owned(version.to_owned()), value: Cow::Owned(object) }
        }))
    }
}

/// What an update by anyone but an applier does to ownership: the others' owners after it, and the fields that now
/// belong to the writer.
pub(super) fn update<'a>(
    scope: &Scope<'a>,
    live: &Versioned<'a>,
    new: &Versioned<'a>,
    owners: Owners,
) -> Result<(Owners, FieldSet), Error> {
    let owners = reconciled(scope, live, owners)?;
    let (owners, comparison) = transfer(scope, live, new, owners, None, true)?;
    // Both have been through the filter.
    Ok((owners, comparison.added.and(&comparison.modified)))
}

/// What an apply does: the merged object, or `None` if it is the live object, and the owners after it.
pub(super) fn apply<'a>(
    scope: &Scope<'a>,
    live: &Versioned<'a>,
    config: &Versioned<'a>,
    owners: Owners,
    manager: &ManagerId,
    force: bool,
) -> Result<(Option<Value>, Owners), Error> {
    let mut owners = reconciled(scope, live, owners)?;
    let merged = live.with(merge(live.schema, live.ty, &live.value, &config.value));
    let set = scope.filter.apply(config.field_set());
    let owned = Owned { set, api_version: scope.api_version.to_owned(), applied: true };
    let last = owners.insert(manager.clone(), owned);
    let new = prune(scope, merged, &owners, last)?;
    let (owners, _) = transfer(scope, live, &new, owners, Some(manager), force)?;
    let unchanged = same(&live.value, &new.value);
    Ok(((!unchanged).then(|| new.value.into_owned()), owners))
}

fn reconciled<'a>(scope: &Scope<'a>, live: &Versioned<'a>, owners: Owners) -> Result<Owners, Error> {
    let mut out = Owners::new();
    for (id, mut owned) in owners {
        // Owners in terms of a version that is gone are forgotten.
        let Some(live) = live.at(scope, &owned.api_version)? else { continue };
        reconcile(live.schema, live.ty, &mut owned.set);
        out.insert(id, owned);
    }
    Ok(out)
}

/// Takes from all but `writer` what differs between `live` and `new`; without `force` a taken field is a conflict.
fn transfer<'a>(
    scope: &Scope<'a>,
    live: &Versioned<'a>,
    new: &Versioned<'a>,
    mut owners: Owners,
    writer: Option<&ManagerId>,
    force: bool,
) -> Result<(Owners, Comparison), Error> {
    let comparison = live.compare(new).map(|set| scope.filter.apply(set));
    let mut by_version: BTreeMap<String, Option<Comparison>> = BTreeMap::new();
    let mut conflicts = Vec::new();
    for (id, owned) in &mut owners {
        if Some(id) == writer {
            continue;
        }
        let other = if owned.api_version == scope.api_version {
            &comparison
        } else {
            let compared = match by_version.entry(owned.api_version.clone()) {
                Entry::Occupied(found) => found.into_mut(),
                Entry::Vacant(slot) => slot.insert(compare_at(scope, live, new, &owned.api_version)?),
            };
            match compared {
                Some(comparison) => comparison,
                None => {
                    owned.set = FieldSet::new();
                    continue;
                }
            }
        };
        let taken = owned.set.intersection(&other.modified).union(&owned.set.intersection(&other.added));
        if !force {
            conflicts.extend(taken.paths().into_iter().map(|path| (id.clone(), path)));
        }
        owned.set = std::mem::take(&mut owned.set).without(&taken).without(&other.removed);
    }
    if !conflicts.is_empty() {
        return Err(Error::Conflicts(conflicts));
    }
    owners.retain(|_, owned| !owned.set.is_empty());
    Ok((owners, comparison))
}

fn compare_at<'a>(scope: &Scope<'a>, live: &Versioned<'a>, new: &Versioned<'a>, version: &str) -> Result<Option<Comparison>, Error> {
    let (Some(live), Some(new)) = (live.at(scope, version)?, new.at(scope, version)?) else { return Ok(None) };
    Ok(Some(live.compare(&new).map(|set| scope.filter.apply(set))))
}

/// Removes what the applier owned before and does not mention any more, unless someone else owns it.
fn prune<'a>(scope: &Scope<'a>, merged: Versioned<'a>, owners: &Owners, last: Option<Owned>) -> Result<Versioned<'a>, Error> {
    let Some(last) = last.filter(|last| !last.set.is_empty()) else { return Ok(merged) };
    if lets_nothing_go(scope, owners, &last) {
        return Ok(merged);
    }
    let Some(at_last) = merged.at(scope, &last.api_version)? else { return Ok(merged) };
    let pruned = at_last.without(&at_last.named(&last.set));
    let pruned = add_back_owned(scope, at_last.clone(), pruned, &last.api_version, owners)?;
    let pruned = add_back_dangling(scope, &at_last, pruned, &last)?;
    match pruned.at(scope, scope.api_version)? {
        Some(pruned) => Ok(pruned),
        None => Err(Error::Other(format!("no corresponding type for {}", scope.api_version))),
    }
}

/// Whether all that the applier owned before is owned still: then all that would be taken out would be put back. Where somebody speaks
/// in terms of another version, that is not told without converting.
fn lets_nothing_go(scope: &Scope<'_>, owners: &Owners, last: &Owned) -> bool {
    let is_here = |owned: &Owned| owned.api_version == scope.api_version;
    is_here(last) && owners.values().all(is_here) && owners.values().any(|owned| last.set.is_within(&owned.set))
}

/// Puts back what any owner, the applier's new set included, still owns; the pruned version first.
fn add_back_owned<'a>(
    scope: &Scope<'a>,
    mut merged: Versioned<'a>,
    mut pruned: Versioned<'a>,
    first: &str,
    owners: &Owners,
) -> Result<Versioned<'a>, Error> {
    let mut owned_at: BTreeMap<&str, FieldSet> = BTreeMap::new();
    for owned in owners.values() {
        let set = owned_at.entry(&owned.api_version).or_default();
        *set = set.union(&owned.set);
    }
    let mut versions: Vec<(&str, FieldSet)> = owned_at.into_iter().collect();
    versions.sort_by_key(|(version, _)| *version != first);
    for (version, owned) in versions {
        let Some(merged_at) = merged.at(scope, version)? else { continue };
        let Some(pruned_at) = pruned.at(scope, version)? else { continue };
        let all = merged_at.named(&merged_at.field_set());
        let kept = merged_at.named(&pruned_at.field_set()).union(&merged_at.named(&owned));
        pruned = merged_at.without(&all.difference(&kept));
        merged = merged_at;
    }
    Ok(pruned)
}

/// Puts back what nobody owned but fell with a removed parent.
fn add_back_dangling<'a>(scope: &Scope<'a>, merged: &Versioned<'a>, pruned: Versioned<'a>, last: &Owned) -> Result<Versioned<'a>, Error> {
    let Some(pruned) = pruned.at(scope, &last.api_version)? else { return Ok(merged.clone()) };
    let pruned_set = merged.named(&pruned.field_set());
    let merged_set = merged.named(&merged.field_set());
    let last_set = merged.named(&last.set);
    Ok(merged.without(&merged_set.difference(&pruned_set).intersection(&last_set)))
}
