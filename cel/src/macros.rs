//! Macros: calls that the parser replaces. Each is one row of a table: name, whether it has a target, number of arguments.

use crate::ast::{ACCUMULATOR, Comprehension, Expr, Kind, Literal, OLD_ACCUMULATOR};
use crate::parser::Parser;
use crate::source::Location;

/// Names a value that no loop changes.
const UNUSED: &str = "#unused";
/// What `sortBy` calls its list of keys.
const SORT_VARIABLE: &str = "@__sortBy_input__";

type Expansion = fn(&mut Builder<'_, '_>, Expr, Vec<Expr>) -> Result<Expr, (Location, String)>;

const MACROS: [(&str, bool, usize, Expansion); 20] = [
    ("has", false, 1, has),
    ("all", true, 2, all),
    ("all", true, 3, all),
    ("exists", true, 2, exists),
    ("exists", true, 3, exists),
    ("exists_one", true, 2, exists_one),
    ("exists_one", true, 3, exists_one),
    ("existsOne", true, 3, exists_one),
    ("map", true, 2, map),
    ("map", true, 3, map),
    ("filter", true, 2, filter),
    ("transformList", true, 3, transform_list),
    ("transformList", true, 4, transform_list),
    ("transformMap", true, 3, transform_map),
    ("transformMap", true, 4, transform_map),
    ("transformMapEntry", true, 3, transform_map_entry),
    ("transformMapEntry", true, 4, transform_map_entry),
    ("optMap", true, 2, opt_map),
    ("optFlatMap", true, 2, opt_flat_map),
    ("sortBy", true, 2, sort_by),
];

/// The call, or what a macro makes of it.
pub(crate) fn expand(parser: &mut Parser<'_>, place: Location, target: Option<Expr>, function: String, args: Vec<Expr>) -> Expr {
    let is_macro = |(name, member, count, _): &&(&str, bool, usize, Expansion)| {
        *name == function && *member == target.is_some() && *count == args.len()
    };
    let expansion = match MACROS.iter().find(is_macro) {
        Some((.., expansion)) => *expansion,
        None if parser.bindings && is_bind(target.as_ref(), &function, &args) => bind,
        None => {
            let target = target.map(Box::new);
            return parser.node(place, Kind::Call { target, function, args });
        }
    };
    let mut builder = Builder { parser, place };
    let target = target.unwrap_or(Expr { id: 0, kind: Kind::Unspecified });
    match expansion(&mut builder, target, args) {
        Ok(expanded) => expanded,
        Err((location, message)) => parser.report(location, message),
    }
}

fn is_bind(target: Option<&Expr>, function: &str, args: &[Expr]) -> bool {
    let of_cel = target.is_some_and(|target| matches!(&target.kind, Kind::Ident(name) if name == "cel"));
    of_cel && function == "bind" && args.len() == 3
}

fn bind(build: &mut Builder<'_, '_>, _: Expr, mut args: Vec<Expr>) -> Expanded {
    let name = build.variable(&args[0], "cel.bind() variable names must be simple identifiers")?;
    let (value, within) = (args.remove(1), args.remove(1));
    Ok(build.bind(&name, value, within))
}

/// Makes nodes at the place of the macro.
struct Builder<'b, 's> {
    parser: &'b mut Parser<'s>,
    place: Location,
}

impl Builder<'_, '_> {
    fn node(&mut self, kind: Kind) -> Expr {
        self.parser.node(self.place, kind)
    }

    fn bool(&mut self, value: bool) -> Expr {
        self.node(Kind::Literal(Literal::Bool(value)))
    }

    fn int(&mut self, value: i64) -> Expr {
        self.node(Kind::Literal(Literal::Int(value)))
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.node(Kind::Ident(name.to_owned()))
    }

    fn accumulator(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call { target: None, function: function.to_owned(), args })
    }

    fn member(&mut self, target: Expr, function: &str, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call { target: Some(Box::new(target)), function: function.to_owned(), args })
    }

    fn error<T>(&self, at: &Expr, message: &str) -> Result<T, (Location, String)> {
        Err((self.parser.location(at.id), message.to_owned()))
    }

    /// The same tree with numbers of its own.
    fn copy(&mut self, of: &Expr) -> Expr {
        let mut copy = of.clone();
        self.renumber(&mut copy);
        copy
    }

    fn renumber(&mut self, expr: &mut Expr) {
        let place = self.parser.location(expr.id);
        expr.id = self.parser.id(place);
        match &mut expr.kind {
            Kind::Unspecified | Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => self.renumber(operand),
            Kind::Call { target, args, .. } => target.iter_mut().map(AsMut::as_mut).chain(args).for_each(|part| self.renumber(part)),
            Kind::List(elements) => elements.iter_mut().for_each(|(element, _)| self.renumber(element)),
            Kind::Map(entries) => entries.iter_mut().for_each(|entry| {
                self.renumber(&mut entry.key);
                self.renumber(&mut entry.value);
            }),
            Kind::Struct { fields, .. } => fields.iter_mut().for_each(|field| self.renumber(&mut field.value)),
            Kind::Comprehension(over) => {
                let over = over.as_mut();
                [&mut over.range, &mut over.init, &mut over.condition, &mut over.step, &mut over.result]
                    .into_iter()
                    .for_each(|part| self.renumber(part));
            }
        }
    }

    /// Takes the variables off the front of the arguments: one, or two where there are more than `single` arguments.
    fn variables(&self, args: &mut Vec<Expr>, two: bool, not_a_name: &str) -> Result<(String, Option<String>), (Location, String)> {
        let first = self.variable(&args[0], not_a_name)?;
        let second = if two { Some(self.variable(&args[1], not_a_name)?) } else { None };
        if second.as_ref() == Some(&first) {
            return self.error(&args[1], &format!("duplicate variable name: {first}"));
        }
        for (name, arg) in [Some(&first), second.as_ref()].into_iter().zip(args.iter()) {
            if name.is_some_and(|name| name == ACCUMULATOR || name == OLD_ACCUMULATOR) {
                return self.error(arg, "iteration variable overwrites accumulator variable");
            }
        }
        args.drain(..if two { 2 } else { 1 });
        Ok((first, second))
    }

    fn variable(&self, arg: &Expr, not_a_name: &str) -> Result<String, (Location, String)> {
        match &arg.kind {
            Kind::Ident(name) => Ok(name.clone()),
            _ => self.error(arg, not_a_name),
        }
    }

    fn fold(&mut self, range: Expr, variables: (String, Option<String>), parts: [Expr; 4]) -> Expr {
        let [init, condition, step, result] = parts;
        let (variable, second) = variables;
        let accumulator = ACCUMULATOR.to_owned();
        self.node(Kind::Comprehension(Box::new(Comprehension { range, variable, second, accumulator, init, condition, step, result })))
    }

    /// Adds one element to the list in hand, if there is no predicate or it holds.
    fn collect(&mut self, range: Expr, variables: (String, Option<String>), predicate: Option<Expr>, element: Expr) -> Expr {
        let init = self.node(Kind::List(Vec::new()));
        let condition = self.bool(true);
        let so_far = self.accumulator();
        let added = self.node(Kind::List(vec![(element, false)]));
        let step = self.call("_+_", vec![so_far, added]);
        self.where_holds(range, variables, predicate, [init, condition, step])
    }

    fn where_holds(&mut self, range: Expr, variables: (String, Option<String>), predicate: Option<Expr>, parts: [Expr; 3]) -> Expr {
        let [init, condition, mut step] = parts;
        if let Some(predicate) = predicate {
            let otherwise = self.accumulator();
            step = self.call("_?_:_", vec![predicate, step, otherwise]);
        }
        let result = self.accumulator();
        self.fold(range, variables, [init, condition, step, result])
    }

    /// Gives a value a name within an expression.
    fn bind(&mut self, name: &str, value: Expr, within: Expr) -> Expr {
        let range = self.node(Kind::List(Vec::new()));
        let condition = self.bool(false);
        let step = self.ident(name);
        let over = Comprehension {
            range,
            variable: UNUSED.to_owned(),
            second: None,
            accumulator: name.to_owned(),
            init: value,
            condition,
            step,
            result: within,
        };
        self.node(Kind::Comprehension(Box::new(over)))
    }
}

type Expanded = Result<Expr, (Location, String)>;

fn has(build: &mut Builder<'_, '_>, _: Expr, mut args: Vec<Expr>) -> Expanded {
    let arg = args.remove(0);
    match arg.kind {
        Kind::Select { operand, field, .. } => Ok(build.node(Kind::Select { operand, field, test_only: true })),
        _ => build.error(&arg, "invalid argument to has() macro"),
    }
}

fn all(build: &mut Builder<'_, '_>, range: Expr, args: Vec<Expr>) -> Expanded {
    quantifier(build, range, args, true)
}

fn exists(build: &mut Builder<'_, '_>, range: Expr, args: Vec<Expr>) -> Expanded {
    quantifier(build, range, args, false)
}

/// Goes on while nothing has settled it: a false for `all`, a true for `exists`.
fn quantifier(build: &mut Builder<'_, '_>, range: Expr, mut args: Vec<Expr>, is_all: bool) -> Expanded {
    let two = args.len() == 3;
    let variables = build.variables(&mut args, two, "argument must be a simple name")?;
    let init = build.bool(is_all);
    let mut unsettled = build.accumulator();
    if !is_all {
        unsettled = build.call("!_", vec![unsettled]);
    }
    let condition = build.call("@not_strictly_false", vec![unsettled]);
    let so_far = build.accumulator();
    let step = build.call(if is_all { "_&&_" } else { "_||_" }, vec![so_far, args.remove(0)]);
    let result = build.accumulator();
    Ok(build.fold(range, variables, [init, condition, step, result]))
}

fn exists_one(build: &mut Builder<'_, '_>, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let two = args.len() == 3;
    let variables = build.variables(&mut args, two, "argument must be a simple name")?;
    let init = build.int(0);
    let condition = build.bool(true);
    let (so_far, one) = (build.accumulator(), build.int(1));
    let more = build.call("_+_", vec![so_far, one]);
    let otherwise = build.accumulator();
    let step = build.call("_?_:_", vec![args.remove(0), more, otherwise]);
    let (count, one) = (build.accumulator(), build.int(1));
    let result = build.call("_==_", vec![count, one]);
    Ok(build.fold(range, variables, [init, condition, step, result]))
}

fn map(build: &mut Builder<'_, '_>, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let variables = build.variables(&mut args, false, "argument is not an identifier")?;
    let predicate = (args.len() == 2).then(|| args.remove(0));
    let element = args.remove(0);
    Ok(build.collect(range, variables, predicate, element))
}

fn filter(build: &mut Builder<'_, '_>, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let element = args[0].clone();
    let variables = build.variables(&mut args, false, "argument is not an identifier")?;
    let predicate = args.remove(0);
    Ok(build.collect(range, variables, Some(predicate), element))
}

fn transform_list(build: &mut Builder<'_, '_>, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let variables = build.variables(&mut args, true, "argument must be a simple name")?;
    let predicate = (args.len() == 2).then(|| args.remove(0));
    let element = args.remove(0);
    Ok(build.collect(range, variables, predicate, element))
}

fn transform_map(build: &mut Builder<'_, '_>, range: Expr, args: Vec<Expr>) -> Expanded {
    insert(build, range, args, true)
}

fn transform_map_entry(build: &mut Builder<'_, '_>, range: Expr, args: Vec<Expr>) -> Expanded {
    insert(build, range, args, false)
}

fn insert(build: &mut Builder<'_, '_>, range: Expr, mut args: Vec<Expr>, keep_key: bool) -> Expanded {
    let variables = build.variables(&mut args, true, "argument must be a simple name")?;
    let predicate = (args.len() == 2).then(|| args.remove(0));
    let init = build.node(Kind::Map(Vec::new()));
    let condition = build.bool(true);
    let mut inserted = vec![build.accumulator()];
    if keep_key {
        inserted.push(build.ident(&variables.0));
    }
    inserted.push(args.remove(0));
    let step = build.call("cel.@mapInsert", inserted);
    Ok(build.where_holds(range, variables, predicate, [init, condition, step]))
}

fn opt_map(build: &mut Builder<'_, '_>, target: Expr, args: Vec<Expr>) -> Expanded {
    optional(build, target, args, "optMap", true)
}

fn opt_flat_map(build: &mut Builder<'_, '_>, target: Expr, args: Vec<Expr>) -> Expanded {
    optional(build, target, args, "optFlatMap", false)
}

fn optional(build: &mut Builder<'_, '_>, target: Expr, mut args: Vec<Expr>, name: &str, wrap: bool) -> Expanded {
    let variable = build.variable(&args[0], &format!("{name}() variable name must be a simple identifier"))?;
    let copy = build.copy(&target);
    let value = build.member(copy, "value", Vec::new());
    let mut mapped = build.bind(&variable, value, args.remove(1));
    if wrap {
        mapped = build.call("optional.of", vec![mapped]);
    }
    let present = build.member(target, "hasValue", Vec::new());
    let none = build.call("optional.none", Vec::new());
    Ok(build.call("_?_:_", vec![present, mapped, none]))
}

fn is_sortable(target: &Expr) -> bool {
    matches!(target.kind, Kind::List(_) | Kind::Select { .. } | Kind::Ident(_) | Kind::Comprehension(_) | Kind::Call { .. })
}

fn sort_by(build: &mut Builder<'_, '_>, target: Expr, mut args: Vec<Expr>) -> Expanded {
    if !is_sortable(&target) {
        return build.error(&target, "sortBy can only be applied to a list, identifier, comprehension, call or select expression");
    }
    let variables = build.variables(&mut args, false, "argument is not an identifier")?;
    let (list, keyed) = (build.ident(SORT_VARIABLE), build.ident(SORT_VARIABLE));
    let keys = build.collect(keyed, variables, None, args.remove(0));
    let sorted = build.member(list, "@sortByAssociatedKeys", vec![keys]);
    Ok(build.bind(SORT_VARIABLE, target, sorted))
}
