//! Paths into an object of a custom kind, `.spec.size` or `.data['a.b']`, which its schema must know.

use serde_json::Value;

use super::internal::present;

/// Where a path leads.
#[derive(Debug, PartialEq)]
pub struct Found<'a> {
    /// The path's steps, as they are printed together.
    pub text: String,
    pub root: String,
    /// The schema of the field; `None` if anything may stand there.
    pub schema: Option<&'a Value>,
}

/// Follows a path through a schema; the error is worded as clients see it.
pub fn follow<'a>(path: &str, schema: &'a Value, allow_brackets: bool) -> Result<Found<'a>, String> {
    let mut tokens = Tokens { rest: path };
    let mut found = Found { text: String::new(), root: String::new(), schema: Some(schema) };
    while let Some(token) = tokens.next() {
        match token {
            "[" => {
                if !allow_brackets {
                    return Err("array notation is not allowed".to_owned());
                }
                let quoted = tokens.next().ok_or("unexpected end of JSON path")?;
                let inner = quoted.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
                let inner = inner.ok_or_else(|| format!("expected single quoted string but got {quoted}"))?;
                let name = unescape(inner).map_err(|problem| format!("invalid string literal: {problem}"))?;
                found.step(&name)?;
                match tokens.next() {
                    Some("]") => {}
                    Some(other) => return Err(format!("expected ] but got {other}")),
                    None => return Err("unexpected end of JSON path".to_owned()),
                }
            }
            "." => {
                let name = tokens.next().ok_or("unexpected end of JSON path")?;
                found.step(name)?;
            }
            other => return Err(format!("expected [ or . but got: {other}")),
        }
    }
    Ok(found)
}

impl Found<'_> {
    fn step(&mut self, name: &str) -> Result<(), String> {
        let unknown = || "does not refer to a valid field".to_owned();
        let schema = self.schema.ok_or_else(unknown)?;
        let properties = present(schema, "properties").and_then(Value::as_object).filter(|properties| !properties.is_empty());
        let (next, step) = match (properties, present(schema, "additionalProperties")) {
            (Some(properties), _) => {
                let dot = if self.text.is_empty() { "" } else { "." };
                (Some(properties.get(name).ok_or_else(unknown)?), format!("{dot}{name}"))
            }
            (None, Some(any)) => (Some(any).filter(|schema| schema.is_object()), format!("[{name}]")),
            (None, None) => return Err(unknown()),
        };
        if self.root.is_empty() {
            self.root.clone_from(&step);
        }
        self.text.push_str(&step);
        self.schema = next;
        Ok(())
    }
}

/// `.`, `[`, `]` and what stands between them; within single quotes these are as any other character.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let bytes = self.rest.as_bytes();
        let end = match *bytes.first()? {
            b'.' | b'[' | b']' => 1,
            b'\'' => (1..bytes.len()).find(|i| bytes[*i] == b'\'' && bytes[i - 1] != b'\\').map_or(bytes.len(), |i| i + 1),
            _ => bytes.iter().position(|b| matches!(b, b'.' | b'[' | b']')).unwrap_or(bytes.len()),
        };
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(token)
    }
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(escaped) = chars.next() else {
            out.push('\\');
            break;
        };
        out.push(match escaped {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\'' | '\\' => escaped,
            other => return Err(format!("invalid escape char \\{other}")),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_are_followed_through_the_schema() {
        let schema = json!({"properties": {"spec": {"properties": {"a.b": {"type": "string"}}}, "map": {"additionalProperties": {"type": "integer"}}}});
        let follow = |path: &str| follow(path, &schema, true);
        let found = follow(".spec['a.b']").unwrap();
        assert_eq!((found.text.as_str(), found.root.as_str()), ("spec.a.b", "spec"));
        assert_eq!(found.schema, Some(&json!({"type": "string"})));
        assert_eq!(follow(".map.x").unwrap().text, "map[x]");
        assert_eq!(follow(".none"), Err("does not refer to a valid field".to_owned()));
        assert_eq!(follow("spec"), Err("expected [ or . but got: spec".to_owned()));
        assert_eq!(follow(".spec["), Err("unexpected end of JSON path".to_owned()));
        assert_eq!(follow(".spec[a]"), Err("expected single quoted string but got a".to_owned()));
        assert_eq!(super::follow(".spec['a']", &schema, false), Err("array notation is not allowed".to_owned()));
    }
}
