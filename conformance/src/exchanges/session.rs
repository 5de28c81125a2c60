//! Plays a scenario: sends its steps in a namespace of its own and gives the normalised answers.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};

use super::access::Access;
use super::corpus::{Answer, Scenario, Step, Until};
use super::normal::Normal;
use crate::bench::connection::{Connection, JSON, Received};

/// How long a server may take to learn of what was written.
const UNTIL_TIMEOUT: Duration = Duration::from_secs(20);
const UNTIL_POLL: Duration = Duration::from_millis(100);
/// No answer takes longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The answers to a scenario's steps.
///
/// # Errors
/// If the server cannot be reached, or never answers as a step waits for. An answer that is an error is an answer.
pub async fn play(access: &Access, scenario: &Scenario) -> anyhow::Result<Vec<Answer>> {
    let namespace = format!("x{}", random_suffix()?);
    let mut connection = access.endpoint.connect().await?;
    // Without controllers nobody makes the account that pods are given.
    for (path, body) in [
        ("/api/v1/namespaces".to_owned(), json!({"metadata": {"name": namespace}})),
        (format!("/api/v1/namespaces/{namespace}/serviceaccounts"), json!({"metadata": {"name": "default"}})),
    ] {
        let (status, body) = connection.exchange(Method::POST, &path, Bytes::from(body.to_string())).await?;
        ensure!(status == StatusCode::CREATED || status == StatusCode::CONFLICT, "{path}: {status}: {}", String::from_utf8_lossy(&body));
    }
    let mut normal = Normal::new(&namespace);
    let mut answers = Vec::with_capacity(scenario.steps.len());
    for step in &scenario.steps {
        let received = perform(&mut connection, &namespace, step).await.with_context(|| format!("{}: {}", scenario.name, step.name))?;
        answers.push(normal.answer(step, &received));
    }
    let path = format!("/api/v1/namespaces/{namespace}");
    connection.exchange(Method::DELETE, &path, Bytes::new()).await?;
    Ok(answers)
}

async fn perform(connection: &mut Connection, namespace: &str, step: &Step) -> anyhow::Result<Received> {
    let deadline = Instant::now() + UNTIL_TIMEOUT;
    loop {
        let received = tokio::time::timeout(ANSWER_TIMEOUT, send(connection, namespace, step)).await.context("no answer in time")??;
        match &step.until {
            Some(until) if !until.is_met(&received) => {
                ensure!(Instant::now() < deadline, "still answered with {}: {}", received.status, String::from_utf8_lossy(&received.body));
                tokio::time::sleep(UNTIL_POLL).await;
            }
            _ => return Ok(received),
        }
    }
}

impl Until {
    fn is_met(&self, received: &Received) -> bool {
        let says = |text: &String| {
            String::from_utf8_lossy(&received.body).contains(text) || received.warnings().iter().any(|warning| warning.contains(text))
        };
        self.status.is_none_or(|status| received.status == status) && self.text.as_ref().is_none_or(says)
    }
}

async fn send(connection: &mut Connection, namespace: &str, step: &Step) -> anyhow::Result<Received> {
    let filled = |text: &str| text.replace("{ns}", namespace);
    let mut request = Request::builder().method(Method::from_bytes(step.method.as_bytes())?);
    for (name, value) in &step.headers {
        request = request.header(name, filled(value));
    }
    if !step.headers.contains_key("accept") {
        request = request.header(header::ACCEPT, JSON);
    }
    if let Some(principal) = &step.principal {
        request = request.header("impersonate-user", filled(&principal.user));
        for group in &principal.groups {
            request = request.header("impersonate-group", filled(group));
        }
    }
    let body = match (&step.body, &step.text) {
        (Some(body), _) => filled(&body.to_string()),
        (None, Some(text)) => filled(text),
        (None, None) => String::new(),
    };
    if !body.is_empty() && !step.headers.contains_key("content-type") {
        request = request.header(header::CONTENT_TYPE, JSON);
    }
    connection.perform(request, &filled(&step.path), Bytes::from(body)).await
}

fn random_suffix() -> anyhow::Result<String> {
    use std::io::Read;
    let mut bytes = [0u8; 4];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A body as JSON, if it is.
pub(super) fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()))
}
