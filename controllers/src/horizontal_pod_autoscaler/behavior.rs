//! How fast the number of replicas may change: within its bounds, at a limited rate, and not back and forth. Pure.

use std::time::Duration;

use apimachinery::quantity::Quantity;
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::replicas::Tolerances;

/// The longest window and period that the API allows; older history is of no use.
const HISTORY: SignedDuration = SignedDuration::from_secs(3600);
const SCALE_UP_FACTOR: f64 = 2.0;
const SCALE_UP_MINIMUM: f64 = 4.0;

/// What was recommended and done lately. It keeps an hour, in which syncs are limited by their period.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    recommendations: Vec<(Timestamp, i32)>,
    added: Vec<(Timestamp, i32)>,
    removed: Vec<(Timestamp, i32)>,
}

fn changed_since(events: &[(Timestamp, i32)], seconds: i32, now: Timestamp) -> i32 {
    events.iter().filter(|(at, _)| now.duration_since(*at) < SignedDuration::from_secs(i64::from(seconds))).map(|(_, change)| change).sum()
}

impl History {
    /// The first thing known of a target is the number that it has.
    pub fn start(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    pub fn scaled(&mut self, from: i32, to: i32, now: Timestamp) {
        if to > from {
            self.added.push((now, to - from));
        } else {
            self.removed.push((now, from - to));
        }
    }

    fn forget(&mut self, now: Timestamp) {
        for list in [&mut self.recommendations, &mut self.added, &mut self.removed] {
            list.retain(|(at, _)| now.duration_since(*at) <= HISTORY);
        }
    }

    fn recommended(&self, within: SignedDuration, now: Timestamp) -> impl Iterator<Item = i32> {
        self.recommendations.iter().filter(move |(at, _)| now.duration_since(*at) < within).map(|(_, replicas)| *replicas)
    }
}

/// A condition's reason and message.
pub type Why = (&'static str, &'static str);

/// The number to scale to, and what was done to the one that metrics asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Normalized {
    pub replicas: i32,
    pub able: Why,
    pub limited: bool,
    pub limit: Why,
}

const READY: Why = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: Why =
    ("ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation");
const DOWN_STABILIZED: Why =
    ("ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation");
const WITHIN: Why = ("DesiredWithinRange", "the desired count is within the acceptable range");
const UP_LIMIT: Why = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Why = ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: Why = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Why = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

/// The bounds of a target, and how many replicas it has.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub min: i32,
    pub max: i32,
    pub current: i32,
}

#[expect(clippy::cast_possible_truncation, reason = "the value is within the bounds of the type")]
fn whole(number: f64) -> i32 {
    number.clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i32
}

/// Brings what metrics ask for to what may be done now, and notes it.
pub fn normalize(
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    bounds: Bounds,
    desired: i32,
    stabilization: Duration,
    history: &mut History,
    now: Timestamp,
) -> Normalized {
    history.forget(now);
    let window = SignedDuration::try_from(stabilization).unwrap_or(HISTORY);
    let stable = match behavior {
        None => history.recommended(window, now).max().unwrap_or(desired).max(desired),
        Some(behavior) => stabilize(behavior, bounds.current, desired, window, history, now),
    };
    history.recommendations.push((now, desired));
    let able = match behavior {
        _ if stable == desired => READY,
        Some(_) if desired >= bounds.current => UP_STABILIZED,
        _ => DOWN_STABILIZED,
    };
    let (replicas, limit) = match behavior {
        None => by_default_rate(bounds, stable),
        Some(behavior) => by_rules(behavior, bounds, stable, history, now),
    };
    Normalized { replicas, able, limited: replicas != stable, limit }
}

fn stabilize(
    behavior: &HorizontalPodAutoscalerBehavior,
    current: i32,
    desired: i32,
    window: SignedDuration,
    history: &History,
    now: Timestamp,
) -> i32 {
    let seconds = |rules: &Option<HPAScalingRules>| rules.as_ref().and_then(|rules| rules.stabilization_window_seconds);
    let up = SignedDuration::from_secs(i64::from(seconds(&behavior.scale_up).unwrap_or(0)));
    let down = seconds(&behavior.scale_down).map_or(window, |seconds| SignedDuration::from_secs(i64::from(seconds)));
    let least = history.recommended(up, now).min().unwrap_or(desired).min(desired);
    let most = history.recommended(down, now).max().unwrap_or(desired).max(desired);
    current.max(least).min(most)
}

/// Without rules: at most twice as many, or four.
fn by_default_rate(bounds: Bounds, desired: i32) -> (i32, Why) {
    let limit = whole((SCALE_UP_FACTOR * f64::from(bounds.current)).max(SCALE_UP_MINIMUM));
    let (most, why) = if bounds.max > limit { (limit, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
    if desired < bounds.min {
        (bounds.min, TOO_FEW)
    } else if desired > most {
        (most, why)
    } else {
        (desired, WITHIN)
    }
}

fn by_rules(behavior: &HorizontalPodAutoscalerBehavior, bounds: Bounds, desired: i32, history: &History, now: Timestamp) -> (i32, Why) {
    let policy = |kind: &str, value: i32| HPAScalingPolicy { type_: kind.to_owned(), value, period_seconds: 15 };
    let default = |policies: Vec<HPAScalingPolicy>| HPAScalingRules { policies: Some(policies), ..HPAScalingRules::default() };
    if desired > bounds.current {
        let rules = behavior.scale_up.clone().unwrap_or_else(|| default(vec![policy("Pods", 4), policy("Percent", 100)]));
        let limit = up_limit(&rules, bounds.current, history, now).max(bounds.current);
        let (most, why) = if bounds.max > limit { (limit, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
        if desired > most {
            return (most, why);
        }
    } else if desired < bounds.current {
        let rules = behavior.scale_down.clone().unwrap_or_else(|| default(vec![policy("Percent", 100)]));
        let limit = down_limit(&rules, bounds.current, history, now).min(bounds.current);
        let (least, why) = if bounds.min < limit { (limit, DOWN_LIMIT) } else { (bounds.min, TOO_FEW) };
        if desired < least {
            return (least, why);
        }
    }
    (desired, WITHIN)
}

/// How many there were when a policy's period began.
fn at_start(policy: &HPAScalingPolicy, current: i32, history: &History, now: Timestamp) -> i32 {
    let period = policy.period_seconds;
    current - changed_since(&history.added, period, now) + changed_since(&history.removed, period, now)
}

fn up_limit(rules: &HPAScalingRules, current: i32, history: &History, now: Timestamp) -> i32 {
    let proposals = rules.policies.iter().flatten().map(|policy| {
        let start = at_start(policy, current, history, now);
        if policy.type_ == "Pods" {
            start.saturating_add(policy.value)
        } else {
            // Rounded up, lest a small number never grows.
            whole((f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil())
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => proposals.min().unwrap_or(i32::MAX),
        _ => proposals.max().unwrap_or(i32::MIN),
    }
}

fn down_limit(rules: &HPAScalingRules, current: i32, history: &History, now: Timestamp) -> i32 {
    let proposals = rules.policies.iter().flatten().map(|policy| {
        let start = at_start(policy, current, history, now);
        if policy.type_ == "Pods" {
            start.saturating_sub(policy.value)
        } else {
            whole(f64::from(start) * (1.0 - f64::from(policy.value) / 100.0))
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => proposals.max().unwrap_or(i32::MIN),
        _ => proposals.min().unwrap_or(i32::MAX),
    }
}

/// The tolerances that the rules state, or those of the cluster.
pub fn tolerances(behavior: Option<&HorizontalPodAutoscalerBehavior>, default: f64) -> Tolerances {
    let stated = |rules: Option<&HPAScalingRules>| {
        rules.and_then(|rules| Quantity::parse(&rules.tolerance.as_ref()?.0).ok()).map_or(default, |tolerance| tolerance.as_f64())
    };
    Tolerances {
        down: stated(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
        up: stated(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn bounds(current: i32) -> Bounds {
        Bounds { min: 1, max: 100, current }
    }

    #[test]
    fn growth_is_at_most_twofold_and_shrinking_waits() {
        let mut history = History::default();
        let up = normalize(None, bounds(5), 50, WINDOW, &mut history, at(0));
        assert_eq!((up.replicas, up.limited, up.limit.0), (10, true, "ScaleUpLimit"));
        let down = normalize(None, bounds(50), 10, WINDOW, &mut history, at(100));
        assert_eq!((down.replicas, down.able.0), (50, "ScaleDownStabilized"));
        let later = normalize(None, bounds(50), 10, WINDOW, &mut history, at(301));
        assert_eq!((later.replicas, later.able.0), (10, "ReadyForNewScale"));
    }

    #[test]
    fn the_bounds_hold() {
        let mut history = History::default();
        let narrow = Bounds { min: 3, max: 6, current: 4 };
        assert_eq!(normalize(None, narrow, 50, WINDOW, &mut history, at(0)).limit.0, "TooManyReplicas");
        assert_eq!(normalize(None, narrow, 1, WINDOW, &mut History::default(), at(0)).limit.0, "TooFewReplicas");
        assert_eq!(normalize(None, narrow, 5, WINDOW, &mut History::default(), at(0)).limit.0, "DesiredWithinRange");
    }

    #[test]
    fn rules_limit_the_change_within_their_period() {
        let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(json!({
            "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}]},
        }))
        .unwrap();
        let mut history = History::default();
        let first = normalize(Some(&behavior), bounds(10), 50, WINDOW, &mut history, at(0));
        assert_eq!((first.replicas, first.limit.0), (14, "ScaleUpLimit"));
        history.scaled(10, 14, at(0));
        assert_eq!(normalize(Some(&behavior), bounds(14), 50, WINDOW, &mut history, at(30)).replicas, 14);
        assert_eq!(normalize(Some(&behavior), bounds(14), 50, WINDOW, &mut history, at(61)).replicas, 18);
        let down = normalize(Some(&behavior), bounds(18), 1, WINDOW, &mut History::default(), at(0));
        assert_eq!((down.replicas, down.limit.0), (9, "ScaleDownLimit"));
    }

    #[test]
    fn a_rule_can_forbid_a_direction() {
        let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(json!({
            "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]},
        }))
        .unwrap();
        assert_eq!(normalize(Some(&behavior), bounds(10), 1, WINDOW, &mut History::default(), at(0)).replicas, 10);
    }
}
