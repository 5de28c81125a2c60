//! PrioritySort: pods of higher priority are tried first, of equals the one that has waited longer. The queue is built on this order.

use crate::framework::{Plugin, Point};

pub struct PrioritySort;

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        "PrioritySort"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::QueueSort]
    }
}
