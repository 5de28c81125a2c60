//! What users do: they make things, change their minds, and take things away in every way that there is.
//!
//! One file a kind: how one is made, and how it is changed. Until the end of the troubles users want odd things too (pods that never
//! become ready, rollouts that are paused); then they put everything right, so that the cluster can come to rest.

mod constraints;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption_budget;
mod job;
mod nodes;
mod pods;
mod quota;
mod replica_set;
mod resource_claim;
mod service;
mod single_pod;
mod stateful_set;

use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use crate::api::core::{Core, Deletion, Part};
use crate::api::kinds::{self, KindId};
use crate::api::state::{Author, Key};
use crate::object;

pub const USER: &str = "user";

/// What a user does with one kind.
pub struct Topic {
    pub kind: KindId,
    /// So many of them there are at most.
    pub most: usize,
    /// How often something is done with it, beside the others.
    pub weight: u32,
    pub make: fn(&mut SmallRng, &str) -> Value,
    pub change: fn(&mut SmallRng, &mut Value),
    /// Takes back what keeps the cluster from coming to rest.
    pub put_right: fn(&mut Value),
}

pub const TOPICS: &[Topic] = &[
    deployment::TOPIC,
    replica_set::TOPIC,
    stateful_set::TOPIC,
    daemon_set::TOPIC,
    job::TOPIC,
    cron_job::TOPIC,
    disruption_budget::TOPIC,
    service::TOPIC,
    quota::TOPIC,
    single_pod::TOPIC,
    resource_claim::TOPIC,
    resource_claim::TEMPLATES,
];

/// Namespaces that users have. The last comes and goes.
const NAMESPACES: [&str; 3] = ["one", "two", "fleeting"];

/// All users.
pub struct Users {
    rng: SmallRng,
    made: u32,
    topics: Vec<&'static Topic>,
}

impl Users {
    /// Users who care for some of the topics.
    pub fn new(mut rng: SmallRng) -> Users {
        let mut topics: Vec<&Topic> = TOPICS.iter().filter(|_| rng.random::<f64>() < 0.6).collect();
        if topics.is_empty() {
            topics.extend(TOPICS.first());
        }
        Users { rng, made: 0, topics }
    }

    /// Does something.
    pub fn act(&mut self, core: &mut Core) {
        match self.rng.random_range(0..100) {
            0..45 => self.make(core),
            45..75 => self.change(core),
            75..85 => self.delete(core),
            85..90 => self.come_or_go(core),
            90..95 => self.evict(core),
            95..97 => nodes::disturb(&mut self.rng, core),
            _ => pods::disturb(&mut self.rng, core),
        }
    }

    fn topic(&mut self) -> &'static Topic {
        let total: u32 = self.topics.iter().map(|topic| topic.weight).sum();
        let mut drawn = self.rng.random_range(0..total.max(1));
        for topic in &self.topics {
            if drawn < topic.weight {
                return topic;
            }
            drawn -= topic.weight;
        }
        &TOPICS[0]
    }

    fn make(&mut self, core: &mut Core) {
        let topic = self.topic();
        if core.state.list(topic.kind, "").filter(|object| object::controller(object).is_none()).count() >= topic.most {
            return;
        }
        let namespace = NAMESPACES[self.rng.random_range(0..NAMESPACES.len())];
        self.made += 1;
        // Names return, so that what has gone and what comes are not mistaken for each other.
        let name = format!("{}-{}", kinds::KINDS[topic.kind].plural, self.rng.random_range(0..topic.most * 2));
        let mut made = (topic.make)(&mut self.rng, &name);
        made["metadata"]["name"] = name.into();
        // A namespace may be missing, and a name taken.
        let _ = core.create(&Author::new(USER), topic.kind, namespace, made);
    }

    fn any(&mut self, core: &Core, kind: KindId) -> Option<Key> {
        let all: Vec<Key> = core
            .state
            .list(kind, "")
            .filter(|object| !object::is_terminating(object) && object::controller(object).is_none())
            .map(|object| Key::new(kind, object::namespace(object), object::name(object)))
            .collect();
        all.choose(&mut self.rng).cloned()
    }

    fn change(&mut self, core: &mut Core) {
        let topic = self.topic();
        let Some(key) = self.any(core, topic.kind) else { return };
        let rng = &mut self.rng;
        core.change(USER, &key, Part::Main, |object| (topic.change)(rng, object));
    }

    fn delete(&mut self, core: &mut Core) {
        let topic = self.topic();
        let Some(key) = self.any(core, topic.kind) else { return };
        let policies = [None, Some("Background"), Some("Foreground"), Some("Orphan")];
        let propagation = policies[self.rng.random_range(0..policies.len())].map(str::to_owned);
        // Somebody may be deleting it already.
        let _ = core.delete(&Author::new(USER), &key, &Deletion { propagation, ..Deletion::default() });
    }

    fn come_or_go(&mut self, core: &mut Core) {
        let [.., fleeting] = NAMESPACES;
        let by = Author::new(USER);
        if core.state.get(kinds::NAMESPACE, "", fleeting).is_some() {
            let _ = core.delete(&by, &Key::new(kinds::NAMESPACE, "", fleeting), &Deletion::default());
        } else {
            let _ = core.create(&by, kinds::NAMESPACE, "", json!({"metadata": {"name": fleeting}}));
        }
    }

    fn evict(&mut self, core: &mut Core) {
        if let Some(key) = pods::any(&mut self.rng, core) {
            // A budget may be against it.
            let _ = crate::api::evict(core, &Author::new(USER), &key.namespace, &key.name);
        }
    }

    /// Puts everything right. To be called until the cluster is at rest: what is on its way may bring more.
    pub fn put_right(&mut self, core: &mut Core) {
        for topic in TOPICS {
            let all: Vec<Key> = core
                .state
                .list(topic.kind, "")
                .map(|object| Key::new(topic.kind, object::namespace(object), object::name(object)))
                .collect();
            for key in all {
                core.change(USER, &key, Part::Main, topic.put_right);
            }
        }
        let by = Author::new(USER);
        // A CronJob goes on for ever.
        let all = core.state.list(kinds::CRON_JOB, "");
        let all: Vec<Key> = all.map(|object| Key::new(kinds::CRON_JOB, object::namespace(object), object::name(object))).collect();
        for key in all {
            // It is there.
            let _ = core.delete(&by, &key, &Deletion { propagation: Some("Background".to_owned()), ..Deletion::default() });
        }
        nodes::put_right(core);
        pods::remove_stuck(core);
    }
}

/// Which of a few apps an object belongs to: some share one, so that they quarrel about pods only where their kinds do.
fn app(name: &str) -> Value {
    json!({"app": name})
}

/// A template of pods that now and then ask for particular places.
fn particular_template(rng: &mut SmallRng, labels: &Value) -> Value {
    let mut template = template(rng, labels);
    if rng.random::<f64>() < 0.3 {
        constraints::add(rng, &mut template, labels, false);
    }
    template
}

/// A template of pods.
fn template(rng: &mut SmallRng, labels: &Value) -> Value {
    let mut template = json!({
        "metadata": {"labels": labels},
        "spec": {
            "containers": [{"name": "c", "image": format!("i:{}", rng.random_range(0..4))}],
            "terminationGracePeriodSeconds": rng.random_range(0..20),
        },
    });
    if rng.random::<f64>() < 0.7 {
        let cpu = format!("{}m", rng.random_range(1..10) * 100);
        template["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
    }
    template
}

/// Another image, which now and then does not work.
fn change_template(rng: &mut SmallRng, template: &mut Value) {
    template["spec"]["containers"][0]["image"] = format!("i:{}", rng.random_range(0..4)).into();
    put_template_right(template);
    if rng.random::<f64>() < 0.2 {
        template["metadata"]["annotations"][crate::nodes::NEVER_READY] = "true".into();
    }
}

/// Another image, and now and then another wish for places.
fn change_particular_template(rng: &mut SmallRng, template: &mut Value) {
    change_template(rng, template);
    if rng.random::<f64>() < 0.2 {
        let labels = template["metadata"]["labels"].clone();
        constraints::add(rng, template, &labels, false);
    }
}

fn put_template_right(template: &mut Value) {
    if let Some(annotations) = template.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove(crate::nodes::NEVER_READY);
    }
    constraints::remove(template);
}

/// A number, or a share in percent.
fn number_or_percent(rng: &mut SmallRng, most: i64) -> Value {
    if rng.random::<f64>() < 0.5 { rng.random_range(0..=most).into() } else { format!("{}%", rng.random_range(0..=4) * 25).into() }
}
