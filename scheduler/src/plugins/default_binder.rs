//! DefaultBinder: a pod is bound by its `binding` subresource. The request is made by [`crate::binding`].

use crate::framework::{Plugin, Point};

pub struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Bind]
    }
}
