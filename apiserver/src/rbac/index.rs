//! Roles and bindings, arranged for the question "which rules has this user here?". Pure.
//!
//! A value that is cheap to clone: whoever asks holds one state while the next is being made.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::field::quote;
use imbl::{HashMap, OrdMap};
use serde_json::Value;

use super::rule::Rule;
use crate::filters::authentication::User;
use crate::registry::read::{list_at, str_at};
use crate::tokens::claims;

/// A kind that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Roles and ClusterRoles.
    Role,
    /// RoleBindings and ClusterRoleBindings.
    Binding,
}

/// A binding, as far as it is looked at.
#[derive(Debug)]
pub struct Binding {
    /// Empty for cluster role bindings.
    namespace: Box<str>,
    name: Box<str>,
    role_kind: Box<str>,
    role_name: Box<str>,
    subjects: Vec<Subject>,
}

#[derive(Debug)]
struct Subject {
    kind: Box<str>,
    name: Box<str>,
    namespace: Box<str>,
}

type Name = Arc<str>;
type Bindings = OrdMap<Name, Arc<Binding>>;
type Rules = Arc<[Rule]>;

/// The bindings of one namespace, or those of the cluster.
#[derive(Clone, Default)]
struct Place {
    bindings: Bindings,
    by_user: HashMap<Name, Bindings>,
    by_group: HashMap<Name, Bindings>,
}

/// All roles and bindings.
#[derive(Clone, Default)]
pub struct Index {
    /// By namespace (empty for cluster roles) and name.
    roles: HashMap<Name, HashMap<Name, Rules>>,
    places: HashMap<Name, Place>,
}

/// Where a rule comes from: a binding and the subject in it that is the user.
pub struct Source<'a> {
    binding: &'a Binding,
    subject: &'a Subject,
}

impl Source<'_> {
    /// `RoleBinding "name/namespace" of Role "r" to User "u"`.
    pub fn told(&self) -> String {
        let (b, s) = (self.binding, self.subject);
        let place = |name: &str, namespace: &str| if namespace.is_empty() { name.to_owned() } else { format!("{name}/{namespace}") };
        let kind = if b.namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
        let subject = if &*s.kind == "ServiceAccount" {
            let namespace = if s.namespace.is_empty() { &b.namespace } else { &s.namespace };
            format!("{}/{namespace}", s.name)
        } else {
            s.name.to_string()
        };
        format!(
            "{kind} {} of {} {} to {} {}",
            quote(&place(&b.name, &b.namespace)),
            b.role_kind,
            quote(&b.role_name),
            s.kind,
            quote(&subject)
        )
    }
}

impl Subject {
    /// The name of the user that the subject is; `None` for groups, and for accounts whose namespace nobody says.
    fn user(&self, place: &str) -> Option<String> {
        match &*self.kind {
            "User" => Some(self.name.to_string()),
            "ServiceAccount" => {
                let namespace = if self.namespace.is_empty() { place } else { &self.namespace };
                (!namespace.is_empty()).then(|| claims::user_name(namespace, &self.name))
            }
            _ => None,
        }
    }

    fn is(&self, user: &User, place: &str) -> bool {
        match &*self.kind {
            "Group" => user.in_group(&self.name),
            "User" => *self.name == *user.name,
            "ServiceAccount" => {
                let namespace = if self.namespace.is_empty() { place } else { &self.namespace };
                !namespace.is_empty() && claims::is_user_name(&user.name, namespace, &self.name)
            }
            _ => false,
        }
    }
}

impl Binding {
    fn parse(namespace: &str, name: &str, value: &Value) -> Binding {
        let subject = |value: &Value| Subject {
            kind: str_at(value, "/kind").into(),
            name: str_at(value, "/name").into(),
            namespace: str_at(value, "/namespace").into(),
        };
        Binding {
            namespace: namespace.into(),
            name: name.into(),
            role_kind: str_at(value, "/roleRef/kind").into(),
            role_name: str_at(value, "/roleRef/name").into(),
            subjects: list_at(value, "/subjects").iter().map(subject).collect(),
        }
    }
}

impl Place {
    fn insert(&mut self, name: &str, binding: Arc<Binding>) {
        let name = Name::from(name);
        for subject in &binding.subjects {
            let (map, key) = match subject.user(&binding.namespace) {
                Some(user) => (&mut self.by_user, Name::from(user)),
                None if &*subject.kind == "Group" => (&mut self.by_group, Name::from(&*subject.name)),
                None => continue,
            };
            map.entry(key).or_default().insert(name.clone(), binding.clone());
        }
        self.bindings.insert(name, binding);
    }

    fn remove(&mut self, name: &str) {
        let Some(binding) = self.bindings.remove(name) else { return };
        for subject in &binding.subjects {
            let (map, key) = match subject.user(&binding.namespace) {
                Some(user) => (&mut self.by_user, user),
                None => (&mut self.by_group, subject.name.to_string()),
            };
            let Some(bindings) = map.get_mut(key.as_str()) else { continue };
            bindings.remove(name);
            if bindings.is_empty() {
                map.remove(key.as_str());
            }
        }
    }

    /// The bindings with this user among their subjects, by name.
    fn of<'a>(&'a self, user: &User) -> Box<dyn Iterator<Item = &'a Arc<Binding>> + 'a> {
        let by_group = user.groups.iter().filter_map(|group| self.by_group.get(group.as_str()));
        let mut found = self.by_user.get(user.name.as_str()).into_iter().chain(by_group);
        match (found.next(), found.next()) {
            (None, _) => Box::new(std::iter::empty()),
            // In order already: of many bindings only those are looked at that come before one that allows.
            (Some(only), None) => Box::new(only.values()),
            (Some(first), Some(second)) => {
                let all = [first, second].into_iter().chain(found);
                let sorted: BTreeMap<_, _> = all.flat_map(|bindings| bindings.iter().map(|(name, binding)| (&**name, binding))).collect();
                Box::new(sorted.into_values())
            }
        }
    }
}

impl Index {
    /// Takes in the present state of an object; `None` if it is gone. `namespace` is empty for the cluster's kinds.
    pub fn set(&mut self, kind: Kind, namespace: &str, name: &str, value: Option<&Value>) {
        match kind {
            Kind::Role => match value {
                Some(value) => {
                    let rules: Rules = list_at(value, "/rules").iter().map(Rule::parse).collect();
                    self.roles.entry(namespace.into()).or_default().insert(name.into(), rules);
                }
                None => {
                    let Some(roles) = self.roles.get_mut(namespace) else { return };
                    roles.remove(name);
                    if roles.is_empty() {
                        self.roles.remove(namespace);
                    }
                }
            },
            Kind::Binding => {
                let place = self.places.entry(namespace.into()).or_default();
                place.remove(name);
                if let Some(value) = value {
                    place.insert(name, Arc::new(Binding::parse(namespace, name, value)));
                }
                if place.bindings.is_empty() {
                    self.places.remove(namespace);
                }
            }
        }
    }

    /// The rules of a role that a binding in `namespace` refers to, or why there are none.
    pub fn referenced(&self, kind: &str, name: &str, namespace: &str) -> Result<&[Rule], MissingRole> {
        let place = match kind {
            "ClusterRole" => "",
            "Role" => namespace,
            _ => return Err(MissingRole::Kind(kind.to_owned())),
        };
        let found = self.roles.get(place).and_then(|roles| roles.get(name));
        found.map(|rules| &**rules).ok_or_else(|| MissingRole::Absent { resource: kind.to_lowercase(), name: name.to_owned() })
    }

    /// Visits every rule that a user has in a namespace (in the cluster, if it is empty), and every reference to a role that is
    /// not there, until the visitor returns false.
    pub fn visit<'a>(
        &'a self,
        user: &User,
        namespace: &str,
        mut visitor: impl FnMut(Result<(&Source<'a>, &'a Rule), MissingRole>) -> bool,
    ) {
        let local = (!namespace.is_empty()).then_some(namespace);
        for place_name in std::iter::once("").chain(local) {
            let Some(place) = self.places.get(place_name) else { continue };
            for binding in place.of(user) {
                let Some(subject) = binding.subjects.iter().find(|s| s.is(user, place_name)) else { continue };
                let source = Source { binding, subject };
                match self.referenced(&binding.role_kind, &binding.role_name, place_name) {
                    Err(missing) => {
                        if !visitor(Err(missing)) {
                            return;
                        }
                    }
                    Ok(rules) => {
                        for rule in rules {
                            if !visitor(Ok((&source, rule))) {
                                return;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Every rule that a user has in a namespace, and what could not be resolved.
    pub fn rules<'a>(&'a self, user: &User, namespace: &str) -> (Vec<&'a Rule>, Vec<MissingRole>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        self.visit(user, namespace, |found| {
            match found {
                Ok((_, rule)) => rules.push(rule),
                Err(missing) => errors.push(missing),
            }
            true
        });
        (rules, errors)
    }
}

/// Why a reference to a role gives no rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MissingRole {
    #[error("{resource}.rbac.authorization.k8s.io {} not found", quote(name))]
    Absent { resource: String, name: String },
    #[error("unsupported role reference kind: {}", quote(.0))]
    Kind(String),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn index() -> Index {
        let mut index = Index::default();
        let role = |resource: &str| json!({ "rules": [{ "verbs": ["get"], "apiGroups": [""], "resources": [resource] }] });
        index.set(Kind::Role, "", "reader", Some(&role("nodes")));
        index.set(Kind::Role, "a", "local", Some(&role("pods")));
        let bind = |kind: &str, name: &str, subjects: Value| json!({ "roleRef": { "kind": kind, "name": name }, "subjects": subjects });
        index.set(Kind::Binding, "", "c", Some(&bind("ClusterRole", "reader", json!([{ "kind": "Group", "name": "g" }]))));
        index.set(
            Kind::Binding,
            "a",
            "l",
            Some(&bind("Role", "local", json!([{ "kind": "ServiceAccount", "name": "sa" }, { "kind": "User", "name": "u" }]))),
        );
        index.set(Kind::Binding, "a", "broken", Some(&bind("ClusterRole", "none", json!([{ "kind": "User", "name": "u" }]))));
        index
    }

    fn seen(index: &Index, user: &str, group: &str, namespace: &str) -> Vec<String> {
        let user = User { name: user.into(), groups: vec![group.into()], ..User::default() };
        let mut lines = Vec::new();
        index.visit(&user, namespace, |found| {
            lines.push(match found {
                Ok((source, rule)) => format!("{}: {}", rule.resources[0], source.told()),
                Err(missing) => missing.to_string(),
            });
            true
        });
        lines
    }

    #[test]
    fn a_user_has_the_rules_of_what_binds_it() {
        let index = index();
        assert_eq!(seen(&index, "x", "g", "a"), [r#"nodes: ClusterRoleBinding "c" of ClusterRole "reader" to Group "g""#]);
        assert_eq!(
            seen(&index, "u", "", "a"),
            [r#"clusterrole.rbac.authorization.k8s.io "none" not found"#, r#"pods: RoleBinding "l/a" of Role "local" to User "u""#]
        );
        let account = "system:serviceaccount:a:sa";
        assert_eq!(seen(&index, account, "", "a"), [r#"pods: RoleBinding "l/a" of Role "local" to ServiceAccount "sa/a""#]);
        assert!(seen(&index, account, "", "b").is_empty());
        assert!(seen(&index, "u", "", "").is_empty());
    }

    #[test]
    fn what_is_gone_gives_nothing() {
        let mut index = index();
        index.set(Kind::Binding, "", "c", None);
        assert!(seen(&index, "x", "g", "a").is_empty());
        index.set(Kind::Role, "a", "local", None);
        assert!(seen(&index, "u", "", "a").contains(&r#"role.rbac.authorization.k8s.io "local" not found"#.to_owned()));
        for name in ["l", "broken"] {
            index.set(Kind::Binding, "a", name, None);
        }
        assert!(index.places.is_empty() && seen(&index, "u", "", "a").is_empty());
    }
}
