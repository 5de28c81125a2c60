//! Reading: one pass, no recursion, so that the depth of a document costs no stack.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Number, Value};

/// Objects and arrays may be nested so deep, as upstream has it. Whoever walks values by recursion needs a stack for it, and so
/// does dropping one: threads that hold values need 16 MiB at least in debug builds, more where they walk with larger frames.
pub const MAX_DEPTH: usize = 10_000;

/// So many repeated fields are told apart; more are not reported.
const MAX_DUPLICATES: usize = 100;

/// So many fields are compared with the paths that are sought in a text; the places of later ones stay unknown.
const MAX_SOUGHT: usize = 10_000;

/// Why a text is not JSON, or not JSON that can be held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub message: String,
    /// How many bytes had been read when the fault was found, the faulty one included.
    pub offset: usize,
}

/// Reads one document. Whole numbers of 64 bits stay whole, all others become floats; bytes that are not UTF-8 become U+FFFD.
///
/// Beside the value come the paths of the fields that stand more than once (`spec.replicas`, `spec.containers[0].name`), of which
/// the last one counts.
pub fn parse(text: &[u8]) -> Result<(Value, Vec<String>), Error> {
    let mut parser = Parser::new(text);
    let value = parser.document()?;
    match parser.number_error {
        Some(error) => Err(error),
        None => Ok((value, parser.duplicates)),
    }
}

/// The places in a text of the keys with these paths, as [`parse`] spells them: of the first and of the second, where there are two.
/// A text that is not JSON, or has more fields of such names than anybody writes by hand, gives those that were found before.
pub fn places<'a>(text: &[u8], paths: impl Iterator<Item = &'a str>) -> HashMap<String, (usize, Option<usize>)> {
    let sought: HashMap<String, Vec<usize>> = paths.map(|path| (path.to_owned(), Vec::new())).collect();
    let mut parser = Parser::new(text);
    parser.sought = Some(Sought { names: sought.keys().map(|path| last_name(path).to_owned()).collect(), paths: sought, left: MAX_SOUGHT });
    let ended = parser.document();
    debug_assert!(ended.is_ok(), "the text was read before");
    let found = parser.sought.map(|sought| sought.paths).unwrap_or_default();
    found.into_iter().filter_map(|(path, at)| Some((path, (*at.first()?, at.get(1).copied())))).collect()
}

/// The last field of a path.
fn last_name(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// A container that is being read.
enum Frame {
    Array(Vec<Value>),
    /// With the key whose value comes next.
    Object(Map<String, Value>, String),
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    stack: Vec<Frame>,
    duplicates: Vec<String>,
    seen: HashSet<String>,
    sought: Option<Sought>,
    /// The first number that fits no float. Faults of syntax come first, wherever they stand.
    number_error: Option<Error>,
}

/// Paths whose places are to be noted.
struct Sought {
    /// The last names of the paths, so that few paths are put together.
    names: HashSet<String>,
    paths: HashMap<String, Vec<usize>>,
    /// So many more paths are put together at most.
    left: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a [u8]) -> Parser<'a> {
        Parser { text, at: 0, stack: Vec::new(), duplicates: Vec::new(), seen: HashSet::new(), sought: None, number_error: None }
    }
}

impl Parser<'_> {
    fn document(&mut self) -> Result<Value, Error> {
        loop {
            let Some(mut value) = self.value()? else { continue };
            loop {
                self.skip_space();
                let Some(frame) = self.stack.last_mut() else {
                    return if self.at == self.text.len() { Ok(value) } else { Err(self.fail("after top-level value")) };
                };
                match frame {
                    Frame::Array(items) => items.push(value),
                    Frame::Object(fields, key) => {
                        fields.insert(std::mem::take(key), value);
                    }
                }
                let is_object = matches!(frame, Frame::Object(..));
                match (self.text.get(self.at), is_object) {
                    (Some(b','), _) => {
                        self.at += 1;
                        if is_object {
                            self.key()?;
                        }
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => value = self.close(),
                    (_, true) => return Err(self.fail("after object key:value pair")),
                    (_, false) => return Err(self.fail("after array element")),
                }
            }
        }
    }

    /// A complete value, or `None` after the opening of a container that is not empty.
    fn value(&mut self) -> Result<Option<Value>, Error> {
        self.skip_space();
        match self.text.get(self.at) {
            Some(b'{') => {
                self.open(Frame::Object(Map::new(), String::new()))?;
                if self.text.get(self.at) == Some(&b'}') {
                    return Ok(Some(self.close()));
                }
                self.key()?;
                Ok(None)
            }
            Some(b'[') => {
                self.open(Frame::Array(Vec::new()))?;
                Ok((self.text.get(self.at) == Some(&b']')).then(|| self.close()))
            }
            Some(b'"') => self.string().map(|s| Some(Value::String(s))),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number().map(Some),
            _ => Err(self.fail("looking for beginning of value")),
        }
    }

    fn open(&mut self, frame: Frame) -> Result<(), Error> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(self.fail("exceeded max depth"));
        }
        self.stack.push(frame);
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    fn close(&mut self) -> Value {
        self.at += 1;
        match self.stack.pop() {
            Some(Frame::Array(items)) => Value::Array(items),
            Some(Frame::Object(fields, _)) => Value::Object(fields),
            None => Value::Null,
        }
    }

    /// A field's key and its colon.
    fn key(&mut self) -> Result<(), Error> {
        self.skip_space();
        if self.text.get(self.at) != Some(&b'"') {
            return Err(self.fail("looking for beginning of object key string"));
        }
        let name = self.string()?;
        self.skip_space();
        if self.text.get(self.at) != Some(&b':') {
            return Err(self.fail("after object key"));
        }
        self.at += 1;
        let repeated = matches!(self.stack.last(), Some(Frame::Object(fields, _)) if fields.contains_key(&name));
        if repeated {
            self.note_duplicate(&name);
        }
        self.note_place(&name);
        if let Some(Frame::Object(_, key)) = self.stack.last_mut() {
            *key = name;
        }
        Ok(())
    }

    fn note_place(&mut self, name: &str) {
        match &mut self.sought {
            Some(sought) if sought.left > 0 && sought.names.contains(last_name(name)) => sought.left -= 1,
            _ => return,
        }
        let path = self.path_of(name);
        if let Some(places) = self.sought.as_mut().and_then(|sought| sought.paths.get_mut(&path)) {
            places.push(self.at);
        }
    }

    fn note_duplicate(&mut self, name: &str) {
        if self.duplicates.len() >= MAX_DUPLICATES {
            return;
        }
        let path = self.path_of(name);
        if self.seen.insert(path.clone()) {
            self.duplicates.push(path);
        }
    }

    /// The path of a field of the innermost object.
    fn path_of(&self, name: &str) -> String {
        let mut path = String::new();
        let outer = self.stack.len() - 1;
        for (depth, frame) in self.stack[..outer].iter().enumerate() {
            match frame {
                Frame::Array(items) => path.push_str(&format!("[{}]", items.len())),
                Frame::Object(_, key) => push_name(&mut path, key, depth),
            }
        }
        push_name(&mut path, name, outer);
        path
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.text.get(self.at) {
            self.at += 1;
        }
    }

    /// The byte here cannot stand where it does; at the end of the text, the text is too short.
    fn fail(&self, context: &str) -> Error {
        match self.text.get(self.at) {
            Some(byte) => Error { message: format!("invalid character {} {context}", quote_byte(*byte)), offset: self.at + 1 },
            None => self.too_short(),
        }
    }

    fn too_short(&self) -> Error {
        Error { message: "unexpected end of JSON input".to_owned(), offset: self.text.len() }
    }

    /// As [`Parser::fail`], where a space would be as wrong as the end of the text: Go reports the end as a space.
    fn fail_inside(&self, context: &str) -> Error {
        if self.at < self.text.len() {
            return self.fail(context);
        }
        Error { message: format!("invalid character ' ' {context}"), offset: self.text.len() }
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Option<Value>, Error> {
        for expected in word.bytes() {
            if self.text.get(self.at) != Some(&expected) {
                return Err(self.fail_inside(&format!("in literal {word} (expecting '{}')", char::from(expected))));
            }
            self.at += 1;
        }
        Ok(Some(value))
    }

    fn digits(&mut self) -> usize {
        let count = self.text[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn number(&mut self) -> Result<Value, Error> {
        let start = self.at;
        if self.text[self.at] == b'-' {
            self.at += 1;
        }
        match self.text.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => {
                self.digits();
            }
            _ => return Err(self.fail_inside("in numeric literal")),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return Err(self.fail_inside("after decimal point in numeric literal"));
            }
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(self.fail_inside("in exponent of numeric literal"));
            }
        }
        // Only ASCII was taken.
        let text = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        if let Ok(number) = text.parse::<i64>() {
            return Ok(number.into());
        }
        if let Ok(number) = text.parse::<u64>() {
            return Ok(number.into());
        }
        let float = text.parse().ok().filter(|f: &f64| f.is_finite()).and_then(Number::from_f64);
        if float.is_none() && self.number_error.is_none() {
            let message = format!("json: cannot unmarshal number {text} into Go value of type float64");
            self.number_error = Some(Error { message, offset: self.at });
        }
        Ok(float.map_or(Value::Null, Value::Number))
    }

    /// A string from its opening to its closing quote.
    fn string(&mut self) -> Result<String, Error> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let plain = self.text[self.at..].iter().take_while(|b| !matches!(b, b'"' | b'\\' | ..0x20)).count();
            push_utf8(&mut out, &self.text[self.at..self.at + plain]);
            self.at += plain;
            match self.text.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    out.push(self.escape()?);
                }
                _ => return Err(self.fail("in string literal")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Error> {
        let plain = match self.text.get(self.at) {
            Some(b @ (b'"' | b'\\' | b'/')) => char::from(*b),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode_escape();
            }
            _ => return Err(self.fail_inside("in string escape code")),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unicode_escape(&mut self) -> Result<char, Error> {
        let first = self.four_digits()?;
        if let Some(c) = char::from_u32(first) {
            return Ok(c);
        }
        // Half of a pair: the other half must follow, else this one is lost and the next is read for itself.
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.four_digits()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn four_digits(&mut self) -> Result<u32, Error> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.text.get(self.at).and_then(|b| char::from(*b).to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.fail_inside("in \\u hexadecimal character escape"))?;
            self.at += 1;
        }
        Ok(code)
    }
}

fn push_name(path: &mut String, name: &str, depth: usize) {
    if depth > 0 {
        path.push('.');
    }
    path.push_str(name);
}

/// Every byte that is not part of UTF-8 becomes one U+FFFD.
fn push_utf8(out: &mut String, mut bytes: &[u8]) {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                out.push_str(text);
                return;
            }
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                out.push_str(std::str::from_utf8(valid).unwrap_or_default());
                let broken = error.error_len().unwrap_or(rest.len());
                out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, broken));
                bytes = &rest[broken..];
            }
        }
    }
}

/// A byte in single quotes; bytes beyond ASCII show as the Latin-1 character.
fn quote_byte(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        _ => {
            let quoted = crate::field::quote(&char::from(byte).to_string());
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::to_string;
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = match parse(text.as_bytes()) {
            Ok((value, duplicates)) => [vec![to_string(&value)], duplicates].concat().join(" "),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected, "{text:?}");
    }

    #[test]
    fn fields_are_found_where_they_stand() {
        let text = br#"{"a":{"x":1,"b":[{"x":1},{"x":2,"x":3}]},"x":4}"#;
        let found = places(text, ["x", "a.x", "a.b[1].x", "a.y"].into_iter());
        let order = |path: &str| found.get(path).copied();
        assert!(order("a.x") < order("a.b[1].x") && order("a.b[1].x") < order("x"), "{found:?}");
        assert!(found["a.b[1].x"].1.is_some() && found["x"].1.is_none());
        assert_eq!(order("a.y"), None);
    }

    #[test]
    fn documents_are_read() {
        check(
            " { \"a\" : [ 1 , -2.50 , 1e3, true , null , \"x\" ] , \"b\" : { } , \"c\" : [ ] } ",
            r#"{"a":[1,-2.5,1000,true,null,"x"],"b":{},"c":[]}"#,
        );
        check("-0", "0");
        check("9223372036854775807", "9223372036854775807");
        check("1.0", "1");
        check(r#""\u00e9\ud83d\ude00\ud800x\udc00\/""#, "\"é😀\u{fffd}x\u{fffd}/\"");
        check(r#""\ud800\ud83d\ude00""#, "\"\u{fffd}😀\"");
        let broken = parse(b"\"a\xe2\x82b\xff\"").unwrap().0;
        assert_eq!(broken, "a\u{fffd}\u{fffd}b\u{fffd}");
    }

    #[test]
    fn repeated_fields_are_reported_once_by_path_and_the_last_counts() {
        check(
            r#"{"spec":{"a":[{},{"n":1,"n":2}],"replicas":1,"replicas":2,"replicas":3},"spec":{}}"#,
            r#"{"spec":{}} spec.a[1].n spec.replicas spec"#,
        );
        check(r#"[{"a":1,"a":2}]"#, r#"[{"a":2}] [0].a"#);
        check(r#"{"":{"a":1,"a":2}}"#, r#"{"":{"a":2}} .a"#);
    }

    #[test]
    fn faults_are_worded_as_gos() {
        let table = [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("[1", "unexpected end of JSON input"),
            ("\"a", "unexpected end of JSON input"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{,}", "invalid character ',' looking for beginning of object key string"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("01", "invalid character '1' after top-level value"),
            ("{} {}", "invalid character '{' after top-level value"),
            ("tru", "invalid character ' ' in literal true (expecting 'e')"),
            ("nulx", "invalid character 'x' in literal null (expecting 'l')"),
            ("-", "invalid character ' ' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1e", "invalid character ' ' in exponent of numeric literal"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12g\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("é", "invalid character 'Ã' looking for beginning of value"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
            ("[1e999]", "json: cannot unmarshal number 1e999 into Go value of type float64"),
        ];
        for (text, expected) in table {
            check(text, expected);
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        assert_eq!(parse(nested(MAX_DEPTH + 1).as_bytes()).unwrap_err().message, "invalid character '[' exceeded max depth");
        // Dropping and writing what was read recurses: the deepest document must pass on the stack that servers give their threads.
        let deepest = std::thread::Builder::new().stack_size(32 << 20).spawn(move || {
            let (value, _) = parse(nested(MAX_DEPTH).as_bytes()).unwrap();
            to_string(&value).len()
        });
        assert_eq!(deepest.unwrap().join().unwrap(), 2 * MAX_DEPTH);
    }
}
