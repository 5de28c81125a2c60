//! Whether the disk has room for more.
//!
//! A write that meets a full disk ends the store, since nobody knows how much of it is there. So puts are refused before that,
//! as etcd refuses them beyond its quota; deletions are taken, for they make room.

use super::Append;

/// What is kept free: the journal lies on the disk once more before it is let go, and what is compacted lies there twice for a
/// moment.
const RESERVED_BYTES: u64 = 96 * 1024 * 1024;

/// What was last seen of the disk.
#[derive(Default)]
pub(super) struct Room {
    short: bool,
}

impl Room {
    /// Asks the disk, and tells the log when the answer is another.
    pub fn look(&mut self, disk: &dyn Append) {
        // One that does not say is written to: what it cannot take it will refuse.
        let left = disk.room_bytes().unwrap_or(u64::MAX);
        let short = left < RESERVED_BYTES;
        match (self.short, short) {
            (false, true) => tracing::error!(left, "the disk is nearly full: nothing but deletions is written until it has room"),
            (true, false) => tracing::info!(left, "the disk has room again"),
            _ => {}
        }
        self.short = short;
    }

    pub fn is_short(&self) -> bool {
        self.short
    }
}
