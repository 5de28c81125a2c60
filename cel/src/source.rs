//! The text of an expression, places in it, and what is wrong there, drawn as cel-go draws it.

use std::fmt;

/// Errors that are shown; the rest are counted.
const MAX_SHOWN: usize = 100;
/// Bytes of a line that are still shown.
const MAX_SNIPPET_BYTES: usize = 16_384;

/// A place in an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// From 1; -1 where no place is known.
    pub line: i64,
    /// Characters before it in its line; -1 where no place is known.
    pub column: i64,
}

impl Location {
    pub(crate) const NONE: Location = Location { line: -1, column: -1 };
}

/// One thing that is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    pub location: Location,
    pub message: String,
}

/// An expression's text with its lines.
pub(crate) struct Source {
    pub chars: Vec<char>,
    /// Offsets at which lines after the first begin.
    lines: Vec<usize>,
}

impl Source {
    pub fn new(text: &str) -> Source {
        let chars: Vec<char> = text.chars().collect();
        let lines = chars.iter().enumerate().filter(|(_, c)| **c == '\n').map(|(at, _)| at + 1).collect();
        Source { chars, lines }
    }

    pub fn location(&self, offset: usize) -> Location {
        if self.chars.is_empty() {
            // An empty text has no first column.
            return Location { line: 1, column: -1 };
        }
        let before = self.lines.partition_point(|start| *start <= offset);
        let start = if before == 0 { 0 } else { self.lines[before - 1] };
        Location { line: before as i64 + 1, column: (offset - start) as i64 }
    }

    fn line(&self, number: i64) -> Option<String> {
        let index = usize::try_from(number - 1).ok()?;
        let start = if index == 0 { 0 } else { *self.lines.get(index - 1)? };
        let end = self.lines.get(index).map_or(self.chars.len(), |next| next - 1);
        (!self.chars.is_empty()).then(|| self.chars[start..end].iter().collect())
    }

    fn draw(&self, issue: &Issue) -> String {
        let Location { line, column } = issue.location;
        let mut text = format!("ERROR: <input>:{line}:{}: {}", column + 1, issue.message);
        let Some(snippet) = self.line(line).filter(|snippet| snippet.len() <= MAX_SNIPPET_BYTES) else { return text };
        let snippet = snippet.replace('\t', " ");
        text.push_str("\n | ");
        text.push_str(&snippet);
        text.push_str("\n | ");
        let mut rest = snippet.chars();
        for _ in 0..column {
            match rest.next() {
                Some(c) => text.push(if c.len_utf8() > 1 { '\u{ff0e}' } else { '.' }),
                None => break,
            }
        }
        text.push(if rest.next().is_some_and(|c| c.len_utf8() > 1) { '\u{ff3e}' } else { '^' });
        text
    }
}

/// Why an expression cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// In the order of their places; at most a hundred.
    pub issues: Vec<Issue>,
    text: String,
}

impl CompileError {
    pub(crate) fn new(source: &Source, mut issues: Vec<Issue>) -> CompileError {
        let more = issues.len().saturating_sub(MAX_SHOWN);
        issues.truncate(MAX_SHOWN);
        issues.sort_by_key(|issue| issue.location);
        let mut lines: Vec<String> = issues.iter().map(|issue| source.draw(issue)).collect();
        if more > 0 {
            lines.push(format!("{more} more errors were truncated"));
        }
        CompileError { issues, text: lines.join("\n") }
    }

    /// A program that was checked but cannot be made.
    pub(crate) fn plain(text: String) -> CompileError {
        CompileError { issues: Vec::new(), text }
    }

    /// Whether the expression was sound and only could not be made a program: a constant that cannot be converted, say. Callers
    /// put other words before the text then.
    pub fn is_instantiation(&self) -> bool {
        self.issues.is_empty()
    }
}

/// What cel-go's `Issues.String()` gives: the errors with the line and a mark under it.
impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for CompileError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_shown_under_its_line() {
        let source = Source::new("a +\n\t\u{fffd}b");
        let issue = Issue { location: source.location(6), message: "wrong".to_owned() };
        let shown = CompileError::new(&source, vec![issue]).to_string();
        assert_eq!(shown, "ERROR: <input>:2:3: wrong\n |  \u{fffd}b\n | .\u{ff0e}^");
    }
}
