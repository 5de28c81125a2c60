//! Questions about permissions: `authorizer.group('').resource('pods').check('create').allowed()`.

use std::sync::Arc;

use super::Row;
use crate::authorizer::{AccessDecision, AccessRequest, AuthorizerValue, Step};
use crate::value::{EvalError, Evaluated, Value};

pub(super) const ROWS: &[Row] = &[
    ("path", "authorizer_path", "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.PathCheck", path),
    ("group", "authorizer_group", "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.GroupCheck", group),
    (
        "serviceAccount",
        "authorizer_serviceaccount",
        "kubernetes.authorization.Authorizer.(string, string) -> kubernetes.authorization.Authorizer",
        service_account,
    ),
    ("resource", "groupcheck_resource", "kubernetes.authorization.GroupCheck.(string) -> kubernetes.authorization.ResourceCheck", resource),
    (
        "subresource",
        "resourcecheck_subresource",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        subresource,
    ),
    (
        "namespace",
        "resourcecheck_namespace",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        namespace,
    ),
    ("name", "resourcecheck_name", "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck", name),
    (
        "fieldSelector",
        "authorizer_fieldselector",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        field_selector,
    ),
    (
        "labelSelector",
        "authorizer_labelselector",
        "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        label_selector,
    ),
    ("check", "pathcheck_check", "kubernetes.authorization.PathCheck.(string) -> kubernetes.authorization.Decision", check),
    ("check", "resourcecheck_check", "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.Decision", check),
    ("errored", "decision_errored", "kubernetes.authorization.Decision.() -> bool", errored),
    ("error", "decision_error", "kubernetes.authorization.Decision.() -> string", error),
    ("allowed", "decision_allowed", "kubernetes.authorization.Decision.() -> bool", allowed),
    ("reason", "decision_reason", "kubernetes.authorization.Decision.() -> string", reason),
];

fn parts<'v, 'a>(args: &'v [Value<'a>]) -> Result<(&'v Arc<AuthorizerValue<'a>>, &'v str), EvalError> {
    match (&args[0], args.get(1)) {
        (Value::Authorizer(value), None) => Ok((value, "")),
        (Value::Authorizer(value), Some(Value::String(text))) => Ok((value, text)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn path<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (value, path) = parts(args)?;
    if path.trim().is_empty() {
        return Err(EvalError::new("path must not be empty"));
    }
    let Step::Authorizer(request) = &value.step else { return Err(EvalError::no_such_overload()) };
    Ok(Value::Authorizer(value.next(Step::Path(AccessRequest { path: Some(path.to_owned()), ..request.clone() }))))
}

fn group<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (value, group) = parts(args)?;
    let Step::Authorizer(request) = &value.step else { return Err(EvalError::no_such_overload()) };
    Ok(Value::Authorizer(value.next(Step::Group(AccessRequest { group: group.to_owned(), ..request.clone() }))))
}

fn service_account<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (value, namespace) = parts(&args[..2])?;
    let name = args[2].as_str().ok_or_else(EvalError::no_such_overload)?;
    if !apimachinery::validation::is_dns1123_subdomain(name).is_empty() {
        return Err(EvalError::new("Invalid service account name"));
    }
    if !apimachinery::validation::is_dns1123_label(namespace).is_empty() {
        return Err(EvalError::new("Invalid service account namespace"));
    }
    let service_account = Some((namespace.to_owned(), name.to_owned()));
    Ok(Value::Authorizer(value.next(Step::Authorizer(AccessRequest { service_account, ..AccessRequest::default() }))))
}

fn resource<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (value, resource) = parts(args)?;
    if resource.trim().is_empty() {
        return Err(EvalError::new("resource must not be empty"));
    }
    let Step::Group(request) = &value.step else { return Err(EvalError::no_such_overload()) };
    Ok(Value::Authorizer(value.next(Step::Resource(AccessRequest { resource: resource.to_owned(), ..request.clone() }))))
}

fn narrowed<'a>(args: &[Value<'a>], set: fn(&mut AccessRequest, String)) -> Evaluated<'a> {
    let (value, text) = parts(args)?;
    let Step::Resource(request) = &value.step else { return Err(EvalError::no_such_overload()) };
    let mut request = request.clone();
    set(&mut request, text.to_owned());
    Ok(Value::Authorizer(value.next(Step::Resource(request))))
}

fn subresource<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    narrowed(args, |request, text| request.subresource = text)
}

fn namespace<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    narrowed(args, |request, text| request.namespace = text)
}

fn name<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    narrowed(args, |request, text| request.name = text)
}

fn field_selector<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    narrowed(args, |request, text| request.field_selector = text)
}

fn label_selector<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    narrowed(args, |request, text| request.label_selector = text)
}

fn check<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (value, verb) = parts(args)?;
    let (Step::Path(request) | Step::Resource(request)) = &value.step else { return Err(EvalError::no_such_overload()) };
    let decision = value.authorizer.authorize(&AccessRequest { verb: verb.to_owned(), ..request.clone() });
    Ok(Value::Authorizer(value.next(Step::Decision(decision))))
}

fn decision<'v>(args: &'v [Value<'_>]) -> Result<&'v AccessDecision, EvalError> {
    match &parts(args)?.0.step {
        Step::Decision(decision) => Ok(decision),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn errored<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    decision(args).map(|decision| Value::Bool(decision.error.is_some()))
}

fn error<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    decision(args).map(|decision| Value::string(decision.error.clone().unwrap_or_default()))
}

fn allowed<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    decision(args).map(|decision| Value::Bool(decision.allowed))
}

fn reason<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    decision(args).map(|decision| Value::string(decision.reason.clone()))
}
