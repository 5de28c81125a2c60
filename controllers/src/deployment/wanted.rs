//! A Deployment's wishes with everything that is derived from them. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::int_or_percent::{self, Round, scaled};

/// What a Deployment asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub replicas: i32,
    /// Whether pods are replaced step by step; otherwise all old ones go first.
    pub rolling: bool,
    /// Pods that may be there beyond `replicas`. Zero unless rolling.
    pub max_surge: i32,
    /// Pods of `replicas` that may be missing. Zero unless rolling.
    pub max_unavailable: i32,
    pub min_ready_seconds: Option<i32>,
    pub paused: bool,
    /// Nothing if the Deployment may take as long as it wants.
    pub progress_deadline_seconds: Option<i32>,
    /// Nothing if every old ReplicaSet is kept.
    pub history_limit: Option<i32>,
    pub template: &'a PodTemplateSpec,
}

impl<'a> Wanted<'a> {
    /// Reads a Deployment as the server stores it: validated, and with defaults.
    pub fn of(deployment: &'a Deployment) -> Result<Wanted<'a>, int_or_percent::Error> {
        let spec = &deployment.spec;
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.as_ref();
        let rolling = strategy.and_then(|s| s.type_.as_deref()).is_none_or(|kind| kind == "RollingUpdate");
        let bounds = strategy.and_then(|s| s.rolling_update.as_ref()).filter(|_| rolling);
        let mut max_surge = 0;
        let mut max_unavailable = 0;
        if rolling {
            let resolve = |value: Option<&_>, round| value.map_or(Ok(0), |value| scaled(value, replicas, round));
            max_surge = resolve(bounds.and_then(|b| b.max_surge.as_ref()), Round::Up)?;
            max_unavailable = resolve(bounds.and_then(|b| b.max_unavailable.as_ref()), Round::Down)?;
            if max_surge == 0 && max_unavailable == 0 {
                // Shares of few replicas may both come to nothing, and then nothing could ever move.
                max_unavailable = 1;
            }
            max_unavailable = max_unavailable.min(replicas);
        }
        let limited = |limit: Option<i32>| limit.filter(|limit| *limit != i32::MAX);
        Ok(Wanted {
            replicas,
            rolling,
            max_surge,
            max_unavailable,
            min_ready_seconds: spec.min_ready_seconds.filter(|seconds| *seconds != 0),
            paused: spec.paused.unwrap_or(false),
            progress_deadline_seconds: limited(spec.progress_deadline_seconds),
            history_limit: limited(spec.revision_history_limit),
            template: &spec.template,
        })
    }

    /// The most pods that may be there.
    pub fn max_total(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }

    /// The fewest pods that must be available.
    pub fn min_available(&self) -> i32 {
        self.replicas - self.max_unavailable
    }
}

#[cfg(test)]
pub mod tests {
    use k8s_openapi::api::apps::v1::{DeploymentStrategy, RollingUpdateDeployment};
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    use super::*;

    /// A rolling Deployment named `d/web`.
    pub fn deployment(replicas: i32, surge: IntOrString, unavailable: IntOrString) -> Deployment {
        let mut deployment = Deployment::default();
        deployment.metadata.name = Some("web".to_owned());
        deployment.metadata.namespace = Some("d".to_owned());
        deployment.metadata.uid = Some("web-uid".to_owned());
        deployment.metadata.generation = Some(1);
        let spec = &mut deployment.spec;
        spec.replicas = Some(replicas);
        spec.strategy = Some(DeploymentStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateDeployment { max_surge: Some(surge), max_unavailable: Some(unavailable) }),
        });
        spec.template.metadata.get_or_insert_default().labels = Some([("app".to_owned(), "web".to_owned())].into());
        deployment
    }

    #[test]
    fn bounds_are_resolved_against_the_replicas() {
        let text = |text: &str| IntOrString::String(text.to_owned());
        for (replicas, surge, unavailable, want) in [
            (10, text("25%"), text("25%"), (3, 2)),
            (1, text("25%"), text("25%"), (1, 0)),
            (2, IntOrString::Int(0), text("25%"), (0, 1)),
            (3, IntOrString::Int(0), IntOrString::Int(5), (0, 3)),
            (0, IntOrString::Int(1), IntOrString::Int(1), (1, 0)),
        ] {
            let deployment = deployment(replicas, surge, unavailable);
            let wanted = Wanted::of(&deployment).unwrap();
            assert_eq!((wanted.max_surge, wanted.max_unavailable), want, "{replicas}");
        }
    }
}
