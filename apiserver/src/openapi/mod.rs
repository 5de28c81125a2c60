//! OpenAPI documents: version 3 per group-version with an index, and version 2 as a whole.
//!
//! Everything is derived from the schema table and the resource table when it is first asked for, and kept until the
//! resources change. Owns no HTTP: the endpoints write these bytes and set `ETag` from [`Document::hash`].

mod convert;
mod document;
pub mod gnostic;
pub mod merge;
pub mod operation;
mod paths;
pub mod resource;
pub mod schema;
pub mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::{Arc, OnceLock};

use apimachinery::schema::Types;
use axum::body::Body;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use serde_json::{Map, Value, json};

use crate::aggregation::openapi::Documents;
use crate::endpoints::respond::{self, CHUNK_BYTES};
use crate::registry::Definition;
use document::Frame;
use operation::{Content, Operation};
use resource::Resource;
use schema::Flavour;

/// A document as it is sent.
#[derive(Debug)]
pub struct Document {
    /// Of the JSON text, or of what it is made from, in upper case hexadecimal: the `hash` of the index and, in quotes, the `ETag`.
    pub hash: String,
    flavour: Flavour,
    json: Form,
    protobuf: OnceLock<Form>,
}

/// A document in one of its two forms.
#[derive(Debug)]
pub enum Form {
    /// With the compressed form, made when it is first asked for.
    Plain(Bytes, OnceLock<Option<Bytes>>),
    /// Compressed alone: there are as many documents of custom resources as there are groups, and each repeats what the others say.
    Packed { gzip: Bytes, length: usize },
}

impl Form {
    fn plain(bytes: Bytes) -> Form {
        Form::Plain(bytes, OnceLock::new())
    }

    fn packed(bytes: &[u8]) -> Form {
        match respond::pack(bytes) {
            Some(gzip) => Form::Packed { gzip, length: bytes.len() },
            None => Form::plain(Bytes::copy_from_slice(bytes)),
        }
    }

    pub fn bytes(&self) -> Bytes {
        match self {
            Form::Plain(bytes, _) => bytes.clone(),
            Form::Packed { gzip, length } => {
                let mut bytes = Vec::with_capacity(*length);
                flate2::read::GzDecoder::new(&**gzip).read_to_end(&mut bytes).expect("it was compressed here");
                bytes.into()
            }
        }
    }

    /// The length, and the bytes as a body. What is kept compressed is unpacked as it goes out: clients that take it slowly, or not at
    /// all, cost no more than others.
    pub fn body(&self) -> (usize, Body) {
        match self {
            Form::Plain(bytes, _) => (bytes.len(), Body::from(bytes.clone())),
            Form::Packed { gzip, length } => {
                let chunks = Unpacking(flate2::read::GzDecoder::new(std::io::Cursor::new(gzip.clone())));
                (*length, Body::from_stream(futures::stream::iter(chunks)))
            }
        }
    }

    /// The bytes compressed, if there are enough of them for that.
    pub fn gzip(&self) -> Option<Bytes> {
        match self {
            Form::Plain(bytes, gzip) => gzip.get_or_init(|| respond::gzip(bytes)).clone(),
            Form::Packed { gzip, length } => respond::is_large(*length).then(|| gzip.clone()),
        }
    }
}

impl Document {
    fn plain(value: &Value, flavour: Flavour) -> Document {
        let json = Bytes::from(value.to_string());
        Document { hash: sha512(&json), flavour, json: Form::plain(json), protobuf: OnceLock::new() }
    }

    fn packed(json: &[u8], hash: String, flavour: Flavour) -> Document {
        Document { hash, flavour, json: Form::packed(json), protobuf: OnceLock::new() }
    }

    /// Somebody else's document of version 2, converted.
    pub fn of_version_2(document: &Value) -> Document {
        let json = convert::to_v3(document).to_string();
        let hash = sha512(json.as_bytes());
        Document::packed(json.as_bytes(), hash, Flavour::V3)
    }

    pub fn json(&self) -> &Form {
        &self.json
    }

    /// The same document as a gnostic message (`application/com.github.proto-openapi.spec.v3.v1.0+protobuf`, and
    /// `…spec.v2@v1.0+protobuf`), made when it is first asked for and kept as the JSON is.
    pub fn protobuf(&self) -> &Form {
        self.protobuf.get_or_init(|| {
            let value: Value = serde_json::from_slice(&self.json.bytes()).expect("the document was written from a value");
            let message = gnostic::encode(&value, self.flavour);
            match self.json {
                Form::Plain(..) => Form::plain(message.into()),
                Form::Packed { .. } => Form::packed(&message),
            }
        })
    }
}

/// A compressed text, chunk by chunk.
struct Unpacking(flate2::read::GzDecoder<std::io::Cursor<Bytes>>);

impl Iterator for Unpacking {
    type Item = std::io::Result<Bytes>;

    fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match (&mut self.0).take(CHUNK_BYTES as u64).read_to_end(&mut chunk) {
            Ok(0) => None,
            Ok(_) => Some(Ok(chunk.into())),
            Err(error) => Some(Err(error)),
        }
    }
}

fn sha512(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA512, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02X}")).collect()
}

/// Gives a definition by name, in the form of a version.
pub type DefinitionsOf = dyn Fn(&str, Flavour) -> Option<Value> + Send + Sync;

/// Reads what a definition of custom resources publishes of one version.
type Read = dyn Fn() -> (Resource, Box<DefinitionsOf>) + Send + Sync;

/// What a definition of custom resources publishes of one version.
pub struct Published {
    /// Tells it from any other.
    digest: [u8; 64],
    /// What is read is many times larger than the definition, and not kept.
    read: Box<Read>,
}

impl Published {
    pub fn new(digest: [u8; 64], read: impl Fn() -> (Resource, Box<DefinitionsOf>) + Send + Sync + 'static) -> Published {
        Published { digest, read: Box::new(read) }
    }
}

/// What one document is about. Operations are not kept: they are larger than the document they end up in.
struct Part {
    source: Source,
    /// The group-version, for types that are in every one; none for documents on no resource.
    group_version: Option<(String, String)>,
    hash: OnceLock<String>,
    document: OnceLock<Arc<Document>>,
}

enum Source {
    BuiltIn {
        resources: Vec<Resource>,
        /// The operation on no resource that the document has or consists of.
        plain: Box<Operation>,
    },
    /// Of definitions of custom resources, by name. What serves them publishes no discovery.
    Custom(imbl::OrdMap<String, Arc<Published>>),
}

/// What is read of a part to make a document.
struct Contents {
    operations: Vec<Operation>,
    /// Consulted before the built-in types.
    own: Vec<Box<DefinitionsOf>>,
}

impl Contents {
    fn definition(&self, name: &str, flavour: Flavour) -> Option<Value> {
        self.own.iter().find_map(|own| own(name, flavour))
    }
}

impl Part {
    fn new(source: Source, group_version: Option<(String, String)>) -> Part {
        Part { source, group_version, hash: OnceLock::new(), document: OnceLock::new() }
    }

    fn contents(&self) -> Contents {
        match &self.source {
            Source::BuiltIn { resources, plain } => {
                let operations = resources.iter().flat_map(operation::operations).chain([(**plain).clone()]).collect();
                Contents { operations, own: Vec::new() }
            }
            Source::Custom(definitions) => {
                let mut contents = Contents { operations: Vec::new(), own: Vec::new() };
                for published in definitions.values() {
                    let (resource, own) = (published.read)();
                    contents.operations.extend(operation::operations(&resource));
                    contents.own.push(own);
                }
                contents
            }
        }
    }

    fn group(&self) -> Option<(&str, &str)> {
        self.group_version.as_ref().map(|(group, version)| (group.as_str(), version.as_str()))
    }

    fn is_custom(&self) -> bool {
        matches!(self.source, Source::Custom(_))
    }
}

/// All documents of a server.
pub struct OpenApi {
    types: &'static Types,
    version: String,
    parts: RwLock<BTreeMap<String, Arc<Part>>>,
    /// What others publish.
    aggregated: RwLock<Aggregated>,
    whole: Mutex<Whole>,
}

/// Where others' documents of version 3 are, by path, and what they say in version 2.
#[derive(Default)]
struct Aggregated {
    v3: BTreeMap<String, String>,
    /// Of those who know version 2 alone.
    converted: BTreeMap<String, Arc<Document>>,
    /// The paths of these that are of the groups and versions that others serve.
    own: BTreeSet<String>,
    v2: Vec<Arc<Value>>,
}

/// What depends on all parts; dropped when one changes.
#[derive(Default)]
struct Whole {
    /// Counts changes, so that what was made from older parts is not kept.
    generation: u64,
    index: Option<Bytes>,
    v2: Option<Arc<Document>>,
}

impl OpenApi {
    /// The documents of built-in resources. `version` is that of the API, without a patch.
    pub fn new(definitions: &[&Definition], types: &'static Types, version: &str) -> OpenApi {
        OpenApi::of(definitions.iter().map(|d| Resource::built_in(d, types)).collect(), types, version)
    }

    /// The documents of any resources that the built-in types describe.
    pub fn of(resources: Vec<Resource>, types: &'static Types, version: &str) -> OpenApi {
        let out =
            OpenApi { types, version: version.into(), parts: RwLock::default(), aggregated: RwLock::default(), whole: Mutex::default() };
        let mut groups: BTreeMap<(String, String), Vec<Resource>> = BTreeMap::new();
        for r in resources {
            groups.entry((r.group.clone(), r.version.clone())).or_default().push(r);
        }
        for (path, plain) in roots(groups.keys().map(|(group, _)| group.as_str()).collect()) {
            out.put(path, Part::new(Source::BuiltIn { resources: Vec::new(), plain: Box::new(plain) }, None));
        }
        for ((group, version), resources) in groups {
            let path = group_version_path(&group, &version);
            let plain = operation::discovery(&format!("/{path}/"), "APIResources", "get available resources", "APIResourceList");
            out.put(path, Part::new(Source::BuiltIn { resources, plain: Box::new(plain) }, Some((group, version))));
        }
        out
    }

    /// Adds or replaces what a definition of custom resources publishes of a version. Of a group and version that the server has itself
    /// nothing is added.
    pub fn set_custom(&self, group: &str, version: &str, definition: &str, published: Published) {
        self.change_custom(group, version, |definitions| {
            definitions.insert(definition.to_owned(), Arc::new(published));
        });
    }

    /// Forgets what a definition has published of a version that it does not serve any more.
    pub fn remove_custom(&self, group: &str, version: &str, definition: &str) {
        self.change_custom(group, version, |definitions| {
            definitions.remove(definition);
        });
    }

    fn change_custom(&self, group: &str, version: &str, change: impl FnOnce(&mut imbl::OrdMap<String, Arc<Published>>)) {
        let path = group_version_path(group, version);
        let mut parts = self.parts.write();
        let mut definitions = match parts.get(&path).map(|part| &part.source) {
            Some(Source::BuiltIn { .. }) => return,
            Some(Source::Custom(definitions)) => definitions.clone(),
            None => imbl::OrdMap::new(),
        };
        change(&mut definitions);
        if definitions.is_empty() {
            parts.remove(&path);
        } else {
            let group_version = Some((group.to_owned(), version.to_owned()));
            parts.insert(path, Arc::new(Part::new(Source::Custom(definitions), group_version)));
        }
        drop(parts);
        self.changed();
    }

    /// Replaces what others publish, by the path of their own document, the most important first.
    pub fn set_aggregated(&self, documents: &[(String, Arc<Documents>)]) {
        let mut aggregated = Aggregated::default();
        for (own, documents) in documents {
            // What stands there of ours is hidden.
            aggregated.own.extend(documents.v3.contains_key(own).then(|| own.clone()));
            for (path, url) in &documents.v3 {
                aggregated.v3.entry(path.clone()).or_insert_with(|| url.clone());
            }
            if let Some(converted) = &documents.converted {
                aggregated.converted.entry(own.clone()).or_insert_with(|| converted.clone());
            }
            aggregated.v2.extend(documents.v2.clone());
        }
        *self.aggregated.write() = aggregated;
        self.changed();
    }

    fn put(&self, path: String, part: Part) {
        self.parts.write().insert(path, Arc::new(part));
        self.changed();
    }

    fn changed(&self) {
        let mut whole = self.whole.lock();
        *whole = Whole { generation: whole.generation + 1, ..Whole::default() };
    }

    /// `/openapi/v3`: where each document is, with the hash that makes the address immutable.
    pub fn index(&self) -> Bytes {
        // The lock is not held while documents are made, which takes long.
        let generation = match &*self.whole.lock() {
            Whole { index: Some(index), .. } => return index.clone(),
            whole => whole.generation,
        };
        let parts: Vec<(String, Arc<Part>)> = self.parts.read().iter().map(|(path, part)| (path.clone(), part.clone())).collect();
        let entry = |path: &str, part: &Part| json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", self.hash(part))});
        let mut paths: Map<String, Value> = parts.iter().map(|(path, part)| (path.clone(), entry(path, part))).collect();
        let aggregated = self.aggregated.read();
        for (path, url) in &aggregated.v3 {
            if aggregated.own.contains(path) || !paths.contains_key(path) {
                paths.insert(path.clone(), json!({ "serverRelativeURL": url }));
            }
        }
        for (path, document) in &aggregated.converted {
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            paths.insert(path.clone(), json!({ "serverRelativeURL": url }));
        }
        drop(aggregated);
        paths.sort_keys();
        let index = Bytes::from(json!({"paths": paths}).to_string());
        let mut whole = self.whole.lock();
        if whole.generation == generation {
            whole.index = Some(index.clone());
        }
        index
    }

    /// Whether a document of version 3 is this server's own.
    pub fn publishes(&self, path: &str) -> bool {
        self.parts.read().contains_key(path)
    }

    /// `/openapi/v3/<path>`, such as `apis/apps/v1`.
    pub fn document_v3(&self, path: &str) -> Option<Arc<Document>> {
        if let Some(converted) = self.aggregated.read().converted.get(path) {
            return Some(converted.clone());
        }
        let part = self.parts.read().get(path).cloned()?;
        Some(self.document(&part))
    }

    /// The hash of a part's document. Those of custom resources are told apart by what they are made from: they are not all made only
    /// because one asks for the index.
    fn hash<'p>(&self, part: &'p Part) -> &'p str {
        part.hash.get_or_init(|| match &part.source {
            Source::BuiltIn { .. } => self.document(part).hash.clone(),
            Source::Custom(definitions) => {
                let mut whole = self.version.clone().into_bytes();
                for (name, published) in definitions {
                    whole.extend_from_slice(name.as_bytes());
                    whole.extend_from_slice(&published.digest);
                }
                sha512(&whole)
            }
        })
    }

    fn document(&self, part: &Part) -> Arc<Document> {
        let build = || {
            let contents = part.contents();
            let (groups, frame) = match part.is_custom() {
                true => (schema::known_to_clients(), document::OF_CUSTOM_RESOURCES),
                false => (part.group().into_iter().collect(), Frame::of_server(&self.version)),
            };
            let definitions =
                |name: &str, flavour| contents.definition(name, flavour).or_else(|| schema::definition(self.types, name, flavour, &groups));
            let value = document::v3(&contents.operations, &definitions, &frame);
            Arc::new(match part.is_custom() {
                true => Document::packed(value.to_string().as_bytes(), self.hash(part).to_owned(), Flavour::V3),
                false => Document::plain(&value, Flavour::V3),
            })
        };
        part.document.get_or_init(build).clone()
    }

    /// `/openapi/v2`: one document about everything.
    pub fn document_v2(&self) -> Arc<Document> {
        let generation = match &*self.whole.lock() {
            Whole { v2: Some(document), .. } => return document.clone(),
            whole => whole.generation,
        };
        let parts: Vec<Arc<Part>> = self.parts.read().values().cloned().collect();
        let groups = schema::known_to_servers();
        let builtin = |name: &str| schema::definition(self.types, name, Flavour::V2, &groups);
        let mut v2 = document::V2::default();
        for part in &parts {
            let contents = part.contents();
            v2.add(&contents.operations, &|name| contents.definition(name, Flavour::V2));
        }
        let mut text = v2.finish(&builtin, &self.version);
        let others = self.aggregated.read().v2.clone();
        if !others.is_empty() {
            let mut document: Value = serde_json::from_str(&text).expect("the document was written from values");
            others.iter().for_each(|other| merge::into(&mut document, other));
            text = document.to_string();
        }
        let document = Arc::new(Document::packed(text.as_bytes(), sha512(text.as_bytes()), Flavour::V2));
        let mut whole = self.whole.lock();
        if whole.generation == generation {
            whole.v2 = Some(document.clone());
        }
        document
    }
}

fn group_version_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The documents on no resource: discovery's roots and groups, the version, the token issuer.
fn roots(groups: BTreeSet<&str>) -> Vec<(String, Operation)> {
    let text = Content::Text;
    let info = Content::Object("io.k8s.apimachinery.pkg.version.Info".into());
    let json = ["application/json"];
    let mut code_version = operation::plain("/version/", "get", "CodeVersion", "get the version information for this server", info, &json);
    code_version.consumes = json.into();
    let mut out = vec![
        code_version,
        operation::discovery("/api/", "APIVersions", "get available API versions", "APIVersions"),
        operation::discovery("/apis/", "APIVersions", "get available API versions", "APIGroupList"),
        operation::plain(
            "/.well-known/openid-configuration/",
            "get",
            "ServiceAccountIssuerOpenIDConfiguration",
            "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            text.clone(),
            &json,
        ),
        operation::plain(
            "/openid/v1/jwks/",
            "get",
            "ServiceAccountIssuerOpenIDKeyset",
            "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            text,
            &["application/jwk-set+json"],
        ),
    ];
    let named = groups.into_iter().filter(|g| !g.is_empty());
    out.extend(named.map(|g| operation::discovery(&format!("/apis/{g}/"), "APIGroup", "get information of a group", "APIGroup")));
    out.into_iter().map(|op| (op.path.trim_matches('/').to_owned(), op)).collect()
}

#[cfg(test)]
mod tests {
    use super::resource::Subresource;
    use super::*;
    use apimachinery::schema::builtin;

    fn verbs(all: &str) -> BTreeSet<String> {
        all.split(' ').map(str::to_owned).collect()
    }

    fn resource(group: &str, plural: &str, kind: &str, subresources: Vec<Subresource>) -> Resource {
        let id = builtin().by_kind(group, "v1", kind).expect("a built-in kind");
        let schema = builtin().get(id).name.to_string();
        Resource {
            group: group.into(),
            version: "v1".into(),
            plural: plural.into(),
            kind: kind.into(),
            namespaced: true,
            verbs: verbs("create delete deletecollection get list patch update watch"),
            list_schema: format!("{schema}List"),
            schema,
            subresources,
            returns_deleted_object: kind == "Pod",
            custom: false,
        }
    }

    fn exec() -> Subresource {
        let id = builtin().by_kind("", "v1", "PodExecOptions").expect("a built-in kind");
        let schema = builtin().get(id).name.to_string();
        let (name, kind) = ("exec".into(), "PodExecOptions".into());
        Subresource { name, group: String::new(), version: "v1".into(), kind, verbs: verbs("create get"), schema, options: Vec::new() }
            .with_options("Pod", builtin())
    }

    fn sample() -> OpenApi {
        let resources = vec![resource("", "pods", "Pod", vec![exec()]), resource("apps", "deployments", "Deployment", Vec::new())];
        OpenApi::of(resources, builtin(), "1.37")
    }

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).expect("JSON")
    }

    #[test]
    fn the_index_names_every_document_by_its_hash() {
        let api = sample();
        let index = parsed(&api.index());
        let paths: Vec<&String> = index["paths"].as_object().expect("paths").keys().collect();
        let expected =
            [".well-known/openid-configuration", "api", "api/v1", "apis", "apis/apps", "apis/apps/v1", "openid/v1/jwks", "version"];
        assert_eq!(paths, expected);
        let apps = api.document_v3("apis/apps/v1").expect("a document");
        assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], format!("/openapi/v3/apis/apps/v1?hash={}", apps.hash));
        assert_eq!(apps.hash.len(), 128);
        assert!(api.document_v3("apis/nosuch/v1").is_none());
    }

    #[test]
    fn a_document_has_its_operations_and_what_they_reach() {
        let apps = parsed(&sample().document_v3("apis/apps/v1").expect("a document").json().bytes());
        let item = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
        assert_eq!(item["get"]["operationId"], "readAppsV1NamespacedDeployment");
        assert_eq!(item["delete"]["responses"]["202"]["description"], "Accepted");
        let shared: Vec<&str> = item["parameters"].as_array().expect("parameters").iter().filter_map(|p| p["name"].as_str()).collect();
        assert_eq!(shared, ["name", "namespace", "pretty"]);
        let schemas = apps["components"]["schemas"].as_object().expect("schemas");
        assert!(schemas.contains_key("io.k8s.api.core.v1.Container") && !schemas.contains_key("io.k8s.api.core.v1.Pod"));
        let options = &schemas["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"]["x-kubernetes-group-version-kind"];
        assert_eq!(options.as_array().map(Vec::len), Some(2), "core/v1 and the document's own");
    }

    #[test]
    fn streams_are_operations_without_objects() {
        let core = parsed(&sample().document_v3("api/v1").expect("a document").json().bytes());
        let exec = &core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"];
        assert_eq!(exec["post"]["operationId"], "connectCoreV1PostNamespacedPodExec");
        assert_eq!(exec["post"]["responses"]["200"]["content"], json!({"*/*": {"schema": {"type": "string"}}}));
        assert_eq!(exec["parameters"][0]["name"], "command");
        let deletion = &core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["delete"]["responses"]["200"]["content"];
        assert_eq!(deletion["application/json"]["schema"]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Pod");
    }

    #[test]
    fn a_change_of_resources_changes_the_index_and_version_2() {
        let api = sample();
        let (index, v2) = (api.index(), api.document_v2());
        assert!(Arc::ptr_eq(&v2, &api.document_v2()), "the document is kept");
        let published = || {
            Published::new([0; 64], || {
                let group = "example.com".into();
                let resource = resource("apps", "widgets", "Deployment", Vec::new());
                let widget = Resource { group, schema: "com.example.v1.Widget".into(), custom: true, ..resource };
                (widget, Box::new(|name: &str, _| (name == "com.example.v1.Widget").then(|| json!({"type": "object"}))))
            })
        };
        api.set_custom("example.com", "v1", "widgets.example.com", published());
        api.set_custom("apps", "v1", "widgets.apps", published());
        assert_ne!(index, api.index());
        assert!(parsed(&api.document_v2().json().bytes())["definitions"]["com.example.v1.Widget"].is_object());
        let custom = parsed(&api.document_v3("apis/example.com/v1").expect("a document").json().bytes());
        let paths: Vec<&String> = custom["paths"].as_object().expect("paths").keys().collect();
        assert!(paths.iter().all(|p| !p.contains("/watch/")), "{paths:?}");
        api.remove_custom("example.com", "v1", "widgets.example.com");
        assert_eq!(index, api.index());
    }

    #[test]
    fn version_2_shares_parameters_under_upstreams_names() {
        let v2 = parsed(&sample().document_v2().json().bytes());
        let item = &v2["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
        assert_eq!(item["parameters"][1], json!({"$ref": "#/parameters/namespace-vgWSWtn3"}));
        assert_eq!(item["delete"]["parameters"][0], json!({"$ref": "#/parameters/body-2Y1dVQaQ"}));
        assert_eq!(v2["parameters"]["namespace-vgWSWtn3"]["required"], true);
        assert_eq!(v2["definitions"]["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"]["default"], Value::Null);
        let kinds = &v2["definitions"]["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"]["x-kubernetes-group-version-kind"];
        assert_eq!(kinds.as_array().map(Vec::len), Some(62));
    }
}
