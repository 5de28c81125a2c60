//! What is known of a write's way through those that may change it, so that a second round asks only whom it must.

use std::collections::BTreeSet;

use serde_json::Value;

/// Both rounds of one write. There is never a third.
#[derive(Default)]
pub struct Rounds {
    second: bool,
    changed: bool,
    pub policies: Asked,
    pub webhooks: Asked,
}

impl Rounds {
    /// Whether everybody is to have another look; starts the second and last round.
    pub fn start_again(&mut self) -> bool {
        let needed = self.changed && !self.second;
        self.second |= needed;
        needed
    }

    pub fn is_second(&self) -> bool {
        self.second
    }

    /// Somebody outside the chain has changed the object.
    pub fn note_change(&mut self) {
        self.changed = true;
    }
}

/// Whom one plugin has asked, by their ids.
#[derive(Default)]
pub struct Asked {
    /// The object as the plugin left it, if anybody wants to know whether it has changed.
    last: Option<Value>,
    /// Those asked, and willing to be asked again.
    asked: BTreeSet<String>,
    /// Those that are to be asked again.
    again: BTreeSet<String>,
}

impl Asked {
    /// Whether the object is not as the plugin left it.
    pub fn is_changed(&self, object: &Value) -> bool {
        self.last.as_ref().is_some_and(|last| last != object)
    }

    pub fn leave(&mut self, object: &Value) {
        self.last = (!self.asked.is_empty()).then(|| object.clone());
    }

    pub fn may_ask_again(&mut self, id: &str) {
        self.asked.insert(id.to_owned());
    }

    /// Something has changed since those that were asked so far had their say.
    pub fn require_again(&mut self) {
        self.again.append(&mut self.asked);
    }

    pub fn is_to_be_asked_again(&self, id: &str) -> bool {
        self.again.contains(id)
    }
}
