//! What expressions about writes may name, and the types of it.

use crate::{Env, Type};

/// Parts of a request, by the type that has them.
const REQUEST: [(&str, &[(&str, &str)]); 4] = [
    ("kubernetes.GroupVersionKind", &[("group", "string"), ("version", "string"), ("kind", "string")]),
    ("kubernetes.GroupVersionResource", &[("group", "string"), ("version", "string"), ("resource", "string")]),
    ("kubernetes.UserInfo", &[("username", "string"), ("uid", "string"), ("groups", "texts"), ("extra", "text lists")]),
    (
        "kubernetes.AdmissionRequest",
        &[
            ("kind", "kubernetes.GroupVersionKind"),
            ("resource", "kubernetes.GroupVersionResource"),
            ("subResource", "string"),
            ("requestKind", "kubernetes.GroupVersionKind"),
            ("requestResource", "kubernetes.GroupVersionResource"),
            ("requestSubResource", "string"),
            ("name", "string"),
            ("namespace", "string"),
            ("operation", "string"),
            ("userInfo", "kubernetes.UserInfo"),
            ("dryRun", "bool"),
            ("options", "dyn"),
        ],
    ),
];

/// Parts of a namespace, by the type that has them.
const NAMESPACE: [(&str, &[(&str, &str)]); 5] = [
    ("kubernetes.NamespaceSpec", &[("finalizers", "texts")]),
    (
        "kubernetes.NamespaceCondition",
        &[("status", "string"), ("type", "string"), ("lastTransitionTime", "timestamp"), ("message", "string"), ("reason", "string")],
    ),
    ("kubernetes.NamespaceStatus", &[("conditions", "conditions"), ("phase", "string")]),
    (
        "kubernetes.NamespaceMetadata",
        &[
            ("name", "string"),
            ("generateName", "string"),
            ("namespace", "string"),
            ("labels", "text map"),
            ("annotations", "text map"),
            ("UID", "string"),
            ("creationTimestamp", "timestamp"),
            ("deletionGracePeriodSeconds", "int"),
            ("deletionTimestamp", "timestamp"),
            ("generation", "int"),
            ("resourceVersion", "string"),
            ("finalizers", "texts"),
        ],
    ),
    (
        "kubernetes.Namespace",
        &[("metadata", "kubernetes.NamespaceMetadata"), ("spec", "kubernetes.NamespaceSpec"), ("status", "kubernetes.NamespaceStatus")],
    ),
];

fn type_of(notation: &str) -> Type {
    match notation {
        "string" => Type::String,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "dyn" => Type::Dyn,
        "timestamp" => Type::Timestamp,
        "texts" => Type::list(Type::String),
        "text map" => Type::map(Type::String, Type::String),
        "text lists" => Type::map(Type::String, Type::list(Type::String)),
        "conditions" => Type::list(Type::object("kubernetes.NamespaceCondition")),
        name => Type::object(name),
    }
}

/// Declares these variables, which have the types that upstream gives them.
pub fn declare(mut env: Env, variables: &[&str]) -> Env {
    for (name, fields) in REQUEST.into_iter().chain(NAMESPACE) {
        let fields: Vec<(&str, Type)> = fields.iter().map(|(field, notation)| (*field, type_of(notation))).collect();
        env = env.with_object(name, &fields);
    }
    for variable in variables {
        env = match *variable {
            "request" => env.with_variable("request", Type::object("kubernetes.AdmissionRequest")),
            "namespaceObject" => env.with_variable("namespaceObject", Type::object("kubernetes.Namespace")),
            "authorizer" => env
                .with_variable("authorizer", Type::object("kubernetes.authorization.Authorizer"))
                .with_variable("authorizer.requestResource", Type::object("kubernetes.authorization.ResourceCheck")),
            other => env.with_variable(other, Type::Dyn),
        };
    }
    env
}

/// Declares `variables` with the fields that a policy composes, of the types that their expressions have: upstream keeps those of
/// scalars, lists and maps, and knows nothing of what an object has once it is a variable.
pub fn compose(env: Env, composed: &[(String, Type)]) -> Env {
    const NAME: &str = "kubernetes.variables";
    let fields: Vec<(&str, Type)> = composed.iter().map(|(name, ty)| (name.as_str(), kept(ty))).collect();
    env.with_object(NAME, &fields).with_variable("variables", Type::object(NAME))
}

fn kept(ty: &Type) -> Type {
    match ty {
        Type::List(element) => Type::list(kept(element)),
        Type::Map(key, value) => Type::map(kept(key), kept(value)),
        Type::Error | Type::Object(_) | Type::Opaque(..) | Type::Param(_) | Type::Type(_) => Type::Dyn,
        scalar => scalar.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_composed_variable_keeps_the_types_of_scalars_and_not_those_of_objects() {
        let composed = [
            ("n".to_owned(), Type::Int),
            ("ns".to_owned(), Type::object("kubernetes.NamespaceMetadata")),
            ("all".to_owned(), Type::list(Type::object("kubernetes.NamespaceMetadata"))),
            ("names".to_owned(), Type::list(Type::String)),
        ];
        let env = compose(declare(Env::for_stored(), &[]), &composed);
        let fails = |text: &str| crate::Program::compile(&env, text).is_err();
        assert!(fails("variables.n == 'a'") && fails("variables.names[0] == 1") && fails("variables.other == 1"));
        assert!(!fails("variables.ns.unheard == 1") && !fails("variables.all[0].unheard == 1"));
    }
}
