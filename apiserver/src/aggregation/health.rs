//! Whether an extension API server answers where it must: a few of its endpoints are asked for the resources of the version.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::Value;

use super::endpoint;
use super::registration::Registration;
use super::remote::{Question, aggregator};
use crate::api::Api;

/// Questions asked at once; one good answer is enough.
const ATTEMPTS: usize = 5;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the server of an APIService; the last failure if nobody has answered well.
pub async fn check(api: &Arc<Api>, api_service: &Value) -> Result<(), String> {
    let Some(registration) = api.aggregation.read(api_service) else { return Ok(()) };
    let mut attempts: FuturesUnordered<_> = (0..ATTEMPTS).map(|_| attempt(api, &registration)).collect();
    let mut last = Ok(());
    while let Some(outcome) = attempts.next().await {
        if outcome.is_ok() {
            return Ok(());
        }
        last = outcome;
    }
    last
}

async fn attempt(api: &Api, registration: &Registration) -> Result<(), String> {
    let target = endpoint::resolve(api, &registration.service)?;
    let path = registration.path();
    let url = format!("https://{}{path}", target.authority());
    let failed = |why: String| format!("failing or missing response from {url}: {why}");
    let question = Question { accept: "application/json", etag: "", timeout: TIMEOUT };
    let answer = registration.read_document(&target, &path, &aggregator(), question).await.map_err(failed)?;
    match answer.status.is_success() {
        true => Ok(()),
        false => Err(failed(format!("bad status from {url}: {}", answer.status.as_u16()))),
    }
}
