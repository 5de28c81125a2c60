//! Finds the types of all parts of an expression, what names refer to, and what cannot be.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Expr, Field, Id, Kind, Literal, Parsed};
use crate::env::Env;
use crate::functions::Function;
use crate::source::{Issue, Location};
use crate::types::Type;
use crate::unify::{Substitutions, most_general};
use crate::validate;

/// What a checked part refers to.
#[derive(Clone, Debug)]
pub(crate) enum Reference {
    /// A variable of the environment, or a name of a type.
    Ident(String),
    /// A function and the overloads that may be meant.
    Call(Arc<Function>, Vec<Arc<str>>),
}

/// A checked expression.
pub(crate) struct Checked {
    pub root: Expr,
    types: Vec<Option<Type>>,
    pub references: HashMap<Id, Reference>,
}

impl Checked {
    pub fn ty(&self, expr: &Expr) -> &Type {
        self.types.get(expr.id).and_then(Option::as_ref).unwrap_or(&Type::Dyn)
    }

    /// The overload of a call, if it can be only one.
    pub fn overload(&self, call: Id) -> Option<&str> {
        match self.references.get(&call) {
            Some(Reference::Call(_, overloads)) if overloads.len() == 1 => Some(&overloads[0]),
            _ => None,
        }
    }
}

/// Checks an expression; its names are resolved on the way.
pub(crate) fn check(parsed: Parsed, env: &Env) -> Result<Checked, Vec<Issue>> {
    let Parsed { mut root, places } = parsed;
    let mut checker = Checker {
        env,
        types: vec![None; places.len()],
        places: &places,
        references: HashMap::new(),
        known: Substitutions::default(),
        scopes: Vec::new(),
        issues: Vec::new(),
    };
    checker.check(&mut root);
    let Checker { types, references, known, issues, .. } = checker;
    if !issues.is_empty() {
        return Err(issues);
    }
    let types = types.into_iter().map(|ty| ty.map(|ty| known.resolve(&ty, true))).collect();
    let checked = Checked { root, types, references };
    let issues = validate::validate(&checked, env, &places);
    if issues.is_empty() { Ok(checked) } else { Err(issues) }
}

struct Checker<'e> {
    env: &'e Env,
    places: &'e [Location],
    types: Vec<Option<Type>>,
    references: HashMap<Id, Reference>,
    known: Substitutions,
    /// Variables of the comprehensions around, the innermost last.
    scopes: Vec<(String, Type)>,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    fn report(&mut self, id: Id, message: String) {
        self.issues.push(Issue { location: self.places[id], message });
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
    }

    fn mismatch(&mut self, id: Id, expected: &Type, found: &Type) {
        self.report(id, format!("expected type '{expected}' but found '{found}'"));
    }

    fn set(&mut self, id: Id, ty: Type) {
        self.types[id] = Some(ty);
    }

    fn ty(&self, expr: &Expr) -> Type {
        self.types[expr.id].clone().unwrap_or(Type::Error)
    }

    fn local(&self, name: &str) -> Option<&Type> {
        self.scopes.iter().rev().find(|(known, _)| known == name).map(|(_, ty)| ty)
    }

    /// The type of a name that no comprehension declares.
    fn global(&self, name: &str) -> Option<Type> {
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some(ty) = self.env.variable(name) {
            return Some(ty.clone());
        }
        self.env.named_type(name).map(|ty| Type::Type(Some(Arc::new(ty))))
    }

    fn check(&mut self, expr: &mut Expr) {
        let id = expr.id;
        let ty = match &mut expr.kind {
            Kind::Unspecified => Type::Error,
            Kind::Literal(literal) => literal_type(literal),
            Kind::Ident(name) => self.ident(id, name),
            Kind::Select { .. } => self.select(expr),
            Kind::Call { .. } => self.call(expr),
            Kind::List(elements) => {
                let mut element_type: Option<Type> = None;
                for (element, optional) in elements {
                    self.check(element);
                    let found = self.present(element, *optional);
                    element_type = Some(self.join(element_type, found));
                }
                Type::list(element_type.unwrap_or_else(|| self.known.fresh()))
            }
            Kind::Map(entries) => {
                let mut types: Option<(Type, Type)> = None;
                for entry in entries {
                    self.check(&mut entry.key);
                    let (keys, values) = types.map_or((None, None), |(key, value)| (Some(key), Some(value)));
                    let key = self.ty(&entry.key);
                    let key = self.join(keys, key);
                    self.check(&mut entry.value);
                    let value = self.present(&entry.value, entry.optional);
                    let value = self.join(values, value);
                    types = Some((key, value));
                }
                let (key, value) = types.unwrap_or_else(|| (self.known.fresh(), self.known.fresh()));
                Type::map(key, value)
            }
            Kind::Struct { name, fields } => self.object(id, name, fields),
            Kind::Comprehension(_) => self.comprehension(expr),
        };
        self.set(id, ty);
    }

    fn ident(&mut self, id: Id, name: &mut String) -> Type {
        if let Some(ty) = self.local(name) {
            return ty.clone();
        }
        match self.global(name) {
            Some(ty) => {
                let plain = name.strip_prefix('.').unwrap_or(name).to_owned();
                // A name that a comprehension shadows keeps its dot.
                if self.local(&plain).is_none() {
                    name.clone_from(&plain);
                }
                self.references.insert(id, Reference::Ident(plain));
                ty
            }
            None => {
                let name = name.clone();
                self.undeclared(id, &name);
                Type::Error
            }
        }
    }

    fn select(&mut self, expr: &mut Expr) -> Type {
        let id = expr.id;
        if let Some(name) = expr.qualified_name() {
            let first = name.split('.').next().unwrap_or_default();
            if self.local(first).is_none()
                && let Some(ty) = self.global(&name)
            {
                let plain = name.strip_prefix('.').unwrap_or(&name).to_owned();
                self.references.insert(id, Reference::Ident(plain.clone()));
                expr.kind = Kind::Ident(plain);
                return ty;
            }
        }
        let Kind::Select { operand, field, test_only } = &mut expr.kind else { return Type::Error };
        let ty = self.field(id, operand, field, false);
        if *test_only { Type::Bool } else { self.known.resolve(&ty, false) }
    }

    fn field(&mut self, id: Id, operand: &mut Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let found = self.known.resolve(&self.ty(operand), false);
        let (target, is_optional) = match found.unwrap_optional() {
            Some(inner) => (inner.clone(), true),
            None => (found, false),
        };
        let result = match &target {
            Type::Map(_, value) => (**value).clone(),
            Type::Object(name) => self.object_field(id, name, field),
            Type::Param(_) => {
                self.known.assign(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.report(id, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        if is_optional || optional { Type::optional(result) } else { result }
    }

    fn object_field(&mut self, id: Id, object: &str, field: &str) -> Type {
        match self.env.field(object, field) {
            Some(Some(ty)) => return ty,
            Some(None) => self.report(id, format!("undefined field '{field}'")),
            None => self.report(id, format!("unexpected failed resolution of '{object}'")),
        }
        Type::Error
    }

    fn call(&mut self, expr: &mut Expr) -> Type {
        let id = expr.id;
        let Kind::Call { target, function, args } = &mut expr.kind else { return Type::Error };
        if function == "_?._" {
            return self.optional_select(id, args);
        }
        args.iter_mut().for_each(|arg| self.check(arg));
        let arg_types: Vec<Type> = args.iter().map(|arg| self.ty(arg)).collect();
        let Some(of) = target else {
            let plain = function.strip_prefix('.').unwrap_or(function).to_owned();
            let Some(found) = self.env.function(&plain) else {
                let name = function.clone();
                self.undeclared(id, &name);
                return Type::Error;
            };
            *function = plain;
            return self.overload(id, &found, None, arg_types, args);
        };
        // `a.b.c()` may be a function of that name.
        if let Some(prefix) = of.qualified_name() {
            let name = format!("{}.{function}", prefix.strip_prefix('.').unwrap_or(&prefix));
            if let Some(found) = self.env.function(&name) {
                let ty = self.overload(id, &found, None, arg_types, args);
                *function = name;
                *target = None;
                return ty;
            }
        }
        self.check(of);
        let target_type = self.ty(of);
        match self.env.function(function) {
            Some(found) => self.overload(id, &found, Some(target_type), arg_types, args),
            None => {
                let name = function.clone();
                self.undeclared(id, &name);
                Type::Error
            }
        }
    }

    fn optional_select(&mut self, id: Id, args: &mut [Expr]) -> Type {
        let [operand, field] = args else { return Type::Error };
        let Kind::Literal(Literal::String(name)) = &field.kind else { return Type::Error };
        let name = name.clone();
        let ty = self.field(id, operand, &name, true);
        if let Some(found) = self.env.function("_?._") {
            self.references.insert(id, Reference::Call(found, vec!["select_optional_field".into()]));
        }
        self.known.resolve(&ty, false)
    }

    fn overload(&mut self, id: Id, function: &Arc<Function>, target: Option<Type>, args: Vec<Type>, exprs: &[Expr]) -> Type {
        let is_member = target.is_some();
        let types: Vec<Type> = target.into_iter().chain(args).collect();
        if matches!(&*function.name, "_&&_" | "_||_") {
            return self.logical(id, function, &types, exprs);
        }
        let (mut result, mut candidates): (Option<Type>, Vec<Arc<str>>) = (None, Vec::new());
        for overload in function.overloads.iter().filter(|overload| overload.is_member == is_member) {
            let mut fresh: HashMap<Arc<str>, Type> = HashMap::new();
            let wanted: Vec<Type> = overload.args.iter().map(|ty| self.instantiate(ty, &mut fresh)).collect();
            let given = self.instantiate(&overload.result, &mut fresh);
            if !self.known.assign_all(&types, &wanted) {
                continue;
            }
            candidates.push(overload.id.clone());
            let given = self.known.resolve(&given, false);
            result = Some(match result {
                None => given,
                Some(before) if before == Type::Dyn || before == given => before,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(ty) => {
                self.references.insert(id, Reference::Call(function.clone(), candidates));
                ty
            }
            None => {
                let shown: Vec<String> = types.iter().map(|ty| self.known.resolve(ty, true).to_string()).collect();
                let signature = match shown.split_first() {
                    Some((target, rest)) if is_member => format!("{target}.({})", rest.join(", ")),
                    _ => format!("({})", shown.join(", ")),
                };
                self.report(id, format!("found no matching overload for '{}' applied to '{signature}'", function.name));
                Type::Error
            }
        }
    }

    fn logical(&mut self, id: Id, function: &Arc<Function>, types: &[Type], exprs: &[Expr]) -> Type {
        let mut is_good = true;
        for (ty, expr) in types.iter().zip(exprs) {
            if !self.known.assign(ty, &Type::Bool) {
                self.mismatch(expr.id, &Type::Bool, ty);
                is_good = false;
            }
        }
        if !is_good {
            return Type::Error;
        }
        let overload = function.overloads[0].id.clone();
        self.references.insert(id, Reference::Call(function.clone(), vec![overload]));
        Type::Bool
    }

    /// The type with variables of its own for those of the declaration.
    fn instantiate(&mut self, ty: &Type, fresh: &mut HashMap<Arc<str>, Type>) -> Type {
        match ty {
            Type::Param(name) => fresh.entry(name.clone()).or_insert_with(|| self.known.fresh()).clone(),
            Type::List(inner) => Type::list(self.instantiate(inner, fresh)),
            Type::Map(key, value) => Type::map(self.instantiate(key, fresh), self.instantiate(value, fresh)),
            Type::Opaque(name, parameters) => {
                Type::Opaque(name.clone(), parameters.iter().map(|inner| self.instantiate(inner, fresh)).collect())
            }
            Type::Type(Some(inner)) => Type::Type(Some(Arc::new(self.instantiate(inner, fresh)))),
            other => other.clone(),
        }
    }

    /// The type of an element, or what an optional one holds.
    fn present(&mut self, element: &Expr, optional: bool) -> Type {
        let ty = self.ty(element);
        if !optional {
            return ty;
        }
        match ty.unwrap_optional() {
            Some(inner) => inner.clone(),
            None => {
                if ty != Type::Dyn {
                    self.mismatch(element.id, &Type::optional(ty.clone()), &ty);
                }
                ty
            }
        }
    }

    /// One type for both; mixed literals are refused later, where they are not allowed.
    fn join(&mut self, before: Option<Type>, found: Type) -> Type {
        let Some(before) = before else { return found };
        if self.known.assign(&before, &found) { most_general(&before, &found).clone() } else { Type::Dyn }
    }

    fn object(&mut self, id: Id, name: &mut String, fields: &mut [Field]) -> Type {
        let plain = name.strip_prefix('.').unwrap_or(name).to_owned();
        let Some(ty) = self.env.named_type(&plain) else {
            let name = name.clone();
            self.undeclared(id, &name);
            return Type::Error;
        };
        name.clone_from(&plain);
        if !matches!(ty, Type::Object(_)) {
            self.report(id, format!("'{ty}' is not a message type"));
        }
        for field in fields {
            self.check(&mut field.value);
            let declared = self.object_field(field.id, &plain, &field.name);
            let found = self.present(&field.value, field.optional);
            if !self.known.assign(&declared, &found) {
                let message = format!("expected type of field '{}' is '{declared}' but provided type is '{found}'", field.name);
                self.report(field.id, message);
            }
        }
        if matches!(ty, Type::Object(_)) { ty } else { Type::Error }
    }

    fn comprehension(&mut self, expr: &mut Expr) -> Type {
        let Kind::Comprehension(over) = &mut expr.kind else { return Type::Error };
        self.check(&mut over.range);
        self.check(&mut over.init);
        let range = self.known.resolve(&self.ty(&over.range), false);
        let accumulated = self.ty(&over.init);
        let (first, second) = match &range {
            Type::List(element) if over.second.is_some() => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Dyn),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.known.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!("expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)");
                self.report(over.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        let outside = self.scopes.len();
        self.scopes.push((over.accumulator.clone(), accumulated.clone()));
        let inside = self.scopes.len();
        self.scopes.push((over.variable.clone(), first));
        if let Some(name) = &over.second {
            self.scopes.push((name.clone(), second));
        }
        self.check(&mut over.condition);
        self.must_be(&over.condition, &Type::Bool);
        self.check(&mut over.step);
        self.must_be(&over.step, &accumulated);
        self.scopes.truncate(inside);
        self.check(&mut over.result);
        self.scopes.truncate(outside);
        self.known.resolve(&self.ty(&over.result), false)
    }

    fn must_be(&mut self, expr: &Expr, wanted: &Type) {
        let found = self.ty(expr);
        if !self.known.assign(wanted, &found) {
            self.mismatch(expr.id, wanted, &found);
        }
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
