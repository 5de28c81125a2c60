//! What is asked for: the path, the verb and the query of a request.

use std::collections::BTreeMap;

use http::{Method, Uri};

use super::kinds::{self, KindId};

#[derive(Debug)]
pub struct Request {
    pub method: Method,
    pub path: String,
    pub kind: Option<KindId>,
    pub namespace: String,
    pub name: String,
    pub part: String,
    pub query: BTreeMap<String, String>,
}

impl Request {
    pub fn parse(method: &Method, uri: &Uri) -> Request {
        let path = uri.path().to_owned();
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match segments.as_slice() {
            ["api", _, rest @ ..] => ("", rest),
            ["apis", group, _, rest @ ..] => (*group, rest),
            _ => ("", &[][..]),
        };
        // A namespace itself is a resource, and so are its parts.
        let (namespace, rest) = match rest {
            ["namespaces", _, "status" | "finalize"] | ["namespaces"] | ["namespaces", _] => ("", rest),
            ["namespaces", namespace, rest @ ..] => (*namespace, rest),
            rest => ("", rest),
        };
        let at = |place: usize| rest.get(place).copied().unwrap_or("");
        let (kind, namespace, name, part) = (kinds::find(group, at(0)), namespace.to_owned(), at(1).to_owned(), at(2).to_owned());
        let query = uri.query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
        let query = query.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Request { method: method.clone(), kind, namespace, name, part, query, path }
    }

    pub fn asks(&self, name: &str) -> bool {
        self.query.get(name).is_some_and(|value| value == "true")
    }

    pub fn is_write(&self) -> bool {
        self.method != Method::GET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_a_kind_a_namespace_an_object_and_a_part_of_it() {
        let parsed = |path: &str| {
            let request = Request::parse(&Method::GET, &path.parse().unwrap());
            (request.kind, request.namespace, request.name, request.part)
        };
        let told = |kind, namespace: &str, name: &str, part: &str| (Some(kind), namespace.to_owned(), name.to_owned(), part.to_owned());
        assert_eq!(parsed("/api/v1/namespaces/d/pods/p/status?x=y"), told(kinds::POD, "d", "p", "status"));
        assert_eq!(parsed("/apis/apps/v1/deployments"), told(kinds::DEPLOYMENT, "", "", ""));
        assert_eq!(parsed("/api/v1/namespaces/d/finalize"), told(kinds::NAMESPACE, "", "d", "finalize"));
        assert_eq!(parsed("/api/v1/nodes/n"), told(kinds::NODE, "", "n", ""));
        assert_eq!(parsed("/apis/nobody/v1/knows").0, None);
    }
}
