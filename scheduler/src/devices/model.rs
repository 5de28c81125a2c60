//! Two other opinions on the search for devices: every assignment is tried, and judged on its own terms; and what upstream took.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceRequestAllocationResult, ResourceClaim};
use serde_json::{Value, json};

use super::Devices;
use super::allocated::Allocated;
use super::allocator::{Fault, pools, solve};
use super::result::allocations;
use crate::plugins::testing::of;
use crate::search::Dice;

/// A device of the model.
#[derive(Clone, Debug)]
struct Thing {
    name: String,
    kind: i64,
    numa: i64,
    tainted: bool,
    /// How many units it has to share; nothing if it goes to one claim only.
    units: Option<i64>,
    /// What it takes of the pool's counter.
    weight: i64,
    taken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    Same,
    Distinct,
}

/// What a request, or an alternative of one, asks for.
#[derive(Clone, Debug)]
struct Want {
    kind: Option<i64>,
    /// Nothing for all.
    count: Option<usize>,
    tolerates: bool,
    admin: bool,
    units: i64,
}

#[derive(Clone, Debug)]
struct Case {
    things: Vec<Thing>,
    counter: i64,
    /// By claim: its requests with their alternatives, and a rule for all of its devices.
    claims: Vec<(Vec<Vec<Want>>, Option<Rule>)>,
}

/// What was given: by claim, for each request the alternative and its devices.
type Given = Vec<Vec<(usize, Vec<usize>)>>;

impl Case {
    fn random(dice: &mut Dice) -> Case {
        let mut things = Vec::new();
        for place in 0..1 + dice.below(4) {
            let units = (dice.below(4) == 0).then(|| 1 + dice.below(4) as i64);
            things.push(Thing {
                name: format!("d{place}"),
                kind: dice.below(2) as i64,
                numa: dice.below(2) as i64,
                tainted: dice.below(6) == 0,
                units,
                weight: dice.below(3) as i64,
                taken: units.is_none() && dice.below(6) == 0,
            });
        }
        let want = |dice: &mut Dice, alone: bool| Want {
            kind: (dice.below(2) == 0).then(|| dice.below(2) as i64),
            count: (dice.below(5) > 0).then(|| 1 + dice.below(2)),
            tolerates: dice.below(3) == 0,
            admin: alone && dice.below(8) == 0,
            units: 1 + dice.below(3) as i64,
        };
        let mut claims = Vec::new();
        for _ in 0..1 + dice.below(2) {
            let mut requests = Vec::new();
            for _ in 0..1 + dice.below(2) {
                let alternatives = 1 + dice.below(2);
                requests.push((0..alternatives).map(|_| want(dice, alternatives == 1)).collect());
            }
            let rule = match dice.below(4) {
                0 => Some(Rule::Same),
                1 => Some(Rule::Distinct),
                _ => None,
            };
            claims.push((requests, rule));
        }
        Case { things, counter: 1 + dice.below(6) as i64, claims }
    }

    fn devices(&self) -> Devices {
        let mut devices = Devices::default();
        devices.classes.insert(of(json!({"metadata": {"name": "c"}, "spec": {}})));
        let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 2});
        let one = |thing: &Thing| {
            let mut device = json!({"name": thing.name, "attributes": {"kind": {"int": thing.kind}, "numa": {"int": thing.numa}}});
            if thing.tainted {
                device["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
            }
            if let Some(units) = thing.units {
                device["allowMultipleAllocations"] = json!(true);
                device["capacity"] = json!({"units": {"value": units.to_string()}});
            } else {
                device["capacity"] = json!({"units": {"value": "9"}});
            }
            if thing.weight > 0 {
                device["consumesCounters"] = json!([{"counterSet": "s", "counters": {"w": {"value": thing.weight.to_string()}}}]);
            }
            device
        };
        let all: Vec<Value> = self.things.iter().map(one).collect();
        let slice = |name: &str, rest: (&str, Value)| {
            let mut slice = json!({"metadata": {"name": name}, "spec": {"driver": "d.com", "nodeName": "n", "pool": pool}});
            slice["spec"][rest.0] = rest.1;
            of(slice)
        };
        devices.set_slice(&slice("a", ("devices", json!(all))));
        devices.set_slice(&slice("b", ("sharedCounters", json!([{"name": "s", "counters": {"w": {"value": self.counter.to_string()}}}]))));
        devices
    }

    fn allocated(&self) -> Allocated {
        let mut allocated = Allocated::default();
        for thing in self.things.iter().filter(|thing| thing.taken) {
            let result = json!({"request": "r", "driver": "d.com", "pool": "p", "device": thing.name});
            allocated.add(&of::<AllocationResult>(json!({"devices": {"results": [result]}})));
        }
        allocated
    }

    fn objects(&self) -> Vec<Arc<ResourceClaim>> {
        let one = |want: &Want| {
            let mut request = json!({"deviceClassName": "c", "capacity": {"requests": {"units": want.units.to_string()}}});
            if let Some(kind) = want.kind {
                request["selectors"] = json!([{"cel": {"expression": format!("device.attributes['d.com'].kind == {kind}")}}]);
            }
            match want.count {
                Some(count) => request["count"] = json!(count),
                None => request["allocationMode"] = json!("All"),
            }
            if want.tolerates {
                request["tolerations"] = json!([{"operator": "Exists"}]);
            }
            if want.admin {
                request["adminAccess"] = json!(true);
            }
            request
        };
        let request = |place: usize, alternatives: &Vec<Want>| {
            let name = format!("r{place}");
            if let [only] = alternatives.as_slice() {
                return json!({"name": name, "exactly": one(only)});
            }
            let named = |(place, want): (usize, &Want)| {
                let mut sub = one(want);
                sub["name"] = json!(format!("s{place}"));
                sub
            };
            json!({"name": name, "firstAvailable": alternatives.iter().enumerate().map(named).collect::<Vec<_>>()})
        };
        let claim = |(place, (requests, rule)): (usize, &(Vec<Vec<Want>>, Option<Rule>))| {
            let requests: Vec<Value> = requests.iter().enumerate().map(|(place, all)| request(place, all)).collect();
            let constraints: Vec<Value> = rule
                .iter()
                .map(|rule| json!({if *rule == Rule::Same { "matchAttribute" } else { "distinctAttribute" }: "d.com/numa"}))
                .collect();
            of(
                json!({"metadata": {"name": format!("c{place}"), "namespace": "d"}, "spec": {"devices": {"requests": requests, "constraints": constraints}}}),
            )
        };
        self.claims.iter().enumerate().map(claim).collect()
    }

    /// Whether a device is of the kind that is wanted, and could ever give as much.
    fn suits(&self, want: &Want, thing: &Thing) -> bool {
        want.kind.is_none_or(|kind| kind == thing.kind) && want.units <= thing.units.unwrap_or(9)
    }

    /// What is wrong with an assignment, if anything is.
    fn objection(&self, given: &Given) -> Option<String> {
        // Who takes a device whole, by claim, and what shares take of it.
        let mut whole: BTreeMap<usize, Vec<(usize, bool)>> = BTreeMap::new();
        let mut shares: BTreeMap<usize, i64> = BTreeMap::new();
        for (claim, requests) in given.iter().enumerate() {
            let (wanted, rule) = &self.claims[claim];
            let mut numas = Vec::new();
            for (request, (alternative, devices)) in requests.iter().enumerate() {
                let want = &wanted[request][*alternative];
                let suiting: Vec<usize> = (0..self.things.len()).filter(|place| self.suits(want, &self.things[*place])).collect();
                match want.count {
                    Some(count) if devices.len() != count => return Some("the count is wrong".into()),
                    None if *devices != suiting || devices.is_empty() => return Some("these are not all".into()),
                    _ => {}
                }
                if devices.windows(2).any(|pair| pair[0] >= pair[1]) {
                    return Some("a device is given twice to a request".into());
                }
                for place in devices {
                    let thing = &self.things[*place];
                    if !suiting.contains(place) {
                        return Some(format!("{} does not suit", thing.name));
                    }
                    if thing.tainted && !want.tolerates {
                        return Some(format!("{} is tainted", thing.name));
                    }
                    if thing.taken && !want.admin {
                        return Some(format!("{} is taken", thing.name));
                    }
                    numas.push(thing.numa);
                    if thing.units.is_some() {
                        *shares.entry(*place).or_default() += want.units;
                    } else {
                        whole.entry(*place).or_default().push((claim, want.admin));
                    }
                }
            }
            let distinct: std::collections::BTreeSet<i64> = numas.iter().copied().collect();
            match rule {
                Some(Rule::Same) if distinct.len() > 1 => return Some("they differ".into()),
                Some(Rule::Distinct) if distinct.len() < numas.len() => return Some("they are alike".into()),
                _ => {}
            }
        }
        for (place, takers) in &whole {
            // In the order of the search: who wants a device for itself finds nobody there, who only looks in is not there twice.
            for (at, (claim, admin)) in takers.iter().enumerate() {
                let before = &takers[..at];
                if (*admin && before.iter().any(|(other, _)| other == claim)) || (!*admin && !before.is_empty()) {
                    return Some(format!("{} is given twice", self.things[*place].name));
                }
            }
        }
        if shares.iter().any(|(place, units)| self.things[*place].units.is_some_and(|has| *units > has)) {
            return Some("more is shared than there is".into());
        }
        // Each use counts, but shares of a device count once.
        let used = whole.iter().map(|(place, takers)| self.things[*place].weight * takers.len() as i64);
        let shared = shares.keys().map(|place| self.things[*place].weight);
        let before: i64 = self.things.iter().filter(|thing| thing.taken).map(|thing| thing.weight).sum();
        let weighs = whole.keys().chain(shares.keys()).any(|place| self.things[*place].weight > 0);
        (weighs && used.chain(shared).sum::<i64>() + before > self.counter).then(|| "the counter is exceeded".into())
    }

    /// Whether any assignment will do: all are tried.
    fn is_possible(&self, given: &mut Given, claim: usize, request: usize) -> bool {
        let Some((requests, _)) = self.claims.get(claim) else { return self.objection(given).is_none() };
        let Some(alternatives) = requests.get(request) else { return self.is_possible(given, claim + 1, 0) };
        for alternative in 0..alternatives.len() {
            for set in 0..1_u32 << self.things.len() {
                let devices = (0..self.things.len()).filter(|place| set & (1 << place) != 0).collect();
                given[claim].push((alternative, devices));
                let possible = self.is_possible(given, claim, request + 1);
                given[claim].pop();
                if possible {
                    return true;
                }
            }
        }
        false
    }

    /// What the search has given, in the model's terms.
    fn given(&self, results: &[AllocationResult]) -> Given {
        let of_claim = |(claim, result): (usize, &AllocationResult)| {
            let mut requests: Vec<(usize, Vec<usize>)> = self.claims[claim].0.iter().map(|_| (0, Vec::new())).collect();
            for one in super::claims::results(result) {
                let (request, sub) = one.request.split_once('/').unwrap_or((&one.request, "s0"));
                let place: usize = request[1..].parse().unwrap();
                requests[place].0 = sub[1..].parse().unwrap();
                requests[place].1.push(self.things.iter().position(|thing| thing.name == one.device).unwrap());
            }
            requests
        };
        results.iter().enumerate().map(of_claim).collect()
    }
}

/// The cases are the same wherever they are made: [`RECORDED`] has an answer for each.
const SEED: u64 = 20_261_128;
const CASES: usize = 800;

/// What the allocator of `k8s.io/dynamic-resource-allocation` v0.37.2 gave for the cases with its default features, a line each: the
/// devices of requests with what they share of them, claims apart; `-` for none, and `!` for an error.
const RECORDED: &str = include_str!("recorded.txt");

#[test]
fn the_search_takes_the_devices_that_upstream_takes() {
    let mut dice = Dice::new(SEED);
    let node: Arc<Node> = of(json!({"metadata": {"name": "n"}}));
    for recorded in RECORDED.lines() {
        let case = Case::random(&mut dice);
        let (devices, claims) = (case.devices(), case.objects());
        let pools = pools(&devices, &node);
        let mut selectors = devices.selectors.lock();
        let told = match solve(&devices, &case.allocated(), &mut selectors, &claims, &node, &pools, 1_000_000) {
            Ok(solution) => {
                let one = |result: &DeviceRequestAllocationResult| {
                    let shared = result.consumed_capacity.as_ref().and_then(|consumed| consumed.get("units"));
                    let shared = shared.map_or(String::new(), |units| format!("*{}", units.0));
                    format!("{}={}{shared}", result.request, result.device)
                };
                let all = allocations(&solution, &claims, &node).unwrap();
                let told = |result| super::claims::results(result).iter().map(one).collect::<Vec<_>>().join(" ");
                all.iter().map(told).collect::<Vec<_>>().join(" | ")
            }
            Err(Fault::Error(error)) => format!("! {error}"),
            Err(_) => "-".to_owned(),
        };
        assert_eq!(told, recorded, "{case:?}");
    }
    assert_eq!(RECORDED.lines().count(), CASES);
}

#[test]
fn the_search_finds_devices_if_and_only_if_there_are_some() {
    let mut dice = Dice::new(SEED);
    let node: Arc<Node> = of(json!({"metadata": {"name": "n"}}));
    let (mut found, mut refused) = (0, 0);
    for _ in 0..CASES {
        let case = Case::random(&mut dice);
        let devices = case.devices();
        let claims = case.objects();
        let pools = pools(&devices, &node);
        let mut selectors = devices.selectors.lock();
        let solved = solve(&devices, &case.allocated(), &mut selectors, &claims, &node, &pools, 1_000_000);
        match solved {
            Ok(solution) => {
                let given = case.given(&allocations(&solution, &claims, &node).unwrap());
                assert_eq!(case.objection(&given), None, "{case:?} {given:?}");
                found += 1;
            }
            Err(fault) => {
                // A constraint that keeps a claim from all devices of a kind is told as an error.
                let is_told = matches!(&fault, Fault::Error(why) if why.contains("a claim constraint would not be satisfied"));
                assert!(fault == Fault::None || is_told, "{case:?} {fault:?}");
                if fault == Fault::None {
                    let mut nothing: Given = case.claims.iter().map(|_| Vec::new()).collect();
                    assert!(!case.is_possible(&mut nothing, 0, 0), "{case:?}");
                }
                refused += 1;
            }
        }
    }
    assert!(found > 100 && refused > 300, "{found} {refused}");
}
