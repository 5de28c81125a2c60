//! Finds devices for claims on a node: of all combinations, in order, the first that satisfies everything.
//!
//! Specified by upstream's `allocator_incubating.go` (v1.37), which is what its default features select. The order is that of pools,
//! slices and devices by name, so that whoever names them has a say in which are taken first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use apimachinery::quantity::Quantity;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::{DeviceClass, DeviceSelector, ResourceClaim};

use super::allocated::Allocated;
use super::capacity::{consumption, has_room};
use super::claims::asked;
use super::constraint::Constraint;
use super::pool::{Pool, gather};
use super::request::{Mode, Wanted};
use super::selector::{Error, Selectors};
use super::slice::{Amounts, DeviceInfo, SliceInfo};
use super::{Devices, full_name};

/// Devices that one claim can have.
pub const MAX_RESULTS: usize = 32;

/// Why devices were not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There are none, or not now.
    None,
    /// There are none, and pools contradict themselves.
    InvalidPools,
    /// The search took more steps than it may.
    TooLong,
    /// Something is wrong with the claims or their classes.
    Error(String),
}

/// A device for a claim.
#[derive(Clone)]
pub struct Picked<'a> {
    /// The place of its request in the claim, and that of the alternative.
    pub request: (usize, usize),
    pub slice: &'a SliceInfo,
    pub device: &'a DeviceInfo,
    /// Others may use it too.
    pub shared: bool,
    pub admin: bool,
    pub consumed: Amounts,
}

/// A device that may be taken.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    pool: usize,
    slice: &'a SliceInfo,
    device: &'a DeviceInfo,
}

/// A request, or an alternative, ready.
pub struct Asked<'a> {
    pub wanted: Wanted<'a>,
    pub class: &'a DeviceClass,
    count: usize,
    /// Those that a request for all devices means.
    all: Option<Vec<Candidate<'a>>>,
}

/// What was found for the claims, each in its place.
pub struct Solution<'a> {
    pub picked: Vec<Vec<Picked<'a>>>,
    /// By claim and request: the alternatives, and which of them was chosen.
    pub asked: Vec<Vec<(Vec<Asked<'a>>, usize)>>,
}

/// Where the search is: in which claim, request, alternative, and which of its devices is next.
#[derive(Clone, Copy)]
struct At {
    claim: usize,
    request: usize,
    alternative: usize,
    device: usize,
}

/// Where to look on: within a request devices are taken in their order, so that each set of them is tried once.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    pool: usize,
    slice: usize,
    device: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    Found,
    NotFound,
    /// What follows needs more devices than a claim can have: other devices of the same request will not help.
    TooMany,
}

/// What has to be undone when a device is given back.
struct Taken {
    counters: bool,
    constraints: usize,
    marked: bool,
    shared: bool,
}

struct Search<'a, 'b> {
    node: &'a Node,
    devices: &'a Devices,
    allocated: &'b Allocated,
    selectors: &'b mut Selectors,
    claims: &'a [Arc<ResourceClaim>],
    pools: &'a [Pool],
    asked: Vec<Vec<(Vec<Asked<'a>>, usize)>>,
    constraints: Vec<Vec<Constraint<'a>>>,
    picked: Vec<Vec<Picked<'a>>>,
    /// Devices that are taken whole, and the claims that they are taken for.
    taking: HashMap<&'a str, Vec<usize>>,
    /// Devices that are shared, and what each share takes of them.
    sharing: HashMap<&'a str, Vec<Amounts>>,
    /// By pool, what its counters have, and what of that is taken.
    available: Vec<Option<HashMap<&'a str, Amounts>>>,
    counted: Vec<BTreeMap<(&'a str, &'a str), Quantity>>,
    selected: HashMap<(usize, usize, usize, &'a str), bool>,
    steps: u64,
}

/// The pools that a node can reach; what [`solve`] looks through.
pub fn pools(devices: &Devices, node: &Node) -> Vec<Pool> {
    gather(&devices.slices, node)
}

/// Devices for all claims on a node, found in so many steps at most.
pub fn solve<'a>(
    devices: &'a Devices,
    allocated: &Allocated,
    selectors: &mut Selectors,
    claims: &'a [Arc<ResourceClaim>],
    node: &'a Node,
    pools: &'a [Pool],
    steps: u64,
) -> Result<Solution<'a>, Fault> {
    let mut search = Search {
        node,
        devices,
        allocated,
        selectors,
        claims,
        pools,
        asked: Vec::new(),
        constraints: Vec::new(),
        picked: vec![Vec::new(); claims.len()],
        taking: HashMap::new(),
        sharing: HashMap::new(),
        available: pools.iter().map(|_| None).collect(),
        counted: vec![BTreeMap::new(); pools.len()],
        selected: HashMap::new(),
        steps,
    };
    for claim in 0..claims.len() {
        search.prepare(claim)?;
    }
    match search.request(0, 0)? {
        Reached::Found => Ok(Solution { picked: search.picked, asked: search.asked }),
        Reached::TooMany => Err(Fault::Error("allocation max size exceeded".to_owned())),
        Reached::NotFound if pools.iter().any(|pool| pool.is_invalid) => Err(Fault::InvalidPools),
        Reached::NotFound => Err(Fault::None),
    }
}

impl<'a> Search<'a, '_> {
    /// Reads what a claim asks for, and checks that it can be asked for.
    fn prepare(&mut self, claim: usize) -> Result<(), Fault> {
        let object = &self.claims[claim];
        let name = full_name(&**object);
        let spec = asked(object);
        self.asked.push(Vec::new());
        let mut least = 0;
        for (place, request) in spec.iter().flat_map(|s| s.requests.iter().flatten()).enumerate() {
            let mut alternatives = Vec::new();
            for wanted in Wanted::all(request) {
                let at = (claim, place, alternatives.len());
                alternatives.push(self.ask(wanted, at, &name)?);
            }
            let count = alternatives.iter().map(|asked| asked.count).min().unwrap_or(usize::MAX);
            if count > MAX_RESULTS - least {
                return Err(Fault::Error(format!(
                    "claim {name}, request {}: adding {count} devices exceeds the claim limit of {MAX_RESULTS}, with {least} already accounted for",
                    request.name
                )));
            }
            least += count;
            self.asked[claim].push((alternatives, 0));
        }
        let mut constraints = Vec::new();
        for (place, constraint) in spec.iter().flat_map(|s| s.constraints.iter().flatten()).enumerate() {
            constraints.push(Constraint::new(constraint).ok_or_else(|| {
                Fault::Error(format!("claim {name}, constraint #{place}: empty constraint (unsupported constraint type?)"))
            })?);
        }
        self.constraints.push(constraints);
        Ok(())
    }

    fn ask(&mut self, wanted: Wanted<'a>, at: (usize, usize, usize), claim: &str) -> Result<Asked<'a>, Fault> {
        let request = wanted.name;
        let wrong = |why: String| Fault::Error(format!("claim {claim}, request {request}{why}"));
        if let Some(place) = wanted.selectors.iter().position(|selector| selector.cel.is_none()) {
            return Err(wrong(format!(", selector #{place}: CEL expression empty (unsupported selector type?)")));
        }
        if wanted.class.is_empty() {
            return Err(wrong(": missing device class name (unsupported request type?)".to_owned()));
        }
        let class = self.devices.class(wanted.class).ok_or_else(|| {
            let missing = format!("deviceclass.resource.k8s.io {:?} not found", wanted.class);
            wrong(format!(": could not retrieve device class {}: {missing}", wanted.class))
        })?;
        let mode = wanted.mode.clone().map_err(|why| wrong(format!(": {why}")))?;
        let mut asked = Asked { wanted, class, count: 0, all: None };
        match mode {
            Mode::Exactly(count) => asked.count = count,
            Mode::All => {
                let all = self.all(&asked, at, claim)?;
                asked.count = all.len();
                asked.all = Some(all);
            }
        }
        Ok(asked)
    }

    /// The devices that a request for all means.
    fn all(&mut self, asked: &Asked<'a>, at: (usize, usize, usize), claim: &str) -> Result<Vec<Candidate<'a>>, Fault> {
        let request = asked.wanted.name;
        let mut all = Vec::new();
        for (place, pool) in self.pools.iter().enumerate() {
            for (is, state) in [(pool.is_incomplete, "being updated"), (pool.is_invalid, "invalid")] {
                if is {
                    let id = &pool.id;
                    let why =
                        format!("claim {claim}, request {request}: asks for all devices, but resource pool {id} is currently {state}");
                    return Err(Fault::Error(why));
                }
            }
            for slice in &pool.here {
                for device in &slice.devices {
                    let name = &slice.device(device).name;
                    if self.is_selected(asked, at, slice, device)? && self.consumption((asked, claim), (device, name), &[])?.is_some() {
                        all.push(Candidate { pool: place, slice, device });
                    }
                }
            }
        }
        Ok(all)
    }

    /// What the request takes of the device, which messages call `name`; nothing if there is no room for it.
    fn consumption(
        &self,
        (asked, claim): (&Asked<'a>, &str),
        (device, name): (&DeviceInfo, &str),
        taken: &[Option<&Amounts>],
    ) -> Result<Option<Amounts>, Fault> {
        let consumed = consumption(&asked.wanted.capacity, &device.capacity);
        let consumed = consumed.map_err(|error| {
            let request = asked.wanted.name;
            Fault::Error(format!("claim {claim}, request {request}: checking capacity for device {name}: {error}"))
        })?;
        Ok(consumed.filter(|consumed| has_room(consumed, &device.capacity, taken)))
    }

    /// As [`Search::consumption`], with what claims and this search have taken already.
    fn consumption_now(&self, asked: &Asked<'a>, device: &DeviceInfo, claim: usize) -> Result<Option<Amounts>, Fault> {
        let mut taken = vec![self.allocated.capacity(&device.id)];
        taken.extend(self.sharing.get(&*device.id).into_iter().flatten().map(Some));
        self.consumption((asked, &full_name(&*self.claims[claim])), (device, &device.id), &taken)
    }

    fn step(&mut self) -> Result<(), Fault> {
        self.steps = self.steps.checked_sub(1).ok_or(Fault::TooLong)?;
        Ok(())
    }

    /// Finds devices for a request of a claim and all that come after it.
    fn request(&mut self, claim: usize, request: usize) -> Result<Reached, Fault> {
        self.step()?;
        let Some(of) = self.asked.get(claim) else { return Ok(Reached::Found) };
        let Some((alternatives, _)) = of.get(request) else {
            // Another choice in this claim may leave fewer devices to find in the next.
            let next = self.request(claim + 1, 0)?;
            return Ok(if next == Reached::TooMany { Reached::NotFound } else { next });
        };
        let at = |alternative| At { claim, request, alternative, device: 0 };
        if alternatives.first().is_some_and(|asked| asked.wanted.parent.is_none()) {
            return self.device(at(0), Place::default());
        }
        let mut reached = Reached::TooMany;
        for alternative in 0..alternatives.len() {
            match self.device(at(alternative), Place::default())? {
                Reached::Found => {
                    self.asked[claim][request].1 = alternative;
                    return Ok(Reached::Found);
                }
                Reached::NotFound => reached = Reached::NotFound,
                Reached::TooMany => {}
            }
        }
        Ok(reached)
    }

    fn asked(&self, at: At) -> &Asked<'a> {
        &self.asked[at.claim][at.request].0[at.alternative]
    }

    /// Finds one device, and all that come after it.
    fn device(&mut self, at: At, from: Place) -> Result<Reached, Fault> {
        self.step()?;
        let asked = self.asked(at);
        if asked.all.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Reached::NotFound);
        }
        if at.device >= asked.count {
            return self.request(at.claim, at.request + 1);
        }
        if asked.count - at.device > MAX_RESULTS.saturating_sub(self.picked[at.claim].len()) {
            return Ok(Reached::TooMany);
        }
        let next = At { device: at.device + 1, ..at };
        if let Some(candidate) = asked.all.as_ref().map(|all| all[at.device]) {
            let Some(taken) = self.take(at, candidate, true)? else { return Ok(Reached::NotFound) };
            let reached = self.device(next, Place::default())?;
            if reached != Reached::Found {
                self.give_back(at, candidate, taken);
            }
            return Ok(reached);
        }
        let pools = self.pools;
        for (pool, of) in pools.iter().enumerate().skip(from.pool).filter(|(_, pool)| !pool.is_incomplete && !pool.is_invalid) {
            for (slice, info) in of.here.iter().enumerate() {
                for (device, found) in info.devices.iter().enumerate() {
                    if (Place { pool, slice, device }) < from {
                        continue;
                    }
                    let candidate = Candidate { pool, slice: info, device: found };
                    let Some(taken) = self.try_take(at, candidate)? else { continue };
                    match self.device(next, Place { pool, slice, device: device + 1 })? {
                        Reached::Found => return Ok(Reached::Found),
                        Reached::NotFound => self.give_back(at, candidate, taken),
                        Reached::TooMany => {
                            self.give_back(at, candidate, taken);
                            return Ok(Reached::TooMany);
                        }
                    }
                }
            }
        }
        Ok(Reached::NotFound)
    }

    fn is_in_use(&self, id: &str) -> bool {
        self.allocated.has(id) || self.taking.get(id).is_some_and(|claims| !claims.is_empty())
    }

    fn is_taken_for(&self, id: &str, claim: usize) -> bool {
        self.taking.get(id).is_some_and(|claims| claims.contains(&claim))
    }

    /// Takes a device if the request wants it and it can be had.
    fn try_take(&mut self, at: At, candidate: Candidate<'a>) -> Result<Option<Taken>, Fault> {
        self.step()?;
        let admin = self.asked(at).wanted.admin;
        let id = &candidate.device.id;
        if if admin { self.is_taken_for(id, at.claim) } else { self.is_in_use(id) } {
            return Ok(None);
        }
        if !self.is_selected_at(at, candidate)? {
            return Ok(None);
        }
        self.take(at, candidate, false)
    }

    /// Takes a device that the request wants, if it can be had. `must` makes a constraint that forbids it an error.
    fn take(&mut self, at: At, candidate: Candidate<'a>, must: bool) -> Result<Option<Taken>, Fault> {
        let Candidate { pool, slice, device } = candidate;
        let object = slice.device(device);
        let shared = object.allow_multiple_allocations == Some(true);
        let admin = self.asked(at).wanted.admin;
        if (admin && !shared && self.is_taken_for(&device.id, at.claim)) || (!admin && self.is_in_use(&device.id)) {
            return Ok(None);
        }
        // One share after another takes no more of the counters.
        let is_shared_already = shared && (self.allocated.is_shared(&device.id) || self.sharing.contains_key(&*device.id));
        let counters = !is_shared_already && !device.consumes.is_empty();
        if counters && !self.count(pool, device) {
            return Ok(None);
        }
        let mut taken = Taken { counters, constraints: 0, marked: false, shared: false };
        if self.asked(at).wanted.is_kept_out_by(&device.taints) {
            self.undo(at, candidate, &taken);
            return Ok(None);
        }
        let (name, parent) = (self.asked(at).wanted.name, self.asked(at).wanted.parent);
        let (request, alternative) = parent.map_or((name, None), |parent| (parent, Some(name)));
        for place in 0..self.constraints[at.claim].len() {
            if !self.constraints[at.claim][place].add(request, alternative, object, &slice.slice.spec.driver) {
                self.undo(at, candidate, &taken);
                if must {
                    let (claim, id) = (full_name(&*self.claims[at.claim]), &device.id);
                    let why = format!("cannot add device {id} because a claim constraint would not be satisfied");
                    return Err(Fault::Error(format!("claim {claim}, request {name}: {why}")));
                }
                return Ok(None);
            }
            taken.constraints += 1;
        }
        let Some(consumed) = self.consumption_now(self.asked(at), device, at.claim)? else {
            self.undo(at, candidate, &taken);
            return Ok(None);
        };
        let consumed = if shared { consumed } else { Amounts::new() };
        if shared {
            self.sharing.entry(&device.id).or_default().push(consumed.clone());
            taken.shared = true;
        } else {
            self.taking.entry(&device.id).or_default().push(at.claim);
            taken.marked = true;
        }
        let request = (at.request, at.alternative);
        self.picked[at.claim].push(Picked { request, slice, device, shared, admin, consumed });
        Ok(Some(taken))
    }

    fn give_back(&mut self, at: At, candidate: Candidate<'a>, taken: Taken) {
        self.picked[at.claim].pop();
        self.undo(at, candidate, &taken);
    }

    fn undo(&mut self, at: At, candidate: Candidate<'a>, taken: &Taken) {
        let id = &*candidate.device.id;
        if taken.shared
            && let Some(shares) = self.sharing.get_mut(id)
        {
            shares.pop();
            if shares.is_empty() {
                self.sharing.remove(id);
            }
        }
        if taken.marked
            && let Some(claims) = self.taking.get_mut(id)
            && let Some(place) = claims.iter().rposition(|claim| *claim == at.claim)
        {
            claims.remove(place);
        }
        let (name, parent) = (self.asked(at).wanted.name, self.asked(at).wanted.parent);
        let (request, alternative) = parent.map_or((name, None), |parent| (parent, Some(name)));
        self.constraints[at.claim][..taken.constraints].iter_mut().for_each(|constraint| constraint.remove(request, alternative));
        if taken.counters {
            self.uncount(candidate.pool, candidate.device);
        }
    }

    /// Takes of the pool's counters what the device takes, if they have it.
    fn count(&mut self, pool: usize, device: &'a DeviceInfo) -> bool {
        let of = &self.pools[pool];
        let allocated = self.allocated;
        self.available[pool].get_or_insert_with(|| {
            let mut left: HashMap<&'a str, Amounts> = of.counters.iter().map(|(set, amounts)| (set.as_str(), amounts.clone())).collect();
            let devices = of.here.iter().chain(&of.elsewhere).flat_map(|slice| &slice.devices);
            for (set, amounts) in devices.filter(|d| allocated.has(&d.id) || allocated.is_shared(&d.id)).flat_map(|d| &d.consumes) {
                let Some(left) = left.get_mut(set.as_str()) else { continue };
                for (name, amount) in amounts {
                    if let Some(left) = left.get_mut(name) {
                        *left = left.minus(amount);
                    }
                }
            }
            left
        });
        for (set, amounts) in &device.consumes {
            for (name, amount) in amounts {
                let counted = self.counted[pool].entry((set.as_str(), name.as_str())).or_default();
                *counted = counted.plus(amount);
            }
        }
        let zero = Quantity::default();
        let counted = &self.counted[pool];
        let sets = self.available[pool].iter().flatten();
        let enough = sets
            .flat_map(|(set, left)| left.iter().map(move |(name, left)| (*set, name.as_str(), left)))
            .all(|(set, name, left)| counted.get(&(set, name)).unwrap_or(&zero) <= left);
        if !enough {
            self.uncount(pool, device);
        }
        enough
    }

    fn uncount(&mut self, pool: usize, device: &'a DeviceInfo) {
        for (set, amounts) in &device.consumes {
            for (name, amount) in amounts {
                if let Some(counted) = self.counted[pool].get_mut(&(set.as_str(), name.as_str())) {
                    *counted = counted.minus(amount);
                }
            }
        }
    }

    fn is_selected_at(&mut self, at: At, candidate: Candidate<'a>) -> Result<bool, Fault> {
        let key = (at.claim, at.request, at.alternative, &*candidate.device.id);
        if let Some(known) = self.selected.get(&key) {
            return Ok(*known);
        }
        let asked = self.asked(at);
        let (class, selectors) = (asked.class, asked.wanted.selectors);
        let selected = self.select(class, selectors, at.claim, candidate.slice, candidate.device)?;
        self.selected.insert(key, selected);
        Ok(selected)
    }

    fn is_selected(
        &mut self,
        asked: &Asked<'a>,
        at: (usize, usize, usize),
        slice: &'a SliceInfo,
        device: &'a DeviceInfo,
    ) -> Result<bool, Fault> {
        let selected = self.select(asked.class, asked.wanted.selectors, at.0, slice, device)?;
        self.selected.insert((at.0, at.1, at.2, &device.id), selected);
        Ok(selected)
    }

    /// Whether class and request select the device, and the node can reach it.
    fn select(
        &mut self,
        class: &DeviceClass,
        selectors: &[DeviceSelector],
        claim: usize,
        slice: &SliceInfo,
        device: &DeviceInfo,
    ) -> Result<bool, Fault> {
        let by_class = class.spec.as_ref().and_then(|spec| spec.selectors.as_deref()).unwrap_or_default();
        let class_name = class.metadata.name.as_deref().unwrap_or("");
        for (selectors, is_class) in [(by_class, true), (selectors, false)] {
            for (place, selector) in selectors.iter().enumerate() {
                let expression = selector.cel.as_ref().map_or("", |cel| cel.expression.as_str());
                let selected = self.selectors.select(expression, &device.value).map_err(|error| {
                    let whose = if is_class { format!("class {class_name}") } else { format!("claim {}", full_name(&*self.claims[claim])) };
                    Fault::Error(match error {
                        Error::Compile(why) => format!("{whose}: selector #{place}: CEL compile error: {why}"),
                        Error::Runtime(why) => format!("{whose}: selector #{place} on device {}: CEL runtime error: {why}", device.id),
                    })
                })?;
                if !selected {
                    return Ok(false);
                }
            }
        }
        Ok(slice.has_on(device, self.node))
    }
}
