//! The flags of the audit log, under upstream's names, with its defaults and its words for what is wrong with them.

use std::path::PathBuf;
use std::time::Duration;

use apiserver::audit::backend::{Batching, Format, Mode};
use apiserver::audit::{Config, LogConfig, Rotation, Sending, WebhookConfig};
use clap::Args;

use crate::go_values::duration;

const MODES: &str = "batch,blocking,blocking-strict";
const VERSION: &str = "audit.k8s.io/v1";
const DEFAULT_MAX_EVENT_SIZE: i64 = 100 * 1024;
const DEFAULT_MAX_BATCH_SIZE: i64 = 10 * 1024 * 1024;

#[derive(Args, Clone, Debug)]
pub struct AuditFlags {
    /// The file of the audit policy; nothing is told without.
    #[arg(long)]
    audit_policy_file: Option<PathBuf>,
    /// The file that requests are logged to; '-' is standard output.
    #[arg(long)]
    audit_log_path: Option<PathBuf>,
    /// Days that old log files are kept; 0 for ever.
    #[arg(long, default_value_t = 366, allow_negative_numbers = true)]
    audit_log_maxage: i64,
    /// Old log files that are kept; 0 for any number.
    #[arg(long, default_value_t = 100, allow_negative_numbers = true)]
    audit_log_maxbackup: i64,
    /// Megabytes that a log file may have before it is put aside; 0 for any number.
    #[arg(long, default_value_t = 100, allow_negative_numbers = true)]
    audit_log_maxsize: i64,
    /// How events are written: json or legacy.
    #[arg(long, default_value = "json")]
    audit_log_format: String,
    /// The version of events in the log.
    #[arg(long, default_value = VERSION)]
    audit_log_version: String,
    /// Compress old log files.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    audit_log_compress: bool,
    /// Whether requests wait for the log: batch, blocking or blocking-strict.
    #[arg(long, default_value = "blocking")]
    audit_log_mode: String,
    /// Events that may wait for being logged, in batch mode.
    #[arg(long, default_value_t = 10000, allow_negative_numbers = true)]
    audit_log_batch_buffer_size: i64,
    /// Events that are logged at once, in batch mode.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    audit_log_batch_max_size: i64,
    /// How long a batch is waited for, in batch mode.
    #[arg(long, default_value = "0s", value_parser = duration)]
    audit_log_batch_max_wait: Duration,
    /// Limit how often batches are logged.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    audit_log_batch_throttle_enable: bool,
    /// Batches a second.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    audit_log_batch_throttle_qps: f32,
    /// Batches at once after a pause.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    audit_log_batch_throttle_burst: i64,
    /// Log large events without their objects.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    audit_log_truncate_enabled: bool,
    /// Bytes of a batch that is logged at once.
    #[arg(long, default_value_t = DEFAULT_MAX_BATCH_SIZE, allow_negative_numbers = true)]
    audit_log_truncate_max_batch_size: i64,
    /// Bytes from which on an event is large.
    #[arg(long, default_value_t = DEFAULT_MAX_EVENT_SIZE, allow_negative_numbers = true)]
    audit_log_truncate_max_event_size: i64,
    /// A kubeconfig of the server that events are posted to.
    #[arg(long)]
    audit_webhook_config_file: Option<PathBuf>,
    /// How long to wait before a batch is posted again.
    #[arg(long, default_value = "10s", value_parser = duration, alias = "audit-webhook-batch-initial-backoff")]
    audit_webhook_initial_backoff: Duration,
    /// The version of events that are posted.
    #[arg(long, default_value = VERSION)]
    audit_webhook_version: String,
    /// Whether requests wait for the webhook: batch, blocking or blocking-strict.
    #[arg(long, default_value = "batch")]
    audit_webhook_mode: String,
    /// Events that may wait for being posted, in batch mode.
    #[arg(long, default_value_t = 10000, allow_negative_numbers = true)]
    audit_webhook_batch_buffer_size: i64,
    /// Events that are posted at once, in batch mode.
    #[arg(long, default_value_t = 400, allow_negative_numbers = true)]
    audit_webhook_batch_max_size: i64,
    /// How long a batch is waited for, in batch mode.
    #[arg(long, default_value = "30s", value_parser = duration)]
    audit_webhook_batch_max_wait: Duration,
    /// Limit how often batches are posted.
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    audit_webhook_batch_throttle_enable: bool,
    /// Batches a second.
    #[arg(long, default_value_t = 10.0, allow_negative_numbers = true)]
    audit_webhook_batch_throttle_qps: f32,
    /// Batches at once after a pause.
    #[arg(long, default_value_t = 15, allow_negative_numbers = true)]
    audit_webhook_batch_throttle_burst: i64,
    /// Post large events without their objects.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    audit_webhook_truncate_enabled: bool,
    /// Bytes of a batch that is posted at once.
    #[arg(long, default_value_t = DEFAULT_MAX_BATCH_SIZE, allow_negative_numbers = true)]
    audit_webhook_truncate_max_batch_size: i64,
    /// Bytes from which on an event is large.
    #[arg(long, default_value_t = DEFAULT_MAX_EVENT_SIZE, allow_negative_numbers = true)]
    audit_webhook_truncate_max_event_size: i64,
}

/// What one backend is told, as the flags have it.
struct Given<'a> {
    plugin: &'a str,
    mode: &'a str,
    buffer_size: i64,
    max_size: i64,
    max_wait: Duration,
    throttle: Option<(f32, i64)>,
    truncates: bool,
    max_batch_size: i64,
    max_event_size: i64,
    version: &'a str,
}

impl AuditFlags {
    /// What the API server is told, or everything that is wrong with it.
    pub fn config(&self) -> Result<Config, String> {
        let mut errors = Vec::new();
        let log = self.audit_log_path.clone().filter(|path| !path.as_os_str().is_empty()).map(|path| self.log(path, &mut errors));
        let webhook = self.audit_webhook_config_file.clone().filter(|path| !path.as_os_str().is_empty());
        let webhook = webhook.map(|file| self.webhook(file, &mut errors));
        match errors.as_slice() {
            [] => Ok(Config { policy_file: self.audit_policy_file.clone(), log, webhook }),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    fn log(&self, path: PathBuf, errors: &mut Vec<String>) -> LogConfig {
        let given = Given {
            plugin: "log",
            mode: &self.audit_log_mode,
            buffer_size: self.audit_log_batch_buffer_size,
            max_size: self.audit_log_batch_max_size,
            max_wait: self.audit_log_batch_max_wait,
            throttle: self
                .audit_log_batch_throttle_enable
                .then_some((self.audit_log_batch_throttle_qps, self.audit_log_batch_throttle_burst)),
            truncates: self.audit_log_truncate_enabled,
            max_batch_size: self.audit_log_truncate_max_batch_size,
            max_event_size: self.audit_log_truncate_max_event_size,
            version: &self.audit_log_version,
        };
        let sending = given.sending(errors);
        let format = match self.audit_log_format.as_str() {
            "legacy" => Format::Legacy,
            "json" => Format::Json,
            other => {
                errors.push(format!("invalid audit log format {other}, allowed formats are \"legacy,json\""));
                Format::Json
            }
        };
        let mut positive = |flag: &str, value: i64| {
            if value < 0 {
                errors.push(format!("--{flag} {value} can't be a negative number"));
            }
            value.unsigned_abs()
        };
        let max_age = positive("audit-log-maxage", self.audit_log_maxage);
        let max_backups = positive("audit-log-maxbackup", self.audit_log_maxbackup);
        let max_size_megabytes = positive("audit-log-maxsize", self.audit_log_maxsize);
        let rotation = Rotation {
            max_size_megabytes,
            max_age_days: u32::try_from(max_age).unwrap_or(u32::MAX),
            max_backups: usize::try_from(max_backups).unwrap_or(usize::MAX),
            compress: self.audit_log_compress,
        };
        LogConfig { path, rotation, format, sending }
    }

    fn webhook(&self, file: PathBuf, errors: &mut Vec<String>) -> WebhookConfig {
        let given = Given {
            plugin: "webhook",
            mode: &self.audit_webhook_mode,
            buffer_size: self.audit_webhook_batch_buffer_size,
            max_size: self.audit_webhook_batch_max_size,
            max_wait: self.audit_webhook_batch_max_wait,
            throttle: self
                .audit_webhook_batch_throttle_enable
                .then_some((self.audit_webhook_batch_throttle_qps, self.audit_webhook_batch_throttle_burst)),
            truncates: self.audit_webhook_truncate_enabled,
            max_batch_size: self.audit_webhook_truncate_max_batch_size,
            max_event_size: self.audit_webhook_truncate_max_event_size,
            version: &self.audit_webhook_version,
        };
        WebhookConfig { file, initial_backoff: self.audit_webhook_initial_backoff, sending: given.sending(errors) }
    }
}

impl Given<'_> {
    fn sending(&self, errors: &mut Vec<String>) -> Sending {
        let plugin = self.plugin;
        let mode = match self.mode {
            "batch" => Mode::Batch,
            "blocking" => Mode::Blocking,
            "blocking-strict" => Mode::BlockingStrict,
            other => {
                errors.push(format!("invalid audit {plugin} mode {other}, allowed modes are \"{MODES}\""));
                Mode::Blocking
            }
        };
        // What is not used is not looked at.
        if mode == Mode::Batch {
            errors.extend(self.wrong_batching());
        }
        if self.max_event_size <= 0 {
            errors.push(format!("invalid audit truncate {plugin} max event size {}, must be a positive number", self.max_event_size));
        } else if self.max_batch_size < self.max_event_size {
            let (batch, event) = (self.max_batch_size, self.max_event_size);
            errors.push(format!("invalid audit truncate {plugin} max batch size {batch}, must be greater than max event size ({event})"));
        }
        if self.version != VERSION {
            errors.push("invalid group version, allowed versions are [{\"audit.k8s.io\" \"v1\"}]".to_owned());
        }
        let size = |value: i64| usize::try_from(value).unwrap_or(1).max(1);
        Sending {
            mode,
            batching: Batching {
                buffer_size: size(self.buffer_size),
                max_size: size(self.max_size),
                max_wait: self.max_wait,
                throttle: self.throttle.map(|(rate, burst)| (f64::from(rate), u32::try_from(burst).unwrap_or(1))),
            },
            max_event_size: self.truncates.then(|| size(self.max_event_size)),
        }
    }

    fn wrong_batching(&self) -> Option<String> {
        let plugin = self.plugin;
        let wrong = |what: &str, value: &dyn std::fmt::Display| {
            Some(format!("invalid audit batch {plugin} {what} {value}, must be a positive number"))
        };
        if self.buffer_size <= 0 {
            return wrong("buffer size", &self.buffer_size);
        }
        if self.max_size <= 0 {
            return wrong("max batch size", &self.max_size);
        }
        match self.throttle {
            Some((rate, _)) if rate <= 0.0 => wrong("throttle QPS", &rate),
            Some((_, burst)) if burst <= 0 => wrong("throttle burst", &burst),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        audit: AuditFlags,
    }

    fn config(flags: &[&str]) -> Result<Config, String> {
        Command::try_parse_from(["test"].iter().chain(flags)).unwrap().audit.config()
    }

    #[test]
    fn the_defaults_are_upstreams() {
        let config = config(&["--audit-log-path=-", "--audit-webhook-config-file=w", "--audit-policy-file=p"]).unwrap();
        let (log, webhook) = (config.log.unwrap(), config.webhook.unwrap());
        assert_eq!((log.sending.mode, webhook.sending.mode), (Mode::Blocking, Mode::Batch));
        assert_eq!((log.rotation.max_size_megabytes, log.rotation.max_age_days, log.rotation.max_backups), (100, 366, 100));
        assert_eq!((webhook.sending.batching.max_size, webhook.sending.batching.throttle), (400, Some((10.0, 15))));
        assert_eq!(webhook.initial_backoff, Duration::from_secs(10));
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        let log = |flag: &str| config(&["--audit-log-path=-", flag]).unwrap_err();
        assert_eq!(log("--audit-log-mode=later"), "invalid audit log mode later, allowed modes are \"batch,blocking,blocking-strict\"");
        assert_eq!(log("--audit-log-maxage=-1"), "--audit-log-maxage -1 can't be a negative number");
        assert_eq!(log("--audit-log-format=xml"), "invalid audit log format xml, allowed formats are \"legacy,json\"");
        let webhook = |flag: &str| config(&["--audit-webhook-config-file=w", flag]).unwrap_err();
        assert_eq!(
            webhook("--audit-webhook-batch-throttle-qps=0"),
            "invalid audit batch webhook throttle QPS 0, must be a positive number"
        );
        assert!(config(&["--audit-log-mode=later"]).is_ok(), "without a log its flags mean nothing");
    }
}
