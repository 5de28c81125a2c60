//! Expressions and rules, their results, messages and costs, as upstream has them. See `upstream/README.md`.

use cel::{Activation, Budget, Env, ObjectTypes, Program, Schema, Sizes, Type, Value};
use serde_json::Value as Json;

const PLENTY: i64 = 1 << 40;

fn lines(text: &str) -> impl Iterator<Item = Json> {
    text.lines().map(|line| serde_json::from_str(line).unwrap())
}

fn type_of(notation: &str) -> Type {
    match notation {
        "int" => Type::Int,
        "string" => Type::String,
        "bool" => Type::Bool,
        "double" => Type::Double,
        "list(int)" => Type::list(Type::Int),
        "list(string)" => Type::list(Type::String),
        "map(string,int)" => Type::map(Type::String, Type::Int),
        "map(string,dyn)" => Type::map(Type::String, Type::Dyn),
        "authorizer" => Type::object("kubernetes.authorization.Authorizer"),
        _ => Type::Dyn,
    }
}

/// Checks one member of what is expected, if it is expected.
fn differs(expected: &Json, member: &str, found: &str, differences: &mut Vec<String>) {
    match expected[member].as_str() {
        Some(text) if text != found => {
            differences.push(format!("{}\n  {member}: expected {text}\n  {member}: found    {found}", expected["expr"]));
        }
        _ => {}
    }
}

#[test]
fn expressions_mean_and_cost_what_they_do_upstream() {
    let variables: Json = serde_json::from_str(include_str!("upstream/variables.json")).unwrap();
    let declared = variables["types"].as_object().unwrap();
    let env = declared.iter().fold(Env::for_new(), |env, (name, ty)| env.with_variable(name, type_of(ty.as_str().unwrap())));
    let values = variables["vars"].as_object().unwrap();
    let activation = values.iter().fold(Activation::default(), |all, (name, value)| all.with(name, Value::json(value)));
    let (mut count, mut differences) = (0, Vec::new());
    for case in lines(include_str!("upstream/expressions.jsonl")) {
        count += 1;
        let text = case["expr"].as_str().unwrap();
        let program = match Program::compile(&env, text) {
            Ok(program) => program,
            Err(error) => {
                let member = if error.is_instantiation() { "progerr" } else { "issues" };
                assert!(case[member].is_string(), "{text} does not compile: {error}");
                differs(&case, member, &error.to_string(), &mut differences);
                continue;
            }
        };
        assert!(case["issues"].is_null() && case["progerr"].is_null(), "{text} compiles");
        differs(&case, "type", &program.result_type().declared(), &mut differences);
        let estimate = program.estimate(Sizes::Unknown);
        differs(&case, "min", &estimate.min.to_string(), &mut differences);
        differs(&case, "max", &estimate.max.to_string(), &mut differences);
        let mut budget = Budget::new(PLENTY);
        let value = program.evaluate(&activation, &mut budget);
        differs(&case, "cost", &(PLENTY - budget.remaining()).to_string(), &mut differences);
        match value {
            Ok(value) => {
                assert!(case["err"].is_null(), "{text} has a value: {value}");
                differs(&case, "vtype", value.type_name(), &mut differences);
                differs(&case, "value", &value.to_string(), &mut differences);
            }
            Err(error) => differs(&case, "err", &error.message, &mut differences),
        }
    }
    assert!(count > 700, "only {count} expressions");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn rules_cost_what_they_do_upstream() {
    let given: Json = serde_json::from_str(include_str!("upstream/schema.json")).unwrap();
    let schema = Schema::of(&given["schema"], true, "selfType1");
    let mut objects = ObjectTypes::new();
    schema.object_types(&mut objects);
    let own = schema.ty().unwrap().clone();
    let env = Env::for_new().with_objects(objects).with_variable("self", own.clone()).with_variable("oldSelf", own);
    let mut activation = Activation::default();
    activation.set("self", schema.value(&given["obj"]));
    activation.set("oldSelf", schema.value(&given["old"]));
    let (mut count, mut differences) = (0, Vec::new());
    for case in lines(include_str!("upstream/rules.jsonl")) {
        count += 1;
        let text = case["expr"].as_str().unwrap();
        let program = match Program::compile(&env, text) {
            Ok(program) if *program.result_type() == Type::Bool => program,
            Ok(_) => {
                differs(&case, "err", "cel expression must evaluate to a bool", &mut differences);
                continue;
            }
            Err(error) => {
                let what = if error.is_instantiation() { "program instantiation failed" } else { "compilation failed" };
                differs(&case, "err", &format!("{what}: {error}"), &mut differences);
                continue;
            }
        };
        assert!(case["err"].is_null(), "{text} compiles");
        differs(&case, "max", &program.estimate(Sizes::Of(&schema)).max.to_string(), &mut differences);
        let mut budget = Budget::new(PLENTY);
        let _ = program.evaluate(&activation, &mut budget);
        differs(&case, "spent", &(PLENTY - budget.remaining()).to_string(), &mut differences);
    }
    assert!(count > 100, "only {count} rules");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
