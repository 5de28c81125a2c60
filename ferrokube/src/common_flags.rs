//! The flags that all of upstream's components take: how much to log, and which version this is.

use std::time::Duration;

use apimachinery::go_bool;
use apiserver::discovery::documents::{GIT_VERSION, MAJOR, MINOR};
use apiserver::version::BUILD;
use clap::Args;

use crate::go_values::duration;

/// Levels of upstream's `-v` from which on more is logged.
const DEBUG: u8 = 4;
const TRACE: u8 = 8;
/// What is logged if nothing is said. Some libraries say at length what their users here say in a line.
pub const USUAL: &str = "info,kube_runtime=error,fjall=warn,lsm_tree=warn";

/// What is told of the version instead of starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Version,
    /// All that is known of the build, as Go would print it.
    Raw,
}

fn told(text: &str) -> Result<Told, String> {
    match text {
        "raw" => Ok(Told::Raw),
        _ if text.starts_with('v') => Err(format!("the version that is told is {GIT_VERSION} and no other")),
        _ => go_bool::parse(text).map(|asked| if asked { Told::Version } else { Told::Nothing }),
    }
}

#[derive(Args, Clone, Debug)]
pub struct Common {
    /// How much to log: from 4 on what happens in detail, from 8 on everything. RUST_LOG goes before.
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    level: u8,
    /// The form of log lines; only text.
    #[arg(long, default_value = "text", value_parser = ["text"])]
    logging_format: String,
    /// How often log lines are written: each is at once.
    #[arg(long, default_value = "5s", value_parser = duration)]
    log_flush_frequency: Duration,
    /// Tell the version and end; `raw` tells all of it.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = told)]
    version: Told,
}

impl Common {
    /// The version, if that is what was asked for instead of a start.
    pub fn version(&self) -> Option<String> {
        match self.version {
            Told::Nothing => None,
            Told::Version => Some(format!("Kubernetes {GIT_VERSION}")),
            Told::Raw => Some(format!(
                "version.Info{{Major:\"{MAJOR}\", Minor:\"{MINOR}\", EmulationMajor:\"\", EmulationMinor:\"\", MinCompatibilityMajor:\"\", \
                 MinCompatibilityMinor:\"\", GitVersion:\"{GIT_VERSION}\", GitCommit:\"{}\", GitTreeState:\"{}\", BuildDate:\"{}\", \
                 GoVersion:\"{}\", Compiler:\"{}\", Platform:\"{}\"}}",
                BUILD.git_commit, BUILD.git_tree_state, BUILD.build_date, BUILD.toolchain, BUILD.compiler, BUILD.platform
            )),
        }
    }

    /// The filter of log lines.
    pub fn filter(&self) -> &'static str {
        match self.level {
            TRACE.. => "trace",
            DEBUG.. => "debug",
            _ => USUAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Component {
        #[command(flatten)]
        common: Common,
    }

    #[test]
    fn the_version_is_told_as_upstreams_components_tell_it() {
        let version = |flags: &[&str]| {
            let arguments = ["kubelet"].iter().chain(flags);
            Component::try_parse_from(arguments).map(|component| component.common.version()).map_err(|e| e.to_string())
        };
        assert_eq!(version(&[]), Ok(None));
        assert_eq!(version(&["--version=false"]), Ok(None));
        for flag in ["--version", "--version=true"] {
            assert_eq!(version(&[flag]), Ok(Some("Kubernetes v1.37.2".to_owned())));
        }
        let raw = version(&["--version=raw"]).unwrap().unwrap();
        assert!(raw.starts_with("version.Info{Major:\"1\", Minor:\"37\", ") && raw.contains(", GitVersion:\"v1.37.2\", "), "{raw}");
        assert!(version(&["--version=maybe"]).unwrap_err().contains("strconv.ParseBool: parsing \"maybe\": invalid syntax"));
        assert!(version(&["--version=v1.36.0"]).is_err());
    }
}
