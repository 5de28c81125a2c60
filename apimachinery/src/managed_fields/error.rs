//! Why an apply was refused, in upstream's words.

use super::{
    entries::ManagerId,
    path::{self, PathElement},
};

/// A refused apply.
///
/// | variant | code | reason |
/// |---|---|---|
/// | `BadRequest` | 400 | BadRequest |
/// | `Conflict` | 409 | Conflict, with `details.causes` from [`ApplyConflicts::causes`] and nothing else in `details` |
/// | `Internal` | 500 | none (the Status has no `reason` and no `details`) |
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("{0}")]
    BadRequest(String),
    #[error(transparent)]
    Conflict(ApplyConflicts),
    #[error("{0}")]
    Internal(String),
}

/// The fields that an apply would take from others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub struct ApplyConflicts(pub(super) Vec<(ManagerId, Vec<PathElement>)>);

/// One entry of `details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Always `FieldManagerConflict`.
    pub reason: &'static str,
    pub message: String,
    pub field: String,
}

impl ApplyConflicts {
    /// One cause per field and owner.
    pub fn causes(&self) -> Vec<Cause> {
        let cause = |(id, path): &(ManagerId, Vec<PathElement>)| Cause {
            reason: "FieldManagerConflict",
            message: format!("conflict with {}", id.text()),
            field: path::text(path),
        };
        self.0.iter().map(cause).collect()
    }

    fn message(&self) -> String {
        if let [(id, path)] = self.0.as_slice() {
            return format!("Apply failed with 1 conflict: conflict with {}: {}", id.text(), path::text(path));
        }
        let mut lines = Vec::with_capacity(self.0.len() + 1);
        let mut current = None;
        // Conflicts are grouped by owner, in the owners' order.
        for (id, path) in &self.0 {
            if current != Some(id) {
                lines.push(format!("conflicts with {}:", id.text()));
                current = Some(id);
            }
            lines.push(format!("- {}", path::text(path)));
        }
        format!("Apply failed with {} conflicts: {}", self.0.len(), lines.join("\n"))
    }
}
