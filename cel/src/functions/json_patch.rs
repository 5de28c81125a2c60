//! Keys within JSON pointers.

use super::Row;
use crate::value::{EvalError, Evaluated, Value};

pub(super) const ESCAPE_KEY: Row = ("jsonpatch.escapeKey", "string_jsonpatch_escapeKey_string", "(string) -> string", escape_key);

fn escape_key<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let key = args[0].as_str().ok_or_else(EvalError::no_such_overload)?;
    Ok(Value::string(key.replace('~', "~0").replace('/', "~1")))
}
