//! The operations of a resource: for each path and method the name, the parameters, the body and the answers.
//!
//! Knows upstream's naming rules and nothing of how a document is written.

use std::sync::LazyLock;

use apimachinery::schema::builtin;

use super::resource::{Parameter, Place, Resource, Subresource, parameters_of};
use super::schema::PATCH;

/// One method of one path.
#[derive(Clone, Debug)]
pub struct Operation {
    pub path: String,
    /// Lower case, as the key of a path item.
    pub method: &'static str,
    pub id: String,
    pub tag: String,
    pub description: String,
    /// `x-kubernetes-action`; empty for operations on no resource.
    pub action: &'static str,
    /// `x-kubernetes-group-version-kind`.
    pub kind: Option<(String, String, String)>,
    pub parameters: Vec<Parameter>,
    pub body: Option<Body>,
    pub consumes: Vec<&'static str>,
    pub produces: Vec<&'static str>,
    /// Status code, its text, and what it carries.
    pub responses: Vec<(&'static str, &'static str, Content)>,
}

/// What a request carries.
#[derive(Clone, Debug)]
pub struct Body {
    pub schema: String,
    pub required: bool,
}

/// What a response carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Nothing,
    Text,
    Object(String),
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

const PRETTY: &str = "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).";
pub const ANY_TYPE: &str = "*/*";
const OBJECT_TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAM_TYPES: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// The media types of objects, with or without those of streams of them.
fn media_types(custom: bool, streams: bool) -> Vec<&'static str> {
    let all = OBJECT_TYPES.iter().chain(STREAM_TYPES.iter().filter(|_| streams));
    all.copied().filter(|t| !custom || !t.contains("protobuf")).collect()
}

/// The query parameters of the options of one verb.
struct VerbOptions {
    get: Vec<Parameter>,
    list: Vec<Parameter>,
    create: Vec<Parameter>,
    update: Vec<Parameter>,
    patch: Vec<Parameter>,
    delete: Vec<Parameter>,
}

static OPTIONS: LazyLock<VerbOptions> = LazyLock::new(|| {
    let of = |name: &str| parameters_of(builtin(), &format!("{META}{name}Options"));
    VerbOptions { get: of("Get"), list: of("List"), create: of("Create"), update: of("Update"), patch: of("Patch"), delete: of("Delete") }
});

/// Letters, digits and underscores of `text`; a letter that follows something else is capitalized, the first if asked.
fn identifier(text: &str, capitalize_first: bool) -> String {
    let mut out = String::new();
    let mut capitalize = capitalize_first;
    for (i, c) in text.chars().enumerate() {
        if c.is_alphabetic() || c == '_' || (i != 0 && c.is_numeric()) {
            if capitalize {
                out.extend(c.to_uppercase());
            } else {
                out.push(c);
            }
            capitalize = false;
        } else {
            capitalize = true;
        }
    }
    out
}

/// `Exec` of `exec`; words keep no other capitals.
fn title(word: &str) -> String {
    let lower = word.to_lowercase();
    let mut chars = lower.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// An operation's id and tag: the verb, the group and version that the path names, and the rest of the name.
pub fn id_and_tag(verb: &str, rest: &str, path: &str) -> (String, String) {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    if parts[0] == "api" {
        parts.splice(0..1, ["apis", "core"]);
    }
    let mut id = verb.to_owned();
    let mut tag = identifier(parts[0], false);
    if parts[0] == "apis" && parts.len() > 1 {
        let group = parts[1].strip_suffix(".k8s.io").unwrap_or(parts[1]);
        id += &identifier(group, true);
        tag = identifier(group, false);
        if let Some(version) = parts.get(2) {
            id += &identifier(version, true);
            tag = format!("{tag}_{}", identifier(version, false));
        }
    }
    (id + &identifier(rest, true), tag)
}

/// "a Pod", "an Ingress"; plurals ("Endpoints") have no article.
fn with_article(noun: &str) -> String {
    if noun.ends_with('s') && !noun.ends_with("ss") {
        return noun.to_owned();
    }
    let article = if noun.starts_with(['A', 'E', 'I', 'O', 'U', 'a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// Every operation of a resource and its subresources.
pub fn operations(resource: &Resource) -> Vec<Operation> {
    let mut out = Vec::new();
    let main = Endpoint::main(resource);
    main.collection(&mut out);
    main.item(&mut out);
    for sub in &resource.subresources {
        let endpoint = Endpoint::of_subresource(resource, sub);
        if sub.connects() {
            endpoint.connections(sub, &mut out);
        } else {
            endpoint.creation(&mut out);
            endpoint.item(&mut out);
        }
    }
    out
}

/// A resource or a subresource, under the paths where its operations are.
struct Endpoint<'a> {
    resource: &'a Resource,
    sub: Option<&'a Subresource>,
    root: String,
    /// Where one POSTs and lists (for a subresource: the item itself) and where single objects are, below the root.
    collection: String,
    item: String,
    schema: Content,
}

impl<'a> Endpoint<'a> {
    fn main(resource: &'a Resource) -> Endpoint<'a> {
        let root = match &*resource.group {
            "" => format!("/api/{}/", resource.version),
            group => format!("/apis/{group}/{}/", resource.version),
        };
        let scope = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let collection = format!("{scope}{}", resource.plural);
        let item = format!("{collection}/{{name}}");
        Endpoint { resource, sub: None, root, collection, item, schema: Content::Object(resource.schema.clone()) }
    }

    fn of_subresource(resource: &'a Resource, sub: &'a Subresource) -> Endpoint<'a> {
        let main = Endpoint::main(resource);
        let item = format!("{}/{}", main.item, sub.name);
        let schema = if sub.schema.is_empty() { Content::Text } else { Content::Object(sub.schema.clone()) };
        Endpoint { sub: Some(sub), collection: item.clone(), item, schema, ..main }
    }

    fn offers(&self, verb: &str) -> bool {
        self.sub.map_or(&self.resource.verbs, |s| &s.verbs).contains(verb)
    }

    /// "Pod", "status of the specified Pod": how the operations' descriptions call the object.
    fn object(&self, before_kind: &str) -> String {
        let kind = if before_kind == "a" { with_article(&self.resource.kind) } else { format!("{before_kind}{}", self.resource.kind) };
        match self.sub {
            Some(sub) => format!("{} of {kind}", sub.name),
            None => kind,
        }
    }

    /// The operation's frame; callers add parameters, body and responses.
    fn operation(&self, path: &str, method: &'static str, action: &'static str, verb: &str, rest: &str, description: String) -> Operation {
        let path = format!("{}{path}", self.root);
        let (id, tag) = id_and_tag(verb, rest, &path);
        let r = self.resource;
        // Custom subresources are not told from the kind they are of.
        let sub = self.sub.filter(|_| !r.custom);
        let (group, version, kind) = sub.map_or((&r.group, &r.version, &r.kind), |s| (&s.group, &s.version, &s.kind));
        let mut parameters = Vec::new();
        if path.contains("{name}") {
            parameters.push(Parameter::path("name", format!("name of the {kind}")));
        }
        if path.contains("{namespace}") {
            parameters.push(Parameter::path("namespace", "object name and auth scope, such as for teams and projects".into()));
        }
        if action != "connect" {
            parameters.push(Parameter { name: "pretty".into(), place: Place::Query, kind: "string", description: Some(PRETTY.into()) });
        }
        Operation {
            path,
            method,
            id,
            tag,
            description,
            action,
            kind: Some((group.clone(), version.clone(), kind.clone())),
            parameters,
            body: None,
            consumes: if r.custom { media_types(true, false) } else { vec![ANY_TYPE] },
            produces: media_types(r.custom, false),
            responses: Vec::new(),
        }
    }

    /// `NamespacedPodLog`, with the verb in front and `List` or `ForAllNamespaces` behind, is an operation's name.
    fn name(&self) -> String {
        let scope = if self.resource.namespaced { "Namespaced" } else { "" };
        format!("{scope}{}{}", self.resource.kind, self.sub.map(|s| title(&s.name)).unwrap_or_default())
    }

    fn collection(&self, out: &mut Vec<Operation>) {
        let kind = &self.resource.kind;
        if self.offers("list") {
            out.push(self.list(&self.collection, &self.name()));
            if self.resource.namespaced {
                out.push(self.list(&self.resource.plural, &format!("{kind}ForAllNamespaces")));
            }
        }
        self.creation(out);
        if self.offers("deletecollection") {
            let rest = format!("collection{}", self.name());
            let description = format!("delete collection of {kind}");
            let mut op = self.operation(&self.collection, "delete", "deletecollection", "delete", &rest, description);
            if self.resource.custom {
                // All options of lists, and none of deletions.
                op.parameters.extend(OPTIONS.list.iter().cloned());
            } else {
                op.parameters.extend(OPTIONS.delete.iter().cloned());
                op.parameters.extend(OPTIONS.list.iter().filter(|p| p.name != "watch" && p.name != "allowWatchBookmarks").cloned());
                // Both sets of options may have one of the same name.
                op.parameters.sort_by(|a, b| (&a.name, a.place).cmp(&(&b.name, b.place)));
                op.parameters.dedup_by(|a, b| a.name == b.name && a.place == b.place);
                op.body = Some(Body { schema: format!("{META}DeleteOptions"), required: false });
            }
            op.responses = vec![("200", "OK", Content::Object(format!("{META}Status")))];
            out.push(op);
        }
        if self.offers("watch") && self.offers("list") && !self.resource.custom {
            out.push(self.watch_list(&self.collection, &format!("{}List", self.name())));
            if self.resource.namespaced {
                out.push(self.watch_list(&self.resource.plural, &format!("{kind}ListForAllNamespaces")));
            }
        }
    }

    fn list(&self, path: &str, rest: &str) -> Operation {
        let watched = self.offers("watch") && !self.resource.custom;
        let verbs = if watched { "list or watch" } else { "list" };
        let description = format!("{verbs} objects of kind {}", self.resource.kind);
        let mut op = self.operation(path, "get", "list", "list", rest, description);
        op.parameters.extend(OPTIONS.list.iter().cloned());
        op.produces = media_types(self.resource.custom, !self.resource.custom);
        op.responses = vec![("200", "OK", Content::Object(self.resource.list_schema.clone()))];
        op
    }

    fn watch_list(&self, path: &str, rest: &str) -> Operation {
        let description = format!(
            "watch individual changes to a list of {}. deprecated: use the 'watch' parameter with a list operation instead.",
            self.resource.kind
        );
        self.watch(path, "watchlist", rest, description)
    }

    fn watch(&self, path: &str, action: &'static str, rest: &str, description: String) -> Operation {
        let mut op = self.operation(&format!("watch/{path}"), "get", action, "watch", rest, description);
        op.parameters.extend(OPTIONS.list.iter().cloned());
        op.produces = media_types(false, true);
        op.responses = vec![("200", "OK", Content::Object(format!("{META}WatchEvent")))];
        op
    }

    fn creation(&self, out: &mut Vec<Operation>) {
        let Content::Object(schema) = &self.schema else { return };
        if !self.offers("create") {
            return;
        }
        let mut op = self.operation(&self.collection, "post", "post", "create", &self.name(), format!("create {}", self.object("a")));
        op.parameters.extend(OPTIONS.create.iter().cloned());
        op.body = Some(Body { schema: schema.clone(), required: true });
        op.responses =
            [("200", "OK"), ("201", "Created"), ("202", "Accepted")].map(|(code, text)| (code, text, self.schema.clone())).into();
        out.push(op);
    }

    fn item(&self, out: &mut Vec<Operation>) {
        let name = self.name();
        if self.offers("get") {
            let mut op = self.operation(&self.item, "get", "get", "read", &name, format!("read {}", self.object("the specified ")));
            if let Some(sub) = self.sub {
                op.parameters.extend(sub.options.iter().cloned());
            }
            if self.resource.custom {
                op.parameters.extend(OPTIONS.get.iter().cloned());
            }
            if self.schema == Content::Text {
                op.produces.insert(0, "text/plain");
            }
            op.responses = vec![("200", "OK", self.schema.clone())];
            out.push(op);
        }
        self.replacement(out);
        if self.offers("delete") && self.sub.is_none() {
            let mut op = self.operation(&self.item, "delete", "delete", "delete", &name, format!("delete {}", self.object("a")));
            op.parameters.extend(OPTIONS.delete.iter().cloned());
            op.body = Some(Body { schema: format!("{META}DeleteOptions"), required: false });
            let answer = match self.resource.returns_deleted_object {
                true => self.schema.clone(),
                false => Content::Object(format!("{META}Status")),
            };
            op.responses = [("200", "OK"), ("202", "Accepted")].map(|(code, text)| (code, text, answer.clone())).into();
            out.push(op);
        }
        if self.offers("watch") && self.sub.is_none() && !self.resource.custom {
            let description = format!(
                "watch changes to an object of kind {}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter.",
                self.resource.kind
            );
            out.push(self.watch(&self.item, "watch", &name, description));
        }
    }

    fn replacement(&self, out: &mut Vec<Operation>) {
        let Content::Object(schema) = &self.schema else { return };
        let written = [("200", "OK"), ("201", "Created")].map(|(code, text)| (code, text, self.schema.clone()));
        let name = self.name();
        if self.offers("update") {
            let mut op = self.operation(&self.item, "put", "put", "replace", &name, format!("replace {}", self.object("the specified ")));
            op.parameters.extend(OPTIONS.update.iter().cloned());
            op.body = Some(Body { schema: schema.clone(), required: true });
            op.responses = written.to_vec();
            out.push(op);
        }
        if self.offers("patch") {
            let description = format!("partially update {}", self.object("the specified "));
            let mut op = self.operation(&self.item, "patch", "patch", "patch", &name, description);
            op.parameters.extend(OPTIONS.patch.iter().cloned());
            op.body = Some(Body { schema: PATCH.into(), required: true });
            op.consumes = PATCH_TYPES.into_iter().filter(|t| !self.resource.custom || !t.contains("strategic")).collect();
            // That an object may be made by it is not said of custom ones.
            op.responses = written[..if self.resource.custom { 1 } else { 2 }].to_vec();
            out.push(op);
        }
    }

    /// The operations of `exec`, `proxy` and the like. A proxy that forwards every verb forwards HEAD and OPTIONS too.
    fn connections(&self, sub: &Subresource, out: &mut Vec<Operation>) {
        let methods = [("get", "get"), ("create", "post"), ("update", "put"), ("patch", "patch"), ("delete", "delete")];
        let mut methods: Vec<&'static str> = methods.into_iter().filter(|(verb, _)| sub.verbs.contains(*verb)).map(|(_, m)| m).collect();
        if sub.has_subpath() {
            methods.extend(["head", "options"]);
        }
        for method in methods {
            let description = format!("connect {} requests to {} of {}", method.to_uppercase(), sub.name, self.resource.kind);
            let rest = format!("{}{}", title(method), self.name());
            let subpath = sub.has_subpath().then(|| (format!("{}/{{path}}", self.item), format!("{rest}WithPath")));
            for (path, rest) in [(self.item.clone(), rest)].into_iter().chain(subpath) {
                let mut op = self.operation(&path, method, "connect", "connect", &rest, description.clone());
                if path.ends_with("{path}") {
                    op.parameters.push(Parameter::path("path", "path to the resource".into()));
                }
                op.parameters.extend(sub.options.iter().cloned());
                op.produces = vec![ANY_TYPE];
                op.responses = vec![("200", "OK", Content::Text)];
                out.push(op);
            }
        }
    }
}

/// An operation on no resource: discovery, the version, the issuer's documents.
pub fn plain(path: &str, verb: &str, rest: &str, description: &str, content: Content, produces: &[&'static str]) -> Operation {
    let (id, tag) = id_and_tag(verb, rest, path);
    Operation {
        path: path.into(),
        method: "get",
        id,
        tag,
        description: description.into(),
        action: "",
        kind: None,
        parameters: Vec::new(),
        body: None,
        consumes: Vec::new(),
        produces: produces.to_vec(),
        responses: vec![("200", "OK", content)],
    }
}

/// The discovery document at a path, of the given meta kind.
pub fn discovery(path: &str, name: &str, description: &str, kind: &str) -> Operation {
    let mut op = plain(path, "get", name, description, Content::Object(format!("{META}{kind}")), &OBJECT_TYPES);
    op.consumes = OBJECT_TYPES.to_vec();
    op
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_tags_name_group_and_version() {
        for (verb, rest, path, id, tag) in [
            ("read", "NamespacedPodLog", "/api/v1/namespaces/{namespace}/pods/{name}/log", "readCoreV1NamespacedPodLog", "core_v1"),
            (
                "delete",
                "collectionClusterRole",
                "/apis/rbac.authorization.k8s.io/v1/clusterroles",
                "deleteRbacAuthorizationV1CollectionClusterRole",
                "rbacAuthorization_v1",
            ),
            ("get", "APIGroup", "/apis/flowcontrol.apiserver.k8s.io/", "getFlowcontrolApiserverAPIGroup", "flowcontrolApiserver"),
            ("get", "APIVersions", "/api/", "getCoreAPIVersions", "core"),
            ("get", "APIVersions", "/apis/", "getAPIVersions", "apis"),
            (
                "get",
                "ServiceAccountIssuerOpenIDConfiguration",
                "/.well-known/openid-configuration/",
                "getServiceAccountIssuerOpenIDConfiguration",
                "WellKnown",
            ),
        ] {
            assert_eq!(id_and_tag(verb, rest, path), (id.to_owned(), tag.to_owned()), "{path}");
        }
    }

    #[test]
    fn nouns_take_the_right_article() {
        assert_eq!(with_article("Pod"), "a Pod");
        assert_eq!(with_article("Ingress"), "an Ingress");
        assert_eq!(with_article("Endpoints"), "Endpoints");
    }
}
