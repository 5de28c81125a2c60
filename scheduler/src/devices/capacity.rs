//! Capacity of devices that several claims share: what a request takes of it, and whether there is room.
//!
//! Specified by upstream's `consumable_capacity.go` (v1.37).

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use k8s_openapi::api::resource::v1::{CapacityRequestPolicyRange, DeviceCapacity};

use super::slice::{Amounts, quantity};

/// What a device has of something, and how that may be divided.
#[derive(Clone, Debug)]
pub struct Capacity {
    pub value: Quantity,
    policy: Option<Policy>,
}

#[derive(Clone, Debug)]
struct Policy {
    default: Option<Quantity>,
    range: Option<Range>,
    values: Option<Vec<Quantity>>,
}

#[derive(Clone, Debug)]
struct Range {
    min: Quantity,
    max: Option<Quantity>,
    step: Option<Quantity>,
}

impl Range {
    fn new(range: &CapacityRequestPolicyRange) -> Range {
        Range { min: quantity(&range.min), max: range.max.as_ref().map(quantity), step: range.step.as_ref().map(quantity) }
    }

    /// Whether it is counted in thousandths: all of it can be written so.
    fn is_milli(&self) -> bool {
        let bounds = [Some(&self.min), self.max.as_ref(), self.step.as_ref()];
        bounds.into_iter().flatten().all(|bound| milli(bound).is_some()) && self.step.as_ref().and_then(milli).is_none_or(|step| step >= 1)
    }

    /// The least that is not less than `wanted` and a number of steps above the least of all.
    fn round_up(&self, wanted: &Quantity) -> Result<Quantity, String> {
        if *wanted < self.min {
            return Ok(self.min.clone());
        }
        let Some(step) = &self.step else { return Ok(wanted.clone()) };
        let text = wanted.canonical();
        let unrepresentable = |why: String| format!("capacity request cannot be represented in the device's range arithmetic: {why}");
        let is_milli = self.is_milli();
        let (wanted, min, width) = if is_milli {
            let wanted = milli(wanted).ok_or_else(|| unrepresentable(format!("request {text} is not a representable milli value")))?;
            (wanted, self.min.milli_value(), step.milli_value())
        } else {
            if *wanted > Quantity::new(i64::MAX, wanted.format()) {
                return Err(unrepresentable(format!("request {text} exceeds MaxInt64")));
            }
            (wanted.value(), self.min.value(), step.value())
        };
        if width <= 0 {
            return Err(unrepresentable(format!("step {} is not positive", step.canonical())));
        }
        let added = i128::from(wanted) - i128::from(min);
        let steps = (added + i128::from(width) - 1).div_euclid(i128::from(width));
        let rounded = i64::try_from(i128::from(min) + steps * i128::from(width)).map_err(|_| {
            let limit = if is_milli { "the milli-value range" } else { "MaxInt64" };
            unrepresentable(format!("rounding request {text} up to the next step passes {limit}"))
        })?;
        Ok(match (is_milli, rounded % 1000) {
            (false, _) => Quantity::new(rounded, step.format()),
            (true, 0) => Quantity::new(rounded / 1000, step.format()),
            (true, _) => Quantity::from_milli(rounded, step.format()),
        })
    }

    fn is_violated_by(&self, amount: &Quantity) -> bool {
        if self.max.as_ref().is_some_and(|max| amount > max) {
            return true;
        }
        let Some(step) = &self.step else { return false };
        let (amount, min, step) = if self.is_milli() {
            let Some(amount) = milli(amount) else { return true };
            (amount, self.min.milli_value(), step.milli_value())
        } else {
            (amount.value(), self.min.value(), step.value())
        };
        step > 0 && (i128::from(amount) - i128::from(min)) % i128::from(step) != 0
    }
}

/// The thousandths, if that is all of it.
fn milli(quantity: &Quantity) -> Option<i64> {
    let milli = quantity.milli_value();
    (Quantity::from_milli(milli, quantity.format()) == *quantity).then_some(milli)
}

impl Capacity {
    pub fn new(capacity: &DeviceCapacity) -> Capacity {
        let policy = capacity.request_policy.as_ref().map(|policy| Policy {
            default: policy.default.as_ref().map(quantity),
            range: policy.valid_range.as_ref().map(Range::new),
            values: policy.valid_values.as_ref().map(|values| values.iter().map(quantity).collect()),
        });
        Capacity { value: quantity(&capacity.value), policy }
    }

    /// What a request for so much takes; without a request what the device gives by default, or all of it.
    fn consumed(&self, wanted: Option<&Quantity>) -> Result<Quantity, String> {
        let Some(wanted) = wanted else {
            return Ok(self.policy.as_ref().and_then(|policy| policy.default.clone()).unwrap_or_else(|| self.value.clone()));
        };
        match &self.policy {
            Some(Policy { range: Some(range), .. }) => range.round_up(wanted),
            Some(Policy { values: Some(values), .. }) => Ok(values.iter().find(|value| wanted <= value).unwrap_or(wanted).clone()),
            _ => Ok(wanted.clone()),
        }
    }

    fn refuses(&self, amount: &Quantity) -> bool {
        let Some(policy) = &self.policy else { return false };
        if policy.default.as_ref() == Some(amount) {
            return false;
        }
        match (&policy.range, &policy.values) {
            (Some(range), _) => range.is_violated_by(amount),
            (None, Some(values)) if !values.is_empty() => !values.contains(amount),
            _ => false,
        }
    }
}

/// What a request takes of each capacity of a device; nothing if the device has not all that is asked for.
///
/// # Errors
/// What can be given by no device.
pub fn consumption(request: &Amounts, device: &BTreeMap<String, Capacity>) -> Result<Option<Amounts>, String> {
    if request.keys().any(|name| !device.contains_key(name)) {
        return Ok(None);
    }
    let mut all = Amounts::new();
    for (name, capacity) in device {
        let amount = capacity.consumed(request.get(name)).map_err(|error| format!("capacity {name:?}: {error}"))?;
        if amount.sign() < 0 {
            return Err(format!("capacity {name:?}: capacity value is negative"));
        }
        all.insert(name.clone(), amount);
    }
    Ok(Some(all))
}

/// Whether a device that has lost `taken` already can give this too.
pub fn has_room(consumption: &Amounts, device: &BTreeMap<String, Capacity>, taken: &[Option<&Amounts>]) -> bool {
    device.iter().all(|(name, capacity)| {
        let Some(amount) = consumption.get(name) else { return true };
        let others = taken.iter().flatten().filter_map(|taken| taken.get(name));
        !capacity.refuses(amount) && others.fold(amount.clone(), |sum, other| sum.plus(other)) <= capacity.value
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn device(capacity: Value) -> BTreeMap<String, Capacity> {
        BTreeMap::from([("memory".to_owned(), Capacity::new(&serde_json::from_value(capacity).unwrap()))])
    }

    fn amounts(text: &str) -> Amounts {
        if text.is_empty() { Amounts::new() } else { Amounts::from([("memory".to_owned(), Quantity::parse(text).unwrap())]) }
    }

    #[test]
    fn a_request_is_rounded_to_what_the_device_gives() {
        let range =
            json!({"value": "10Gi", "requestPolicy": {"default": "1Gi", "validRange": {"min": "1Gi", "step": "2Gi", "max": "7Gi"}}});
        let values = json!({"value": "10", "requestPolicy": {"default": "2", "validValues": ["2", "4"]}});
        let parts = json!({"value": "2", "requestPolicy": {"default": "1", "validRange": {"min": "500m", "step": "250m"}}});
        for (capacity, wanted, expected, fits) in [
            (json!({"value": "10Gi"}), "", "10Gi", true),
            (json!({"value": "10Gi"}), "3Gi", "3Gi", true),
            (json!({"value": "10Gi"}), "11Gi", "11Gi", false),
            (range.clone(), "", "1Gi", true),
            (range.clone(), "512Mi", "1Gi", true),
            (range.clone(), "2Gi", "3Gi", true),
            (range.clone(), "3Gi", "3Gi", true),
            (range, "8Gi", "9Gi", false),
            (values.clone(), "3", "4", true),
            (values, "5", "5", false),
            (parts.clone(), "600m", "750m", true),
            (parts, "800m", "1", true),
        ] {
            let device = device(capacity.clone());
            let got = consumption(&amounts(wanted), &device).unwrap().unwrap();
            assert_eq!(got["memory"].canonical(), expected, "{capacity} {wanted}");
            assert_eq!(has_room(&got, &device, &[]), fits, "{capacity} {wanted}");
        }
    }

    #[test]
    fn what_others_have_taken_is_not_there() {
        let device = device(json!({"value": "10"}));
        let (four, five) = (amounts("4"), amounts("5"));
        for (taken, fits) in [(&[][..], true), (&[Some(&four)][..], true), (&[Some(&four), Some(&five)][..], false), (&[None][..], true)] {
            assert_eq!(has_room(&five, &device, taken), fits, "{taken:?}");
        }
    }

    #[test]
    fn what_no_device_can_give_is_an_error_and_what_this_one_has_not_is_none() {
        let stepped = device(json!({"value": "1", "requestPolicy": {"validRange": {"min": "1", "step": "7"}}}));
        let error = consumption(&amounts("9223372036854775807"), &stepped).unwrap_err();
        assert!(error.ends_with("request 9223372036854775807 is not a representable milli value"), "{error}");
        let other = Amounts::from([("disk".to_owned(), Quantity::new(1, apimachinery::quantity::Format::DecimalSi))]);
        assert_eq!(consumption(&other, &stepped), Ok(None));
        let negative = device(json!({"value": "-1"}));
        assert!(consumption(&Amounts::new(), &negative).unwrap_err().contains("capacity value is negative"));
    }
}
