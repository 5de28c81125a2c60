//! Which tests a run is asked for, in ginkgo's words.

use anyhow::Context;
use regex::Regex;

use super::catalog::Test;

/// The tests of one run of ginkgo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    Parallel,
    Serial,
}

impl Phase {
    pub const ALL: [Phase; 2] = [Phase::Parallel, Phase::Serial];

    pub fn name(self) -> &'static str {
        match self {
            Phase::Parallel => "parallel",
            Phase::Serial => "serial",
        }
    }

    pub fn has(self, test: &Test) -> bool {
        test.serial() == (self == Phase::Serial)
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
        let (alone, together) = (test("a [Serial]"), test("b"));
        assert!(Phase::Serial.has(&alone) && !Phase::Parallel.has(&alone));
        assert!(Phase::Parallel.has(&together) && !Phase::Serial.has(&together));
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
