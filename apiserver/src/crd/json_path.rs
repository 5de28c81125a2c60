//! The JSONPath of columns and selectable fields: `.spec.list[0].n`, `.a[*].b`, `.c[?(@.type=="Ready")].status`, `.m['a.b']`.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// From the end, if negative.
    Index(i64),
    All,
    /// `[?(@.path==literal)]`, or with `!=`.
    Where {
        path: JsonPath,
        equals: bool,
        literal: Value,
    },
}

impl JsonPath {
    /// `None` for what is no path, or one with constructs that columns do not have.
    pub fn parse(text: &str) -> Option<JsonPath> {
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            rest = if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after)?;
                steps.push(bracket(after[..end].trim())?);
                &after[end + 1..]
            } else {
                let after = rest.strip_prefix('.').unwrap_or(rest);
                let (name, after) = field(after);
                match name.as_str() {
                    "" if after.is_empty() && steps.is_empty() => {}
                    "" => return None,
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Field(name)),
                }
                after
            };
        }
        Some(JsonPath(steps))
    }

    /// The first value that the path leads to.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        first(&self.0, value)
    }
}

/// A name up to the next separator; a backslash takes the next character as it is.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '.' | '[' => return (name, &text[at..]),
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            c => name.push(c),
        }
    }
    (name, "")
}

/// Where the bracket closes that has been opened before `text`, with regard to quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        let (left, equals, right) = match (filter.split_once("=="), filter.split_once("!=")) {
            (Some((l, r)), _) => (l, true, r),
            (None, Some((l, r))) => (l, false, r),
            _ => return None,
        };
        let path = JsonPath::parse(left.trim().strip_prefix('@')?)?;
        return Some(Step::Where { path, equals, literal: literal(right.trim())? });
    }
    match literal(text)? {
        Value::String(name) => Some(Step::Field(name)),
        other => other.as_i64().map(Step::Index),
    }
}

fn literal(text: &str) -> Option<Value> {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote) {
            return inner.strip_suffix(quote).map(|s| Value::String(s.to_owned()));
        }
    }
    serde_json::from_str(text).ok()
}

fn first<'v>(steps: &[Step], value: &'v Value) -> Option<&'v Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match step {
        Step::Field(name) => first(rest, value.get(name)?),
        Step::Index(index) => {
            let items = value.as_array()?;
            let at = if *index < 0 {
                items.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?
            } else {
                usize::try_from(*index).ok()?
            };
            first(rest, items.get(at)?)
        }
        Step::All => match value {
            Value::Array(items) => items.iter().find_map(|item| first(rest, item)),
            Value::Object(map) => map.values().find_map(|item| first(rest, item)),
            _ => None,
        },
        Step::Where { path, equals, literal } => value
            .as_array()?
            .iter()
            .filter(|item| path.first(item).is_some_and(|v| (v == literal) == *equals))
            .find_map(|item| first(rest, item)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_values() {
        let value = json!({"spec": {"n": 1, "l": [{"n": "x"}, {"n": "y"}]}, "m": {"a.b": true},
            "c": [{"type": "A", "status": "1"}, {"type": "B", "status": "2"}]});
        let table = [
            (".spec.n", json!(1)),
            (".spec.l[1].n", json!("y")),
            (".spec.l[-1].n", json!("y")),
            (".spec.l[*].n", json!("x")),
            (r#".c[?(@.type=="B")].status"#, json!("2")),
            (".c[?(@.type!='A')].status", json!("2")),
            (".m['a.b']", json!(true)),
            (r".m.a\.b", json!(true)),
            (".spec.none", Value::Null),
            (".spec.l[7].n", Value::Null),
        ];
        for (path, expected) in table {
            let parsed = JsonPath::parse(path).unwrap();
            assert_eq!(parsed.first(&value).cloned().unwrap_or_default(), expected, "{path}");
        }
        assert_eq!(JsonPath::parse(".a[").map(|_| ()), None);
        assert_eq!(JsonPath::parse(".a..b").map(|_| ()), None);
    }
}
