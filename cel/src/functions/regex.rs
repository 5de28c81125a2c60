//! Regular expressions. They are Go's: the same syntax as this crate's but for a few escapes, which are translated.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use regex::Regex;

use super::Row;
use crate::value::{EvalError, Evaluated, Value};

/// Compiled expressions that are kept; when there are more, compiling starts anew.
const MAX_KEPT: usize = 512;
/// Bytes of a compiled expression.
const MAX_COMPILED_BYTES: usize = 4 << 20;

static KEPT: LazyLock<Mutex<HashMap<String, Arc<Regex>>>> = LazyLock::new(Mutex::default);

pub(super) const ROWS: &[Row] = &[
    ("matches", "matches", "(string, string) -> bool", matches),
    ("matches", "matches_string", "string.(string) -> bool", matches),
    ("find", "string_find_string", "string.(string) -> string", find),
    ("findAll", "string_find_all_string", "string.(string) -> list(string)", find_all),
    ("findAll", "string_find_all_string_int", "string.(string, int) -> list(string)", find_all),
];

/// Compiles a Go expression; the error is in Go's words where they are known.
pub(crate) fn compile(pattern: &str) -> Result<Arc<Regex>, String> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept.get(pattern) {
        return Ok(known.clone());
    }
    let built = regex::RegexBuilder::new(&translate(pattern)).size_limit(MAX_COMPILED_BYTES).build();
    let compiled = Arc::new(built.map_err(|error| explain(pattern, &error))?);
    if kept.len() >= MAX_KEPT {
        kept.clear();
    }
    kept.insert(pattern.to_owned(), compiled.clone());
    Ok(compiled)
}

/// In Go `\d`, `\w`, `\s` and `\b` are ASCII, `\z` is the end, and `\C`, `\Q…\E` exist; `&&`, `--` and `~~` are not operators in classes.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern.chars().peekable();
    let mut class_depth = 0;
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next() {
                Some('Q') => {
                    let tail: String = rest.clone().collect();
                    let literal = tail.split("\\E").next().unwrap_or_default().to_owned();
                    let is_closed = tail.len() > literal.len();
                    let skipped = literal.chars().count() + if is_closed { 2 } else { 0 };
                    rest.by_ref().take(skipped).for_each(drop);
                    out.push_str(&regex::escape(&literal));
                }
                Some('d') => out.push_str(if class_depth > 0 { "0-9" } else { "[0-9]" }),
                Some('w') => out.push_str(if class_depth > 0 { "0-9A-Za-z_" } else { "[0-9A-Za-z_]" }),
                Some('s') => out.push_str(if class_depth > 0 { "\\t\\n\\x0c\\r " } else { "[\\t\\n\\x0c\\r ]" }),
                Some('D') => out.push_str("[^0-9]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('S') => out.push_str("[^\\t\\n\\x0c\\r ]"),
                Some('b') if class_depth == 0 => out.push_str("(?-u:\\b)"),
                Some('B') if class_depth == 0 => out.push_str("\\B"),
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            '[' if class_depth == 0 => {
                class_depth = 1;
                out.push('[');
                if rest.peek() == Some(&'^') {
                    out.extend(rest.next());
                }
                if rest.peek() == Some(&']') {
                    rest.next();
                    out.push_str("\\]");
                }
            }
            '[' if rest.peek() == Some(&':') => {
                // `[:alpha:]` and the like.
                out.push('[');
                for inner in rest.by_ref() {
                    out.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            '[' => out.push_str("\\["),
            ']' if class_depth > 0 => {
                class_depth = 0;
                out.push(']');
            }
            '&' | '~' if class_depth > 0 => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

fn explain(pattern: &str, error: &regex::Error) -> String {
    let text = error.to_string();
    let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let go = |what: &str| format!("error parsing regexp: {what}");
    match reason.as_str() {
        "unclosed group" => go(&format!("missing closing ): `{pattern}`")),
        "unopened group" => go(&format!("unexpected ): `{pattern}`")),
        "unclosed character class" => {
            let from = pattern.rfind('[').map_or(pattern, |at| &pattern[at..]);
            go(&format!("missing closing ]: `{from}`"))
        }
        "repetition operator missing expression" => {
            let operator = pattern.chars().find(|c| "*+?".contains(*c)).unwrap_or('*');
            go(&format!("missing argument to repetition operator: `{operator}`"))
        }
        "look-around, including look-ahead and look-behind, is not supported" => {
            let at = pattern.find("(?").unwrap_or(0);
            let length = if pattern[at..].starts_with("(?<") { 4 } else { 3 };
            go(&format!("invalid or unsupported Perl syntax: `{}`", pattern.get(at..at + length).unwrap_or(pattern)))
        }
        "incomplete escape sequence, reached end of pattern prematurely" => go("trailing backslash at end of expression: ``"),
        "unrecognized escape sequence" => {
            let at = pattern.find('\\').unwrap_or(0);
            go(&format!("invalid escape sequence: `{}`", pattern[at..].chars().take(2).collect::<String>()))
        }
        _ => go(&format!("{reason}: `{pattern}`")),
    }
}

fn texts<'v>(args: &'v [Value<'_>]) -> Result<(&'v str, &'v str), EvalError> {
    args[0].as_str().zip(args[1].as_str()).ok_or_else(EvalError::no_such_overload)
}

fn matches<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (text, pattern) = texts(args)?;
    compile(pattern).map(|regex| Value::Bool(regex.is_match(text))).map_err(EvalError::new)
}

fn illegal(why: String) -> EvalError {
    EvalError::new(format!("Illegal regex: {why}"))
}

fn find<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (text, pattern) = texts(args)?;
    let regex = compile(pattern).map_err(illegal)?;
    Ok(Value::string(regex.find(text).map_or("", |found| found.as_str())))
}

fn find_all<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (text, pattern) = texts(args)?;
    let limit = match args.get(2) {
        Some(Value::Int(limit)) if *limit >= 0 => usize::try_from(*limit).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let regex = compile(pattern).map_err(illegal)?;
    Ok(Value::list(regex.find_iter(text).take(limit).map(|found| Value::string(found.as_str())).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_they_mean_in_go() {
        for (pattern, text, matches) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "\u{661}", false),
            (r"^[\w.]+$", "a_b.c", true),
            ("^[a&&b]+$", "&a", true),
            (r"\Qa.b\E$", "a.b", true),
        ] {
            assert_eq!(compile(pattern).unwrap().is_match(text), matches, "{pattern}");
        }
        assert_eq!(compile("a(b").unwrap_err(), "error parsing regexp: missing closing ): `a(b`");
        assert_eq!(compile("*").unwrap_err(), "error parsing regexp: missing argument to repetition operator: `*`");
    }
}
