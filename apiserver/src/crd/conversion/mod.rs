//! Conversion between the versions of a custom kind by a webhook.
//!
//! Asks the webhook that a definition names, several objects at a time, and believes only answers that [`review`] lets pass. Knows
//! neither storage nor requests; what a version does not declare is pruned by whoever asked.

mod flights;
mod review;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::form::Form;
use crate::admission::Lookup;
use crate::registry::read::{at, list_at, str_at};
use crate::webhook_client::Webhook;
pub use flights::{Flights, Outcome, Turn, outcome};

/// How long a webhook may take for one answer, as upstream.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Questions that one definition's webhook is asked at the same time; more wait.
const MAX_CALLS: usize = 32;

/// The conversion webhook of a definition.
pub struct Converter {
    /// Every version that the definition has, served or not, by its `apiVersion`.
    forms: HashMap<String, Arc<Form>>,
    webhook: Result<Webhook, String>,
    review_versions: Vec<String>,
    calls: Semaphore,
    /// Conversions of stored objects under way, so that many who want the same one ask once.
    pub flights: Flights,
}

impl Converter {
    /// The converter of a definition whose versions have these forms; `None` if its strategy is not `Webhook`.
    pub fn read(definition: &Value, forms: HashMap<String, Arc<Form>>) -> Option<Converter> {
        let conversion = at(definition, "/spec/conversion");
        if str_at(conversion, "/strategy") != "Webhook" {
            return None;
        }
        let versions = list_at(conversion, "/webhook/conversionReviewVersions");
        Some(Converter {
            forms,
            webhook: Webhook::read(at(conversion, "/webhook/clientConfig")),
            review_versions: versions.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            calls: Semaphore::new(MAX_CALLS),
            flights: Flights::default(),
        })
    }

    /// The form of one of the definition's versions.
    pub fn form(&self, api_version: &str) -> Option<&Arc<Form>> {
        self.forms.get(api_version)
    }

    /// Objects, as they are in the definition's versions, as one of these; those that are so already are left as they are. All are
    /// converted, or none.
    pub async fn convert(&self, lookup: &dyn Lookup, mut objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, String> {
        if self.form(api_version).is_none() {
            return Err(review::invalid_version(false, api_version));
        }
        let others: Vec<usize> = (0..objects.len()).filter(|at| str_at(&objects[*at], "/apiVersion") != api_version).collect();
        if let Some(unknown) = others.iter().map(|at| str_at(&objects[*at], "/apiVersion")).find(|v| self.form(v).is_none()) {
            return Err(review::invalid_version(true, unknown));
        }
        if others.is_empty() {
            return Ok(objects);
        }
        let originals: Vec<Value> = others.iter().map(|at| objects[*at].take()).collect();
        let converted = self.ask(lookup, &originals, api_version).await?;
        for (at, converted) in others.into_iter().zip(converted) {
            objects[at] = converted;
        }
        Ok(objects)
    }

    /// One object as one of the definition's versions.
    pub async fn convert_one(&self, lookup: &dyn Lookup, object: Value, api_version: &str) -> Result<Value, String> {
        let mut converted = self.convert(lookup, vec![object], api_version).await?;
        converted.pop().ok_or_else(|| "CR conversion failed".to_owned())
    }

    async fn ask(&self, lookup: &dyn Lookup, originals: &[Value], api_version: &str) -> Result<Vec<Value>, String> {
        let version = review::version(&self.review_versions)?;
        let about = originals.first().map(review::shown).unwrap_or_default();
        let failed = |why: &str| format!("conversion webhook for {about} failed: {why}");
        let webhook = self.webhook.as_ref().map_err(|why| failed(why))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let body = Bytes::from(review::request(version, &uid, api_version, originals).to_string());
        // Never closed, so there is always a permit to come.
        let _permit = self.calls.acquire().await;
        let mut answer = webhook.post(lookup, body, TIMEOUT).await.map_err(|why| failed(&why))?;
        review::read(&mut answer, version, &uid, api_version, originals)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing::Objects;

    fn converter() -> Converter {
        let form = || Form::of_schema(&json!({"type": "object"}));
        let forms = ["g.x/v1", "g.x/v2"].into_iter().map(|v| (v.to_owned(), Arc::new(form()))).collect();
        // Nobody listens at port 1: whoever asks fails.
        let client = json!({"clientConfig": {"url": "https://127.0.0.1:1/"}, "conversionReviewVersions": ["v1"]});
        let definition = json!({"spec": {"conversion": {"strategy": "Webhook", "webhook": client}}});
        Converter::read(&definition, forms).unwrap()
    }

    fn object(version: &str) -> Value {
        json!({"apiVersion": version, "kind": "K", "metadata": {"name": "a"}})
    }

    #[tokio::test]
    async fn only_what_has_another_version_is_asked_about() {
        let (converter, nothing) = (converter(), Objects::default());
        let same = converter.convert(&nothing, vec![object("g.x/v1")], "g.x/v1").await;
        assert_eq!(same.unwrap(), [object("g.x/v1")]);
        let failed = converter.convert_one(&nothing, object("g.x/v1"), "g.x/v2").await.unwrap_err();
        assert_eq!(
            failed,
            "conversion webhook for g.x/v1, Kind=K failed: Post \"https://127.0.0.1:1/?timeout=30s\": dial tcp 127.0.0.1:1: connect: connection refused"
        );
    }

    #[tokio::test]
    async fn versions_that_the_definition_does_not_have_are_refused() {
        let (converter, nothing) = (converter(), Objects::default());
        let to = converter.convert_one(&nothing, object("g.x/v1"), "g.x/v9").await.unwrap_err();
        assert_eq!(to, "request to convert CR to an invalid group/version: g.x/v9");
        let from = converter.convert_one(&nothing, object("g.x/v0"), "g.x/v1").await.unwrap_err();
        assert_eq!(from, "request to convert CR from an invalid group/version: g.x/v0");
    }
}
