//! SchedulingGates: a pod with gates is not tried.

use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Plugin, Point};
use crate::snapshot::pod::PodInfo;
use crate::world::World;

pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreEnqueue]
    }

    fn interests(&self) -> &'static [Interest] {
        const { &[Interest::hinted(Resource::TargetPod, Actions::POD_GATES_ELIMINATED, opened)] }
    }

    fn pre_enqueue(&self, _world: &World, pod: &PodInfo) -> Result<(), String> {
        let gates: Vec<&str> = pod.spec().scheduling_gates.iter().flatten().map(|gate| gate.name.as_str()).collect();
        if gates.is_empty() { Ok(()) } else { Err(format!("waiting for scheduling gates: [{}]", gates.join(" "))) }
    }
}

fn opened(_world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    matches!(subject, Subject::Pod { new: Some(new), .. } if new.uid == pod.uid)
}
