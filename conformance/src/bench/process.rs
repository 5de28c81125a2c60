//! Processes that a run starts, waits for, weighs and ends. Ends nothing else.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::process::{Child, Command};

use super::connection::Endpoint;

/// A server that is not ready by then has failed.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a starting server is asked.
const READY_POLL: Duration = Duration::from_millis(5);
/// How long a process may take to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How much of a failed process's log an error shows.
const LOG_TAIL_BYTES: usize = 2000;

/// A process of ours; it ends at the latest when this value goes.
pub struct Process {
    child: Child,
    log: PathBuf,
    started: Instant,
}

impl Process {
    /// Starts `program` with both outputs in the file `log`.
    pub fn start<I: IntoIterator<Item = String>>(program: &Path, arguments: I, log: PathBuf) -> anyhow::Result<Self> {
        let output = File::create(&log).with_context(|| format!("{}", log.display()))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).kill_on_drop(true);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { child, log, started })
    }

    /// None once it has ended.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks /readyz until it says 200 and gives the time since the start.
    pub async fn ready(&mut self, endpoint: &Endpoint) -> anyhow::Result<Duration> {
        let mut last = anyhow::anyhow!("never asked");
        while self.started.elapsed() < READY_TIMEOUT {
            match probe(endpoint).await {
                Ok(()) => return Ok(self.started.elapsed()),
                Err(error) => last = error,
            }
            self.ensure_running()?;
            tokio::time::sleep(READY_POLL).await;
        }
        Err(last.context(format!("not ready after {READY_TIMEOUT:?}; its log ends:\n{}", self.log_tail())))
    }

    /// Waits until something accepts connections at `address`.
    pub async fn listening(&mut self, address: &str) -> anyhow::Result<()> {
        while self.started.elapsed() < READY_TIMEOUT {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return Ok(());
            }
            self.ensure_running()?;
            tokio::time::sleep(READY_POLL).await;
        }
        bail!("nothing listens at {address} after {READY_TIMEOUT:?}; the log ends:\n{}", self.log_tail())
    }

    /// An error if it has ended.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("ended with {status}; its log ends:\n{}", self.log_tail()),
            None => Ok(()),
        }
    }

    fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
    }

    /// Asks it to end, and ends it if it does not.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(id) = self.child.id() {
            Command::new("kill").arg(id.to_string()).status().await?;
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }
}

async fn probe(endpoint: &Endpoint) -> anyhow::Result<()> {
    endpoint.connect().await?.get("/readyz").await.map(|_| ())
}

/// Resident memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    pub now_bytes: u64,
    pub peak_bytes: u64,
}

/// Reads the memory of process `id`.
pub fn memory(id: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{id}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_memory(&text).with_context(|| format!("{path} has no VmRSS and VmHWM"))
}

/// The processor time that process `id` has taken so far, its own and the kernel's.
pub fn processor_time(id: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{id}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_processor_time(&text).with_context(|| format!("{path} has no times"))
}

/// The kernel tells times in hundredths of a second, whatever its own clock is.
fn parse_processor_time(stat: &str) -> Option<Duration> {
    // The name of the program may have spaces and brackets in it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let (own, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some(Duration::from_millis(own.checked_add(system)?.checked_mul(10)?))
}

fn parse_memory(status: &str) -> Option<Memory> {
    let bytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { now_bytes: bytes("VmRSS:")?, peak_bytes: bytes("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_from_the_kernels_stat_file() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 9 0 0 0 150 25 0 0 20 0 3 0 1 2 3";
        assert_eq!(parse_processor_time(stat), Some(Duration::from_millis(1750)));
        assert_eq!(parse_processor_time("7 (a) S 1"), None);
    }

    #[test]
    fn memory_is_read_from_the_kernels_status_file() {
        let status = "Name:\tserver\nVmPeak:\t  900 kB\nVmHWM:\t   20 kB\nVmRSS:\t   10 kB\n";
        assert_eq!(parse_memory(status), Some(Memory { now_bytes: 10 << 10, peak_bytes: 20 << 10 }));
        assert_eq!(parse_memory("Name:\tzombie\n"), None);
        assert!(memory(std::process::id()).unwrap().now_bytes > 0);
    }
}
