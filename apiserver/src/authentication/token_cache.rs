//! What was found out about tokens that somebody else, or a costly check, had to be asked about.
//!
//! Tokens themselves are not kept: they are known by a keyed digest. Those who ask about the same token at the same time wait for one
//! answer.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use crate::expiring::Expiring;
use crate::filters::authentication::Verification;
use crate::tokens::digest::{Digest, Digester};

/// Tokens that are known at once.
const MAX_KNOWN: usize = 16 * 1024;
/// Tokens that are asked about at once.
const MAX_FLIGHTS: usize = 4096;
/// Whoever is asked must have answered by then.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);

type Flight = Shared<BoxFuture<'static, Verification>>;

/// How long each kind of answer is kept; errors are not.
#[derive(Clone, Copy, Debug)]
pub struct Ttl {
    pub known: Duration,
    pub unknown: Duration,
}

pub struct TokenCache {
    ttl: Ttl,
    digester: Digester,
    known: Expiring<Digest, Verification>,
    flights: Mutex<HashMap<Digest, Flight>>,
}

impl TokenCache {
    pub fn new(ttl: Ttl) -> TokenCache {
        TokenCache { ttl, digester: Digester::default(), known: Expiring::new(MAX_KNOWN), flights: Mutex::default() }
    }

    /// What is known of a token, or what `look` finds out.
    pub async fn find<F>(&self, token: &str, audiences: &[String], look: impl FnOnce() -> F) -> Verification
    where
        F: Future<Output = Verification> + Send + 'static,
    {
        let key = self.digester.of(token, audiences);
        if let Some(known) = self.known.get(&key) {
            return known;
        }
        let flight = {
            let mut flights = self.flights.lock();
            if flights.len() >= MAX_FLIGHTS && !flights.contains_key(&key) {
                return Err("too many tokens are being looked at".to_owned());
            }
            flights.entry(key).or_insert_with(|| depart(look())).clone()
        };
        let found = flight.await;
        self.flights.lock().remove(&key);
        let ttl = match &found {
            Ok(Some(_)) => self.ttl.known,
            Ok(None) => self.ttl.unknown,
            Err(_) => Duration::ZERO,
        };
        self.known.keep(key, found.clone(), ttl);
        found
    }
}

/// Looks on a task of its own, so that it goes on when the one who asked first does not wait.
fn depart(look: impl Future<Output = Verification> + Send + 'static) -> Flight {
    let task = tokio::spawn(tokio::time::timeout(LOOKUP_TIMEOUT, look));
    let landed = async move {
        match task.await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err("context deadline exceeded".to_owned()),
            Err(_) => Err("authentication failed unexpectedly".to_owned()),
        }
    };
    landed.boxed().shared()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::filters::authentication::{User, Verified};

    fn answer(name: &str) -> Verification {
        Ok(Some(Verified { user: User { name: name.to_owned(), ..User::default() }, audiences: Vec::new() }))
    }

    #[tokio::test]
    async fn a_token_is_asked_about_once_by_all_who_ask() {
        let cache = TokenCache::new(Ttl { known: Duration::from_secs(60), unknown: Duration::ZERO });
        let asked = Arc::new(AtomicUsize::new(0));
        let look = |found: Verification| {
            let asked = asked.clone();
            move || async move {
                asked.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                found
            }
        };
        let all = futures::future::join_all((0..10).map(|_| cache.find("t", &[], look(answer("ann"))))).await;
        assert!(all.iter().all(|found| *found == answer("ann")));
        assert_eq!(cache.find("t", &[], look(answer("bob"))).await, answer("ann"));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let audiences = ["a".to_owned()];
        assert_eq!(cache.find("t", &audiences, look(answer("bob"))).await, answer("bob"), "other audiences, another question");
        for expect in 3..5 {
            assert_eq!(cache.find("unknown", &[], look(Ok(None))).await, Ok(None));
            assert_eq!(asked.load(Ordering::SeqCst), expect, "what is not kept is asked again");
        }
        assert_eq!(cache.find("bad", &[], look(Err("down".to_owned()))).await, Err("down".to_owned()));
        assert_eq!(cache.find("bad", &[], look(answer("ann"))).await, answer("ann"));
    }
}
