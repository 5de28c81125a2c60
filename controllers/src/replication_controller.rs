//! ReplicationControllers: what ReplicaSets were called before they had set-based selectors. Run by the same code.

use apimachinery::selector::label::Selector;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus};

use crate::manager::Context;
use crate::replica_set::{self, Replicated};

impl Replicated for ReplicationController {
    const COUNTS_TERMINATING: bool = false;
    const QUEUE: &'static str = "replicationmanager";

    fn desired(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> Option<Selector> {
        let labels = self.spec.as_ref()?.selector.as_ref()?;
        Some(Selector::from_labels(labels.iter().map(|(key, value)| (key.as_str(), value.as_str()))))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> ReplicaSetStatus {
        let Some(status) = self.status.clone() else { return ReplicaSetStatus::default() };
        ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            terminating_replicas: None,
            conditions: status.conditions.map(|conditions| conditions.into_iter().map(from_condition).collect()),
        }
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        self.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: status.conditions.map(|conditions| conditions.into_iter().map(to_condition).collect()),
        });
    }
}

fn from_condition(condition: ReplicationControllerCondition) -> ReplicaSetCondition {
    let ReplicationControllerCondition { type_, status, reason, message, last_transition_time } = condition;
    ReplicaSetCondition { type_: Some(type_), status: Some(status), reason, message, last_transition_time }
}

fn to_condition(condition: ReplicaSetCondition) -> ReplicationControllerCondition {
    let ReplicaSetCondition { type_, status, reason, message, last_transition_time } = condition;
    let (type_, status) = (type_.unwrap_or_default(), status.unwrap_or_default());
    ReplicationControllerCondition { type_, status, reason, message, last_transition_time }
}

/// Runs the ReplicationController controller until shutdown.
pub async fn run(context: Context) {
    let workers = context.config.concurrent_rc_syncs;
    replica_set::run_for::<ReplicationController>(context, workers).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_the_change_of_form() {
        let status = ReplicaSetStatus {
            replicas: 3,
            ready_replicas: Some(2),
            observed_generation: Some(1),
            conditions: Some(vec![ReplicaSetCondition {
                type_: Some("ReplicaFailure".to_owned()),
                status: Some("True".to_owned()),
                ..ReplicaSetCondition::default()
            }]),
            ..ReplicaSetStatus::default()
        };
        let mut controller = ReplicationController::default();
        controller.set_status(status.clone());
        assert_eq!(controller.status(), status);
    }
}
