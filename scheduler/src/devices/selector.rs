//! Expressions that select devices: what a device is to them, and whether it is selected.
//!
//! Specified by upstream's `dynamic-resource-allocation/cel` (v1.37). New expressions are checked by the API server; what is in force
//! may be older than that.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use cel::device::{self, MAX_COST};
use cel::{Activation, Budget, Entries, Env, EvalError, Lazy, Map, Program, Type, Value};
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};

use super::slice::quantity;

/// Expressions that are kept compiled: most claims use those of few classes.
const KEPT: usize = 1024;

static ENVIRONMENT: LazyLock<Env> = LazyLock::new(|| device::declare(Env::for_stored()));

/// Values by domain. A domain that is not there has no values, which is no error.
struct Domains(BTreeMap<String, Value<'static>>);

impl Lazy<'static> for Domains {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn get(&self, name: &str) -> Option<Result<Value<'static>, EvalError>> {
        let empty = || Value::Map(Map::Owned(Arc::default()));
        Some(Ok(self.0.get(name).cloned().unwrap_or_else(empty)))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// A device as expressions see it; why it cannot be seen.
pub struct DeviceValue(Result<Value<'static>, String>);

/// The domain and the identifier of a name; the driver's domain goes without saying.
fn qualified<'a>(name: &'a str, driver: &'a str) -> (&'a str, &'a str) {
    name.split_once('/').unwrap_or((driver, name))
}

fn attribute(attribute: &DeviceAttribute) -> Result<Value<'static>, String> {
    let version = |text: &String| Value::semver(text).map_err(|error| format!("parse semantic version: {error}"));
    let list = |values: Vec<Value<'static>>| Ok(Value::list(values));
    if let Some(ints) = &attribute.ints {
        return list(ints.iter().map(|int| Value::Int(*int)).collect());
    }
    if let Some(bools) = &attribute.bools {
        return list(bools.iter().map(|bool| Value::Bool(*bool)).collect());
    }
    if let Some(strings) = &attribute.strings {
        return list(strings.iter().map(|string| Value::string(string.as_str())).collect());
    }
    if let Some(versions) = &attribute.versions {
        return list(versions.iter().map(version).collect::<Result<_, _>>()?);
    }
    match (attribute.int, attribute.bool, &attribute.string, &attribute.version) {
        (Some(int), ..) => Ok(Value::Int(int)),
        (_, Some(bool), ..) => Ok(Value::Bool(bool)),
        (_, _, Some(string), _) => Ok(Value::string(string.as_str())),
        (_, _, _, Some(text)) => version(text),
        _ => Err("unsupported attribute value".to_owned()),
    }
}

fn domains(driver: &str, values: Vec<(&str, Value<'static>)>) -> Value<'static> {
    let mut by_domain: BTreeMap<String, Entries<'static>> = BTreeMap::new();
    for (name, value) in values {
        let (domain, id) = qualified(name, driver);
        by_domain.entry(domain.to_owned()).or_default().insert(Value::string(id), value);
    }
    let maps = by_domain.into_iter().map(|(domain, entries)| (domain, Value::Map(Map::Owned(Arc::new(entries)))));
    Value::Map(Map::Lazy(Arc::new(Domains(maps.collect()))))
}

impl DeviceValue {
    pub fn new(driver: &str, device: &Device) -> DeviceValue {
        let attributes: Result<Vec<_>, String> = device
            .attributes
            .iter()
            .flatten()
            .map(|(name, value)| Ok((name.as_str(), attribute(value).map_err(|error| format!("attribute {name}: {error}"))?)))
            .collect();
        DeviceValue(attributes.map(|attributes| {
            let capacity = device.capacity.iter().flatten();
            let capacity = capacity.map(|(name, capacity)| (name.as_str(), Value::Quantity(Arc::new(quantity(&capacity.value)))));
            let mut entries = Entries::default();
            let mut put = |name: &'static str, value| entries.insert(Value::string(name), value);
            put("driver", Value::string(driver));
            put("allowMultipleAllocations", Value::Bool(device.allow_multiple_allocations == Some(true)));
            put("attributes", domains(driver, attributes));
            put("capacity", domains(driver, capacity.collect()));
            Value::Map(Map::Owned(Arc::new(entries)))
        }))
    }
}

/// What is wrong with an expression: it cannot be compiled, or not be evaluated on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    Compile(String),
    Runtime(String),
}

/// Compiled expressions.
#[derive(Default)]
pub struct Selectors(HashMap<String, Arc<Result<Program, String>>>);

impl Selectors {
    fn program(&mut self, expression: &str) -> Arc<Result<Program, String>> {
        if let Some(known) = self.0.get(expression) {
            return known.clone();
        }
        if self.0.len() >= KEPT {
            self.0.clear();
        }
        let compiled = Program::compile(&ENVIRONMENT, expression).map_err(|error| format!("compilation failed: {error}"));
        let compiled = compiled.and_then(|program| match program.result_type() {
            Type::Bool | Type::Dyn => Ok(program),
            other => Err(format!("must evaluate to bool or the unknown type, not {}", other.declared())),
        });
        let compiled = Arc::new(compiled);
        self.0.insert(expression.to_owned(), compiled.clone());
        compiled
    }

    /// Whether the expression selects the device.
    pub fn select(&mut self, expression: &str, device: &DeviceValue) -> Result<bool, Error> {
        let program = self.program(expression);
        let program = (*program).as_ref().map_err(|error| Error::Compile(error.clone()))?;
        let value = device.0.as_ref().map_err(|error| Error::Runtime(error.clone()))?;
        let variables = Activation::default().with("device", value.clone());
        let result = program.evaluate_within(&variables, &mut Budget::new(i64::MAX), MAX_COST).map_err(|error| told(&error.message))?;
        let kind = result.type_name();
        result.as_bool().ok_or_else(|| {
            Error::Runtime(format!(
                "CEL result of type {kind} could not be converted to bool: type conversion error from '{kind}' to 'bool'"
            ))
        })
    }
}

fn told(message: &str) -> Error {
    const HINT: &str =
        ". consider using CEL optional chaining (.? followed by orValue()) or guarding the check with has() for optional fields";
    let hint = if message.contains("no such key:") { HINT } else { "" };
    Error::Runtime(format!("{message}{hint}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn device() -> DeviceValue {
        let device = json!({"name": "a", "attributes": {"model": {"string": "x"}, "other.com/size": {"int": 3}, "ready": {"bool": true},
            "version": {"version": "1.2.3"}}, "capacity": {"memory": {"value": "2Gi"}}});
        DeviceValue::new("gpu.com", &serde_json::from_value(device).unwrap())
    }

    #[test]
    fn a_device_is_selected_by_what_it_has() {
        let mut selectors = Selectors::default();
        for (expression, expected) in [
            ("true", true),
            ("device.driver == 'gpu.com'", true),
            ("device.attributes['gpu.com'].model == 'y'", false),
            ("device.attributes['gpu.com'].ready", true),
            ("device.attributes['other.com'].size > 2", true),
            ("device.attributes['gpu.com'].version.isGreaterThan(semver('1.0.0'))", true),
            ("device.capacity['gpu.com'].memory.compareTo(quantity('1Gi')) > 0", true),
            ("has(device.attributes['nobody.com'].size)", false),
            ("'nobody.com' in device.attributes", false),
            ("'gpu.com' in device.attributes", true),
            ("device.allowMultipleAllocations", false),
            ("cel.bind(gpu, device.attributes['gpu.com'], gpu.ready && gpu.model == 'x')", true),
        ] {
            assert_eq!(selectors.select(expression, &device()), Ok(expected), "{expression}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_is_told_with_a_hint() {
        let mut selectors = Selectors::default();
        let missing = selectors.select("device.attributes['gpu.com'].nothing == 1", &device());
        let hint = "no such key: nothing. consider using CEL optional chaining (.? followed by orValue()) or guarding the check with has() for optional fields";
        assert_eq!(missing, Err(Error::Runtime(hint.to_owned())));
        assert!(matches!(selectors.select("device.nope", &device()), Err(Error::Compile(_))));
        assert!(matches!(selectors.select("1", &device()), Err(Error::Compile(error)) if error.contains("not int")));
        let text = selectors.select("device.attributes['gpu.com'].model", &device());
        assert!(matches!(text, Err(Error::Runtime(error)) if error.starts_with("CEL result of type string")));
    }
}
