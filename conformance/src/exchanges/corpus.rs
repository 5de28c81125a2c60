//! The files of the corpus: `NAME.steps.json` and, beside it, `NAME.answers.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::matrix;

const STEPS: &str = ".steps.json";
const ANSWERS: &str = ".answers.json";

/// Requests that are sent one after the other, into a namespace of their own.
///
/// A step may stand for many ([`matrix`]). In paths, headers, names of principals and bodies `{ns}` stands for that namespace; names outside of namespaces are made from it too, so that a scenario can
/// be played again on the same server.
#[derive(Debug)]
pub struct Scenario {
    pub name: String,
    /// What it shows.
    pub about: String,
    /// Those whom steps name as their senders.
    pub principals: BTreeMap<String, Principal>,
    pub steps: Vec<Step>,
}

/// As it is written, before [`matrix::expand`] has replaced steps that stand for many.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    about: String,
    #[serde(default)]
    principals: BTreeMap<String, Principal>,
    steps: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub name: String,
    pub method: String,
    /// With its query.
    pub path: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Who sends it; the administrator if absent.
    #[serde(rename = "as")]
    pub sender: Option<Sender>,
    /// Sent as JSON.
    pub body: Option<Value>,
    /// Sent as it is.
    pub text: Option<String>,
    /// Repeats the request until it is answered so, for what servers learn of a moment later. It must be one that leaves nothing behind
    /// as long as it is answered otherwise.
    pub until: Option<Until>,
    /// What later steps need of the answer: a name, and where in the answer it stands for (a JSON pointer). `{name}` is that text from
    /// then on, and answers show it as `<name>`.
    #[serde(default)]
    pub keep: BTreeMap<String, String>,
}

/// One of the scenario's principals, or one of the step's own.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Sender {
    Named(String),
    Own(Principal),
}

/// Whom the administrator impersonates, or whoever has a token.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Principal {
    pub user: Option<String>,
    pub groups: Vec<String>,
    pub uid: Option<String>,
    pub extra: BTreeMap<String, Vec<String>>,
    /// Shown instead of the administrator's credentials; empty for nobody's.
    pub token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Until {
    pub status: Option<u16>,
    /// What the answer's text or a warning has in it.
    pub text: Option<String>,
}

/// What a server answered, normalised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    pub body: Value,
}

impl Scenario {
    fn of(name: String, written: Written) -> anyhow::Result<Scenario> {
        let Written { about, principals, steps } = written;
        let steps = matrix::expand(steps).with_context(|| name.clone())?;
        let step = |value: Value| Step::deserialize(&value).with_context(|| format!("{name}: {value}"));
        let steps = steps.into_iter().map(step).collect::<Result<Vec<_>, _>>()?;
        for step in &steps {
            if let Some(Sender::Named(sender)) = &step.sender {
                ensure!(principals.contains_key(sender), "{name}: {}: there is no principal {sender}", step.name);
            }
        }
        Ok(Scenario { name, about, principals, steps })
    }

    /// Who sends a step; `None` for the administrator.
    pub(super) fn sender<'a>(&'a self, step: &'a Step) -> Option<&'a Principal> {
        match step.sender.as_ref()? {
            Sender::Named(name) => self.principals.get(name),
            Sender::Own(principal) => Some(principal),
        }
    }

    /// # Errors
    /// If there is no record, or it cannot be read.
    pub fn expectations(&self, folder: &Path) -> anyhow::Result<Vec<Answer>> {
        read(&folder.join(format!("{}{ANSWERS}", self.name)))
    }

    /// One answer a line: differences between two records are then shown by answer.
    pub(super) fn write_expectations(&self, folder: &Path, answers: &[Answer]) -> anyhow::Result<()> {
        let lines = answers.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        let path = folder.join(format!("{}{ANSWERS}", self.name));
        fs::write(&path, format!("[\n{}\n]\n", lines.join(",\n"))).with_context(|| path.display().to_string())
    }
}

/// The scenarios of a folder, or those of them that are asked for, by name.
///
/// # Errors
/// If a file cannot be read, or one that was asked for is not there.
pub fn scenarios(folder: &Path, only: &[String]) -> anyhow::Result<Vec<Scenario>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        if let Some(name) = entry?.file_name().to_str().and_then(|name| name.strip_suffix(STEPS)) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    for name in only {
        ensure!(names.contains(name), "{} has no scenario {name}", folder.display());
    }
    names.retain(|name| only.is_empty() || only.contains(name));
    let scenario = |name: String| Scenario::of(name.clone(), read(&folder.join(format!("{name}{STEPS}")))?);
    names.into_iter().map(scenario).collect()
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
