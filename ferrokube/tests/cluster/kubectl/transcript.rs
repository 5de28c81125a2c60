//! The text that commands and what came of them are written in.

use std::sync::LazyLock;

use regex::Regex;

static UID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}").expect("an expression"));

/// A text with `UID` in the place of each UUID.
pub fn without_uids(text: &str) -> String {
    UID.replace_all(text, "UID").into_owned()
}

/// What came of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Standard output.
    pub said: Vec<String>,
    /// Standard error.
    pub complained: Vec<String>,
    pub code: i32,
    /// Requests, and below each the annotations of its event.
    pub audited: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Command(String, Entry),
    /// What was made is given the time to take effect.
    InForce,
    /// A comment, or nothing.
    Text(String),
}

pub fn read(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for line in text.lines() {
        let (mark, rest) = line.split_at(line.len().min(2));
        let entry = match lines.last_mut() {
            Some(Line::Command(_, entry)) => Some(entry),
            _ => None,
        };
        match (mark.trim_end(), entry) {
            ("$", _) => lines.push(Line::Command(rest.to_owned(), Entry::default())),
            ("~", _) => lines.push(Line::InForce),
            (">", Some(entry)) => entry.said.push(rest.to_owned()),
            ("!", Some(entry)) => entry.complained.push(rest.to_owned()),
            ("@", Some(entry)) => entry.audited.push(rest.to_owned()),
            ("=", Some(entry)) => entry.code = rest.parse().expect("a code"),
            _ => lines.push(Line::Text(line.to_owned())),
        }
    }
    lines
}

/// The lines below a command.
fn below(entry: &Entry) -> Vec<String> {
    let marked = |mark: char, lines: &[String]| lines.iter().map(|line| format!("{mark} {line}").trim_end().to_owned()).collect::<Vec<_>>();
    let code = (entry.code != 0).then(|| format!("= {}", entry.code));
    let (said, complained) = (marked('>', &entry.said), marked('!', &entry.complained));
    said.into_iter().chain(complained).chain(code).chain(marked('@', &entry.audited)).collect()
}

pub fn write(lines: &[Line]) -> String {
    let mut out = String::new();
    for line in lines {
        match line {
            Line::Command(command, entry) => {
                out += &format!("$ {command}\n");
                below(entry).iter().for_each(|line| out += &format!("{line}\n"));
            }
            Line::InForce => out += "~\n",
            Line::Text(text) => out += &format!("{text}\n"),
        }
    }
    out
}

/// The commands of which something else came, with what is missing and what is too much.
pub fn differences(expected: &[Line], found: &[Line]) -> Vec<String> {
    let mut told = Vec::new();
    for (expected, found) in expected.iter().zip(found) {
        let (Line::Command(command, expected), Line::Command(_, found)) = (expected, found) else { continue };
        let (expected, found) = (below(expected), below(found));
        if expected != found {
            told.push(format!("$ {command}"));
            told.extend(expected.iter().filter(|line| !found.contains(line)).map(|line| format!("  missing {line}")));
            told.extend(found.iter().filter(|line| !expected.contains(line)).map(|line| format!("  too much {line}")));
        }
    }
    told
}

/// The words of a command; single quotes keep one together.
pub fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (index, part) in command.split('\'').enumerate() {
        if index % 2 == 1 {
            words.last_mut().expect("one").push_str(part);
            continue;
        }
        let mut pieces = part.split(' ');
        words.last_mut().expect("one").push_str(pieces.next().unwrap_or_default());
        words.extend(pieces.map(str::to_owned));
    }
    words.retain(|word| !word.is_empty());
    words
}
