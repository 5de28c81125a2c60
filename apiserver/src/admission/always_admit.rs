//! AlwaysAdmit: nothing at all, under a name that old flags give.

use super::Plugin;

/// The plugin.
pub struct AlwaysAdmit;

impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }
}
