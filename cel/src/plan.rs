//! Makes a checked expression a program: constants are folded, chains of selections become attributes, and each call knows its
//! function. The shapes are those of cel-go's planner, because what an evaluation costs depends on them.

use std::sync::Arc;

use crate::ast::{Comprehension, Expr, Kind, Literal};
use crate::check::{Checked, Reference};
use crate::functions::{Function, regex};
use crate::types::Type;
use crate::value::{Entries, List, Map, Text, Value};

/// Functions of one constant argument that are called while planning.
const CONVERSIONS: [&str; 10] = ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"];

pub(crate) enum Node {
    Const(Value<'static>),
    Attribute(Attribute),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    /// True for whatever is not false, an error too.
    NotStrictlyFalse(Box<Node>),
    Equals {
        left: Box<Node>,
        right: Box<Node>,
        negated: bool,
    },
    Call {
        function: Arc<Function>,
        overload: Option<Arc<str>>,
        args: Vec<Node>,
    },
    /// `in` a list of constants.
    InConstants {
        value: Box<Node>,
        list: Value<'static>,
    },
    OptionalOr {
        left: Box<Node>,
        right: Box<Node>,
        unwrap: bool,
    },
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Object {
        name: Arc<str>,
        fields: Vec<(Arc<str>, Node, bool)>,
    },
    Fold(Box<Fold>),
}

/// A value and the steps into it.
pub(crate) struct Attribute {
    pub root: Root,
    pub steps: Vec<Step>,
    /// The last step only asks whether there is such a part.
    pub is_test: bool,
}

pub(crate) enum Root {
    Variable(String),
    Value(Box<Node>),
    Conditional { condition: Box<Node>, yes: Box<Node>, no: Box<Node> },
}

/// A selection or an index.
pub(crate) struct Step {
    pub key: StepKey,
    pub optional: bool,
}

pub(crate) enum StepKey {
    Const(Value<'static>),
    Node(Node),
}

pub(crate) struct Fold {
    pub range: Node,
    pub variable: String,
    pub second: Option<String>,
    pub accumulator: String,
    pub init: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
}

/// The value of a literal.
pub(crate) fn literal_value(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::String(Text::Shared(text.as_str().into())),
        Literal::Bytes(bytes) => Value::Bytes(bytes.as_slice().into()),
    }
}

/// Plans an expression. The error is about a constant that cannot be converted or compiled.
pub(crate) fn plan(checked: &Checked) -> Result<Node, String> {
    Planner { checked }.node(&checked.root)
}

struct Planner<'c> {
    checked: &'c Checked,
}

impl Planner<'_> {
    fn node(&self, expr: &Expr) -> Result<Node, String> {
        match &expr.kind {
            Kind::Unspecified => Err("unsupported expr".to_owned()),
            Kind::Literal(literal) => Ok(Node::Const(literal_value(literal))),
            Kind::Ident(name) => Ok(self.ident(expr, name)),
            Kind::Select { operand, field, test_only } => {
                let key = StepKey::Const(Value::string(field.as_str()));
                let mut attribute = self.attribute(operand)?;
                attribute.steps.push(Step { key, optional: false });
                attribute.is_test = *test_only;
                Ok(Node::Attribute(attribute))
            }
            Kind::Call { target, function, args } => {
                let args: Vec<&Expr> = target.iter().map(AsRef::as_ref).chain(args).collect();
                self.call(expr, function, &args)
            }
            Kind::List(elements) => {
                let elements: Result<Vec<_>, String> =
                    elements.iter().map(|(element, optional)| Ok((self.node(element)?, *optional))).collect();
                Ok(fold_list(elements?))
            }
            Kind::Map(entries) => {
                let entries: Result<Vec<_>, String> =
                    entries.iter().map(|entry| Ok((self.node(&entry.key)?, self.node(&entry.value)?, entry.optional))).collect();
                Ok(fold_map(entries?))
            }
            Kind::Struct { name, fields } => {
                let fields: Result<Vec<_>, String> =
                    fields.iter().map(|field| Ok((Arc::from(field.name.as_str()), self.node(&field.value)?, field.optional))).collect();
                Ok(Node::Object { name: name.as_str().into(), fields: fields? })
            }
            Kind::Comprehension(over) => self.fold(over),
        }
    }

    fn ident(&self, expr: &Expr, name: &str) -> Node {
        if self.checked.references.contains_key(&expr.id)
            && let Type::Type(Some(named)) = self.checked.ty(expr)
        {
            return Node::Const(Value::Type(named.name().into()));
        }
        Node::Attribute(Attribute { root: Root::Variable(name.to_owned()), steps: Vec::new(), is_test: false })
    }

    /// The expression as something to step into.
    fn attribute(&self, expr: &Expr) -> Result<Attribute, String> {
        Ok(match self.node(expr)? {
            Node::Attribute(attribute) if !attribute.is_test => attribute,
            other => Attribute { root: Root::Value(Box::new(other)), steps: Vec::new(), is_test: false },
        })
    }

    fn call(&self, expr: &Expr, name: &str, args: &[&Expr]) -> Result<Node, String> {
        let boxed = |expr: &Expr| self.node(expr).map(Box::new);
        match (name, args) {
            ("_&&_", [left, right]) => return Ok(Node::And(boxed(left)?, boxed(right)?)),
            ("_||_", [left, right]) => return Ok(Node::Or(boxed(left)?, boxed(right)?)),
            ("_?_:_", [condition, yes, no]) => {
                let root = Root::Conditional { condition: boxed(condition)?, yes: boxed(yes)?, no: boxed(no)? };
                return Ok(Node::Attribute(Attribute { root, steps: Vec::new(), is_test: false }));
            }
            ("_==_" | "_!=_", [left, right]) => {
                return Ok(Node::Equals { left: boxed(left)?, right: boxed(right)?, negated: name == "_!=_" });
            }
            ("_[_]" | "_[?_]" | "_?._", [operand, index]) => {
                let mut attribute = self.attribute(operand)?;
                let key = match self.node(index)? {
                    Node::Const(Value::Null) => return Err("invalid qualifier type: types.Null".to_owned()),
                    Node::Const(value) => StepKey::Const(value),
                    node => StepKey::Node(node),
                };
                attribute.steps.push(Step { key, optional: name != "_[_]" });
                return Ok(Node::Attribute(attribute));
            }
            ("@not_strictly_false", [value]) => return Ok(Node::NotStrictlyFalse(boxed(value)?)),
            _ => {}
        }
        let overload = self.checked.overload(expr.id).map(Arc::from);
        if let (Some("optional_or_optional" | "optional_orValue_value"), [left, right]) = (overload.as_deref(), args) {
            return Ok(Node::OptionalOr { left: boxed(left)?, right: boxed(right)?, unwrap: name == "orValue" });
        }
        let Some(Reference::Call(function, _)) = self.checked.references.get(&expr.id) else {
            return Err(format!("no such overload: {name}"));
        };
        let args: Vec<Node> = args.iter().map(|arg| self.node(arg)).collect::<Result<_, _>>()?;
        fold_call(function, overload, args)
    }

    fn fold(&self, over: &Comprehension) -> Result<Node, String> {
        Ok(Node::Fold(Box::new(Fold {
            range: self.node(&over.range)?,
            variable: over.variable.clone(),
            second: over.second.clone(),
            accumulator: over.accumulator.clone(),
            init: self.node(&over.init)?,
            condition: self.node(&over.condition)?,
            step: self.node(&over.step)?,
            result: self.node(&over.result)?,
        })))
    }
}

fn fold_list(elements: Vec<(Node, bool)>) -> Node {
    let constants: Option<Vec<Value<'static>>> = elements
        .iter()
        .map(|(element, optional)| match element {
            Node::Const(value) if !optional => Some(value.clone()),
            _ => None,
        })
        .collect();
    constants.map_or(Node::List(elements), |values| Node::Const(Value::list(values)))
}

fn fold_map(entries: Vec<(Node, Node, bool)>) -> Node {
    let mut constants = Entries::default();
    for (key, value, optional) in &entries {
        let (Node::Const(key), Node::Const(value), false) = (key, value, optional) else { return Node::Map(entries) };
        if !constants.put(key.clone(), value.clone()) {
            return Node::Map(entries);
        }
    }
    Node::Const(Value::Map(Map::Owned(Arc::new(constants))))
}

fn fold_call(function: &Arc<Function>, overload: Option<Arc<str>>, mut args: Vec<Node>) -> Result<Node, String> {
    let name = &*function.name;
    if let [Node::Const(value)] = &args[..]
        && CONVERSIONS.contains(&name)
    {
        return function.call(overload.as_deref(), std::slice::from_ref(value)).map(Node::Const).map_err(|error| error.message);
    }
    if overload.as_deref() == Some("in_list")
        && let [_, Node::Const(Value::List(List::Owned(items)))] = &args[..]
    {
        if items.is_empty() {
            return Ok(Node::Const(Value::Bool(false)));
        }
        let is_simple =
            |item: &Value<'_>| matches!(item, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::String(_));
        if items.iter().all(is_simple)
            && let (Some(Node::Const(list)), Some(value)) = (args.pop(), args.pop())
        {
            return Ok(Node::InConstants { value: Box::new(value), list });
        }
    }
    if matches!(name, "matches" | "find" | "findAll")
        && let Some(Node::Const(pattern)) = args.get(1)
        && let Some(pattern) = pattern.as_str()
    {
        regex::compile(pattern)?;
    }
    Ok(Node::Call { function: function.clone(), overload, args })
}
