//! What an extension API server tells of the resources of a group and version: in one document of everything it serves, or in the older
//! form, the list of one version.

use std::time::Duration;

use http::{StatusCode, header};
use serde_json::Value;

use super::endpoint;
use super::registration::Registration;
use super::remote::{Question, aggregator};
use crate::api::Api;
use crate::discovery::priority::CUSTOM;
use crate::discovery::{GroupVersion, Kind, Resource, Subresource};
use crate::filters::authentication::User;
use crate::registry::read::{bool_at, list_at, str_at};

const AGGREGATED: &str = "application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io";
/// A server must have told by then.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An entry for a group and version whose server has not told anything yet.
pub fn unknown(group: &str, version: &str) -> GroupVersion {
    GroupVersion {
        group: group.to_owned(),
        version: version.to_owned(),
        priority: CUSTOM,
        resources: Vec::new(),
        explicit_kinds: true,
        stale: true,
    }
}

/// Asks the server of a registration what it serves of its group and version.
pub async fn fetch(api: &Api, registration: &Registration) -> Result<GroupVersion, String> {
    let failed = |code: u16| {
        let service = &registration.service;
        format!("service {}/{}:{} returned non-success response code: {code}", service.namespace, service.name, service.port)
    };
    if !registration.available {
        return Err(failed(503));
    }
    let target = endpoint::resolve(api, &registration.service)?;
    let question = |accept| Question { accept, etag: "", timeout: TIMEOUT };
    let all = registration.read_document(&target, "/apis", &aggregator(), question(AGGREGATED)).await?;
    if all.status == StatusCode::SERVICE_UNAVAILABLE {
        return Err(failed(503));
    }
    let resources = if all.status == StatusCode::OK && is_aggregated(all.header(header::CONTENT_TYPE)) {
        let document: Value = serde_json::from_slice(&all.body).map_err(|error| error.to_string())?;
        of_version(&document, &registration.group, &registration.version)
    } else {
        let nobody_special = User { groups: Vec::new(), ..aggregator() };
        let path = registration.path();
        let one = registration.read_document(&target, &path, &nobody_special, question("application/json")).await?;
        if one.status != StatusCode::OK {
            return Err(format!("failed to download legacy discovery for {path}: ResponseCode: {}", one.status.as_u16()));
        }
        let document: Value = serde_json::from_slice(&one.body).map_err(|error| error.to_string())?;
        of_list(&document)
    };
    Ok(GroupVersion { resources, stale: false, ..unknown(&registration.group, &registration.version) })
}

/// Whether a content type is that of aggregated discovery, version 2.
fn is_aggregated(content_type: &str) -> bool {
    let mut pieces = content_type.split(';').map(str::trim);
    let media = pieces.next().unwrap_or("");
    let params: Vec<&str> = pieces.collect();
    media == "application/json" && ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"].iter().all(|p| params.contains(p))
}

/// The resources of a version in an APIGroupDiscoveryList; none if it is not there.
fn of_version(document: &Value, group: &str, version: &str) -> Vec<Resource> {
    let groups = list_at(document, "/items").iter().filter(|g| str_at(g, "/metadata/name") == group);
    let found = groups.flat_map(|g| list_at(g, "/versions")).find(|v| str_at(v, "/version") == version);
    found.map(|v| list_at(v, "/resources").iter().map(resource).collect()).unwrap_or_default()
}

fn resource(told: &Value) -> Resource {
    let subresource =
        |s: &Value| Subresource { name: str_at(s, "/subresource").to_owned(), kind: response_kind(s), verbs: words(s, "/verbs") };
    Resource {
        plural: str_at(told, "/resource").to_owned(),
        singular: str_at(told, "/singularResource").to_owned(),
        namespaced: str_at(told, "/scope") == "Namespaced",
        kind: response_kind(told),
        verbs: words(told, "/verbs"),
        short_names: words(told, "/shortNames"),
        categories: words(told, "/categories"),
        storage_version_hash: String::new(),
        subresources: list_at(told, "/subresources").iter().map(subresource).collect(),
    }
}

fn response_kind(told: &Value) -> Kind {
    let text = |field: &str| str_at(told, &format!("/responseKind/{field}"));
    Kind::of(text("kind"), text("group"), text("version"))
}

fn words(told: &Value, path: &str) -> Vec<String> {
    list_at(told, path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The resources of an APIResourceList, subresources below theirs.
fn of_list(document: &Value) -> Vec<Resource> {
    let mut resources: Vec<Resource> = Vec::new();
    for told in list_at(document, "/resources") {
        let name = str_at(told, "/name");
        let kind = Kind::of(str_at(told, "/kind"), str_at(told, "/group"), str_at(told, "/version"));
        let blank = |plural: &str| Resource {
            plural: plural.to_owned(),
            singular: String::new(),
            namespaced: bool_at(told, "/namespaced"),
            kind: Kind::of("", "", ""),
            verbs: Vec::new(),
            short_names: Vec::new(),
            categories: Vec::new(),
            storage_version_hash: String::new(),
            subresources: Vec::new(),
        };
        let (plural, subresource) = name.split_once('/').map_or((name, None), |(plural, sub)| (plural, Some(sub)));
        let place = resources.iter().position(|r| r.plural == plural).unwrap_or_else(|| {
            resources.push(blank(plural));
            resources.len() - 1
        });
        match subresource {
            Some(sub) => resources[place].subresources.push(Subresource { name: sub.to_owned(), kind, verbs: words(told, "/verbs") }),
            None => {
                resources[place] = Resource {
                    singular: str_at(told, "/singularName").to_owned(),
                    kind,
                    verbs: words(told, "/verbs"),
                    short_names: words(told, "/shortNames"),
                    categories: words(told, "/categories"),
                    subresources: std::mem::take(&mut resources[place].subresources),
                    ..blank(plural)
                }
            }
        }
    }
    resources
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::discovery::Index;

    #[test]
    fn what_a_server_tells_is_told_on() {
        let resources = json!([
            {"resource": "flunders", "responseKind": {"group": "wardle.example.com", "version": "v1", "kind": "Flunder"}, "scope": "Namespaced",
             "singularResource": "flunder", "verbs": ["create", "get"], "shortNames": ["fl"],
             "subresources": [{"subresource": "status", "responseKind": {"group": "wardle.example.com", "version": "v1", "kind": "Flunder"}, "verbs": ["get"]}]},
        ]);
        let version = json!({"version": "v1", "resources": resources, "freshness": "Current"});
        let document = json!({"items": [{"metadata": {"name": "wardle.example.com"}, "versions": [version]}]});
        assert!(of_version(&document, "wardle.example.com", "v2").is_empty());
        let entry = GroupVersion {
            resources: of_version(&document, "wardle.example.com", "v1"),
            stale: false,
            ..unknown("wardle.example.com", "v1")
        };
        assert_eq!(Index::new([entry]).aggregated(false).value()["items"][0]["versions"][0], version);
        assert_eq!(
            Index::new([unknown("a", "v1")]).aggregated(false).value()["items"][0]["versions"],
            json!([{"version": "v1", "freshness": "Stale"}])
        );
    }

    #[test]
    fn the_older_form_is_told_on_too() {
        let document = json!({"resources": [
            {"name": "pods/log", "namespaced": true, "kind": "Pod", "verbs": ["get"]},
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"]},
            {"name": "nodes", "singularName": "", "namespaced": false, "kind": "NodeMetrics", "verbs": ["get"]},
        ]});
        let resources = of_list(&document);
        assert_eq!(resources.len(), 2);
        assert_eq!((resources[0].plural.as_str(), resources[0].kind.kind.as_str()), ("pods", "PodMetrics"));
        assert_eq!(resources[0].subresources[0].name, "log");
        assert!(!resources[1].namespaced);
    }

    #[test]
    fn the_form_is_told_by_its_type() {
        assert!(is_aggregated("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"));
        assert!(!is_aggregated("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"));
        assert!(!is_aggregated("application/json"));
    }
}
