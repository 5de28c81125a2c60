//! What informers and queues ask of an object, and the names by which objects are known.

use std::fmt;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A built-in kind: it has metadata, and its names are known to the compiler.
pub trait Object:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + kube::Resource<DynamicType = ()>
    + Clone
    + fmt::Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// The object's name; empty before it has one.
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or("")
    }

    /// The object's namespace; empty if its kind has none.
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or("")
    }

    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or("")
    }

    fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace(), self.name())
    }

    /// Whether somebody has asked for the object's deletion.
    fn is_terminating(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }

    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str> {
        self.metadata().labels.as_ref()?.get(key).map(String::as_str)
    }

    /// The value of an annotation.
    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata().annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// The owner that manages this object, if it has one.
    fn controller(&self) -> Option<&OwnerReference> {
        self.metadata().owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
    }

    /// Whether the object with this uid manages this one.
    fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|owner| owner.uid == uid)
    }

    /// What an object that this one manages says of its owner.
    fn controller_reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: <Self as k8s_openapi::Resource>::API_VERSION.to_owned(),
            block_owner_deletion: Some(true),
            controller: Some(true),
            kind: <Self as k8s_openapi::Resource>::KIND.to_owned(),
            name: self.name().to_owned(),
            uid: self.uid().to_owned(),
        }
    }

    /// What an event says of the object that it is about.
    fn reference(&self) -> Reference {
        Reference(ObjectReference {
            api_version: Some(<Self as k8s_openapi::Resource>::API_VERSION.to_owned()),
            kind: Some(<Self as k8s_openapi::Resource>::KIND.to_owned()),
            name: self.metadata().name.clone(),
            namespace: self.metadata().namespace.clone(),
            uid: self.metadata().uid.clone(),
            resource_version: self.metadata().resource_version.clone(),
            field_path: None,
        })
    }
}

impl<K> Object for K where
    K: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + kube::Resource<DynamicType = ()>
        + Clone
        + fmt::Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static
{
}

/// The object that an event is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference(pub ObjectReference);

impl Reference {
    /// The same object, with the part of it that the event is about, such as `spec.containers{app}`.
    pub fn with_field_path(mut self, path: &str) -> Reference {
        self.0.field_path = Some(path.to_owned());
        self
    }
}

/// A namespace (empty for kinds without) and a name: what work queues carry.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: &str, name: &str) -> ObjectKey {
        ObjectKey { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
