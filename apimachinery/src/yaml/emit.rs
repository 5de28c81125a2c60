//! Values to text, laid out as go-yaml v2 prints what `sigs.k8s.io/yaml` gives it: block style, keys in natural order,
//! lines folded after column 80.

use serde_json::{Map, Value};

use super::number::number_text;
use super::order::in_natural_order;
use super::resolve::{Resolved, resolve};

/// Text goes on to the next line at the first space beyond this column.
const BEST_WIDTH: usize = 80;
/// Longer keys are written after `? `.
const MAX_SIMPLE_KEY: usize = 128;

/// The value as one YAML document, with a line break at the end.
pub fn to_string(value: &Value) -> String {
    let mut emitter = Emitter { out: String::new(), column: 0 };
    emitter.node(value, None, Place::Root);
    emitter.end_line();
    emitter.out
}

/// Where a node stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    /// After `-`, or after the `?` and `:` of a long key: a collection begins on the same line.
    Indicator,
    /// After `key:`.
    Value,
}

struct Emitter {
    out: String,
    /// In characters.
    column: usize,
}

impl Emitter {
    /// `indent` is that of the collection around the node; `None` at the root.
    fn node(&mut self, value: &Value, indent: Option<usize>, place: Place) {
        match value {
            Value::Object(entries) if !entries.is_empty() => self.mapping(entries, indent.map_or(0, |i| i + 2), place),
            Value::Array(items) if !items.is_empty() => {
                // A list that is a key's value stands no deeper than the key.
                let indent = match (indent, place) {
                    (Some(i), Place::Value) => i,
                    (Some(i), _) => i + 2,
                    (None, _) => 0,
                };
                self.sequence(items, indent, place);
            }
            scalar => {
                if place != Place::Root {
                    self.put(" ");
                }
                let indent = indent.unwrap_or(0) + 2;
                match scalar {
                    Value::String(s) => self.string(s, indent, false),
                    Value::Number(n) => self.put(&number_text(n)),
                    Value::Bool(b) => self.put(if *b { "true" } else { "false" }),
                    Value::Null => self.put("null"),
                    Value::Array(_) => self.put("[]"),
                    Value::Object(_) => self.put("{}"),
                }
            }
        }
    }

    fn mapping(&mut self, entries: &Map<String, Value>, indent: usize, place: Place) {
        for (i, (key, value)) in in_natural_order(entries).into_iter().enumerate() {
            self.start(i == 0, indent, place);
            if !key.contains(is_break) && key.len() <= MAX_SIMPLE_KEY {
                self.string(key, indent + 2, true);
                self.put(":");
                self.node(value, Some(indent), Place::Value);
            } else {
                self.put("? ");
                self.string(key, indent + 2, false);
                self.indent_to(indent);
                self.put(":");
                self.node(value, Some(indent), Place::Indicator);
            }
        }
    }

    fn sequence(&mut self, items: &[Value], indent: usize, place: Place) {
        for (i, item) in items.iter().enumerate() {
            self.start(i == 0, indent, place);
            self.put("-");
            self.node(item, Some(indent), Place::Indicator);
        }
    }

    /// Goes to where an entry of a collection begins.
    fn start(&mut self, first: bool, indent: usize, place: Place) {
        if first && place == Place::Indicator {
            self.put(" ");
        } else {
            self.indent_to(indent);
        }
    }

    fn string(&mut self, s: &str, indent: usize, simple_key: bool) {
        let form = Form::of(s);
        let resolves = resolve(s) != Resolved::String || is_base_60(s);
        if s.contains('\n') {
            match form.literal && !simple_key {
                true => self.literal(s, indent),
                false => self.double_quoted(s, indent, simple_key),
            }
        } else if resolves || simple_key && form.multiline || !form.plain && !form.single_quoted {
            self.double_quoted(s, indent, simple_key);
        } else if form.plain {
            self.plain(s, indent, simple_key);
        } else {
            self.single_quoted(s, indent, simple_key);
        }
    }

    fn plain(&mut self, s: &str, indent: usize, simple_key: bool) {
        let mut after_space = false;
        let mut chars = s.chars().peekable();
        while let Some(c) = chars.next() {
            if c == ' ' && !simple_key && !after_space && self.column > BEST_WIDTH && chars.peek() != Some(&' ') {
                self.indent_to(indent);
            } else {
                self.put_char(c);
            }
            after_space = c == ' ';
        }
    }

    fn single_quoted(&mut self, s: &str, indent: usize, simple_key: bool) {
        self.put("'");
        let (mut after_space, mut after_break) = (false, false);
        let mut chars = s.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let inner = at > 0 && at + 1 < s.len();
            if after_break && !is_break(c) && c != ' ' {
                self.indent_to(indent);
            }
            if c == ' ' && !simple_key && !after_space && self.column > BEST_WIDTH && inner && chars.peek().is_none_or(|(_, c)| *c != ' ') {
                self.indent_to(indent);
            } else {
                if c == '\'' {
                    self.put("'");
                }
                self.put_char(c);
            }
            after_space = c == ' ';
            after_break = is_break(c);
        }
        self.put("'");
    }

    fn double_quoted(&mut self, s: &str, indent: usize, simple_key: bool) {
        self.put("\"");
        // A quirk of go-yaml: in a text that begins with a byte order mark, every character is escaped.
        let escape_all = s.starts_with('\u{feff}');
        let mut after_space = false;
        let mut chars = s.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let inner = at > 0 && at + 1 < s.len();
            if escape_all || !is_printable(c) || is_break(c) || c == '"' || c == '\\' {
                self.escaped(c);
                after_space = false;
                continue;
            }
            if c == ' ' && !simple_key && !after_space && self.column > BEST_WIDTH && inner {
                self.indent_to(indent);
                if chars.peek().is_some_and(|(_, c)| *c == ' ') {
                    self.put("\\");
                }
            } else {
                self.put_char(c);
            }
            after_space = c == ' ';
        }
        self.put("\"");
    }

    fn escaped(&mut self, c: char) {
        let short = match c {
            '\0' => "\\0",
            '\u{7}' => "\\a",
            '\u{8}' => "\\b",
            '\t' => "\\t",
            '\n' => "\\n",
            '\u{b}' => "\\v",
            '\u{c}' => "\\f",
            '\r' => "\\r",
            '\u{1b}' => "\\e",
            '"' => "\\\"",
            '\\' => "\\\\",
            '\u{85}' => "\\N",
            '\u{a0}' => "\\_",
            '\u{2028}' => "\\L",
            '\u{2029}' => "\\P",
            _ => {
                let text = match c as u32 {
                    v @ ..=0xff => format!("\\x{v:02X}"),
                    v @ ..=0xffff => format!("\\u{v:04X}"),
                    v => format!("\\U{v:08X}"),
                };
                return self.put(&text);
            }
        };
        self.put(short);
    }

    fn literal(&mut self, s: &str, indent: usize) {
        self.put("|");
        if s.starts_with(|c| c == ' ' || is_break(c)) {
            self.put("2");
        }
        let mut ends = s.chars().rev().map(is_break);
        match (ends.next(), ends.next()) {
            (Some(false) | None, _) => self.put("-"),
            (Some(true), None | Some(true)) => self.put("+"),
            (Some(true), Some(false)) => {}
        }
        self.put_char('\n');
        let mut after_break = true;
        for c in s.chars() {
            if after_break && !is_break(c) {
                self.indent_to(indent);
            }
            self.put_char(c);
            after_break = is_break(c);
        }
    }

    /// Ends the line if anything is on it, and begins one at this column.
    fn indent_to(&mut self, indent: usize) {
        self.end_line();
        self.out.extend(std::iter::repeat_n(' ', indent));
        self.column = indent;
    }

    fn end_line(&mut self) {
        if self.column > 0 {
            self.put_char('\n');
        }
    }

    fn put(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    fn put_char(&mut self, c: char) {
        self.out.push(c);
        self.column = if is_break(c) { 0 } else { self.column + 1 };
    }
}

/// The styles that a text can be written in.
struct Form {
    multiline: bool,
    plain: bool,
    single_quoted: bool,
    literal: bool,
}

impl Form {
    fn of(s: &str) -> Form {
        let (mut multiline, mut special, mut indicators) = (false, false, s.starts_with("---") || s.starts_with("..."));
        let (mut break_then_space, mut space_then_break) = (false, false);
        let mut before = None;
        let mut chars = s.chars().peekable();
        while let Some(c) = chars.next() {
            let blank_follows = chars.peek().is_none_or(|c| matches!(c, ' ' | '\t'));
            let blank_before = before.is_none_or(|c| matches!(c, ' ' | '\t' | '\0') || is_break(c));
            indicators |= match c {
                ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' => before.is_none(),
                '?' | '-' => before.is_none() && blank_follows,
                ':' => blank_follows,
                '#' => blank_before,
                _ => false,
            };
            special |= !is_printable(c);
            multiline |= is_break(c);
            break_then_space |= c == ' ' && before.is_some_and(is_break);
            space_then_break |= is_break(c) && before == Some(' ');
            before = Some(c);
        }
        let edge = |c: char| c == ' ' || is_break(c);
        let edges = s.starts_with(edge) || s.ends_with(edge);
        Form {
            multiline,
            plain: !(edges || break_then_space || space_then_break || special || multiline || indicators),
            single_quoted: !(break_then_space || space_then_break || special),
            literal: !(s.is_empty() || s.ends_with(' ') || space_then_break || special),
        }
    }
}

/// What go-yaml writes as it is; beyond the basic plane it escapes.
fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && c != '\u{feff}'
}

fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// YAML 1.1 reads `10:30` as a number of base 60, so it is quoted.
fn is_base_60(s: &str) -> bool {
    let unsigned = s.strip_prefix(['+', '-']).unwrap_or(s);
    let (body, fraction) = match unsigned.find('.') {
        Some(at) => (&unsigned[..at], &unsigned[at + 1..]),
        None => (unsigned, ""),
    };
    let mut parts = body.split(':');
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let first_fits = parts.next().is_some_and(|first| first.starts_with(|c: char| c.is_ascii_digit()) && digits(first));
    let sixties = |part: &str| matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']);
    first_fits && body.contains(':') && parts.all(sixties) && digits(fraction)
}
