//! Types of expressions, how they are written in messages, and which values of one type another takes.

use std::fmt;
use std::sync::Arc;

/// The type of an expression or a declaration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Any value; what is not known before evaluation.
    Dyn,
    /// What an expression has that is wrong; it fits everywhere so that one mistake gives one message.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    /// An object with declared fields, by the name of its type.
    Object(Arc<str>),
    /// A type that only functions look into, such as `net.IP` or `optional_type(int)`.
    Opaque(Arc<str>, Arc<[Type]>),
    /// A type variable of a declaration or of the checker.
    Param(Arc<str>),
    /// The type of a type.
    Type(Option<Arc<Type>>),
}

impl Type {
    pub fn list(element: Type) -> Type {
        Type::List(Arc::new(element))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    pub fn object(name: &str) -> Type {
        Type::Object(name.into())
    }

    pub fn opaque(name: &str) -> Type {
        Type::Opaque(name.into(), Arc::new([]))
    }

    pub fn optional(value: Type) -> Type {
        Type::Opaque("optional_type".into(), Arc::new([value]))
    }

    pub fn param(name: &str) -> Type {
        Type::Param(name.into())
    }

    /// The type within an optional one.
    pub fn unwrap_optional(&self) -> Option<&Type> {
        match self {
            Type::Opaque(name, parameters) if &**name == "optional_type" => parameters.first(),
            _ => None,
        }
    }

    /// The name without parameters, as `type(x)` and run-time messages have it.
    pub fn name(&self) -> &str {
        match self {
            Type::Dyn => "dyn",
            Type::Error => "error",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::Duration => "google.protobuf.Duration",
            Type::List(_) => "list",
            Type::Map(..) => "map",
            Type::Object(name) | Type::Opaque(name, _) | Type::Param(name) => name,
            Type::Type(_) => "type",
        }
    }

    /// As messages about the type of a whole expression write it.
    pub fn declared(&self) -> String {
        match self {
            Type::List(element) => format!("list({})", element.declared()),
            Type::Map(key, value) => format!("map({}, {})", key.declared(), value.declared()),
            Type::Type(Some(inner)) => format!("type({})", inner.declared()),
            Type::Opaque(name, parameters) if !parameters.is_empty() => {
                format!("{name}({})", parameters.iter().map(Type::declared).collect::<Vec<_>>().join(", "))
            }
            other => other.name().to_owned(),
        }
    }

    /// Whether its values have a size that is known without the value.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
            _ => self.unwrap_optional().is_some_and(Type::is_scalar),
        }
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// Whether null fits: what is an object to upstream's declarations may be missing.
    pub(crate) fn is_nullable(&self) -> bool {
        matches!(self, Type::Null | Type::Opaque(..) | Type::Object(_) | Type::Timestamp | Type::Duration)
    }

    /// Reads the notation of the tables of functions: `int`, `list(A)`, `map(K, V)`, `optional(V)`, `net.IP`. One upper-case
    /// letter is a type variable; a name that has a dot is an opaque type if it starts with `net.` and an object's otherwise.
    pub(crate) fn parse(text: &str) -> Type {
        let text = text.trim();
        if let Some((head, rest)) = text.split_once('(') {
            let inner = split_arguments(rest.strip_suffix(')').unwrap_or(rest));
            let parameter = |index: usize| inner.get(index).map_or(Type::Dyn, |t| Type::parse(t));
            return match head {
                "list" => Type::list(parameter(0)),
                "map" => Type::map(parameter(0), parameter(1)),
                "optional" => Type::optional(parameter(0)),
                _ => Type::Type(Some(Arc::new(parameter(0)))),
            };
        }
        match text {
            "dyn" => Type::Dyn,
            "null" => Type::Null,
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "timestamp" => Type::Timestamp,
            "duration" => Type::Duration,
            "type" => Type::Type(None),
            name if name.len() == 1 => Type::param(name),
            name if name.starts_with("net.") => Type::opaque(name),
            name => Type::object(name),
        }
    }
}

/// Splits at the commas that are not within parentheses.
pub(crate) fn split_arguments(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(text[start..].trim());
    }
    parts
}

/// As messages of the checker write it.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Error => f.write_str("!error!"),
            Type::Null => f.write_str("null"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(element) => write!(f, "list({element})"),
            Type::Map(key, value) => write!(f, "map({key}, {value})"),
            Type::Type(Some(inner)) => write!(f, "type({inner})"),
            Type::Opaque(name, parameters) if !parameters.is_empty() => {
                write!(f, "{name}(")?;
                for (index, parameter) in parameters.iter().enumerate() {
                    write!(f, "{}{parameter}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str(")")
            }
            other => f.write_str(other.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_written_as_they_are_declared() {
        for text in ["int", "list(map(string, dyn))", "net.IP", "kubernetes.Quantity", "type(int)"] {
            assert_eq!(Type::parse(text).to_string(), text);
        }
        assert_eq!(Type::parse("optional(list(string))").to_string(), "optional_type(list(string))");
        assert_eq!(Type::parse("A"), Type::param("A"));
    }
}
