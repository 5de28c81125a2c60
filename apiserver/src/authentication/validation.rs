//! Whether an AuthenticationConfiguration makes sense, in upstream's words, and its expressions compiled.

use std::collections::HashSet;

use apimachinery::field::{Error, ErrorList, Path, quote};
use apimachinery::validation::is_domain_prefixed_path;
use serde_json::{Value, json};

use super::config::{
    AuthenticationConfiguration, ClaimMappings, ClaimValidationRule, Issuer, JwtAuthenticator, PrefixedClaimOrExpression,
    UserValidationRule,
};
use super::expression::{Expression, Scope};
use crate::registry::admissionregistration::url::Url;
use crate::tls;

/// Issuers that one configuration may name.
const MAX_AUTHENTICATORS: usize = 64;
const MATCH_ANY: &str = "MatchAny";
const BOTH: &str = "claim and expression can't both be set";

/// The expressions of an authenticator, ready to be evaluated.
#[derive(Default)]
pub struct Compiled {
    pub username: Option<Expression>,
    pub groups: Option<Expression>,
    pub uid: Option<Expression>,
    /// With the key that each is for.
    pub extra: Vec<(String, Expression)>,
    /// With the message of each.
    pub claim_rules: Vec<(Expression, String)>,
    pub user_rules: Vec<(Expression, String)>,
}

/// All that is wrong with a configuration. `own_issuers` are those of service account tokens.
pub fn validate(config: &AuthenticationConfiguration, own_issuers: &[String]) -> ErrorList {
    let mut errors = ErrorList::new();
    let root = Path::new("jwt");
    if config.jwt.len() > MAX_AUTHENTICATORS {
        errors.push(Error::too_many(&root, config.jwt.len(), MAX_AUTHENTICATORS));
        return errors;
    }
    let (mut issuers, mut discovery_urls) = (HashSet::new(), HashSet::new());
    for (at, authenticator) in config.jwt.iter().enumerate() {
        let path = root.index(at);
        errors.extend(compile(authenticator, own_issuers, &path).1);
        let issuer_path = path.child("issuer");
        let issuer = &authenticator.issuer;
        if !issuers.insert(&issuer.url) {
            errors.push(Error::duplicate(&issuer_path.child("url"), issuer.url.as_str()));
        }
        if !issuer.discovery_url().is_empty() && !discovery_urls.insert(issuer.discovery_url()) {
            errors.push(Error::duplicate(&issuer_path.child("discoveryURL"), issuer.discovery_url()));
        }
    }
    if let Some(anonymous) = &config.anonymous
        && !anonymous.enabled
        && !anonymous.conditions.is_empty()
    {
        // Upstream shows its own structure.
        let shown: Vec<Value> = anonymous.conditions.iter().map(|condition| json!({ "Path": condition.path })).collect();
        let path = Path::new("anonymous");
        errors.push(Error::invalid(&path.child("conditions"), shown, "enabled should be set to true when conditions are defined"));
    }
    errors
}

/// Compiles an authenticator's expressions, and says what is wrong with it.
pub fn compile(authenticator: &JwtAuthenticator, own_issuers: &[String], path: &Path<'_>) -> (Compiled, ErrorList) {
    let mut compiled = Compiled::default();
    let mut errors = issuer(&authenticator.issuer, own_issuers, &path.child("issuer"));
    errors.extend(claim_rules(&authenticator.claim_validation_rules, &mut compiled, &path.child("claimValidationRules")));
    errors.extend(claim_mappings(&authenticator.claim_mappings, &mut compiled, &path.child("claimMappings")));
    errors.extend(user_rules(&authenticator.user_validation_rules, &mut compiled, &path.child("userValidationRules")));
    (compiled, errors)
}

fn issuer(issuer: &Issuer, own_issuers: &[String], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let url_path = path.child("url");
    match issuer.url.as_str() {
        "" => errors.push(Error::required(&url_path, "")),
        address => url(address, own_issuers, &url_path, &mut errors),
    }
    let discovery = issuer.discovery_url();
    if !discovery.is_empty() {
        let path = path.child("discoveryURL");
        if !issuer.url.is_empty() && issuer.url.trim_end_matches('/') == discovery.trim_end_matches('/') {
            errors.push(Error::invalid(&path, discovery, "discoveryURL must be different from URL"));
        }
        url(discovery, &[], &path, &mut errors);
    }
    audiences(issuer, path, &mut errors);
    if !issuer.certificate_authority.is_empty() {
        let problem = match tls::roots(&issuer.certificate_authority) {
            Ok(roots) if roots.is_empty() => Some("data does not contain any valid RSA or ECDSA certificates".to_owned()),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        errors.extend(problem.map(|why| Error::invalid(&path.child("certificateAuthority"), "<omitted>", why)));
    }
    let selector = issuer.egress_selector_type.as_str();
    if !matches!(selector, "" | "controlplane" | "cluster") {
        let why = "egress selector must be either controlplane or cluster";
        errors.push(Error::invalid(&path.child("egressSelectorType"), selector, why));
    }
    errors
}

fn url(text: &str, disallowed: &[String], path: &Path<'_>, errors: &mut ErrorList) {
    let mut refuse = |why: String| errors.push(Error::invalid(path, text, why));
    if disallowed.iter().any(|issuer| issuer == text) {
        let mut sorted = disallowed.to_vec();
        sorted.sort();
        sorted.dedup();
        refuse(format!("URL must not overlap with disallowed issuers: [{}]", sorted.join(" ")));
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(why) => return refuse(why),
    };
    if url.scheme != "https" {
        refuse("URL scheme must be https".to_owned());
    }
    if url.user.is_some() {
        refuse("URL must not contain a username or password".to_owned());
    }
    if !url.query.is_empty() {
        refuse("URL must not contain a query".to_owned());
    }
    if !url.fragment.is_empty() {
        refuse("URL must not contain a fragment".to_owned());
    }
}

fn audiences(issuer: &Issuer, parent: &Path<'_>, errors: &mut ErrorList) {
    let path = parent.child("audiences");
    if issuer.audiences.is_empty() {
        errors.push(Error::required(&path, format!("at least one {path} is required")));
        return;
    }
    let mut seen = HashSet::new();
    for (at, audience) in issuer.audiences.iter().enumerate() {
        let path = path.index(at);
        if audience.is_empty() {
            errors.push(Error::required(&path, ""));
        }
        if !seen.insert(audience) {
            errors.push(Error::duplicate(&path, audience.as_str()));
        }
    }
    let (policy, policy_path) = (issuer.audience_match_policy.as_str(), parent.child("audienceMatchPolicy"));
    if issuer.audiences.len() > 1 && policy != MATCH_ANY {
        errors.push(Error::invalid(&policy_path, policy, "audienceMatchPolicy must be MatchAny for multiple audiences"));
    }
    if issuer.audiences.len() == 1 && !matches!(policy, "" | MATCH_ANY) {
        errors.push(Error::invalid(&policy_path, policy, "audienceMatchPolicy must be empty or MatchAny for single audience"));
    }
}

fn expression(text: &str, scope: Scope, wants_bool: bool, path: &Path<'_>) -> Result<Expression, Error> {
    Expression::compile(text, scope, wants_bool).map_err(|why| Error::invalid(&path.child("expression"), text, why))
}

fn claim_rules(rules: &[ClaimValidationRule], compiled: &mut Compiled, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (mut claims, mut expressions) = (HashSet::new(), HashSet::new());
    for (at, rule) in rules.iter().enumerate() {
        let path = path.index(at);
        match (rule.claim.as_str(), rule.expression.as_str()) {
            ("", "") => errors.push(Error::required(&path, "claim or expression is required")),
            (claim, "") => {
                if !rule.message.is_empty() {
                    errors.push(Error::invalid(&path.child("message"), rule.message.as_str(), "may not be specified when claim is set"));
                }
                if !claims.insert(claim) {
                    errors.push(Error::duplicate(&path.child("claim"), claim));
                }
            }
            ("", text) => {
                if !rule.required_value.is_empty() {
                    let why = "may not be specified when expression is set";
                    errors.push(Error::invalid(&path.child("requiredValue"), rule.required_value.as_str(), why));
                }
                if !expressions.insert(text) {
                    errors.push(Error::duplicate(&path.child("expression"), text));
                    continue;
                }
                match expression(text, Scope::Claims, true, &path) {
                    Ok(found) => compiled.claim_rules.push((found, rule.message.clone())),
                    Err(error) => errors.push(error),
                }
            }
            (claim, _) => errors.push(Error::invalid(&path, claim, BOTH)),
        }
    }
    errors
}

fn claim_mappings(mappings: &ClaimMappings, compiled: &mut Compiled, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    match claim_or_expression(&mappings.username, true, &path.child("username")) {
        Ok(found) => compiled.username = found,
        Err(problems) => errors.extend(problems),
    }
    match claim_or_expression(&mappings.groups, false, &path.child("groups")) {
        Ok(found) => compiled.groups = found,
        Err(problems) => errors.extend(problems),
    }
    let uid = path.child("uid");
    match (mappings.uid.claim.as_str(), mappings.uid.expression.as_str()) {
        (_, "") => {}
        ("", text) => match expression(text, Scope::Claims, false, &uid) {
            Ok(found) => compiled.uid = Some(found),
            Err(error) => errors.push(error),
        },
        _ => errors.push(Error::invalid(&uid, "", BOTH)),
    }
    let mut keys = HashSet::new();
    let extra_path = path.child("extra");
    for (at, mapping) in mappings.extra.iter().enumerate() {
        let path = extra_path.index(at);
        let (key, key_path) = (mapping.key.as_str(), path.child("key"));
        errors.extend(is_domain_prefixed_path(&key_path, key));
        if key != key.to_lowercase() {
            errors.push(Error::invalid(&key_path, key, "must be lowercase"));
        }
        if is_reserved(key) {
            errors.push(Error::invalid(&key_path, key, "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use"));
        }
        if !keys.insert(key) {
            errors.push(Error::duplicate(&key_path, key));
            continue;
        }
        let value_path = path.child("valueExpression");
        if mapping.value_expression.is_empty() {
            errors.push(Error::required(&value_path, ""));
            continue;
        }
        match Expression::compile(&mapping.value_expression, Scope::Claims, false) {
            Ok(found) => compiled.extra.push((key.to_owned(), found)),
            Err(why) => errors.push(Error::invalid(&value_path, mapping.value_expression.as_str(), why)),
        }
    }
    let uses = |expression: &Expression, claim: &str| expression.selects("claims", claim);
    let looks_at_email = compiled.username.as_ref().is_some_and(|username| uses(username, "email"));
    let all = compiled.username.iter().chain(compiled.extra.iter().map(|(_, e)| e)).chain(compiled.claim_rules.iter().map(|(e, _)| e));
    if looks_at_email && !all.into_iter().any(|expression| uses(expression, "email_verified")) {
        let why = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
        errors.push(Error::invalid(&path.child("username.expression"), mappings.username.expression.as_str(), why));
    }
    errors
}

fn is_reserved(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    ["kubernetes.io", "k8s.io"].iter().any(|reserved| domain == *reserved || domain.ends_with(&format!(".{reserved}")))
}

fn claim_or_expression(mapping: &PrefixedClaimOrExpression, required: bool, path: &Path<'_>) -> Result<Option<Expression>, ErrorList> {
    let mut errors = ErrorList::new();
    let mut found = None;
    match (mapping.claim.as_str(), mapping.expression.as_str()) {
        ("", "") if required => errors.push(Error::required(path, "claim or expression is required")),
        ("", "") => {}
        ("", text) => {
            if let Some(prefix) = &mapping.prefix {
                errors.push(Error::invalid(&path.child("prefix"), prefix.as_str(), "may not be specified when expression is set"));
            }
            match expression(text, Scope::Claims, false, path) {
                Ok(compiled) => found = Some(compiled),
                Err(error) => errors.push(error),
            }
        }
        (_, "") if mapping.prefix.is_none() => {
            let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
            errors.push(Error::required(&path.child("prefix"), why));
        }
        (_, "") => {}
        _ => errors.push(Error::invalid(path, "", BOTH)),
    }
    if errors.is_empty() { Ok(found) } else { Err(errors) }
}

fn user_rules(rules: &[UserValidationRule], compiled: &mut Compiled, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = HashSet::new();
    for (at, rule) in rules.iter().enumerate() {
        let path = path.index(at);
        let expression_path = path.child("expression");
        if rule.expression.is_empty() {
            errors.push(Error::required(&expression_path, ""));
        } else if !seen.insert(rule.expression.as_str()) {
            errors.push(Error::duplicate(&expression_path, rule.expression.as_str()));
        } else {
            match expression(&rule.expression, Scope::User, true, &path) {
                Ok(found) => compiled.user_rules.push((found, rule.message.clone())),
                Err(error) => errors.push(error),
            }
        }
    }
    errors
}

/// `["a" "b"]`, as Go prints a quoted list.
pub fn quoted_list<S: AsRef<str>>(texts: &[S]) -> String {
    format!("[{}]", texts.iter().map(|text| quote(text.as_ref())).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authentication::config::decode;

    /// A good configuration with `change` laid over its first issuer.
    fn errors(jwt: &str) -> Vec<String> {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n{jwt}");
        validate(&decode(text.as_bytes()).unwrap(), &["https://own".to_owned()]).iter().map(ToString::to_string).collect()
    }

    fn with(issuer: &str, rest: &str) -> Vec<String> {
        let mappings = if rest.contains("claimMappings") { "" } else { "claimMappings: {username: {claim: sub, prefix: ''}}, " };
        errors(&format!("jwt: [{{issuer: {{{issuer}}}, {mappings}{rest}}}]"))
    }

    #[test]
    fn issuers_are_https_and_distinct() {
        let good = "url: 'https://i', audiences: [a]";
        assert!(with(good, "").is_empty());
        for (issuer, expect) in [
            ("url: 'http://i', audiences: [a]", r#"jwt[0].issuer.url: Invalid value: "http://i": URL scheme must be https"#),
            ("audiences: [a]", "jwt[0].issuer.url: Required value"),
            ("url: 'https://i'", "jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required"),
            (
                "url: 'https://own', audiences: [a]",
                r#"jwt[0].issuer.url: Invalid value: "https://own": URL must not overlap with disallowed issuers: [https://own]"#,
            ),
            (
                "url: 'https://i', audiences: [a, b]",
                r#"jwt[0].issuer.audienceMatchPolicy: Invalid value: "": audienceMatchPolicy must be MatchAny for multiple audiences"#,
            ),
            (
                "url: 'https://i', discoveryURL: 'https://i/', audiences: [a]",
                r#"jwt[0].issuer.discoveryURL: Invalid value: "https://i/": discoveryURL must be different from URL"#,
            ),
            (
                "url: 'https://i', audiences: [a], egressSelectorType: moon",
                r#"jwt[0].issuer.egressSelectorType: Invalid value: "moon": egress selector must be either controlplane or cluster"#,
            ),
        ] {
            assert_eq!(with(issuer, ""), [expect], "{issuer}");
        }
        let twice = "{issuer: {url: 'https://i', audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ''}}}";
        assert_eq!(errors(&format!("jwt: [{twice}, {twice}]")), [r#"jwt[1].issuer.url: Duplicate value: "https://i""#]);
    }

    #[test]
    fn claims_are_mapped_by_claim_or_by_expression() {
        let good = "url: 'https://i', audiences: [a]";
        for (rest, expect) in [
            ("claimMappings: {}", "jwt[0].claimMappings.username: Required value: claim or expression is required"),
            (
                "claimMappings: {username: {claim: sub}}",
                "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing",
            ),
            (
                "claimMappings: {username: {claim: sub, prefix: '', expression: claims.sub}}",
                r#"jwt[0].claimMappings.username: Invalid value: "": claim and expression can't both be set"#,
            ),
            (
                "claimMappings: {username: {expression: claims.sub}, extra: [{key: k8s.io/a, valueExpression: '\"b\"'}]}",
                r#"jwt[0].claimMappings.extra[0].key: Invalid value: "k8s.io/a": k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use"#,
            ),
            (
                "claimValidationRules: [{expression: 'claims.a + 1'}]",
                r#"jwt[0].claimValidationRules[0].expression: Invalid value: "claims.a + 1": must evaluate to bool"#,
            ),
            (
                "userValidationRules: [{expression: 'user.groups'}]",
                r#"jwt[0].userValidationRules[0].expression: Invalid value: "user.groups": must evaluate to bool"#,
            ),
        ] {
            assert_eq!(with(good, rest), [expect], "{rest}");
        }
        let unknown = with(good, "userValidationRules: [{expression: 'claims.a == 1'}]");
        assert!(unknown[0].contains("compilation failed: ERROR: <input>:1:1: undeclared reference to 'claims'"), "{unknown:?}");
    }

    #[test]
    fn an_address_counts_only_if_it_is_verified() {
        let good = "url: 'https://i', audiences: [a]";
        let refused = with(good, "claimMappings: {username: {expression: claims.email}}");
        assert!(refused[0].contains("claims.email_verified must be used"), "{refused:?}");
        let rule = "claimValidationRules: [{expression: 'claims.?email_verified.orValue(true) == true'}]";
        assert!(with(good, &format!("claimMappings: {{username: {{expression: claims.email}}}}, {rule}")).is_empty());
    }

    /// What kube-apiserver v1.37.2 said of this file.
    #[test]
    fn many_mistakes_are_told_in_upstreams_order() {
        let jwt = "jwt: [{issuer: {url: 'http://u:p@i?q#f', audiences: [a, a, '']}, claimMappings: {username: {claim: sub}, groups: {expression: 'foo'}, extra: [{key: foo, valueExpression: ''}]}, claimValidationRules: [{claim: a, message: m},{},{expression: '1'}]}]";
        let url = r#"jwt[0].issuer.url: Invalid value: "http://u:p@i?q#f": URL"#;
        let expect = [
            &format!("{url} scheme must be https"),
            &format!("{url} must not contain a username or password"),
            &format!("{url} must not contain a query"),
            &format!("{url} must not contain a fragment"),
            r#"jwt[0].issuer.audiences[1]: Duplicate value: "a""#,
            "jwt[0].issuer.audiences[2]: Required value",
            r#"jwt[0].issuer.audienceMatchPolicy: Invalid value: "": audienceMatchPolicy must be MatchAny for multiple audiences"#,
            r#"jwt[0].claimValidationRules[0].message: Invalid value: "m": may not be specified when claim is set"#,
            "jwt[0].claimValidationRules[1]: Required value: claim or expression is required",
            r#"jwt[0].claimValidationRules[2].expression: Invalid value: "1": must evaluate to bool"#,
            "jwt[0].claimMappings.username.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing",
            "jwt[0].claimMappings.groups.expression: Invalid value: \"foo\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo\n | ^",
            r#"jwt[0].claimMappings.extra[0].key: Invalid value: "foo": must be a domain-prefixed path (such as "acme.io/foo")"#,
            "jwt[0].claimMappings.extra[0].valueExpression: Required value",
        ];
        assert_eq!(errors(jwt), expect);
    }

    #[test]
    fn conditions_need_anonymous_users() {
        let refused = errors("anonymous: {enabled: false, conditions: [{path: /livez}]}");
        let expect =
            r#"anonymous.conditions: Invalid value: [{"Path":"/livez"}]: enabled should be set to true when conditions are defined"#;
        assert_eq!(refused, [expect]);
        assert!(errors("anonymous: {enabled: true, conditions: [{path: /livez}]}").is_empty());
    }
}
