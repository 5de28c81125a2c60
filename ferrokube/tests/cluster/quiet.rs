//! A cluster in which nobody does anything is silent: nothing but renewals of leases reaches the API server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::components::read;
use crate::metrics::{Samples, samples};
use crate::process::Cluster;

/// How long nothing may come. What is done once a minute or more often shows with good likelihood, what is done every 15 s surely.
const QUIET: Duration = Duration::from_secs(16);
/// By when everything that a start brings has happened.
const SETTLED: Duration = Duration::from_secs(120);

/// What reached the server between two readings: requests by resource and verb.
fn between(before: &Samples, after: &Samples) -> BTreeMap<String, f64> {
    let label = |series: &str, name: &str| {
        let value = series.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        value.map_or(String::new(), |(value, _)| value.to_owned())
    };
    let mut came = BTreeMap::new();
    for (series, number) in after.iter().filter(|(series, _)| series.starts_with("apiserver_request_total{")) {
        let more = number - before.get(series).copied().unwrap_or(0.0);
        let (resource, verb) = (label(series, "resource"), label(series, "verb"));
        if more > 0.0 && resource != "leases" {
            *came.entry(format!("{verb} {resource}")).or_insert(0.0) += more;
        }
    }
    came
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_renewals_of_leases_reaches_a_server_that_nobody_uses() {
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(&directory.path().join("data"));
    let client = cluster.client().await;
    // The reading before is among what is told.
    let only_read = BTreeMap::from([("GET ".to_owned(), 1.0)]);
    let started = Instant::now();
    let mut before = samples(&read(&client, "/metrics").await.expect("the administrator may"));
    loop {
        tokio::time::sleep(QUIET).await;
        let after = samples(&read(&client, "/metrics").await.expect("the administrator may"));
        let came = between(&before, &after);
        if came == only_read {
            break;
        }
        assert!(started.elapsed() < SETTLED, "{came:?} in {QUIET:?}");
        before = after;
    }
}
