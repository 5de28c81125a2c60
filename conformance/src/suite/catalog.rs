//! The tests that a cluster must pass to be called conformant, as the suite's own binary lists them.

use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::process::Command;

/// One test of the suite.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Test {
    /// The full name, with its tags.
    #[serde(rename = "codename")]
    pub name: String,
}

impl Test {
    /// Disturbs other tests and therefore runs alone.
    pub fn serial(&self) -> bool {
        self.name.contains("[Serial]")
    }

    /// The special interest group that answers for it, such as `sig-node`.
    pub fn group(&self) -> &str {
        let tag = self.name.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        tag.map_or("other", |(group, _)| group)
    }
}

/// Reads the list of tests, by name.
pub fn parse(yaml: &str) -> anyhow::Result<Vec<Test>> {
    let mut tests: Vec<Test> = serde_saphyr::from_str(yaml).context("the list of conformance tests")?;
    ensure!(!tests.is_empty(), "the suite lists no conformance tests");
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tests)
}

/// Asks the suite's binary for its list.
pub async fn of(binary: &Path) -> anyhow::Result<Vec<Test>> {
    let output = Command::new(binary).arg("--list-conformance-tests").output().await.with_context(|| binary.display().to_string())?;
    ensure!(output.status.success(), "{} lists no tests: {}", binary.display(), String::from_utf8_lossy(&output.stderr));
    parse(&String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_and_sorted() {
        let yaml = "- testname: B\n  codename: '[sig-node] Pods should run\n    [Serial] [Conformance]'\n  release: v1.9\n- testname: A\n  codename: 'Nobody answers [Conformance]'\n";
        let tests = parse(yaml).unwrap();
        let facts: Vec<_> = tests.iter().map(|test| (test.name.as_str(), test.group(), test.serial())).collect();
        assert_eq!(
            facts,
            [("Nobody answers [Conformance]", "other", false), ("[sig-node] Pods should run [Serial] [Conformance]", "sig-node", true)]
        );
    }

    #[test]
    fn a_list_without_tests_is_an_error() {
        assert!(parse("[]").is_err());
        assert!(parse("usage: e2e.test").is_err());
    }
}
