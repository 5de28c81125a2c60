//! Evaluates programs and counts what that costs. What one step costs is in [`crate::cost`]; here is when it is counted.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::cost::{self, MAP_COST, OBJECT_COST};
use crate::functions::Function;
use crate::functions::lists_ext::MAX_RANGE;
use crate::functions::two_variables;
use crate::plan::{Attribute, Fold, Node, Root, Step, StepKey};
use crate::value::{Entries, EvalError, Evaluated, List, Map, Object, Value};

/// Cost of one expression; beyond it the evaluation ends.
pub const PER_CALL_LIMIT: u64 = 1_000_000;

/// Values within values that cost nothing but what upstream counts.
const FREE_WEIGHT: u64 = 100;

/// Beyond this an evaluation ends, however much more there is.
fn weighed_up_to(limit: u64) -> u64 {
    limit.saturating_add(FREE_WEIGHT + 1)
}

/// The variables that an expression is evaluated with.
#[derive(Clone, Default)]
pub struct Activation<'a> {
    values: Vec<(String, Evaluated<'a>)>,
}

impl<'a> Activation<'a> {
    pub fn with(mut self, name: &str, value: Value<'a>) -> Activation<'a> {
        self.set(name, Ok(value));
        self
    }

    /// Sets a variable that may be an error, which an expression meets only where it uses it.
    pub fn set(&mut self, name: &str, value: Evaluated<'a>) {
        match self.values.iter_mut().find(|(known, _)| known == name) {
            Some((_, there)) => *there = value,
            None => self.values.push((name.to_owned(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<&Evaluated<'a>> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

/// What evaluations may still cost together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    remaining: i64,
}

impl Budget {
    pub fn new(total: i64) -> Budget {
        Budget { remaining: total }
    }

    /// Negative once more was spent than there was.
    pub fn remaining(&self) -> i64 {
        self.remaining
    }

    pub fn is_exceeded(&self) -> bool {
        self.remaining < 0
    }

    /// Takes off what an evaluation has cost.
    pub fn spend(&mut self, cost: u64) {
        self.remaining = self.remaining.saturating_sub_unsigned(cost);
    }
}

/// What a program gives with these variables, and what it has cost.
pub(crate) fn evaluate<'a>(root: &Node, activation: &Activation<'a>, limit: u64) -> (Evaluated<'a>, u64) {
    let evaluation = Evaluation { activation, cost: Cell::new(0), limit };
    let value = evaluation.node(root, None);
    (value, evaluation.cost.get())
}

struct Evaluation<'e, 'a> {
    activation: &'e Activation<'a>,
    cost: Cell<u64>,
    limit: u64,
}

/// The variables of one comprehension while it runs.
struct Scope<'s, 'a> {
    parent: Option<&'s Scope<'s, 'a>>,
    fold: &'s Fold,
    /// None before it is asked for.
    accumulated: RefCell<Option<Evaluated<'a>>>,
    first: RefCell<Evaluated<'a>>,
    second: RefCell<Evaluated<'a>>,
    /// The result does not see the variables of the loop.
    is_over: Cell<bool>,
}

impl<'e, 'a> Evaluation<'e, 'a> {
    fn charge(&self, cost: u64) -> Result<(), EvalError> {
        let total = self.cost.get().saturating_add(cost);
        self.cost.set(total);
        if total > self.limit { Err(EvalError::over_budget()) } else { Ok(()) }
    }

    /// Counts what a large value costs to go through: more than upstream does, where a list of lists that are one another costs no more
    /// than its length, and comparing two of them takes forever.
    fn weigh(&self, weight: u64) -> Result<(), EvalError> {
        if weight > FREE_WEIGHT { self.charge(weight - FREE_WEIGHT) } else { Ok(()) }
    }

    /// The same of a value that was made.
    fn weighed(&self, made: Evaluated<'a>) -> Evaluated<'a> {
        let value = made?;
        self.weigh(value.weight(weighed_up_to(self.limit)))?;
        Ok(value)
    }

    fn node(&self, node: &Node, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        match node {
            Node::Const(value) => Ok(relax(value)),
            Node::Attribute(attribute) => self.attribute(attribute, scope),
            Node::And(left, right) => self.logical(left, right, false, scope),
            Node::Or(left, right) => self.logical(left, right, true, scope),
            Node::NotStrictlyFalse(value) => {
                let value = self.node(value, scope);
                self.charge(1)?;
                match value {
                    Err(error) if error.over_budget => Err(error),
                    Ok(Value::Bool(value)) => Ok(Value::Bool(value)),
                    _ => Ok(Value::Bool(true)),
                }
            }
            Node::Equals { left, right, negated } => {
                let args = [self.node(left, scope), self.node(right, scope)];
                let overload = if *negated { "not_equals" } else { "equals" };
                let function = if *negated { "_!=_" } else { "_==_" };
                self.counted(function, overload, args, |args| {
                    self.weigh(args[0].weight(weighed_up_to(self.limit)).min(args[1].weight(weighed_up_to(self.limit))))?;
                    args[0].equals(&args[1]).map(|equal| Value::Bool(equal != *negated))
                })
            }
            Node::Call { function, overload, args } => self.call(function, overload.as_deref(), args, scope),
            Node::InConstants { value, list } => {
                let value = self.node(value, scope)?;
                match list {
                    Value::List(list) => Ok(Value::Bool(list.contains(&value).unwrap_or(false))),
                    _ => Err(EvalError::no_such_overload()),
                }
            }
            Node::OptionalOr { left, right, unwrap } => match self.node(left, scope)? {
                Value::Optional(Some(value)) if *unwrap => Ok((*value).clone()),
                Value::Optional(Some(value)) => Ok(Value::Optional(Some(value))),
                Value::Optional(None) => self.node(right, scope),
                _ => Err(EvalError::no_such_overload()),
            },
            Node::List(elements) => {
                let made = self.list(elements, scope);
                self.charge(cost::LIST_COST)?;
                self.weighed(made)
            }
            Node::Map(entries) => {
                let made = self.map(entries, scope);
                self.charge(MAP_COST)?;
                self.weighed(made)
            }
            Node::Object { name, fields } => {
                let made = self.object(name, fields, scope);
                self.charge(OBJECT_COST)?;
                self.weighed(made)
            }
            Node::Fold(fold) => self.weighed(self.fold(fold, scope)),
        }
    }

    /// The first operand that settles it wins, whatever is wrong with the others.
    fn logical(&self, left: &Node, right: &Node, settles: bool, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let mut failure = None;
        for operand in [left, right] {
            match self.node(operand, scope) {
                Ok(Value::Bool(value)) if value == settles => return Ok(Value::Bool(settles)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failure = failure.or(Some(EvalError::no_such_overload())),
                Err(error) if error.over_budget => return Err(error),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(Value::Bool(!settles)), Err)
    }

    fn list(&self, elements: &[(Node, bool)], scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let mut items = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            match (self.node(element, scope)?, optional) {
                (Value::Optional(Some(value)), true) => items.push((*value).clone()),
                (Value::Optional(None), true) => {}
                (other, true) => {
                    return Err(EvalError::new(format!("cannot initialize optional list element from non-optional value {other}")));
                }
                (value, false) => items.push(value),
            }
        }
        Ok(Value::list(items))
    }

    fn map(&self, entries: &[(Node, Node, bool)], scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let mut made = Entries::default();
        for (key, value, optional) in entries {
            let key = self.node(key, scope)?;
            let value = match (self.node(value, scope)?, optional) {
                (Value::Optional(Some(value)), true) => (*value).clone(),
                (Value::Optional(None), true) => continue,
                (other, true) => {
                    let message = format!("cannot initialize optional entry '{key}' from non-optional value {other}");
                    return Err(EvalError::new(message));
                }
                (value, false) => value,
            };
            if !made.put(key.clone(), value) {
                return Err(EvalError::new(format!("unsupported key type: {}", key.type_name())));
            }
        }
        Ok(Value::Map(Map::Owned(Arc::new(made))))
    }

    fn object(&self, name: &Arc<str>, fields: &[(Arc<str>, Node, bool)], scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let mut made = Vec::with_capacity(fields.len());
        for (field, value, optional) in fields {
            let value = match (self.node(value, scope)?, optional) {
                (Value::Optional(Some(value)), true) => (*value).clone(),
                (Value::Optional(None), true) => continue,
                (other, true) => {
                    let message = format!("cannot initialize optional entry '{field}' from non-optional value {other}");
                    return Err(EvalError::new(message));
                }
                (value, false) => value,
            };
            if &**name == "JSONPatch" && &**field != "value" && value.as_str().is_none() {
                return Err(EvalError::new(format!("unexpected type {} for JSONPatchType '{field}' field", value.type_name())));
            }
            made.push((field.clone(), value));
        }
        Ok(Value::Object(Arc::new(Object { type_name: name.clone(), fields: made })))
    }

    fn call(&self, function: &Arc<Function>, overload: Option<&str>, args: &[Node], scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let name = &*function.name;
        let overload_name = overload.unwrap_or_default();
        let run = |args: &[Value<'a>]| {
            // By name and value: of what has no type yet no overload is known.
            match (name, args) {
                ("lists.range", _) => self.refuse_long_range(args)?,
                ("_+_", [Value::List(left), Value::List(right)]) => self.weigh((left.len() + right.len()) as u64)?,
                ("_+_", [Value::String(left), Value::String(right)]) => self.weigh((left.len() + right.len()) as u64 / 10)?,
                ("@in" | "format", [_, list]) => self.weigh(list.weight(weighed_up_to(self.limit)))?,
                _ => {}
            }
            function.call(overload, args)
        };
        let is_compiled = matches!(name, "matches" | "find" | "findAll") && matches!(args.get(1), Some(Node::Const(_)));
        match args {
            [one] => {
                let args = [self.node(one, scope)];
                self.counted(name, overload_name, args, run)
            }
            [left, right] if !is_compiled => {
                let args = [self.node(left, scope), self.node(right, scope)];
                self.counted(name, overload_name, args, run)
            }
            more => {
                // One that fails ends it, and nothing is counted for the call unless it is the last.
                let mut values: Vec<Value<'a>> = Vec::with_capacity(more.len());
                let mut result = None;
                for (index, arg) in more.iter().enumerate() {
                    match self.node(arg, scope) {
                        Ok(value) => values.push(value),
                        Err(error) if error.over_budget || index + 1 < more.len() => return Err(error),
                        Err(error) => {
                            values.push(Value::Null);
                            result = Some(Err(error));
                        }
                    }
                }
                let result = result.unwrap_or_else(|| run(&values));
                self.charge(cost::call(name, overload_name, &values.iter().collect::<Vec<_>>(), result.as_ref().ok()))?;
                result
            }
        }
    }

    /// Calls a function of one or two arguments, all of which were evaluated. The call is counted even if one is an error.
    fn counted<const N: usize>(
        &self,
        name: &str,
        overload: &str,
        args: [Evaluated<'a>; N],
        run: impl FnOnce(&[Value<'a>]) -> Evaluated<'a>,
    ) -> Evaluated<'a> {
        if let Some(spent) = args.iter().find_map(|arg| arg.as_ref().err().filter(|error| error.over_budget)) {
            return Err(spent.clone());
        }
        let mut values = Vec::with_capacity(N);
        let mut failure = None;
        for arg in args {
            match arg {
                Ok(value) => values.push(value),
                Err(error) => {
                    // An error counts as something of size one.
                    values.push(Value::Null);
                    failure = failure.or(Some(error));
                }
            }
        }
        let result = match failure {
            Some(error) => Err(error),
            None => run(&values),
        };
        let over = matches!(&result, Err(error) if error.over_budget);
        if !over {
            self.charge(cost::call(name, overload, &values.iter().collect::<Vec<_>>(), result.as_ref().ok()))?;
        }
        result
    }

    /// A range that costs more than is left is not even made.
    fn refuse_long_range(&self, args: &[Value<'a>]) -> Result<(), EvalError> {
        let left = self.limit.saturating_sub(self.cost.get());
        match args {
            [Value::Int(size)] if *size <= MAX_RANGE && u64::try_from(*size).is_ok_and(|size| size > left) => {
                self.charge(left.saturating_add(1))?;
                Err(EvalError::over_budget())
            }
            _ => Ok(()),
        }
    }

    fn attribute(&self, attribute: &Attribute, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let value = self.resolve(attribute, scope);
        if !attribute.is_test && !matches!(attribute.root, Root::Conditional { .. }) {
            self.charge(1)?;
        }
        match value {
            // A test of an optional value gives whether there is one.
            Ok(Value::Optional(value)) if attribute.is_test => Ok(Value::Bool(value.is_some())),
            other => other,
        }
    }

    /// The value without what the attribute itself costs.
    fn resolve(&self, attribute: &Attribute, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let mut value = match &attribute.root {
            Root::Variable(name) => self.variable(name, scope)?,
            Root::Value(node) => self.node(node, scope)?,
            Root::Conditional { condition, yes, no } => match self.node(condition, scope)? {
                Value::Bool(holds) => {
                    let branch = if holds { yes } else { no };
                    match &**branch {
                        Node::Attribute(attribute) => self.resolve(attribute, scope)?,
                        other => self.node(other, scope)?,
                    }
                }
                _ => return Err(EvalError::no_such_overload()),
            },
        };
        if attribute.steps.is_empty() {
            return Ok(value);
        }
        let mut is_optional = false;
        match value {
            Value::Optional(Some(inner)) => {
                value = (*inner).clone();
                is_optional = true;
            }
            Value::Optional(None) => return Ok(Value::Optional(None)),
            _ => {}
        }
        let last = attribute.steps.len() - 1;
        for (index, step) in attribute.steps.iter().enumerate() {
            is_optional |= step.optional;
            let only_test = attribute.is_test && index == last;
            let key = self.key(step, scope)?;
            if is_optional || only_test {
                let found = find(&value, &key, true);
                if only_test || !matches!(found, Ok(None)) {
                    self.charge(1)?;
                }
                match found? {
                    found if only_test && !is_optional => return Ok(Value::Bool(found.is_some())),
                    Some(found) => value = found,
                    None => return Ok(Value::Optional(None)),
                }
            } else {
                let found = find(&value, &key, false);
                self.charge(1)?;
                value = found?.ok_or_else(|| EvalError::no_such_key(&key))?;
            }
        }
        Ok(if is_optional { Value::some(value) } else { value })
    }

    fn key(&self, step: &Step, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        match &step.key {
            StepKey::Const(value) => Ok(relax(value)),
            // What names the part is not counted as an attribute of its own, only its own steps are.
            StepKey::Node(Node::Attribute(attribute)) => self.resolve(attribute, scope),
            StepKey::Node(node) => self.node(node, scope),
        }
    }

    fn variable(&self, name: &str, scope: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let mut around = scope;
        if !name.starts_with('.') {
            while let Some(scope) = around {
                if name == scope.fold.accumulator {
                    return self.accumulated(scope);
                }
                if !scope.is_over.get() {
                    if name == scope.fold.variable {
                        return scope.first.borrow().clone();
                    }
                    if scope.fold.second.as_deref() == Some(name) {
                        return scope.second.borrow().clone();
                    }
                }
                around = scope.parent;
            }
        }
        let plain = name.strip_prefix('.').unwrap_or(name);
        self.activation.get(plain).cloned().unwrap_or_else(|| Err(EvalError::new(format!("no such attribute(s): {plain}"))))
    }

    /// The carried variable; what it begins with is found out when it is first asked for.
    fn accumulated(&self, scope: &Scope<'_, 'a>) -> Evaluated<'a> {
        if let Some(value) = scope.accumulated.borrow().as_ref() {
            return value.clone();
        }
        let value = self.node(&scope.fold.init, scope.parent);
        *scope.accumulated.borrow_mut() = Some(value.clone());
        value
    }

    fn fold(&self, fold: &Fold, parent: Option<&Scope<'_, 'a>>) -> Evaluated<'a> {
        let range = self.node(&fold.range, parent)?;
        let scope = Scope {
            parent,
            fold,
            accumulated: RefCell::new(None),
            first: RefCell::new(Ok(Value::Null)),
            second: RefCell::new(Ok(Value::Null)),
            is_over: Cell::new(false),
        };
        match &range {
            Value::List(list) => {
                for index in 0..list.len() {
                    let item = list.get(index).unwrap_or(Ok(Value::Null));
                    let index = Value::Int(i64::try_from(index).unwrap_or(i64::MAX));
                    let (first, second) = if fold.second.is_some() { (Ok(index), item) } else { (item, Ok(Value::Null)) };
                    if !self.turn(&scope, first, second)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let value =
                        if fold.second.is_some() { map.find(&key).map(|value| value.unwrap_or(Value::Null)) } else { Ok(Value::Null) };
                    if !self.turn(&scope, Ok(key), value)? {
                        break;
                    }
                }
            }
            other => return Err(EvalError::new(format!("got '{}', expected iterable type", go_type(other)))),
        }
        scope.is_over.set(true);
        self.node(&fold.result, Some(&scope))
    }

    /// One turn of a loop; false if there are to be no more. The error is only that the budget is spent.
    fn turn(&self, scope: &Scope<'_, 'a>, first: Evaluated<'a>, second: Evaluated<'a>) -> Result<bool, EvalError> {
        *scope.first.borrow_mut() = first;
        *scope.second.borrow_mut() = second;
        match self.node(&scope.fold.condition, Some(scope)) {
            Ok(Value::Bool(false)) => return Ok(false),
            Err(error) if error.over_budget => return Err(error),
            _ => {}
        }
        let next = self.step(&scope.fold.step, scope);
        if let Err(error) = &next
            && error.over_budget
        {
            return Err(error.clone());
        }
        *scope.accumulated.borrow_mut() = Some(next);
        Ok(true)
    }

    /// The next value of the carried variable. A list or a map that only grows is not copied for that.
    fn step(&self, node: &Node, scope: &Scope<'_, 'a>) -> Evaluated<'a> {
        let carries = |node: &Node| matches!(node, Node::Attribute(Attribute { root: Root::Variable(name), steps, .. }) if steps.is_empty() && *name == scope.fold.accumulator);
        match node {
            Node::Call { function, overload, args } if args.first().is_some_and(carries) => {
                let is_append = &*function.name == "_+_";
                if !is_append && &*function.name != "cel.@mapInsert" {
                    return self.node(node, Some(scope));
                }
                let before = self.node(&args[0], Some(scope));
                if before.is_err() && args.len() > 2 {
                    return before;
                }
                let mut rest = Vec::with_capacity(args.len() - 1);
                for arg in &args[1..] {
                    match self.node(arg, Some(scope)) {
                        Err(error) if args.len() > 2 || error.over_budget => return Err(error),
                        value => rest.push(value),
                    }
                }
                drop(before);
                let carried = scope.accumulated.borrow_mut().take().unwrap_or(Ok(Value::Null));
                self.charge(1)?;
                let carried = carried?;
                let rest: Vec<Value<'a>> = rest.into_iter().collect::<Result<_, _>>()?;
                grow(carried, rest, function, overload.as_deref())
            }
            Node::Attribute(Attribute { root: Root::Conditional { condition, yes, no }, steps, .. }) if steps.is_empty() && carries(no) => {
                match self.node(condition, Some(scope))? {
                    Value::Bool(true) => match &**yes {
                        Node::Attribute(attribute) => self.resolve(attribute, Some(scope)),
                        other => self.step(other, scope),
                    },
                    Value::Bool(false) => {
                        self.accumulated(scope)?;
                        scope.accumulated.borrow_mut().take().unwrap_or(Ok(Value::Null))
                    }
                    _ => Err(EvalError::no_such_overload()),
                }
            }
            other => self.node(other, Some(scope)),
        }
    }
}

/// Adds to a list or a map that nobody else has, or makes a new one.
fn grow<'a>(carried: Value<'a>, mut rest: Vec<Value<'a>>, function: &Function, overload: Option<&str>) -> Evaluated<'a> {
    match (carried, &rest[..]) {
        (Value::List(List::Owned(mut items)), [Value::List(more)]) => {
            let added: Vec<Value<'a>> = more.iter().collect::<Result<_, _>>()?;
            Arc::make_mut(&mut items).extend(added);
            Ok(Value::List(List::Owned(items)))
        }
        (map @ Value::Map(_), [_, ..]) => {
            let mut entries = two_variables::entries(map)?;
            match rest.len() {
                1 => two_variables::merge_into(&mut entries, &rest[0])?,
                _ => {
                    let value = rest.pop().unwrap_or(Value::Null);
                    let key = rest.pop().unwrap_or(Value::Null);
                    two_variables::add(&mut entries, key, value)?;
                }
            }
            Ok(Value::Map(Map::Owned(Arc::new(entries))))
        }
        (other, _) => {
            rest.insert(0, other);
            function.call(overload, &rest)
        }
    }
}

/// The part of a value that a key names. Where that is only asked, what cannot have parts has none.
fn find<'a>(value: &Value<'a>, key: &Value<'a>, is_test: bool) -> Result<Option<Value<'a>>, EvalError> {
    match value {
        Value::Map(map) => map.find(key),
        Value::List(list) => {
            let index = match key {
                Value::Int(index) => *index,
                Value::Uint(index) => i64::try_from(*index).unwrap_or(i64::MAX),
                Value::Double(index) if index.fract() == 0.0 && index.abs() < 9e15 => *index as i64,
                Value::Double(index) => return Err(EvalError::new(format!("unsupported index value {index} in list"))),
                other => return Err(EvalError::new(format!("unsupported index type '{}' in list", other.type_name()))),
            };
            match usize::try_from(index).ok().and_then(|index| list.get(index)) {
                Some(item) => item.map(Some),
                None if is_test => Ok(None),
                None => Err(EvalError::new(format!("index out of bounds: {index}"))),
            }
        }
        Value::Object(object) => Ok(key.as_str().and_then(|name| object.get(name)).cloned()),
        _ => Ok(None),
    }
}

/// The name of the Go type of a value, which upstream's message has here.
fn go_type(value: &Value<'_>) -> String {
    let name = match value {
        Value::Null => "Null",
        Value::Bool(_) => "Bool",
        Value::Int(_) => "Int",
        Value::Uint(_) => "Uint",
        Value::Double(_) => "Double",
        Value::String(_) => "String",
        Value::Bytes(_) => "Bytes",
        Value::Timestamp(_) => "Timestamp",
        Value::Duration(_) => "Duration",
        other => return other.type_name().to_owned(),
    };
    format!("types.{name}")
}

/// A constant for data of any lifetime.
fn relax<'a>(value: &Value<'static>) -> Value<'a> {
    match value {
        Value::Null => Value::Null,
        Value::Bool(value) => Value::Bool(*value),
        Value::Int(value) => Value::Int(*value),
        Value::Uint(value) => Value::Uint(*value),
        Value::Double(value) => Value::Double(*value),
        Value::String(text) => Value::String(text.clone()),
        Value::Bytes(bytes) => Value::Bytes(bytes.clone()),
        Value::Timestamp(time) => Value::Timestamp(*time),
        Value::Duration(nanos) => Value::Duration(*nanos),
        Value::Type(name) => Value::Type(name.clone()),
        Value::List(List::Owned(items)) => Value::list(items.iter().map(relax).collect()),
        Value::Map(Map::Owned(entries)) => {
            let mut relaxed = Entries::default();
            for (key, value) in entries.iter() {
                relaxed.insert(relax(key), relax(value));
            }
            Value::Map(Map::Owned(Arc::new(relaxed)))
        }
        // Constants are made of literals alone.
        _ => Value::Null,
    }
}
