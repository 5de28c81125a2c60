//! The real kubectl: the one that `FERROKUBE_TEST_KUBECTL` names, or that `xtask/kubectl-tests` and `make compatibility` build.
//!
//! Tests that need it have `kubectl` in their name and are ignored unless that script runs them, so that a machine without it says so.

pub mod transcript;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn program() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/upstream/kubectl");
    let path = std::env::var_os("FERROKUBE_TEST_KUBECTL").map_or_else(built, PathBuf::from);
    assert!(path.exists(), "there is no {}; FERROKUBE_TEST_KUBECTL can name a kubectl of v1.37", path.display());
    path
}

#[derive(Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// Where it keeps what it knows of servers, and files are named from; `editor` there is what it edits with.
    home: PathBuf,
}

impl Kubectl {
    pub fn new(kubeconfig: &Path, home: &Path) -> Kubectl {
        Kubectl { program: program(), kubeconfig: kubeconfig.to_owned(), home: home.to_owned() }
    }

    /// The same with another kubeconfig.
    pub fn with(&self, kubeconfig: &Path) -> Kubectl {
        Kubectl { program: self.program.clone(), kubeconfig: kubeconfig.to_owned(), home: self.home.clone() }
    }

    pub fn output(&self, words: &[&str]) -> Output {
        Command::new(&self.program)
            .args(words)
            .current_dir(&self.home)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .env("TMPDIR", &self.home)
            .env("KUBE_EDITOR", self.home.join("editor"))
            .env("KUBECTL_EXTERNAL_DIFF", "diff -r -N -U 0")
            .output()
            .expect("kubectl starts")
    }

    /// What it writes, without space around it; what it says besides if it fails.
    pub fn run(&self, words: &[&str]) -> Result<String, String> {
        let output = self.output(words);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(format!("{}{}", text(output.stdout), text(output.stderr))) }
    }

    pub fn ok(&self, words: &[&str]) -> String {
        self.run(words).unwrap_or_else(|error| panic!("kubectl {words:?}: {error}"))
    }
}
