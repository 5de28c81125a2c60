//! How this binary was built, as `/version` tells it.

use crate::discovery::documents::Build;

/// The build of this binary.
pub const BUILD: Build = Build {
    git_commit: match option_env!("FERROKUBE_COMMIT") {
        Some(commit) => commit,
        None => "unknown",
    },
    git_tree_state: "",
    build_date: "1970-01-01T00:00:00Z",
    toolchain: concat!("rust", env!("CARGO_PKG_RUST_VERSION")),
    compiler: "rustc",
    platform: if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" },
};
