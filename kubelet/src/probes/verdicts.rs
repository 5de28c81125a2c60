//! What probes have found out, by container id.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

/// The three things that are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];

    /// The word in events.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// Results by kind; none while nothing is known.
type Entry = HashMap<Kind, Option<bool>>;

/// Results of all containers of this node. Clones are the same.
#[derive(Clone, Default)]
pub struct Verdicts {
    entries: Arc<RwLock<HashMap<String, Entry>>>,
}

impl Verdicts {
    fn get(&self, id: &str, kind: Kind) -> Option<bool> {
        self.entries.read().get(id).and_then(|entry| *entry.get(&kind)?)
    }

    pub fn startup(&self, id: &str) -> Option<bool> {
        self.get(id, Kind::Startup)
    }

    pub fn liveness(&self, id: &str) -> Option<bool> {
        self.get(id, Kind::Liveness)
    }

    pub fn readiness(&self, id: &str) -> Option<bool> {
        self.get(id, Kind::Readiness)
    }

    /// Whether this container is being probed at all since the kubelet started.
    pub fn knows(&self, id: &str) -> bool {
        self.entries.read().contains_key(id)
    }

    /// Whether that is news.
    pub fn set(&self, id: &str, kind: Kind, result: Option<bool>) -> bool {
        self.entries.write().entry(id.to_owned()).or_default().insert(kind, result) != Some(result)
    }

    pub fn forget(&self, id: &str, kind: Kind) {
        let mut entries = self.entries.write();
        let Some(entry) = entries.get_mut(id) else { return };
        entry.remove(&kind);
        if entry.is_empty() {
            entries.remove(id);
        }
    }
}
