//! Field selectors: `metadata.name=a,status.phase!=Running`.
//!
//! Knows their syntax only: which fields a kind can be selected by, and what values these have, is the caller's.

use std::borrow::Cow;
use std::fmt;

/// All terms must hold. Terms are kept in the order of their text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    terms: Vec<Term>,
}

/// `field=value` or `field!=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub field: String,
    pub value: String,
    /// `!=`.
    pub negated: bool,
}

/// Why a text is no field selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term { selector: String, term: String },
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// Upstream prints the character's number.
    #[error("invalid field selector: unescaped character in value: {}", *.0 as u32)]
    Unescaped(char),
}

impl Selector {
    /// Reads terms separated by commas. In values, `\` escapes `\`, `,` and `=`.
    pub fn parse(text: &str) -> Result<Selector, Error> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let (field, negated, value) =
                split_term(part).ok_or_else(|| Error::Term { selector: text.to_owned(), term: part.to_owned() })?;
            let value = unescape(value)?;
            // A lone operator says nothing.
            if !(field.is_empty() && value.is_empty()) {
                terms.push(Term { field: field.to_owned(), value, negated });
            }
        }
        Ok(Selector { terms })
    }

    /// `field=value`.
    pub fn equals(field: &str, value: &str) -> Selector {
        Selector { terms: vec![Term { field: field.to_owned(), value: value.to_owned(), negated: false }] }
    }

    /// Selects everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Keeps only the terms on fields that `keep` accepts.
    pub fn retain(&mut self, keep: impl FnMut(&Term) -> bool) {
        self.terms.retain(keep);
    }

    /// Whether an object with these field values is selected; absent fields have the value "".
    pub fn matches<'a>(&self, value: impl Fn(&str) -> Cow<'a, str>) -> bool {
        self.terms.iter().all(|term| (value(&term.field) == term.value) != term.negated)
    }

    /// The one value that `field` must have, if the selector says so.
    pub fn requires_exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.field == field && !t.negated).map(|t| t.value.as_str())
    }
}

/// The canonical text: parsing it gives the same selector.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if term.negated { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

/// The value with `\`, `,` and `=` escaped.
pub fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn unescape(value: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                Some(other) => return Err(Error::Escape(format!("\\{other}"))),
                None => return Err(Error::Escape("\\".to_owned())),
            },
            ',' | '=' => return Err(Error::Unescaped(c)),
            _ => out.push(c),
        }
    }
    Ok(out)
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Field, whether negated, and the value at the first operator.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..i], negated, value));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = match Selector::parse(text) {
            Ok(selector) => selector.to_string(),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(shown, expected, "{text:?}");
    }

    #[test]
    fn selectors_parse_to_their_canonical_text() {
        check("", "");
        check("metadata.name=a", "metadata.name=a");
        check("b!=2,a==1,", "a=1,b!=2");
        check("a=", "a=");
        check("=x", "=x");
        check("=,!=", "");
        check(r"a=x\,y\=z\\", r"a=x\,y\=z\\");
        check("metadata.name", "error: invalid selector: 'metadata.name'; can't understand 'metadata.name'");
        check("metadata.name in (a)", "error: invalid selector: 'metadata.name in (a)'; can't understand 'metadata.name in (a)'");
        check("a=b=c", "error: invalid field selector: unescaped character in value: 61");
        check(r"a=\x", r"error: invalid field selector: invalid escape sequence: \x");
        check(r"a=\", r"error: invalid field selector: invalid escape sequence: \");
    }

    #[test]
    fn terms_match_values_and_absent_fields_are_empty() {
        let of = |field: &str| Cow::Borrowed(if field == "metadata.name" { "a" } else { "" });
        let matches = |text: &str| Selector::parse(text).unwrap().matches(of);
        assert!(matches("metadata.name=a,spec.nodeName!=n"));
        assert!(matches("spec.nodeName="));
        assert!(!matches("metadata.name!=a"));
        let selector = Selector::parse("a=1,b!=2").unwrap();
        assert_eq!((selector.requires_exact("a"), selector.requires_exact("b")), (Some("1"), None));
    }
}
