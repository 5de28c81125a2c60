//! The admission chain: what a write must be changed to, and whether it may happen at all.
//!
//! One file a plugin, run in the order of [`Chain`]. A plugin sees one write and may look at other objects; it never writes.

use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::Value;

use crate::catalog::Resource;
use crate::filters::authentication::User;

pub mod namespace_lifecycle;

/// What is being done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// A write on its way in.
pub struct Attributes<'a> {
    pub operation: Operation,
    pub resource: &'a Resource,
    /// Empty for the main resource.
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// Empty when the name is to be generated.
    pub name: &'a str,
    pub user: &'a User,
    pub dry_run: bool,
    pub now: Timestamp,
    /// The options object of the request (CreateOptions, …), for those that look at it.
    pub options: &'a Value,
}

/// Looks at other objects, as fresh as the last acknowledged write.
pub trait Lookup: Send + Sync {
    /// An object in its storage version.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value>;
    /// All objects of a resource in a namespace (empty: in all), in key order, in their storage version.
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Value>;
}

/// One admission plugin, named as `--enable-admission-plugins` names it.
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// Changes the object before it is validated. `old` is there for updates.
    fn admit(&self, _attributes: &Attributes<'_>, _lookup: &dyn Lookup, _new: &mut Value, _old: Option<&Value>, _warnings: &mut Vec<String>) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses, or lets pass. `new` is `None` for deletions.
    fn validate(&self, _attributes: &Attributes<'_>, _lookup: &dyn Lookup, _new: Option<&Value>, _old: Option<&Value>, _warnings: &mut Vec<String>) -> Result<(), Status> {
        Ok(())
    }
}

/// The plugins that are on, in upstream's order.
pub struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
}

impl Chain {
    pub fn new(plugins: Vec<Box<dyn Plugin>>) -> Chain {
        Chain { plugins }
    }

    pub fn admit(&self, attributes: &Attributes<'_>, lookup: &dyn Lookup, new: &mut Value, old: Option<&Value>, warnings: &mut Vec<String>) -> Result<(), Status> {
        self.plugins.iter().try_for_each(|p| p.admit(attributes, lookup, new, old, warnings))
    }

    pub fn validate(&self, attributes: &Attributes<'_>, lookup: &dyn Lookup, new: Option<&Value>, old: Option<&Value>, warnings: &mut Vec<String>) -> Result<(), Status> {
        self.plugins.iter().try_for_each(|p| p.validate(attributes, lookup, new, old, warnings))
    }
}
