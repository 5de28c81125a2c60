//! From the claims of a token to a user, as a JwtAuthenticator has it: mappings, required claims, rules. Pure.

use apimachinery::field::quote;
use apimachinery::go_print::json_kind;
use serde_json::{Value, json};

use super::config::JwtAuthenticator;
use super::validation::{Compiled, quoted_list};
use crate::filters::authentication::User;

/// How far clocks may differ when a token is not to be used before a time.
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 60;
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
const GOOGLE: &str = "https://accounts.google.com";
const GOOGLE_WITHOUT_SCHEME: &str = "accounts.google.com";

/// The issuer that a token names, which nobody has verified.
pub fn untrusted_issuer(claims: &Value) -> &str {
    match claims.get("iss").and_then(Value::as_str).unwrap_or_default() {
        GOOGLE_WITHOUT_SCHEME => GOOGLE,
        issuer => issuer,
    }
}

/// Whether the claims are of this issuer, for one of the audiences, and of this time (in seconds since 1970).
pub fn check(claims: &Value, issuer: &str, audiences: &[String], now: i64) -> Result<(), String> {
    if untrusted_issuer(claims) != issuer {
        let found = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        return Err(format!("oidc: id token issued by a different provider, expected {} got {}", quote(issuer), quote(found)));
    }
    let of_token = string_or_array(claims.get("aud").unwrap_or(&Value::Null)).unwrap_or_default();
    if !of_token.iter().any(|audience| audiences.contains(audience)) {
        return Err(match audiences {
            [one] => format!("oidc: expected audience {} got {}", quote(one), quoted_list(&of_token)),
            many => {
                let mut sorted = many.to_vec();
                sorted.sort();
                format!("oidc: expected audience in {} got {}", quoted_list(&sorted), quoted_list(&of_token))
            }
        });
    }
    let time = |name: &str| claims.get(name).and_then(seconds);
    let expiry = time("exp").unwrap_or(i64::MIN);
    if expiry < now {
        let shown = jiff::Timestamp::from_second(expiry).map_or_else(|_| "never set".to_owned(), |at| at.to_string());
        return Err(format!("oidc: token is expired (Token Expiry: {shown})"));
    }
    if let Some(not_before) = time("nbf")
        && now.saturating_add(NOT_BEFORE_LEEWAY_SECONDS) < not_before
    {
        return Err(format!("oidc: current time {now} before the nbf (not before) time: {not_before}"));
    }
    Ok(())
}

/// A time of a token: seconds since 1970, whole or not.
fn seconds(value: &Value) -> Option<i64> {
    // A fraction is cut off; what is too large for an integer is clamped.
    value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
}

/// The user that verified claims stand for.
pub fn user_of(claims: &Value, authenticator: &JwtAuthenticator, compiled: &Compiled) -> Result<User, String> {
    let mappings = &authenticator.claim_mappings;
    let name = user_name(claims, authenticator, compiled)?;
    let groups = groups(claims, authenticator, compiled)?;
    let uid = match (mappings.uid.claim.as_str(), &compiled.uid) {
        ("", None) => String::new(),
        ("", Some(expression)) => {
            let fail = |why: String| format!("oidc: error evaluating uid claim expression: {why}");
            let value = expression.evaluate(claims).map_err(fail)?;
            value.as_str().ok_or_else(|| fail("uid claim expression must return a string".to_owned()))?.to_owned()
        }
        (claim, _) => text_claim(claims, claim).map_err(|why| format!("oidc: parse uid claim {}: {why}", quote(claim)))?,
    };
    let user = User { name, uid, groups, extra: extra(claims, compiled)? };
    for rule in authenticator.claim_validation_rules.iter().filter(|rule| !rule.claim.is_empty()) {
        let claim = &rule.claim;
        if claims.get(claim).is_none() {
            return Err(format!("oidc: required claim {claim} not present in ID token"));
        }
        let found = text_claim(claims, claim).map_err(|why| format!("oidc: parse claim {claim}: {why}"))?;
        if found != rule.required_value {
            return Err(format!("oidc: required claim {claim} value does not match. Got = {found}, want = {}", rule.required_value));
        }
    }
    hold(&compiled.claim_rules, claims).map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))?;
    if !compiled.user_rules.is_empty() {
        let extra: serde_json::Map<String, Value> = user.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect();
        let shown = json!({ "username": user.name, "uid": user.uid, "groups": user.groups, "extra": extra });
        hold(&compiled.user_rules, &shown).map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))?;
    }
    Ok(user)
}

fn user_name(claims: &Value, authenticator: &JwtAuthenticator, compiled: &Compiled) -> Result<String, String> {
    if let Some(expression) = &compiled.username {
        let fail = |why: String| format!("oidc: error evaluating username claim expression: {why}");
        let value = expression.evaluate(claims).map_err(fail)?;
        return match value.as_str() {
            None => Err(fail("username claim expression must return a string".to_owned())),
            Some("") => Err("oidc: empty username via CEL expression is not allowed".to_owned()),
            Some(name) => Ok(name.to_owned()),
        };
    }
    let mapping = &authenticator.claim_mappings.username;
    let name = text_claim(claims, &mapping.claim).map_err(|why| format!("oidc: parse username claims {}: {why}", quote(&mapping.claim)))?;
    if mapping.claim == "email" {
        match claims.get("email_verified") {
            None | Some(Value::Bool(true)) => {}
            Some(Value::Bool(false) | Value::Null) => return Err("oidc: email not verified".to_owned()),
            Some(other) => return Err(format!("oidc: parse 'email_verified' claim: {}", mismatch(other, "bool"))),
        }
    }
    Ok(format!("{}{name}", mapping.prefix.as_deref().unwrap_or_default()))
}

fn groups(claims: &Value, authenticator: &JwtAuthenticator, compiled: &Compiled) -> Result<Vec<String>, String> {
    let mapping = &authenticator.claim_mappings.groups;
    if !mapping.claim.is_empty()
        && let Some(value) = claims.get(&mapping.claim)
    {
        let groups = string_or_array(value).map_err(|why| format!("oidc: parse groups claim {}: {why}", quote(&mapping.claim)))?;
        let prefix = mapping.prefix.as_deref().unwrap_or_default();
        return Ok(groups.into_iter().map(|group| format!("{prefix}{group}")).collect());
    }
    let Some(expression) = &compiled.groups else { return Ok(Vec::new()) };
    let evaluated = expression.evaluate(claims).and_then(|value| texts(&value));
    evaluated.map_err(|why| format!("oidc: error evaluating group claim expression: {why}"))
}

fn extra(claims: &Value, compiled: &Compiled) -> Result<Vec<(String, Vec<String>)>, String> {
    let mut extra = Vec::new();
    if let Some(id) = claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
        extra.push((CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]));
    }
    for (key, expression) in &compiled.extra {
        let value = expression.evaluate(claims)?;
        let values = texts(&value).map_err(|why| format!("oidc: error evaluating extra claim expression: {}: {why}", expression.text()))?;
        if !values.is_empty() {
            extra.push((key.clone(), values));
        }
    }
    extra.sort();
    Ok(extra)
}

/// Whether all rules hold; else which does not.
fn hold(rules: &[(super::expression::Expression, String)], over: &Value) -> Result<(), String> {
    // All are evaluated before one is judged, as upstream has it.
    let values = rules.iter().map(|(rule, _)| rule.evaluate(over)).collect::<Result<Vec<_>, _>>()?;
    for ((rule, message), value) in rules.iter().zip(values) {
        match value {
            Value::Bool(true) => {}
            Value::Bool(false) => return Err(format!("validation expression '{}' failed: {message}", rule.text())),
            _ => return Err("validation expression must return a boolean".to_owned()),
        }
    }
    Ok(())
}

/// A text, or a list of texts without the empty ones; null is none.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    const WRONG: &str = "expression must return a string or a list of strings";
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| WRONG.to_owned());
    let all = match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items.iter().map(text).collect::<Result<_, _>>()?,
        one => vec![text(one)?],
    };
    Ok(all.into_iter().filter(|text| !text.is_empty()).collect())
}

fn text_claim(claims: &Value, name: &str) -> Result<String, String> {
    match claims.get(name) {
        None => Err("claim not present".to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Null) => Ok(String::new()),
        Some(other) => Err(mismatch(other, "string")),
    }
}

/// A text or a list of texts.
fn string_or_array(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(items) => {
            let all: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
            all.ok_or_else(|| mismatch(value, "string"))
        }
        other => Err(mismatch(other, "string")),
    }
}

/// In the words of Go's decoder.
fn mismatch(value: &Value, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into Go value of type {wanted}", json_kind(value))
}

#[cfg(test)]
mod tests {
    use apimachinery::field::Path;

    use super::*;
    use crate::authentication::validation::compile;

    fn user(authenticator: Value, claims: Value) -> Result<User, String> {
        let mut whole = json!({ "issuer": { "url": "https://i", "audiences": ["a"] } });
        whole.as_object_mut().unwrap().extend(authenticator.as_object().unwrap().clone());
        let authenticator: JwtAuthenticator = serde_json::from_value(whole).unwrap();
        let (compiled, errors) = compile(&authenticator, &[], &Path::ROOT);
        assert!(errors.is_empty(), "{errors:?}");
        user_of(&claims, &authenticator, &compiled)
    }

    fn by_claim() -> Value {
        json!({ "claimMappings": { "username": { "claim": "sub", "prefix": "o:" }, "groups": { "claim": "groups", "prefix": "g:" } } })
    }

    #[test]
    fn claims_become_users() {
        let found = user(by_claim(), json!({ "sub": "ann", "groups": ["a", "b"], "jti": "7" })).unwrap();
        assert_eq!((found.name.as_str(), found.groups), ("o:ann", vec!["g:a".to_owned(), "g:b".to_owned()]));
        assert_eq!(found.extra, [(CREDENTIAL_ID.to_owned(), vec!["JTI=7".to_owned()])]);
        assert_eq!(user(by_claim(), json!({ "sub": "ann", "groups": "a" })).unwrap().groups, ["g:a"]);
        let mappings = json!({ "claimMappings": {
            "username": { "expression": "claims.sub + '@i'" },
            "groups": { "expression": "claims.roles.split(',')" },
            "uid": { "expression": "claims.oid" },
            "extra": [{ "key": "example.org/t", "valueExpression": "claims.?tenant.orValue('')" }],
        } });
        let found = user(mappings.clone(), json!({ "sub": "ann", "roles": "a,,b", "oid": "9", "tenant": "x" })).unwrap();
        assert_eq!((found.name.as_str(), found.uid.as_str(), found.groups.join("+").as_str()), ("ann@i", "9", "a+b"));
        assert_eq!(found.extra, [("example.org/t".to_owned(), vec!["x".to_owned()])]);
        let absent = user(mappings, json!({ "sub": "ann", "oid": "9" })).unwrap_err();
        assert!(
            absent.starts_with("oidc: error evaluating group claim expression: expression 'claims.roles.split(',')' resulted"),
            "{absent}"
        );
    }

    #[test]
    fn claims_that_do_not_fit_are_refused() {
        for (claims, expect) in [
            (json!({}), r#"oidc: parse username claims "sub": claim not present"#),
            (json!({ "sub": 1 }), r#"oidc: parse username claims "sub": json: cannot unmarshal number into Go value of type string"#),
            (
                json!({ "sub": "a", "groups": [1] }),
                r#"oidc: parse groups claim "groups": json: cannot unmarshal array into Go value of type string"#,
            ),
        ] {
            assert_eq!(user(by_claim(), claims).unwrap_err(), expect);
        }
        let email = json!({ "claimMappings": { "username": { "claim": "email", "prefix": "" } } });
        assert_eq!(user(email.clone(), json!({ "email": "a@b", "email_verified": false })).unwrap_err(), "oidc: email not verified");
        assert_eq!(user(email.clone(), json!({ "email": "a@b", "email_verified": true })).unwrap().name, "a@b");
        assert_eq!(user(email, json!({ "email": "a@b" })).unwrap().name, "a@b");
    }

    #[test]
    fn rules_must_hold() {
        let mut rules = by_claim();
        rules["claimValidationRules"] = json!([
            { "claim": "hd", "requiredValue": "example.com" },
            { "expression": "claims.exp - claims.iat <= 3600", "message": "lives too long" },
        ]);
        rules["userValidationRules"] = json!([{ "expression": "!user.username.startsWith('o:system')", "message": "reserved" }]);
        let judge = |claims: Value| user(rules.clone(), claims).map(|user| user.name);
        assert_eq!(judge(json!({ "sub": "a", "hd": "example.com", "exp": 100, "iat": 1 })), Ok("o:a".to_owned()));
        for (claims, expect) in [
            (json!({ "sub": "a" }), "oidc: required claim hd not present in ID token"),
            (json!({ "sub": "a", "hd": "x" }), "oidc: required claim hd value does not match. Got = x, want = example.com"),
            (
                json!({ "sub": "a", "hd": "example.com", "exp": 9000, "iat": 1 }),
                "oidc: error evaluating claim validation expression: validation expression 'claims.exp - claims.iat <= 3600' failed: lives too long",
            ),
            (
                json!({ "sub": "system:x", "hd": "example.com", "exp": 100, "iat": 1 }),
                "oidc: error evaluating user info validation rule: validation expression '!user.username.startsWith('o:system')' failed: reserved",
            ),
        ] {
            assert_eq!(judge(claims), Err(expect.to_owned()));
        }
    }

    #[test]
    fn tokens_are_for_us_and_for_now() {
        let audiences = ["a".to_owned(), "b".to_owned()];
        let judge = |claims: Value| check(&claims, "https://i", &audiences, 1000);
        assert_eq!(judge(json!({ "iss": "https://i", "aud": ["x", "b"], "exp": 1000.5, "nbf": 1060 })), Ok(()));
        for (claims, expect) in [
            (json!({ "iss": "https://j" }), r#"oidc: id token issued by a different provider, expected "https://i" got "https://j""#),
            (json!({ "iss": "https://i", "aud": "x" }), r#"oidc: expected audience in ["a" "b"] got ["x"]"#),
            (json!({ "iss": "https://i", "aud": "a", "exp": 999 }), "oidc: token is expired (Token Expiry: 1970-01-01T00:16:39Z)"),
            (json!({ "iss": "https://i", "aud": "a" }), "oidc: token is expired (Token Expiry: never set)"),
            (
                json!({ "iss": "https://i", "aud": "a", "exp": 2000, "nbf": 1061 }),
                "oidc: current time 1000 before the nbf (not before) time: 1061",
            ),
        ] {
            assert_eq!(judge(claims), Err(expect.to_owned()));
        }
        assert_eq!(untrusted_issuer(&json!({ "iss": "accounts.google.com" })), GOOGLE);
    }
}
