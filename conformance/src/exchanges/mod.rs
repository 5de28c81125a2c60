//! Recorded exchanges: steps that are sent to an API server, and what another one answered to them.
//!
//! A scenario is a file of steps; beside it lies what the reference answered, normalised so that two correct servers agree. The same
//! steps can be sent to one server and compared with the record, or to two servers and compared with each other.

pub mod access;
pub mod corpus;
pub mod difference;
mod matrix;
mod normal;
pub mod session;

use std::path::Path;

use access::Access;
use corpus::{Answer, Scenario};
use difference::{Difference, differences};

/// What came of one scenario.
pub struct Outcome {
    pub scenario: String,
    pub steps: usize,
    /// Each step that was answered otherwise, with what is different.
    pub different: Vec<(String, Vec<Difference>)>,
}

impl Outcome {
    /// Sets two servers' answers to a scenario side by side.
    pub fn of(scenario: &Scenario, expected: &[Answer], found: &[Answer]) -> Outcome {
        let mut different = Vec::new();
        for (i, step) in scenario.steps.iter().enumerate() {
            let differences = match (expected.get(i), found.get(i)) {
                (Some(expected), Some(found)) => differences(expected, found),
                (None, None) => continue,
                (expected, _) => vec![Difference::absent(if expected.is_none() { "expectation" } else { "answer" })],
            };
            if !differences.is_empty() {
                different.push((format!("{} {}", i + 1, step.name), differences));
            }
        }
        Outcome { scenario: scenario.name.clone(), steps: scenario.steps.len(), different }
    }
}

/// Sends the scenarios of a folder to a server and compares its answers with those on record.
///
/// # Errors
/// If the folder cannot be read, or the server not be reached.
pub async fn check(access: &Access, folder: &Path, only: &[String]) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for scenario in corpus::scenarios(folder, only)? {
        let expected = scenario.expectations(folder)?;
        let found = session::play(access, &scenario).await?;
        outcomes.push(Outcome::of(&scenario, &expected, &found));
    }
    Ok(outcomes)
}

/// Sends the same steps to two servers.
///
/// # Errors
/// As [`check`].
pub async fn compare(one: &Access, other: &Access, folder: &Path, only: &[String]) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for scenario in corpus::scenarios(folder, only)? {
        let (expected, found) = tokio::try_join!(session::play(one, &scenario), session::play(other, &scenario))?;
        outcomes.push(Outcome::of(&scenario, &expected, &found));
    }
    Ok(outcomes)
}

/// Writes down what a server answers, as the expectations of the scenarios; gives the number of steps.
///
/// # Errors
/// As [`check`].
pub async fn record(access: &Access, folder: &Path, only: &[String]) -> anyhow::Result<usize> {
    let mut steps = 0;
    for scenario in corpus::scenarios(folder, only)? {
        let answers = session::play(access, &scenario).await?;
        steps += answers.len();
        scenario.write_expectations(folder, &answers)?;
    }
    Ok(steps)
}
