//! What the kubelet's server is told of the node.

use std::sync::Arc;

use client::Object;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::configuration;
use crate::core::Core;
use crate::cri::{SharedRuntime, v1};
use crate::pleg;
use crate::pods::Pods;
use crate::server::{MetricsPage, Node};

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
        self.pods.all().into_iter().map(|pod| self.with_status(pod)).collect()
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
        let states = [
            ("created", v1::ContainerState::ContainerCreated),
            ("running", v1::ContainerState::ContainerRunning),
            ("exited", v1::ContainerState::ContainerExited),
            ("unknown", v1::ContainerState::ContainerUnknown),
        ];
        let ready = sandboxes.iter().filter(|sandbox| sandbox.state() == v1::PodSandboxState::SandboxReady).count();
        let mut page = String::from(
            "# HELP kubelet_running_containers [ALPHA] Number of containers currently running\n\
             # TYPE kubelet_running_containers gauge\n",
        );
        for (word, state) in states {
            let count = containers.iter().filter(|container| container.state() == state).count();
            if count > 0 {
                page.push_str(&format!("kubelet_running_containers{{container_state=\"{word}\"}} {count}\n"));
            }
        }
        page.push_str("# HELP kubelet_running_pods [ALPHA] Number of pods that have a running pod sandbox\n");
        page.push_str(&format!("# TYPE kubelet_running_pods gauge\nkubelet_running_pods {ready}\n"));
        page.push_str("# HELP kubelet_node_name [ALPHA] The node's name. The count is always 1.\n# TYPE kubelet_node_name gauge\n");
        page.push_str(&format!("kubelet_node_name{{node=\"{}\"}} 1\n", self.core.config.node_name));
        page.push_str(&self.core.container_manager.metrics.render());
        Ok(page)
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
