//! What a claim asks for, one request or one of its alternatives at a time.

use k8s_openapi::api::resource::v1::{DeviceRequest, DeviceSelector, DeviceTaint, DeviceToleration};

use super::slice::{Amounts, quantity};

/// How many devices are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Exactly(usize),
    All,
}

/// A request that names devices, or one of several that would do.
pub struct Wanted<'a> {
    pub name: &'a str,
    /// The request that it is an alternative of.
    pub parent: Option<&'a str>,
    pub class: &'a str,
    /// Why it cannot be read.
    pub mode: Result<Mode, String>,
    /// The devices may be in use, and are not taken.
    pub admin: bool,
    pub selectors: &'a [DeviceSelector],
    pub tolerations: &'a [DeviceToleration],
    pub capacity: Amounts,
}

fn mode(mode: Option<&str>, count: Option<i64>) -> Result<Mode, String> {
    match mode {
        None | Some("ExactCount") => {
            let count = count.unwrap_or(1);
            usize::try_from(count).map(Mode::Exactly).map_err(|_| format!("exact count {count} is too large"))
        }
        Some("All") => Ok(Mode::All),
        Some(other) => Err(format!("unsupported count mode {other}")),
    }
}

impl<'a> Wanted<'a> {
    /// The alternatives of a request, of which the first that can be had is taken.
    pub fn all(request: &'a DeviceRequest) -> Vec<Wanted<'a>> {
        macro_rules! wanted {
            ($from:expr, $name:expr, $parent:expr, $admin:expr) => {
                Wanted {
                    name: $name,
                    parent: $parent,
                    class: &$from.device_class_name,
                    mode: mode($from.allocation_mode.as_deref(), $from.count),
                    admin: $admin,
                    selectors: $from.selectors.as_deref().unwrap_or_default(),
                    tolerations: $from.tolerations.as_deref().unwrap_or_default(),
                    capacity: $from
                        .capacity
                        .iter()
                        .flat_map(|c| c.requests.iter().flatten())
                        .map(|(n, q)| (n.clone(), quantity(q)))
                        .collect(),
                }
            };
        }
        match &request.exactly {
            Some(exactly) => vec![wanted!(exactly, &request.name, None, exactly.admin_access == Some(true))],
            None => {
                let alternatives = request.first_available.iter().flatten();
                alternatives.map(|sub| wanted!(sub, &sub.name, Some(request.name.as_str()), false)).collect()
            }
        }
    }

    /// As allocations name it.
    pub fn full_name(&self) -> String {
        self.parent.map_or_else(|| self.name.to_owned(), |parent| format!("{parent}/{}", self.name))
    }

    /// Whether a taint keeps the device from being given.
    pub fn is_kept_out_by(&self, taints: &[DeviceTaint]) -> bool {
        let keeps_out = |taint: &&DeviceTaint| matches!(taint.effect.as_str(), "NoExecute" | "NoSchedule");
        taints.iter().filter(keeps_out).any(|taint| !self.tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    }
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let is = |wanted: &Option<String>, there: &str| wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == there);
    let value = match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        "Exists" => true,
        _ => false,
    };
    is(&toleration.effect, &taint.effect) && is(&toleration.key, &taint.key) && value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_taint_keeps_out_whom_does_not_tolerate_it() {
        for (taint, toleration, expected) in [
            (json!({"key": "k", "value": "v", "effect": "NoSchedule"}), json!({"key": "k", "value": "v"}), false),
            (json!({"key": "k", "value": "v", "effect": "NoSchedule"}), json!({"key": "k", "value": "w"}), true),
            (json!({"key": "k", "value": "v", "effect": "NoExecute"}), json!({"operator": "Exists"}), false),
            (json!({"key": "k", "effect": "NoExecute"}), json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), true),
            (json!({"key": "k", "effect": "None"}), json!({"key": "other"}), false),
            (json!({"key": "k", "effect": "Unheard"}), json!({"key": "other"}), false),
        ] {
            let request = json!({"name": "r", "exactly": {"deviceClassName": "c", "tolerations": [toleration]}});
            let request: DeviceRequest = serde_json::from_value(request).unwrap();
            let taints = [serde_json::from_value(taint.clone()).unwrap()];
            assert_eq!(Wanted::all(&request)[0].is_kept_out_by(&taints), expected, "{taint} {toleration}");
        }
    }

    #[test]
    fn an_alternative_has_its_parents_name_before_its_own() {
        let request = json!({"name": "r", "firstAvailable": [{"name": "a", "deviceClassName": "c", "count": 2}, {"name": "b", "deviceClassName": "c", "allocationMode": "All"}]});
        let request: DeviceRequest = serde_json::from_value(request).unwrap();
        let all = Wanted::all(&request);
        assert_eq!(all.iter().map(Wanted::full_name).collect::<Vec<_>>(), ["r/a", "r/b"]);
        assert_eq!([&all[0].mode, &all[1].mode], [&Ok(Mode::Exactly(2)), &Ok(Mode::All)]);
    }
}
