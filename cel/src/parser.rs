//! Parses an expression by recursive descent. Messages are those of cel-go's parser, which ANTLR generated; so that there are as
//! many of them, it goes on after a mistake as ANTLR does: the rule that met it skips what cannot follow the rule, and ends.

use crate::ast::{Entry, Expr, Field, Id, Kind, Literal, Parsed};
use crate::escape::is_reserved;
use crate::lexer::{Lexed, Token, lex, unquote};
use crate::macros;
use crate::source::{CompileError, Issue, Location, Source};

/// How deep one rule may be within itself.
const MAX_DEPTH: usize = 250;
/// Characters of an expression.
const MAX_CODE_POINTS: usize = 100_000;

/// What an operand may begin with, as messages list it.
const OPERAND: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
const OPERAND_OR_CLOSING_BRACKET: &str =
    "{'[', ']', '{', '(', '.', ',', '-', '!', '?', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
const OPERAND_OR_CLOSING_BRACE: &str =
    "{'[', '{', '}', '(', '.', ',', '-', '!', '?', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
const OPERAND_OR_OPTIONAL: &str =
    "{'[', '{', '(', '.', '-', '!', '?', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
const OPERAND_OR_CLOSING_PAREN: &str =
    "{'[', '{', '(', ')', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Mistakes after which nothing more is looked at.
const MAX_RECOVERIES: usize = 30;

/// Nothing more can be parsed; there is an issue for it.
pub(crate) struct Stop;

/// Rules that mistakes are met in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Expr,
    Unary,
    Member,
    Primary,
    Entries,
}

/// Rules that are within themselves, whose levels are counted as ANTLR's are.
#[derive(Clone, Copy)]
enum Recursive {
    Relation,
    Calc,
}

/// What may follow where an expression stands.
#[derive(Clone, Copy)]
struct Follow {
    tokens: &'static [&'static str],
    /// The expression may also end here.
    is_optional: bool,
}

const BINARY: [&str; 14] = ["*", "/", "%", "+", "-", "<", "<=", ">=", ">", "==", "!=", "in", "&&", "||"];

pub(crate) type Step<T> = Result<T, Stop>;

/// Parses a text and expands its macros.
pub(crate) fn parse(text: &str, bindings: bool) -> Result<(Source, Parsed), CompileError> {
    let source = Source::new(text);
    let size = source.chars.len();
    if size > MAX_CODE_POINTS {
        let message = format!("expression code point size exceeds limit: size: {size}, limit {MAX_CODE_POINTS}");
        return Err(CompileError::new(&source, vec![Issue { location: Location::NONE, message }]));
    }
    let (tokens, issues, refused) = lex(&source);
    let mut parser = Parser {
        source: &source,
        tokens,
        refused,
        at: 0,
        issues,
        places: Vec::new(),
        expr_depth: 0,
        nested: 0,
        depths: [0; 2],
        follow: Vec::new(),
        is_recovering: false,
        last_mistake: None,
        recoveries: 0,
        bindings,
    };
    let root = parser.whole();
    let (issues, places) = (parser.issues, parser.places);
    match root {
        Ok(root) if issues.is_empty() => Ok((source, Parsed { root, places })),
        _ => Err(CompileError::new(&source, issues)),
    }
}

pub(crate) struct Parser<'s> {
    source: &'s Source,
    tokens: Vec<Lexed>,
    /// Places of characters that are in no token.
    refused: Vec<usize>,
    at: usize,
    issues: Vec<Issue>,
    places: Vec<Location>,
    expr_depth: usize,
    /// Open binary operators and member accesses around the current place; bounds this parser's own recursion.
    nested: usize,
    /// Levels of the rules that are within themselves.
    depths: [usize; 2],
    /// What may follow the constructs around the current place, the innermost last.
    follow: Vec<Follow>,
    /// Since a mistake nothing has fitted; until then mistakes are not told.
    is_recovering: bool,
    last_mistake: Option<(usize, Rule)>,
    recoveries: usize,
    /// `cel.bind` names a value.
    pub bindings: bool,
}

impl Parser<'_> {
    fn whole(&mut self) -> Step<Expr> {
        let root = self.expr(OPERAND)?;
        if self.token() != Token::End {
            let verb = if self.peek(1) == Token::End { "extraneous" } else { "mismatched" };
            let message = format!("{verb} input '{}' expecting <EOF>", self.text_at(self.at));
            self.mistake(self.at, message);
        }
        Ok(root)
    }

    /// An expression that is followed by these tokens.
    fn within(&mut self, tokens: &'static [&'static str], expected: &'static str) -> Step<Expr> {
        self.follow.push(Follow { tokens, is_optional: false });
        let inner = self.expr(expected);
        self.follow.pop();
        inner
    }

    // Tokens.

    fn token(&self) -> Token {
        self.tokens[self.at].token
    }

    fn peek(&self, ahead: usize) -> Token {
        self.tokens[(self.at + ahead).min(self.tokens.len() - 1)].token
    }

    fn is(&self, fixed: &'static str) -> bool {
        self.token() == Token::Fixed(fixed)
    }

    fn text_at(&self, index: usize) -> String {
        let lexed = self.tokens[index];
        if lexed.token == Token::End { "<EOF>".to_owned() } else { self.source.chars[lexed.start..lexed.end].iter().collect() }
    }

    fn place(&self) -> Location {
        self.source.location(self.tokens[self.at].start)
    }

    /// The next token fits.
    fn advance(&mut self) {
        if self.token() != Token::End {
            self.at += 1;
        }
        self.is_recovering = false;
    }

    /// Takes the next token if it is this one.
    fn take(&mut self, fixed: &'static str) -> bool {
        let found = self.is(fixed);
        if found {
            self.advance();
        }
        found
    }

    /// Takes a token that must be there: one that stands before it is skipped, one that is missing is thought of if what follows
    /// fits. False if the rule cannot go on.
    fn expect(&mut self, fixed: &'static str, rule: Rule) -> Step<bool> {
        if self.take(fixed) {
            return Ok(true);
        }
        let found = self.text_at(self.at);
        if self.peek(1) == Token::Fixed(fixed) && self.token() != Token::End {
            self.mistake(self.at, format!("extraneous input '{found}' expecting '{fixed}'"));
            self.at += 1;
            self.advance();
            return Ok(true);
        }
        let fits = if fixed == ":" { self.begins_operand(self.at) } else { self.may_follow_operand() };
        if fits {
            self.mistake(self.at, format!("missing '{fixed}' at '{found}'"));
            return Ok(true);
        }
        self.mistake(self.at, format!("mismatched input '{found}' expecting '{fixed}'"));
        self.recover(rule)?;
        Ok(false)
    }

    // Mistakes.

    /// Tells of a mistake, unless it only follows from another.
    fn mistake(&mut self, at: usize, message: String) {
        if !self.is_recovering {
            let location = self.source.location(self.tokens[at].start);
            self.issues.push(Issue { location, message: format!("Syntax error: {message}") });
        }
        self.is_recovering = true;
    }

    /// Whether the next token can stand after an operand where this one is.
    fn may_follow_operand(&self) -> bool {
        let text = match self.token() {
            Token::Fixed(text) => text,
            Token::End => "<EOF>",
            _ => return false,
        };
        if BINARY.contains(&text) || text == "." || text == "[" {
            return true;
        }
        for follow in self.follow.iter().rev() {
            if follow.tokens.contains(&text) {
                return true;
            }
            if !follow.is_optional {
                return false;
            }
        }
        text == "<EOF>"
    }

    /// Skips what cannot follow the rule that met a mistake.
    fn recover(&mut self, rule: Rule) -> Step<()> {
        if self.recoveries == MAX_RECOVERIES {
            let location = self.place();
            let message = format!("Syntax error: error recovery attempt limit exceeded: {MAX_RECOVERIES}");
            self.issues.push(Issue { location, message });
            return Err(Stop);
        }
        self.recoveries += 1;
        if self.last_mistake == Some((self.at, rule)) && self.token() != Token::End {
            // Nothing was skipped the last time, and nothing was gained.
            self.at += 1;
        }
        self.last_mistake = Some((self.at, rule));
        loop {
            let is_follower = match self.token() {
                Token::End => true,
                Token::Fixed(text) => {
                    let is_binary = BINARY.contains(&text) && rule != Rule::Entries;
                    is_binary
                        || (rule == Rule::Primary && matches!(text, "." | "["))
                        || self.follow.iter().any(|follow| follow.tokens.contains(&text))
                        || (!self.follow.is_empty() && BINARY.contains(&text))
                }
                _ => false,
            };
            if is_follower {
                return Ok(());
            }
            self.at += 1;
        }
    }

    /// What stands for a part that is not there.
    fn missing(&mut self) -> Expr {
        let place = self.place();
        self.node(place, Kind::Unspecified)
    }

    /// No rule fits the tokens from one to another; the input stays where it is.
    fn no_way(&mut self, from: usize, to: usize, rule: Rule) -> Step<Expr> {
        let range = self.tokens[from].start..self.tokens[to].end;
        let text: String = range.filter(|at| self.refused.binary_search(at).is_err()).map(|at| self.source.chars[at]).collect();
        self.mistake(to, format!("no viable alternative at input '{text}'"));
        self.recover(rule)?;
        Ok(self.missing())
    }

    /// Looks whether one of these can come now: one token too many is skipped. False if the rule cannot go on.
    fn can_begin(&mut self, expected: &'static str, rule: Rule) -> Step<bool> {
        if self.is_recovering || self.is_listed(self.at, expected) {
            return Ok(true);
        }
        let found = self.text_at(self.at);
        if self.token() != Token::End && self.at + 1 < self.tokens.len() && self.is_listed(self.at + 1, expected) {
            self.mistake(self.at, format!("extraneous input '{found}' expecting {expected}"));
            self.at += 1;
            self.is_recovering = false;
            return Ok(true);
        }
        self.mistake(self.at, format!("mismatched input '{found}' expecting {expected}"));
        self.recover(rule)?;
        Ok(false)
    }

    /// Whether a list in a message names a token.
    fn is_listed(&self, at: usize, expected: &str) -> bool {
        let name = match self.tokens[at].token {
            Token::Fixed(text) => return expected.contains(&format!("'{text}'")),
            Token::Float => "NUM_FLOAT",
            Token::Int => "NUM_INT",
            Token::Uint => "NUM_UINT",
            Token::String => "STRING",
            Token::Bytes => "BYTES",
            Token::Ident => " IDENTIFIER",
            Token::Escaped => "ESC_IDENTIFIER",
            Token::End => return false,
        };
        expected.contains(name)
    }

    // Issues and nodes.

    fn internal<T>(&mut self, message: String) -> Step<T> {
        self.issues.push(Issue { location: Location::NONE, message });
        Err(Stop)
    }

    /// Notes an issue that does not keep the rest from being parsed.
    pub(crate) fn report(&mut self, location: Location, message: String) -> Expr {
        self.issues.push(Issue { location, message });
        self.node(location, Kind::Unspecified)
    }

    pub(crate) fn location(&self, id: Id) -> Location {
        self.places[id]
    }

    pub(crate) fn id(&mut self, place: Location) -> Id {
        self.places.push(place);
        self.places.len() - 1
    }

    pub(crate) fn node(&mut self, place: Location, kind: Kind) -> Expr {
        Expr { id: self.id(place), kind }
    }

    fn call(&mut self, place: Location, function: &str, args: Vec<Expr>) -> Expr {
        self.node(place, Kind::Call { target: None, function: function.to_owned(), args })
    }

    // Rules, from the weakest operator to the strongest.

    /// What is expected here is for the message when it cannot begin.
    fn expr(&mut self, expected: &'static str) -> Step<Expr> {
        self.expr_depth += 1;
        if self.expr_depth > MAX_DEPTH {
            return self.internal(format!("expression recursion limit exceeded: {MAX_DEPTH}"));
        }
        self.follow.push(Follow { tokens: &["?"], is_optional: true });
        let condition = self.logic("||", expected)?;
        self.follow.pop();
        let out = if self.is("?") {
            let place = self.place();
            self.advance();
            self.follow.push(Follow { tokens: &[":"], is_optional: false });
            let yes = self.logic("||", OPERAND)?;
            self.follow.pop();
            if self.expect(":", Rule::Expr)? {
                let no = self.expr(OPERAND)?;
                self.call(place, "_?_:_", vec![condition, yes, no])
            } else {
                condition
            }
        } else {
            condition
        };
        self.expr_depth -= 1;
        Ok(out)
    }

    fn logic(&mut self, operator: &'static str, expected: &'static str) -> Step<Expr> {
        let operand = |parser: &mut Self, expected| if operator == "||" { parser.logic("&&", expected) } else { parser.relation(expected) };
        let mut terms = vec![Some(operand(self, expected)?)];
        let mut places = Vec::new();
        while self.is(operator) {
            places.push(self.place());
            self.advance();
            terms.push(Some(operand(self, OPERAND)?));
        }
        let function = if operator == "||" { "_||_" } else { "_&&_" };
        Ok(self.balance(function, &mut terms, &places, 0))
    }

    /// A tree of even depth of the terms `from..from + operators + 1`, as cel-go builds it.
    fn balance(&mut self, function: &str, terms: &mut [Option<Expr>], places: &[Location], from: usize) -> Expr {
        let missing = Expr { id: 0, kind: Kind::Unspecified };
        if places.is_empty() {
            return terms[from].take().unwrap_or(missing);
        }
        let middle = places.len() / 2;
        let left = self.balance(function, terms, &places[..middle], from);
        let right = self.balance(function, terms, &places[middle + 1..], from + middle + 1);
        self.call(places[middle], function, vec![left, right])
    }

    fn relation(&mut self, expected: &'static str) -> Step<Expr> {
        const OPERATORS: [(&str, &str); 7] =
            [("<", "_<_"), ("<=", "_<=_"), (">=", "_>=_"), (">", "_>_"), ("==", "_==_"), ("!=", "_!=_"), ("in", "@in")];
        self.deeper(Recursive::Relation, |parser| {
            parser.chain(&OPERATORS, Recursive::Relation, expected, |parser, expected| {
                parser.deeper(Recursive::Calc, |parser| parser.sum(expected))
            })
        })
    }

    fn sum(&mut self, expected: &'static str) -> Step<Expr> {
        self.chain(&[("+", "_+_"), ("-", "_-_")], Recursive::Calc, expected, |parser, expected| parser.product(expected))
    }

    fn product(&mut self, expected: &'static str) -> Step<Expr> {
        const OPERATORS: [(&str, &str); 3] = [("*", "_*_"), ("/", "_/_"), ("%", "_%_")];
        self.chain(&OPERATORS, Recursive::Calc, expected, |parser, expected| parser.unary(expected))
    }

    /// One level more of a rule that is within itself.
    fn deeper(&mut self, rule: Recursive, parse: impl FnOnce(&mut Self) -> Step<Expr>) -> Step<Expr> {
        self.depths[rule as usize] += 1;
        if self.depths[rule as usize] > MAX_DEPTH {
            return self.internal(format!("expression recursion limit exceeded: {MAX_DEPTH}"));
        }
        let parsed = parse(self);
        self.depths[rule as usize] -= 1;
        parsed
    }

    /// Operators of one strength, from left to right. What is right of one is one level deeper.
    fn chain(
        &mut self,
        operators: &[(&'static str, &str)],
        rule: Recursive,
        expected: &'static str,
        operand: fn(&mut Self, &'static str) -> Step<Expr>,
    ) -> Step<Expr> {
        let mut left = operand(self, expected)?;
        let mut length = 0;
        while let Some((_, function)) = operators.iter().find(|(text, _)| self.is(text)) {
            length += 1;
            self.enter()?;
            let place = self.place();
            self.advance();
            let right = self.deeper(rule, |parser| operand(parser, OPERAND))?;
            left = self.call(place, function, vec![left, right]);
        }
        self.nested -= length;
        Ok(left)
    }

    /// One more operator within the rules around it.
    fn enter(&mut self) -> Step<()> {
        self.nested += 1;
        if self.nested > MAX_DEPTH {
            return self.internal("max recursion depth exceeded".to_owned());
        }
        Ok(())
    }

    fn unary(&mut self, expected: &'static str) -> Step<Expr> {
        if !self.can_begin(expected, Rule::Unary)? {
            return Ok(self.missing());
        }
        for (operator, function) in [("!", "!_"), ("-", "-_")] {
            let is_number = operator == "-" && self.is("-") && matches!(self.peek(1), Token::Int | Token::Float);
            if !self.is(operator) || is_number {
                continue;
            }
            let (place, first) = (self.place(), self.at);
            if operator == "-" && !self.begins_operand(first + 1) {
                return self.no_way(first, first + 1, Rule::Unary);
            }
            let mut count = 0;
            while self.take(operator) {
                count += 1;
            }
            if !self.begins_operand(self.at) {
                let found = self.text_at(self.at);
                self.mistake(self.at, format!("extraneous input '{found}' expecting {OPERAND}"));
                while self.token() != Token::End && !self.begins_operand(self.at) && !self.may_follow_operand() {
                    self.at += 1;
                }
            }
            let operand = self.member()?;
            return Ok(if count % 2 == 0 { operand } else { self.call(place, function, vec![operand]) });
        }
        self.member()
    }

    fn begins_operand(&self, at: usize) -> bool {
        self.is_listed(at.min(self.tokens.len() - 1), OPERAND)
    }

    fn member(&mut self) -> Step<Expr> {
        let start = self.place();
        let mut operand = self.primary()?;
        let mut length = 0;
        loop {
            let place = self.place();
            if self.is(".") {
                length += 1;
                self.enter()?;
                match self.select(place, start, operand)? {
                    (selected, true) => operand = selected,
                    (failed, false) => {
                        self.nested -= length;
                        return Ok(failed);
                    }
                }
            } else if self.is("[") {
                length += 1;
                self.enter()?;
                self.advance();
                let optional = self.take("?");
                let can_begin = optional || self.can_begin(OPERAND_OR_OPTIONAL, Rule::Member)?;
                let index = if can_begin { self.within(&["]"], OPERAND)? } else { self.missing() };
                if !can_begin || !self.expect("]", Rule::Member)? {
                    self.nested -= length;
                    return Ok(index);
                }
                operand = self.call(place, if optional { "_[?_]" } else { "_[_]" }, vec![operand, index]);
            } else {
                self.nested -= length;
                return Ok(operand);
            }
        }
    }

    /// What is selected, and whether the rule may go on.
    fn select(&mut self, place: Location, start: Location, operand: Expr) -> Step<(Expr, bool)> {
        let from = self.at;
        let optional = self.peek(1) == Token::Fixed("?");
        let name_at = from + 1 + usize::from(optional);
        let field = match self.tokens[name_at.min(self.tokens.len() - 1)].token {
            Token::Ident => self.text_at(name_at),
            Token::Escaped => self.text_at(name_at).trim_matches('`').to_owned(),
            Token::Fixed(word @ ("true" | "false" | "null")) if !optional => {
                self.mistake(name_at, format!("mismatched input '{word}' expecting IDENTIFIER"));
                self.recover(Rule::Member)?;
                return Ok((self.node(start, Kind::Unspecified), false));
            }
            _ if optional => return self.misnamed(name_at, start),
            _ => {
                self.no_way(from, name_at.min(self.tokens.len() - 1), Rule::Member)?;
                return Ok((self.node(start, Kind::Unspecified), false));
            }
        };
        self.at = name_at;
        let field_place = self.place();
        self.advance();
        if optional {
            let name = self.node(field_place, Kind::Literal(Literal::String(field)));
            return Ok((self.call(place, "_?._", vec![operand, name]), true));
        }
        if self.is("(") {
            let place = self.place();
            self.advance();
            let (args, is_closed) = self.arguments(Rule::Member)?;
            return Ok((macros::expand(self, place, Some(operand), field, args), is_closed));
        }
        Ok((self.node(place, Kind::Select { operand: Box::new(operand), field, test_only: false }), true))
    }

    /// An optional selection of what is no name.
    fn misnamed(&mut self, name_at: usize, start: Location) -> Step<(Expr, bool)> {
        const NAMES: &str = "{IDENTIFIER, ESC_IDENTIFIER}";
        self.at = name_at.min(self.tokens.len() - 1);
        self.is_recovering = false;
        let found = self.text_at(self.at);
        let place = self.place();
        if matches!(self.peek(1), Token::Ident | Token::Escaped) && self.token() != Token::End {
            self.mistake(self.at, format!("extraneous input '{found}' expecting {NAMES}"));
            self.at += 1;
            self.advance();
        } else {
            self.mistake(self.at, format!("mismatched input '{found}' expecting {NAMES}"));
            self.recover(Rule::Primary)?;
            self.report(place, "unsupported ident kind".to_owned());
        }
        Ok((self.node(start, Kind::Unspecified), true))
    }

    /// The arguments of a call, and whether it is closed.
    fn arguments(&mut self, rule: Rule) -> Step<(Vec<Expr>, bool)> {
        let mut args = Vec::new();
        if !self.can_begin(OPERAND_OR_CLOSING_PAREN, rule)? {
            return Ok((args, false));
        }
        if self.take(")") {
            return Ok((args, true));
        }
        args.push(self.within(&[",", ")"], OPERAND)?);
        while self.take(",") {
            args.push(self.within(&[",", ")"], OPERAND)?);
        }
        let is_closed = self.expect(")", rule)?;
        Ok((args, is_closed))
    }

    fn primary(&mut self) -> Step<Expr> {
        let place = self.place();
        match self.token() {
            Token::Ident => self.named(place, ""),
            Token::Fixed(".") => {
                if self.peek(1) == Token::Ident {
                    self.advance();
                    return self.named(place, ".");
                }
                self.no_way(self.at, self.at + 1, Rule::Primary)
            }
            Token::Fixed("(") => {
                self.advance();
                let inner = self.within(&[")"], OPERAND)?;
                self.expect(")", Rule::Primary)?;
                Ok(inner)
            }
            Token::Fixed("[") => {
                self.advance();
                self.list(place)
            }
            Token::Fixed("{") => {
                self.advance();
                self.map(place)
            }
            Token::Fixed("-") => {
                self.advance();
                self.literal(place, "-")
            }
            Token::Fixed("true" | "false" | "null") | Token::Int | Token::Uint | Token::Float | Token::String | Token::Bytes => {
                self.literal(place, "")
            }
            _ => {
                // Told already.
                let found = self.text_at(self.at);
                self.mistake(self.at, format!("mismatched input '{found}' expecting {OPERAND}"));
                self.recover(Rule::Primary)?;
                Ok(self.missing())
            }
        }
    }

    /// A variable, a call or an object literal.
    fn named(&mut self, place: Location, dot: &str) -> Step<Expr> {
        if let Some(length) = self.object_name() {
            let name: Vec<String> = (0..length).step_by(2).map(|ahead| self.text_at(self.at + ahead)).collect();
            self.at += length;
            let brace = self.place();
            self.advance();
            return self.object(brace, format!("{dot}{}", name.join(".")));
        }
        let (name, name_place) = (self.text_at(self.at), self.place());
        self.advance();
        let reserved = is_reserved(&name);
        if self.is("(") {
            let paren = self.place();
            self.advance();
            let (args, _) = self.arguments(Rule::Primary)?;
            if reserved {
                return Ok(self.report(place, format!("reserved identifier: {name}")));
            }
            return Ok(macros::expand(self, paren, None, format!("{dot}{name}"), args));
        }
        if reserved {
            return Ok(self.report(place, format!("reserved identifier: {name}")));
        }
        Ok(self.node(name_place, Kind::Ident(format!("{dot}{name}"))))
    }

    /// How many tokens of `a.b.c` stand before an opening brace.
    fn object_name(&self) -> Option<usize> {
        let mut length = 1;
        while self.peek(length) == Token::Fixed(".") && self.peek(length + 1) == Token::Ident {
            length += 2;
        }
        (self.peek(length) == Token::Fixed("{")).then_some(length)
    }

    fn list(&mut self, place: Location) -> Step<Expr> {
        let id = self.id(place);
        let mut elements = Vec::new();
        if !self.can_begin(OPERAND_OR_CLOSING_BRACKET, Rule::Primary)? {
            return Ok(self.missing());
        }
        if self.begins_operand(self.at) || self.is("?") {
            loop {
                let optional = self.take("?");
                elements.push((self.within(&[",", "]"], OPERAND)?, optional));
                if !self.separated(|parser| parser.begins_operand(parser.at + 1) || parser.peek(1) == Token::Fixed("?"))? {
                    break;
                }
            }
        }
        self.close("]", "{']', ','}")?;
        Ok(Expr { id, kind: Kind::List(elements) })
    }

    /// Takes a comma that another element follows.
    fn separated(&mut self, is_element: impl Fn(&Self) -> bool) -> Step<bool> {
        if !self.is(",") {
            return Ok(false);
        }
        if is_element(self) {
            self.advance();
            return Ok(true);
        }
        Ok(false)
    }

    /// The end of a list, a map or an object, perhaps after a comma.
    fn close(&mut self, close: &'static str, expected: &'static str) -> Step<()> {
        if self.take(",") {
            self.expect(close, Rule::Primary)?;
            return Ok(());
        }
        if self.can_begin(expected, Rule::Primary)? {
            self.take(",");
            self.expect(close, Rule::Primary)?;
        }
        Ok(())
    }

    fn map(&mut self, place: Location) -> Step<Expr> {
        let id = self.id(place);
        let mut entries = Vec::new();
        if !self.can_begin(OPERAND_OR_CLOSING_BRACE, Rule::Primary)? {
            return Ok(self.missing());
        }
        if self.begins_operand(self.at) || self.is("?") {
            loop {
                let optional = self.take("?");
                let key = self.within(&[":"], OPERAND)?;
                self.follow.push(Follow { tokens: &[",", "}"], is_optional: false });
                let has_value = self.expect(":", Rule::Entries)?;
                self.follow.pop();
                if !has_value {
                    break;
                }
                let value = self.within(&[",", "}"], OPERAND)?;
                entries.push(Entry { key, value, optional });
                if !self.separated(|parser| parser.begins_operand(parser.at + 1) || parser.peek(1) == Token::Fixed("?"))? {
                    break;
                }
            }
        }
        self.close("}", "{'}', ','}")?;
        Ok(Expr { id, kind: Kind::Map(entries) })
    }

    fn object(&mut self, place: Location, name: String) -> Step<Expr> {
        let id = self.id(place);
        let mut fields = Vec::new();
        let is_name = |token: Token| matches!(token, Token::Ident | Token::Escaped);
        if !self.can_begin("{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}", Rule::Primary)? {
            return Ok(self.missing());
        }
        if is_name(self.token()) || self.is("?") {
            loop {
                let optional = self.take("?");
                let field = self.text_at(self.at);
                if !is_name(self.token()) {
                    self.mistake(self.at, format!("mismatched input '{field}' expecting {{IDENTIFIER, ESC_IDENTIFIER}}"));
                    self.recover(Rule::Entries)?;
                    break;
                }
                self.advance();
                let colon = self.place();
                self.follow.push(Follow { tokens: &[",", "}"], is_optional: false });
                let has_value = self.expect(":", Rule::Entries)?;
                self.follow.pop();
                if !has_value {
                    break;
                }
                let field_id = self.id(colon);
                let value = self.within(&[",", "}"], OPERAND)?;
                fields.push(Field { id: field_id, name: field.trim_matches('`').to_owned(), value, optional });
                if !self.separated(|parser| is_name(parser.peek(1)) || parser.peek(1) == Token::Fixed("?"))? {
                    break;
                }
            }
        }
        self.close("}", "{'}', ','}")?;
        Ok(Expr { id, kind: Kind::Struct { name, fields } })
    }

    fn literal(&mut self, place: Location, sign: &str) -> Step<Expr> {
        let (token, text) = (self.token(), self.text_at(self.at));
        self.advance();
        let literal = match token {
            Token::Fixed("true") => Literal::Bool(true),
            Token::Fixed("false") => Literal::Bool(false),
            Token::Fixed(_) => Literal::Null,
            Token::Int => match integer(&format!("{sign}{text}")) {
                Some(value) => Literal::Int(value),
                None => return Ok(self.report(place, "invalid int literal".to_owned())),
            },
            Token::Uint => match unsigned(&text[..text.len() - 1]) {
                Some(value) => Literal::Uint(value),
                None => return Ok(self.report(place, "invalid uint literal".to_owned())),
            },
            Token::Float => match format!("{sign}{text}").parse::<f64>() {
                Ok(value) if value.is_finite() => Literal::Double(value),
                _ => return Ok(self.report(place, "invalid double literal".to_owned())),
            },
            _ => match unquote(&text, token == Token::Bytes) {
                Ok(bytes) if token == Token::Bytes => Literal::Bytes(bytes),
                Ok(bytes) => Literal::String(String::from_utf8_lossy(&bytes).into_owned()),
                Err(why) => return Ok(self.report(place, why.to_owned())),
            },
        };
        Ok(self.node(place, Kind::Literal(literal)))
    }
}

fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    match digits.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(&format!("{sign}{hex}"), 16).ok(),
        None => text.parse().ok(),
    }
}

fn unsigned(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
