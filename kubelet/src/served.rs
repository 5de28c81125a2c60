//! What the kubelet's server is told of the node.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Object;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::core::Core;
use crate::cri::{SharedRuntime, v1};
use crate::pleg;
use crate::pods::Pods;
use crate::server::{MetricsPage, Node};
use crate::stats::exposition::Page;
use crate::{configuration, pod, volumes};

pub struct Served {
    pub core: Arc<Core>,
    pub pods: Pods,
    pub pleg: pleg::Health,
}

impl Served {
    fn with_status(&self, pod: Arc<Pod>) -> Arc<Pod> {
        match self.core.statuses.get(pod.uid()) {
            Some(status) => {
                let mut pod = Pod::clone(&pod);
                pod.status = Some((*status).clone());
                Arc::new(pod)
            }
            None => pod,
        }
    }
}

impl Node for Served {
    fn name(&self) -> &str {
        &self.core.config.node_name
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.wanted().into_iter().map(|pod| self.with_status(pod)).collect()
    }

    fn runtime(&self) -> SharedRuntime {
        self.core.runtime.clone()
    }

    fn check_sync_loop(&self) -> Result<(), String> {
        self.pleg.problem().map_or(Ok(()), Err)
    }

    fn check_device_plugins(&self) -> Result<(), String> {
        self.core.container_manager.devices.problem().map_or(Ok(()), Err)
    }

    fn configuration(&self) -> Value {
        let mut value = json!({"kind": configuration::KIND, "apiVersion": configuration::API_VERSION});
        if let (Some(all), Ok(Value::Object(fields))) = (value.as_object_mut(), serde_json::to_value(&self.core.config.configuration)) {
            all.extend(fields);
        }
        value
    }

    fn summary(&self, only_cpu_and_memory: bool) -> BoxFuture<'_, Result<Value, String>> {
        Box::pin(async move {
            let summary = self.core.stats.summary(&self.pods.all(), only_cpu_and_memory).await?;
            serde_json::to_value(summary).map_err(|error| error.to_string())
        })
    }

    fn metrics(&self, page: MetricsPage) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(async move {
            Ok(match page {
                MetricsPage::Probes => self.core.probes.metrics().render(),
                MetricsPage::Cadvisor => self.core.stats.cadvisor_metrics(&self.pods.all()).await?,
                MetricsPage::Resource => self.core.stats.resource_metrics(&self.pods.all()).await,
                MetricsPage::Kubelet => self.own_metrics().await?,
                MetricsPage::Slis => self.health_metrics(),
            })
        })
    }
}

impl Served {
    /// Series of the kubelet itself, by upstream's names.
    async fn own_metrics(&self) -> Result<String, String> {
        let containers = self.core.runtime.list_containers(None).await.map_err(|error| error.to_string())?;
        let sandboxes = self.core.runtime.list_pod_sandboxes(None).await.map_err(|error| error.to_string())?;
        let mut page = Page::default();
        running(&mut page, &containers, &sandboxes);
        self.pod_counts(&mut page);
        self.volume_stats(&mut page);
        let node = self.core.config.node_name.as_str();
        page.family("kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.").sample(&[("node", node)], 1.0, None);
        let last = Timestamp::now().as_nanosecond() as f64 / 1e9 - self.pleg.age().as_secs_f64();
        page.family("kubelet_pleg_last_seen_seconds", "gauge", "[ALPHA] Timestamp in seconds when PLEG was last seen active.").sample(
            &[],
            last,
            None,
        );
        let (began, ended) = self.core.node_shutdown.times();
        for (name, what, time) in [("start", "start", began), ("end", "end", ended)] {
            let name = format!("kubelet_graceful_shutdown_{name}_time_seconds");
            let help = format!("[ALPHA] Last graceful shutdown {what} time since unix epoch in seconds");
            page.family(&name, "gauge", &help).sample(&[], time, None);
        }
        Ok([page.into_text(), self.core.metrics.render(), self.core.container_manager.metrics.render()].concat())
    }

    /// How many pods there are, by where they came from and how far they are.
    fn pod_counts(&self, page: &mut Page) {
        let pods = self.pods.all();
        let terminal = |pod: &Arc<Pod>| {
            let told = self.core.statuses.get(pod.uid());
            pod::is_terminal_phase(told.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_else(|| pod::phase(pod)))
        };
        let by_source = |keep: &dyn Fn(&Arc<Pod>) -> bool| {
            let count = |of_file: bool| pods.iter().filter(|pod| pod::is_static(pod) == of_file && keep(pod)).count();
            [("", count(false)), ("true", count(true))]
        };
        let help =
            "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.";
        let mut family = page.family("kubelet_desired_pods", "gauge", help);
        for (of_file, count) in by_source(&|_| true) {
            family.sample(&[("static", of_file)], count as f64, None);
        }
        let help = "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.";
        let mut family = page.family("kubelet_active_pods", "gauge", help);
        for (of_file, count) in by_source(&|pod| !terminal(pod)) {
            family.sample(&[("static", of_file)], count as f64, None);
        }
        let help = "[ALPHA] Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired, orphaned, or runtime only (also orphaned), and whether the pod is static. An orphaned pod has been removed from local configuration or force deleted in the API and consumes resources that are not otherwise visible.";
        let mut family = page.family("kubelet_working_pods", "gauge", help);
        for lifecycle in ["sync", "terminated", "terminating"] {
            let is = |pod: &Arc<Pod>| match lifecycle {
                "terminated" => self.pods.is_over(pod.uid()),
                "terminating" => !self.pods.is_over(pod.uid()) && (pod.is_terminating() || terminal(pod)),
                _ => !self.pods.is_over(pod.uid()) && !pod.is_terminating() && !terminal(pod),
            };
            for (of_file, count) in by_source(&is) {
                family.sample(&[("config", "desired"), ("lifecycle", lifecycle), ("static", of_file)], count as f64, None);
            }
        }
        let help = "[ALPHA] The number of mirror pods the kubelet will try to create (one per admitted static pod)";
        let mirrors = pods.iter().filter(|pod| pod::is_static(pod) && !terminal(pod)).count();
        page.family("kubelet_mirror_pods", "gauge", help).sample(&[], mirrors as f64, None);
        let help = "[ALPHA] Current number of ephemeral containers in pods managed by this kubelet.";
        let ephemeral: usize = pods.iter().map(|pod| pod::ephemeral_containers(pod).len()).sum();
        page.family("kubelet_managed_ephemeral_containers", "gauge", help).sample(&[], ephemeral as f64, None);
    }

    /// What the claims' volumes take, once each.
    fn volume_stats(&self, page: &mut Page) {
        let mut claims = BTreeMap::new();
        for pod in self.pods.all() {
            let named = pod::spec(&pod).volumes.iter().flatten();
            let by_name: BTreeMap<&str, String> =
                named.filter_map(|volume| Some((volume.name.as_str(), volumes::claim_of(&pod, volume)?))).collect();
            for (name, usage) in self.core.volumes.measured(pod.uid()) {
                if let Some(claim) = by_name.get(name.as_str()) {
                    claims.insert((pod.namespace().to_owned(), claim.clone()), usage);
                }
            }
        }
        type Field = fn(&volumes::Usage) -> u64;
        let families: [(&str, &str, Field); 6] = [
            ("available_bytes", "Number of available bytes in the volume", |usage| usage.available),
            ("capacity_bytes", "Capacity in bytes of the volume", |usage| usage.capacity),
            ("inodes", "Maximum number of inodes in the volume", |usage| usage.inodes),
            ("inodes_free", "Number of free inodes in the volume", |usage| usage.inodes_free),
            ("inodes_used", "Number of used inodes in the volume", |usage| usage.inodes_used),
            ("used_bytes", "Number of used bytes in the volume", |usage| usage.used),
        ];
        for (name, help, field) in families {
            let (name, help) = (format!("kubelet_volume_stats_{name}"), format!("[ALPHA] {help}"));
            let mut family = page.family(&name, "gauge", &help);
            for ((namespace, claim), usage) in &claims {
                family.sample(&[("namespace", namespace), ("persistentvolumeclaim", claim)], field(usage) as f64, None);
            }
        }
    }

    fn health_metrics(&self) -> String {
        let healthy = i32::from(self.pleg.problem().is_none());
        format!(
            "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.\n\
             # TYPE kubernetes_healthcheck gauge\n\
             kubernetes_healthcheck{{name=\"syncloop\",type=\"healthz\"}} {healthy}\n"
        )
    }
}

/// What the runtime runs.
fn running(page: &mut Page, containers: &[v1::Container], sandboxes: &[v1::PodSandbox]) {
    let states = [
        ("created", v1::ContainerState::ContainerCreated),
        ("running", v1::ContainerState::ContainerRunning),
        ("exited", v1::ContainerState::ContainerExited),
        ("unknown", v1::ContainerState::ContainerUnknown),
    ];
    let mut family = page.family("kubelet_running_containers", "gauge", "[ALPHA] Number of containers currently running");
    for (word, state) in states {
        let count = containers.iter().filter(|container| container.state() == state).count();
        if count > 0 {
            family.sample(&[("container_state", word)], count as f64, None);
        }
    }
    let ready = sandboxes.iter().filter(|sandbox| sandbox.state() == v1::PodSandboxState::SandboxReady).count();
    let help = "[ALPHA] Number of pods that have a running pod sandbox";
    page.family("kubelet_running_pods", "gauge", help).sample(&[], ready as f64, None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_counted_by_its_state() {
        let container = |state: v1::ContainerState| v1::Container { state: state.into(), ..v1::Container::default() };
        let containers = [container(v1::ContainerState::ContainerRunning), container(v1::ContainerState::ContainerExited)];
        let sandbox = v1::PodSandbox { state: v1::PodSandboxState::SandboxReady.into(), ..v1::PodSandbox::default() };
        let mut page = Page::default();
        running(&mut page, &containers, &[sandbox]);
        let text = page.into_text();
        for line in ["kubelet_running_containers{container_state=\"exited\"} 1\n", "\nkubelet_running_pods 1\n"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("created"), "{text}");
    }
}
