//! Acting as somebody else: the `Impersonate-*` headers, and whether the user may act so.
//!
//! Constrained modes (KEP-5284) are tried first: they ask whether the user may do *this* request as somebody of a kind, and be that
//! somebody. The old mode, the verb `impersonate`, comes last and knows no such limits.

use std::collections::{BTreeMap, HashMap};

use apimachinery::field::quote;
use apimachinery::status::Status;
use apimachinery::validation::name_is_dns_subdomain;
use http::HeaderMap;
use parking_lot::Mutex;

use super::authentication::User;
use super::authorization::{Authorizer, forbidden};
use super::request_info::{RequestInfo, percent_decode};
use crate::tokens::claims::{groups, split_user_name};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA_PREFIX: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";
/// From this many checks on, one for all is tried first.
const MANY: usize = 4;
/// Of so many users it is remembered how they last acted as others; all are forgotten when there are more.
const MAX_REMEMBERED: usize = 10_000;
const MASTERS: &str = "system:masters";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const AUTHENTICATED: &str = "system:authenticated";

/// The user that a request acts as: its sender, or whom the headers name. Takes the headers out.
pub async fn acting_user(
    authorizer: &dyn Authorizer,
    modes: &Modes,
    sender: User,
    headers: &mut HeaderMap,
    request: &RequestInfo,
) -> Result<User, Status> {
    let Some(wanted) = wanted(headers)? else { return Ok(sender) };
    let names: Vec<_> = headers.keys().filter(|name| is_impersonation(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
    let mut first_refusal = None;
    for mode in modes.in_order(&sender.name) {
        if !mode.applies(&wanted, &sender) {
            continue;
        }
        match (Check { authorizer, sender: &sender, mode }).run(&wanted, request).await {
            Ok(user) => {
                let constraint = if mode == Mode::Legacy { String::new() } else { format!("impersonate:{}", mode.name()) };
                crate::audit::impersonated(&user, &constraint);
                modes.remember(&sender.name, mode);
                return Ok(user);
            }
            Err(refusal) => first_refusal = first_refusal.or(Some(refusal)),
        }
    }
    // The old mode applies to everybody, so there is a refusal.
    Err(first_refusal.unwrap_or_else(|| Status::internal_error("all impersonation modes failed")))
}

fn is_impersonation(name: &str) -> bool {
    [USER, UID, GROUP].contains(&name) || name.starts_with(EXTRA_PREFIX)
}

/// Whom the headers name, just as they say it; `None` without such headers.
fn wanted(headers: &HeaderMap) -> Result<Option<User>, Status> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let first = |name: &str| headers.get(name).map(text).unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA_PREFIX) {
            extra.entry(percent_decode(key)).or_default().push(text(value));
        }
    }
    let user = User {
        name: first(USER),
        uid: first(UID),
        groups: headers.get_all(GROUP).iter().map(text).collect(),
        extra: extra.into_iter().collect(),
    };
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user.uid.is_empty() && user.groups.is_empty() && user.extra.is_empty() {
        return Ok(None);
    }
    Err(Status::bad_request(format!("requested {} without impersonating a user name", printed(&user))))
}

/// The user as Go prints the structure.
fn printed(user: &User) -> String {
    let list = |items: &[String]| {
        if items.is_empty() {
            return "[]string(nil)".to_owned();
        }
        format!("[]string{{{}}}", items.iter().map(|i| quote(i)).collect::<Vec<_>>().join(", "))
    };
    let extra = if user.extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let pairs: Vec<String> = user.extra.iter().map(|(key, values)| format!("{}:{}", quote(key), list(values))).collect();
        format!("map[string][]string{{{}}}", pairs.join(", "))
    };
    format!("&user.DefaultInfo{{Name:{}, UID:{}, Groups:{}, Extra:{extra}}}", quote(&user.name), quote(&user.uid), list(&user.groups))
}

/// The mode in which each user last acted as somebody else. It is tried first, so that the old mode costs no more than it did; where several
/// modes would do, it decides in which the user acts, and what a refusal is about.
#[derive(Default)]
pub struct Modes(Mutex<HashMap<Box<str>, Mode>>);

impl Modes {
    fn in_order(&self, sender: &str) -> Vec<Mode> {
        let last = self.0.lock().get(sender).copied();
        last.into_iter().chain(Mode::ALL.into_iter().filter(|mode| Some(*mode) != last)).collect()
    }

    fn remember(&self, sender: &str, mode: Mode) {
        let mut last = self.0.lock();
        if last.get(sender) == Some(&mode) {
            return;
        }
        if last.len() >= MAX_REMEMBERED && !last.contains_key(sender) {
            last.clear();
        }
        last.insert(sender.into(), mode);
    }
}

/// A way to act as somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// An account acts as the node that it runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

impl Mode {
    /// In the order in which they are tried.
    const ALL: [Mode; 5] = [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

    const fn name(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
            Mode::Legacy => "",
        }
    }

    fn applies(self, wanted: &User, sender: &User) -> bool {
        let name_alone = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let node = node_name(&wanted.name);
        match self {
            Mode::AssociatedNode => name_alone && node.is_some() && node == own_node(sender),
            Mode::ArbitraryNode => name_alone && node.is_some(),
            Mode::ServiceAccount => name_alone && split_user_name(&wanted.name).is_some(),
            Mode::UserInfo => node.is_none() && split_user_name(&wanted.name).is_none(),
            Mode::Legacy => true,
        }
    }
}

/// The node of a node's user name.
pub fn node_name(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|name| name_is_dns_subdomain(name, false).is_empty())
}

/// The node that an account's token says it runs on.
fn own_node(sender: &User) -> Option<&str> {
    split_user_name(&sender.name)?;
    let (_, nodes) = sender.extra.iter().find(|(key, _)| key == "authentication.kubernetes.io/node-name")?;
    match nodes.as_slice() {
        [one] => Some(one),
        _ => None,
    }
}

struct Check<'a> {
    authorizer: &'a dyn Authorizer,
    sender: &'a User,
    mode: Mode,
}

impl Check<'_> {
    fn constrained(&self) -> bool {
        self.mode != Mode::Legacy
    }

    async fn run(&self, wanted: &User, request: &RequestInfo) -> Result<User, Status> {
        if self.constrained() {
            let verb = format!("impersonate-on:{}:{}", self.mode.name(), request.verb);
            self.ask(RequestInfo { verb, ..request.clone() }).await?;
        }
        let mut user = wanted.clone();
        self.name(wanted, &mut user).await?;
        if !wanted.uid.is_empty() {
            self.ask(self.about(AUTHENTICATION, "uids", &wanted.uid)).await?;
        }
        self.groups(&wanted.groups).await?;
        self.extra(&wanted.extra).await?;
        let missing = if user.name == "system:anonymous" {
            Some(UNAUTHENTICATED)
        } else {
            (!user.in_group(UNAUTHENTICATED)).then_some(AUTHENTICATED)
        };
        if let Some(group) = missing.filter(|group| !user.in_group(group)) {
            user.groups.push(group.to_owned());
        }
        Ok(user)
    }

    /// The permission to be somebody or something.
    fn about(&self, group: &str, resource: &str, name: &str) -> RequestInfo {
        let verb = if self.constrained() { format!("impersonate:{}", self.mode.name()) } else { "impersonate".to_owned() };
        RequestInfo {
            is_resource: true,
            verb,
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        }
    }

    async fn ask(&self, mut question: RequestInfo) -> Result<(), Status> {
        let decision = if self.mode == Mode::AssociatedNode {
            // The answer holds for an account on all its nodes, so neither the node nor what tells it may matter.
            if question.verb == "impersonate:associated-node" {
                question.name = "*".to_owned();
            }
            let mut keys: Vec<String> = self.sender.extra.iter().map(|(key, _)| key.clone()).collect();
            keys.sort_unstable();
            let extra = vec![("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)];
            self.authorizer.ask(&User { extra, ..self.sender.clone() }, &question).wait().await
        } else {
            self.authorizer.ask(self.sender, &question).wait().await
        };
        match decision.refusal() {
            None => Ok(()),
            Some(reason) => Err(forbidden(self.sender, &question, &reason)),
        }
    }

    /// Where users and groups are asked for: the core group in the old mode.
    fn home(&self) -> &'static str {
        if self.constrained() { AUTHENTICATION } else { "" }
    }

    async fn name(&self, wanted: &User, user: &mut User) -> Result<(), Status> {
        let mut question = self.about(self.home(), "users", &wanted.name);
        if let (Some(node), true) = (node_name(&wanted.name), self.constrained()) {
            question.resource = "nodes".to_owned();
            question.name = node.to_owned();
            user.groups = vec!["system:nodes".to_owned()];
        }
        if let Some((namespace, name)) = split_user_name(&wanted.name) {
            question.resource = "serviceaccounts".to_owned();
            question.namespace = namespace.to_owned();
            question.name = name.to_owned();
            if wanted.groups.is_empty() {
                user.groups = groups(namespace);
            }
        }
        self.ask(question).await
    }

    async fn groups(&self, wanted: &[String]) -> Result<(), Status> {
        let about = |name: &str| self.about(self.home(), "groups", name);
        if self.constrained() {
            let refuse = |name: &str, why: &str| Err(forbidden(self.sender, &about(name), why));
            if wanted.iter().any(String::is_empty) {
                return refuse("", "impersonating the empty string group is not allowed");
            }
            if wanted.iter().any(|group| group == MASTERS) {
                return refuse(MASTERS, "impersonating the system:masters group is not allowed");
            }
            if wanted.len() >= MANY && self.ask(about("*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in wanted {
            self.ask(about(group)).await?;
        }
        Ok(())
    }

    async fn extra(&self, wanted: &[(String, Vec<String>)]) -> Result<(), Status> {
        let about = |key: &str, value: &str| RequestInfo { subresource: key.to_owned(), ..self.about(AUTHENTICATION, "userextras", value) };
        if self.constrained() {
            if let Some(why) = wanted.iter().find_map(|(key, values)| unfit(key, values)) {
                return Err(forbidden(self.sender, &about("", ""), &why));
            }
            let many = wanted.iter().map(|(_, values)| values.len()).sum::<usize>() >= MANY;
            if many && self.ask(about("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in wanted {
            for value in values {
                self.ask(about(key, value)).await?;
            }
        }
        Ok(())
    }
}

/// Why an extra attribute cannot be taken on in a constrained mode.
fn unfit(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".to_owned());
    }
    let domain = key.split_once('/').map(|(domain, _)| domain);
    if domain.is_none_or(|domain| !name_is_dns_subdomain(domain, false).is_empty()) {
        let why = format!("extra.key: Invalid value: {}: must be a domain-prefixed path (such as \"acme.io/foo\")", quote(key));
        return Some(format!("impersonating an invalid key in extra is not allowed: {why}"));
    }
    if key.chars().any(char::is_uppercase) {
        return Some(format!("impersonating a non-lowercase key in extra is not allowed: {}", quote(key)));
    }
    values.iter().any(String::is_empty).then(|| "impersonating the empty string value in extra is not allowed".to_owned())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Method};

    use super::*;
    use crate::filters::authorization::Decision;

    /// Allows the verbs and resources of a list of `verb resource`.
    struct Listed(&'static [&'static str]);

    impl Authorizer for Listed {
        fn authorize(&self, _user: &User, request: &RequestInfo) -> Decision {
            let line = format!("{} {}", request.verb, request.resource);
            if self.0.contains(&line.as_str()) { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
        }
    }

    async fn act(allowed: &'static [&'static str], headers: &[(&'static str, &'static str)]) -> Result<User, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let request = RequestInfo::parse(&Method::GET, "/api/v1/namespaces/a/pods", "");
        let sender = User { name: "boss".into(), ..User::default() };
        acting_user(&Listed(allowed), &Modes::default(), sender, &mut map, &request).await.map_err(|s| s.message)
    }

    #[tokio::test]
    async fn the_old_verb_lets_a_user_act_as_anybody() {
        let user =
            act(&["impersonate users", "impersonate groups"], &[("impersonate-user", "alice"), ("impersonate-group", "g")]).await.unwrap();
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("alice", ["g".to_owned(), AUTHENTICATED.to_owned()].as_slice()));
        let account = act(&["impersonate serviceaccounts"], &[("impersonate-user", "system:serviceaccount:a:b")]).await.unwrap();
        assert_eq!(account.groups, ["system:serviceaccounts", "system:serviceaccounts:a", AUTHENTICATED]);
        assert_eq!(act(&[], &[]).await.unwrap().name, "boss");
    }

    #[tokio::test]
    async fn constrained_modes_ask_about_the_request_too() {
        let node =
            act(&["impersonate-on:arbitrary-node:list pods", "impersonate:arbitrary-node nodes"], &[("impersonate-user", "system:node:n")])
                .await;
        assert_eq!(node.unwrap().groups, ["system:nodes", AUTHENTICATED]);
        let refused = act(&["impersonate:user-info users"], &[("impersonate-user", "alice")]).await.unwrap_err();
        let expect =
            r#"pods is forbidden: User "boss" cannot impersonate-on:user-info:list resource "pods" in API group "" in the namespace "a""#;
        assert_eq!(refused, expect);
    }

    #[test]
    fn the_mode_that_was_good_is_tried_first() {
        let modes = Modes::default();
        modes.remember("boss", Mode::Legacy);
        assert_eq!(modes.in_order("boss")[..2], [Mode::Legacy, Mode::AssociatedNode]);
        assert_eq!(modes.in_order("other"), Mode::ALL);
        for i in 0..2 * MAX_REMEMBERED {
            modes.remember(&i.to_string(), Mode::UserInfo);
        }
        assert!(modes.0.lock().len() <= MAX_REMEMBERED);
    }

    #[tokio::test]
    async fn groups_without_a_user_are_a_bad_request() {
        let expect = r#"requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string{"g"}, Extra:map[string][]string(nil)} without impersonating a user name"#;
        assert_eq!(act(&[], &[("impersonate-group", "g")]).await.unwrap_err(), expect);
    }
}
