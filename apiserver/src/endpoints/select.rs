//! Which objects of a collection a request is about: namespace, label selector and field selector, resolved against the resource.

use apimachinery::selector::{field as field_selector, label as label_selector};
use apimachinery::status::Status;

use crate::catalog::Resource;
use crate::storage::Object;

/// An object's labels, as selectors read them.
struct LabelsOf<'a>(&'a Object);

impl label_selector::Labels for LabelsOf<'_> {
    fn get_label(&self, key: &str) -> Option<&str> {
        self.0.labels().get(key)
    }
}

/// A field of an object that selectors can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    /// The n-th selectable field of the resource.
    Other(usize),
}

/// A resolved filter over one resource.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Empty for all.
    pub namespace: String,
    labels: label_selector::Selector,
    fields: Vec<(Field, bool, String)>,
}

impl Filter {
    /// Parses the selectors; unknown fields are refused in upstream's words.
    pub fn parse(resource: &Resource, namespace: &str, labels: &str, fields: &str) -> Result<Filter, Status> {
        let labels = label_selector::Selector::parse(labels).map_err(|e| Status::bad_request(e.to_string()))?;
        let parsed = field_selector::Selector::parse(fields).map_err(|e| Status::bad_request(e.to_string()))?;
        let fields = parsed
            .terms()
            .iter()
            .map(|t| resolve(resource, &t.field).map(|f| (f, !t.negated, t.value.clone())))
            .collect::<Result<_, _>>()?;
        Ok(Filter { namespace: namespace.to_owned(), labels, fields })
    }

    /// Everything in a namespace (or, with "", everywhere).
    pub fn everything(namespace: &str) -> Filter {
        Filter { namespace: namespace.to_owned(), labels: label_selector::Selector::of(Vec::new()), fields: Vec::new() }
    }

    /// Whether it lets everything pass that is in its namespace.
    pub fn is_trivial(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, object: &Object) -> bool {
        if !self.namespace.is_empty() && object.namespace() != self.namespace {
            return false;
        }
        let fields = self.fields.iter().all(|(field, equals, value)| {
            let found = match field {
                Field::Name => object.name(),
                Field::Namespace => object.namespace(),
                Field::Other(n) => object.field(*n).map_or("", |v| &**v),
            };
            (found == value) == *equals
        });
        fields && self.labels.matches(&LabelsOf(object))
    }

    /// Whether an object can match in some version: its name and namespace are the same in all.
    pub fn may_match(&self, object: &Object) -> bool {
        let in_namespace = self.namespace.is_empty() || object.namespace() == self.namespace;
        in_namespace
            && self.fields.iter().all(|(field, equals, value)| match field {
                Field::Name => (object.name() == value) == *equals,
                Field::Namespace => (object.namespace() == value) == *equals,
                Field::Other(_) => true,
            })
    }

    /// Whether it asks for more than names and namespaces, which may differ between versions.
    pub fn looks_inside(&self) -> bool {
        !self.labels.is_empty() || self.fields.iter().any(|(field, _, _)| matches!(field, Field::Other(_)))
    }

    /// The exact `metadata.name` that is asked for, if one is.
    pub fn exact_name(&self) -> Option<&str> {
        self.fields.iter().find(|(f, equals, _)| *f == Field::Name && *equals).map(|(_, _, v)| v.as_str())
    }

    /// The exact `metadata.namespace` that is asked for, if one is.
    pub fn exact_namespace(&self) -> Option<&str> {
        if !self.namespace.is_empty() {
            return Some(&self.namespace);
        }
        self.fields.iter().find(|(f, equals, _)| *f == Field::Namespace && *equals).map(|(_, _, v)| v.as_str())
    }

    /// An exact value asked of another selectable field: its position and the value.
    pub fn exact_field(&self) -> Option<(usize, &str)> {
        self.fields.iter().find_map(|(f, equals, v)| match f {
            Field::Other(n) if *equals => Some((*n, v.as_str())),
            _ => None,
        })
    }
}

fn resolve(resource: &Resource, name: &str) -> Result<Field, Status> {
    match name {
        "metadata.name" => return Ok(Field::Name),
        "metadata.namespace" if resource.namespaced || has_no_fields(resource) => return Ok(Field::Namespace),
        _ => {}
    }
    resource.selectable.iter().position(|(n, _)| &**n == name).map(Field::Other).ok_or_else(|| unknown(resource, name))
}

/// Whether the kind is selected by what every kind has alone. Such kinds take a namespace even where objects are in none.
fn has_no_fields(resource: &Resource) -> bool {
    resource.selectable.is_empty() && resource.custom.is_none()
}

/// The refusal of a field that cannot be selected on.
///
/// Kinds without fields of their own list what there is; kinds with some say only that the label is not supported.
fn unknown(resource: &Resource, name: &str) -> Status {
    if has_no_fields(resource) {
        return Status::bad_request(format!(
            "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            apimachinery::field::quote(name)
        ));
    }
    match (resource.group(), &*resource.plural) {
        ("batch", "jobs") => Status::bad_request(format!("field label {} not supported for Job", apimachinery::field::quote(name))),
        ("resource.k8s.io", "resourceslices") => {
            let kind = format!("{}, Kind={}", resource.api_version(), resource.gvk.kind);
            Status::bad_request(format!("field label not supported for {kind}: {name}"))
        }
        _ => Status::bad_request(format!("field label not supported: {name}")),
    }
}
