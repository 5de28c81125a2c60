//! Conversions under way: whoever wants one that somebody is waiting for already waits along.
//!
//! A flight ends with an outcome for all, or without one when its leader gives up; then one of those who waited leads the next.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::storage::{Object, Revision};

/// An object's key, its revision, and the number of the resource whose version is wanted.
pub type FlightKey = (Arc<str>, Revision, u32);

/// What came of a conversion.
pub type Outcome = Result<Arc<Object>, String>;

/// The conversions of one definition's objects that are under way.
#[derive(Default)]
pub struct Flights(Mutex<HashMap<FlightKey, watch::Receiver<Option<Outcome>>>>);

/// What is to be done about one object.
pub enum Turn {
    /// It has been converted already.
    Known(Arc<Object>),
    /// Somebody converts it; the outcome comes here.
    Wait(watch::Receiver<Option<Outcome>>),
    /// It is the caller's to convert.
    Lead,
}

/// The flights that a caller leads. Those without an outcome when this is dropped end without one.
pub struct Lead<'a> {
    flights: &'a Flights,
    open: Vec<(FlightKey, watch::Sender<Option<Outcome>>)>,
}

impl Flights {
    /// Says of each object what is to be done. `known` looks for an earlier conversion.
    pub fn board<'a, 'o>(
        &'a self,
        number: u32,
        objects: impl Iterator<Item = &'o Arc<Object>>,
        known: impl Fn(&Arc<Object>) -> Option<Arc<Object>>,
    ) -> (Vec<Turn>, Lead<'a>) {
        let mut lead = Lead { flights: self, open: Vec::new() };
        let mut flights = self.0.lock();
        let mut turns = Vec::new();
        for object in objects {
            let key = (object.key().clone(), object.revision(), number);
            // Outcomes are kept before their flights end, so who finds neither leads.
            turns.push(if let Some(known) = known(object) {
                Turn::Known(known)
            } else if let Some(flight) = flights.get(&key) {
                Turn::Wait(flight.clone())
            } else {
                let (sender, receiver) = watch::channel(None);
                flights.insert(key.clone(), receiver);
                lead.open.push((key, sender));
                Turn::Lead
            });
        }
        drop(flights);
        (turns, lead)
    }
}

impl Lead<'_> {
    /// Tells those who wait what came of the flights, in the order in which they were boarded.
    pub fn land(mut self, outcomes: impl Iterator<Item = Outcome>) {
        let open = std::mem::take(&mut self.open);
        let mut flights = self.flights.0.lock();
        for ((key, sender), outcome) in open.into_iter().zip(outcomes) {
            flights.remove(&key);
            sender.send_replace(Some(outcome));
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if !self.open.is_empty() {
            let mut flights = self.flights.0.lock();
            self.open.iter().for_each(|(key, _)| {
                flights.remove(key);
            });
        }
    }
}

/// The outcome of a flight; `None` if its leader gave up.
pub async fn outcome(mut flight: watch::Receiver<Option<Outcome>>) -> Option<Outcome> {
    flight.wait_for(Option::is_some).await.ok()?.clone()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str) -> Arc<Object> {
        Arc::new(Object::sample(name, &json!({"metadata": {"name": name}}), 1))
    }

    fn board<'a>(flights: &'a Flights, objects: &[Arc<Object>]) -> (Vec<Turn>, Lead<'a>) {
        flights.board(7, objects.iter(), |_| None)
    }

    #[tokio::test]
    async fn one_leads_and_the_others_learn_the_outcome() {
        let (flights, objects) = (Flights::default(), [object("a"), object("b")]);
        let (turns, lead) = board(&flights, &objects);
        assert!(turns.iter().all(|turn| matches!(turn, Turn::Lead)));
        let (mut others, _) = board(&flights, &objects);
        let (Some(Turn::Wait(b)), Some(Turn::Wait(a))) = (others.pop(), others.pop()) else { panic!("others do not wait") };
        lead.land([Ok(object("converted")), Err("no".to_owned())].into_iter());
        assert_eq!(outcome(a).await.unwrap().unwrap().name(), "converted");
        assert_eq!(outcome(b).await.unwrap().unwrap_err(), "no");
        assert!(matches!(board(&flights, &objects).0[0], Turn::Lead), "a flight that has ended is forgotten");
    }

    #[tokio::test]
    async fn who_waits_takes_over_when_the_leader_gives_up() {
        let (flights, objects) = (Flights::default(), [object("a")]);
        let (_, lead) = board(&flights, &objects);
        let (mut others, _) = board(&flights, &objects);
        let Some(Turn::Wait(flight)) = others.pop() else { panic!("the other does not wait") };
        drop(lead);
        assert!(outcome(flight).await.is_none());
        assert!(matches!(board(&flights, &objects).0[0], Turn::Lead));
    }

    #[test]
    fn what_is_known_already_is_not_asked_for() {
        let flights = Flights::default();
        let (turns, _) = flights.board(7, [object("a")].iter(), |o| Some(o.clone()));
        assert!(matches!(turns[0], Turn::Known(_)));
    }
}
