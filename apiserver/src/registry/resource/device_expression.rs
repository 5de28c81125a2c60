//! Expressions that select devices: what they may name, what they must give and what they may cost.

use std::sync::LazyLock;

use apimachinery::field::{Error, Path};
use cel::device::{self, DEVICE, MAX_COST};
use cel::{Env, Program, Schema, Sizes, Type};
use serde_json::json;

static ENVIRONMENT: LazyLock<Env> = LazyLock::new(|| device::declare(Env::for_new()));

/// How much there can be of a device: drivers' names, domains and identifiers are bounded, and so is the number of attributes.
static SIZES: LazyLock<Schema> = LazyLock::new(|| {
    let text = |length: u32| json!({ "type": "string", "maxLength": length });
    let entries = |values: serde_json::Value| json!({ "type": "object", "maxProperties": 32, "additionalProperties": values });
    let quantity = json!({ "type": "string", "maxLength": 64 });
    let schema = json!({
        "type": "object",
        "properties": {
            "driver": text(63),
            "allowMultipleAllocations": { "type": "boolean" },
            "attributes": entries(entries(text(64))),
            "capacity": entries(entries(quantity)),
        },
    });
    Schema::of(&schema, false, DEVICE)
});

/// What is wrong with a new expression.
pub fn validate(expression: &str, path: &Path<'_>) -> Option<Error> {
    let program = match Program::compile(&ENVIRONMENT, expression) {
        Ok(program) => program,
        Err(error) => return Some(Error::invalid(path, expression, format!("compilation failed: {error}"))),
    };
    let result = program.result_type();
    if !matches!(result, Type::Bool | Type::Dyn) {
        let detail = format!("must evaluate to bool or the unknown type, not {}", result.declared());
        return Some(Error::invalid(path, expression, detail));
    }
    (program.estimate(Sizes::Of(&SIZES)).max > MAX_COST).then(|| Error::forbidden(path, "too complex, exceeds cost limit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(expression: &str) -> Option<String> {
        validate(expression, &Path::new("e")).map(|error| error.to_string())
    }

    #[test]
    fn what_is_known_of_devices_can_be_named() {
        for good in [
            r#"device.driver == "gpu.example.com""#,
            r#"device.attributes["gpu.example.com"].model == "a" && device.capacity["gpu.example.com"].memory.compareTo(quantity("1Gi")) >= 0"#,
            r#"cel.bind(gpu, device.attributes["gpu.example.com"], gpu.new && gpu.fast)"#,
            r#"device.attributes["gpu.example.com"].ready"#,
            "device.allowMultipleAllocations",
        ] {
            assert_eq!(refused(good), None, "{good}");
        }
    }

    #[test]
    fn mistakes_are_told_in_upstreams_words() {
        assert_eq!(
            refused("a").as_deref(),
            Some(
                "e: Invalid value: \"a\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'a' (in container '')\n | a\n | ^"
            )
        );
        assert_eq!(refused("1").as_deref(), Some("e: Invalid value: \"1\": must evaluate to bool or the unknown type, not int"));
        assert!(refused("device.nope").is_some_and(|e| e.contains("undefined field 'nope'")));
        let nested = r#"device.attributes["a"].all(a, device.attributes["b"].all(b, device.attributes["c"].all(c, device.attributes["d"].all(d, true))))"#;
        assert_eq!(refused(nested).as_deref(), Some("e: Forbidden: too complex, exceeds cost limit"));
    }
}
