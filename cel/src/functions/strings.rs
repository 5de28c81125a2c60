//! CEL's own extension for texts. Places are counted in characters.

use super::{Row, count, formatting};
use crate::value::{EvalError, Evaluated, Value};

pub(super) const ROWS: &[Row] = &[
    ("charAt", "string_char_at_int", "string.(int) -> string", char_at),
    ("indexOf", "string_index_of_string", "string.(string) -> int", index_of),
    ("indexOf", "string_index_of_string_int", "string.(string, int) -> int", index_of),
    ("lastIndexOf", "string_last_index_of_string", "string.(string) -> int", last_index_of),
    ("lastIndexOf", "string_last_index_of_string_int", "string.(string, int) -> int", last_index_of),
    ("lowerAscii", "string_lower_ascii", "string.() -> string", lower),
    ("replace", "string_replace_string_string", "string.(string, string) -> string", replace),
    ("replace", "string_replace_string_string_int", "string.(string, string, int) -> string", replace),
    ("split", "string_split_string", "string.(string) -> list(string)", split),
    ("split", "string_split_string_int", "string.(string, int) -> list(string)", split),
    ("substring", "string_substring_int", "string.(int) -> string", substring),
    ("substring", "string_substring_int_int", "string.(int, int) -> string", substring),
    ("trim", "string_trim", "string.() -> string", trim),
    ("upperAscii", "string_upper_ascii", "string.() -> string", upper),
    ("format", "string_format", "string.(list(dyn)) -> string", formatting::format),
    ("strings.quote", "strings_quote", "(string) -> string", quote),
    ("join", "list_join", "list(string).() -> string", join),
    ("join", "list_join_string", "list(string).(string) -> string", join),
];

fn text<'v>(args: &'v [Value<'_>], index: usize) -> Result<&'v str, EvalError> {
    args.get(index).and_then(Value::as_str).ok_or_else(EvalError::no_such_overload)
}

fn int(args: &[Value<'_>], index: usize) -> Option<i64> {
    match args.get(index) {
        Some(Value::Int(value)) => Some(*value),
        _ => None,
    }
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

fn char_at<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (text, at) = (text(args, 0)?, int(args, 1).unwrap_or(0));
    let index = usize::try_from(at).map_err(|_| out_of_range(at))?;
    match text.chars().nth(index) {
        Some(c) => Ok(Value::string(c.to_string())),
        None if index == text.chars().count() => Ok(Value::string("")),
        None => Err(out_of_range(at)),
    }
}

fn place<'a>(found: Option<usize>) -> Evaluated<'a> {
    Ok(found.map_or(Value::Int(-1), count))
}

fn is_at(chars: &[char], at: usize, part: &[char]) -> bool {
    chars.get(at..).is_some_and(|rest| rest.starts_with(part))
}

fn index_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let chars: Vec<char> = text(args, 0)?.chars().collect();
    let part: Vec<char> = text(args, 1)?.chars().collect();
    let from = int(args, 2).unwrap_or(0);
    let offset = usize::try_from(from).map_err(|_| out_of_range(from))?;
    if part.is_empty() {
        return place(Some(offset.min(chars.len())));
    }
    place((offset..chars.len()).find(|at| is_at(&chars, *at, &part)))
}

fn last_index_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let chars: Vec<char> = text(args, 0)?.chars().collect();
    let part: Vec<char> = text(args, 1)?.chars().collect();
    let from = match int(args, 2) {
        Some(from) => from,
        None if part.is_empty() => return place(Some(chars.len())),
        None if chars.len() < part.len() => return place(None),
        None => chars.len() as i64 - 1,
    };
    let offset = usize::try_from(from).map_err(|_| out_of_range(from))?;
    if part.is_empty() {
        return place(Some(offset.min(chars.len())));
    }
    if offset >= chars.len() {
        return place(None);
    }
    place((0..=offset).rev().find(|at| is_at(&chars, *at, &part)))
}

fn lower<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    text(args, 0).map(|text| Value::string(text.to_ascii_lowercase()))
}

fn upper<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    text(args, 0).map(|text| Value::string(text.to_ascii_uppercase()))
}

/// Bytes of the longest text that a function makes; upstream would make longer ones, and could not pay for them.
const MAX_BYTES: usize = 64 << 20;

fn bounded(bytes: usize) -> Result<(), EvalError> {
    if bytes > MAX_BYTES { Err(EvalError::over_budget()) } else { Ok(()) }
}

fn replace<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (text, old, new) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let limit = int(args, 3).and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    bounded(text.matches(old).count().min(limit).saturating_mul(new.len()))?;
    match int(args, 3) {
        Some(limit) if limit >= 0 => Ok(Value::string(text.replacen(old, new, usize::try_from(limit).unwrap_or(usize::MAX)))),
        _ => Ok(Value::string(text.replace(old, new))),
    }
}

fn split<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (text, separator) = (text(args, 0)?, text(args, 1)?);
    let limit = match int(args, 2) {
        Some(0) => return Ok(Value::list(Vec::new())),
        Some(limit) if limit > 0 => usize::try_from(limit).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let parts: Vec<Value<'a>> = if separator.is_empty() {
        // Into characters, the last part taking what is left.
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).take(limit).collect();
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        starts.iter().zip(ends).map(|(start, end)| Value::string(&text[*start..end])).collect()
    } else {
        text.splitn(limit, separator).map(Value::string).collect()
    };
    Ok(Value::list(parts))
}

fn substring<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let chars: Vec<char> = text(args, 0)?.chars().collect();
    let start = int(args, 1).unwrap_or(0);
    let end = int(args, 2).unwrap_or(chars.len() as i64);
    if args.len() == 3 && start > end {
        return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let within = |index: i64| usize::try_from(index).ok().filter(|i| *i <= chars.len()).ok_or_else(|| out_of_range(index));
    let (from, to) = (within(start)?, within(end)?);
    Ok(Value::string(chars[from..to].iter().collect::<String>()))
}

fn trim<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    text(args, 0).map(|text| Value::string(text.trim()))
}

fn quote<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let mut quoted = String::from("\"");
    for c in text(args, 0)?.chars() {
        match c {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    Ok(Value::string(quoted))
}

fn join<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let separator = if args.len() > 1 { text(args, 1)? } else { "" };
    let mut joined = String::new();
    for (index, item) in super::lists::list(&args[0])?.iter().enumerate() {
        if index > 0 {
            bounded(joined.len() + separator.len())?;
            joined.push_str(separator);
        }
        let item = item?;
        joined.push_str(item.as_str().ok_or_else(|| EvalError::new(format!("join: invalid input: {item}")))?);
    }
    Ok(Value::string(joined))
}
