//! The form of an expression after parsing, with macros already expanded.

use crate::source::Location;

/// A node's number: its place, its type and what it refers to are looked up by it.
pub(crate) type Id = usize;

#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub id: Id,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Stands where the text is wrong; there is an issue for it.
    Unspecified,
    Literal(Literal),
    Ident(String),
    Select {
        operand: Box<Expr>,
        field: String,
        test_only: bool,
    },
    Call {
        target: Option<Box<Expr>>,
        function: String,
        args: Vec<Expr>,
    },
    /// The flag says that the element is left out if it is `optional.none()`.
    List(Vec<(Expr, bool)>),
    Map(Vec<Entry>),
    Struct {
        name: String,
        fields: Vec<Field>,
    },
    Comprehension(Box<Comprehension>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub id: Id,
    pub name: String,
    pub value: Expr,
    pub optional: bool,
}

/// A loop over a list or the keys of a map that carries one variable along.
#[derive(Clone, Debug)]
pub(crate) struct Comprehension {
    pub range: Expr,
    pub variable: String,
    /// With it the first variable is the index or key and this one the value.
    pub second: Option<String>,
    pub accumulator: String,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

impl Comprehension {
    /// Whether it only names a value for its result, as `optMap` does.
    pub fn is_bind(&self) -> bool {
        matches!(&self.range.kind, Kind::List(elements) if elements.is_empty())
            && matches!(&self.condition.kind, Kind::Literal(Literal::Bool(false)))
            && self.accumulator != ACCUMULATOR
    }
}

/// The carried variable of macros; users cannot write it.
pub(crate) const ACCUMULATOR: &str = "@result";
/// What it was called before; no variable may be called so.
pub(crate) const OLD_ACCUMULATOR: &str = "__result__";

/// A parsed expression.
pub(crate) struct Parsed {
    pub root: Expr,
    /// Places by node number.
    pub places: Vec<Location>,
}

impl Expr {
    /// `a.b.c` as one name, if it is nothing but names.
    pub fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.clone()),
            Kind::Select { operand, field, test_only: false } => Some(format!("{}.{field}", operand.qualified_name()?)),
            _ => None,
        }
    }

    /// Levels of the tree; a comprehension counts as several, for what it is made of.
    pub fn depth(&self) -> usize {
        let deepest = |parts: &mut dyn Iterator<Item = &Expr>| parts.map(Expr::depth).max().unwrap_or(0);
        1 + match &self.kind {
            Kind::Unspecified | Kind::Literal(_) | Kind::Ident(_) => 0,
            Kind::Select { operand, .. } => operand.depth(),
            Kind::Call { target, args, .. } => deepest(&mut target.iter().map(AsRef::as_ref).chain(args)),
            Kind::List(elements) => deepest(&mut elements.iter().map(|(element, _)| element)),
            Kind::Map(entries) => deepest(&mut entries.iter().flat_map(|entry| [&entry.key, &entry.value])),
            Kind::Struct { fields, .. } => deepest(&mut fields.iter().map(|field| &field.value)),
            Kind::Comprehension(over) => 3 + deepest(&mut [&over.range, &over.init, &over.condition, &over.step, &over.result].into_iter()),
        }
    }

    /// Calls it with every node of the tree, parents first.
    pub fn walk<'e>(&'e self, visit: &mut dyn FnMut(&'e Expr)) {
        visit(self);
        match &self.kind {
            Kind::Unspecified | Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => operand.walk(visit),
            Kind::Call { target, args, .. } => target.iter().map(AsRef::as_ref).chain(args).for_each(|part| part.walk(visit)),
            Kind::List(elements) => elements.iter().for_each(|(element, _)| element.walk(visit)),
            Kind::Map(entries) => entries.iter().for_each(|entry| {
                entry.key.walk(visit);
                entry.value.walk(visit);
            }),
            Kind::Struct { fields, .. } => fields.iter().for_each(|field| field.value.walk(visit)),
            Kind::Comprehension(over) => {
                [&over.range, &over.init, &over.condition, &over.step, &over.result].into_iter().for_each(|part| part.walk(visit));
            }
        }
    }
}
