//! CronJobs: every minute, with each policy for those that are late.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::{Topic, job};
use crate::api::kinds;

pub const TOPIC: Topic = Topic { kind: kinds::CRON_JOB, most: 1, weight: 1, make, change, put_right };

fn make(rng: &mut SmallRng, _: &str) -> Value {
    let policy = ["Allow", "Forbid", "Replace"][rng.random_range(0..3)];
    json!({"spec": {
        "schedule": "* * * * *", "concurrencyPolicy": policy, "jobTemplate": {"spec": job::spec(rng)},
        "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1, "suspend": false,
    }})
}

fn change(rng: &mut SmallRng, cron_job: &mut Value) {
    cron_job["spec"]["suspend"] = rng.random::<bool>().into();
}

fn put_right(_: &mut Value) {}
