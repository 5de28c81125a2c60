//! The names under which the binary is started: as `kube-scheduler` (by a link or a copy) it is that component.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Upstream's programs, and the subcommand that each is here.
const PROGRAMS: [(&str, &str); 5] = [
    ("kube-apiserver", "apiserver"),
    ("kube-controller-manager", "controller-manager"),
    ("kube-scheduler", "scheduler"),
    ("kube-proxy", "proxy"),
    ("kubelet", "kubelet"),
];

/// The arguments as they would be given to `ferrokube`.
pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = given.into_iter().collect();
    let name = arguments.first().and_then(|program| Path::new(program).file_name()).and_then(OsStr::to_str).unwrap_or("");
    if let Some((_, subcommand)) = PROGRAMS.iter().find(|(program, _)| *program == name) {
        arguments.insert(1, OsString::from(*subcommand));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(given: &[&str]) -> Vec<String> {
        arguments(given.iter().map(OsString::from)).into_iter().map(|a| a.into_string().unwrap()).collect()
    }

    #[test]
    fn a_component_is_known_by_its_programs_name() {
        assert_eq!(
            rewritten(&["/usr/bin/kube-scheduler", "--leader-elect=false"]),
            ["/usr/bin/kube-scheduler", "scheduler", "--leader-elect=false"]
        );
        assert_eq!(rewritten(&["kubelet"]), ["kubelet", "kubelet"]);
        assert_eq!(rewritten(&["ferrokube", "up"]), ["ferrokube", "up"]);
        assert_eq!(rewritten(&[]), [""; 0]);
    }
}
