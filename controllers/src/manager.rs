//! Runs the chosen controllers, each in a task of its own and under its own name.
//!
//! Knows which controllers there are and nothing of what they do. One that ends or panics stops no other.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use client::events::Recorder;
use client::{Informers, Shutdown};
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use tokio::task::JoinSet;

use crate::CONTROLLERS;
pub use crate::config::{Config, SigningFiles};
use crate::names::{self, Names};

/// A controller that panicked is started anew after this long.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// What a controller works with.
#[derive(Clone)]
pub struct Context {
    /// The controller's name.
    pub name: &'static str,
    /// Acts as this controller.
    pub client: Client,
    /// Shared by all controllers of the process.
    pub informers: Informers,
    /// Tells events as upstream's controller of this name does.
    pub recorder: Recorder,
    pub shutdown: Shutdown,
    pub config: Arc<Config>,
}

/// A controller as the manager knows it.
pub struct Controller {
    /// Upstream's name, one of [`names::ALL`].
    pub name: &'static str,
    pub on_by_default: bool,
    /// Runs until shutdown. A controller that has nothing to do ends at once.
    pub run: fn(Context) -> BoxFuture<'static, ()>,
}

/// How controllers reach the API server.
pub trait Clients: Send + Sync {
    /// A client of the manager itself, which may read everything that informers watch.
    fn shared(&self) -> Client;

    /// A client that acts as the service account of this name in `kube-system`.
    fn of(&self, account: &str) -> Client;
}

/// Which controllers run, as `--controllers` says: `*` for those that are on by default, `name`, `-name`. The first that fits counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    words: Vec<String>,
}

impl Default for Selection {
    fn default() -> Selection {
        Selection { words: vec!["*".to_owned()] }
    }
}

/// Controllers that nobody knows, each once, in the order in which they were named.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownControllers(Vec<String>);

impl fmt::Display for UnknownControllers {
    /// As upstream tells several errors: in brackets if there is more than one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each: Vec<String> = self.0.iter().map(|name| format!("{name:?} is not in the list of known controllers")).collect();
        let text = each.join(", ");
        if each.len() == 1 { f.write_str(&text) } else { write!(f, "[{text}]") }
    }
}

impl std::error::Error for UnknownControllers {}

impl Selection {
    /// Former names stand for those of today.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Selection, UnknownControllers> {
        let (mut parsed, mut unknown) = (Vec::new(), Vec::<String>::new());
        for word in words {
            if word == "*" {
                parsed.push(word.to_owned());
                continue;
            }
            let name = word.strip_prefix('-').unwrap_or(word);
            let Some(known) = names::find(name) else {
                if !unknown.iter().any(|known| known == name) {
                    unknown.push(name.to_owned());
                }
                continue;
            };
            let sign = if word.starts_with('-') { "-" } else { "" };
            parsed.push(format!("{sign}{}", known.controller));
        }
        if unknown.is_empty() { Ok(Selection { words: parsed }) } else { Err(UnknownControllers(unknown)) }
    }

    /// Whether the controller is to run.
    pub fn has(&self, name: &str, on_by_default: bool) -> bool {
        let mut star = false;
        for word in &self.words {
            if word == name {
                return true;
            }
            if word.strip_prefix('-') == Some(name) {
                return false;
            }
            star |= word == "*";
        }
        star && on_by_default
    }

    /// The controllers that run, in the order in which they start.
    pub fn controllers(&self) -> impl Iterator<Item = &'static Controller> {
        CONTROLLERS.iter().filter(|c| self.has(c.name, c.on_by_default))
    }

    /// Those asked for by name that this manager does not have.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        let present: BTreeSet<&str> = CONTROLLERS.iter().map(|c| c.name).collect();
        self.words.iter().map(String::as_str).filter(move |word| !word.starts_with('-') && *word != "*" && !present.contains(word))
    }
}

/// Runs the selected controllers until shutdown, and then until they have ended or their time is up.
pub async fn run(clients: impl Clients, config: Config, selection: &Selection, shutdown: Shutdown) {
    for name in selection.missing() {
        tracing::warn!(controller = name, "there is no such controller in this manager, skipped");
    }
    let config = Arc::new(config);
    let informers = Informers::new(clients.shared(), shutdown.clone());
    let mut running = JoinSet::new();
    for controller in selection.controllers() {
        let Some(names) = names::find(controller.name) else {
            tracing::error!(controller = controller.name, "the controller is not among the known names");
            continue;
        };
        let client = if names.account.is_empty() { clients.shared() } else { clients.of(names.account) };
        let context = Context {
            name: controller.name,
            recorder: Recorder::new(client.clone(), names.component, "", shutdown.clone()),
            client,
            informers: informers.clone(),
            shutdown: shutdown.clone(),
            config: config.clone(),
        };
        running.spawn(keep_running(names, controller.run, context));
        if !config.controller_start_interval.is_zero() {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(config.controller_start_interval) => {}
            }
        }
    }
    shutdown.cancelled().await;
    let ended = async { while running.join_next().await.is_some() {} };
    if config.controller_shutdown_timeout.is_zero() {
        ended.await;
    } else if tokio::time::timeout(config.controller_shutdown_timeout, ended).await.is_err() {
        tracing::warn!("controller shutdown timeout reached");
    }
}

/// Runs a controller to its end. One that panics is started anew: the rest of the cluster must not wait for it.
async fn keep_running(names: &'static Names, run: fn(Context) -> BoxFuture<'static, ()>, context: Context) {
    loop {
        tracing::debug!(controller = names.controller, "controller starting");
        let running = AssertUnwindSafe(async { run(context.clone()).await });
        match running.catch_unwind().await {
            Ok(()) => break,
            Err(_) => tracing::error!(controller = names.controller, "controller panicked, starting it anew"),
        }
        tokio::select! {
            biased;
            () = context.shutdown.cancelled() => break,
            () = tokio::time::sleep(RESTART_DELAY) => {}
        }
    }
    tracing::debug!(controller = names.controller, "controller terminated");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(words: &[&str], name: &str, on_by_default: bool) -> bool {
        Selection::parse(words.iter().copied()).unwrap().has(name, on_by_default)
    }

    #[test]
    fn the_first_word_that_fits_says_whether_a_controller_runs() {
        assert!(runs(&["*"], "job-controller", true));
        assert!(!runs(&["*"], "token-cleaner-controller", false));
        assert!(runs(&["*", "tokencleaner"], "token-cleaner-controller", false));
        assert!(!runs(&["*", "-job"], "job-controller", true));
        assert!(runs(&["job", "-job-controller"], "job-controller", true));
        assert!(!runs(&["job"], "cronjob-controller", true));
        assert!(!runs(&[], "job-controller", true));
    }

    #[test]
    fn an_unknown_name_is_refused_by_upstreams_words() {
        let error = Selection::parse(["*", "-nonsense"]).unwrap_err();
        assert_eq!(error.to_string(), "\"nonsense\" is not in the list of known controllers");
        let error = Selection::parse(["more", "job", "-nonsense", "more"]).unwrap_err();
        let expected = "[\"more\" is not in the list of known controllers, \"nonsense\" is not in the list of known controllers]";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn every_controller_has_names_and_no_name_is_taken_twice() {
        for controller in CONTROLLERS {
            assert!(names::ALL.iter().any(|n| n.controller == controller.name), "{}", controller.name);
        }
        let distinct: BTreeSet<&str> = names::ALL.iter().map(|n| n.controller).collect();
        assert_eq!(distinct.len(), names::ALL.len());
        let aliases: Vec<&str> = names::ALL.iter().map(|n| n.alias).filter(|a| !a.is_empty()).collect();
        assert_eq!(aliases.iter().collect::<BTreeSet<_>>().len(), aliases.len());
        let registered: BTreeSet<&str> = CONTROLLERS.iter().map(|c| c.name).collect();
        assert_eq!(registered.len(), CONTROLLERS.len());
    }
}
