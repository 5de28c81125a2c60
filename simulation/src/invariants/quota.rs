//! ResourceQuotas tell what is used.

use super::Invariant;
use crate::api::kinds::{POD, RESOURCE_QUOTA};
use crate::api::state::State;
use crate::object;

/// At rest a quota tells of as many pods as there are that have not ended.
pub struct Used;

impl Invariant for Used {
    fn at_rest(&self, state: &State) -> Result<(), String> {
        for quota in state.list(RESOURCE_QUOTA, "") {
            let pods = state.list(POD, object::namespace(quota)).filter(|pod| !object::is_ended(pod)).count();
            let told = object::text(quota, "/status/used/pods");
            if told != pods.to_string() {
                return Err(format!("quota {:?} tells of {told:?} pods, there are {pods}", object::name(quota)));
            }
        }
        Ok(())
    }
}
