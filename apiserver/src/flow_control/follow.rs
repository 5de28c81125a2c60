//! Keeps the configuration in force in step with the stored objects, and writes the `Dangling` condition of FlowSchemas.

use std::collections::HashMap;
use std::time::Duration;

use apimachinery::time::format_time;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;

use super::config::{Config, Dangling};
use super::{COLLECTIONS, GROUP, LENDING_PERIOD, LEVELS, SCHEMAS};
use crate::loopback::Loopback;
use crate::system::watched::Watched;

/// Who writes the conditions.
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";
/// API servers that disagree (of different versions, say) must not fight over a condition: it is written at most so often a minute.
const WRITES_PER_MINUTE: usize = 6;
const MINUTE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

/// Puts the stored objects in force; says which conditions have to be written.
pub fn refresh(client: &Loopback) -> Vec<Dangling> {
    let (config, conditions) = Config::digest(&client.list(GROUP, SCHEMAS), &client.list(GROUP, LEVELS));
    client.api().flow_control.replace(config);
    conditions
}

/// Goes on following. Never returns; dropped at the end.
pub async fn keep(client: &Loopback, mut watched: Watched) {
    let mut history = History::default();
    loop {
        let again = write(client, refresh(client), &mut history).await;
        match again {
            None => watched.changed().await,
            Some(delay) => {
                // Whichever comes first: time for what was put off, or a change.
                let _ = tokio::time::timeout(delay, watched.changed()).await;
            }
        }
    }
}

/// Lends seats between levels, while there is demand. Never returns; dropped at the end.
pub async fn lend(client: &Loopback) {
    let mut quiet = false;
    loop {
        // Without demand the seats have been given back, and the look can wait.
        let pause = if quiet { LENDING_PERIOD * 6 } else { LENDING_PERIOD };
        tokio::time::sleep(pause).await;
        quiet = !client.api().flow_control.lend();
    }
}

/// Writes the conditions; says when to try again those that were not written.
async fn write(client: &Loopback, conditions: Vec<Dangling>, history: &mut History) -> Option<Duration> {
    let client = client.with_manager(MANAGER);
    let mut again = None;
    for condition in conditions {
        if !history.may_write(&condition.schema, Instant::now()) {
            again = Some(MINUTE);
            continue;
        }
        let path = format!("{COLLECTIONS}/{SCHEMAS}/{}/status", condition.schema);
        match client.apply(&path, &configuration(&condition, Timestamp::now())).await {
            Ok(()) => {}
            Err(status) if status.reason == "NotFound" => {}
            Err(status) => {
                tracing::warn!(schema = condition.schema, error = status.message, "the condition of a FlowSchema was not written");
                again.get_or_insert(RETRY);
            }
        }
    }
    again
}

fn configuration(condition: &Dangling, now: Timestamp) -> serde_json::Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": { "name": condition.schema },
        "status": { "conditions": [{
            "type": "Dangling",
            "status": condition.status,
            "lastTransitionTime": format_time(now),
            "reason": condition.reason,
            "message": condition.message,
        }] },
    })
}

/// When conditions were written, within the last minute.
#[derive(Default)]
struct History(HashMap<String, Vec<Instant>>);

impl History {
    /// Whether a schema's condition may be written now; if so, that is remembered.
    fn may_write(&mut self, schema: &str, now: Instant) -> bool {
        self.0.retain(|_, times| {
            times.retain(|t| now.duration_since(*t) < MINUTE);
            !times.is_empty()
        });
        let times = self.0.entry(schema.to_owned()).or_default();
        if times.len() >= WRITES_PER_MINUTE {
            return false;
        }
        times.push(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_not_fought_over() {
        let mut history = History::default();
        let start = Instant::now();
        for n in 0..WRITES_PER_MINUTE {
            assert!(history.may_write("a", start + Duration::from_secs(n as u64)));
        }
        assert!(!history.may_write("a", start + Duration::from_secs(30)));
        assert!(history.may_write("b", start + Duration::from_secs(30)));
        assert!(history.may_write("a", start + Duration::from_secs(61)));
    }
}
