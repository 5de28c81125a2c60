//! Splits the text of an expression into tokens, with the messages of the lexer that cel-go has from ANTLR.

use crate::source::{Issue, Source};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// An operator, a bracket or one of the words `in`, `true`, `false`, `null`.
    Fixed(&'static str),
    Float,
    Int,
    Uint,
    String,
    Bytes,
    Ident,
    /// An identifier in backquotes.
    Escaped,
    End,
}

/// A token and where it stands, in characters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexed {
    pub token: Token,
    pub start: usize,
    pub end: usize,
}

/// Longer ones first, so that the first that fits is the longest.
const OPERATORS: [&str; 24] =
    ["==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*", "/", "%"];
const WORDS: [&str; 4] = ["in", "true", "false", "null"];

/// The tokens of a text, an `End` last, what is not a token, and the places of the characters of that, in order.
pub(crate) fn lex(source: &Source) -> (Vec<Lexed>, Vec<Issue>, Vec<usize>) {
    let chars = &source.chars;
    let (mut tokens, mut issues, mut refused, mut at) = (Vec::new(), Vec::new(), Vec::new(), 0);
    while at < chars.len() {
        if matches!(chars[at], '\t' | ' ' | '\r' | '\n' | '\u{c}') {
            at += 1;
        } else if chars[at..].starts_with(&['/', '/']) {
            at += chars[at..].iter().take_while(|c| **c != '\n').count();
        } else {
            match next(chars, at) {
                Ok((token, length)) => {
                    tokens.push(Lexed { token, start: at, end: at + length });
                    at += length;
                }
                Err(failed) => {
                    let text: String = chars[at..(failed + 1).min(chars.len())].iter().collect();
                    refused.extend(at..=failed);
                    let message = format!("Syntax error: token recognition error at: '{text}'");
                    issues.push(Issue { location: source.location(at), message });
                    at = failed + 1;
                }
            }
        }
    }
    tokens.push(Lexed { token: Token::End, start: chars.len(), end: chars.len() });
    (tokens, issues, refused)
}

/// The longest token from here and its length, or where it became clear that there is none.
fn next(chars: &[char], at: usize) -> Result<(Token, usize), usize> {
    let rest = &chars[at..];
    let first = rest[0];
    if first.is_ascii_digit() || (first == '.' && rest.get(1).is_some_and(char::is_ascii_digit)) {
        return Ok(number(rest));
    }
    let prefix = match (first, rest.get(1)) {
        ('b' | 'B', Some('r' | 'R')) => 2,
        ('b' | 'B' | 'r' | 'R', _) => 1,
        _ => 0,
    };
    if rest.get(prefix).is_some_and(|c| matches!(c, '"' | '\'')) {
        let is_bytes = matches!(first, 'b' | 'B');
        let is_raw = prefix > usize::from(is_bytes);
        match quoted(&rest[prefix..], is_raw) {
            Ok(length) => return Ok((if is_bytes { Token::Bytes } else { Token::String }, prefix + length)),
            Err(failed) if prefix == 0 => return Err(at + failed),
            // The prefix alone is still an identifier.
            Err(_) => {}
        }
    }
    if first.is_ascii_alphabetic() || first == '_' {
        let length = rest.iter().take_while(|c| c.is_ascii_alphanumeric() || **c == '_').count();
        let word: String = rest[..length].iter().collect();
        let fixed = WORDS.into_iter().find(|w| *w == word).map(Token::Fixed);
        return Ok((fixed.unwrap_or(Token::Ident), length));
    }
    if first == '`' {
        let length = rest[1..].iter().take_while(|c| c.is_ascii_alphanumeric() || "_.-/ ".contains(**c)).count();
        return if length > 0 && rest.get(length + 1) == Some(&'`') { Ok((Token::Escaped, length + 2)) } else { Err(at + length + 1) };
    }
    for operator in OPERATORS {
        if operator.chars().zip(rest).filter(|(o, c)| o == *c).count() == operator.len() {
            return Ok((Token::Fixed(operator), operator.len()));
        }
    }
    // `=`, `&` and `|` may still become operators at the next character, which is what fails then.
    Err(if matches!(first, '=' | '&' | '|') { at + 1 } else { at })
}

fn number(rest: &[char]) -> (Token, usize) {
    let digits = |from: usize| rest.get(from..).map_or(0, |r| r.iter().take_while(|c| c.is_ascii_digit()).count());
    if rest[0] == '0' && rest.get(1) == Some(&'x') {
        let hex = rest[2..].iter().take_while(|c| c.is_ascii_hexdigit()).count();
        if hex > 0 {
            let is_unsigned = rest.get(2 + hex).is_some_and(|c| matches!(c, 'u' | 'U'));
            return if is_unsigned { (Token::Uint, hex + 3) } else { (Token::Int, hex + 2) };
        }
    }
    let whole = digits(0);
    let mut length = whole;
    if rest.get(whole) == Some(&'.') && digits(whole + 1) > 0 {
        length = whole + 1 + digits(whole + 1);
    }
    if rest.get(length).is_some_and(|c| matches!(c, 'e' | 'E')) {
        let sign = usize::from(rest.get(length + 1).is_some_and(|c| matches!(c, '+' | '-')));
        let exponent = digits(length + 1 + sign);
        if exponent > 0 {
            return (Token::Float, length + 1 + sign + exponent);
        }
    }
    if length > whole {
        return (Token::Float, length);
    }
    let is_unsigned = rest.get(whole).is_some_and(|c| matches!(c, 'u' | 'U'));
    if is_unsigned { (Token::Uint, whole + 1) } else { (Token::Int, whole) }
}

/// The length of a quoted text with its quotes, or where it goes wrong.
fn quoted(rest: &[char], is_raw: bool) -> Result<usize, usize> {
    let quote = rest[0];
    let triple = [quote; 3];
    if rest.starts_with(&triple)
        && let Ok(length) = body(&rest[3..], is_raw, &triple)
    {
        return Ok(length + 6);
    }
    match body(&rest[1..], is_raw, &[quote]) {
        Ok(length) => Ok(length + 2),
        Err(failed) => Err(failed + 1),
    }
}

/// The length up to the closing quotes. One quote ends at the line; three do not.
fn body(rest: &[char], is_raw: bool, close: &[char]) -> Result<usize, usize> {
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(close) {
            return Ok(at);
        }
        match rest[at] {
            '\n' | '\r' if close.len() == 1 => return Err(at),
            '\\' if !is_raw => at += escape(&rest[at..]).map_err(|failed| at + failed)?,
            _ => at += 1,
        }
    }
    Err(at)
}

/// The length of an escape sequence.
fn escape(rest: &[char]) -> Result<usize, usize> {
    let all = |count: usize, from: usize, is: fn(&char) -> bool| {
        let good = rest.get(from..).map_or(0, |r| r.iter().take(count).take_while(|c| is(c)).count());
        if good == count { Ok(from + count) } else { Err(from + good) }
    };
    let is_octal = |c: &char| ('0'..='7').contains(c);
    match rest.get(1) {
        Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`') => Ok(2),
        Some('0'..='3') => all(2, 2, is_octal),
        Some('x' | 'X') => all(2, 2, char::is_ascii_hexdigit),
        Some('u') => all(4, 2, char::is_ascii_hexdigit),
        Some('U') => all(8, 2, char::is_ascii_hexdigit),
        _ => Err(1),
    }
}

/// What a quoted token means: its bytes, which are UTF-8 unless it is a bytes literal. The error is cel-go's.
pub(crate) fn unquote(token: &str, is_bytes: bool) -> Result<Vec<u8>, &'static str> {
    let text = token.replace("\r\n", "\n").replace('\r', "\n");
    let text = if is_bytes { &text[1..] } else { &text[..] };
    let is_raw = text.starts_with(['r', 'R']);
    let text = if is_raw { &text[1..] } else { text };
    let width = if text.len() >= 6 && (text.starts_with("\"\"\"") || text.starts_with("'''")) { 3 } else { 1 };
    let text = &text[width..text.len() - width];
    if is_raw || !text.contains('\\') {
        return Ok(text.as_bytes().to_vec());
    }
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let kind = rest.chars().next().ok_or("unable to unescape string, found '\\' as last character")?;
        rest = &rest[kind.len_utf8()..];
        let simple = match kind {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' | '\'' | '"' | '`' | '?' => Some(kind as u8),
            _ => None,
        };
        if let Some(byte) = simple {
            out.push(byte);
            continue;
        }
        let (digits, radix) = match kind {
            'x' | 'X' => (2, 16),
            'u' if !is_bytes => (4, 16),
            'U' if !is_bytes => (8, 16),
            '0'..='3' => (2, 8),
            _ => return Err("unable to unescape string"),
        };
        let failed = if radix == 8 { "unable to unescape octal sequence in string" } else { "unable to unescape string" };
        let mut value = u32::from_str_radix(rest.get(..digits).ok_or(failed)?, radix).map_err(|_| failed)?;
        rest = &rest[digits..];
        if radix == 8 {
            value += kind.to_digit(8).unwrap_or(0) * 64;
        }
        if is_bytes {
            out.push(value as u8);
        } else {
            let c = char::from_u32(value).ok_or("invalid unicode code point")?;
            out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        let source = Source::new(text);
        let (tokens, issues, _) = lex(&source);
        let mut found: Vec<String> = tokens.iter().map(|t| source.chars[t.start..t.end].iter().collect()).collect();
        found.pop();
        found.extend(issues.into_iter().map(|issue| issue.message));
        found
    }

    #[test]
    fn the_longest_token_wins() {
        assert_eq!(texts("a.b<=1.5e3u"), ["a", ".", "b", "<=", "1.5e3", "u"]);
        assert_eq!(texts("0x1Fu 7U .5 inn in"), ["0x1Fu", "7U", ".5", "inn", "in"]);
        assert_eq!(texts("r'\\' + b\"x\" // end"), ["r'\\'", "+", "b\"x\""]);
        assert_eq!(texts("'''a'b''' \"\""), ["'''a'b'''", "\"\""]);
    }

    #[test]
    fn what_is_no_token_is_named_with_the_character_that_failed() {
        assert_eq!(texts("a | b"), ["a", "b", "Syntax error: token recognition error at: '| '"]);
        assert_eq!(texts("'abc"), ["Syntax error: token recognition error at: ''abc'"]);
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unquote(r#""\x41\u00e9\n\101""#, false), Ok("A\u{e9}\nA".as_bytes().to_vec()));
        assert_eq!(unquote(r"b'\xff\101'", true), Ok(vec![0xff, 0x41]));
        assert_eq!(unquote(r"'\ud800'", false), Err("invalid unicode code point"));
    }
}
