//! Expressions over the claims of a token and over the user that comes of them.

use std::sync::{Arc, LazyLock};

use cel::{Activation, Budget, Env, EvalError, Lazy, Map, Program, Type, Value};
use serde_json::Value as Json;

/// What an expression may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `claims`, a map of whatever the token says.
    Claims,
    /// `user`, a UserInfo.
    User,
}

static CLAIMS: LazyLock<Env> = LazyLock::new(|| Env::for_stored().with_variable("claims", Type::map(Type::String, Type::Dyn)));
static USER: LazyLock<Env> = LazyLock::new(|| {
    const NAME: &str = "kubernetes.UserInfo";
    let texts = || Type::list(Type::String);
    let extra = Type::map(Type::String, texts());
    let fields = [("username", Type::String), ("uid", Type::String), ("groups", texts()), ("extra", extra)];
    Env::for_stored().with_object(NAME, &fields).with_variable("user", Type::object(NAME))
});

/// A compiled expression.
pub struct Expression {
    text: String,
    scope: Scope,
    program: Program,
}

impl Expression {
    /// Compiles; the error is in upstream's words.
    pub fn compile(text: &str, scope: Scope, wants_bool: bool) -> Result<Expression, String> {
        let env: &Env = match scope {
            Scope::Claims => &CLAIMS,
            Scope::User => &USER,
        };
        let program = Program::compile(env, text).map_err(|error| {
            let what = if error.is_instantiation() { "program instantiation" } else { "compilation" };
            format!("{what} failed: {error}")
        })?;
        if wants_bool && program.result_type().declared() != "bool" {
            return Err("must evaluate to bool".to_owned());
        }
        Ok(Expression { text: text.to_owned(), scope, program })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it takes this field straight from the variable.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        self.program.selects(variable, field)
    }

    /// What it gives over the claims, or over the user.
    pub fn evaluate(&self, over: &Json) -> Result<Json, String> {
        let name = match self.scope {
            Scope::Claims => "claims",
            Scope::User => "user",
        };
        let activation = Activation::default().with(name, unescaping(over));
        // One evaluation never costs more than its own limit.
        let value = self.program.evaluate(&activation, &mut Budget::new(i64::MAX));
        value.and_then(|value| value.to_json()).map_err(|error| format!("expression '{}' resulted in error: {error}", self.text))
    }
}

/// A value whose maps are also asked by the identifiers that stand for their keys: `claims.a__dot__b`.
fn unescaping(value: &Json) -> Value<'_> {
    match value {
        Json::Object(members) => Value::Map(Map::Lazy(Arc::new(Members(members)))),
        Json::Array(items) => Value::list(items.iter().map(unescaping).collect()),
        // Upstream decodes numbers as Go does where it is not told what they are.
        Json::Number(number) => Value::Double(number.as_f64().unwrap_or_default()),
        plain => Value::json(plain),
    }
}

struct Members<'a>(&'a serde_json::Map<String, Json>);

impl<'a> Lazy<'a> for Members<'a> {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn get(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        let unescaped = cel::unescape(name);
        let value = self.0.get(unescaped.as_deref().unwrap_or(name))?;
        Some(Ok(unescaping(value)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn over_claims(text: &str, claims: &Json) -> Result<Json, String> {
        Expression::compile(text, Scope::Claims, false).unwrap().evaluate(claims)
    }

    #[test]
    fn claims_are_looked_at_as_they_are() {
        let claims = json!({ "sub": "ann", "groups": ["a", "b"], "realm.access": { "roles": ["admin"], "x/y": [{ "a.b": 1 }] }, "n": 1 });
        for (text, expect) in [
            ("claims.sub + '@example.com'", json!("ann@example.com")),
            ("claims.groups.filter(g, g != 'a')", json!(["b"])),
            ("claims.realm__dot__access.roles", json!(["admin"])),
            ("claims.realm__dot__access.x__slash__y[0].a__dot__b == 1", json!(true)),
            ("claims.n <= 1 && type(claims.n) == double", json!(true)),
            ("claims['realm.access'].roles[0]", json!("admin")),
            ("'sub' in claims ? 'yes' : 'no'", json!("yes")),
            ("has(claims.absent)", json!(false)),
            ("claims.?absent.orValue('none')", json!("none")),
        ] {
            assert_eq!(over_claims(text, &claims).as_ref(), Ok(&expect), "{text}");
        }
        assert_eq!(over_claims("claims.absent", &claims).unwrap_err(), "expression 'claims.absent' resulted in error: no such key: absent");
    }

    #[test]
    fn users_have_types() {
        let user = json!({ "username": "ann", "uid": "", "groups": ["a"], "extra": { "example.org/k": ["v"] } });
        let evaluate = |text: &str| Expression::compile(text, Scope::User, true).unwrap().evaluate(&user);
        assert_eq!(evaluate("!user.username.startsWith('system:') && user.groups.all(g, g == 'a')"), Ok(json!(true)));
        assert_eq!(evaluate("user.extra['example.org/k'][0] == 'v'"), Ok(json!(true)));
        assert!(Expression::compile("user.name == 'a'", Scope::User, true).is_err());
    }
}
