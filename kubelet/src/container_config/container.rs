//! A container as the runtime is told to make it.

use k8s_cri::v1::{ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerConfig, Mount};

use super::env::Env;
use super::{Error, Inputs, expansion, labels, mounts, resources, security};
use crate::cri::ContainerExtension;

/// Everything put together: a container with this environment and these mounts.
pub fn container_config(inputs: &Inputs<'_>, env: Env, mut mounts: Vec<Mount>) -> Result<ContainerConfig, Error> {
    security::verify_non_root(inputs)?;
    let (pod, container) = (inputs.pod, inputs.container);
    let expanded =
        |words: &Option<Vec<String>>| words.iter().flatten().map(|word| expansion::expand(word, |name| env.get(name).cloned())).collect();
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    let security_context = security::of_container(inputs)?;
    let userns = security_context.namespace_options.as_ref().and_then(|options| options.userns_options.as_ref());
    if let Some(userns) = userns {
        for mount in &mut mounts {
            mount.uid_mappings.clone_from(&userns.uids);
            mount.gid_mappings.clone_from(&userns.gids);
        }
    }
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: inputs.restart_count }),
        image: Some(ImageSpec {
            image: inputs.image.reference.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: env.into_iter().map(|(key, value)| k8s_cri::v1::KeyValue { key, value }).collect(),
        mounts,
        devices: mounts::devices(inputs)?,
        labels: labels::of_container(pod, container),
        annotations: labels::annotations(pod, container, inputs.restart_count),
        log_path: format!("{}/{}.log", container.name, inputs.restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::container(pod, container, inputs.node)),
            security_context: Some(security_context),
        }),
        ..Default::default()
    })
}

/// What the container has that [`ContainerConfig`] has no field for.
pub fn extension(inputs: &Inputs<'_>, mounts: Vec<crate::cri::extension::Mount>) -> ContainerExtension {
    let signal = inputs.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    ContainerExtension { stop_signal: signal.map_or(0, signal_number), mounts }
}

/// CRI's number of a signal; zero, which leaves the choice to the runtime, for one that it does not have.
fn signal_number(name: &str) -> i32 {
    const NAMES: [&str; 33] = [
        "SIGABRT",
        "SIGALRM",
        "SIGBUS",
        "SIGCHLD",
        "SIGCLD",
        "SIGCONT",
        "SIGFPE",
        "SIGHUP",
        "SIGILL",
        "SIGINT",
        "SIGIO",
        "SIGIOT",
        "SIGKILL",
        "SIGPIPE",
        "SIGPOLL",
        "SIGPROF",
        "SIGPWR",
        "SIGQUIT",
        "SIGSEGV",
        "SIGSTKFLT",
        "SIGSTOP",
        "SIGSYS",
        "SIGTERM",
        "SIGTRAP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGUSR1",
        "SIGUSR2",
        "SIGVTALRM",
        "SIGWINCH",
        "SIGXCPU",
    ];
    let realtime = |text: &str| text.parse::<i32>().ok();
    match name {
        "SIGXFSZ" => 34,
        "SIGRTMIN" => 35,
        "SIGRTMAX" => 65,
        _ => {
            let plus = name.strip_prefix("SIGRTMIN+").and_then(realtime).filter(|n| (1..=15).contains(n)).map(|n| 35 + n);
            let minus = name.strip_prefix("SIGRTMAX-").and_then(realtime).filter(|n| (1..=14).contains(n)).map(|n| 65 - n);
            let listed = || NAMES.iter().position(|known| *known == name).and_then(|index| i32::try_from(index + 1).ok());
            plus.or(minus).or_else(listed).unwrap_or(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_the_numbers_of_the_interface() {
        let cases = [
            ("SIGABRT", 1),
            ("SIGKILL", 13),
            ("SIGTERM", 23),
            ("SIGUSR1", 29),
            ("SIGXCPU", 33),
            ("SIGXFSZ", 34),
            ("SIGRTMIN", 35),
            ("SIGRTMIN+15", 50),
            ("SIGRTMAX-14", 51),
            ("SIGRTMAX-1", 64),
            ("SIGRTMAX", 65),
            ("SIGNONE", 0),
        ];
        for (name, number) in cases {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }
}
