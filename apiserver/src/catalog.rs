//! The resources that are served now, each ready for use: its types resolved, its strategy at hand, its storage form known.
//!
//! Built-in resources come from [`crate::registry`]; custom resources are added and removed as their definitions come and go,
//! so the catalog is a value that is replaced whole and never changed in place.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use apimachinery::managed_fields;
use apimachinery::schema::defaults::Hooks;
use apimachinery::schema::{TypeId, Types, embedded};
use serde_json::Value;

use crate::crd::conversion::Converter;
use crate::crd::form::Form;
use crate::metrics::objects::Lists;
use crate::registry::table::Rows;
use crate::registry::{Behaviour, Definition, Scope, Strategy, UpdateStrategy};
use crate::storage::resource::FieldValue;

/// Types that live as long as the process, or as long as the custom resource that brought them and which are made when they are needed.
#[derive(Clone)]
pub enum TypesHandle {
    Builtin(&'static Types),
    Custom(Arc<Form>),
}

impl Deref for TypesHandle {
    type Target = Types;
    fn deref(&self) -> &Types {
        match self {
            TypesHandle::Builtin(types) => types,
            TypesHandle::Custom(form) => form.types(),
        }
    }
}

/// Shared or static code of a kind.
pub enum Shared<T: ?Sized + 'static> {
    Static(&'static T),
    Owned(Arc<T>),
}

impl<T: ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Self {
        match self {
            Shared::Static(t) => Shared::Static(t),
            Shared::Owned(t) => Shared::Owned(t.clone()),
        }
    }
}

impl<T: ?Sized> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Shared::Static(t) => t,
            Shared::Owned(t) => t,
        }
    }
}

/// How one version of a kind becomes the stored version and back.
#[derive(Clone, Copy)]
pub struct Conversion {
    pub to_storage: fn(Value) -> Value,
    pub from_storage: fn(Value) -> Value,
}

/// A group, version and kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gvk {
    pub group: Box<str>,
    pub version: Box<str>,
    pub kind: Box<str>,
}

impl Gvk {
    pub fn new(group: &str, version: &str, kind: &str) -> Gvk {
        Gvk { group: group.into(), version: version.into(), kind: kind.into() }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// How objects of a resource are stored, shared by all versions of it.
pub struct Stored {
    /// The group and resource that name the storage prefix.
    pub group: Box<str>,
    pub resource: Box<str>,
    pub gvk: Gvk,
    pub types: TypesHandle,
    pub type_id: TypeId,
    /// Empty lists and maps are lost on the way through protobuf; JSON-stored kinds keep them.
    pub keeps_empties: bool,
    /// Where the stored version embeds objects whose text is kept.
    pub embedded: Arc<[embedded::Place]>,
    /// The storage prefix.
    pub prefix: Box<str>,
    pub namespaced: bool,
    /// Fields that selectors can name, of the stored version.
    pub selectable: Vec<(Box<str>, FieldValue)>,
    /// The objects in memory; set when storage has loaded them, before anything is served.
    pub cache: OnceLock<Arc<crate::storage::Resource>>,
    /// The form of a custom kind's stored version.
    pub custom: Option<Arc<Form>>,
    /// What lists have read.
    pub lists: Lists,
}

impl Stored {
    /// The objects in memory. `None` only before start-up has finished.
    pub fn cache(&self) -> Option<&Arc<crate::storage::Resource>> {
        self.cache.get()
    }
}

/// A resource at one API version.
pub struct Resource {
    pub gvk: Gvk,
    pub plural: Box<str>,
    pub singular: Box<str>,
    pub list_kind: Box<str>,
    pub namespaced: bool,
    pub verbs: Vec<Box<str>>,
    pub types: TypesHandle,
    pub type_id: TypeId,
    /// Where objects of this version embed others.
    pub embedded: Arc<[embedded::Place]>,
    pub hooks: Arc<Hooks>,
    pub check_name: fn(&str, bool) -> Vec<String>,
    pub strategy: Shared<dyn Strategy>,
    pub subresources: HashMap<Box<str>, Subresource>,
    pub selectable: Vec<(Box<str>, FieldValue)>,
    pub printer: Shared<dyn Rows>,
    /// Which fields a write to the main endpoint can come to own.
    pub filter: managed_fields::Filter,
    /// Numbers the resource among all that were ever served, for the encodings kept with objects.
    pub number: u32,
    pub stored: Arc<Stored>,
    /// `None` where this is the stored version, or a webhook converts.
    pub conversion: Option<Conversion>,
    /// Set where a webhook converts: storage is read and written by way of [`crate::endpoints::versions`], and everything between
    /// is in this version.
    pub webhook: Option<Arc<Converter>>,
    /// The JSON text that every object of this version starts with: `{"kind":"Pod","apiVersion":"v1"`.
    pub type_meta_prefix: Box<[u8]>,
    /// The form of this version of a custom kind.
    pub custom: Option<Arc<Form>>,
}

/// A subresource, resolved.
pub struct Subresource {
    pub gvk: Gvk,
    pub verbs: Vec<Box<str>>,
    pub kind: SubresourceKind,
}

/// What stands behind a subresource.
pub enum SubresourceKind {
    /// The same object by other rules.
    Object {
        strategy: Shared<dyn UpdateStrategy>,
        filter: managed_fields::Filter,
    },
    Scale,
    /// An endpoint of its own.
    Endpoint,
}

impl Resource {
    /// The root of field ownership.
    pub fn root(&self) -> managed_fields::Root {
        match &self.custom {
            Some(_) => managed_fields::Root::Custom(self.type_id),
            None => managed_fields::Root::Builtin(self.type_id),
        }
    }

    /// Checks the types of a value of this version, prunes it, and returns the paths of unknown fields; the error is the reason why
    /// the value is none of this kind.
    pub fn read(&self, value: &mut Value) -> Result<Vec<String>, String> {
        match &self.custom {
            Some(form) => form.read(value),
            None => apimachinery::schema::decode::decode(&self.types, self.type_id, value).map_err(|e| e.to_string()),
        }
    }

    pub fn api_version(&self) -> String {
        self.gvk.api_version()
    }

    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| &**v == verb)
    }

    /// The group of error details, and the resource.
    pub fn group(&self) -> &str {
        &self.gvk.group
    }
}

/// Group, version and plural.
type ResourceKey = (Box<str>, Box<str>, Box<str>);

/// A stored resource and its served versions, in the order in which they were added.
#[derive(Clone)]
struct Family {
    stored: Arc<Stored>,
    versions: Vec<Arc<Resource>>,
}

/// Everything that is served. The maps share what they have in common with those of earlier and later catalogs, so that a change costs
/// what has changed, however much is served.
#[derive(Clone, Default)]
pub struct Catalog {
    resources: imbl::HashMap<ResourceKey, Arc<Resource>>,
    /// By their numbers: in the order in which they were added.
    ordered: imbl::OrdMap<u32, Arc<Resource>>,
    by_storage: imbl::HashMap<(Box<str>, Box<str>), Family>,
    /// How many resources each group and version has.
    versions: imbl::OrdMap<(Box<str>, Box<str>), usize>,
}

/// Why a definition could not be resolved; a defect of the table, found at start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{resource}: the schema table has no type {schema}")]
    UnknownType { resource: String, schema: String },
    #[error("defaulting hooks name types that the schema table does not have: {0:?}")]
    UnknownHooks(Vec<&'static str>),
}

impl Catalog {
    /// The built-in resources. `definitions` has the stored version of a resource marked by `storage_version`.
    pub fn builtin(
        types: &'static Types,
        definitions: &[&'static Definition],
        versions: &[Versioned],
        hooks: Hooks,
    ) -> Result<Catalog, Error> {
        let hooks = Arc::new(hooks);
        let mut catalog = Catalog::default();
        let mut stored_resources: HashMap<(Box<str>, Box<str>), Arc<Stored>> = HashMap::new();
        for definition in definitions {
            let find = |schema: &str| {
                types.lookup(schema).ok_or_else(|| Error::UnknownType { resource: definition.plural.to_owned(), schema: schema.to_owned() })
            };
            let type_id = find(definition.schema)?;
            let versioned =
                versions.iter().find(|v| v.group == definition.group && v.version == definition.version && v.plural == definition.plural);
            let (store_group, store_version, store_schema, conversion) = match versioned {
                Some(v) => (v.stored_group, v.stored_version, v.stored_schema, Some(v.conversion)),
                None => (definition.group, definition.version, definition.schema, None),
            };
            let store_type = find(store_schema)?;
            let stored = stored_resources
                .entry((store_group.into(), definition.plural.into()))
                .or_insert_with(|| {
                    Arc::new(Stored {
                        group: store_group.into(),
                        resource: definition.plural.into(),
                        gvk: Gvk::new(store_group, store_version, definition.kind),
                        types: TypesHandle::Builtin(types),
                        type_id: store_type,
                        embedded: embedded::places(types, store_type).into(),
                        keeps_empties: matches!(store_group, "apiextensions.k8s.io" | "apiregistration.k8s.io"),
                        prefix: crate::storage::key::prefix(store_group, definition.plural).as_ref().into(),
                        namespaced: definition.scope == Scope::Namespaced,
                        selectable: definition
                            .selectable
                            .iter()
                            .map(|(name, get)| ((*name).into(), Arc::new(*get) as FieldValue))
                            .collect(),
                        cache: OnceLock::new(),
                        custom: None,
                        lists: Lists::default(),
                    })
                })
                .clone();
            catalog.add(resolve(definition, types, type_id, hooks.clone(), stored, conversion));
        }
        Ok(catalog)
    }

    fn add(&mut self, resource: Resource) {
        let resource = Arc::new(resource);
        let (group, version) = (&resource.gvk.group, &resource.gvk.version);
        self.resources.insert((group.clone(), version.clone(), resource.plural.clone()), resource.clone());
        *self.versions.entry((group.clone(), version.clone())).or_default() += 1;
        self.ordered.insert(resource.number, resource.clone());
        let stored = &resource.stored;
        let family = self.by_storage.entry((stored.group.clone(), stored.resource.clone()));
        family.or_insert_with(|| Family { stored: stored.clone(), versions: Vec::new() }).versions.push(resource);
    }

    /// The catalog with a custom resource, in place of any of the same group and plural.
    pub fn with(&self, stored: &Arc<Stored>, served: Vec<Resource>) -> Catalog {
        let mut catalog = self.without(&stored.group, &stored.resource);
        let family = Family { stored: stored.clone(), versions: Vec::new() };
        catalog.by_storage.insert((stored.group.clone(), stored.resource.clone()), family);
        served.into_iter().for_each(|resource| catalog.add(resource));
        catalog
    }

    /// The catalog without a custom resource.
    pub fn without(&self, group: &str, plural: &str) -> Catalog {
        let mut catalog = self.clone();
        let key = (group.into(), plural.into());
        let Some(family) = self.by_storage.get(&key).filter(|family| family.stored.custom.is_some()) else { return catalog };
        catalog.by_storage.remove(&key);
        for resource in &family.versions {
            let version = (resource.gvk.group.clone(), resource.gvk.version.clone());
            match catalog.versions.get_mut(&version) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    catalog.versions.remove(&version);
                }
            }
            catalog.resources.remove(&(version.0, version.1, resource.plural.clone()));
            catalog.ordered.remove(&resource.number);
        }
        catalog
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.get(&(group.into(), version.into(), plural.into()))
    }

    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.versions.contains_key(&(group.into(), version.into()))
    }

    pub fn has_group(&self, group: &str) -> bool {
        self.versions.range((Box::from(group), Box::default())..).next().is_some_and(|((found, _), _)| **found == *group)
    }

    /// Whether a group has resources that come with the server.
    pub fn is_builtin_group(&self, group: &str) -> bool {
        // They were there before any other.
        self.iter().take_while(|r| r.custom.is_none()).any(|r| *r.gvk.group == *group)
    }

    /// All served versions of a resource, itself included.
    pub fn versions_of(&self, resource: &Resource) -> Vec<Arc<Resource>> {
        let stored = &resource.stored;
        let family = self.by_storage.get(&(stored.group.clone(), stored.resource.clone()));
        family.filter(|family| Arc::ptr_eq(&family.stored, stored)).map(|family| family.versions.clone()).unwrap_or_default()
    }

    /// A stored resource by the group and plural of its stored version.
    pub fn stored_resource(&self, group: &str, plural: &str) -> Option<&Arc<Stored>> {
        self.by_storage.get(&(group.into(), plural.into())).map(|family| &family.stored)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.ordered.values()
    }

    /// Each stored resource once.
    pub fn stored(&self) -> Vec<Arc<Stored>> {
        self.by_storage.values().map(|family| family.stored.clone()).collect()
    }
}

/// A version that is served but not stored.
pub struct Versioned {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub stored_group: &'static str,
    pub stored_version: &'static str,
    pub stored_schema: &'static str,
    pub conversion: Conversion,
}

static NEXT_NUMBER: AtomicU32 = AtomicU32::new(0);

/// A number that no resource has had.
pub fn next_number() -> u32 {
    NEXT_NUMBER.fetch_add(1, Ordering::Relaxed)
}

fn boxed(texts: &[&str]) -> Vec<Box<str>> {
    texts.iter().map(|t| (*t).into()).collect()
}

fn resolve(
    definition: &'static Definition,
    types: &'static Types,
    type_id: TypeId,
    hooks: Arc<Hooks>,
    stored: Arc<Stored>,
    conversion: Option<Conversion>,
) -> Resource {
    let gvk = Gvk::new(definition.group, definition.version, definition.kind);
    let subresources = definition
        .subresources
        .iter()
        .map(|s| {
            let kind = match &s.behaviour {
                Behaviour::Object { strategy, reset_fields } => {
                    SubresourceKind::Object { strategy: Shared::Static(*strategy), filter: managed_fields::Filter::except(reset_fields) }
                }
                Behaviour::Scale => SubresourceKind::Scale,
                Behaviour::Endpoint => SubresourceKind::Endpoint,
            };
            (s.name.into(), Subresource { gvk: Gvk::new(s.group, s.version, s.kind), verbs: boxed(s.verbs), kind })
        })
        .collect();
    let type_meta_prefix = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\"", definition.kind, gvk.api_version()).into_bytes();
    Resource {
        plural: definition.plural.into(),
        singular: definition.singular.into(),
        list_kind: format!("{}List", definition.kind).into(),
        namespaced: definition.scope == Scope::Namespaced,
        verbs: boxed(definition.verbs),
        types: TypesHandle::Builtin(types),
        type_id,
        embedded: embedded::places(types, type_id).into(),
        hooks,
        check_name: definition.name,
        strategy: Shared::Static(definition.strategy),
        subresources,
        selectable: definition.selectable.iter().map(|(name, get)| ((*name).into(), Arc::new(*get) as FieldValue)).collect(),
        printer: Shared::Static(&definition.printer),
        filter: managed_fields::Filter::except(definition.reset_fields),
        number: next_number(),
        stored,
        conversion,
        webhook: None,
        type_meta_prefix: type_meta_prefix.into(),
        custom: None,
        gvk,
    }
}
