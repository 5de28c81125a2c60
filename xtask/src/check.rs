//! `cargo xtask check`: everything that must hold of the repository without running a test. Reads only.
//!
//! Format, lints, the arrows between crates, who may name a store, the licences of what we depend on, and that it is built once.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which of our crates each crate may use. Anything else is an arrow that the design does not have.
const ARROWS: [(&str, &[&str]); 16] = [
    ("apimachinery", &[]),
    ("apiserver", &["apimachinery", "cel"]),
    ("cel", &["apimachinery"]),
    ("client", &["apimachinery"]),
    ("conformance", &[]),
    ("controllers", &["apimachinery", "cel", "client"]),
    ("dns", &["apimachinery", "client"]),
    ("ferrokube", &["apimachinery", "apiserver", "client", "controllers", "dns", "kube-proxy", "kubelet", "network-policy", "scheduler"]),
    ("kube-proxy", &["apimachinery", "client", "netfilter"]),
    ("kubelet", &["apimachinery", "client"]),
    ("netfilter", &["apimachinery"]),
    ("network-policy", &["apimachinery", "client", "netfilter"]),
    ("scheduler", &["apimachinery", "cel", "client"]),
    ("simulation", &["apimachinery", "client", "controllers", "scheduler"]),
    ("workspace-hack", &[]),
    ("xtask", &[]),
];

/// A crate's name in code, and the only folder that may say it.
const CONFINED: [(&str, &str); 3] =
    [("fjall::", "apiserver/src/storage"), ("etcd_client::", "apiserver/src/storage"), ("containerd_client::", "kubelet/src/cri")];

/// Licences of dependencies that are accepted, as SPDX names. MPL covers its own files only, which we do not change.
const LICENCES: [&str; 15] = [
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "0BSD",
    "Unlicense",
    "MIT-0",
    "CDLA-Permissive-2.0",
    "MPL-2.0",
    "MPL-2.0+",
    "BSL-1.0",
];

/// Runs every check and gives the first failure.
pub fn run() -> Result<(), String> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    let metadata = metadata()?;
    arrows(&metadata)?;
    licences(&metadata)?;
    one_build()?;
    confinement()
}

/// Rewrites what can be rewritten: format and the lints that have a machine's answer.
pub fn fix() -> Result<(), String> {
    cargo(&["fmt", "--all"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged", "--quiet"])
}

/// Cargo without what it tells the program that it runs about this package: build scripts that read it (ring's does) would run again,
/// and all that depends on them be built again, whenever a person's cargo comes after ours.
fn plain_cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

fn cargo(arguments: &[&str]) -> Result<(), String> {
    let status = plain_cargo().args(arguments).status().map_err(|e| format!("cargo {}: {e}", arguments[0]))?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} failed", arguments[0])) }
}

/// A crate alone has its dependencies with the features that all have them with; otherwise they would be built again for it.
fn one_build() -> Result<(), String> {
    let all = features(&["--workspace"])?;
    // These two are built with nobody else.
    for (name, _) in ARROWS.iter().filter(|(name, _)| !["workspace-hack", "xtask"].contains(name)) {
        let own: Vec<String> = features(&["--package", name])?.difference(&all).cloned().collect();
        if !own.is_empty() {
            return Err(format!("{name} alone has other features of {}: add the workspace's to workspace-hack", own.join(", ")));
        }
    }
    Ok(())
}

/// Each dependency with its features, as cargo would build it for these packages.
fn features(packages: &[&str]) -> Result<BTreeSet<String>, String> {
    let output = plain_cargo()
        // A target is named so that what build scripts and macros use is a dependency of its own: it has features of its own.
        .args(["tree", "--locked", "--target", "host-tuple", "--edges", "normal,build,dev", "--prefix", "none", "--format", "{p} {f}"])
        .args(packages)
        .output()
        .map_err(|e| format!("cargo tree: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo tree: {}", String::from_utf8_lossy(&output.stderr)));
    }
    // What was printed before is marked with a star, and comes without what it depends on.
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(|line| line.trim_end_matches(" (*)").trim_end().to_owned()).collect())
}

fn metadata() -> Result<Value, String> {
    let output =
        plain_cargo().args(["metadata", "--format-version", "1", "--locked"]).output().map_err(|e| format!("cargo metadata: {e}"))?;
    serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn arrows(metadata: &Value) -> Result<(), String> {
    let names: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    for package in packages(metadata).filter(|p| p["source"].is_null()) {
        let name = package["name"].as_str().unwrap_or("");
        let Some((_, allowed)) = ARROWS.iter().find(|(n, _)| *n == name) else {
            return Err(format!("crate {name} is not in the table of arrows"));
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or("");
            // Tests may measure by what is on record there.
            let in_tests = used == "conformance" && dependency["kind"] == "dev";
            if used != "workspace-hack" && !in_tests && names.contains(&used) && !allowed.contains(&used) {
                return Err(format!("{name} must not use {used}"));
            }
        }
    }
    Ok(())
}

/// `MIT OR Apache-2.0` passes if one alternative does; `A AND B` needs both.
fn is_accepted(expression: &str) -> bool {
    expression.replace('/', " OR ").split(" OR ").any(|alternative| {
        alternative
            .split(" AND ")
            .map(|l| l.trim().trim_matches(['(', ')']).split(" WITH ").next().unwrap_or("").trim())
            .all(|l| LICENCES.contains(&l))
    })
}

fn licences(metadata: &Value) -> Result<(), String> {
    for package in packages(metadata).filter(|p| !p["source"].is_null()) {
        let licence = package["license"].as_str().unwrap_or("");
        // ring states its licence in a file: ISC-style and BoringSSL's, which are permissive.
        if !is_accepted(licence) && package["name"] != "ring" {
            return Err(format!("{} {} has licence {licence:?}", package["name"], package["version"]));
        }
    }
    Ok(())
}

fn confinement() -> Result<(), String> {
    let mut files = Vec::new();
    for (name, _) in ARROWS {
        collect(&Path::new(name).join("src"), &mut files).map_err(|e| format!("{name}: {e}"))?;
    }
    for file in files.iter().filter(|f| !f.starts_with("xtask")) {
        let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        for (word, home) in CONFINED {
            if text.contains(word) && !file.starts_with(home) {
                return Err(format!("{} names {word}, which only {home} may", file.display()));
            }
        }
    }
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions_are_read_by_their_alternatives() {
        assert!(is_accepted("MIT OR GPL-3.0"));
        assert!(is_accepted("(MIT OR Apache-2.0) AND Unicode-3.0") || is_accepted("MIT"));
        assert!(is_accepted("Apache-2.0 WITH LLVM-exception"));
        assert!(!is_accepted("GPL-3.0"));
        assert!(!is_accepted("MIT AND GPL-2.0"));
    }
}
