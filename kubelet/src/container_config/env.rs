//! A container's environment: what its variables are worth on this node.
//!
//! Upstream: `makeEnvironmentVariables` in pkg/kubelet/kubelet_pods.go.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, EnvVarSource, FileKeySelector, Secret};

use super::{Error, Inputs, downward, env_file, expansion, service_env};
use crate::volumes::ObjectError;

/// The variables of a container by name.
pub type Env = BTreeMap<String, String>;

/// The objects and files that the container's variables refer to, as far as they could be had.
#[derive(Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, Result<Arc<ConfigMap>, ObjectError>>,
    pub secrets: BTreeMap<String, Result<Arc<Secret>, ObjectError>>,
    /// Files of variables by volume and path.
    pub files: BTreeMap<(String, String), Result<String, Error>>,
}

impl Sources {
    /// Nothing if the object is not there and need not be.
    fn config_map(&self, name: &str, optional: bool) -> Result<Option<&ConfigMap>, Error> {
        found(self.config_maps.get(name), || format!("configmap \"{name}\" not found"), optional)
    }

    fn secret(&self, name: &str, optional: bool) -> Result<Option<&Secret>, Error> {
        found(self.secrets.get(name), || format!("secret \"{name}\" not found"), optional)
    }
}

fn found<T>(object: Option<&Result<Arc<T>, ObjectError>>, not_found: impl Fn() -> String, optional: bool) -> Result<Option<&T>, Error> {
    match object {
        Some(Ok(object)) => Ok(Some(object)),
        None | Some(Err(ObjectError::NotFound(_))) if optional => Ok(None),
        None => Err(Error::new(not_found())),
        Some(Err(error)) => Err(Error::new(error.to_string())),
    }
}

/// What the container's variables are; those of services come in last and only where nothing has that name.
pub fn environment(inputs: &Inputs<'_>, sources: &Sources) -> Result<Env, Error> {
    let namespace = inputs.pod.metadata.namespace.as_deref().unwrap_or("");
    let links = inputs.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let services = service_env::variables(inputs.services, namespace, links);
    let mut env = Env::new();
    for from in inputs.container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or("");
        if let Some(reference) = &from.config_map_ref {
            let Some(config_map) = sources.config_map(&reference.name, reference.optional == Some(true))? else { continue };
            env.extend(config_map.data.iter().flatten().map(|(key, value)| (format!("{prefix}{key}"), value.clone())));
        } else if let Some(reference) = &from.secret_ref {
            let Some(secret) = sources.secret(&reference.name, reference.optional == Some(true))? else { continue };
            let text = |(key, value): (&String, &k8s_openapi::ByteString)| (format!("{prefix}{key}"), lossy(&value.0));
            env.extend(secret.data.iter().flatten().map(text));
        }
    }
    for variable in inputs.container.env.iter().flatten() {
        let value = match (variable.value.as_deref().filter(|value| !value.is_empty()), &variable.value_from) {
            (Some(value), _) => expansion::expand(value, |name| env.get(name).or_else(|| services.get(name)).cloned()),
            (None, None) => String::new(),
            (None, Some(source)) => match value_from(inputs, sources, source)? {
                Some(value) => value,
                None => continue,
            },
        };
        env.insert(variable.name.clone(), value);
    }
    for (name, value) in services {
        env.entry(name).or_insert(value);
    }
    Ok(env)
}

/// CRI carries values as text.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Nothing if the source is optional and absent.
fn value_from(inputs: &Inputs<'_>, sources: &Sources, source: &EnvVarSource) -> Result<Option<String>, Error> {
    let namespace = inputs.pod.metadata.namespace.as_deref().unwrap_or("");
    if let Some(field) = &source.field_ref {
        return field_value(inputs, field.api_version.as_deref().unwrap_or("v1"), &field.field_path).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return downward::container_resource(inputs.pod, Some(inputs.container), selector, &inputs.node.allocatable).map(Some);
    }
    if let Some(selector) = &source.config_map_key_ref {
        let optional = selector.optional == Some(true);
        let Some(config_map) = sources.config_map(&selector.name, optional)? else { return Ok(None) };
        return match config_map.data.as_ref().and_then(|data| data.get(&selector.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(Error::new(format!("couldn't find key {} in ConfigMap {namespace}/{}", selector.key, selector.name))),
        };
    }
    if let Some(selector) = &source.secret_key_ref {
        let optional = selector.optional == Some(true);
        let Some(secret) = sources.secret(&selector.name, optional)? else { return Ok(None) };
        return match secret.data.as_ref().and_then(|data| data.get(&selector.key)) {
            Some(value) => Ok(Some(lossy(&value.0))),
            None if optional => Ok(None),
            None => Err(Error::new(format!("couldn't find key {} in Secret {namespace}/{}", selector.key, selector.name))),
        };
    }
    if let Some(selector) = &source.file_key_ref {
        return file_value(sources, selector);
    }
    Ok(Some(String::new()))
}

fn file_value(sources: &Sources, selector: &FileKeySelector) -> Result<Option<String>, Error> {
    let optional = selector.optional == Some(true);
    let file = sources.files.get(&(selector.volume_name.clone(), selector.path.clone()));
    let text = match file {
        Some(Ok(text)) => text,
        Some(Err(error)) => return Err(error.clone()),
        None => return Err(Error::new(format!("cannot find the volume {:?} referenced by FileKeyRef", selector.volume_name))),
    };
    let value = env_file::value(text, &selector.key).map_err(|_| Error::new("couldn't parse env file"))?;
    match value.is_empty() {
        false => Ok(Some(value)),
        true if optional => Ok(None),
        true => Err(Error::new(format!("environment variable key {:?} not found in file {:?}", selector.key, selector.path))),
    }
}

fn field_value(inputs: &Inputs<'_>, version: &str, path: &str) -> Result<String, Error> {
    if version != "v1" {
        return Err(Error::new(format!("unsupported pod version: {version}")));
    }
    let spec = inputs.pod.spec.as_ref();
    match path {
        "spec.nodeName" => Ok(spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default()),
        "spec.serviceAccountName" => Ok(spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()),
        "status.hostIP" => Ok(inputs.node.host_ips.first().cloned().unwrap_or_default()),
        "status.hostIPs" => Ok(inputs.node.host_ips.join(",")),
        "status.podIP" => Ok(inputs.pod_ips.first().cloned().unwrap_or_default()),
        "status.podIPs" => Ok(inputs.pod_ips.join(",")),
        _ => downward::metadata_field(inputs.pod, path),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Container;
    use serde_json::{Value, json};

    use super::*;
    use crate::container_config::{Image, test_node};
    use crate::volumes::PodVolumes;

    fn run(container: Value) -> Result<Vec<String>, String> {
        let pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "node", "containers": []}}))
                .expect("it is a pod");
        let container: Container = serde_json::from_value(container).expect("it is a container");
        let config_map: ConfigMap = serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).expect("it is a config map");
        let secret: Secret = serde_json::from_value(json!({"data": {"s": "c2VjcmV0"}})).expect("it is a secret");
        let mut sources = Sources::default();
        sources.config_maps.insert("c".to_owned(), Ok(Arc::new(config_map)));
        sources.config_maps.insert("none".to_owned(), Err(ObjectError::NotFound("configmap \"none\" not found".to_owned())));
        sources.secrets.insert("s".to_owned(), Ok(Arc::new(secret)));
        let service = json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"clusterIP": "10.0.0.1", "ports": []}});
        let services = [Arc::new(serde_json::from_value(service).expect("it is a service"))];
        let inputs = Inputs {
            pod: &pod,
            container: &container,
            node: &test_node(),
            pod_ips: &["10.1.0.2".to_owned(), "fd00::2".to_owned()],
            volumes: &PodVolumes::default(),
            image: &Image::default(),
            image_volumes: &BTreeMap::new(),
            restart_count: 0,
            target_id: None,
            services: &services,
        };
        let env = environment(&inputs, &sources).map_err(|error| error.message)?;
        Ok(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    fn check(container: Value, expect: &[&str]) {
        let mut all = expect.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        all.push("KUBERNETES_SERVICE_HOST=10.0.0.1".to_owned());
        all.sort();
        assert_eq!(run(container.clone()), Ok(all), "{container}");
    }

    #[test]
    fn variables_come_from_where_they_say() {
        check(
            json!({"name": "x", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "s"}}]}),
            &["P_a=1", "P_b=2", "s=secret"],
        );
        check(
            json!({"name": "x", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(KUBERNETES_SERVICE_HOST)-$(C)"}, {"name": "C", "value": "$$(A)"}]}),
            &["A=1", "B=1-10.0.0.1-$(C)", "C=$(A)"],
        );
        check(
            json!({"name": "x", "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
                {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "a"}}},
                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "s"}}}]}),
            &["HOST=192.168.0.2", "IP=10.1.0.2", "IPS=10.1.0.2,fd00::2", "KEY=1", "NODE=node", "SECRET=secret"],
        );
    }

    #[test]
    fn what_is_absent_is_an_error_unless_it_is_optional() {
        let key = |source: Value| json!({"name": "x", "env": [{"name": "A", "valueFrom": source}]});
        check(key(json!({"configMapKeyRef": {"name": "none", "key": "a", "optional": true}})), &[]);
        check(key(json!({"configMapKeyRef": {"name": "c", "key": "z", "optional": true}})), &[]);
        check(json!({"name": "x", "envFrom": [{"configMapRef": {"name": "none", "optional": true}}]}), &[]);
        for (source, message) in [
            (json!({"configMapKeyRef": {"name": "none", "key": "a"}}), "configmap \"none\" not found"),
            (json!({"secretKeyRef": {"name": "other", "key": "a"}}), "secret \"other\" not found"),
            (json!({"configMapKeyRef": {"name": "c", "key": "z"}}), "couldn't find key z in ConfigMap n/c"),
            (json!({"secretKeyRef": {"name": "s", "key": "z"}}), "couldn't find key z in Secret n/s"),
        ] {
            assert_eq!(run(key(source)), Err(message.to_owned()));
        }
    }
}
