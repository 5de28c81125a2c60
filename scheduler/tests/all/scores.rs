//! The scores of nodes, by upstream's formulas written down once more, slowly and apart from the scheduler, on random clusters that change.
//! What the scheduler keeps of earlier pods (counts, verdicts, scores) must not show.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use scheduler::diagnosis::Diagnosis;
use scheduler::framework::{Cycle, State};
use scheduler::profile::Profile;
use scheduler::search::{Dice, Search};
use scheduler::snapshot::NodeIndex;
use scheduler::snapshot::pod::Templates;
use scheduler::world::World;
use serde_json::{Value, json};

const MIB: i64 = 1024 * 1024;

/// A node, in plain numbers and words.
#[derive(Clone, Debug)]
struct Machine {
    name: String,
    zone: Option<&'static str>,
    cpu: i64,
    memory: i64,
    /// Taints that make it less liked.
    disliked: Vec<&'static str>,
    disk: &'static str,
    /// Images and their sizes in MiB.
    images: BTreeMap<&'static str, i64>,
}

/// A wish for company of an app, by its weight: negative for away from it.
#[derive(Clone, Debug)]
struct Company {
    app: &'static str,
    by_zone: bool,
    weight: i64,
}

#[derive(Clone, Debug)]
struct Job {
    name: String,
    app: &'static str,
    /// Thousandths of a core and MiB, if it asks for any.
    cpu: Option<i64>,
    memory: Option<i64>,
    image: &'static str,
    tolerates: Option<&'static str>,
    /// Disks that it likes, with weights.
    likes: Vec<(&'static str, i64)>,
    company: Vec<Company>,
    /// It must be near pods of this app, by zone: those who come later are drawn to it.
    needs: Option<&'static str>,
    /// Spread, if it can be: by zone or by host, with a skew.
    spread: Vec<(bool, i64)>,
}

fn pick<T: Copy>(dice: &mut Dice, from: &[T]) -> T {
    from[dice.below(from.len())]
}

fn maybe<T>(dice: &mut Dice, n: usize, make: impl FnOnce(&mut Dice) -> T) -> Option<T> {
    (dice.below(n) == 0).then(|| make(dice))
}

fn label(by_zone: bool) -> &'static str {
    if by_zone { "topology.kubernetes.io/zone" } else { "kubernetes.io/hostname" }
}

impl Machine {
    fn random(dice: &mut Dice, name: String) -> Machine {
        Machine {
            name,
            zone: (dice.below(6) > 0).then(|| pick(dice, &["a", "b", "c"])),
            cpu: 1000 * (8 + dice.below(8) as i64),
            memory: 1024 * (8 + dice.below(8) as i64),
            disliked: ["spot", "old"].into_iter().filter(|_| dice.below(4) == 0).collect(),
            disk: pick(dice, &["ssd", "hdd"]),
            images: ["web:1", "db:2"].into_iter().filter(|_| dice.below(3) > 0).map(|image| (image, 200)).collect(),
        }
    }

    fn object(&self) -> Arc<Node> {
        let taints: Vec<Value> = self.disliked.iter().map(|key| json!({"key": key, "effect": "PreferNoSchedule"})).collect();
        let mut labels = json!({"kubernetes.io/hostname": self.name, "disk": self.disk});
        if let Some(zone) = self.zone {
            labels["topology.kubernetes.io/zone"] = json!(zone);
        }
        let images: Vec<Value> = self.images.iter().map(|(name, size)| json!({"names": [name], "sizeBytes": size * MIB})).collect();
        let allocatable = json!({"cpu": format!("{}m", self.cpu), "memory": format!("{}Mi", self.memory), "pods": "500"});
        let node = json!({"metadata": {"name": self.name, "uid": self.name, "labels": labels}, "spec": {"taints": taints},
            "status": {"allocatable": allocatable, "images": images}});
        Arc::new(serde_json::from_value(node).expect("a node"))
    }

    fn domain(&self, by_zone: bool) -> Option<&str> {
        if by_zone { self.zone } else { Some(&self.name) }
    }
}

impl Job {
    fn random(dice: &mut Dice, name: String) -> Job {
        let apps = ["web", "db", "log"];
        let company = |dice: &mut Dice| Company {
            app: pick(dice, &apps),
            by_zone: dice.below(2) == 0,
            weight: (1 + dice.below(50) as i64) * if dice.below(2) == 0 { 1 } else { -1 },
        };
        Job {
            name,
            app: pick(dice, &apps),
            cpu: maybe(dice, 2, |dice| 100 * (1 + dice.below(9) as i64)),
            memory: maybe(dice, 2, |dice| 100 * (1 + dice.below(9) as i64)),
            image: pick(dice, &["web:1", "db:2", "other:3"]),
            tolerates: maybe(dice, 3, |dice| pick(dice, &["spot", "old"])),
            likes: (0..dice.below(3)).map(|_| (pick(dice, &["ssd", "hdd"]), 1 + dice.below(100) as i64)).collect(),
            company: (0..dice.below(3)).map(|_| company(dice)).collect(),
            needs: None,
            spread: if dice.below(3) == 0 { vec![(true, 1 + dice.below(3) as i64), (false, 1)] } else { Vec::new() },
        }
    }

    fn object(&self) -> Arc<Pod> {
        let mut requests = json!({});
        if let Some(cpu) = self.cpu {
            requests["cpu"] = json!(format!("{cpu}m"));
        }
        if let Some(memory) = self.memory {
            requests["memory"] = json!(format!("{memory}Mi"));
        }
        let term = |app: &str, by_zone: bool| json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": label(by_zone)});
        let weighed = |company: &Company| json!({"weight": company.weight.abs(), "podAffinityTerm": term(company.app, company.by_zone)});
        let of_sign = |near: bool| self.company.iter().filter(|c| (c.weight > 0) == near).map(weighed).collect::<Vec<_>>();
        let likes: Vec<Value> = self
            .likes
            .iter()
            .map(|(disk, weight)| json!({"weight": weight, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": [disk]}]}}))
            .collect();
        let spread: Vec<Value> = self
            .spread
            .iter()
            .map(|(by_zone, skew)| {
                json!({"maxSkew": skew, "topologyKey": label(*by_zone), "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": self.app}}})
            })
            .collect();
        let tolerations: Vec<Value> = self.tolerates.iter().map(|key| json!({"key": key, "operator": "Exists"})).collect();
        let needs: Vec<Value> = self.needs.iter().map(|app| term(app, true)).collect();
        let spec = json!({
            "containers": [{"name": "c", "image": self.image, "resources": {"requests": requests}}],
            "tolerations": tolerations,
            "topologySpreadConstraints": spread,
            "affinity": {
                "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": likes},
                "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": of_sign(true), "requiredDuringSchedulingIgnoredDuringExecution": needs},
                "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": of_sign(false)},
            },
        });
        let pod = json!({"metadata": {"name": self.name, "namespace": "d", "uid": self.name, "labels": {"app": self.app}}, "spec": spec});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    /// What scoring takes it to take.
    fn scored(&self) -> (i64, i64) {
        (self.cpu.unwrap_or(100), self.memory.unwrap_or(200))
    }
}

/// Machines, and who is where.
#[derive(Default)]
struct Plan {
    machines: BTreeMap<String, Machine>,
    placed: BTreeMap<String, (Job, String)>,
}

impl Plan {
    fn on<'a>(&'a self, machine: &'a str) -> impl Iterator<Item = &'a Job> {
        self.placed.values().filter(move |(_, at)| at == machine).map(|(job, _)| job)
    }

    /// NodeResourcesFit: the mean of what is free of each, in percent.
    fn least_allocated(&self, job: &Job, machine: &Machine) -> i64 {
        let (cpu, memory) = job.scored();
        let taken = self.on(&machine.name).map(Job::scored).fold((cpu, memory), |(a, b), (c, d)| (a + c, b + d));
        let free = |taken: i64, there: i64| if taken > there { 0 } else { (there - taken) * 100 / there };
        (free(taken.0, machine.cpu) + free(taken.1 * MIB, machine.memory * MIB)) / 2
    }

    /// NodeResourcesBalancedAllocation; nothing for pods that ask for nothing.
    fn balanced(&self, job: &Job, machine: &Machine) -> i64 {
        if job.cpu.is_none() && job.memory.is_none() {
            return 0;
        }
        let sum = |of: fn(&Job) -> Option<i64>| self.on(&machine.name).filter_map(of).sum::<i64>();
        let balance = |cpu: i64, memory: i64| {
            let share = |taken: i64, there: i64| (taken as f64 / there as f64).min(1.0);
            let (a, b) = (share(cpu, machine.cpu), share(memory * MIB, machine.memory * MIB));
            ((1.0 - ((a - b) / 2.0).abs()) * 100.0) as i64
        };
        let (cpu, memory) = (sum(|job| job.cpu), sum(|job| job.memory));
        let after = balance(cpu + job.cpu.unwrap_or(0), memory + job.memory.unwrap_or(0));
        50 + (50 + after - balance(cpu, memory)) / 2
    }

    fn disliked(job: &Job, machine: &Machine) -> i64 {
        machine.disliked.iter().filter(|taint| job.tolerates != Some(**taint)).count() as i64
    }

    fn liked(job: &Job, machine: &Machine) -> i64 {
        job.likes.iter().filter(|(disk, _)| *disk == machine.disk).map(|(_, weight)| weight).sum()
    }

    fn image(&self, job: &Job, machine: &Machine) -> i64 {
        let have = self.machines.values().filter(|machine| machine.images.contains_key(job.image)).count();
        let share = have as f64 / self.machines.len() as f64;
        let size = machine.images.get(job.image).map_or(0, |size| ((size * MIB) as f64 * share) as i64);
        let (least, most) = (23 * MIB, 1000 * MIB);
        100 * (size.clamp(least, most) - least) / (most - least)
    }

    /// InterPodAffinity: what the pod likes of those that are there, and what they like of it.
    fn company(&self, job: &Job, machine: &Machine) -> i64 {
        let near = |at: &str, by_zone: bool| {
            let here = machine.domain(by_zone);
            here.is_some() && self.machines.get(at).is_some_and(|other| other.domain(by_zone) == here)
        };
        let mut sum = 0;
        for (other, at) in self.placed.values() {
            let own = job.company.iter().filter(|c| c.app == other.app && near(at, c.by_zone)).map(|c| c.weight);
            let theirs = other.company.iter().filter(|c| c.app == job.app && near(at, c.by_zone)).map(|c| c.weight);
            let needed = i64::from(other.needs == Some(job.app) && near(at, true));
            sum += own.chain(theirs).sum::<i64>() + needed;
        }
        sum
    }

    /// PodTopologySpread: how many of the pods that count are near; nothing for machines that lack a label.
    fn crowd(&self, job: &Job, machine: &Machine, candidates: &[&Machine]) -> Option<i64> {
        let has_all = |machine: &Machine| job.spread.iter().all(|(by_zone, _)| machine.domain(*by_zone).is_some());
        if !has_all(machine) {
            return None;
        }
        let counted: Vec<&&Machine> = candidates.iter().filter(|machine| has_all(machine)).collect();
        let mut score = 0.0;
        for (by_zone, skew) in &job.spread {
            let domains: BTreeSet<Option<&str>> = counted.iter().map(|machine| machine.domain(*by_zone)).collect();
            let here = self.machines.values().filter(|other| has_all(other) && other.domain(*by_zone) == machine.domain(*by_zone));
            let pods = here.flat_map(|other| self.on(&other.name)).filter(|other| other.app == job.app).count();
            score += pods as f64 * ((domains.len() + 2) as f64).ln() + (skew - 1) as f64;
        }
        Some(score.round() as i64)
    }

    /// The sums of all scores with their weights, for these machines.
    fn totals(&self, job: &Job, candidates: &[&Machine]) -> Vec<i64> {
        let by_highest = |scores: Vec<i64>, reverse: bool| -> Vec<i64> {
            let highest = scores.iter().copied().max().unwrap_or(0);
            let scaled = scores.into_iter().map(|score| if highest == 0 { 0 } else { 100 * score / highest });
            scaled.map(|score| if reverse { 100 - score } else { score }).collect()
        };
        let disliked = by_highest(candidates.iter().map(|m| Plan::disliked(job, m)).collect(), true);
        let liked = by_highest(candidates.iter().map(|m| Plan::liked(job, m)).collect(), false);
        let company: Vec<i64> = candidates.iter().map(|m| self.company(job, m)).collect();
        let (low, high) = (company.iter().copied().min().unwrap_or(0), company.iter().copied().max().unwrap_or(0));
        let crowds: Vec<Option<i64>> = candidates.iter().map(|m| self.crowd(job, m, candidates)).collect();
        let (fewest, most) = (crowds.iter().flatten().copied().min().unwrap_or(0), crowds.iter().flatten().copied().max().unwrap_or(0));
        let of = |i: usize| {
            let machine = candidates[i];
            let company = if high > low { (100.0 * ((company[i] - low) as f64 / (high - low) as f64)) as i64 } else { 0 };
            let spread = match crowds[i] {
                _ if job.spread.is_empty() => 0,
                None => 0,
                Some(_) if most == 0 => 100,
                Some(crowd) => 100 * (most + fewest - crowd) / most,
            };
            3 * disliked[i]
                + 2 * liked[i]
                + self.least_allocated(job, machine)
                + 2 * spread
                + 2 * company
                + self.balanced(job, machine)
                + self.image(job, machine)
        };
        (0..candidates.len()).map(of).collect()
    }
}

/// The scheduler's view of the same.
struct Bench {
    world: World,
    profile: Profile,
    templates: Templates,
    search: Search,
}

impl Bench {
    fn scores(&mut self, job: &Job) -> BTreeMap<String, i64> {
        let pod = self.templates.info(&job.object(), None);
        let (mut state, mut diagnosis) = (State::default(), Diagnosis::default());
        let only = self.search.prepare(&mut self.world, &self.profile, &pod, &mut state, &mut diagnosis).expect("no plugin refuses it");
        let cycle = Cycle { world: &self.world, profile: &self.profile, pod: &pod, state: &state };
        let nodes = self.search.filter(cycle, 0, only.as_deref(), true, &mut diagnosis).expect("no plugin fails");
        let totals = self.search.scores(&mut self.world, &self.profile, 0, &pod, &mut state, &nodes);
        let name = |index: &NodeIndex| self.world.snapshot.node(*index).name.to_string();
        nodes.iter().map(name).zip(totals).collect()
    }

    fn place(&mut self, job: &Job, at: &str) {
        let pod = self.templates.info(&job.object(), None);
        self.world.snapshot.add_pod(Arc::new(pod), at);
    }
}

fn run(seed: u64, machines: usize, steps: usize) {
    let mut dice = Dice::new(seed);
    let mut plan = Plan::default();
    let (world, templates) = (World::default(), Templates::default());
    let mut bench = Bench { world, profile: Profile::standard(), templates, search: Search::new(100, seed) };
    for i in 0..machines {
        let machine = Machine::random(&mut dice, format!("m{i}"));
        bench.world.snapshot.set_node(&machine.object());
        plan.machines.insert(machine.name.clone(), machine);
    }
    // Jobs of few kinds, so that what is kept of one is used for the next.
    let kinds: Vec<Job> = (0..6).map(|i| Job::random(&mut dice, format!("kind{i}"))).collect();
    for step in 0..steps {
        match dice.below(10) {
            0 => {
                let name = format!("m{}", dice.below(machines));
                let machine = Machine::random(&mut dice, name.clone());
                bench.world.snapshot.set_node(&machine.object());
                plan.machines.insert(name, machine);
            }
            1 if !plan.placed.is_empty() => {
                let names: Vec<String> = plan.placed.keys().cloned().collect();
                let name = names[dice.below(names.len())].clone();
                plan.placed.remove(&name);
                bench.world.snapshot.remove_pod(&name);
            }
            _ => {}
        }
        let kind = kinds[dice.below(kinds.len())].clone();
        let mut job = if dice.below(4) == 0 { Job::random(&mut dice, String::new()) } else { kind };
        job.name = format!("job{step}");
        let mut got = bench.scores(&job);
        let candidates: Vec<&Machine> = got.keys().map(|name| &plan.machines[name]).collect();
        let mut expected: BTreeMap<String, i64> = got.keys().cloned().zip(plan.totals(&job, &candidates)).collect();
        // What is the same for all nodes is left out of one and not of the other.
        for scores in [&mut got, &mut expected] {
            let least = scores.values().copied().min().unwrap_or(0);
            scores.values_mut().for_each(|score| *score -= least);
        }
        assert_eq!(got, expected, "seed {seed}, step {step}: {job:?}");
        let full = |machine: &&Machine| {
            let sum = |of: fn(&Job) -> Option<i64>| plan.on(&machine.name).filter_map(of).sum::<i64>();
            let (cpu, memory) = (sum(|job| job.cpu), sum(|job| job.memory));
            job.cpu.is_some_and(|more| cpu + more > machine.cpu) || job.memory.is_some_and(|more| memory + more > machine.memory)
        };
        let fitting = plan.machines.values().filter(|machine| !full(machine)).count();
        assert_eq!(got.len(), fitting, "seed {seed}, step {step}: all that will do are found");
        let Some(name) = got.keys().nth(dice.below(got.len().max(1))).cloned() else { continue };
        // Some have needs that are met where they are; they are not scored by these, but draw others.
        job.needs = maybe(&mut dice, 6, |dice| pick(dice, &["web", "db", "log"]));
        bench.place(&job, &name);
        plan.placed.insert(job.name.clone(), (job, name));
    }
}

#[test]
fn scores_are_those_of_upstreams_formulas() {
    for seed in 0..12 {
        run(seed, 2 + seed as usize * 3, 120);
    }
}

#[test]
fn scores_stay_so_on_many_nodes() {
    run(100, 150, 300);
}
