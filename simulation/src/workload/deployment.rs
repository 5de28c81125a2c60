//! Deployments: rolled out, scaled, rolled back, paused, recreated.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::{Topic, app, change_particular_template, number_or_percent, particular_template, put_template_right};
use crate::api::kinds;
use crate::object;

pub const TOPIC: Topic = Topic { kind: kinds::DEPLOYMENT, most: 4, weight: 6, make, change, put_right };

fn strategy(rng: &mut SmallRng) -> Value {
    if rng.random::<f64>() < 0.2 {
        return json!({"type": "Recreate"});
    }
    let (surge, mut unavailable) = (number_or_percent(rng, 3), number_or_percent(rng, 3));
    if object::share(Some(&surge), 100, true) == 0 && object::share(Some(&unavailable), 100, true) == 0 {
        unavailable = 1.into();
    }
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn make(rng: &mut SmallRng, name: &str) -> Value {
    let labels = app(name);
    json!({
        "metadata": {"labels": labels},
        "spec": {
            "replicas": rng.random_range(0..8), "selector": {"matchLabels": labels}, "template": particular_template(rng, &labels),
            "strategy": strategy(rng), "revisionHistoryLimit": rng.random_range(0..4), "progressDeadlineSeconds": 600,
            "minReadySeconds": if rng.random::<f64>() < 0.3 { rng.random_range(1..10) } else { 0 },
        },
    })
}

fn change(rng: &mut SmallRng, deployment: &mut Value) {
    let spec = &mut deployment["spec"];
    match rng.random_range(0..10) {
        0..4 => change_particular_template(rng, &mut spec["template"]),
        4..7 => spec["replicas"] = rng.random_range(0..8).into(),
        7 => spec["paused"] = rng.random::<bool>().into(),
        8 => spec["strategy"] = strategy(rng),
        _ => {
            // Both at once.
            change_particular_template(rng, &mut spec["template"]);
            spec["replicas"] = rng.random_range(0..8).into();
        }
    }
}

fn put_right(deployment: &mut Value) {
    let spec = &mut deployment["spec"];
    spec["paused"] = false.into();
    put_template_right(&mut spec["template"]);
}
