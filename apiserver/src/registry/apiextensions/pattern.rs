//! Whether a pattern is a regular expression, and what upstream says of those that are none.

use regex_syntax::ast::{Error, ErrorKind, parse::Parser};

/// What is wrong with a pattern, in the words of Go's parser where it has such words.
pub fn problem(pattern: &str) -> Option<String> {
    match Parser::new().parse(pattern) {
        Ok(_) => None,
        Err(error) => Some(format!("error parsing regexp: {}", describe(pattern, &error))),
    }
}

fn describe(pattern: &str, error: &Error) -> String {
    let span = &pattern[error.span().start.offset..error.span().end.offset];
    let rest = &pattern[error.span().start.offset..];
    match error.kind() {
        ErrorKind::GroupUnclosed => format!("missing closing ): `{pattern}`"),
        ErrorKind::GroupUnopened => format!("unexpected ): `{pattern}`"),
        ErrorKind::ClassUnclosed => format!("missing closing ]: `{rest}`"),
        ErrorKind::ClassRangeInvalid | ErrorKind::ClassRangeLiteral => format!("invalid character class range: `{span}`"),
        ErrorKind::RepetitionMissing => {
            let operator: String = rest.chars().take(1).collect();
            format!("missing argument to repetition operator: `{operator}`")
        }
        ErrorKind::RepetitionCountInvalid | ErrorKind::RepetitionCountDecimalEmpty | ErrorKind::RepetitionCountUnclosed => {
            format!("invalid repeat count: `{span}`")
        }
        ErrorKind::EscapeUnrecognized | ErrorKind::UnsupportedBackreference => format!("invalid escape sequence: `{span}`"),
        ErrorKind::EscapeUnexpectedEof => "trailing backslash at end of expression: ``".to_owned(),
        ErrorKind::UnsupportedLookAround | ErrorKind::FlagUnrecognized => {
            format!("invalid or unsupported Perl syntax: `{span}`")
        }
        other => format!("{other}: `{span}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_refused_in_gos_words() {
        assert_eq!(problem("^[a-z]+(x|y){2,3}$"), None);
        assert_eq!(problem("(a").as_deref(), Some("error parsing regexp: missing closing ): `(a`"));
        assert_eq!(problem("x[a").as_deref(), Some("error parsing regexp: missing closing ]: `[a`"));
        assert_eq!(problem("*").as_deref(), Some("error parsing regexp: missing argument to repetition operator: `*`"));
        assert_eq!(problem("(?=a)").as_deref(), Some("error parsing regexp: invalid or unsupported Perl syntax: `(?=`"));
    }
}
