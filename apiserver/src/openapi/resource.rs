//! What the documents need to know of a resource, whether it is built in or custom.

use std::borrow::Cow;
use std::collections::BTreeSet;

use apimachinery::schema::{Type, Types};

use crate::registry::{Definition, RETURN_DELETED_OBJECT, Scope};

/// A resource and its subresources.
#[derive(Clone, Debug)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: BTreeSet<String>,
    /// The definition names of the object and of its list.
    pub schema: String,
    pub list_schema: String,
    pub subresources: Vec<Subresource>,
    /// A deletion answers with the object instead of a Status.
    pub returns_deleted_object: bool,
    /// Custom resources know no protobuf, no strategic merge patch and no watch paths.
    pub custom: bool,
}

/// A subresource and what its endpoint speaks.
#[derive(Clone, Debug)]
pub struct Subresource {
    pub name: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: BTreeSet<String>,
    /// The definition name of what is read and written; empty for streams, which have none.
    pub schema: String,
    /// The query parameters of a stream.
    pub options: Vec<Parameter>,
}

impl Subresource {
    /// The endpoint hands the connection on (`exec`, `proxy`) instead of reading and writing objects.
    pub fn connects(&self) -> bool {
        self.kind.ends_with("Options")
    }

    /// The endpoint also takes whatever path follows.
    pub fn has_subpath(&self) -> bool {
        self.kind.ends_with("ProxyOptions")
    }
}

/// A parameter in the path or the query.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub place: Place,
    /// `string`, `integer` or `boolean`.
    pub kind: &'static str,
    pub description: Option<Cow<'static, str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Path,
    Query,
}

impl Place {
    pub const fn word(self) -> &'static str {
        match self {
            Place::Path => "path",
            Place::Query => "query",
        }
    }
}

impl Parameter {
    pub fn path(name: &str, description: String) -> Parameter {
        Parameter { name: name.into(), place: Place::Path, kind: "string", description: Some(description.into()) }
    }
}

/// The query parameters that an options type stands for: its scalars and lists of scalars.
pub fn parameters_of(types: &Types, definition: &str) -> Vec<Parameter> {
    let Some(id) = types.lookup(definition) else { return Vec::new() };
    let options = types.get(id);
    let kind_of = |ty: &Type| match ty {
        Type::String => Some("string"),
        Type::Bool => Some("boolean"),
        Type::Int32 | Type::Int64 => Some("integer"),
        _ => None,
    };
    let fields = options.fields.iter().filter(|f| !matches!(&*f.json, "kind" | "apiVersion"));
    fields
        .filter_map(|f| {
            let kind = match &f.ty {
                Type::List(list) => kind_of(&list.item),
                other => kind_of(other),
            }?;
            let description = apimachinery::schema::description(&options.name, Some(&f.json)).map(Cow::Borrowed);
            Some(Parameter { name: f.json.to_string(), place: Place::Query, kind, description })
        })
        .collect()
}

impl Resource {
    /// A built-in resource.
    pub fn built_in(d: &Definition, types: &Types) -> Resource {
        let subresources = d.subresources.iter().map(|s| {
            let schema = types.by_kind(s.group, s.version, s.kind).map(|id| types.get(id).name.to_string());
            let found = Subresource {
                name: s.name.into(),
                group: s.group.into(),
                version: s.version.into(),
                kind: s.kind.into(),
                verbs: s.verbs.iter().map(|v| v.to_string()).collect(),
                schema: schema.unwrap_or_default(),
                options: Vec::new(),
            };
            found.with_options(d.kind, types)
        });
        Resource {
            group: d.group.into(),
            version: d.version.into(),
            plural: d.plural.into(),
            kind: d.kind.into(),
            namespaced: d.scope == Scope::Namespaced,
            verbs: d.verbs.iter().map(|v| v.to_string()).collect(),
            schema: d.schema.into(),
            list_schema: format!("{}List", d.schema),
            subresources: subresources.collect(),
            returns_deleted_object: RETURN_DELETED_OBJECT.contains(&(d.group, d.plural)),
            custom: false,
        }
    }
}

impl Subresource {
    /// Fills in the query parameters of a stream: those of its own kind, and for logs, which answer with text although
    /// their kind is the parent's, those of `PodLogOptions`.
    pub fn with_options(mut self, parent: &str, types: &Types) -> Subresource {
        if self.connects() {
            self.options = parameters_of(types, &self.schema);
            self.schema.clear();
        } else if self.name == "log" {
            self.options = parameters_of(types, &format!("io.k8s.api.core.v1.{parent}LogOptions"));
            self.schema.clear();
        }
        self
    }
}
