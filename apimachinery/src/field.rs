//! Field paths and field errors: the vocabulary of validation.
//!
//! Owns the wording of every field error ("spec.replicas: Invalid value: -1: …") and nothing about
//! any particular type. The forms and reasons are those of the Kubernetes API's
//! `Status.details.causes`.

use std::fmt;

use serde_json::Value;

use crate::schema::embedded::TEXT;

/// A place in an object, as it is printed in errors: `spec.containers[0].name`, `metadata.labels[a]`.
///
/// Cheap to build on the stack while walking; rendered only when an error is made.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Empty,
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The empty path, parent of the top-level fields.
    pub const ROOT: Path<'static> = Path { parent: None, step: Step::Empty };

    /// A path of one name.
    pub const fn new(name: &'a str) -> Path<'a> {
        Path { parent: None, step: Step::Name(name) }
    }

    /// `self.name`; `name` may itself be dotted ("spec.template").
    pub const fn child(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Name(name) }
    }

    /// `self[index]`.
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// `self[key]`.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nested = match self.parent {
            Some(parent) => {
                fmt::Display::fmt(parent, f)?;
                !matches!(parent.step, Step::Empty)
            }
            None => false,
        };
        match self.step {
            Step::Empty => Ok(()),
            // An empty name prints as an empty key, as the reference's paths do.
            Step::Name("") => f.write_str("[]"),
            Step::Name(name) if nested => write!(f, ".{name}"),
            Step::Name(name) => f.write_str(name),
            Step::Index(i) => write!(f, "[{i}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// Why a field was refused. [`ErrorKind::reason`] is the cause's `reason` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooShort,
    TooMany,
    TooFew,
    Internal,
    TypeInvalid,
}

impl ErrorKind {
    /// The machine-readable reason of the cause.
    pub const fn reason(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooShort => "FieldValueTooShort",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::TooFew => "FieldValueTooFew",
            ErrorKind::Internal => "InternalError",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    const fn phrase(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "Not found",
            ErrorKind::Required => "Required value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooShort => "Too short",
            ErrorKind::TooMany => "Too many",
            ErrorKind::TooFew => "Too few",
            ErrorKind::Internal => "Internal error",
        }
    }
}

/// A value without what only this server keeps in it: the texts of embedded objects.
fn shown(mut value: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.shift_remove(TEXT);
                map.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut value);
    value
}

/// One refused field.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    pub kind: ErrorKind,
    pub field: String,
    /// The refused value as it is printed; `None` where the form shows none.
    pub value: Option<Value>,
    pub detail: String,
}

impl Error {
    fn make(kind: ErrorKind, path: &Path<'_>, value: Option<Value>, detail: impl Into<String>) -> Error {
        Error { kind, field: path.to_string(), value: value.map(shown), detail: detail.into() }
    }

    pub fn not_found(path: &Path<'_>, value: impl Into<Value>) -> Error {
        Error::make(ErrorKind::NotFound, path, Some(value.into()), "")
    }

    pub fn required(path: &Path<'_>, detail: impl Into<String>) -> Error {
        Error::make(ErrorKind::Required, path, None, detail)
    }

    pub fn duplicate(path: &Path<'_>, value: impl Into<Value>) -> Error {
        Error::make(ErrorKind::Duplicate, path, Some(value.into()), "")
    }

    pub fn invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) -> Error {
        Error::make(ErrorKind::Invalid, path, Some(value.into()), detail)
    }

    pub fn type_invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) -> Error {
        Error::make(ErrorKind::TypeInvalid, path, Some(value.into()), detail)
    }

    /// `supported` is listed in the order given.
    pub fn not_supported<S: AsRef<str>>(path: &Path<'_>, value: impl Into<Value>, supported: &[S]) -> Error {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|s| quote(s.as_ref())).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        Error::make(ErrorKind::NotSupported, path, Some(value.into()), detail)
    }

    pub fn forbidden(path: &Path<'_>, detail: impl Into<String>) -> Error {
        Error::make(ErrorKind::Forbidden, path, None, detail)
    }

    /// More than `max_bytes` bytes.
    pub fn too_long(path: &Path<'_>, max_bytes: usize) -> Error {
        let unit = if max_bytes == 1 { "byte" } else { "bytes" };
        Error::make(ErrorKind::TooLong, path, None, format!("may not be more than {max_bytes} {unit}"))
    }

    /// More than `max` characters.
    pub fn too_long_characters(path: &Path<'_>, max: usize) -> Error {
        let unit = if max == 1 { "character" } else { "characters" };
        Error::make(ErrorKind::TooLong, path, None, format!("may not be more than {max} {unit}"))
    }

    pub fn too_many(path: &Path<'_>, actual: usize, max: usize) -> Error {
        let unit = if max == 1 { "item" } else { "items" };
        Error::make(ErrorKind::TooMany, path, Some(actual.into()), format!("must have at most {max} {unit}"))
    }

    pub fn too_few(path: &Path<'_>, actual: usize, min: usize) -> Error {
        let unit = if min == 1 { "item" } else { "items" };
        Error::make(ErrorKind::TooFew, path, Some(actual.into()), format!("must have at least {min} {unit}"))
    }

    pub fn internal(path: &Path<'_>, detail: impl Into<String>) -> Error {
        Error::make(ErrorKind::Internal, path, None, detail)
    }

    /// The message without the field: `Invalid value: -1: must be …`. This is the cause's `message`.
    pub fn body(&self) -> String {
        let mut out = self.kind.phrase().to_owned();
        if let Some(value) = &self.value {
            out.push_str(": ");
            match value {
                Value::String(s) => out.push_str(&quote(s)),
                other => out.push_str(&crate::json::to_string(other)),
            }
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for Error {}

/// Errors in the order in which they were found.
pub type ErrorList = Vec<Error>;

/// `[a, b]` of the distinct messages, or the message alone: how a Status words several errors.
pub fn aggregate(errors: &[Error]) -> String {
    let mut seen: Vec<String> = Vec::with_capacity(errors.len());
    for e in errors {
        let text = e.to_string();
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    match seen.as_slice() {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    }
}

/// A double-quoted string with Go's `%q` escapes, which messages of the API use.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if is_print(c) => out.push(c),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push('"');
    out
}

/// Whether Go calls the character printable: letters, marks, numbers, punctuation, symbols and the ASCII space.
pub fn is_print(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~');
    }
    // Debug formatting escapes exactly the unprintable characters, quotes and backslash, and a mark that nothing precedes.
    ['x', c].iter().collect::<String>().escape_debug().nth(2).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_in_the_api() {
        let spec = Path::new("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        assert_eq!(first.child("name").to_string(), "spec.containers[0].name");
        assert_eq!(Path::ROOT.child("metadata").to_string(), "metadata");
        assert_eq!(Path::new("metadata").child("labels").key("a/b").to_string(), "metadata.labels[a/b]");
    }

    #[test]
    fn bodies_read_as_in_the_api() {
        let p = Path::new("x");
        assert_eq!(Error::required(&p, "").body(), "Required value");
        assert_eq!(Error::invalid(&p, -1, "must be positive").to_string(), "x: Invalid value: -1: must be positive");
        assert_eq!(Error::invalid(&p, "a\"b", "no").body(), "Invalid value: \"a\\\"b\": no");
        assert_eq!(Error::not_supported(&p, "z", &["A", "B"]).body(), "Unsupported value: \"z\": supported values: \"A\", \"B\"");
        assert_eq!(Error::too_long(&p, 63).body(), "Too long: may not be more than 63 bytes");
        assert_eq!(Error::too_many(&p, 3, 2).body(), "Too many: 3: must have at most 2 items");
    }

    #[test]
    fn quoting_escapes_what_go_calls_unprintable() {
        assert_eq!(quote("a\u{1}\u{85}\u{a0}é\u{301}'\\\u{200b}\u{e0001}日"), "\"a\\x01\\u0085\\u00a0é\u{301}'\\\\\\u200b\\U000e0001日\"");
    }

    #[test]
    fn an_aggregate_drops_repeated_messages() {
        let p = Path::new("x");
        let e = Error::required(&p, "");
        assert_eq!(aggregate(&[e.clone(), e.clone()]), "x: Required value");
        assert_eq!(aggregate(&[e.clone(), Error::forbidden(&p, "no")]), "[x: Required value, x: Forbidden: no]");
    }
}
