//! StatefulSets: in order or in parallel, updated from the last ordinal down, or by a partition only in part.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::{Topic, app, change_particular_template, number_or_percent, particular_template, put_template_right};
use crate::api::kinds;

pub const TOPIC: Topic = Topic { kind: kinds::STATEFUL_SET, most: 3, weight: 4, make, change, put_right };

fn make(rng: &mut SmallRng, name: &str) -> Value {
    let labels = app(name);
    let policy = if rng.random::<bool>() { "OrderedReady" } else { "Parallel" };
    let strategy = if rng.random::<f64>() < 0.2 {
        json!({"type": "OnDelete"})
    } else {
        let unavailable: Value = if rng.random::<bool>() { 1.into() } else { number_or_percent(rng, 3) };
        let unavailable = if unavailable == 0 || unavailable == "0%" { 2.into() } else { unavailable };
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": rng.random_range(0..2), "maxUnavailable": unavailable}})
    };
    json!({"spec": {
        "replicas": rng.random_range(0..5), "selector": {"matchLabels": labels}, "template": particular_template(rng, &labels), "serviceName": name,
        "podManagementPolicy": policy, "updateStrategy": strategy, "revisionHistoryLimit": rng.random_range(0..3),
    }})
}

fn change(rng: &mut SmallRng, set: &mut Value) {
    let spec = &mut set["spec"];
    match rng.random_range(0..3) {
        0 => change_particular_template(rng, &mut spec["template"]),
        1 => spec["replicas"] = rng.random_range(0..5).into(),
        _ if spec["updateStrategy"]["type"] == "RollingUpdate" => {
            spec["updateStrategy"]["rollingUpdate"]["partition"] = rng.random_range(0..3).into();
        }
        _ => {}
    }
}

fn put_right(set: &mut Value) {
    let spec = &mut set["spec"];
    put_template_right(&mut spec["template"]);
    if spec["updateStrategy"]["type"] == "OnDelete" {
        spec["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {}});
    }
    spec["updateStrategy"]["rollingUpdate"]["partition"] = 0.into();
}
