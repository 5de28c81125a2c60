//! The functions of the language and of Kubernetes' libraries: one file a library, each a table of overloads. A row names the
//! function, the overload (by which costs are looked up), its types, and what it does.

pub(crate) mod authorizer;
pub(crate) mod cidr;
pub(crate) mod convert;
pub(crate) mod format;
mod formatting;
mod ip;
mod json_patch;
mod lists;
pub(crate) mod lists_ext;
mod optional;
pub(crate) mod quantity;
pub(crate) mod regex;
pub(crate) mod semver;
mod sets;
mod standard;
mod strings;
pub(crate) mod time;
pub(crate) mod two_variables;
pub(crate) mod url;

pub(crate) use formatting::check as check_format;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::types::{Type, split_arguments};
use crate::value::{EvalError, Evaluated, Value};

/// What an overload does with its arguments, the target first. None of them is an error.
pub(crate) type Run = for<'a> fn(&[Value<'a>]) -> Evaluated<'a>;

/// A row of a library: function, overload, types as `string.(int) -> bool`, what it does.
pub(crate) type Row = (&'static str, &'static str, &'static str, Run);

#[derive(Debug, Clone)]
pub(crate) struct Overload {
    pub id: Arc<str>,
    /// Called as `target.function(…)`.
    pub is_member: bool,
    pub args: Vec<Type>,
    pub result: Type,
    pub run: Run,
}

#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub name: Arc<str>,
    pub overloads: Vec<Overload>,
}

/// Libraries that not every environment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Library {
    Base,
    /// `includes`, which expressions that are written with v1.37 must not use yet.
    Includes,
    JsonPatch,
}

static BASE: LazyLock<HashMap<Arc<str>, Arc<Function>>> = LazyLock::new(|| {
    let mut functions = HashMap::new();
    let generated = [standard::comparisons(), lists::typed(), lists_ext::typed()];
    let rows = [
        standard::ROWS,
        convert::ROWS,
        time::ROWS,
        optional::ROWS,
        lists::ROWS,
        lists_ext::ROWS,
        strings::ROWS,
        sets::ROWS,
        regex::ROWS,
        url::ROWS,
        ip::ROWS,
        cidr::ROWS,
        quantity::ROWS,
        semver::ROWS,
        format::ROWS,
        two_variables::ROWS,
        authorizer::ROWS,
    ];
    rows.into_iter().flatten().for_each(|row| add(&mut functions, row.0, overload(row.1, row.2, row.3)));
    generated.into_iter().flatten().for_each(|(name, id, types, run)| add(&mut functions, &name, overload(&id, &types, run)));
    functions.into_iter().map(|(name, function)| (name, Arc::new(function))).collect()
});

static EXTRA: LazyLock<[(Library, Arc<Function>); 2]> = LazyLock::new(|| {
    let one = |row: &Row| Arc::new(Function { name: row.0.into(), overloads: vec![overload(row.1, row.2, row.3)] });
    [(Library::Includes, one(&lists::INCLUDES)), (Library::JsonPatch, one(&json_patch::ESCAPE_KEY))]
});

/// The function of a name in an environment that has these libraries.
pub(crate) fn find(name: &str, libraries: &[Library]) -> Option<Arc<Function>> {
    let extra = EXTRA.iter().find(|(library, function)| libraries.contains(library) && &*function.name == name);
    BASE.get(name).or(extra.map(|(_, function)| function)).cloned()
}

fn add(functions: &mut HashMap<Arc<str>, Function>, name: &str, overload: Overload) {
    let function = functions.entry(name.into()).or_insert_with(|| Function { name: name.into(), overloads: Vec::new() });
    function.overloads.push(overload);
}

fn overload(id: &str, types: &str, run: Run) -> Overload {
    let (call, result) = types.split_once(" -> ").unwrap_or((types, "dyn"));
    let (target, args) = call.split_once('(').unwrap_or(("", call));
    // A target may have parameters of its own: `list(A).(int)`.
    let (target, args) = match call.rfind(".(") {
        Some(at) => (&call[..at], &call[at + 2..]),
        None => (target, args),
    };
    let args = args.strip_suffix(')').unwrap_or(args);
    let mut types: Vec<Type> = split_arguments(args).into_iter().map(Type::parse).collect();
    let is_member = !target.is_empty();
    if is_member {
        types.insert(0, Type::parse(target));
    }
    Overload { id: id.into(), is_member, args: types, result: Type::parse(result), run }
}

/// Operators that look at their operands themselves; any other function is called only with what its types take.
const UNGUARDED: [&str; 20] = [
    "_+_",
    "_-_",
    "_*_",
    "_/_",
    "_%_",
    "-_",
    "!_",
    "_<_",
    "_<=_",
    "_>_",
    "_>=_",
    "@in",
    "size",
    "matches",
    "contains",
    "startsWith",
    "endsWith",
    "dyn",
    "type",
    "flatten",
];

impl Function {
    /// Calls the overload that takes these values; only the one of this name if the checker found that it must be it.
    pub fn call<'a>(&self, only: Option<&str>, args: &[Value<'a>]) -> Evaluated<'a> {
        let is_guarded = !UNGUARDED.contains(&&*self.name);
        for overload in &self.overloads {
            let is_candidate = only.is_none_or(|id| id == &*overload.id) && overload.args.len() == args.len();
            if is_candidate && (!is_guarded || overload.args.iter().zip(args).all(|(ty, value)| accepts(ty, value))) {
                return (overload.run)(args);
            }
        }
        let types: Vec<&str> = args.iter().map(Value::type_name).collect();
        Err(EvalError::new(format!("no such overload: {}({})", self.name, types.join(", "))))
    }
}

/// Whether a value may be given for a type. Of a list or a map the first element stands for all.
fn accepts(ty: &Type, value: &Value<'_>) -> bool {
    match (ty, value) {
        (Type::Dyn | Type::Param(_), _) => true,
        (Type::List(element), Value::List(list)) => match list.get(0) {
            Some(Ok(first)) => accepts(element, &first),
            _ => true,
        },
        (Type::Map(key, element), Value::Map(map)) => match map.keys().first() {
            Some(first) => accepts(key, first) && map.find(first).ok().flatten().is_none_or(|value| accepts(element, &value)),
            None => true,
        },
        _ => ty.name() == value.type_name(),
    }
}

/// An integer of the language for a count.
fn count<'a>(count: usize) -> Value<'a> {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_declare_what_they_say() {
        let function = find("indexOf", &[Library::Base]).unwrap();
        let shown: Vec<String> = function
            .overloads
            .iter()
            .map(|o| format!("{} {} {:?} {}", o.id, o.is_member, o.args.iter().map(Type::to_string).collect::<Vec<_>>(), o.result))
            .collect();
        assert!(shown.contains(&r#"list_a_index_of_int true ["list(A)", "A"] int"#.to_owned()), "{shown:?}");
        assert!(shown.contains(&r#"string_index_of_string_int true ["string", "string", "int"] int"#.to_owned()), "{shown:?}");
    }

    #[test]
    fn functions_of_other_libraries_are_not_found() {
        assert!(find("includes", &[Library::Base]).is_none());
        assert!(find("includes", &[Library::Includes]).is_some());
        assert!(find("nothing", &[Library::Base]).is_none());
    }
}
