//! `conformance`: runs the official suite against a cluster of ours or anybody's and keeps the ledger; sends recorded exchanges to API
//! servers and shows what they answer otherwise.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use conformance::exchanges;
use conformance::exchanges::access::Access;
use conformance::suite::catalog::{self, Test};
use conformance::suite::cluster::{self, Cluster, Own};
use conformance::suite::ginkgo::{Ended, Progress, Run};
use conformance::suite::interrupt;
use conformance::suite::junit::{self, Outcome};
use conformance::suite::ledger::{self, Counts};
use conformance::suite::record::Record;
use conformance::suite::registry::Registry;
use conformance::suite::selection::{self, Phase};

/// The conformance suite of Kubernetes.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the tests that have not passed yet, first those that go together, then those that need the cluster for themselves.
    Run(RunArguments),
    /// Write the ledger anew, perhaps with reports of runs that were made otherwise.
    Ledger(LedgerArguments),
    /// Send recorded exchanges to an API server.
    #[command(subcommand)]
    Exchanges(Exchanges),
}

#[derive(Subcommand)]
enum Exchanges {
    /// Compare a server's answers with those on record.
    Check(ExchangesArguments),
    /// Write down a server's answers, as what others are compared with.
    Record(ExchangesArguments),
    /// Send the same steps to two servers and show where the second answers otherwise.
    Compare {
        #[command(flatten)]
        one: ExchangesArguments,
        /// The second server's URL.
        #[arg(long, requires = "other_token")]
        other_url: Option<String>,
        #[arg(long)]
        other_token: Option<String>,
        #[arg(long, conflicts_with = "other_url")]
        other_kubeconfig: Option<PathBuf>,
    },
}

#[derive(Args)]
struct ExchangesArguments {
    /// Such as https://127.0.0.1:6443; only loopback addresses.
    #[arg(long, requires = "token")]
    url: Option<String>,
    /// The bearer token of a cluster administrator.
    #[arg(long)]
    token: Option<String>,
    /// Instead of URL and token: who is a cluster administrator there.
    #[arg(long, conflicts_with = "url")]
    kubeconfig: Option<PathBuf>,
    /// The folder of steps and answers.
    #[arg(long, default_value = "conformance/corpus")]
    corpus: PathBuf,
    /// Scenarios; all if none is named.
    only: Vec<String>,
}

fn access(url: &Option<String>, token: &Option<String>, kubeconfig: &Option<PathBuf>) -> anyhow::Result<Access> {
    match (url, token, kubeconfig) {
        (Some(url), Some(token), _) => Access::token(url, token),
        (_, _, Some(kubeconfig)) => Access::kubeconfig(kubeconfig),
        _ => anyhow::bail!("which server? --url and --token, or --kubeconfig"),
    }
}

/// True if nothing was answered otherwise.
async fn exchange(command: &Exchanges) -> anyhow::Result<bool> {
    let of = |arguments: &ExchangesArguments| access(&arguments.url, &arguments.token, &arguments.kubeconfig);
    let outcomes = match command {
        Exchanges::Check(one) => exchanges::check(&of(one)?, &one.corpus, &one.only).await?,
        Exchanges::Compare { one, other_url, other_token, other_kubeconfig } => {
            let other = access(other_url, other_token, other_kubeconfig)?;
            exchanges::compare(&of(one)?, &other, &one.corpus, &one.only).await?
        }
        Exchanges::Record(one) => {
            let steps = exchanges::record(&of(one)?, &one.corpus, &one.only).await?;
            say(&format!("==> {steps} answers written down"));
            return Ok(true);
        }
    };
    let (mut same, mut all) = (0, 0);
    for exchanges::Outcome { scenario, steps, different } in &outcomes {
        all += steps;
        same += steps - different.len();
        say(&format!("{scenario}: {} of {steps}", steps - different.len()));
        for (step, differences) in different {
            say(&format!("  {step}"));
            for difference in differences {
                say(&format!("    {difference}"));
            }
        }
    }
    say(&format!("==> {same} of {all} answers are the same"));
    Ok(same == all)
}

/// What both need.
#[derive(Args)]
struct Place {
    /// The folder that `suite/build-tools` filled.
    #[arg(long, default_value = "target/conformance/tools")]
    tools: PathBuf,
    /// Logs, reports, and the record of what passed already.
    #[arg(long, default_value = "target/conformance/run")]
    out: PathBuf,
    /// Where the ledger is written.
    #[arg(long, default_value = "target/conformance/ledger.md")]
    ledger: PathBuf,
}

#[derive(Args)]
struct RunArguments {
    #[command(flatten)]
    place: Place,
    /// A cluster that runs already; without it one of ours is started, which needs root.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Only tests whose name matches this regular expression.
    #[arg(long)]
    focus: Option<String>,
    /// Forget earlier runs.
    #[arg(long)]
    fresh: bool,
    /// Tests that run at a time in the parallel part, beside those that do nothing but watch.
    #[arg(long, default_value_t = 13, value_parser = clap::value_parser!(u32).range(1..=100))]
    processes: u32,
    #[command(flatten)]
    own: OwnArguments,
}

/// Of a cluster of ours.
#[derive(Args)]
struct OwnArguments {
    #[arg(long, default_value = "target/release/ferrokube")]
    ferrokube: PathBuf,
    /// Two tests need a second one.
    #[arg(long, default_value_t = 2)]
    nodes: u32,
    /// A folder with containerd and its shim for the nodes, instead of the machine's own.
    #[arg(long)]
    runtime: Option<PathBuf>,
    /// The API server's port; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    secure_port: u16,
    /// The port of the registry on the cluster's bridge.
    #[arg(long, default_value_t = 5000)]
    registry_port: u16,
    /// Makes the images that stand in for the published ones.
    #[arg(long, default_value = "conformance/images/build")]
    image_builder: PathBuf,
    /// Let nodes pull the published images; needs a way to registry.k8s.io.
    #[arg(long)]
    published_images: bool,
}

#[derive(Args)]
struct LedgerArguments {
    #[command(flatten)]
    place: Place,
    /// A report to take over; may be repeated, later ones replace earlier ones.
    #[arg(long, requires = "subject")]
    junit: Vec<PathBuf>,
    /// What the reports are of, such as a commit.
    #[arg(long)]
    subject: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(arguments) => run(arguments).await,
        Command::Ledger(arguments) => rewrite(arguments).await.map(|()| true),
        Command::Exchanges(command) => exchange(&command).await,
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("conformance: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The record and where it lies.
struct Book {
    tests: Vec<Test>,
    record: Record,
    file: PathBuf,
    ledger: PathBuf,
}

impl Book {
    async fn open(place: &Place) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&place.out).with_context(|| place.out.display().to_string())?;
        let tests = catalog::of(&place.tools.join("e2e.test")).await?;
        let file = place.out.join("record.json");
        Ok(Self { tests, record: Record::read(&file)?, file, ledger: place.ledger.clone() })
    }

    fn save(&self) -> anyhow::Result<()> {
        self.record.write(&self.file)?;
        std::fs::write(&self.ledger, ledger::render(&self.tests, &self.record)).with_context(|| self.ledger.display().to_string())
    }

    fn sum(&self) -> String {
        let counts = Counts::of(&self.tests, &self.record);
        format!(
            "{} of {} passed, {} failed, {} not run; {}",
            counts.passed,
            counts.total(),
            counts.failed,
            counts.not_run,
            self.ledger.display()
        )
    }
}

async fn rewrite(arguments: LedgerArguments) -> anyhow::Result<()> {
    let mut book = Book::open(&arguments.place).await?;
    for report in &arguments.junit {
        let text = std::fs::read_to_string(report).with_context(|| report.display().to_string())?;
        book.record.add(junit::parse(&text)?, arguments.subject.as_deref().unwrap_or_default());
    }
    book.save()?;
    say(&format!("==> {}", book.sum()));
    Ok(())
}

/// True if everything that was asked for has passed, now or earlier.
async fn run(mut arguments: RunArguments) -> anyhow::Result<bool> {
    let mut book = Book::open(&arguments.place).await?;
    // ginkgo works in another folder.
    for path in [&mut arguments.place.tools, &mut arguments.place.out] {
        *path = path.canonicalize().with_context(|| path.display().to_string())?;
    }
    if arguments.fresh {
        book.record = Record::default();
    }
    let all = book.tests.clone();
    let chosen = selection::focused(book.record.pending(&all), arguments.focus.as_deref())?;
    if chosen.is_empty() {
        book.save()?;
        say(&format!("==> nothing to run: everything asked for has passed already (FRESH=1 begins anew); {}", book.sum()));
        return Ok(true);
    }
    say(&format!("==> {} tests to run", chosen.len()));
    let result = match &arguments.kubeconfig {
        Some(kubeconfig) => {
            let kubeconfig = kubeconfig.canonicalize().with_context(|| kubeconfig.display().to_string())?;
            let cluster = Cluster::new(&arguments.place.tools, kubeconfig);
            let subject = cluster.version().await?;
            test(&arguments, &cluster, &subject, &chosen, &mut book).await
        }
        None => on_our_own(&arguments, &chosen, &mut book).await,
    };
    say(&format!("==> {}", book.sum()));
    result?;
    Ok(selection::focused(book.record.pending(&all), arguments.focus.as_deref())?.is_empty())
}

async fn on_our_own(arguments: &RunArguments, chosen: &[&Test], book: &mut Book) -> anyhow::Result<()> {
    let RunArguments { own, place, .. } = arguments;
    let subject = commit().await?;
    let data_dir = place.out.join("cluster");
    say(&format!("==> starting a cluster of {} node(s)", own.nodes));
    let runtime = own.runtime.as_ref().map(|folder| folder.canonicalize().with_context(|| folder.display().to_string())).transpose()?;
    let path = cluster::search_path(runtime.as_deref())?;
    let mut started = Own::start(&own.ferrokube, &data_dir, own.nodes, own.secure_port, &path, place.out.join("cluster.log")).await?;
    let cluster = Cluster::new(&place.tools, started.kubeconfig());
    let mut registry = None;
    // Whatever happens, the cluster is taken down again.
    let result = async {
        tokio::select! {
            ready = started.ready(&cluster, own.nodes as usize) => ready?,
            _ = interrupt::asked() => anyhow::bail!("interrupted"),
        }
        if !own.published_images {
            // Beside the run's folder, as images outlive runs.
            let images = place.tools.with_file_name("images");
            let running = registry.insert(Registry::start(&images.join("registry"), cluster.address().await?, own.registry_port).await?);
            running.fill(&own.image_builder, &place.tools, &images.join("work")).await?;
            running.tell_nodes(&data_dir)?;
        }
        test(arguments, &cluster, &subject, chosen, book).await
    }
    .await;
    say("==> taking the cluster down");
    if let Some(registry) = registry {
        registry.stop().await?;
    }
    started.stop().await?;
    result
}

/// Runs the chosen tests and writes down what became of them after each phase.
async fn test(arguments: &RunArguments, cluster: &Cluster, subject: &str, chosen: &[&Test], book: &mut Book) -> anyhow::Result<()> {
    for phases in Phase::ALL {
        let runs = phases.iter().map(|phase| phase_of(arguments, cluster, chosen, *phase));
        // All of them end before one's failure counts, so that nothing runs on beside what comes next.
        let ended: Vec<_> = futures::future::join_all(runs).await;
        let mut interrupted = false;
        let mut failed = Ok(());
        for run in ended {
            match run {
                Ok(run) => {
                    interrupted |= run.interrupted;
                    book.record.add(run.cases, subject);
                }
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        book.save()?;
        failed?;
        anyhow::ensure!(!interrupted, "interrupted; what has passed need not run again");
    }
    Ok(())
}

/// Runs those of the chosen tests that belong to a phase.
async fn phase_of(arguments: &RunArguments, cluster: &Cluster, chosen: &[&Test], phase: Phase) -> anyhow::Result<Ended> {
    let tests: Vec<_> = chosen.iter().copied().filter(|test| phase.has(test)).collect();
    if tests.is_empty() {
        return Ok(Ended { cases: Vec::new(), interrupted: false });
    }
    let (name, count) = (phase.name(), tests.len());
    let directory = arguments.place.out.join(name);
    say(&format!("==> {name}: {count} tests; log in {}", directory.display()));
    let run = Run {
        tools: &arguments.place.tools,
        kubeconfig: &cluster.kubeconfig,
        directory: &directory,
        processes: phase.processes(u32::try_from(count)?, arguments.processes),
        focus: &selection::exactly(&tests),
    };
    let ended = run.run(|progress, elapsed| say(&told(name, progress, count, elapsed))).await?;
    for case in &ended.cases {
        if let Outcome::Failed(reason) = &case.outcome {
            say(&format!("    FAILED {}\n           {reason}", case.name));
        }
    }
    Ok(ended)
}

fn told(phase: &str, progress: &Progress, count: usize, elapsed: Duration) -> String {
    format!("    {phase}: {} of {count} ended, {} failed, {} s", progress.ended(), progress.failed(), elapsed.as_secs())
}

/// The commit that is tested, and whether the tree differs from it.
async fn commit() -> anyhow::Result<String> {
    let commit = git(&["rev-parse", "--short=10", "HEAD"]).await?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)conformance/ledger.md"]).await?;
    Ok(if changes.is_empty() { commit } else { format!("{commit} with changes") })
}

async fn git(arguments: &[&str]) -> anyhow::Result<String> {
    let output = tokio::process::Command::new(Path::new("git")).args(arguments).output().await.context("git")?;
    anyhow::ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Progress and errors go to stderr.
fn say(line: &str) {
    // Nobody is left to tell if stderr is gone.
    let _ = writeln!(std::io::stderr(), "{line}");
}
