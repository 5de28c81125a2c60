//! What the kubelet's server is told of the node.

use std::sync::Arc;

use client::Object;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::configuration;
use crate::core::Core;
use crate::cri::SharedRuntime;
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

    fn configuration(&self) -> Value {
        let mut value = json!({"kind": configuration::KIND, "apiVersion": configuration::API_VERSION});
        if let (Some(all), Ok(Value::Object(fields))) = (value.as_object_mut(), serde_json::to_value(&self.core.config.configuration)) {
            all.extend(fields);
        }
        value
    }

    fn summary(&self, _only_cpu_and_memory: bool) -> BoxFuture<'_, Result<Value, String>> {
        Box::pin(async { Err("statistics are not collected yet".to_owned()) })
    }

    fn metrics(&self, page: MetricsPage) -> BoxFuture<'_, Result<String, String>> {
        let page = match page {
            MetricsPage::Probes => self.core.probes.metrics().render(),
            MetricsPage::Kubelet | MetricsPage::Cadvisor | MetricsPage::Resource | MetricsPage::Slis => String::new(),
        };
        Box::pin(async move { Ok(page) })
    }
}
