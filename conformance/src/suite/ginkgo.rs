//! One run of ginkgo over the suite's binary: its command line, its progress, its end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, MissedTickBehavior};

use super::junit::{self, Case};
use super::{cluster, interrupt};

/// ginkgo's output. With `junit_01.xml`, which the suite itself writes, it is what a certification asks for.
pub const LOG: &str = "e2e.log";
/// ginkgo's own report, which has each failure's message apart from its story.
pub const REPORT: &str = "ginkgo.xml";
/// A run that takes longer is ended by ginkgo.
const TIME_LIMIT: &str = "4h";
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);
/// How long ginkgo may take to clean up after a signal; it gives each test 30 s.
const INTERRUPT_PATIENCE: Duration = Duration::from_secs(120);
/// How much of ginkgo's output an error shows.
const LOG_TAIL_BYTES: usize = 2000;

/// What is to be run and where.
pub struct Run<'a> {
    /// The folder of ginkgo, e2e.test and kubectl.
    pub tools: &'a Path,
    pub kubeconfig: &'a Path,
    /// Where log and report go; made if need be.
    pub directory: &'a Path,
    pub processes: u32,
    /// A regular expression on the names of tests.
    pub focus: &'a str,
}

/// How a run ended. That tests failed is no error.
pub struct Ended {
    pub cases: Vec<Case>,
    /// Somebody ended it early; what ran until then counts.
    pub interrupted: bool,
}

impl Run<'_> {
    fn arguments(&self) -> Vec<String> {
        let text = |path: PathBuf| path.display().to_string();
        let directory = text(self.directory.to_owned());
        let words = [
            "--procs",
            &self.processes.to_string(),
            "--focus",
            self.focus,
            "--timeout",
            TIME_LIMIT,
            "--no-color",
            "--silence-skips",
            "--output-interceptor-mode=none",
            "--poll-progress-after=120s",
            "--junit-report",
            REPORT,
            "--output-dir",
            &directory,
            &text(self.tools.join("e2e.test")),
            "--",
            "--provider=skeleton",
            "--kubeconfig",
            &text(self.kubeconfig.to_owned()),
            "--kubectl-path",
            &text(self.tools.join("kubectl")),
            "--report-dir",
            &directory,
            "--allowed-not-ready-nodes=0",
            "--non-blocking-taints=node-role.kubernetes.io/control-plane",
        ];
        words.map(str::to_owned).into()
    }

    /// Runs the tests. `tell` is given the progress now and then.
    pub async fn run(&self, tell: impl Fn(&Progress, Duration)) -> anyhow::Result<Ended> {
        std::fs::create_dir_all(self.directory).with_context(|| self.directory.display().to_string())?;
        let report = self.directory.join(REPORT);
        // A report of an earlier run must not pass for this one's.
        let _ = std::fs::remove_file(&report);
        let mut log = tokio::fs::File::create(self.directory.join(LOG)).await?;
        let errors = std::fs::File::create(self.directory.join("ginkgo.err"))?;
        let search = cluster::search_path(Some(self.tools))?;
        let mut child = Command::new(self.tools.join("ginkgo"))
            .args(self.arguments())
            .current_dir(self.directory)
            .env("PATH", search)
            .env("KUBECONFIG", self.kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            // Its processes are many and must hear a signal once and together, which they do only as a group of their own.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("starting ginkgo")?;
        let mut output = child.stdout.take().context("ginkgo's output")?;
        let started = Instant::now();
        let mut progress = Progress::default();
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        let mut chunk = vec![0; 64 << 10];
        // One listener for the whole run: a signal between two would be lost.
        let mut asked = std::pin::pin!(interrupt::asked());
        let (mut interrupted, mut give_up) = (false, None);
        loop {
            tokio::select! {
                read = output.read(&mut chunk) => match read? {
                    0 => break,
                    length => {
                        progress.feed(&chunk[..length]);
                        log.write_all(&chunk[..length]).await?;
                    }
                },
                _ = tick.tick() => tell(&progress, started.elapsed()),
                signal = &mut asked, if !interrupted => {
                    signal?;
                    interrupted = true;
                    give_up = Some(Instant::now() + INTERRUPT_PATIENCE);
                    send(&child, Signal::SIGINT);
                }
                () = until(give_up) => {
                    send(&child, Signal::SIGKILL);
                    give_up = None;
                }
            }
        }
        log.flush().await?;
        child.wait().await?;
        tell(&progress, started.elapsed());
        ensure!(report.exists(), "ginkgo wrote no report; its log ends:\n{}", tail(&self.directory.join(LOG)));
        Ok(Ended { cases: junit::parse(&std::fs::read_to_string(&report)?)?, interrupted })
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn send(child: &Child, signal: Signal) {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // It may have ended by itself meanwhile.
        let _ = killpg(Pid::from_raw(id), signal);
    }
}

fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
}

/// Tests that have ended so far, counted by ginkgo's marks as they are written.
pub struct Progress {
    ended: Mark,
    not_passed: [Mark; 3],
}

impl Default for Progress {
    fn default() -> Self {
        Self { ended: Mark::new("•"), not_passed: ["• [FAILED]", "• [PANICKED]", "• [TIMEDOUT]"].map(Mark::new) }
    }
}

impl Progress {
    /// Takes the next piece of output, which may end anywhere.
    pub fn feed(&mut self, piece: &[u8]) {
        for byte in piece {
            self.ended.feed(*byte);
            self.not_passed.iter_mut().for_each(|mark| mark.feed(*byte));
        }
    }

    pub fn ended(&self) -> usize {
        self.ended.seen
    }

    pub fn failed(&self) -> usize {
        self.not_passed.iter().map(|mark| mark.seen).sum()
    }
}

/// Counts a word whose first byte occurs nowhere else in it.
struct Mark {
    word: &'static [u8],
    matched: usize,
    seen: usize,
}

impl Mark {
    fn new(word: &'static str) -> Self {
        Self { word: word.as_bytes(), matched: 0, seen: 0 }
    }

    fn feed(&mut self, byte: u8) {
        self.matched = if byte == self.word[self.matched] { self.matched + 1 } else { usize::from(byte == self.word[0]) };
        if self.matched == self.word.len() {
            self.seen += 1;
            self.matched = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_wherever_the_output_is_cut() {
        let output = "••\n• [FAILED] [3.1 seconds]\n[sig-node] a\n•\n• [PANICKED] [0.1 seconds]\n• [x\n";
        for size in 1..output.len() {
            let mut progress = Progress::default();
            output.as_bytes().chunks(size).for_each(|piece| progress.feed(piece));
            assert_eq!((progress.ended(), progress.failed()), (6, 2), "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn a_run_takes_its_outcomes_from_the_report_and_keeps_the_log() {
        let tools = tempfile::tempdir().unwrap();
        // Stands in for ginkgo: finds its output folder among the arguments as ginkgo does.
        let script = "#!/bin/sh\nwhile [ \"$1\" != --output-dir ]; do shift; done\necho '• [FAILED] a'\n\
                      echo '<testsuites><testcase name=\"[It] a [x]\" status=\"passed\" time=\"1\"/></testsuites>' >\"$2/ginkgo.xml\"\nexit 1\n";
        let program = tools.path().join("ginkgo");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let directory = tools.path().join("out");
        let run = Run { tools: tools.path(), kubeconfig: Path::new("/nowhere"), directory: &directory, processes: 1, focus: "a" };
        let ended = run.run(|progress, _| assert_eq!(progress.failed(), 1)).await.unwrap();
        assert_eq!(ended.cases.len(), 1);
        assert!(!ended.interrupted);
        assert_eq!(std::fs::read_to_string(directory.join(LOG)).unwrap(), "• [FAILED] a\n");
    }

    #[tokio::test]
    async fn a_report_of_an_earlier_run_is_not_taken_for_this_ones() {
        let tools = tempfile::tempdir().unwrap();
        let program = tools.path().join("ginkgo");
        std::fs::write(&program, "#!/bin/sh\necho 'no such cluster'\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(tools.path().join(REPORT), "<testsuites/>").unwrap();
        let run = Run { tools: tools.path(), kubeconfig: Path::new("/nowhere"), directory: tools.path(), processes: 1, focus: "a" };
        let error = run.run(|_, _| ()).await.err().unwrap();
        assert!(error.to_string().contains("no such cluster"), "{error}");
    }
}
