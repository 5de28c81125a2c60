//! Expressions in the Common Expression Language, as webhooks and policies have them.
//!
//! A thin layer over `kube-cel`, the maintained implementation of the language with Kubernetes' libraries: it names the variables
//! that an expression may use, turns values into the language's and back, and bounds what an evaluation may take. Expressions are
//! not type-checked, and there is no `authorizer`.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use kube_cel::KubeCelExt;
use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{Context, ExecutionError, Program, Value as Cel};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Semaphore;

/// Bytes of an expression; upstream's compiler refuses longer ones by their cost.
const MAX_EXPRESSION_BYTES: usize = 100_000;
/// What is evaluated for one write has to be through by then. An evaluation that takes longer is left to itself.
const EVALUATION_TIMEOUT: Duration = Duration::from_secs(2);
/// Evaluations at once, those left to themselves among them.
const MAX_EVALUATIONS: usize = 64;
/// Names of types, which an expression may use like variables.
const TYPES: [&str; 12] = ["bool", "bytes", "double", "duration", "dyn", "int", "list", "map", "null_type", "string", "timestamp", "type"];

static EVALUATIONS: Semaphore = Semaphore::const_new(MAX_EVALUATIONS);

/// Compiled expressions of the objects that are in force; when there are more, compiling starts anew.
const MAX_COMPILED: usize = 4096;

static COMPILED: LazyLock<Mutex<HashMap<String, Arc<Expression>>>> = LazyLock::new(Mutex::default);

/// A compiled expression.
pub struct Expression {
    text: String,
    program: Program,
}

impl Expression {
    /// Compiles an expression that may use these variables and gives one of these types; anything if there are none. The error is
    /// in upstream's words. A type that depends on a value is not known before it is there.
    pub fn compile(text: &str, variables: &[&str], types: &[&str]) -> Result<Expression, String> {
        let failed = |why: String| format!("compilation failed: {why}");
        if text.len() > MAX_EXPRESSION_BYTES {
            return Err(failed(format!("expression exceeds {MAX_EXPRESSION_BYTES} bytes")));
        }
        let program = Program::compile(text).map_err(|errors| failed(errors.to_string().replace("\n| ", "\n | ")))?;
        if let Some(name) = free(program.expression(), &mut variables.to_vec()) {
            return Err(failed(undeclared(text, &name)));
        }
        match result_type(program.expression()) {
            Some(found) if !types.is_empty() && !types.contains(&found) => {
                let wanted = if let [one] = types { (*one).to_owned() } else { format!("one of [{}]", types.join(" ")) };
                Err(format!("must evaluate to {wanted} but got {found}"))
            }
            _ => Ok(Expression { text: text.to_owned(), program }),
        }
    }

    /// An expression of an object that is in force: it was checked when the object was written.
    pub fn in_force(text: &str) -> Result<Arc<Expression>, String> {
        if let Some(known) = COMPILED.lock().get(text) {
            return Ok(known.clone());
        }
        let program = Program::compile(text).map_err(|errors| format!("compilation failed: {errors}"))?;
        let compiled = Arc::new(Expression { text: text.to_owned(), program });
        let mut all = COMPILED.lock();
        if all.len() >= MAX_COMPILED {
            all.clear();
        }
        all.insert(text.to_owned(), compiled.clone());
        Ok(compiled)
    }

    /// What the expression gives; an error names it, as upstream does.
    pub fn evaluate(&self, variables: &Variables) -> Result<Cel, String> {
        let mut context = Context::default().with_all();
        for (name, value) in &variables.values {
            context.add_variable_from_value(*name, value.clone());
        }
        if !variables.composed.is_empty() {
            let composed: HashMap<Key, Cel> = variables.composed.iter().map(|(name, value)| (key(name), value.clone())).collect();
            context.add_variable_from_value("variables", Cel::Map(Map { map: Arc::new(composed) }));
        }
        let error = |error: ExecutionError| format!("expression '{}' resulted in error: {}", self.text, explain(&error));
        self.program.execute(&context).map_err(error)
    }
}

/// The first variable that is used and not declared.
fn free(at: &IdedExpr, declared: &mut Vec<&str>) -> Option<String> {
    match &at.expr {
        Expr::Unspecified | Expr::Literal(_) => None,
        Expr::Ident(name) => {
            let known = name.starts_with('@') || TYPES.contains(&name.as_str()) || declared.contains(&name.as_str());
            (!known).then(|| name.clone())
        }
        Expr::Select(select) => free(&select.operand, declared),
        Expr::Call(call) => call.target.iter().map(AsRef::as_ref).chain(&call.args).find_map(|part| free(part, declared)),
        Expr::List(list) => list.elements.iter().find_map(|part| free(part, declared)),
        Expr::Map(map) => map.entries.iter().find_map(|entry| free_in(&entry.expr, declared)),
        Expr::Struct(object) => object.entries.iter().find_map(|entry| free_in(&entry.expr, declared)),
        Expr::Comprehension(over) => {
            if let Some(name) = free(&over.iter_range, declared).or_else(|| free(&over.accu_init, declared)) {
                return Some(name);
            }
            let mut inner = declared.clone();
            inner.push(&over.iter_var);
            inner.push(&over.accu_var);
            inner.extend(over.iter_var2.as_deref());
            [&over.loop_cond, &over.loop_step, &over.result].into_iter().find_map(|part| free(part, &mut inner))
        }
    }
}

fn free_in(entry: &EntryExpr, declared: &mut Vec<&str>) -> Option<String> {
    match entry {
        EntryExpr::StructField(field) => free(&field.value, declared),
        EntryExpr::MapEntry(entry) => free(&entry.key, declared).or_else(|| free(&entry.value, declared)),
    }
}

/// The type of what an expression gives, where its form alone says so.
fn result_type(at: &IdedExpr) -> Option<&'static str> {
    const COMPARISONS: [&str; 9] = [
        operators::EQUALS,
        operators::NOT_EQUALS,
        operators::LESS,
        operators::LESS_EQUALS,
        operators::GREATER,
        operators::GREATER_EQUALS,
        operators::LOGICAL_AND,
        operators::LOGICAL_OR,
        operators::LOGICAL_NOT,
    ];
    match &at.expr {
        Expr::Literal(literal) => Some(match literal {
            LiteralValue::Boolean(_) => "bool",
            LiteralValue::Bytes(_) => "bytes",
            LiteralValue::Double(_) => "double",
            LiteralValue::Int(_) => "int",
            LiteralValue::Null => "null_type",
            LiteralValue::String(_) => "string",
            LiteralValue::UInt(_) => "uint",
        }),
        Expr::Select(select) if select.test => Some("bool"),
        Expr::Call(call) if COMPARISONS.contains(&call.func_name.as_str()) => Some("bool"),
        Expr::Call(call) if call.target.is_none() && call.func_name == "string" => Some("string"),
        Expr::Call(call) if call.target.is_none() && call.func_name == "size" => Some("int"),
        _ => None,
    }
}

/// Where a name stands that nobody declared, in the compiler's picture.
fn undeclared(text: &str, name: &str) -> String {
    let offset = text.find(name).unwrap_or(0);
    let before = &text[..offset];
    let line_number = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap_or("").chars().count();
    let line = text.lines().nth(line_number).unwrap_or("");
    format!(
        "ERROR: <input>:{}:{}: undeclared reference to '{name}' (in container '')\n | {line}\n | {}^",
        line_number + 1,
        column + 1,
        ".".repeat(column)
    )
}

fn explain(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(name) => format!("no such key: {name}"),
        ExecutionError::UndeclaredReference(name) => format!("no such attribute(s): {name}"),
        other => other.to_string(),
    }
}

/// What expressions are told.
#[derive(Clone, Default)]
pub struct Variables {
    values: Vec<(&'static str, Cel)>,
    /// Those that a policy composes of the others, as `variables.<name>`.
    composed: Vec<(String, Cel)>,
}

impl Variables {
    pub fn with(mut self, name: &'static str, value: &Value) -> Variables {
        self.values.push((name, to_cel(value)));
        self
    }

    pub fn compose(&mut self, name: &str, value: Cel) {
        self.composed.push((name.to_owned(), value));
    }
}

/// Match conditions: one that is false settles it, whatever is wrong with the others.
pub fn all_hold(conditions: &[Result<Arc<Expression>, String>], variables: &Variables) -> Result<bool, String> {
    let mut failures = Vec::new();
    for condition in conditions {
        match condition.as_ref().map_err(Clone::clone).and_then(|condition| condition.evaluate(variables)) {
            Ok(value) if is_true(&value) => {}
            Ok(_) => return Ok(false),
            Err(failure) => failures.push(failure),
        }
    }
    match failures.as_slice() {
        [] => Ok(true),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// Whether it is true, of whatever type it is.
pub fn is_true(value: &Cel) -> bool {
    matches!(value, Cel::Bool(true))
}

/// The text that it is, if it is one.
pub fn text(value: &Cel) -> Option<&str> {
    match value {
        Cel::String(text) => Some(text),
        _ => None,
    }
}

fn key(name: &str) -> Key {
    Key::String(Arc::new(name.to_owned()))
}

fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Cel::Int(value),
            (None, Some(value)) => Cel::UInt(value),
            (None, None) => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(members) => {
            let map = members.iter().map(|(name, value)| (key(name), to_cel(value))).collect();
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}

/// Evaluates away from the tasks that serve requests, within bounds.
pub async fn bounded<T: Send + 'static>(evaluate: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let too_long = |_| "the evaluation took too long".to_owned();
    let permit = tokio::time::timeout(EVALUATION_TIMEOUT, EVALUATIONS.acquire()).await.map_err(too_long)?;
    let permit = permit.map_err(|error| error.to_string())?;
    let evaluated = tokio::task::spawn_blocking(move || {
        let outcome = evaluate();
        drop(permit);
        outcome
    });
    tokio::time::timeout(EVALUATION_TIMEOUT, evaluated).await.map_err(too_long)?.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn evaluate(text: &str, object: &Value) -> Result<Cel, String> {
        let variables = Variables::default().with("object", object);
        Expression::compile(text, &["object"], &["bool", "string"])?.evaluate(&variables)
    }

    #[test]
    fn expressions_are_evaluated_over_objects() {
        let object = json!({ "spec": { "replicas": 3, "names": ["a", "b"] }, "metadata": { "labels": { "x/y": "z" } } });
        for (text, expected) in [
            ("object.spec.replicas > 1", true),
            ("object.spec.replicas % 2 == 0", false),
            ("object.spec.names.all(n, n.size() == 1)", true),
            ("has(object.spec.absent) || object.metadata.labels['x/y'] == 'z'", true),
            ("object.spec.names.exists(n, n == 'c')", false),
        ] {
            assert_eq!(evaluate(text, &object).as_ref().map(is_true), Ok(expected), "{text}");
        }
        let message = evaluate("'wants ' + string(object.spec.replicas)", &object).unwrap();
        assert_eq!(super::text(&message), Some("wants 3"));
    }

    #[test]
    fn what_cannot_be_compiled_is_shown() {
        let error = |text: &str| evaluate(text, &json!({})).unwrap_err();
        assert_eq!(
            error("objekt.spec"),
            "compilation failed: ERROR: <input>:1:1: undeclared reference to 'objekt' (in container '')\n | objekt.spec\n | ^"
        );
        assert!(error("... [] bad expression").starts_with("compilation failed: ERROR: <input>:1:2: Syntax error: "));
        assert_eq!(error("1"), "must evaluate to one of [bool string] but got int");
        assert_eq!(error("object.absent == 1"), "expression 'object.absent == 1' resulted in error: no such key: absent");
    }

    #[tokio::test]
    async fn an_evaluation_that_takes_too_long_is_an_error() {
        assert_eq!(bounded(|| 1).await, Ok(1));
        let slow = bounded(|| std::thread::sleep(EVALUATION_TIMEOUT + Duration::from_millis(300))).await;
        assert_eq!(slow, Err("the evaluation took too long".to_owned()));
    }
}
