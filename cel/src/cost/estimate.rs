//! What an expression may cost, from how much there can be of what it names.

use std::collections::HashMap;

use super::runtime::is_ordering;
use super::{CHECK_COST, LIST_COST, MAP_COST, OBJECT_COST, REGEX, TRAVERSAL, scaled};
use crate::ast::{ACCUMULATOR, Comprehension, Expr, Id, Kind, Literal};
use crate::check::{Checked, Reference};
use crate::schema::Schema;
use crate::types::Type;

/// Characters of the longest name of a format, and of its expression.
const MAX_FORMAT: u64 = 64;
const MAX_FORMAT_REGEX: f64 = 128.0;

/// Between what an expression may cost at least and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostEstimate {
    pub min: u64,
    pub max: u64,
}

/// How much there may be of something.
type Size = CostEstimate;

/// How much there can be of what variables hold.
#[derive(Clone, Copy, Default)]
pub enum Sizes<'s> {
    /// Nothing is known.
    #[default]
    Unknown,
    /// All variables are of this schema.
    Of(&'s Schema),
}

impl Sizes<'_> {
    fn at(&self, path: &[String]) -> Option<Size> {
        match self {
            Sizes::Of(schema) if !path.is_empty() => schema.max_at(&path[1..]).map(|max| CostEstimate { min: 0, max }),
            _ => None,
        }
    }
}

const UNKNOWN: Size = CostEstimate { min: 0, max: u64::MAX };

impl CostEstimate {
    const fn fixed(cost: u64) -> CostEstimate {
        CostEstimate { min: cost, max: cost }
    }

    fn plus(self, other: CostEstimate) -> CostEstimate {
        CostEstimate { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: CostEstimate) -> CostEstimate {
        CostEstimate { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn scaled(self, factor: f64) -> CostEstimate {
        CostEstimate { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    fn union(self, other: CostEstimate) -> CostEstimate {
        CostEstimate { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Estimates an expression.
pub(crate) fn estimate(checked: &Checked, sizes: Sizes<'_>) -> CostEstimate {
    let mut coster =
        Coster { checked, sizes, paths: HashMap::new(), computed: HashMap::new(), entries: HashMap::new(), locals: Vec::new() };
    coster.cost(&checked.root)
}

/// Cost of reading a selector of so many characters.
pub(super) fn selector(length: u64) -> u64 {
    LIST_COST + scaled(length, TRAVERSAL) + scaled(scaled(length, 0.5), (LIST_COST + OBJECT_COST) as f64)
}

/// How much there may be of keys and values of a collection.
#[derive(Clone, Copy)]
struct EntrySize {
    is_list: bool,
    key: Size,
    value: Size,
}

struct Local {
    name: String,
    path: Vec<String>,
    size: Option<Size>,
    entries: Option<EntrySize>,
}

struct Coster<'c> {
    checked: &'c Checked,
    sizes: Sizes<'c>,
    paths: HashMap<Id, Vec<String>>,
    computed: HashMap<Id, Size>,
    entries: HashMap<Id, EntrySize>,
    locals: Vec<Local>,
}

/// A part that the cost of a function depends on.
struct Node<'n> {
    expr: Option<&'n Expr>,
    ty: Type,
    path: Vec<String>,
    size: Option<Size>,
}

struct CallCost {
    cost: CostEstimate,
    result: Option<Size>,
}

impl From<CostEstimate> for CallCost {
    fn from(cost: CostEstimate) -> CallCost {
        CallCost { cost, result: None }
    }
}

impl Coster<'_> {
    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    fn cost(&mut self, expr: &Expr) -> CostEstimate {
        match &expr.kind {
            Kind::Unspecified | Kind::Literal(_) => CostEstimate::fixed(0),
            Kind::Ident(name) => {
                let path = self.local(name).map_or_else(|| vec![name.clone()], |local| local.path.clone());
                self.paths.insert(expr.id, path);
                CostEstimate::fixed(1)
            }
            Kind::Select { operand, test_only: true, .. } => self.cost(operand),
            Kind::Select { operand, field, .. } => {
                let sum = self.cost(operand);
                let counts = matches!(self.checked.ty(operand), Type::Map(..) | Type::Object(_) | Type::Param(_));
                let mut path = self.path(operand);
                path.push(field.clone());
                self.paths.insert(expr.id, path);
                if counts { sum.plus(CostEstimate::fixed(1)) } else { sum }
            }
            Kind::Call { target, function, args } => self.call(expr, target.as_deref(), function, args),
            Kind::List(elements) => {
                let (mut sum, mut size) = (CostEstimate::fixed(0), self.nothing_or_all(elements.is_empty()));
                for (element, _) in elements {
                    sum = sum.plus(self.cost(element));
                    size = size.union(self.size_or_unknown(element));
                }
                self.entries.insert(expr.id, EntrySize { is_list: true, key: CostEstimate::fixed(1), value: size });
                sum.plus(CostEstimate::fixed(LIST_COST))
            }
            Kind::Map(entries) => {
                let nothing = self.nothing_or_all(entries.is_empty());
                let (mut sum, mut key, mut value) = (CostEstimate::fixed(0), nothing, nothing);
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    key = key.union(self.size_or_unknown(&entry.key));
                    value = value.union(self.size_or_unknown(&entry.value));
                }
                self.entries.insert(expr.id, EntrySize { is_list: false, key, value });
                sum.plus(CostEstimate::fixed(MAP_COST))
            }
            Kind::Struct { fields, .. } => {
                let sum = fields.iter().fold(CostEstimate::fixed(0), |sum, field| sum.plus(self.cost(&field.value)));
                sum.plus(CostEstimate::fixed(OBJECT_COST))
            }
            Kind::Comprehension(over) if over.is_bind() => self.bind(expr, over),
            Kind::Comprehension(over) => self.comprehension(expr, over),
        }
    }

    /// What a union of sizes begins with.
    fn nothing_or_all(&self, is_empty: bool) -> Size {
        CostEstimate { min: if is_empty { 0 } else { u64::MAX }, max: 0 }
    }

    fn path(&self, expr: &Expr) -> Vec<String> {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn size(&mut self, expr: &Expr) -> Option<Size> {
        if let Some(size) = self.computed.get(&expr.id) {
            return Some(*size);
        }
        let of_form = match &expr.kind {
            Kind::Literal(Literal::String(text)) => Some(text.chars().count()),
            Kind::Literal(Literal::Bytes(bytes)) => Some(bytes.len()),
            Kind::Literal(_) => Some(1),
            Kind::List(elements) => Some(elements.len()),
            Kind::Map(entries) => Some(entries.len()),
            _ => None,
        };
        if let Some(size) = of_form {
            return Some(CostEstimate::fixed(size as u64));
        }
        if let Some(size) = self.sizes.at(&self.path(expr)) {
            self.computed.insert(expr.id, size);
            return Some(size);
        }
        if self.checked.ty(expr).is_scalar() {
            return Some(CostEstimate::fixed(1));
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Size {
        self.size(expr).unwrap_or(UNKNOWN)
    }

    fn entry_size(&self, expr: &Expr) -> Option<EntrySize> {
        if let Some(size) = self.entries.get(&expr.id) {
            return Some(*size);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.entries),
            _ => None,
        }
    }

    fn node<'n>(&mut self, expr: &'n Expr) -> Node<'n> {
        let mut path = self.path(expr);
        if path.first().is_some_and(|root| root == ACCUMULATOR) {
            path.clear();
        }
        Node { expr: Some(expr), ty: self.checked.ty(expr).clone(), path, size: self.size(expr) }
    }

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) -> CostEstimate {
        if function == "dyn"
            && let [arg] = args
        {
            let cost = self.cost(arg);
            self.copy_sizes(expr, arg);
            return cost.plus(CostEstimate::fixed(1));
        }
        let overloads: Vec<String> = match self.checked.references.get(&expr.id) {
            Some(Reference::Call(_, overloads)) => overloads.iter().map(|id| id.to_string()).collect(),
            _ => return CostEstimate::fixed(0),
        };
        let mut arg_costs = Vec::with_capacity(args.len());
        let mut nodes = Vec::with_capacity(args.len());
        for arg in args {
            arg_costs.push(self.cost(arg));
            nodes.push(self.node(arg));
        }
        let mut sum = CostEstimate::fixed(0);
        let target = target.map(|target| {
            sum = sum.plus(self.cost(target));
            self.node(target)
        });
        let mut cost = CostEstimate { min: u64::MAX, max: 0 };
        let mut result: Option<Size> = None;
        for overload in &overloads {
            let one = self.overload(expr, function, overload, target.as_ref(), &nodes, &arg_costs);
            cost = cost.union(one.cost);
            if let Some(size) = one.result {
                result = Some(result.map_or(size, |before| before.union(size)));
            }
            if let ("index_list" | "index_map", Some(collection)) = (overload.as_str(), args.first()) {
                result = self.entry_size(collection).map(|entries| entries.value);
                let mut path = self.path(collection);
                path.push(if overload == "index_list" { "@items" } else { "@values" }.to_owned());
                self.paths.insert(expr.id, path);
            }
            if result.is_none() {
                result = self.size(expr);
            }
        }
        if let Some(size) = result {
            self.computed.insert(expr.id, size);
        }
        sum.plus(cost)
    }

    fn copy_sizes(&mut self, to: &Expr, from: &Expr) {
        if let Some(size) = self.size(from) {
            self.computed.insert(to.id, size);
        }
        if let Some(entries) = self.entry_size(from) {
            self.entries.insert(to.id, entries);
        }
    }

    fn bind(&mut self, expr: &Expr, over: &Comprehension) -> CostEstimate {
        let sum = self.cost(&over.range).plus(self.cost(&over.init));
        self.push_value(&over.accumulator, &over.init);
        let sum = sum.plus(self.cost(&over.result));
        let kept = self.size(&over.result);
        let kept_entries = self.entry_size(&over.result);
        self.locals.pop();
        self.copy_sizes(expr, &over.result);
        if let (Some(size), None) = (kept, self.computed.get(&expr.id)) {
            self.computed.insert(expr.id, size);
        }
        if let (Some(entries), None) = (kept_entries, self.entries.get(&expr.id)) {
            self.entries.insert(expr.id, entries);
        }
        sum
    }

    /// A variable for the value of an expression.
    fn push_value(&mut self, name: &str, value: &Expr) {
        let local = Local { name: name.to_owned(), path: self.path(value), size: self.size(value), entries: self.entry_size(value) };
        self.locals.push(local);
    }

    /// A variable for the keys or the values of a range.
    fn push_part(&mut self, name: &str, range: &Expr, wants_key: Option<bool>) {
        let entries = self.entry_size(range);
        let is_list = entries.map_or_else(|| matches!(self.checked.ty(range), Type::List(_)), |entries| entries.is_list);
        // One variable alone is the element of a list or the key of a map.
        let wants_key = wants_key.unwrap_or(!is_list);
        let size = entries.map(|entries| if wants_key { entries.key } else { entries.value });
        let step = match (wants_key, is_list) {
            (true, true) => "@indices",
            (true, false) => "@keys",
            (false, true) => "@items",
            (false, false) => "@values",
        };
        let mut path = self.path(range);
        path.push(step.to_owned());
        self.locals.push(Local { name: name.to_owned(), path, size, entries: None });
    }

    fn comprehension(&mut self, expr: &Expr, over: &Comprehension) -> CostEstimate {
        let mut sum = self.cost(&over.range).plus(self.cost(&over.init));
        self.push_value(&over.accumulator, &over.init);
        match &over.second {
            Some(second) => {
                self.push_part(&over.variable, &over.range, Some(true));
                self.push_part(second, &over.range, Some(false));
            }
            None => self.push_part(&over.variable, &over.range, None),
        }
        let turn = self.cost(&over.condition).plus(self.cost(&over.step));
        self.locals.truncate(self.locals.len() - if over.second.is_some() { 2 } else { 1 });
        sum = sum.plus(self.cost(&over.result));
        self.locals.pop();
        let count = self.size_or_unknown(&over.range);
        sum = sum.plus(count.times(turn));
        match &over.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&over.init) {
                    self.computed.insert(expr.id, size);
                }
            }
            Kind::List(_) | Kind::Map(_) => {
                self.computed.insert(expr.id, count);
                if let Some(entries) = self.entry_size(&over.step) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        sum
    }

    fn overload(
        &mut self,
        expr: &Expr,
        function: &str,
        overload: &str,
        target: Option<&Node<'_>>,
        args: &[Node<'_>],
        arg_costs: &[CostEstimate],
    ) -> CallCost {
        let args_cost = arg_costs.iter().fold(CostEstimate::fixed(0), |sum, cost| sum.plus(*cost));
        let with_args = |cost: CallCost| CallCost { cost: cost.cost.plus(args_cost), result: cost.result };
        if let Some(cost) = self.by_overload(overload, target, args) {
            return with_args(cost);
        }
        if let Some(cost) = self.by_function(function, overload, target, args) {
            return with_args(cost);
        }
        let size = |node: &Node<'_>| node.size.unwrap_or(UNKNOWN);
        let cost: CallCost = match (overload, target, args) {
            ("string_format", Some(target), _) => size(target).scaled(TRAVERSAL).into(),
            ("string_to_bytes", _, [arg]) => {
                let of = size(arg);
                let result = CostEstimate { min: of.min, max: of.max.wrapping_mul(4) };
                CallCost { cost: of.scaled(TRAVERSAL), result: Some(result) }
            }
            ("bytes_to_string", _, [arg]) => {
                let of = size(arg);
                CallCost { cost: of.scaled(TRAVERSAL), result: Some(CostEstimate { min: of.min / 4, max: of.max }) }
            }
            ("strings_quote", _, [arg]) => {
                let of = size(arg);
                let result = CostEstimate { min: of.min.wrapping_add(2), max: of.max.wrapping_mul(2).wrapping_add(2) };
                CallCost { cost: of.scaled(TRAVERSAL), result: Some(result) }
            }
            ("starts_with_string" | "ends_with_string", _, [arg]) => size(arg).scaled(TRAVERSAL).into(),
            ("in_list", _, [_, list]) => size(list).into(),
            ("matches_string", Some(text), [pattern]) | ("matches", None, [text, pattern]) => {
                size(text).plus(CostEstimate::fixed(1)).scaled(TRAVERSAL).times(size(pattern).scaled(REGEX)).into()
            }
            ("contains_string", Some(text), [part]) => size(text).scaled(TRAVERSAL).times(size(part).scaled(TRAVERSAL)).into(),
            ("logical_or" | "logical_and", ..) => {
                // The first operand may settle it.
                let cost = CostEstimate { min: arg_costs[0].min, max: args_cost.max };
                return cost.into();
            }
            ("conditional", _, [_, yes, no]) => {
                let result = size(yes).union(size(no));
                if let (Some(yes), Some(no)) = (yes.expr.and_then(|e| self.entry_size(e)), no.expr.and_then(|e| self.entry_size(e))) {
                    self.entries.insert(expr.id, union_entries(yes, no));
                }
                let cost = arg_costs[0].plus(arg_costs[1].union(arg_costs[2]));
                return CallCost { cost, result: Some(result) };
            }
            ("add_string" | "add_bytes" | "add_list", _, [left, right]) => {
                let result = size(left).plus(size(right));
                if let (Some(a), Some(b)) = (left.expr.and_then(|e| self.entry_size(e)), right.expr.and_then(|e| self.entry_size(e))) {
                    self.entries.insert(expr.id, union_entries(a, b));
                }
                let cost = if overload == "add_list" { CostEstimate::fixed(1) } else { result.scaled(TRAVERSAL) };
                CallCost { cost, result: Some(result) }
            }
            (_, _, [left, right]) if overload == "equals" || overload == "not_equals" || is_ordering(overload) => {
                let max = size(left).max.min(size(right).max);
                CostEstimate { min: u64::from(max > 0), max }.scaled(TRAVERSAL).into()
            }
            _ => CostEstimate::fixed(1).into(),
        };
        with_args(cost)
    }

    /// The size of a node for the libraries' own estimates.
    fn node_size(&self, node: &Node<'_>) -> Size {
        node.size.or_else(|| self.sizes.at(&node.path)).unwrap_or(UNKNOWN)
    }

    fn by_overload(&self, overload: &str, target: Option<&Node<'_>>, args: &[Node<'_>]) -> Option<CallCost> {
        let allocated =
            |size: Size, factor: f64| CallCost { cost: size.scaled(factor).plus(CostEstimate::fixed(1 + LIST_COST)), result: Some(size) };
        let compared = |node: &Node<'_>, is_text: bool| {
            let size = self.node_size(node);
            allocated(size.times(size), if is_text { 2.0 + TRAVERSAL } else { 2.0 })
        };
        let is_text = overload.starts_with("list_string_") || overload.starts_with("list_bytes_");
        match (overload, target, args) {
            ("list_sets_contains_list" | "list_sets_intersects_list" | "list_sets_equivalent_list", _, [a, b]) => {
                let factor = if overload == "list_sets_equivalent_list" { 2.0 } else { 1.0 };
                let cost = self.node_size(a).times(self.node_size(b)).scaled(factor);
                Some(cost.plus(CostEstimate::fixed(1)).into())
            }
            ("list_slice", Some(target), [from, to]) => {
                let from = literal_or(from, 0);
                let to = literal_or(to, self.node_size(target).max);
                Some(allocated(CostEstimate::fixed(to.wrapping_sub(from)), 1.0))
            }
            ("lists_range", None, [count]) => Some(allocated(CostEstimate::fixed(literal_or(count, u64::MAX)), 1.0)),
            ("list_reverse", Some(target), []) => Some(allocated(self.node_size(target), 1.0)),
            ("list_flatten", Some(target), []) => Some(allocated(self.node_size(target), 1.0)),
            ("list_flatten_int", Some(target), [depth]) => Some(allocated(self.node_size(target), literal_or(depth, u64::MAX) as f64)),
            ("list_distinct", Some(target), []) => Some(compared(target, false)),
            (_, Some(target), []) if overload.ends_with("_sort") && overload.starts_with("list_") => Some(compared(target, is_text)),
            (_, Some(_), [keys]) if overload.ends_with("_sortByAssociatedKeys") => Some(compared(keys, is_text)),
            _ => None,
        }
    }

    /// The elements of a list, as a node of their own.
    fn items(&self, list: &Node<'_>) -> Option<Node<'static>> {
        let ty = match &list.ty {
            Type::List(inner) => (**inner).clone(),
            Type::Map(key, _) => (**key).clone(),
            Type::Opaque(_, parameters) => parameters.first()?.clone(),
            _ => return None,
        };
        let mut path = list.path.clone();
        if !path.is_empty() {
            path.push("@items".to_owned());
        }
        Some(Node { expr: None, ty, path, size: None })
    }

    fn by_function(&self, function: &str, overload: &str, target: Option<&Node<'_>>, args: &[Node<'_>]) -> Option<CallCost> {
        let size = |node: &Node<'_>| self.node_size(node);
        let fixed = |cost: u64| Some(CallCost::from(CostEstimate::fixed(cost)));
        let same_size = |of: Size| Some(CallCost { cost: of.scaled(TRAVERSAL), result: Some(of) });
        match (function, target, args) {
            ("check", ..) => fixed(CHECK_COST),
            (
                "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name" | "allowed" | "reason" | "error"
                | "errored",
                ..,
            ) => fixed(1),
            ("fieldSelector" | "labelSelector", _, [text]) => {
                let length = size(text);
                let parse = length.scaled(TRAVERSAL);
                let requirements = length.scaled(0.5).scaled((LIST_COST + OBJECT_COST) as f64);
                Some(CostEstimate::fixed(LIST_COST).plus(parse).plus(requirements).into())
            }
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes", Some(target), _) => {
                let one = CostEstimate::fixed(1);
                if let Some(item) = self.items(target) {
                    let is_text = matches!(item.ty, Type::String | Type::Bytes);
                    let each = if is_text { one.plus(size(&item).scaled(TRAVERSAL)) } else { one };
                    return Some(size(target).times(each).into());
                }
                // Neither a list that is known to be one nor a text is gone through element by element.
                let cost = if function == "includes" { size(target).times(one) } else { size(target).scaled(TRAVERSAL) };
                Some(cost.into())
            }
            ("url" | "jsonpatch.escapeKey", _, [text]) => same_size(size(text)),
            ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(target), _) => same_size(size(target)),
            ("replace", Some(target), [old, new, ..]) => {
                let of = size(target);
                let result = replaced(of, size(old), size(new));
                Some(CallCost { cost: of.scaled(2.0 * TRAVERSAL), result: Some(result) })
            }
            ("split", Some(target), _) => {
                let of = size(target);
                let limit = match args.get(1).and_then(|arg| arg.expr).map(|expr| &expr.kind) {
                    Some(Kind::Literal(Literal::Int(limit))) => *limit as u64,
                    _ => of.max,
                };
                Some(CallCost { cost: of.scaled(2.0 * TRAVERSAL), result: Some(CostEstimate { min: 0, max: limit }) })
            }
            ("join", Some(target), _) => {
                let list = size(target);
                let mut result = self.items(target).map_or(CostEstimate::fixed(0), |item| list.times(size(&item)));
                if let Some(separator) = args.first() {
                    let gaps = CostEstimate { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
                    result = result.plus(size(separator).times(gaps));
                }
                same_size(result)
            }
            ("find" | "findAll", Some(target), [pattern, ..]) => {
                let of = size(target);
                let cost = of.plus(CostEstimate::fixed(1)).scaled(TRAVERSAL).times(size(pattern).scaled(REGEX));
                Some(CallCost { cost, result: Some(CostEstimate { min: 0, max: of.max }) })
            }
            ("ip", ..) if overload == "cidr_ip" => fixed(1),
            ("cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver", _, [text, ..]) => {
                Some(size(text).scaled(TRAVERSAL).into())
            }
            ("ip.isCanonical", _, [text, ..]) => Some(size(text).scaled(2.0 * TRAVERSAL).into()),
            (
                "masked"
                | "prefixLength"
                | "family"
                | "isUnspecified"
                | "isLoopback"
                | "isLinkLocalMulticast"
                | "isLinkLocalUnicast"
                | "isGlobalUnicast",
                ..,
            ) => fixed(1),
            ("containsIP" | "containsCIDR", _, [other, ..]) => {
                // Addresses have 4 or 16 bytes.
                let address = CostEstimate { min: 4, max: 16 };
                let mut cost = address.plus(address).scaled(TRAVERSAL);
                if function == "containsCIDR" {
                    cost = cost.plus(address.scaled(TRAVERSAL)).plus(CostEstimate::fixed(1));
                }
                if overload == "cidr_contains_ip_string" || overload == "cidr_contains_cidr_string" {
                    cost = cost.plus(size(other).scaled(TRAVERSAL));
                }
                Some(cost.into())
            }
            ("validate", _, [text, ..]) => Some(size(text).scaled(TRAVERSAL).scaled(MAX_FORMAT_REGEX * REGEX).into()),
            (
                "format.named" | "sign" | "asInteger" | "isInteger" | "asApproximateFloat" | "isGreaterThan" | "isLessThan" | "compareTo"
                | "add" | "sub" | "major" | "minor" | "patch" | "getScheme" | "getHostname" | "getHost" | "getPort" | "getEscapedPath"
                | "getQuery",
                ..,
            ) => fixed(1),
            ("_==_", _, [left, right]) if left.ty == right.ty => match left.ty.name() {
                "kubernetes.NamedFormat" => Some(CostEstimate { min: 1, max: MAX_FORMAT }.scaled(TRAVERSAL).into()),
                "kubernetes.URL" => {
                    let of = right.size.unwrap_or(CostEstimate::fixed(1));
                    Some(CostEstimate { min: 1, max: of.max }.scaled(TRAVERSAL).into())
                }
                name if super::ATOMIC.contains(&name) => fixed(1),
                _ => None,
            },
            _ => None,
        }
    }
}

fn union_entries(a: EntrySize, b: EntrySize) -> EntrySize {
    EntrySize { is_list: a.is_list, key: a.key.union(b.key), value: a.value.union(b.value) }
}

fn literal_or(node: &Node<'_>, otherwise: u64) -> u64 {
    match node.expr.map(|expr| &expr.kind) {
        Some(Kind::Literal(Literal::Int(value))) => u64::try_from(*value).unwrap_or(0),
        _ => otherwise,
    }
}

/// How long a text may be after all of one part were replaced by another.
fn replaced(text: Size, old: Size, new: Size) -> Size {
    let parts = |text: u64, part: u64| (text as f64 / part as f64).ceil() as u64;
    // The longest: short parts become long ones.
    let (most, kept_most) = if old.min == 0 {
        (text.max.saturating_add(1), text.max)
    } else if new.max <= old.min {
        (0, text.max)
    } else {
        (parts(text.max, old.min), 0)
    };
    // The shortest: long parts become short ones.
    let (fewest, kept_fewest) = if old.max == 0 {
        (text.min.saturating_add(1), text.min)
    } else if old.max <= new.min {
        (0, text.min)
    } else {
        (parts(text.min, old.max), 0)
    };
    let count = CostEstimate { min: fewest, max: most };
    count.times(new).plus(CostEstimate { min: kept_fewest, max: kept_most })
}
