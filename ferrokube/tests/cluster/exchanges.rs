//! The recorded exchanges of `conformance/corpus`: what we answer to them is what the reference answered.

use std::path::Path;

use conformance::exchanges::access::Access;
use conformance::exchanges::{Outcome, check};

use super::process::Cluster;

/// As many exchanges are on record at least, so that an empty folder is no success.
const RECORDED: usize = 3_700;

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_exchange_is_answered_as_the_reference_did() {
    let data = tempfile::tempdir().expect("a folder");
    // As the reference ran, which had no controllers either.
    let cluster = Cluster::api_server_with(data.path(), &["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"]);
    let access = Access::kubeconfig(cluster.kubeconfig()).expect("a way in");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/corpus");
    let outcomes = check(&access, &corpus, &[]).await.expect("the server answers");
    assert!(outcomes.iter().map(|outcome| outcome.steps).sum::<usize>() >= RECORDED);
    let told: Vec<String> = outcomes.iter().flat_map(told).collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}

fn told(outcome: &Outcome) -> Vec<String> {
    let place = |step: &String, difference: &dyn std::fmt::Display| format!("{}: {step}: {difference}", outcome.scenario);
    outcome.different.iter().flat_map(|(step, differences)| differences.iter().map(move |d| place(step, d))).collect()
}
