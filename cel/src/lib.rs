//! The Common Expression Language as Kubernetes v1.37 has it: parsing, types, costs, evaluation.
//!
//! Pure: no I/O, no clock, no tasks. An [`Env`] says what expressions may name; [`Program::compile`] refuses what has the wrong
//! types, in cel-go's words; [`Program::estimate`] says what it may cost; [`Program::evaluate`] runs it over data where that lies,
//! within a limit, so that it ends.
//!
//! ```
//! use cel::{Activation, Budget, Env, Program, Type, Value};
//!
//! let env = Env::for_new().with_variable("object", Type::Dyn);
//! let program = Program::compile(&env, "object.replicas < 5")?;
//! let object = serde_json::json!({ "replicas": 3 });
//! let variables = Activation::default().with("object", Value::json(&object));
//! let value = program.evaluate(&variables, &mut Budget::new(10_000_000))?;
//! assert_eq!(value.as_bool(), Some(true));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod admission;
mod ast;
mod authorizer;
mod check;
mod cost;
pub mod device;
mod env;
mod escape;
mod eval;
mod functions;
mod lexer;
mod macros;
mod parser;
mod plan;
mod schema;
mod source;
mod stack;
mod types;
mod unify;
mod validate;
mod value;

pub use authorizer::{AccessDecision, AccessRequest, Authorizer, AuthorizerValue};
pub use cost::{CostEstimate, Sizes};
pub use env::Env;
pub use escape::{escape, is_identifier, unescape};
pub use eval::{Activation, Budget, PER_CALL_LIMIT};
pub use schema::{ObjectTypes, Schema};
pub use source::{CompileError, Issue, Location};
pub use types::Type;
pub use value::{Entries, EvalError, Lazy, List, Map, Object, Text, Value};

use check::{Checked, Reference};
use plan::Node;

/// What is said when a deeply nested expression cannot be looked at.
const NO_ROOM: &str = "no memory for a deeply nested expression";

/// A compiled expression. It can be shared and evaluated any number of times.
pub struct Program {
    checked: Checked,
    root: Node,
    /// How deeply it is nested.
    depth: usize,
}

impl Program {
    /// Parses, checks and plans an expression.
    ///
    /// # Errors
    /// All that is wrong with it, at most a hundred mistakes.
    pub fn compile(env: &Env, text: &str) -> Result<Program, CompileError> {
        // Each level takes at least one of these.
        let levels = text.bytes().filter(|byte| b"([{?:.+-*/%<>=!&|".contains(byte)).count();
        stack::with_room(levels, || Program::compile_here(env, text)).unwrap_or_else(|| Err(CompileError::plain(NO_ROOM.to_owned())))
    }

    fn compile_here(env: &Env, text: &str) -> Result<Program, CompileError> {
        let (source, parsed) = parser::parse(text, env.has_bindings())?;
        let checked = check::check(parsed, env).map_err(|issues| CompileError::new(&source, issues))?;
        let root = plan::plan(&checked).map_err(CompileError::plain)?;
        let depth = checked.root.depth();
        Ok(Program { checked, root, depth })
    }

    /// The type of what it gives.
    pub fn result_type(&self) -> &Type {
        self.checked.ty(&self.checked.root)
    }

    /// Whether it names a variable of the environment.
    pub fn uses(&self, variable: &str) -> bool {
        self.checked.references.values().any(|reference| matches!(reference, Reference::Ident(name) if name == variable))
    }

    /// Whether it takes a field straight from a variable: `variable.field`, `variable.?field`, `has(variable.field)`.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        let names = |expr: &ast::Expr| matches!(&expr.kind, ast::Kind::Ident(name) if name == variable);
        let mut found = false;
        self.checked.root.walk(&mut |expr| {
            found |= match &expr.kind {
                ast::Kind::Select { operand, field: name, .. } => name == field && names(operand),
                ast::Kind::Call { target: None, function, args } => match args.as_slice() {
                    [operand, ast::Expr { kind: ast::Kind::Literal(ast::Literal::String(name)), .. }] => {
                        function == "_?._" && name == field && names(operand)
                    }
                    _ => false,
                },
                _ => false,
            };
        });
        found
    }

    /// What it may cost if variables are of these sizes.
    pub fn estimate(&self, sizes: Sizes<'_>) -> CostEstimate {
        let unknown = CostEstimate { min: 0, max: u64::MAX };
        stack::with_room(self.depth, || cost::estimate(&self.checked, sizes)).unwrap_or(unknown)
    }

    /// What it gives with these variables. What that has cost is taken from the budget; the caller decides what it means that
    /// the budget is exceeded. One evaluation never costs more than [`PER_CALL_LIMIT`].
    ///
    /// # Errors
    /// What went wrong, in upstream's words.
    pub fn evaluate<'a>(&self, activation: &Activation<'a>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
        self.evaluate_within(activation, budget, PER_CALL_LIMIT)
    }

    /// The same where it may never cost more than `limit`, which is less than [`PER_CALL_LIMIT`].
    ///
    /// # Errors
    /// What went wrong, in upstream's words; that it is [over budget](EvalError::over_budget) once it costs more.
    pub fn evaluate_within<'a>(&self, activation: &Activation<'a>, budget: &mut Budget, limit: u64) -> Result<Value<'a>, EvalError> {
        let limit = limit.min(PER_CALL_LIMIT);
        let evaluated = stack::with_room(self.depth, || eval::evaluate(&self.root, activation, limit));
        let (value, cost) = evaluated.unwrap_or_else(|| (Err(EvalError::new(NO_ROOM)), PER_CALL_LIMIT));
        budget.spend(cost);
        value
    }
}
