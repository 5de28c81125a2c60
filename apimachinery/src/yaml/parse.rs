//! Text to a tree of nodes, with the messages of libyaml's scanner and parser.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_saphyr::granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Tag};

use super::Error;

/// Upstream's limit, in whose name deeper documents are refused.
const UPSTREAM_MAX_DEPTH: usize = 10_000;
/// How deeply nodes may nest here: far deeper than any object, shallow enough for the stack.
pub(super) const MAX_DEPTH: usize = 500;

/// The nodes of a document. The root is the last that was closed; children have their places.
#[derive(Debug, Default)]
pub(super) struct Document<'t> {
    pub nodes: Vec<Node<'t>>,
    pub root: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Node<'t> {
    /// Counted from one.
    pub line: usize,
    pub content: Content<'t>,
    /// The tag with its long prefix, or empty.
    pub tag: String,
    /// The name of the node's anchor, or empty.
    pub anchor: Cow<'t, str>,
}

#[derive(Debug)]
pub(super) enum Content<'t> {
    Scalar {
        text: Cow<'t, str>,
        plain: bool,
    },
    Sequence(Vec<usize>),
    /// Keys and values in turn.
    Mapping(Vec<usize>),
    Alias(usize),
}

pub(super) fn too_deep() -> Error {
    Error(format!("yaml: exceeded max depth of {UPSTREAM_MAX_DEPTH}"))
}

/// UTF-8 of the characters that YAML allows.
pub(super) fn check_characters(text: &[u8]) -> Result<&str, Error> {
    let text = std::str::from_utf8(text).map_err(|e| {
        let bad = &text[e.valid_up_to()..];
        let problem = match (e.error_len(), bad.first()) {
            (None, _) => "incomplete UTF-8 octet sequence",
            (Some(_), Some(0x80..=0xbf | 0xf8..)) => "invalid leading UTF-8 octet",
            (Some(_), Some(0xc0 | 0xc1)) => "invalid length of a UTF-8 sequence",
            _ => "invalid trailing UTF-8 octet",
        };
        Error(format!("yaml: {problem}"))
    })?;
    let allowed =
        |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if text.chars().all(allowed) { Ok(text) } else { Err(Error("yaml: control characters are not allowed".to_owned())) }
}

/// The first document's tree.
pub(super) fn parse(text: &str) -> Result<Document<'_>, Error> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.block_scalar_eof_without_line_feed = true;
    options.bom_inside_document_as_content = true;
    options.emit_unresolved_aliases = true;
    options.emit_anchor_events = true;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|e| scan_error(&e, text))?;
        if !builder.event(event, span.start.line())? {
            break;
        }
    }
    Ok(builder.document)
}

#[derive(Default)]
struct Builder<'t> {
    document: Document<'t>,
    /// The collections that are open, innermost last.
    open: Vec<usize>,
    anchors: HashMap<usize, usize>,
    /// The node an anchor event that comes next belongs to.
    last: usize,
}

impl<'t> Builder<'t> {
    /// Whether the document goes on.
    fn event(&mut self, event: Event<'t>, line: usize) -> Result<bool, Error> {
        match event {
            Event::Scalar(text, style, _, tag) => {
                let plain = style == ScalarStyle::Plain;
                self.add(line, Content::Scalar { text, plain }, tag);
            }
            Event::SequenceStart(_, _, tag) => self.open(line, Content::Sequence(Vec::new()), tag)?,
            Event::MappingStart(_, _, tag) => self.open(line, Content::Mapping(Vec::new()), tag)?,
            Event::SequenceEnd | Event::MappingEnd => {
                self.open.pop();
            }
            Event::Anchor(id, name) => {
                self.anchors.insert(id, self.last);
                self.document.nodes[self.last].anchor = name;
            }
            Event::Alias(id) => {
                // Every alias that is resolved names an anchor that was announced before it.
                let target = self.anchors.get(&id).copied().ok_or_else(|| Error("yaml: unknown anchor referenced".to_owned()))?;
                self.add(line, Content::Alias(target), None);
            }
            Event::UnresolvedAlias(name) => return Err(Error(format!("yaml: unknown anchor '{name}' referenced"))),
            Event::DocumentEnd => return Ok(false),
            _ => {}
        }
        Ok(true)
    }

    fn open(&mut self, line: usize, content: Content<'t>, tag: Option<Cow<'t, Tag>>) -> Result<(), Error> {
        if self.open.len() == MAX_DEPTH {
            return Err(too_deep());
        }
        self.add(line, content, tag);
        self.open.push(self.last);
        Ok(())
    }

    fn add(&mut self, line: usize, content: Content<'t>, tag: Option<Cow<'t, Tag>>) {
        let id = self.document.nodes.len();
        let tag = tag.map(|tag| tag.to_string()).unwrap_or_default();
        self.document.nodes.push(Node { line, content, tag, anchor: Cow::Borrowed("") });
        self.last = id;
        match self.open.last().map(|parent| &mut self.document.nodes[*parent].content) {
            Some(Content::Sequence(children) | Content::Mapping(children)) => children.push(id),
            Some(Content::Scalar { .. } | Content::Alias(_)) | None => self.document.root = Some(id),
        }
    }
}

/// The error in libyaml's words, with the line as go-yaml counts it: the scanner's from one, the parser's from zero;
/// the first line goes without saying.
fn scan_error(error: &ScanError, text: &str) -> Error {
    use ErrorKind as K;
    let (mut problem, scanner) = problem(error.kind());
    let mut line = error.marker().line().saturating_sub(1);
    match error.kind() {
        K::RecursionLimitExceeded => return too_deep(),
        // Found at the end of the text, which counts as the start of a line of its own.
        K::UnclosedFlowCollection { .. } => {
            line = text.lines().count();
            if text.trim_end().ends_with(['[', '{', ',', ':', '?']) {
                problem = "did not find expected node content".into();
            }
        }
        K::UnclosedQuotedScalar => line = text.matches('\n').count(),
        // Found where the text goes on.
        K::SimpleKeyExpected | K::InvalidSimpleKey | K::TabAtBlockScalarStart | K::TabInPlainScalar => line = next_content(text, line),
        _ => {}
    }
    match line {
        0 => Error(format!("yaml: {problem}")),
        line => Error(format!("yaml: line {}: {problem}", line + usize::from(scanner))),
    }
}

/// The first line after `line` that is neither empty nor a comment, or the one after the last; counted from zero.
fn next_content(text: &str, line: usize) -> usize {
    let blank = |l: &str| l.trim().is_empty() || l.trim_start().starts_with('#');
    let found = text.lines().enumerate().skip(line + 1).find(|(_, l)| !blank(l));
    found.map_or_else(|| text.lines().count(), |(i, _)| i)
}

/// libyaml's words for a kind of error, and whether its scanner (not its parser) finds it.
fn problem(kind: &ErrorKind) -> (Cow<'static, str>, bool) {
    use ErrorKind as K;
    let (problem, scanner) = match kind {
        K::ExpectedNodeContent
        | K::MisplacedFlowCollectionEnd
        | K::UnexpectedEofFlowSequence
        | K::UnexpectedEofFlowMapping
        | K::UnexpectedEofImplicitFlowMapping => ("did not find expected node content", false),
        K::ExpectedBlockMappingKey
        | K::UnexpectedEofBlockMapping
        | K::InvalidTrailingSingleQuotedScalar
        | K::InvalidTrailingDoubleQuotedScalar => ("did not find expected key", false),
        K::ExpectedBlockSequenceEntry | K::UnexpectedEofBlockSequence => ("did not find expected '-' indicator", false),
        K::ExpectedFlowMappingSeparator | K::MismatchedFlowCollectionEnd { open: '{', .. } | K::UnclosedFlowCollection { open: '{' } => {
            ("did not find expected ',' or '}'", false)
        }
        K::ExpectedFlowSequenceSeparator | K::MismatchedFlowCollectionEnd { .. } | K::UnclosedFlowCollection { .. } => {
            ("did not find expected ',' or ']'", false)
        }
        K::ExpectedDocumentStart | K::UnexpectedEof | K::MissingDocumentEndBeforeDirective | K::InvalidDocumentEnd => {
            ("did not find expected <document start>", false)
        }
        K::UndeclaredTagHandle => ("found undefined tag handle", false),
        K::DuplicateVersionDirective => ("found duplicate %YAML directive", false),
        K::DuplicateTagDirective => ("found duplicate %TAG directive", false),
        K::UnsupportedYamlMajorVersion => ("found incompatible YAML document", false),
        K::SimpleKeyExpected | K::InvalidSimpleKey => ("could not find expected ':'", true),
        K::MappingValueNotAllowed | K::InvalidColonPlacement | K::FlowMappingValueAdjacentCollection => {
            ("mapping values are not allowed in this context", true)
        }
        K::MappingKeyNotAllowed => ("mapping keys are not allowed in this context", true),
        K::BlockSequenceEntryNotAllowed | K::BlockEntryInFlowCollection => ("block sequence entries are not allowed in this context", true),
        K::UnclosedQuotedScalar => ("found unexpected end of stream", true),
        K::DocumentIndicatorInQuotedScalar => ("found unexpected document indicator", true),
        K::UnknownQuotedScalarEscape => ("found unknown escape character", true),
        K::InvalidQuotedScalarHexEscape | K::InvalidLowSurrogateHexEscape => ("did not find expected hexdecimal number", true),
        K::InvalidUnicodeEscape | K::InvalidLowSurrogate | K::MissingLowSurrogate | K::UnpairedLowSurrogate => {
            ("found invalid Unicode character escape code", true)
        }
        K::ZeroBlockScalarIndent => ("found an indentation indicator equal to 0", true),
        K::InvalidBlockScalarHeader | K::InvalidDirectiveTerminator => ("did not find expected comment or line break", true),
        K::TabAtBlockScalarStart | K::TabInIndentation => ("found a tab character where an indentation space is expected", true),
        K::TabNotAllowed | K::TabInBlockIndentation | K::UnexpectedCharacter { .. } | K::InvalidIndentation => {
            ("found character that cannot start any token", true)
        }
        K::TabInPlainScalar => ("found a tab character that violates indentation", true),
        K::MissingAnchorOrAliasName => ("did not find expected alphabetic or numeric character", true),
        K::MissingTagUri => ("did not find expected tag URI", true),
        K::ExpectedWhitespace | K::InvalidTagTerminator => ("did not find expected whitespace or line break", true),
        other => return (Cow::Owned(other.to_string()), true),
    };
    (Cow::Borrowed(problem), scanner)
}
