//! What a token says: who it is for, what it is bound to, and for how long. Pure.

use serde_json::{Map, Value, json};

/// Kubelets ask for this many seconds for the tokens that they project by default; it marks those that may live on.
pub const WARN_ONLY_EXPIRATION_SECONDS: i64 = 60 * 60 + 7;
/// How long those live.
pub const EXTENDED_EXPIRATION_SECONDS: i64 = 24 * 365 * 60 * 60;
/// Clocks may differ by this much.
pub const LEEWAY_SECONDS: i64 = 60;

/// A reference by name and uid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ref {
    pub name: String,
    pub uid: String,
}

impl Ref {
    pub fn new(name: &str, uid: &str) -> Ref {
        Ref { name: name.to_owned(), uid: uid.to_owned() }
    }

    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, value) in [("name", &self.name), ("uid", &self.uid)] {
            if !value.is_empty() {
                map.insert(key.to_owned(), json!(value));
            }
        }
        Value::Object(map)
    }

    fn parse(value: &Value) -> Ref {
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("");
        Ref::new(text("name"), text("uid"))
    }
}

/// The claims of a token. Times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    pub issuer: String,
    pub audiences: Vec<String>,
    pub id: String,
    pub issued_at: i64,
    pub not_before: i64,
    pub expires_at: i64,
    pub namespace: String,
    pub account: Ref,
    pub pod: Option<Ref>,
    pub secret: Option<Ref>,
    pub node: Option<Ref>,
    pub warn_after: Option<i64>,
}

/// `system:serviceaccount:<namespace>:<name>`.
pub fn user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// Whether this is [`user_name`] of an account, told without making it.
pub fn is_user_name(user: &str, namespace: &str, name: &str) -> bool {
    let rest = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.strip_prefix(namespace));
    rest.and_then(|rest| rest.strip_prefix(':')) == Some(name)
}

/// The groups of every account of a namespace.
pub fn groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

/// The namespace and name in a service account's user name.
pub fn split_user_name(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let valid = apimachinery::validation::name_is_dns_label(namespace, false).is_empty()
        && apimachinery::validation::name_is_dns_subdomain(name, false).is_empty();
    valid.then_some((namespace, name))
}

impl Claims {
    /// The payload of the token; members are sorted, as upstream's are.
    pub fn to_payload(&self) -> Value {
        let mut kubernetes = Map::new();
        kubernetes.insert("namespace".to_owned(), json!(self.namespace));
        for (key, reference) in [("node", &self.node), ("pod", &self.pod), ("secret", &self.secret)] {
            if let Some(reference) = reference {
                kubernetes.insert(key.to_owned(), reference.to_value());
            }
        }
        kubernetes.insert("serviceaccount".to_owned(), self.account.to_value());
        if let Some(at) = self.warn_after {
            kubernetes.insert("warnafter".to_owned(), json!(at));
        }
        json!({
            "aud": self.audiences,
            "exp": self.expires_at,
            "iat": self.issued_at,
            "iss": self.issuer,
            "jti": self.id,
            "kubernetes.io": kubernetes,
            "nbf": self.not_before,
            "sub": user_name(&self.namespace, &self.account.name),
        })
    }

    /// Reads a payload. What is absent is empty or 0; a 0 in time is not checked.
    pub fn from_payload(payload: &Value) -> Claims {
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
        let time = |value: &Value, name: &str| {
            let number = value.get(name);
            // Times may have fractions.
            number.and_then(Value::as_i64).or_else(|| number.and_then(Value::as_f64).map(|f| f as i64)).unwrap_or(0)
        };
        let audiences = match payload.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        };
        let private = payload.get("kubernetes.io").unwrap_or(&Value::Null);
        let reference = |name: &str| private.get(name).filter(|v| v.is_object()).map(Ref::parse);
        Claims {
            issuer: text(payload, "iss"),
            audiences,
            id: text(payload, "jti"),
            issued_at: time(payload, "iat"),
            not_before: time(payload, "nbf"),
            expires_at: time(payload, "exp"),
            namespace: text(private, "namespace"),
            account: reference("serviceaccount").unwrap_or_default(),
            pod: reference("pod"),
            secret: reference("secret"),
            node: reference("node"),
            warn_after: private.get("warnafter").and_then(Value::as_i64),
        }
    }

    /// Whether the token is good at `now`, in seconds since 1970.
    pub fn check_time(&self, now: i64) -> Result<(), String> {
        if self.not_before > 0 && now.saturating_add(LEEWAY_SECONDS) < self.not_before {
            return Err("service account token is not valid yet".to_owned());
        }
        if self.expires_at > 0 && now.saturating_sub(LEEWAY_SECONDS) > self.expires_at {
            return Err("service account token has expired".to_owned());
        }
        if self.issued_at > 0 && now.saturating_add(LEEWAY_SECONDS) < self.issued_at {
            return Err("service account token is issued in the future".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            issuer: "https://kubernetes.default.svc".into(),
            audiences: vec!["a".into()],
            id: "j".into(),
            issued_at: 1000,
            not_before: 1000,
            expires_at: 4600,
            namespace: "ns".into(),
            account: Ref::new("sa", "u1"),
            pod: Some(Ref::new("p", "u2")),
            node: Some(Ref::new("n", "")),
            ..Claims::default()
        }
    }

    #[test]
    fn a_payload_reads_back_and_is_sorted() {
        let payload = claims().to_payload();
        let expect = r#"{"aud":["a"],"exp":4600,"iat":1000,"iss":"https://kubernetes.default.svc","jti":"j","kubernetes.io":{"namespace":"ns","node":{"name":"n"},"pod":{"name":"p","uid":"u2"},"serviceaccount":{"name":"sa","uid":"u1"}},"nbf":1000,"sub":"system:serviceaccount:ns:sa"}"#;
        assert_eq!(payload.to_string(), expect);
        assert_eq!(Claims::from_payload(&payload), claims());
    }

    #[test]
    fn times_are_checked_with_a_minute_of_leeway() {
        for (now, ok) in [(900, false), (940, true), (1000, true), (4660, true), (4661, false)] {
            assert_eq!(claims().check_time(now).is_ok(), ok, "{now}");
        }
    }

    #[test]
    fn user_names_of_accounts_are_told_from_others() {
        assert_eq!(split_user_name("system:serviceaccount:a:b"), Some(("a", "b")));
        assert!(is_user_name(&user_name("a", "b"), "a", "b"));
        assert!(!is_user_name("system:serviceaccount:ab:c", "a", "c") && !is_user_name("system:serviceaccount:a:bc", "a", "b"));
        for other in ["a", "system:serviceaccount:a", "system:serviceaccount::b", "system:serviceaccount:a:b:c"] {
            assert_eq!(split_user_name(other), None, "{other}");
        }
    }
}
