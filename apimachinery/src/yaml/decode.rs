//! Nodes to a JSON value: tags, keys, anchors, merges and duplicates, as go-yaml v2 and `sigs.k8s.io/yaml` treat them.

use std::collections::HashMap;

use base64::Engine;
use serde_json::{Map, Number, Value};

use super::parse::{Content, Document, MAX_DEPTH, Node, too_deep};
use super::resolve::{Resolved, resolve};
use super::{Error, Parsed, go_syntax};
use crate::base64::GO_STANDARD;
use crate::field::quote;

const TAG_PREFIX: &str = "tag:yaml.org,2002:";

pub(super) fn decode(document: &Document<'_>) -> Result<Parsed, Error> {
    let mut decoder = Decoder { document, ..Decoder::default() };
    let value = match document.root {
        Some(root) => json(decoder.node(root)?)?,
        None => Value::Null,
    };
    let strict_error =
        (!decoder.duplicates.is_empty()).then(|| Error(format!("yaml: unmarshal errors:\n  {}", decoder.duplicates.join("\n  "))));
    Ok(Parsed { value, strict_error })
}

/// What go-yaml makes of a node, before keys become strings.
enum Decoded {
    Scalar(Resolved, String),
    List(Vec<Decoded>),
    Map(Entries),
}

/// A mapping: the keys as Go compares them, and the last value given to each, in the order of their first mention.
#[derive(Default)]
struct Entries {
    places: HashMap<String, usize>,
    items: Vec<(Decoded, Decoded)>,
}

struct Decoder<'d, 't> {
    document: &'d Document<'t>,
    duplicates: Vec<String>,
    /// The aliases being expanded.
    expanding: Vec<usize>,
    depth: usize,
    decoded: usize,
    decoded_by_alias: usize,
}

static EMPTY: Document<'static> = Document { nodes: Vec::new(), root: None };

impl Default for Decoder<'_, '_> {
    fn default() -> Self {
        Decoder { document: &EMPTY, duplicates: Vec::new(), expanding: Vec::new(), depth: 0, decoded: 0, decoded_by_alias: 0 }
    }
}

fn fail<T>(problem: impl std::fmt::Display) -> Result<T, Error> {
    Err(Error(format!("yaml: {problem}")))
}

impl<'d, 't> Decoder<'d, 't> {
    fn node(&mut self, id: usize) -> Result<Decoded, Error> {
        self.count()?;
        if self.depth == MAX_DEPTH {
            return Err(too_deep());
        }
        self.depth += 1;
        let node = &self.document.nodes[id];
        let decoded = match &node.content {
            Content::Scalar { text, plain } => scalar(node, text, *plain)?,
            Content::Sequence(children) => Decoded::List(children.iter().map(|child| self.node(*child)).collect::<Result<_, _>>()?),
            Content::Mapping(children) => {
                let mut entries = Entries::default();
                self.mapping(children, &mut entries)?;
                Decoded::Map(entries)
            }
            Content::Alias(target) => self.alias(id, *target, |decoder| decoder.node(*target))?,
        };
        self.depth -= 1;
        Ok(decoded)
    }

    /// Bounds what aliases may multiply a document to, by go-yaml's rule.
    fn count(&mut self) -> Result<(), Error> {
        const LOW: usize = 400_000;
        const HIGH: usize = 4_000_000;
        self.decoded += 1;
        self.decoded_by_alias += usize::from(!self.expanding.is_empty());
        let allowed = match self.decoded {
            0..=LOW => 0.99,
            HIGH.. => 0.10,
            n => 0.99 - 0.89 * ((n - LOW) as f64 / (HIGH - LOW) as f64),
        };
        if self.decoded_by_alias > 100 && self.decoded > 1_000 && self.decoded_by_alias as f64 / self.decoded as f64 > allowed {
            return fail("document contains excessive aliasing");
        }
        Ok(())
    }

    fn alias<T>(&mut self, id: usize, target: usize, expand: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.expanding.contains(&id) {
            return fail(format_args!("anchor '{}' value contains itself", self.document.nodes[target].anchor));
        }
        self.expanding.push(id);
        let decoded = expand(self);
        self.expanding.pop();
        decoded
    }

    fn mapping(&mut self, children: &'d [usize], entries: &mut Entries) -> Result<(), Error> {
        for pair in children.chunks_exact(2) {
            let (key, value) = (pair[0], pair[1]);
            if is_merge(&self.document.nodes[key]) {
                self.merge(value, entries)?;
                continue;
            }
            let key = self.node(key)?;
            let Decoded::Scalar(resolved, text) = &key else {
                return fail(format_args!("invalid map key: {}", go_syntax::top(&json(key)?)));
            };
            let printed = key_syntax(resolved, text);
            let decoded = self.node(value)?;
            match entries.places.get(&printed) {
                Some(place) => {
                    let line = self.document.nodes[value].line;
                    self.duplicates.push(format!("line {line}: key {printed} already set in map"));
                    entries.items[*place].1 = decoded;
                }
                None => {
                    entries.places.insert(printed, entries.items.len());
                    entries.items.push((key, decoded));
                }
            }
        }
        Ok(())
    }

    /// `<<`: the entries of one mapping, or of several of which the first ones win.
    fn merge(&mut self, id: usize, entries: &mut Entries) -> Result<(), Error> {
        let document = self.document;
        match &document.nodes[id].content {
            Content::Sequence(children) => children.iter().rev().try_for_each(|child| self.merge_one(*child, entries)),
            _ => self.merge_one(id, entries),
        }
    }

    fn merge_one(&mut self, id: usize, entries: &mut Entries) -> Result<(), Error> {
        let document = self.document;
        self.count()?;
        match &document.nodes[id].content {
            Content::Mapping(children) => self.merge_mapping(children, entries),
            Content::Alias(target) => match &document.nodes[*target].content {
                Content::Mapping(children) => self.alias(id, *target, |decoder| decoder.merge_mapping(children, entries)),
                _ => fail("map merge requires map or sequence of maps as the value"),
            },
            _ => fail("map merge requires map or sequence of maps as the value"),
        }
    }

    fn merge_mapping(&mut self, children: &'d [usize], entries: &mut Entries) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return Err(too_deep());
        }
        self.depth += 1;
        self.mapping(children, entries)?;
        self.depth -= 1;
        Ok(())
    }
}

fn is_merge(node: &Node<'_>) -> bool {
    match &node.content {
        Content::Scalar { text, plain } => {
            text == "<<" && (*plain && node.tag.is_empty() || node.tag.strip_prefix(TAG_PREFIX) == Some("merge"))
        }
        _ => false,
    }
}

/// A scalar by its tag, or by its form if it is plain.
fn scalar(node: &Node<'_>, text: &str, plain: bool) -> Result<Decoded, Error> {
    let string = |text: String| Ok(Decoded::Scalar(Resolved::String, text));
    let tag = match node.tag.strip_prefix(TAG_PREFIX) {
        None if !node.tag.is_empty() || !plain => return string(text.to_owned()),
        None => "",
        Some("str") => return string(text.to_owned()),
        Some("binary") => {
            let bytes =
                GO_STANDARD.decode(text.replace(['\r', '\n'], "")).or_else(|_| fail("!!binary value contains invalid base64 data"))?;
            return string(String::from_utf8_lossy(&bytes).into_owned());
        }
        Some(tag @ ("bool" | "int" | "float" | "null" | "timestamp")) => tag,
        Some(_) => return string(text.to_owned()),
    };
    let resolved = match resolve(text) {
        // Only an untagged or tagged time is looked for; elsewhere the text is a string.
        Resolved::Timestamp if !matches!(tag, "" | "timestamp") => Resolved::String,
        other => other,
    };
    let resolved = match (tag, resolved) {
        ("", resolved) => resolved,
        ("float", Resolved::Int(n)) => Resolved::Float(n as f64),
        (tag, resolved) if resolved.tag().strip_prefix("!!") == Some(tag) => resolved,
        (tag, resolved) => return fail(format_args!("cannot decode {} `{text}` as a !!{tag}", resolved.tag())),
    };
    Ok(Decoded::Scalar(resolved, text.to_owned()))
}

/// A key in Go's `%#v` syntax, which also tells keys of different types apart.
fn key_syntax(resolved: &Resolved, text: &str) -> String {
    match resolved {
        Resolved::Null => "<nil>".to_owned(),
        Resolved::Bool(b) => b.to_string(),
        Resolved::Int(n) => n.to_string(),
        Resolved::Uint(n) => format!("{n:#x}"),
        Resolved::Float(f) => super::number::float_text(*f),
        Resolved::Timestamp | Resolved::String => quote(text),
    }
}

/// The JSON value, with keys as strings and maps sorted.
fn json(decoded: Decoded) -> Result<Value, Error> {
    match decoded {
        Decoded::Scalar(resolved, text) => scalar_value(&resolved, text),
        Decoded::List(items) => Ok(Value::Array(items.into_iter().map(json).collect::<Result<_, _>>()?)),
        Decoded::Map(entries) => {
            let mut sorted = Vec::with_capacity(entries.items.len());
            for (key, value) in entries.items {
                let value = json(value)?;
                let Decoded::Scalar(resolved, text) = key else {
                    return fail("a map key is no scalar");
                };
                sorted.push((key_text(&resolved, text, &value)?, value));
            }
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(Value::Object(sorted.into_iter().collect::<Map<_, _>>()))
        }
    }
}

fn key_text(resolved: &Resolved, text: String, value: &Value) -> Result<String, Error> {
    let unsupported =
        |ty: &str, key: String| Err(Error(format!("unsupported map key of type: {ty}, key: {key}, value: {}", go_syntax::top(value))));
    match resolved {
        Resolved::Null => unsupported("%!s(<nil>)", "<nil>".to_owned()),
        Resolved::Uint(n) => unsupported("uint64", format!("{n:#x}")),
        Resolved::Bool(b) => Ok(b.to_string()),
        Resolved::Int(n) => Ok(n.to_string()),
        Resolved::Float(f) => Ok(super::number::float32_text(*f)),
        Resolved::Timestamp | Resolved::String => Ok(text),
    }
}

fn scalar_value(resolved: &Resolved, text: String) -> Result<Value, Error> {
    Ok(match resolved {
        Resolved::Null => Value::Null,
        Resolved::Bool(b) => Value::from(*b),
        Resolved::Int(n) => Value::from(*n),
        Resolved::Uint(n) => Value::from(*n),
        Resolved::Float(f) => float_value(*f)?,
        Resolved::Timestamp | Resolved::String => Value::String(text),
    })
}

/// A float as it is after a trip through Go's JSON: an integer if it has no fraction.
fn float_value(f: f64) -> Result<Value, Error> {
    let Some(number) = Number::from_f64(f) else {
        let name = if f.is_nan() {
            "NaN"
        } else if f > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        };
        return Err(Error(format!("json: unsupported value: {name}")));
    };
    // 2^63 is the first float that i64 cannot hold.
    let integral = f.fract() == 0.0 && f.abs() < 9_223_372_036_854_775_808.0 && !(f == 0.0 && f.is_sign_negative());
    Ok(if integral { Value::from(f as i64) } else { Value::Number(number) })
}
