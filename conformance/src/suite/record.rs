//! What became of each test in the runs so far: the memory that lets a run resume, and what the ledger is made of.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::catalog::Test;
use super::junit::{Case, Outcome};

/// A test's latest run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Entry {
    #[serde(flatten)]
    pub outcome: Outcome,
    pub seconds: f64,
    /// What was tested: a commit, or a server's version.
    pub subject: String,
}

/// The latest run of each test, by name.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Record(BTreeMap<String, Entry>);

impl Record {
    /// Reads the record; a file that does not exist is an empty one.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Replaces the file as a whole.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec_pretty(self)?).with_context(|| new.display().to_string())?;
        std::fs::rename(&new, path).with_context(|| path.display().to_string())
    }

    /// Takes over what a report says of `subject`; a later run of a test replaces an earlier one.
    pub fn add(&mut self, cases: Vec<Case>, subject: &str) {
        for Case { name, seconds, outcome } in cases {
            self.0.insert(name, Entry { outcome, seconds, subject: subject.to_owned() });
        }
    }

    pub fn of(&self, test: &Test) -> Option<&Entry> {
        self.0.get(&test.name)
    }

    /// The tests that have not passed: they failed or never ran.
    pub fn pending<'a>(&self, tests: &'a [Test]) -> Vec<&'a Test> {
        tests.iter().filter(|test| self.of(test).is_none_or(|entry| entry.outcome != Outcome::Passed)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str) -> Test {
        Test { name: name.to_owned() }
    }
    fn case(name: &str, outcome: Outcome) -> Case {
        Case { name: name.to_owned(), seconds: 1.0, outcome }
    }

    #[test]
    fn only_what_failed_or_never_ran_is_pending() {
        let tests = [test("fails"), test("new"), test("passes")];
        let mut record = Record::default();
        record.add(vec![case("fails", Outcome::Failed("why".into())), case("passes", Outcome::Passed)], "c1");
        let names: Vec<_> = record.pending(&tests).iter().map(|test| test.name.as_str()).collect();
        assert_eq!(names, ["fails", "new"]);
    }

    #[test]
    fn a_later_run_replaces_an_earlier_one_for_better_and_for_worse() {
        let mut record = Record::default();
        record.add(vec![case("a", Outcome::Failed("why".into())), case("b", Outcome::Passed)], "c1");
        record.add(vec![case("a", Outcome::Passed), case("b", Outcome::Failed("flake".into()))], "c2");
        assert_eq!(record.of(&test("a")).unwrap().outcome, Outcome::Passed);
        let worse = record.of(&test("b")).unwrap();
        assert_eq!((&worse.outcome, worse.subject.as_str()), (&Outcome::Failed("flake".into()), "c2"));
    }

    #[test]
    fn a_record_survives_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        assert_eq!(Record::read(&path).unwrap(), Record::default());
        let mut record = Record::default();
        record.add(vec![case("a", Outcome::Failed("why".into())), case("b", Outcome::Passed)], "c1");
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), record);
        std::fs::write(&path, "{").unwrap();
        assert!(Record::read(&path).is_err());
    }
}
