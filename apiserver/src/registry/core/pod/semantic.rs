//! Comparing specs by what they mean: amounts are equal if they are as much, however they are written; and showing how
//! two specs differ.

use apimachinery::quantity::Quantity;
use serde_json::Value;

/// Fields that hold amounts, or maps of amounts.
const AMOUNTS: &[&str] = &["limits", "requests", "overhead", "sizeLimit", "divisor"];
/// Unchanged lines around a difference.
const CONTEXT: usize = 3;
/// The longest alignment that is searched for; longer differences are shown as one replacement.
const MAX_CELLS: usize = 4_000_000;

/// Whether two canonical values mean the same.
pub fn same(a: &Value, b: &Value) -> bool {
    same_as(a, b, false)
}

fn same_as(a: &Value, b: &Value, amounts: bool) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let present = |map: &serde_json::Map<String, Value>| map.values().filter(|v| !v.is_null()).count();
            present(a) == present(b)
                && a.iter().filter(|(_, v)| !v.is_null()).all(|(key, value)| {
                    b.get(key).is_some_and(|other| same_as(value, other, amounts || AMOUNTS.contains(&key.as_str())))
                })
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_as(a, b, false)),
        (Value::String(a), Value::String(b)) if amounts && a != b => match (Quantity::parse(a), Quantity::parse(b)) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        },
        _ => a == b,
    }
}

/// A unified diff of the two values' indented JSON; empty if there is no difference.
pub fn diff(old: &Value, new: &Value) -> String {
    let (old, new) = (indented(old), indented(new));
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    unified(&edits(&old, &new))
}

/// JSON with one space of indentation a level.
fn indented(value: &Value) -> String {
    use serde::Serialize;
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        Err(_) => value.to_string(),
    }
}

/// A line and what becomes of it: ' ' kept, '-' removed, '+' added.
type Edit<'a> = (char, &'a str);

fn edits<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Edit<'a>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old_middle, new_middle) = (&old_rest[..old_rest.len() - tail], &new_rest[..new_rest.len() - tail]);
    let kept = |lines: &[&'a str]| lines.iter().map(|line| (' ', *line)).collect::<Vec<_>>();
    let mut all = kept(&old[..head]);
    all.extend(middle(old_middle, new_middle));
    all.extend(kept(&old_rest[old_rest.len() - tail..]));
    all
}

/// The longest common subsequence decides what is kept.
fn middle<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Edit<'a>> {
    let width = new.len() + 1;
    if (old.len() + 1).saturating_mul(width) > MAX_CELLS {
        return old.iter().map(|line| ('-', *line)).chain(new.iter().map(|line| ('+', *line))).collect();
    }
    let mut common = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut all = Vec::with_capacity(old.len() + new.len());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            all.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < old.len() && (j == new.len() || common[(i + 1) * width + j] >= common[i * width + j + 1]) {
            all.push(('-', old[i]));
            i += 1;
        } else {
            all.push(('+', new[j]));
            j += 1;
        }
    }
    all
}

fn unified(edits: &[Edit<'_>]) -> String {
    let changed: Vec<usize> = edits.iter().enumerate().filter(|(_, (kind, _))| *kind != ' ').map(|(i, _)| i).collect();
    let mut out = String::new();
    let mut next = 0;
    while next < changed.len() {
        let first = changed[next];
        let mut last = first;
        while next < changed.len() && changed[next] <= last + 2 * CONTEXT + 1 {
            last = changed[next];
            next += 1;
        }
        let hunk = first.saturating_sub(CONTEXT)..(last + CONTEXT + 1).min(edits.len());
        let lines = |kind: char, range: &[Edit<'_>]| range.iter().filter(|(k, _)| *k == ' ' || *k == kind).count();
        let (before, within) = (&edits[..hunk.start], &edits[hunk]);
        let range = |kind: char| {
            let (start, count) = (lines(kind, before), lines(kind, within));
            match count {
                0 => format!("{start},0"),
                1 => format!("{}", start + 1),
                _ => format!("{},{count}", start + 1),
            }
        };
        out.push_str(&format!("@@ -{} +{} @@\n", range('-'), range('+')));
        for (kind, line) in within {
            out.push(*kind);
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_compare_by_how_much_they_are() {
        let spec = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": cpu}}}]});
        assert!(same(&spec("1"), &spec("1000m")));
        assert!(!same(&spec("1"), &spec("2")));
        assert!(!same(&json!({"name": "1"}), &json!({"name": "1000m"})));
        assert!(same(&json!({"a": null, "b": 1}), &json!({"b": 1})));
    }

    #[test]
    fn a_diff_shows_the_changed_lines_in_their_context() {
        let diff = diff(&json!({"a": 1, "b": 2, "c": 3}), &json!({"a": 1, "b": 5, "c": 3}));
        assert_eq!(diff, "@@ -1,5 +1,5 @@\n {\n  \"a\": 1,\n- \"b\": 2,\n+ \"b\": 5,\n  \"c\": 3\n }\n");
    }

    #[test]
    fn distant_changes_make_several_hunks() {
        let list = |first: i32, last: i32| Value::from((0..30).map(|i| if i == 0 { first } else if i == 29 { last } else { i }).collect::<Vec<_>>());
        assert_eq!(diff(&list(0, 29), &list(-1, -2)).matches("@@ -").count(), 2);
        assert_eq!(diff(&list(0, 29), &list(0, 29)), "");
    }
}
