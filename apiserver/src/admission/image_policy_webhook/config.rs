//! The configuration of ImagePolicyWebhook, which is older than versions of configurations.

use std::time::Duration;

use apimachinery::time::format_duration;
use serde_json::Value;

const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1000 * MILLISECOND;
const MINUTE: i64 = 60 * SECOND;

/// How the webhook is asked, and how long its answers are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub kubeconfig: String,
    pub allow_ttl: Duration,
    pub deny_ttl: Duration,
    pub retry_backoff: Duration,
    pub default_allow: bool,
}

/// A duration's place in the configuration, its bounds and what it is if nothing is said, in nanoseconds.
struct Range {
    scale: i64,
    min: i64,
    max: i64,
    default: i64,
}

const RETRY_BACKOFF: Range = Range { scale: MILLISECOND, min: 1, max: 5 * MINUTE, default: 500 * MILLISECOND };
const ALLOW_TTL: Range = Range { scale: SECOND, min: SECOND, max: 30 * MINUTE, default: 5 * MINUTE };
const DENY_TTL: Range = Range { scale: SECOND, min: SECOND, max: 30 * MINUTE, default: 30 * SECOND };

impl Range {
    /// 0 stands for the default, -1 for none at all.
    fn settle(&self, value: i64) -> Result<Duration, String> {
        let value = match value {
            -1 => return Ok(Duration::ZERO),
            0 => self.default,
            // Overflows go round, as they do in Go.
            value => value.wrapping_mul(self.scale),
        };
        if !(self.min..=self.max).contains(&value) {
            let [min, max, value] = [self.min, self.max, value].map(format_duration);
            return Err(format!("valid value is between {min} and {max}, got {value}"));
        }
        Ok(Duration::from_nanos(u64::try_from(value).unwrap_or_default()))
    }
}

/// A member by its name, in whatever case, as Go's decoder looks for it.
fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let members = value.as_object()?;
    let folded = || members.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    members.get(name).or_else(folded).filter(|value| !value.is_null())
}

impl Settings {
    pub fn read(configuration: Option<&[u8]>) -> Result<Settings, String> {
        let text = configuration.ok_or("no config specified")?;
        let parsed = apimachinery::yaml::parse(text).map_err(|error| format!("error converting YAML to JSON: {error}"))?;
        if parsed.value.is_null() {
            return Err("EOF".to_owned());
        }
        let nothing = Value::Null;
        let policy = member(&parsed.value, "imagePolicy").unwrap_or(&nothing);
        let duration = |name: &str| {
            let Some(value) = member(policy, name) else { return Ok(0) };
            let shown = match value {
                Value::Number(number) => match number.as_i64() {
                    Some(value) => return Ok(value),
                    None => format!("number {number}"),
                },
                Value::String(_) => "string".to_owned(),
                Value::Bool(_) => "bool".to_owned(),
                Value::Array(_) => "array".to_owned(),
                _ => "object".to_owned(),
            };
            let field = format!("imagePolicyWebhookConfig.imagePolicy.{name}");
            Err(format!("json: cannot unmarshal {shown} into Go struct field {field} of type time.Duration"))
        };
        Ok(Settings {
            kubeconfig: member(policy, "kubeConfigFile").and_then(Value::as_str).unwrap_or_default().to_owned(),
            retry_backoff: RETRY_BACKOFF.settle(duration("retryBackoff")?)?,
            allow_ttl: ALLOW_TTL.settle(duration("allowTTL")?)?,
            deny_ttl: DENY_TTL.settle(duration("denyTTL")?)?,
            default_allow: member(policy, "defaultAllow").and_then(Value::as_bool).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Settings, String> {
        Settings::read(Some(format!("imagePolicy: {{kubeConfigFile: k, {body}}}").as_bytes()))
    }

    #[test]
    fn durations_have_units_defaults_and_bounds() {
        let seconds = Duration::from_secs;
        let plain = read("").unwrap();
        assert_eq!((plain.allow_ttl, plain.deny_ttl, plain.retry_backoff), (seconds(300), seconds(30), Duration::from_millis(500)));
        assert_eq!((plain.kubeconfig.as_str(), plain.default_allow), ("k", false));
        let told = read("allowTTL: 30, DenyTTL: 31, retryBackoff: 5, defaultAllow: true").unwrap();
        assert_eq!((told.allow_ttl, told.deny_ttl, told.retry_backoff), (seconds(30), seconds(31), Duration::from_millis(5)));
        assert!(told.default_allow);
        let none = read("allowTTL: -1, denyTTL: -1, retryBackoff: -1").unwrap();
        assert!([none.allow_ttl, none.deny_ttl, none.retry_backoff].iter().all(Duration::is_zero));
        for (body, expect) in [
            ("allowTTL: 1801", "valid value is between 1s and 30m0s, got 30m1s"),
            (
                "allowTTL: 1m",
                "json: cannot unmarshal string into Go struct field imagePolicyWebhookConfig.imagePolicy.allowTTL of type time.Duration",
            ),
            ("denyTTL: -2", "valid value is between 1s and 30m0s, got -2s"),
            ("retryBackoff: 300001", "valid value is between 1ns and 5m0s, got 5m0.001s"),
        ] {
            assert_eq!(read(body).unwrap_err(), expect);
        }
    }

    #[test]
    fn there_must_be_a_configuration() {
        assert_eq!(Settings::read(None).unwrap_err(), "no config specified");
        assert_eq!(Settings::read(Some(b"")).unwrap_err(), "EOF");
    }
}
