//! Whom the change of an object concerns: the owner that it names, or those that might adopt it.
//!
//! Reads only local copies and changes nothing; what is done with a note is the controller's business.

use std::sync::Arc;

use apimachinery::selector::label::Selector;
use client::expectations::Expectations;
use client::{Change, Informer, Object, ObjectKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// What an owner is to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// An object of the owner is there that was not there before.
    Created(ObjectKey),
    /// An object of the owner, known by its uid, is gone or going.
    Gone(ObjectKey, String),
    /// Something else about its objects has changed.
    Changed(ObjectKey),
    /// There is an orphan that it might adopt.
    Orphan(ObjectKey),
}

impl Note {
    pub fn owner(&self) -> &ObjectKey {
        match self {
            Note::Created(owner) | Note::Gone(owner, _) | Note::Changed(owner) | Note::Orphan(owner) => owner,
        }
    }

    /// Says to what the owner expects that this has come; `uid` is the object's.
    pub fn tell(&self, expectations: &Expectations, uid: &str) {
        match self {
            Note::Created(owner) => expectations.creation_observed(owner, uid),
            Note::Gone(owner, uid) => expectations.deletion_observed(owner, uid),
            Note::Changed(_) | Note::Orphan(_) => {}
        }
    }
}

/// The owners of one kind.
pub struct Owners<O> {
    informer: Informer<O>,
    /// Nothing if the owner's selector cannot be used.
    selector: fn(&O) -> Option<Selector>,
}

impl<O: Object> Owners<O> {
    pub fn new(informer: Informer<O>, selector: fn(&O) -> Option<Selector>) -> Owners<O> {
        Owners { informer, selector }
    }

    /// The owner that a reference means, if it is of this kind and is that very object.
    pub fn resolve(&self, namespace: &str, reference: &OwnerReference) -> Option<Arc<O>> {
        if reference.kind != <O as k8s_openapi::Resource>::KIND {
            return None;
        }
        self.informer.get(namespace, &reference.name).filter(|owner| owner.uid() == reference.uid)
    }

    fn owner_of(&self, object: &impl Object) -> Option<ObjectKey> {
        self.resolve(object.namespace(), object.controller()?).map(|owner| owner.key())
    }

    /// The owners whose selector matches an orphan's labels; an empty selector matches nothing here.
    fn candidates(&self, object: &impl Object) -> Vec<Note> {
        let labels = &k8s_openapi::Metadata::metadata(object).labels;
        let selects = |owner: &Arc<O>| (self.selector)(owner).is_some_and(|s| !s.is_empty() && s.matches(labels));
        let owners = self.informer.list_namespace(object.namespace());
        owners.iter().filter(|owner| selects(owner)).map(|owner| Note::Orphan(owner.key())).collect()
    }

    fn gone(&self, object: &impl Object) -> Option<Note> {
        self.owner_of(object).map(|owner| Note::Gone(owner, object.uid().to_owned()))
    }

    fn added(&self, object: &impl Object) -> Vec<Note> {
        if object.is_terminating() {
            // At a start there may be objects that are already going: nobody waits for their creation.
            return self.gone(object).into_iter().collect();
        }
        match object.controller() {
            Some(_) => self.owner_of(object).map(Note::Created).into_iter().collect(),
            None => self.candidates(object),
        }
    }

    /// Whom a change concerns, and how.
    pub fn notes<C: Object>(&self, change: &Change<C>) -> Vec<Note> {
        match change {
            Change::Added(object) => self.added(&**object),
            Change::Deleted(object) => self.gone(&**object).into_iter().collect(),
            Change::Updated { old, new } if old.uid() != new.uid() => {
                // Deleted and made again between two lists.
                self.gone(&**old).into_iter().chain(self.added(&**new)).collect()
            }
            Change::Updated { old, new } => self.updated(&**old, &**new),
        }
    }

    fn updated<C: Object>(&self, old: &C, new: &C) -> Vec<Note> {
        let labels = |object: &C| k8s_openapi::Metadata::metadata(object).labels.clone();
        let relabelled = labels(old) != labels(new);
        let reassigned = old.controller() != new.controller();
        let mut notes = Vec::new();
        if new.is_terminating() {
            notes.extend(self.gone(new));
            if relabelled {
                notes.extend(self.gone(old));
            }
            return notes;
        }
        if reassigned {
            notes.extend(self.owner_of(old).map(Note::Changed));
        }
        match new.controller() {
            Some(_) => notes.extend(self.owner_of(new).map(Note::Changed)),
            None if relabelled || reassigned => notes.extend(self.candidates(new)),
            None => {}
        }
        notes
    }
}

const ORPHANS: &str = "orphans by namespace";

/// Makes the objects that no owner manages findable by their namespace.
pub fn index_orphans<C: Object>(informer: &Informer<C>) {
    informer.add_index(ORPHANS, |object| match object.controller() {
        Some(_) => Vec::new(),
        None => vec![object.namespace().to_owned()],
    });
}

/// The owner's objects and the orphans beside it; needs [`index_orphans`] and [`Informer::index_controllers`].
pub fn owned_or_orphaned<C: Object>(informer: &Informer<C>, owner: &impl Object) -> Vec<Arc<C>> {
    let mut objects = informer.controlled_by(owner.uid());
    objects.extend(informer.by_index(ORPHANS, owner.namespace()));
    objects
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::pod_state::tests::{at, pod};

    fn set(name: &str) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        set.metadata.namespace = Some("d".to_owned());
        set.metadata.name = Some(name.to_owned());
        set.metadata.uid = Some(format!("{name}-uid"));
        let labels = [("app".to_owned(), name.to_owned())].into();
        set.spec.selector.match_labels = Some(labels);
        set
    }

    fn owners() -> Owners<ReplicaSet> {
        let informer = Informer::detached();
        informer.apply(set("a"));
        informer.apply(set("b"));
        Owners::new(informer, |set| Selector::from_label_selector(Some(&set.spec.selector)).ok())
    }

    fn labelled(app: &str, owner: Option<&str>) -> Pod {
        let mut pod = pod("p", None);
        pod.metadata.labels = Some([("app".to_owned(), app.to_owned())].into());
        pod.metadata.owner_references = owner.map(|owner| vec![set(owner).controller_reference()]);
        pod
    }

    fn going(mut pod: Pod) -> Pod {
        pod.metadata.deletion_timestamp = Some(Time(at(0)));
        pod
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("d", name)
    }

    #[test]
    fn additions_and_deletions_concern_the_owner_or_those_that_select() {
        let owners = owners();
        let added = |pod: Pod| owners.notes(&Change::Added(Arc::new(pod)));
        assert_eq!(added(labelled("b", Some("a"))), [Note::Created(key("a"))]);
        assert_eq!(added(labelled("b", None)), [Note::Orphan(key("b"))]);
        assert_eq!(added(labelled("c", Some("c"))), []);
        assert_eq!(added(going(labelled("a", Some("a")))), [Note::Gone(key("a"), "p".to_owned())]);
        let deleted = |pod: Pod| owners.notes(&Change::Deleted(Arc::new(pod)));
        assert_eq!(deleted(labelled("a", Some("a"))), [Note::Gone(key("a"), "p".to_owned())]);
        assert_eq!(deleted(labelled("a", None)), []);
    }

    #[test]
    fn updates_concern_the_old_and_the_new_owner() {
        let owners = owners();
        let updated = |old: Pod, new: Pod| owners.notes(&Change::Updated { old: Arc::new(old), new: Arc::new(new) });
        assert_eq!(updated(labelled("a", Some("a")), labelled("a", Some("a"))), [Note::Changed(key("a"))]);
        assert_eq!(updated(labelled("b", Some("a")), labelled("b", None)), [Note::Changed(key("a")), Note::Orphan(key("b"))]);
        assert_eq!(updated(labelled("a", None), labelled("a", None)), []);
        assert_eq!(updated(labelled("a", None), labelled("b", None)), [Note::Orphan(key("b"))]);
        assert_eq!(updated(labelled("a", Some("a")), going(labelled("a", Some("a")))), [Note::Gone(key("a"), "p".to_owned())]);
        let mut other = labelled("b", Some("b"));
        other.metadata.uid = Some("q".to_owned());
        assert_eq!(updated(labelled("a", Some("a")), other), [Note::Gone(key("a"), "p".to_owned()), Note::Created(key("b"))]);
    }
}
