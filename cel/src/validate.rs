//! What the checker's types cannot tell: constants that are no durations, times, expressions or formats, and mixed literals.

use crate::ast::{Expr, Kind, Literal};
use crate::check::Checked;
use crate::env::Env;
use crate::functions::{self, regex};
use crate::plan::literal_value;
use crate::source::{Issue, Location};
use crate::types::Type;

/// All that is wrong, after the types were found good.
pub(crate) fn validate(checked: &Checked, env: &Env, places: &[Location]) -> Vec<Issue> {
    let mut issues = Vec::new();
    let mut report = |expr: &Expr, message: String| issues.push(Issue { location: places[expr.id], message });
    checked.root.walk(&mut |expr| {
        if let Some((at, message)) = bad_constant(expr, env) {
            report(at, message);
        }
        if let Some((at, message)) = bad_format(checked, expr) {
            report(at, message);
        }
    });
    mixed(checked, &checked.root, false, &mut report);
    issues
}

fn bad_constant<'e>(expr: &'e Expr, env: &Env) -> Option<(&'e Expr, String)> {
    let Kind::Call { function, args, .. } = &expr.kind else { return None };
    let arg = args.first()?;
    let Kind::Literal(literal) = &arg.kind else { return None };
    let is_bad = match (function.as_str(), literal) {
        ("duration" | "timestamp", literal) => {
            let found = env.function(function)?;
            found.call(None, &[literal_value(literal)]).is_err()
        }
        ("matches", Literal::String(pattern)) => regex::compile(pattern).is_err(),
        _ => false,
    };
    is_bad.then(|| (arg, format!("invalid {function} argument")))
}

fn bad_format<'e>(checked: &Checked, expr: &'e Expr) -> Option<(&'e Expr, String)> {
    let Kind::Call { target: Some(target), function, args } = &expr.kind else { return None };
    let (Kind::Literal(Literal::String(text)), [values]) = (&target.kind, &args[..]) else { return None };
    let Kind::List(elements) = &values.kind else { return None };
    if function != "format" {
        return None;
    }
    let types: Vec<Type> = elements.iter().map(|(element, _)| checked.ty(element).clone()).collect();
    let (index, message) = functions::check_format(text, &types)?;
    Some((index.map_or(expr, |index| &elements[index].0), message))
}

/// Elements of one literal have one type, but for the arguments of a format.
fn mixed(checked: &Checked, expr: &Expr, is_exempt: bool, report: &mut dyn FnMut(&Expr, String)) {
    let mismatch = |expected: &Type, found: &Type| format!("expected type '{expected}' but found '{found}'");
    let present = |expr: &Expr, optional: bool| {
        let ty = checked.ty(expr);
        if optional { ty.unwrap_optional().cloned().unwrap_or_else(|| ty.clone()) } else { ty.clone() }
    };
    match &expr.kind {
        Kind::List(elements) if !is_exempt => {
            let types: Vec<Type> = elements.iter().map(|(element, optional)| present(element, *optional)).collect();
            if let Some(at) = types.iter().position(|ty| *ty != types[0]) {
                report(&elements[at].0, mismatch(&types[0], &types[at]));
            }
        }
        Kind::Map(entries) if !is_exempt => {
            if let Some(first) = entries.first() {
                let (key, value) = (checked.ty(&first.key), present(&first.value, first.optional));
                for entry in &entries[1..] {
                    let (other_key, other) = (checked.ty(&entry.key), present(&entry.value, entry.optional));
                    if other_key != key {
                        report(&entry.key, mismatch(key, other_key));
                    }
                    if other != value {
                        report(&entry.value, mismatch(&value, &other));
                    }
                }
            }
        }
        _ => {}
    }
    let is_format = matches!(&expr.kind, Kind::Call { function, .. } if function == "format");
    let mut descend = |part: &Expr| mixed(checked, part, is_exempt || is_format, report);
    match &expr.kind {
        Kind::Unspecified | Kind::Literal(_) | Kind::Ident(_) => {}
        Kind::Select { operand, .. } => descend(operand),
        Kind::Call { target, args, .. } => target.iter().map(AsRef::as_ref).chain(args).for_each(descend),
        Kind::List(elements) => elements.iter().for_each(|(element, _)| descend(element)),
        Kind::Map(entries) => entries.iter().for_each(|entry| {
            descend(&entry.key);
            descend(&entry.value);
        }),
        Kind::Struct { fields, .. } => fields.iter().for_each(|field| descend(&field.value)),
        Kind::Comprehension(over) => {
            [&over.range, &over.init, &over.condition, &over.step, &over.result].into_iter().for_each(descend);
        }
    }
}
