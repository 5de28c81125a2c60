//! Expressions in the Common Expression Language, as webhooks and policies have them.
//!
//! A thin layer over the `cel` crate: it names the variables that an expression may use ([`cel::admission`]), keeps what is in force
//! compiled, answers what it asks about permissions ([`Permissions`]), and bounds what the evaluations for one write cost together.

mod mutation;
mod permissions;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cel::{Activation, AuthorizerValue, Budget, Env, EvalError, Lazy, Map, Program, admission};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Semaphore;

pub use mutation::{Change, Mutation};
pub use permissions::Permissions;

/// What is evaluated for one write has to be through by then. An evaluation that takes longer is left to itself.
const EVALUATION_TIMEOUT: Duration = Duration::from_secs(2);
/// Evaluations at once, those left to themselves among them.
const MAX_EVALUATIONS: usize = 64;
/// Cost of what is evaluated for one write where it is asked for, in the task that serves the request: a millisecond at most.
const QUICK_COST: i64 = 20_000;
/// A policy with more variables is not evaluated quickly: what they make of each other may take long though it costs little.
const MAX_QUICK_VARIABLES: usize = 8;
/// Cost of the expressions of one policy for one write, and of the rules of a custom resource for one object.
pub const BUDGET: i64 = 10_000_000;
/// Cost of the match conditions of one webhook or policy for one write.
const MATCH_CONDITIONS_BUDGET: i64 = 2_500_000;
/// What is said when that is not enough.
pub const OUT_OF_BUDGET: &str = "validation failed due to running out of cost budget, no further validation rules will be run";
/// What an expression that is in force may name; when it was written it was checked what it may name where it stands.
const ALL_VARIABLES: [&str; 7] = ["object", "oldObject", "request", "params", "namespaceObject", "variables", "authorizer"];

static EVALUATIONS: Semaphore = Semaphore::const_new(MAX_EVALUATIONS);

/// Compiled expressions of the objects that are in force; when there are more, compiling starts anew.
const MAX_COMPILED: usize = 4096;

static COMPILED: LazyLock<Kept<String, Expression>> = LazyLock::new(Kept::default);

/// What was compiled once.
struct Kept<K, V>(Mutex<HashMap<K, Arc<V>>>);

impl<K, V> Default for Kept<K, V> {
    fn default() -> Kept<K, V> {
        Kept(Mutex::default())
    }
}

impl<K: Eq + Hash, V> Kept<K, V> {
    fn get(&self, key: K, compile: impl FnOnce() -> Result<V, String>) -> Result<Arc<V>, String> {
        if let Some(known) = self.0.lock().get(&key) {
            return Ok(known.clone());
        }
        let compiled = Arc::new(compile()?);
        let mut all = self.0.lock();
        if all.len() >= MAX_COMPILED {
            all.clear();
        }
        all.insert(key, compiled.clone());
        Ok(compiled)
    }
}

/// The environment of what is in force, made once.
static IN_FORCE: LazyLock<Env> = LazyLock::new(|| admission::declare(Env::for_stored(), &ALL_VARIABLES));

/// A compiled expression.
pub struct Expression {
    text: String,
    program: Program,
}

/// What an expression gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Bool(bool),
    Text(String),
    /// Something else, which nobody has asked for.
    Other,
}

impl Expression {
    /// Compiles an expression that may use these variables and gives one of these types; anything if there are none. The error is
    /// in upstream's words.
    pub fn compile(text: &str, variables: &[&str], types: &[&str]) -> Result<Expression, String> {
        Expression::compile_with(text, variables, &[], types)
    }

    /// Compiles an expression that may also use `variables.<name>`, which other expressions compose.
    pub fn compile_with(text: &str, variables: &[&str], composed: &[(String, cel::Type)], types: &[&str]) -> Result<Expression, String> {
        let mut env = admission::declare(Env::for_new(), variables);
        if variables.contains(&"variables") {
            env = admission::compose(env, composed);
        }
        let expression = Expression::compiled(text, &env)?;
        let found = expression.program.result_type().declared();
        if types.is_empty() || types.contains(&found.as_str()) {
            return Ok(expression);
        }
        let wanted = if let [one] = types { (*one).to_owned() } else { format!("one of [{}]", types.join(" ")) };
        Err(format!("must evaluate to {wanted} but got {found}"))
    }

    /// The type of what it gives.
    pub fn result_type(&self) -> &cel::Type {
        self.program.result_type()
    }

    fn compiled(text: &str, env: &Env) -> Result<Expression, String> {
        let program = Program::compile(env, text).map_err(|error| {
            let what = if error.is_instantiation() { "program instantiation" } else { "compilation" };
            format!("{what} failed: {error}")
        })?;
        Ok(Expression { text: text.to_owned(), program })
    }

    /// An expression of an object that is in force: it was checked when the object was written.
    pub fn in_force(text: &str) -> Result<Arc<Expression>, String> {
        COMPILED.get(text.to_owned(), || Expression::compiled(text, &IN_FORCE))
    }

    /// What the expression gives; an error names it, as upstream does.
    pub fn evaluate(&self, variables: &Variables) -> Result<Outcome, String> {
        match variables.evaluate(&self.program, &variables.activation()).ok_or(OUT_OF_BUDGET)? {
            Ok(cel::Value::Bool(value)) => Ok(Outcome::Bool(value)),
            Ok(cel::Value::String(text)) => Ok(Outcome::Text(text.to_string())),
            Ok(_) => Ok(Outcome::Other),
            Err(error) => Err(format!("expression '{}' resulted in error: {error}", self.text)),
        }
    }
}

/// What is left of [`QUICK_COST`] for all that one write is asked about.
pub struct Quick(Arc<AtomicI64>);

impl Default for Quick {
    fn default() -> Quick {
        Quick(Arc::new(AtomicI64::new(QUICK_COST)))
    }
}

/// What a quick evaluation may still cost.
struct Allowance {
    left: Arc<AtomicI64>,
    /// It was not enough, or permissions were asked about, which may wait for somebody: what came of the evaluation does not count.
    is_exceeded: AtomicBool,
}

/// A policy's own variables, by name.
pub type Composed = Arc<Vec<(String, Result<Arc<Expression>, String>)>>;

/// What expressions are told. A clone has the whole budget again.
#[derive(Default)]
pub struct Variables {
    values: Vec<(&'static str, Arc<Value>)>,
    permissions: Option<Arc<Permissions>>,
    /// Those that a policy composes of the others, as `variables.<name>`; found out when they are first asked for.
    composed: Composed,
    quick: Option<Arc<Allowance>>,
    budget: i64,
    /// What evaluations have cost so far.
    spent: AtomicI64,
}

impl Clone for Variables {
    fn clone(&self) -> Variables {
        Variables {
            values: self.values.clone(),
            permissions: self.permissions.clone(),
            composed: self.composed.clone(),
            quick: self.quick.clone(),
            budget: self.budget,
            spent: AtomicI64::new(0),
        }
    }
}

impl Variables {
    pub fn with(mut self, name: &'static str, value: impl Into<Arc<Value>>) -> Variables {
        self.values.retain(|(known, _)| *known != name);
        self.values.push((name, value.into()));
        self
    }

    /// Lets expressions ask what may be done.
    pub fn permit(mut self, permissions: Arc<Permissions>) -> Variables {
        self.permissions = Some(permissions);
        self
    }

    /// Lets all evaluations together cost no more than this.
    fn within(mut self, budget: i64) -> Variables {
        self.budget = budget;
        self
    }

    /// Adds variables that expressions compose of these, and of those before them.
    pub fn composing(mut self, composed: &Composed) -> Variables {
        self.composed = composed.clone();
        self
    }

    /// The same for an evaluation that may cost only so much.
    fn quickly(&self, quick: &Quick) -> (Variables, Arc<Allowance>) {
        let allowance = Arc::new(Allowance { left: quick.0.clone(), is_exceeded: AtomicBool::new(false) });
        (Variables { quick: Some(allowance.clone()), ..self.clone() }, allowance)
    }

    /// What a program gives; `None` once all of them together have cost too much.
    fn evaluate<'a>(&self, program: &Program, activation: &Activation<'a>) -> Option<Result<cel::Value<'a>, EvalError>> {
        let mut spent = Budget::new(0);
        let value = match &self.quick {
            None => program.evaluate(activation, &mut spent),
            Some(allowance) if self.composed.len() > MAX_QUICK_VARIABLES => {
                allowance.is_exceeded.store(true, Ordering::Relaxed);
                Err(EvalError::over_budget())
            }
            Some(allowance) => {
                let left = allowance.left.load(Ordering::Relaxed).max(0).unsigned_abs();
                let value = program.evaluate_within(activation, &mut spent, left);
                allowance.left.fetch_add(spent.remaining(), Ordering::Relaxed);
                if value.as_ref().is_err_and(|error| error.over_budget) {
                    allowance.is_exceeded.store(true, Ordering::Relaxed);
                }
                value
            }
        };
        self.spend(spent).then_some(value)
    }

    fn activation(&self) -> Activation<'_> {
        let mut activation = self.plain();
        if !self.composed.is_empty() {
            let composition = Arc::new(Composition { of: self, known: Mutex::default() });
            activation.set("variables", Ok(cel::Value::Map(Map::Lazy(Arc::new(View(composition))))));
        }
        activation
    }

    fn plain(&self) -> Activation<'_> {
        let told = self.values.iter();
        let mut activation = told.fold(Activation::default(), |activation, (name, value)| activation.with(name, cel::Value::json(value)));
        if let Some(permissions) = &self.permissions {
            if self.quick.is_some() {
                activation.set("authorizer", Err(EvalError::over_budget()));
                activation.set("authorizer.requestResource", Err(EvalError::over_budget()));
                return activation;
            }
            let authorizer = &**permissions;
            let mut ask = |name, value| activation.set(name, Ok(cel::Value::Authorizer(Arc::new(value))));
            ask("authorizer", AuthorizerValue::root(authorizer));
            ask("authorizer.requestResource", AuthorizerValue::request_resource(authorizer, permissions.resource.clone()));
        }
        activation
    }

    /// Counts what an evaluation has cost; false once that is too much.
    fn spend(&self, cost: Budget) -> bool {
        let budget = if self.budget > 0 { self.budget } else { BUDGET };
        let cost = -cost.remaining();
        self.spent.fetch_add(cost, Ordering::Relaxed).saturating_add(cost) <= budget
    }
}

/// Composed variables while one expression is evaluated. None is evaluated twice.
struct Composition<'a> {
    of: &'a Variables,
    /// None while it is being found out.
    known: Mutex<HashMap<String, Option<Result<cel::Value<'a>, EvalError>>>>,
}

struct View<'a>(Arc<Composition<'a>>);

impl<'a> Lazy<'a> for View<'a> {
    fn names(&self) -> Vec<String> {
        self.0.of.composed.iter().map(|(name, _)| name.clone()).collect()
    }

    fn get(&self, name: &str) -> Option<Result<cel::Value<'a>, EvalError>> {
        let (_, expression) = self.0.of.composed.iter().find(|(known, _)| known == name)?;
        let known = self.0.known.lock().get(name).cloned();
        if let Some(known) = known {
            let circular = || Err(EvalError::new(format!("composited variable {name:?} refers to itself")));
            return Some(known.unwrap_or_else(circular));
        }
        self.0.known.lock().insert(name.to_owned(), None);
        let value = match expression {
            Err(why) => Err(EvalError::new(format!("composited variable {name:?} fails to compile: {why}"))),
            Ok(expression) => {
                let mut activation = self.0.of.plain();
                activation.set("variables", Ok(cel::Value::Map(Map::Lazy(Arc::new(View(self.0.clone()))))));
                // Whether it was too much is found out by who uses it.
                let value = self.0.of.evaluate(&expression.program, &activation).unwrap_or_else(|| Err(EvalError::over_budget()));
                value.map_err(|error| EvalError {
                    message: format!("composited variable {name:?} fails to evaluate: {error}"),
                    over_budget: error.over_budget,
                })
            }
        };
        self.0.known.lock().insert(name.to_owned(), Some(value.clone()));
        Some(value)
    }
}

/// Match conditions: one that is false settles it, whatever is wrong with the others.
pub fn all_hold(conditions: &[Result<Arc<Expression>, String>], variables: &Variables) -> Result<bool, String> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let variables = variables.clone().within(MATCH_CONDITIONS_BUDGET);
    let mut failures = Vec::new();
    for condition in conditions {
        match condition.as_ref().map_err(Clone::clone).and_then(|condition| condition.evaluate(&variables)) {
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
pub fn is_true(value: &Outcome) -> bool {
    matches!(value, Outcome::Bool(true))
}

/// The text that it is, if it is one.
pub fn text(value: &Outcome) -> Option<&str> {
    match value {
        Outcome::Text(text) => Some(text),
        _ => None,
    }
}

/// Evaluates here and now if that costs little, and else [away](bounded).
pub async fn evaluated<T: Send + 'static>(
    quick: &Quick,
    variables: Variables,
    evaluate: impl Fn(&Variables) -> T + Send + 'static,
) -> Result<T, String> {
    let (quickly, allowance) = variables.quickly(quick);
    let outcome = evaluate(&quickly);
    if !allowance.is_exceeded.load(Ordering::Relaxed) {
        return Ok(outcome);
    }
    bounded(move || evaluate(&variables)).await
}

/// Evaluates away from the tasks that serve requests, within bounds.
async fn bounded<T: Send + 'static>(evaluate: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
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

    fn evaluate(text: &str, object: &Value) -> Result<Outcome, String> {
        let variables = Variables::default().with("object", object.clone());
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
        assert_eq!(error("object.spec"), "must evaluate to one of [bool string] but got dyn");
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
