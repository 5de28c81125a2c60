//! Seeds, each a whole cluster with its troubles. `SEEDS` says how many, `SEED` which is the first; `make simulate` sets them.

use std::sync::atomic::{AtomicU64, Ordering};

use simulation::run::{simulate, story};

/// What `make test` runs.
const FEW: u64 = 16;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// As many threads as there are processors; each runs one seed after another.
#[test]
fn clusters_do_as_they_promise_under_every_seed() {
    let first = setting("SEED").unwrap_or(0);
    // One seed alone is a seed that somebody wants to see again.
    let count = setting("SEEDS").unwrap_or(if setting("SEED").is_some() { 1 } else { FEW });
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let run = || {
        let mut broken = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return broken;
            }
            broken.extend(simulate(seed).err());
        }
    };
    let mut broken: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("a simulation does not panic")).collect()
    });
    broken.sort_by_key(|broken| broken.seed);
    let told: Vec<String> = broken.iter().map(ToString::to_string).collect();
    let seeds: Vec<u64> = broken.iter().map(|broken| broken.seed).collect();
    assert!(broken.is_empty(), "{} of {count} seeds broke: {seeds:?} (SEED=… runs one again)\n{}", broken.len(), told.join("\n"));
}

#[test]
fn a_seed_does_the_same_to_the_last_request_whenever_it_runs() {
    for seed in setting("SEED").map_or(0..3, |seed| seed..seed + 1) {
        let (first, second) = (story(seed), story(seed));
        let place = first.iter().zip(&second).position(|(first, second)| first != second);
        if let Some(place) = place {
            let before = first[place.saturating_sub(20)..place].join("\n");
            panic!("seed {seed} goes on in two ways after\n{before}\n: \n{}\nor\n{}", first[place], second[place]);
        }
        assert_eq!(first.len(), second.len());
    }
}
