//! Where what a container asks for could come from.

use std::collections::BTreeMap;

use super::Mask;

/// One way to give a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// None: any nodes.
    pub affinity: Option<Mask>,
    /// Whether it takes no more nodes than it has to.
    pub preferred: bool,
}

/// The ways to give each resource. None of a resource: it does not matter; an empty list: there is no way.
pub type Hints = BTreeMap<String, Option<Vec<Hint>>>;
