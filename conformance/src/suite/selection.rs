//! Which tests a run is asked for, in ginkgo's words.

use anyhow::Context;
use regex::Regex;

use super::catalog::Test;

/// What the names of tests have in common that watch for minutes whether something happens, while the machine has nothing to do.
const WATCHING: [&str; 6] = [
    "should *not* be restarted with a",
    "should have monotonically increasing restart count",
    "should not schedule jobs when suspended",
    "issue 500 podspec updates",
    "a failing subpath expansion can be modified",
    "continue listing from the last key if the original version has been compacted",
];

/// The tests of one run of ginkgo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    /// Tests of minutes. Ginkgo takes tests as they come, and one of these that came last would keep the whole run waiting.
    Watching,
    Parallel,
    Serial,
}

impl Phase {
    /// All phases in their order; those of one line run beside each other.
    pub const ALL: [&[Phase]; 2] = [&[Phase::Watching, Phase::Parallel], &[Phase::Serial]];

    pub fn name(self) -> &'static str {
        match self {
            Phase::Watching => "watching",
            Phase::Parallel => "parallel",
            Phase::Serial => "serial",
        }
    }

    fn of(test: &Test) -> Phase {
        match test.serial() {
            true => Phase::Serial,
            false if WATCHING.iter().any(|words| test.name.contains(words)) => Phase::Watching,
            false => Phase::Parallel,
        }
    }

    pub fn has(self, test: &Test) -> bool {
        Phase::of(test) == self
    }

    /// How many of `count` tests run at a time where `processes` may. Those that watch do so all at once.
    pub fn processes(self, count: u32, processes: u32) -> u32 {
        match self {
            Phase::Watching => count,
            Phase::Parallel => processes.min(count),
            Phase::Serial => 1,
        }
    }
}

/// The tests whose name matches the regular expression.
pub fn focused<'a>(tests: Vec<&'a Test>, focus: Option<&str>) -> anyhow::Result<Vec<&'a Test>> {
    let Some(focus) = focus else { return Ok(tests) };
    let pattern = Regex::new(focus).with_context(|| format!("focus {focus:?}"))?;
    Ok(tests.into_iter().filter(|test| pattern.is_match(&test.name)).collect())
}

/// A regular expression that matches these tests and no other: ginkgo puts the suite's name before a test's, and nothing behind it.
pub fn exactly(tests: &[&Test]) -> String {
    let names: Vec<_> = tests.iter().map(|test| regex::escape(&test.name)).collect();
    format!(" (?:{})$", names.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str) -> Test {
        Test { name: name.to_owned() }
    }

    #[test]
    fn an_exact_selection_takes_names_literally_and_whole() {
        let (a, b) = (test("[sig-node] Pods (a.b) [Conformance]"), test("[sig-apps] Job"));
        let pattern = Regex::new(&exactly(&[&a, &b])).unwrap();
        for (text, expected) in [
            ("Kubernetes e2e suite [sig-node] Pods (a.b) [Conformance]", true),
            ("Kubernetes e2e suite [sig-apps] Job", true),
            ("Kubernetes e2e suite [sig-apps] Job with more", false),
            ("Kubernetes e2e suite [sig-node] Pods (aXb) [Conformance]", false),
        ] {
            assert_eq!(pattern.is_match(text), expected, "{text}");
        }
    }

    #[test]
    fn each_test_belongs_to_one_phase() {
        let watching = "[sig-node] Probing container should *not* be restarted with a tcp:8080 liveness probe [Conformance]";
        let alone = "CronJob should not schedule jobs when suspended [Serial]";
        for (name, expected) in [("a [Serial]", Phase::Serial), ("b", Phase::Parallel), (watching, Phase::Watching), (alone, Phase::Serial)]
        {
            let phases: Vec<Phase> = Phase::ALL.concat().into_iter().filter(|phase| phase.has(&test(name))).collect();
            assert_eq!(phases, [expected], "{name}");
        }
    }

    #[test]
    fn a_focus_is_a_regular_expression_on_names() {
        let tests = [test("[sig-node] a"), test("[sig-apps] b")];
        let all: Vec<_> = tests.iter().collect();
        assert_eq!(focused(all.clone(), Some("^.sig-node")).unwrap(), [&tests[0]]);
        assert_eq!(focused(all.clone(), None).unwrap().len(), 2);
        assert!(focused(all, Some("(")).is_err());
    }
}
