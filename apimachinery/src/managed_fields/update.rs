//! Ownership after a create, an update or a patch: the writer owns what it changed.

use std::borrow::Cow;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Scope,
    entries::{Managed, ManagerId, Operation, Owned, Time, asks_for_reset},
    set::FieldSet,
    typed::Schema,
    updater::{self, Error, Versioned},
};

/// What the server owns: never in anybody's set.
const SERVER_OWNED: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata",
    "metadata.name",
    "metadata.namespace",
    "metadata.creationTimestamp",
    "metadata.selfLink",
    "metadata.uid",
    "metadata.clusterName",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.resourceVersion",
];

/// Sets `new`'s `metadata.managedFields` for a create (`live` is `None`), an update or a non-apply patch by `manager`.
///
/// Both objects are defaulted and canonical, and have not been through the strategy's preparation. `new` still has the
/// request's own `managedFields`; since the canonical form drops an empty list, `reset` says that the request had `[]`
/// (see [`asks_for_reset`]). Entries in the request are taken over if they can be read, except through a subresource.
/// An object without metadata is left alone. Should ownership be impossible to tell, the live entries stay.
pub fn on_update(scope: &Scope<'_>, live: Option<&Value>, new: &mut Value, manager: &str, now: Timestamp, reset: bool) {
    if !new.get("metadata").is_some_and(Value::is_object) {
        return;
    }
    let managed = live_or_new(scope, live, new, reset);
    // The object must not own its own bookkeeping.
    Managed::default().store(new);
    let exists = live.is_some_and(has_uid);
    if managed.is_empty() && exists {
        return;
    }
    let zero;
    let live_value = match live {
        Some(live) => live,
        None => {
            zero = Schema::new(scope.types).zero_object(scope.root);
            &zero
        }
    };
    match track(scope, live_value, new, managed, manager, now) {
        Ok(managed) => managed.store(new),
        Err(_) => {
            // Upstream keeps the old entries too, rather than lose all ownership to one unreadable field.
            let kept = live.and_then(|live| live.pointer("/metadata/managedFields")).cloned();
            if let (Some(kept), Some(metadata)) = (kept, new.get_mut("metadata").and_then(Value::as_object_mut)) {
                metadata.insert("managedFields".to_owned(), kept);
            }
        }
    }
}

fn has_uid(object: &Value) -> bool {
    object.pointer("/metadata/uid").and_then(Value::as_str).is_some_and(|uid| !uid.is_empty())
}

/// The owners to start from: the request's, or the live object's where the request has none or may set none.
fn live_or_new(scope: &Scope<'_>, live: Option<&Value>, new: &Value, reset: bool) -> Managed {
    let of_live = || live.and_then(|live| Managed::of(live).ok()).unwrap_or_default();
    if !scope.subresource.is_empty() {
        return of_live();
    }
    if reset || asks_for_reset(new) {
        return Managed::default();
    }
    match Managed::of(new) {
        Ok(managed) if !managed.is_empty() => managed,
        _ => of_live(),
    }
}

/// The owners after `manager` turned `live` into `new`.
pub(super) fn track(
    scope: &Scope<'_>,
    live: &Value,
    new: &Value,
    managed: Managed,
    manager: &str,
    now: Timestamp,
) -> Result<Managed, Error> {
    let live = Versioned::new(scope, Cow::Borrowed(live));
    let new = Versioned::new(scope, Cow::Borrowed(new));
    for object in [&new, &live] {
        object.validate(true).map_err(|e| Error::Other(e.to_string()))?;
    }
    let Managed { fields, times } = managed;
    let (fields, set) = updater::update(scope, &live, &new, fields)?;
    let mut managed = Managed { fields, times };
    let set = without_server_owned(set);
    if !set.is_empty() {
        let id = ManagerId::new(manager, Operation::Update, scope.api_version, scope.subresource);
        let set = match managed.fields.remove(&id) {
            Some(previous) => previous.set.and(&set),
            None => set,
        };
        managed.times.insert(id.clone(), Time::at(now));
        managed.fields.insert(id, Owned { set, api_version: scope.api_version.to_owned(), applied: false });
    }
    managed.cap_updaters();
    Ok(managed)
}

pub(super) fn without_server_owned(set: FieldSet) -> FieldSet {
    static SET: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::of_fields(SERVER_OWNED));
    set.without(&SET)
}
