//! What expressions that select devices may name, and what they may cost.
//!
//! Specified by upstream's `dynamic-resource-allocation/cel` (v1.37): the API server checks by it what the scheduler evaluates.

use crate::{Env, Type};

/// The name of the type of a device.
pub const DEVICE: &str = "kubernetes.DRADevice";
/// The most that one evaluation may cost (`CELSelectorExpressionMaxCost`).
pub const MAX_COST: u64 = 1_000_000;

/// Declares `device`.
pub fn declare(env: Env) -> Env {
    let by_domain = |value: Type| Type::map(Type::String, Type::map(Type::String, value));
    let fields = [
        ("driver", Type::String),
        ("allowMultipleAllocations", Type::Bool),
        ("attributes", by_domain(Type::Dyn)),
        ("capacity", by_domain(Type::object("kubernetes.Quantity"))),
    ];
    env.with_bindings().with_object(DEVICE, &fields).with_variable("device", Type::object(DEVICE))
}
