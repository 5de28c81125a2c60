//! DaemonSets: on every node, updated one by one or with a surge.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::{Topic, app, change_template, put_template_right, template};
use crate::api::kinds;

pub const TOPIC: Topic = Topic { kind: kinds::DAEMON_SET, most: 2, weight: 3, make, change, put_right };

fn make(rng: &mut SmallRng, name: &str) -> Value {
    let labels = app(name);
    let strategy = match rng.random_range(0..3) {
        0 => json!({"type": "OnDelete"}),
        1 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}),
        _ => json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}),
    };
    // A pod that must be on a small node that is full would wait for ever.
    let mut template = template(rng, &labels);
    template["spec"]["containers"][0]["resources"] = json!({});
    json!({"spec": {
        "selector": {"matchLabels": labels}, "template": template, "updateStrategy": strategy, "revisionHistoryLimit": 2,
    }})
}

fn change(rng: &mut SmallRng, set: &mut Value) {
    change_template(rng, &mut set["spec"]["template"]);
}

fn put_right(set: &mut Value) {
    let spec = &mut set["spec"];
    put_template_right(&mut spec["template"]);
    if spec["updateStrategy"]["type"] == "OnDelete" {
        spec["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}});
    }
}
