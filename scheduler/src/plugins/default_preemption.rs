//! DefaultPreemption: a pod that fits nowhere may have others of lower priority removed. Who is removed where is decided by
//! [`crate::preemption`]; until that is done the pod is not tried again.

use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Plugin, Point};
use crate::snapshot::pod::PodInfo;
use crate::world::World;

pub struct DefaultPreemption;

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreEnqueue, Point::PostFilter]
    }

    /// A pod that waits here is looked at again when a pod goes; the hint says no, since PreEnqueue is asked before it.
    fn interests(&self) -> &'static [Interest] {
        const { &[Interest::hinted(Resource::AssignedPod, Actions::DELETE, never)] }
    }

    fn pre_enqueue(&self, world: &World, pod: &PodInfo) -> Result<(), String> {
        if world.is_preempting(&pod.uid) { Err("waiting for the preemption for this pod to be finished".to_owned()) } else { Ok(()) }
    }
}

fn never(_world: &World, _pod: &PodInfo, _subject: &Subject) -> bool {
    false
}
