//! What a container gets beside what its pod says: devices, and the CPUs and memory that it is held to.

use std::collections::HashMap;

use crate::cri::v1;
use crate::devices::messages::ContainerAllocateResponse;

/// To be put into a container's configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Granted {
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<v1::Mount>,
    pub devices: Vec<v1::Device>,
    pub annotations: Vec<(String, String)>,
    /// Names of devices that the runtime knows (CDI).
    pub cdi_devices: Vec<String>,
    /// `cpuset.cpus`; empty: all.
    pub cpus: String,
    /// `cpuset.mems`; empty: all.
    pub memory_nodes: String,
    /// Its CPUs are its own, so that their time is not limited.
    pub no_cpu_quota: bool,
}

fn sorted(map: &HashMap<String, String>) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = map.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    pairs.sort();
    pairs
}

/// Of two pairs with one name the first stays.
fn add_pairs(known: &mut Vec<(String, String)>, more: &HashMap<String, String>, what: &str) {
    for (name, value) in sorted(more) {
        match known.iter().find(|(known, _)| *known == name) {
            None => known.push((name, value)),
            Some((_, first)) if *first != value => tracing::error!(name, first, value, "two device plugins want different {what}"),
            Some(_) => {}
        }
    }
}

impl Granted {
    /// Adds what a device plugin says that a container needs.
    pub fn add_devices(&mut self, response: &ContainerAllocateResponse) {
        add_pairs(&mut self.envs, &response.envs, "variables");
        add_pairs(&mut self.annotations, &response.annotations, "annotations");
        for device in &response.devices {
            match self.devices.iter().find(|known| known.container_path == device.container_path) {
                None => self.devices.push(v1::Device {
                    container_path: device.container_path.clone(),
                    host_path: device.host_path.clone(),
                    permissions: device.permissions.clone(),
                }),
                Some(known) if known.host_path != device.host_path => {
                    tracing::error!(path = device.container_path, "two device plugins want different devices at one path");
                }
                Some(_) => {}
            }
        }
        for mount in &response.mounts {
            match self.mounts.iter().find(|known| known.container_path == mount.container_path) {
                None => self.mounts.push(v1::Mount {
                    container_path: mount.container_path.clone(),
                    host_path: mount.host_path.clone(),
                    readonly: mount.read_only,
                    ..v1::Mount::default()
                }),
                Some(known) if known.host_path != mount.host_path => {
                    tracing::error!(path = mount.container_path, "two device plugins want different mounts at one path");
                }
                Some(_) => {}
            }
        }
        response.cdi_devices.iter().for_each(|device| self.add_cdi_device(&device.name));
    }

    pub fn add_cdi_device(&mut self, name: &str) {
        if !self.cdi_devices.iter().any(|known| known == name) {
            self.cdi_devices.push(name.to_owned());
        }
    }

    /// Puts it into a container's configuration, before what the pod says: that prevails where both are named alike.
    pub fn apply(self, config: &mut v1::ContainerConfig) {
        let envs = self.envs.into_iter().map(|(key, value)| v1::KeyValue { key, value });
        config.envs.splice(0..0, envs);
        config.mounts.splice(0..0, self.mounts);
        config.devices.splice(0..0, self.devices);
        for (name, value) in self.annotations {
            config.annotations.entry(name).or_insert(value);
        }
        config.cdi_devices.extend(self.cdi_devices.into_iter().map(|name| v1::CdiDevice { name }));
        let resources = config.linux.as_mut().and_then(|linux| linux.resources.as_mut());
        if let Some(resources) = resources {
            resources.cpuset_cpus = self.cpus;
            resources.cpuset_mems = self.memory_nodes;
            if self.no_cpu_quota {
                resources.cpu_quota = -1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::messages::{CdiDevice, DeviceSpec, Mount};

    fn response(value: &str, path: &str) -> ContainerAllocateResponse {
        ContainerAllocateResponse {
            envs: HashMap::from([("K".to_owned(), value.to_owned()), (format!("K{value}"), value.to_owned())]),
            mounts: vec![Mount { container_path: "/m".to_owned(), host_path: path.to_owned(), read_only: true }],
            devices: vec![DeviceSpec { container_path: "/dev/d".to_owned(), host_path: path.to_owned(), permissions: "rw".to_owned() }],
            annotations: HashMap::from([("a".to_owned(), value.to_owned())]),
            cdi_devices: vec![CdiDevice { name: "v/c=d".to_owned() }],
        }
    }

    #[test]
    fn the_first_plugin_prevails_and_the_pod_over_it() {
        let mut granted = Granted { cpus: "1,2".to_owned(), memory_nodes: "0".to_owned(), ..Granted::default() };
        granted.add_devices(&response("1", "/one"));
        granted.add_devices(&response("2", "/two"));
        let mut config = v1::ContainerConfig {
            envs: vec![v1::KeyValue { key: "K".to_owned(), value: "own".to_owned() }],
            annotations: HashMap::from([("a".to_owned(), "own".to_owned())]),
            linux: Some(v1::LinuxContainerConfig { resources: Some(v1::LinuxContainerResources::default()), ..Default::default() }),
            ..Default::default()
        };
        granted.apply(&mut config);
        let envs: Vec<(&str, &str)> = config.envs.iter().map(|env| (env.key.as_str(), env.value.as_str())).collect();
        assert_eq!(envs, [("K", "1"), ("K1", "1"), ("K2", "2"), ("K", "own")]);
        assert_eq!(config.mounts.iter().map(|mount| (mount.host_path.as_str(), mount.readonly)).collect::<Vec<_>>(), [("/one", true)]);
        assert_eq!(config.devices.iter().map(|device| device.host_path.as_str()).collect::<Vec<_>>(), ["/one"]);
        assert_eq!(config.cdi_devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["v/c=d"]);
        assert_eq!(config.annotations["a"], "own");
        let resources = config.linux.and_then(|linux| linux.resources).expect("it is there");
        assert_eq!((resources.cpuset_cpus.as_str(), resources.cpuset_mems.as_str()), ("1,2", "0"));
    }
}
