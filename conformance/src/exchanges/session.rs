//! Plays a scenario: sends its steps in a namespace of its own and gives the normalised answers.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};

use super::access::Access;
use super::corpus::{Answer, Principal, Scenario, Step, Until};
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
    let mut player = Player { access, connection, texts: vec![("{ns}".to_owned(), namespace.clone())] };
    let mut answers = Vec::with_capacity(scenario.steps.len());
    for step in &scenario.steps {
        let place = || format!("{}: {}", scenario.name, step.name);
        let received = player.perform(scenario.sender(step), step).await.with_context(place)?;
        for (name, pointer) in &step.keep {
            let body = parsed(&received.body);
            let kept = body.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
            let kept = kept.with_context(|| format!("{}: the answer has no text at {pointer}: {body}", place()))?;
            normal.keep(name, kept);
            player.texts.push((format!("{{{name}}}"), kept.to_owned()));
        }
        answers.push(normal.answer(step, &received));
    }
    let path = format!("/api/v1/namespaces/{namespace}");
    player.connection.exchange(Method::DELETE, &path, Bytes::new()).await?;
    Ok(answers)
}

/// Sends steps, each as its sender.
struct Player<'a> {
    access: &'a Access,
    /// The administrator's.
    connection: Connection,
    /// What stands for what in steps.
    texts: Vec<(String, String)>,
}

impl Player<'_> {
    async fn perform(&mut self, sender: Option<&Principal>, step: &Step) -> anyhow::Result<Received> {
        let deadline = Instant::now() + UNTIL_TIMEOUT;
        loop {
            let received = tokio::time::timeout(ANSWER_TIMEOUT, self.send(sender, step)).await.context("no answer in time")??;
            match &step.until {
                Some(until) if !until.is_met(&received) => {
                    let body = String::from_utf8_lossy(&received.body);
                    ensure!(Instant::now() < deadline, "still answered with {}: {body}", received.status);
                    tokio::time::sleep(UNTIL_POLL).await;
                }
                _ => return Ok(received),
            }
        }
    }

    fn filled(&self, text: &str) -> String {
        self.texts.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    async fn send(&mut self, sender: Option<&Principal>, step: &Step) -> anyhow::Result<Received> {
        let mut request = Request::builder().method(Method::from_bytes(step.method.as_bytes())?);
        for (name, value) in &step.headers {
            request = request.header(name, self.filled(value));
        }
        if !step.headers.contains_key("accept") {
            request = request.header(header::ACCEPT, JSON);
        }
        for (name, value) in sender.map(impersonation).unwrap_or_default() {
            request = request.header(self.filled(&name), self.filled(value));
        }
        let body = match (&step.body, &step.text) {
            (Some(body), _) => self.filled(&body.to_string()),
            (None, Some(text)) => self.filled(text),
            (None, None) => String::new(),
        };
        if !body.is_empty() && !step.headers.contains_key("content-type") {
            request = request.header(header::CONTENT_TYPE, JSON);
        }
        let path = self.filled(&step.path);
        let body = Bytes::from(body);
        match sender.and_then(|sender| sender.token.as_deref()) {
            // Each on a connection of its own: servers end those of strangers.
            Some(token) => self.access.endpoint.for_another(&self.filled(token))?.connect().await?.perform(request, &path, body).await,
            None => self.connection.perform(request, &path, body).await,
        }
    }
}

/// The headers by which the sender acts as somebody else.
fn impersonation(sender: &Principal) -> Vec<(String, &str)> {
    let mut headers = Vec::new();
    headers.extend(sender.user.as_deref().map(|user| ("impersonate-user".to_owned(), user)));
    headers.extend(sender.uid.as_deref().map(|uid| ("impersonate-uid".to_owned(), uid)));
    headers.extend(sender.groups.iter().map(|group| ("impersonate-group".to_owned(), group.as_str())));
    for (key, values) in &sender.extra {
        headers.extend(values.iter().map(|value| (format!("impersonate-extra-{key}"), value.as_str())));
    }
    headers
}

impl Until {
    fn is_met(&self, received: &Received) -> bool {
        let says = |text: &String| {
            String::from_utf8_lossy(&received.body).contains(text) || received.warnings().iter().any(|warning| warning.contains(text))
        };
        self.status.is_none_or(|status| received.status == status) && self.text.as_ref().is_none_or(says)
    }
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
