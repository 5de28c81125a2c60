//! The client libraries that most programs are written with: client-go with all of its clients, and the official Python client. The
//! programs that use them are in `conformance/compatibility/clients`.
//!
//! Needs `go` and its module proxy, and `python3` with a package index; a library that cannot be had is said to be skipped.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Cluster;

const CLIENT_GO: &str = "v0.37.2";
const PYTHON_CLIENT: &str = "kubernetes==37.0.2";

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/compatibility/clients")
}

/// Runs a command in a directory; `None`, with a message, if it fails, which is a machine that cannot have what is asked for.
fn run(directory: &Path, program: &str, arguments: &[&str]) -> Option<()> {
    let output = Command::new(program).args(arguments).current_dir(directory).env("CGO_ENABLED", "0").output();
    let error = match output {
        Ok(output) if output.status.success() => return Some(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    writeln!(std::io::stderr(), "skipped, {program} {arguments:?}: {error}").expect("stderr");
    None
}

/// Runs a program that is there, on a server of its own.
fn try_out(command: &mut Command) {
    let data = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(data.path());
    let output = command.arg(cluster.kubeconfig()).output().expect("it runs");
    let (told, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{complaint}");
}

#[test]
fn programs_on_client_go_run_clean() {
    let directory = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(programs().join("go")).expect("the program is there") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, directory.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    let required = ["client-go", "api", "apimachinery"].map(|module| format!("-require=k8s.io/{module}@{CLIENT_GO}"));
    let edit: Vec<&str> = ["mod", "edit"].into_iter().chain(required.iter().map(String::as_str)).collect();
    let had = run(directory.path(), "go", &["mod", "init", "clients"])
        .and_then(|()| run(directory.path(), "go", &edit))
        .and_then(|()| run(directory.path(), "go", &["mod", "download", &format!("k8s.io/client-go@{CLIENT_GO}")]));
    if had.is_none() {
        return;
    }
    run(directory.path(), "go", &["build", "-mod=mod", "-o", "program", "."]).expect("the program is built");
    try_out(Command::new(directory.path().join("program")).arg("--kubeconfig"));
}

#[test]
fn programs_on_the_python_client_run_clean() {
    let directory = tempfile::tempdir().expect("a directory");
    let python = directory.path().join("venv/bin/python");
    let had = run(directory.path(), "python3", &["-m", "venv", "venv"]).and_then(|()| {
        run(directory.path(), &python.to_string_lossy(), &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PYTHON_CLIENT])
    });
    if had.is_some() {
        try_out(Command::new(python).arg(programs().join("client.py")));
    }
}
