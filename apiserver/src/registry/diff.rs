//! The difference of two structures as messages about immutable fields show it: a unified diff of their JSON.
//!
//! Finds the same matching blocks as Python's difflib (and its Go port), because clients see the text.

use std::collections::HashMap;
use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

/// Lines of context around each change.
const CONTEXT: usize = 3;
/// Lines that are repeated often in a text of at least this many lines do not anchor matches.
const POPULAR_FROM: usize = 200;

/// The unified diff of the indented JSON of two values; empty if they print alike.
pub fn of_values(old: &Value, new: &Value) -> String {
    unified(&pretty(old), &pretty(new))
}

/// JSON indented by one space, with `<`, `>` and `&` escaped as Go does.
fn pretty(value: &Value) -> String {
    let mut out = Vec::new();
    // Writing a value with string keys into memory cannot fail.
    let written = value.serialize(&mut Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b" ")));
    debug_assert!(written.is_ok());
    String::from_utf8_lossy(&out).replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[derive(Clone, Copy, Debug)]
struct Match {
    a: usize,
    b: usize,
    size: usize,
}

/// A run of lines: the same in both, or lines of the old replaced by lines of the new.
#[derive(Clone, Debug)]
struct Run {
    same: bool,
    a: std::ops::Range<usize>,
    b: std::ops::Range<usize>,
}

fn unified(old: &str, new: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.split('\n').collect(), new.split('\n').collect());
    let mut out = String::new();
    for group in groups(runs(&a, &b)) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let (from, to) = (range_text(first.a.start..last.a.end), range_text(first.b.start..last.b.end));
        // Writing into a String cannot fail.
        let _ = writeln!(out, "@@ -{from} +{to} @@");
        for run in &group {
            let lines = |out: &mut String, sign: char, lines: &[&str]| {
                for line in lines {
                    let _ = writeln!(out, "{sign}{line}");
                }
            };
            if run.same {
                lines(&mut out, ' ', &a[run.a.clone()]);
            } else {
                lines(&mut out, '-', &a[run.a.clone()]);
                lines(&mut out, '+', &b[run.b.clone()]);
            }
        }
    }
    out
}

fn range_text(range: std::ops::Range<usize>) -> String {
    match range.len() {
        1 => format!("{}", range.start + 1),
        0 => format!("{},0", range.start),
        length => format!("{},{length}", range.start + 1),
    }
}

/// Runs that cover both texts.
fn runs(a: &[&str], b: &[&str]) -> Vec<Run> {
    let (mut i, mut j) = (0, 0);
    let mut runs = Vec::new();
    for block in matching_blocks(a, b) {
        if i < block.a || j < block.b {
            runs.push(Run { same: false, a: i..block.a, b: j..block.b });
        }
        (i, j) = (block.a + block.size, block.b + block.size);
        if block.size > 0 {
            runs.push(Run { same: true, a: block.a..i, b: block.b..j });
        }
    }
    runs
}

/// Changes with their context; long runs without change separate groups.
fn groups(mut runs: Vec<Run>) -> Vec<Vec<Run>> {
    let head = |run: &Run| run.a.start..run.a.end.min(run.a.start + CONTEXT);
    if let Some(first) = runs.first_mut().filter(|run| run.same) {
        let skip = first.a.len().saturating_sub(CONTEXT);
        (first.a.start, first.b.start) = (first.a.start + skip, first.b.start + skip);
    }
    if let Some(last) = runs.last_mut().filter(|run| run.same) {
        let keep = head(last).len();
        (last.a.end, last.b.end) = (last.a.start + keep, last.b.start + keep);
    }
    let mut groups = Vec::new();
    let mut group: Vec<Run> = Vec::new();
    for mut run in runs {
        if run.same && run.a.len() > 2 * CONTEXT {
            group.push(Run { same: true, a: run.a.start..run.a.start + CONTEXT, b: run.b.start..run.b.start + CONTEXT });
            groups.push(std::mem::take(&mut group));
            (run.a.start, run.b.start) = (run.a.end - CONTEXT, run.b.end - CONTEXT);
        }
        group.push(run);
    }
    if group.iter().any(|run| !run.same) {
        groups.push(group);
    }
    groups
}

/// The blocks that both texts share, in order, ending with an empty one at their ends.
fn matching_blocks(a: &[&str], b: &[&str]) -> Vec<Match> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (j, line) in b.iter().enumerate() {
        places.entry(line).or_default().push(j);
    }
    if b.len() >= POPULAR_FROM {
        let popular = b.len() / 100 + 1;
        places.retain(|_, at| at.len() <= popular);
    }
    let mut found = Vec::new();
    let mut open = vec![(0..a.len(), 0..b.len())];
    while let Some((in_a, in_b)) = open.pop() {
        let block = longest_match(a, b, &places, &in_a, &in_b);
        if block.size > 0 {
            found.push(block);
            open.push((in_a.start..block.a, in_b.start..block.b));
            open.push((block.a + block.size..in_a.end, block.b + block.size..in_b.end));
        }
        open.retain(|(x, y)| !x.is_empty() && !y.is_empty());
    }
    found.sort_by_key(|block| block.a);
    let mut merged: Vec<Match> = Vec::new();
    for block in found {
        match merged.last_mut() {
            Some(last) if last.a + last.size == block.a && last.b + last.size == block.b => last.size += block.size,
            _ => merged.push(block),
        }
    }
    merged.push(Match { a: a.len(), b: b.len(), size: 0 });
    merged
}

/// The longest common run of lines within the ranges; the earliest of several.
fn longest_match(
    a: &[&str],
    b: &[&str],
    places: &HashMap<&str, Vec<usize>>,
    in_a: &std::ops::Range<usize>,
    in_b: &std::ops::Range<usize>,
) -> Match {
    let mut best = Match { a: in_a.start, b: in_b.start, size: 0 };
    // Length of the match that ends at the previous line of `a` and line j of `b`.
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for i in in_a.clone() {
        let mut next = HashMap::new();
        for &j in places.get(a[i]).map_or(&[][..], Vec::as_slice) {
            if !in_b.contains(&j) {
                continue;
            }
            let length = j.checked_sub(1).and_then(|before| lengths.get(&before)).copied().unwrap_or(0) + 1;
            next.insert(j, length);
            if length > best.size {
                best = Match { a: i + 1 - length, b: j + 1 - length, size: length };
            }
        }
        lengths = next;
    }
    while best.a > in_a.start && best.b > in_b.start && a[best.a - 1] == b[best.b - 1] {
        best = Match { a: best.a - 1, b: best.b - 1, size: best.size + 1 };
    }
    while best.a + best.size < in_a.end && best.b + best.size < in_b.end && a[best.a + best.size] == b[best.b + best.size] {
        best.size += 1;
    }
    best
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_changed_line_is_shown_with_three_lines_around() {
        let spec = |size: &str| {
            json!({
                "AccessModes": ["ReadWriteOnce"], "Selector": {"matchLabels": {"pvc": "stuff"}},
                "Resources": {"Limits": {"storage": "1M"}, "Requests": {"storage": size}}, "VolumeName": "",
            })
        };
        assert_eq!(
            of_values(&spec("2M"), &spec("21M")),
            "@@ -12,7 +12,7 @@\n    \"storage\": \"1M\"\n   },\n   \"Requests\": {\n-   \"storage\": \"2M\"\n+   \"storage\": \"21M\"\n   }\n  },\n  \"VolumeName\": \"\"\n"
        );
    }

    #[test]
    fn equal_values_have_no_difference() {
        assert_eq!(of_values(&json!({"a": 1}), &json!({"a": 1})), "");
    }

    #[test]
    fn changes_far_apart_are_separate_groups() {
        let (old, new) = (
            (0..20).map(|i| i.to_string()).collect::<Vec<_>>(),
            (0..20).map(|i| if i == 1 || i == 18 { "x".to_owned() } else { i.to_string() }).collect::<Vec<_>>(),
        );
        let text = unified(&old.join("\n"), &new.join("\n"));
        assert_eq!(text.matches("@@ -").count(), 2, "{text}");
        assert!(text.starts_with("@@ -1,5 +1,5 @@\n 0\n-1\n+x\n 2\n 3\n 4\n"), "{text}");
    }

    #[test]
    fn html_characters_are_escaped() {
        assert_eq!(pretty(&json!({"a": "<&>"})), "{\n \"a\": \"\\u003c\\u0026\\u003e\"\n}");
    }
}
