//! Capacity of a device that several requests share: how much of it each may ask for.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::quantity::Quantity;
use apimachinery::validation::IS_NEGATIVE;
use k8s_openapi::api::resource::v1::{CapacityRequestPolicy, DeviceCapacity};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

const MAX_VALUES: usize = 10;

/// New or modified capacity.
pub fn validate_capacity(capacity: &DeviceCapacity, shared: bool, path: &Path<'_>) -> ErrorList {
    let Some(policy) = &capacity.request_policy else { return ErrorList::new() };
    let path = path.child("requestPolicy");
    if !shared {
        return vec![Error::forbidden(&path, "allowMultipleAllocations must be true")];
    }
    validate_policy(&read(Some(&capacity.value)).unwrap_or_default(), policy, &path)
}

/// Schemas admit nothing but quantities; an absent one is empty.
fn read(text: Option<&Text>) -> Option<Quantity> {
    Quantity::parse(&text?.0).ok()
}

fn validate_policy(capacity: &Quantity, policy: &CapacityRequestPolicy, path: &Path<'_>) -> ErrorList {
    let values: Vec<Quantity> = policy.valid_values.iter().flatten().filter_map(|value| read(Some(value))).collect();
    let default = read(policy.default.as_ref());
    let required = |what: &str| vec![Error::required(&path.child("default"), format!("required when {what} is defined"))];
    match (values.is_empty(), &policy.valid_range, default) {
        (false, Some(_), _) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            vec![Error::forbidden(path, detail)]
        }
        (false, None, None) => required("validValues"),
        (false, None, Some(default)) => validate_values(&default, capacity, &values, &path.child("validValues")),
        (true, Some(_), None) => required("validRange"),
        (true, Some(range), Some(default)) => {
            let path = path.child("validRange");
            let Some(min) = read(Some(&range.min)) else {
                return vec![Error::required(&path.child("min"), "required when validRange is defined")];
            };
            let range = Range { default, min, max: read(range.max.as_ref()), step: read(range.step.as_ref()) };
            range.validate(capacity, &path)
        }
        (true, None, _) => ErrorList::new(),
    }
}

fn validate_values(default: &Quantity, capacity: &Quantity, values: &[Quantity], path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, pair) in values.windows(2).enumerate() {
        if let [first, second] = pair
            && first > second
        {
            errors.push(Error::invalid(&path.index(i + 1), second.canonical(), "values must be sorted in ascending order"));
        }
    }
    let mut found = false;
    if values.len() > MAX_VALUES {
        errors.push(Error::too_many(path, values.len(), MAX_VALUES));
    } else {
        found = values.contains(default);
        for (i, value) in values.iter().enumerate().filter(|(_, value)| *value > capacity) {
            let detail = format!("option is larger than capacity value: {}", capacity.canonical());
            errors.push(Error::invalid(&path.index(i), value.canonical(), detail));
        }
        for (i, value) in values.iter().enumerate() {
            if values.iter().take(i).any(|earlier| earlier == value) {
                errors.push(Error::duplicate(&path.index(i), as_decimal(value)));
            }
        }
    }
    if !found {
        errors.push(Error::invalid(path, default.canonical(), "default value is not valid according to the requestPolicy"));
    }
    errors
}

fn as_decimal(value: &Quantity) -> String {
    match value.as_i64() {
        Some(whole) => whole.to_string(),
        None => value.canonical(),
    }
}

fn is_fractional(value: &Quantity) -> bool {
    let mut whole = value.clone();
    whole.round_up(0);
    whole != *value
}

struct Range {
    default: Quantity,
    min: Quantity,
    max: Option<Quantity>,
    step: Option<Quantity>,
}

impl Range {
    fn validate(&self, capacity: &Quantity, path: &Path<'_>) -> ErrorList {
        let mut errors = self.validate_order(capacity, path);
        let fractional = self.fields().any(|(_, value)| is_fractional(value));
        if fractional {
            let coarse = self.fields().filter(|(_, value)| Quantity::from_milli(value.milli_value(), value.format()) != **value);
            let refused: ErrorList = coarse
                .map(|(field, value)| Error::invalid(&path.child(field), value.canonical(), "value cannot be represented as a milli value"))
                .collect();
            if !refused.is_empty() {
                errors.extend(refused);
                return errors;
            }
        }
        if let Some(step) = &self.step {
            errors.extend(self.validate_step(step, capacity, fractional, path));
        }
        errors
    }

    fn fields(&self) -> impl Iterator<Item = (&'static str, &Quantity)> {
        let all = [("default", Some(&self.default)), ("min", Some(&self.min)), ("max", self.max.as_ref()), ("step", self.step.as_ref())];
        all.into_iter().filter_map(|(field, value)| Some((field, value?)))
    }

    fn validate_order(&self, capacity: &Quantity, path: &Path<'_>) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut check = |wrong: bool, field: &str, value: &Quantity, what: &str, bound: &Quantity| {
            if wrong {
                errors.push(Error::invalid(&path.child(field), value.canonical(), format!("{what}: {}", bound.canonical())));
            }
        };
        let (default, min) = (&self.default, &self.min);
        check(min > capacity, "min", min, "min is larger than capacity value", capacity);
        check(default < min, "default", default, "default is less than min", min);
        if let Some(max) = &self.max {
            check(min > max, "max", min, "min is larger than max", max);
            check(max > capacity, "max", max, "max is larger than capacity value", capacity);
            check(default > max, "default", default, "default is more than max", max);
        }
        errors
    }

    fn validate_step(&self, step: &Quantity, capacity: &Quantity, fractional: bool, path: &Path<'_>) -> ErrorList {
        let step_path = path.child("step");
        if step.sign() <= 0 {
            return vec![Error::invalid(&step_path, step.canonical(), "must be greater than zero")];
        }
        let mut errors = ErrorList::new();
        let first = self.min.plus(step);
        if first > *capacity {
            let detail = format!("one step {} is larger than capacity value: {}", first.canonical(), capacity.canonical());
            errors.push(Error::invalid(&step_path, step.canonical(), detail));
        }
        if !fractional {
            let outside: ErrorList = self.fields().filter_map(|(field, value)| out_of_range(value, &path.child(field))).collect();
            if !outside.is_empty() {
                errors.extend(outside);
                return errors;
            }
        }
        let units = |value: &Quantity| i128::from(if fractional { value.milli_value() } else { value.value() });
        for value in [Some(&self.default), self.max.as_ref()].into_iter().flatten() {
            // A step of some units is not zero: fractions were found to be whole thousandths, and the rest is whole.
            if (units(value) - units(&self.min)).checked_rem(units(step)).is_some_and(|rest| rest != 0) {
                let detail = format!("value is not a multiple of a given step ({}) from ({})", step.canonical(), self.min.canonical());
                errors.push(Error::invalid(&step_path, value.canonical(), detail));
            }
        }
        errors
    }
}

fn out_of_range(value: &Quantity, path: &Path<'_>) -> Option<Error> {
    if value.sign() < 0 {
        return Some(Error::invalid(path, value.canonical(), IS_NEGATIVE));
    }
    let detail = "must not be larger than 9223372036854775807";
    value.as_i64().is_none().then(|| Error::invalid(path, value.canonical(), detail))
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::{Value, json};

    use super::*;

    fn check(policy: Value) -> Vec<String> {
        let capacity = view(&json!({"value": "10", "requestPolicy": policy}));
        validate_capacity(&capacity, true, &Path::new("c")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn policies_are_for_shared_devices() {
        let capacity = view(&json!({"value": "1", "requestPolicy": {}}));
        let errors = validate_capacity(&capacity, false, &Path::new("c"));
        assert_eq!(errors[0].to_string(), "c.requestPolicy: Forbidden: allowMultipleAllocations must be true");
        assert_eq!(check(json!({})), [""; 0]);
    }

    #[test]
    fn values_are_sorted_and_hold_the_default() {
        assert_eq!(check(json!({"default": "1", "validValues": ["1", "2"]})), [""; 0]);
        assert_eq!(check(json!({"validValues": ["1"]})), ["c.requestPolicy.default: Required value: required when validValues is defined"]);
        assert_eq!(
            check(json!({"default": "3", "validValues": ["2", "1", "1", "11"]})),
            [
                r#"c.requestPolicy.validValues[1]: Invalid value: "1": values must be sorted in ascending order"#,
                r#"c.requestPolicy.validValues[3]: Invalid value: "11": option is larger than capacity value: 10"#,
                r#"c.requestPolicy.validValues[2]: Duplicate value: "1""#,
                r#"c.requestPolicy.validValues: Invalid value: "3": default value is not valid according to the requestPolicy"#,
            ]
        );
    }

    #[test]
    fn ranges_go_in_steps() {
        let range = |default: &str, range: Value| check(json!({"default": default, "validRange": range}));
        assert_eq!(range("4", json!({"min": "2", "max": "8", "step": "2"})), [""; 0]);
        assert_eq!(range("500m", json!({"min": "250m", "step": "250m"})), [""; 0]);
        assert_eq!(
            range("3", json!({"min": "2", "step": "2"})),
            [r#"c.requestPolicy.validRange.step: Invalid value: "3": value is not a multiple of a given step (2) from (2)"#]
        );
        assert_eq!(range("1", json!({})), ["c.requestPolicy.validRange.min: Required value: required when validRange is defined"]);
        assert_eq!(
            range("1", json!({"min": "2", "step": "0"})),
            [
                r#"c.requestPolicy.validRange.default: Invalid value: "1": default is less than min: 2"#,
                r#"c.requestPolicy.validRange.step: Invalid value: "0": must be greater than zero"#,
            ]
        );
        assert_eq!(
            range("1u", json!({"min": "0"})),
            [r#"c.requestPolicy.validRange.default: Invalid value: "1u": value cannot be represented as a milli value"#]
        );
    }
}
