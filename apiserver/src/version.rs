//! What this server says it is: Kubernetes v1.37, as `/version` tells it.

use serde_json::{Value, json};

/// The Kubernetes patch release whose behaviour this server has.
pub const KUBERNETES: &str = "v1.37.2";
pub const MAJOR: &str = "1";
pub const MINOR: &str = "37";

/// `version.Info` of apimachinery.
pub fn info() -> Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "emulationMajor": MAJOR,
        "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR,
        "minCompatibilityMinor": "36",
        "gitVersion": KUBERNETES,
        "gitCommit": option_env!("FERROKUBE_COMMIT").unwrap_or("unknown"),
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": concat!("rust", env!("CARGO_PKG_RUST_VERSION")),
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, platform()),
    })
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
