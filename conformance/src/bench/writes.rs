//! Writes beyond plain creates: server-side apply of a manifest that is applied already, and what admission policies add to a create. Tells
//! the rate, and the processor time that the server's processes take for each.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};

use super::connection::{Connection, Endpoint, JSON};
use super::fixture;
use super::load::{Load, Tally, Until};
use super::process::processor_time;

const NAMESPACE: &str = "bench-writes";
/// Deployments that are applied again and again.
const DEPLOYMENTS: u64 = 50;
const POLICIES: u64 = 100;
const APPLY: &str = "application/apply-patch+yaml";
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
/// How long a server may take to put policies in force.
const IN_FORCE: Duration = Duration::from_secs(5);

/// Some work, and the processor time of the server for each request of it.
pub struct Work {
    pub tally: Tally,
    pub each: Duration,
}

/// What was found.
pub struct Found {
    pub apply_again: Work,
    pub get: Work,
    pub create: Work,
    pub create_with_policies: Work,
}

/// A Deployment of about 300 lines of YAML.
fn deployment(number: u64) -> Bytes {
    let container = |i: u64| {
        let env: Vec<Value> = (0..18).map(|j| json!({"name": format!("VARIABLE_{j}"), "value": format!("value-{j}")})).collect();
        json!({
            "name": format!("c{i}"), "image": format!("registry.example/app-{i}:1.{i}"), "args": ["--listen=:8080", "--verbose"], "env": env,
            "ports": [{"name": format!("http-{i}"), "containerPort": 8080 + i}, {"name": format!("metrics-{i}"), "containerPort": 9080 + i}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080 + i}, "periodSeconds": 5},
            "livenessProbe": {"httpGet": {"path": "/livez", "port": 8080 + i}, "initialDelaySeconds": 10},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/config"}, {"name": "tmp", "mountPath": "/tmp"}],
            "securityContext": {"runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        })
    };
    let containers: Vec<Value> = (0..3).map(container).collect();
    let labels = json!({"app": "web", "team": "blue"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": format!("web-{number}"), "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": labels}, "spec": {
                "serviceAccountName": "default", "containers": containers, "tolerations": [{"key": "a", "operator": "Exists"}],
                "volumes": [{"name": "config", "configMap": {"name": "config"}}, {"name": "tmp", "emptyDir": {}}],
            }},
        },
    });
    Bytes::from(deployment.to_string())
}

fn deployment_path(number: u64) -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/web-{number}")
}

async fn apply(connection: &mut Connection, number: u64) -> anyhow::Result<()> {
    let request = Request::builder().method(Method::PATCH).header("content-type", APPLY).header("accept", JSON);
    let path = format!("{}?fieldManager=bench&force=true", deployment_path(number));
    let answer = connection.perform(request, &path, deployment(number)).await?;
    ensure!(answer.status < 300, "{path}: {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    Ok(())
}

/// A policy about pods that all of them keep, as most do.
fn policy(number: u64) -> (Value, Value) {
    let name = format!("bench-{number}");
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}},
                "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["pods"]}],
            },
            "validations": [{"expression": "object.spec.containers.all(c, !c.image.endsWith(':latest'))", "message": "no latest"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    (policy, binding)
}

/// Runs work with its cost to these processes.
async fn measured<F, W>(endpoint: &Endpoint, processes: &[u32], count: u64, work: W) -> anyhow::Result<Work>
where
    W: Fn(Connection, u64) -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let spent = || processes.iter().map(|id| processor_time(*id)).sum::<anyhow::Result<Duration>>();
    let before = spent()?;
    let tally = Load { connections: 8, streams: 4, until: Until::Count(count) }.run(endpoint, work).await?;
    let each = spent()?.saturating_sub(before).div_f64(tally.done.max(1) as f64);
    Ok(Work { tally, each })
}

/// Does all the work, `count` requests of each sort, and takes away what it made.
pub async fn run(endpoint: &Endpoint, processes: &[u32], count: u64) -> anyhow::Result<Found> {
    let mut connection = endpoint.connect().await?;
    fixture::namespace(&mut connection, NAMESPACE).await?;
    for number in 0..DEPLOYMENTS {
        apply(&mut connection, number).await?;
    }
    let again = |mut connection: Connection, number: u64| async move { apply(&mut connection, number % DEPLOYMENTS).await };
    let apply_again = measured(endpoint, processes, count, again).await?;
    let read = |mut connection: Connection, number: u64| async move {
        connection.get_length(&deployment_path(number % DEPLOYMENTS), JSON).await.map(|_| ())
    };
    let get = measured(endpoint, processes, count, read).await?;
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let creating = |from: u64| {
        let pods = pods.clone();
        move |mut connection: Connection, number: u64| {
            let pods = pods.clone();
            async move { connection.create(&pods, fixture::pod(from + number)).await.map(|_| ()) }
        }
    };
    let create = measured(endpoint, processes, count, creating(0)).await?;
    for number in 0..POLICIES {
        let (policy, binding) = policy(number);
        connection.create(&format!("{ADMISSION}/validatingadmissionpolicies"), policy.to_string().into()).await?;
        connection.create(&format!("{ADMISSION}/validatingadmissionpolicybindings"), binding.to_string().into()).await?;
    }
    tokio::time::sleep(IN_FORCE).await;
    let create_with_policies = measured(endpoint, processes, count, creating(count)).await?;
    clean(&mut connection).await?;
    Ok(Found { apply_again, get, create, create_with_policies })
}

async fn clean(connection: &mut Connection) -> anyhow::Result<()> {
    for number in 0..POLICIES {
        for plural in ["validatingadmissionpolicybindings", "validatingadmissionpolicies"] {
            let path = format!("{ADMISSION}/{plural}/bench-{number}");
            let (status, body) = connection.exchange(Method::DELETE, &path, Bytes::new()).await?;
            ensure!(status.is_success(), "DELETE {path}: {status}: {}", String::from_utf8_lossy(&body));
        }
    }
    for number in 0..DEPLOYMENTS {
        connection.exchange(Method::DELETE, &deployment_path(number), Bytes::new()).await?;
    }
    fixture::remove(connection, NAMESPACE).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_has_about_three_hundred_lines() {
        let value: Value = serde_json::from_slice(&deployment(0)).expect("JSON");
        let lines = serde_json::to_string_pretty(&value).expect("text").lines().filter(|line| line.trim().len() > 2).count();
        assert!((250..350).contains(&lines), "{lines}");
    }
}
