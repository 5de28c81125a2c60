//! What has happened: the last of it in words, and all of it in one number by which two runs are compared.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Lines kept.
const KEPT: usize = 20_000;

#[derive(Default)]
pub struct Trace {
    lines: VecDeque<String>,
    hasher: DefaultHasher,
    count: u64,
    /// Nothing is left out, and nothing forgotten.
    is_whole: bool,
}

impl Trace {
    pub fn whole() -> Trace {
        Trace { is_whole: true, ..Trace::default() }
    }

    /// Counts what nobody wants to read.
    pub fn count(&mut self, at: Duration, what: &str) {
        if self.is_whole {
            return self.note(at, what);
        }
        self.add(at, what);
    }

    fn add(&mut self, at: Duration, what: &str) {
        at.hash(&mut self.hasher);
        what.hash(&mut self.hasher);
        self.count += 1;
    }

    pub fn note(&mut self, at: Duration, what: &str) {
        self.add(at, what);
        if self.lines.len() == KEPT && !self.is_whole {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>10.3} {what}", at.as_secs_f64()));
    }

    /// How much has happened, and a number that another run has only if the same has happened there.
    pub fn digest(&self) -> (u64, u64) {
        (self.count, self.hasher.finish())
    }

    pub fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter()
    }

    /// The last lines in which one of the words stands, all if there are no words.
    pub fn last(&self, count: usize, words: &[&str]) -> Vec<&str> {
        let told = self.lines.iter().rev().filter(|line| words.is_empty() || words.iter().any(|word| line.contains(word)));
        let mut lines: Vec<&str> = told.take(count).map(String::as_str).collect();
        lines.reverse();
        lines
    }
}
