//! One suite that every store passes, and what is particular to each.
//!
//! Owns the cases (`cases`), the stores under test (`backend`), the faults of the embedded one (`faults`), and
//! the tests of the cache above them (`caching`).

mod backend;
mod caching;
mod cases;
mod faults;

use backend::Backend;

/// Each case on each store: a test per pair, so that a failure names both.
macro_rules! suite {
    ($($case:ident),* $(,)?) => {
        mod embedded_store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::cases::$case(super::Backend::embedded()).await;
            })*
        }
        mod etcd_store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(backend) = super::Backend::etcd(stringify!($case)) {
                    super::cases::$case(backend).await;
                }
            })*
        }
    };
}

suite!(
    a_transaction_happens_only_if_its_expectation_holds,
    random_operations_agree_with_a_model,
    concurrent_swaps_lose_no_update,
    a_watch_resumes_without_gap_or_repetition,
    keys_live_for_their_time,
    writes_at_once_and_what_is_announced_and_never_comes_keep_nobody,
    compacted_history_is_gone,
    a_restart_keeps_contents_and_revision,
    a_prefix_is_loaded_whole_and_in_order,
    too_large_a_value_is_refused,
);
