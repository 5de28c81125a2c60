//! The runtimes of a process: one that does the work, and others whose threads give way to its.

use std::io;

use thread_priority::ThreadPriority;
use thread_priority::unix::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id};
use tokio::runtime::{Builder, Runtime};

/// Objects may nest deeply; parsing is bounded, but dropping and cloning them recurses.
const STACK_BYTES: usize = 64 << 20;
/// How much a thread gives way: it weighs a tenth of others.
const NICENESS: i32 = 10;

/// A runtime on all processors.
///
/// # Errors
/// When the system has no thread left.
pub fn usual() -> io::Result<Runtime> {
    builder().build()
}

/// A runtime on all processors, as far as no other thread wants them. `name` is that of its threads.
///
/// # Errors
/// As [`usual`].
pub fn giving_way(name: &str) -> io::Result<Runtime> {
    let give_way = || {
        if let Err(error) = rustix::process::nice(NICENESS) {
            tracing::warn!(%error, "a thread does not give way to others");
        }
    };
    builder().thread_name(name).on_thread_start(give_way).build()
}

/// A runtime on what processors are idle: any other thread interrupts its threads at once. `name` is theirs.
///
/// # Errors
/// As [`usual`].
pub fn when_idle(name: &str) -> io::Result<Runtime> {
    let give_way = || {
        let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy) {
            tracing::warn!(%error, "a thread does not give way to others");
        }
    };
    builder().thread_name(name).on_thread_start(give_way).build()
}

fn builder() -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().thread_stack_size(STACK_BYTES);
    builder
}
