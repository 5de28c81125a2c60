//! What an extension API server publishes about its resources: where its documents of version 3 are, and what its document of version 2
//! says of one group and version.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{StatusCode, header};
use serde_json::Value;

use super::endpoint;
use super::registration::Registration;
use super::remote::Question;
use crate::api::Api;
use crate::filters::authentication::User;
use crate::openapi::{Document, merge};
use crate::registry::read::str_at;

const TIMEOUT: Duration = Duration::from_secs(60);

/// What is published of a group and version.
#[derive(Debug, Default)]
pub struct Documents {
    /// `serverRelativeURL` by path, such as `apis/apps/v1`. The documents themselves are their server's.
    pub v3: BTreeMap<String, String>,
    /// What of version 2 is about the group and version.
    pub v2: Option<Arc<Value>>,
    /// The document of a server that knows version 2 alone, in version 3.
    pub converted: Option<Arc<Document>>,
    pub v2_etag: String,
}

impl Documents {
    /// Whether the two say the same.
    pub fn is_same(&self, other: &Documents) -> bool {
        // Documents are large: the tag stands for one where there is a tag.
        let tagged = !self.v2_etag.is_empty() && self.v2_etag == other.v2_etag;
        let hash = |documents: &Documents| documents.converted.as_ref().map(|document| document.hash.clone());
        self.v3 == other.v3 && hash(self) == hash(other) && (tagged || self.v2 == other.v2)
    }
}

/// Asks the server of a registration, given what it published before.
pub async fn fetch(api: &Api, registration: &Registration, before: Option<&Documents>) -> Result<Documents, String> {
    if !registration.available {
        return Err("service unavailable".to_owned());
    }
    let target = endpoint::resolve(api, &registration.service)?;
    let user = User { name: "system:aggregator".to_owned(), ..User::default() };
    let question = |etag| Question { accept: "application/json", etag, timeout: TIMEOUT };
    let index = registration.read_document(&target, "/openapi/v3", &user, question("")).await?;
    let v3 = match index.status {
        StatusCode::OK => paths(&serde_json::from_slice(&index.body).map_err(|error| error.to_string())?),
        // Servers older than version 3 have none.
        StatusCode::NOT_FOUND => BTreeMap::new(),
        code => return Err(format!("failed to retrieve openAPI spec, http error: {code}")),
    };
    let etag = before.map_or("", |before| before.v2_etag.as_str());
    let whole = registration.read_document(&target, "/openapi/v2", &user, question(etag)).await?;
    let mut converted = None;
    let (v2, v2_etag) = match (whole.status, before) {
        (StatusCode::NOT_MODIFIED, Some(before)) => {
            converted.clone_from(&before.converted);
            (before.v2.clone(), before.v2_etag.clone())
        }
        (StatusCode::OK, _) => {
            let document: Value = serde_json::from_slice(&whole.body).map_err(|error| error.to_string())?;
            if index.status == StatusCode::NOT_FOUND {
                converted = Some(Arc::new(Document::of_version_2(&document)));
            }
            let own = merge::below(&document, &format!("{}/", registration.path()));
            (Some(Arc::new(own)), whole.header(header::ETAG).to_owned())
        }
        (StatusCode::NOT_FOUND, _) => (None, String::new()),
        (code, _) => return Err(format!("failed to retrieve openAPI spec, http error: {code}")),
    };
    Ok(Documents { v3, v2, converted, v2_etag })
}

fn paths(index: &Value) -> BTreeMap<String, String> {
    let paths = index.get("paths").and_then(Value::as_object).into_iter().flatten();
    paths.map(|(path, told)| (path.clone(), str_at(told, "/serverRelativeURL").to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_index_is_read() {
        let index = json!({"paths": {"apis/a/v1": {"serverRelativeURL": "/openapi/v3/apis/a/v1?hash=1"}}});
        assert_eq!(paths(&index)["apis/a/v1"], "/openapi/v3/apis/a/v1?hash=1");
        assert!(paths(&json!({})).is_empty());
    }
}
