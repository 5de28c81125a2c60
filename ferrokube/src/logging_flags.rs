//! The flags by which all of upstream's components are told how much to log.

use std::time::Duration;

use clap::Args;

use crate::go_values::duration;

/// Levels of upstream's `-v` from which on more is logged.
const DEBUG: u8 = 4;
const TRACE: u8 = 8;
/// What is logged if nothing is said. Some libraries say at length what their users here say in a line.
pub const USUAL: &str = "info,kube_runtime=error,fjall=warn,lsm_tree=warn";

#[derive(Args, Clone, Debug, Default)]
pub struct Logging {
    /// How much to log: from 4 on what happens in detail, from 8 on everything. RUST_LOG goes before.
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    level: u8,
    /// The form of log lines; only text.
    #[arg(long, default_value = "text", value_parser = ["text"])]
    logging_format: String,
    /// How often log lines are written: each is at once.
    #[arg(long, default_value = "5s", value_parser = duration)]
    log_flush_frequency: Duration,
}

impl Logging {
    /// The filter of log lines.
    pub fn filter(&self) -> &'static str {
        match self.level {
            TRACE.. => "trace",
            DEBUG.. => "debug",
            _ => USUAL,
        }
    }
}
