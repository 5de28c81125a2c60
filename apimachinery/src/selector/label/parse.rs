//! The text form of label selectors: tokens, grammar and the wording of its errors.

use crate::field::{self, Path};
use crate::validation::is_qualified_name;

use super::{Operator, Requirement};

/// Why a text is no label selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Between requirements.
    #[error("{0}")]
    Syntax(String),
    #[error("unable to parse requirement: {0}")]
    Requirement(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

struct Token {
    kind: Kind,
    text: String,
}

fn keyword(text: &str) -> Option<Kind> {
    Some(match text {
        ")" => Kind::Close,
        "," => Kind::Comma,
        "!" => Kind::Not,
        "==" => Kind::DoubleEquals,
        "=" => Kind::Equals,
        ">" => Kind::Greater,
        "in" => Kind::In,
        "<" => Kind::Less,
        "!=" => Kind::NotEquals,
        "notin" => Kind::NotIn,
        "(" => Kind::Open,
        _ => return None,
    })
}

const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

const fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

/// The tokens of `text`, the last of them [`Kind::End`]. A NUL ends the text, as it does upstream.
fn tokens(text: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut rest = text.split('\0').next().unwrap_or_default();
    loop {
        rest = rest.trim_start_matches(is_space);
        let Some(first) = rest.chars().next() else { break };
        let length =
            if is_special(first) { special_length(rest) } else { rest.find(|c| is_special(c) || is_space(c)).unwrap_or(rest.len()) };
        let (literal, after) = rest.split_at(length);
        let kind = keyword(literal).unwrap_or(if is_special(first) { Kind::Error } else { Kind::Identifier });
        out.push(Token { kind, text: literal.to_owned() });
        rest = after;
    }
    out.push(Token { kind: Kind::End, text: String::new() });
    out
}

/// The longest operator at the start of `rest`; every special character is one by itself.
fn special_length(rest: &str) -> usize {
    if ["==", "!="].iter().any(|two| rest.starts_with(two)) { 2 } else { 1 }
}

struct Parser {
    tokens: Vec<Token>,
    position: usize,
}

impl Parser {
    /// The token at the front. Names like `in` are identifiers unless an operator is expected.
    fn peek(&self, operator: bool) -> (Kind, &str) {
        // The end token is never passed.
        let token = &self.tokens[self.position.min(self.tokens.len() - 1)];
        let kind = match token.kind {
            Kind::In | Kind::NotIn if !operator => Kind::Identifier,
            kind => kind,
        };
        (kind, &token.text)
    }

    fn next(&mut self, operator: bool) -> (Kind, String) {
        let (kind, text) = self.peek(operator);
        let taken = (kind, text.to_owned());
        self.position += 1;
        taken
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut kind, mut key) = self.next(false);
        let negated = kind == Kind::Not;
        if negated {
            (kind, key) = self.next(false);
        }
        if kind != Kind::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let key_errors = is_qualified_name(&key);
        if !key_errors.is_empty() {
            let error = field::Error::invalid(&Path::new("<nil>"), key.as_str(), key_errors.join("; "));
            return Err(error.to_string());
        }
        let alone = matches!(self.peek(false).0, Kind::End | Kind::Comma);
        let (operator, values) = if negated {
            (Operator::DoesNotExist, Vec::new())
        } else if alone {
            (Operator::Exists, Vec::new())
        } else {
            let operator = self.operator()?;
            let values = match operator {
                Operator::In | Operator::NotIn => self.values()?,
                _ => vec![self.exact_value()?],
            };
            (operator, values)
        };
        Requirement::new(key, operator, values).map_err(|errors| field::aggregate(&errors))
    }

    fn operator(&mut self) -> Result<Operator, String> {
        let (kind, text) = self.next(true);
        Ok(match kind {
            Kind::In => Operator::In,
            Kind::Equals => Operator::Equals,
            Kind::DoubleEquals => Operator::DoubleEquals,
            Kind::Greater => Operator::GreaterThan,
            Kind::Less => Operator::LessThan,
            Kind::NotIn => Operator::NotIn,
            Kind::NotEquals => Operator::NotEquals,
            _ => return Err(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek(false).0, Kind::End | Kind::Comma) {
            return Ok(String::new());
        }
        match self.next(false) {
            (Kind::Identifier, value) => Ok(value),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }

    /// `(a,b)`; a missing value is the empty one. Sorted, each once.
    fn values(&mut self) -> Result<Vec<String>, String> {
        let (kind, text) = self.next(false);
        if kind != Kind::Open {
            return Err(format!("found '{text}' expected: '('"));
        }
        let mut values = match self.peek(false) {
            (Kind::Identifier | Kind::Comma, _) => self.identifiers()?,
            (Kind::Close, _) => vec![String::new()],
            (_, text) => return Err(format!("found '{text}', expected: ',', ')' or identifier")),
        };
        // Both ways to get here have seen the parenthesis.
        self.position += 1;
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    fn identifiers(&mut self) -> Result<Vec<String>, String> {
        let mut values = Vec::new();
        loop {
            match self.next(false) {
                (Kind::Identifier, value) => {
                    values.push(value);
                    match self.peek(false) {
                        (Kind::Comma, _) => {}
                        (Kind::Close, _) => return Ok(values),
                        (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                (Kind::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek(false).0 {
                        Kind::Close => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Kind::Comma => values.push(String::new()),
                        _ => {}
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }
}

/// The requirements in the order of the text.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, Error> {
    let mut parser = Parser { tokens: tokens(text), position: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.peek(false) {
            (Kind::Identifier | Kind::Not, _) => {}
            (Kind::End, _) => return Ok(requirements),
            (_, text) => return Err(Error::Syntax(format!("found '{text}', expected: !, identifier, or 'end of string'"))),
        }
        requirements.push(parser.requirement().map_err(Error::Requirement)?);
        match parser.next(false) {
            (Kind::End, _) => return Ok(requirements),
            (Kind::Comma, _) => {}
            (_, text) => return Err(Error::Syntax(format!("found '{text}', expected: ',' or 'end of string'"))),
        }
        match parser.peek(false) {
            (Kind::Identifier | Kind::Not, _) => {}
            (_, text) => return Err(Error::Syntax(format!("found '{text}', expected: identifier after ','"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Selector;

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
        check("x=a,y=b,z=c", "x=a,y=b,z=c");
        check("z , a==b ,!c, d!=e", "a==b,!c,d!=e,z");
        check("x in (b, a,,)", "x in (,a,b)");
        check("x in ()", "x in ()");
        check("x in (,)", "x in ()");
        check("x notin (in,notin)", "x notin (in,notin)");
        check("in in (in)", "in in (in)");
        check("x=", "x=");
        check("x=,y", "x=,y");
        check("x>1,y<2", "x>1,y<2");
        check("x=in", "x=in");
        check("a.b/c", "a.b/c");
    }

    #[test]
    fn errors_read_as_in_the_reference_server() {
        check(
            "x>a",
            "error: unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must be an integer",
        );
        check("x,", "error: found '', expected: identifier after ','");
        check(",x", "error: found ',', expected: !, identifier, or 'end of string'");
        check("x==y=z", "error: found '=', expected: ',' or 'end of string'");
        check("=x", "error: found '=', expected: !, identifier, or 'end of string'");
        check("x in prod", "error: unable to parse requirement: found 'prod' expected: '('");
        check("a b", "error: unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        check("x=y value", "error: found 'value', expected: ',' or 'end of string'");
        check("!", "error: unable to parse requirement: found '', expected: identifier");
        check("x in (a", "error: unable to parse requirement: found '', expected: ',' or ')'");
        check("x in (a b)", "error: unable to parse requirement: found 'b', expected: ',' or ')'");
        check("x in (=)", "error: unable to parse requirement: found '=', expected: ',', ')' or identifier");
        check("!x=y", "error: found '=', expected: ',' or 'end of string'");
        let long = "x".repeat(64);
        check(
            &format!("env={long}"),
            &format!("error: unable to parse requirement: values[0][env]: Invalid value: \"{long}\": must be no more than 63 bytes"),
        );
        check(
            &long,
            &format!("error: unable to parse requirement: <nil>: Invalid value: \"{long}\": name part must be no more than 63 bytes"),
        );
    }
}
