//! What ginkgo says of each test, in JUnit's XML.

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// How a test ended. Tests that were not asked for have no outcome.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "result", content = "reason", rename_all = "lowercase")]
pub enum Outcome {
    Passed,
    /// With the reason in one line.
    Failed(String),
}

/// One test that ran.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub name: String,
    pub seconds: f64,
    pub outcome: Outcome,
}

/// Longer reasons are cut; the log has them in full.
const REASON_CHARS: usize = 240;

/// Reads the tests that ran. A test that asked to be skipped itself counts as failed: a conformant cluster gives no cause for that.
pub fn parse(xml: &str) -> anyhow::Result<Vec<Case>> {
    let document = roxmltree::Document::parse(xml).context("JUnit report")?;
    let cases = document.descendants().filter(|node| node.has_tag_name("testcase"));
    Ok(cases.filter_map(case).collect())
}

fn case(node: roxmltree::Node<'_, '_>) -> Option<Case> {
    // Steps of the suite as a whole have names of another form.
    let name = test_name(node.attribute("name")?)?;
    let told = node.children().find(|child| ["failure", "error", "skipped"].iter().any(|tag| child.has_tag_name(*tag)));
    let message = told.and_then(|told| told.attribute("message")).unwrap_or_default();
    let outcome = match node.attribute("status")? {
        "passed" => Outcome::Passed,
        // ginkgo writes "skipped" without more for what was not selected, and "skipped - <reason>" for a test that gave up.
        "skipped" if message.is_empty() || message == "skipped" => return None,
        // Somebody ended the run before the test did.
        "pending" | "interrupted" => return None,
        status => {
            let text = if message.is_empty() { told.and_then(|told| told.text()).unwrap_or_default() } else { message };
            Outcome::Failed(reason(status, text))
        }
    };
    let seconds = node.attribute("time").and_then(|time| time.parse().ok()).unwrap_or_default();
    Some(Case { name, seconds, outcome })
}

/// `[It] NAME [label, label]` without ginkgo's additions.
fn test_name(full: &str) -> Option<String> {
    let name = full.strip_prefix("[It] ")?;
    Some(name.rsplit_once(" [").map_or(name, |(name, _labels)| name).to_owned())
}

fn reason(status: &str, text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut line = match (status, words.is_empty()) {
        ("failed", false) => words,
        (_, true) => status.to_owned(),
        (_, false) => format!("{status}: {words}"),
    };
    if let Some((end, _)) = line.char_indices().nth(REASON_CHARS) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(cases: &str) -> Vec<Case> {
        parse(&format!("<?xml version=\"1.0\"?><testsuites><testsuite>{cases}</testsuite></testsuites>")).unwrap()
    }

    #[test]
    fn a_passed_test_is_known_by_its_name_without_labels() {
        let xml =
            r#"<testcase name="[It] [sig-node] Pods &#39;run&#39; [Conformance] [sig-node, Conformance]" status="passed" time="1.5"/>"#;
        let name = "[sig-node] Pods 'run' [Conformance]".to_owned();
        assert_eq!(parsed(xml), [Case { name, seconds: 1.5, outcome: Outcome::Passed }]);
    }

    #[test]
    fn a_failure_keeps_its_message_in_one_line() {
        let xml = "<testcase name=\"[It] a [x]\" status=\"failed\" time=\"2\"><failure message=\"expected&#xA;  two\" type=\"failed\">[FAILED] long</failure></testcase>\
                   <testcase name=\"[It] b [x]\" status=\"timedout\" time=\"2\"><failure message=\"\" type=\"timedout\"></failure></testcase>\
                   <testcase name=\"[It] c [x]\" status=\"panicked\" time=\"2\"><error message=\"index\" type=\"panicked\"></error></testcase>";
        let reasons: Vec<_> = parsed(xml).into_iter().map(|case| case.outcome).collect();
        let failed = |reason: &str| Outcome::Failed(reason.to_owned());
        assert_eq!(reasons, [failed("expected two"), failed("timedout"), failed("panicked: index")]);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let long = reason("failed", &"ü".repeat(REASON_CHARS + 10));
        assert_eq!(long.chars().count(), REASON_CHARS + 1);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn what_did_not_run_to_its_end_has_no_outcome() {
        let xml = "<testcase name=\"[It] a [x]\" status=\"interrupted\" time=\"3\"><error message=\"interrupted by user\" type=\"interrupted\"></error></testcase>\
                   <testcase name=\"[It] b [x]\" status=\"pending\" time=\"0\"><skipped message=\"pending\"></skipped></testcase>";
        assert_eq!(parsed(xml), []);
    }

    #[test]
    fn what_was_not_selected_has_no_outcome_but_a_test_that_gives_up_fails() {
        let xml = "<testcase name=\"[It] a [x]\" status=\"skipped\" time=\"0\"><skipped message=\"skipped\"></skipped></testcase>\
                   <testcase name=\"[SynchronizedBeforeSuite]\" status=\"passed\" time=\"0\"/>\
                   <testcase name=\"[It] b [x]\" status=\"skipped\" time=\"0\"><skipped message=\"skipped - needs two nodes\"></skipped></testcase>";
        let cases = parsed(xml);
        assert_eq!(cases.len(), 1);
        assert_eq!(cases[0].outcome, Outcome::Failed("skipped: skipped - needs two nodes".to_owned()));
    }

    #[test]
    fn a_broken_report_is_an_error() {
        assert!(parse("<testsuites><testcase").is_err());
    }
}
