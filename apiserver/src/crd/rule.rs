//! A rule of `x-kubernetes-validations`, compiled for the schema it stands in: `self` is what the schema describes.

use std::sync::Arc;

use cel::{CompileError, Env, ObjectTypes, Program, Schema, Sizes, Type};
use serde_json::Value;

use crate::registry::apiextensions::field_path;
use crate::registry::read::{bool_at, str_at};

/// What the type of `self` is called; users must not depend on it.
const SELF_TYPE: &str = "selfType1";

/// What the rules of one schema share.
pub struct Scope {
    pub schema: Arc<Schema>,
    /// With `oldSelf` of the same type.
    env: Env,
    /// With an `oldSelf` that may be missing.
    optional_env: Env,
}

/// A compiled rule.
#[derive(Default)]
pub struct Rule {
    /// None if it is empty or wrong.
    pub program: Option<Program>,
    pub error: Option<String>,
    /// What it may cost at most.
    pub max_cost: u64,
    pub uses_old: bool,
    /// What makes the message.
    pub message: Option<Program>,
    pub message_error: Option<String>,
    pub message_max_cost: u64,
    /// The field that the rule is about, as it is printed; empty for the schema's own.
    pub field_path: String,
}

impl Scope {
    /// None if expressions cannot name what the schema describes. Rules that are being written may not use all that rules in force may.
    pub fn new(schema: &Value, is_root: bool, in_force: bool) -> Option<Scope> {
        let schema = Schema::of(schema, is_root, SELF_TYPE);
        let own = schema.ty()?.clone();
        let mut objects = ObjectTypes::new();
        schema.object_types(&mut objects);
        let base = if in_force { Env::for_stored() } else { Env::for_new() };
        let base = base.with_objects(objects).with_variable("self", own.clone());
        let env = base.clone().with_variable("oldSelf", own.clone());
        let optional_env = base.with_variable("oldSelf", Type::optional(own));
        Some(Scope { schema: Arc::new(schema), env, optional_env })
    }

    /// Compiles a rule of this schema.
    pub fn compile(&self, schema: &Value, rule: &Value) -> Rule {
        self.compile_with(self, schema, rule)
    }

    fn env(&self, rule: &Value) -> &Env {
        if bool_at(rule, "/optionalOldSelf") { &self.optional_env } else { &self.env }
    }

    /// Compiles a rule of this schema, and what makes its message with what another scope of the same schema knows.
    pub fn compile_with(&self, for_message: &Scope, schema: &Value, rule: &Value) -> Rule {
        let text = str_at(rule, "/rule");
        if text.trim().is_empty() {
            return Rule::default();
        }
        let env = self.env(rule);
        let failed = |error: &CompileError, prefix: &str| {
            let what = if error.is_instantiation() { "instantiation" } else { "compilation" };
            format!("{prefix}{what} failed: {error}")
        };
        let program = match Program::compile(env, text) {
            Err(error) => {
                let prefix = if error.is_instantiation() { "program " } else { "" };
                return Rule { error: Some(failed(&error, prefix)), ..Rule::default() };
            }
            Ok(program) if *program.result_type() != Type::Bool => {
                return Rule { error: Some("cel expression must evaluate to a bool".to_owned()), ..Rule::default() };
            }
            Ok(program) => program,
        };
        let mut compiled = Rule {
            max_cost: program.estimate(Sizes::Of(&self.schema)).max,
            uses_old: program.uses("oldSelf"),
            program: Some(program),
            ..Rule::default()
        };
        let message = str_at(rule, "/messageExpression");
        if !message.is_empty() {
            match Program::compile(for_message.env(rule), message) {
                Err(error) => compiled.message_error = Some(failed(&error, "messageExpression ")),
                Ok(program) if *program.result_type() != Type::String => {
                    compiled.message_error = Some("messageExpression must evaluate to a string".to_owned());
                }
                Ok(program) => {
                    compiled.message_max_cost = program.estimate(Sizes::Of(&self.schema)).max;
                    compiled.message = Some(program);
                }
            }
            if compiled.message_error.is_some() {
                return compiled;
            }
        }
        if let Ok(found) = field_path::follow(str_at(rule, "/fieldPath"), schema, true) {
            compiled.field_path = found.text;
        }
        compiled
    }
}
