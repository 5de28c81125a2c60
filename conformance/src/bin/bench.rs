//! `bench`: measures one API server, or ours beside the reference and a bare server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::{Args, Parser, Subcommand};
use conformance::bench::cluster;
use conformance::bench::connection::Endpoint;
use conformance::bench::measure::Report;
use conformance::bench::neighbour;
use conformance::bench::process::Process;
use conformance::bench::scale;
use conformance::bench::servers::{self, AnswerBytes, Running};
use conformance::bench::suite::{self, Sizes, Subject};
use conformance::bench::table;
use conformance::exchanges::access::Access;

/// How many definitions of custom resources the reference is given.
const REFERENCE_DEFINITIONS: u64 = 200;

/// Measures Kubernetes API servers on this machine.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// A run of seconds that shows that everything works; its numbers mean nothing.
    #[arg(long, global = true)]
    quick: bool,
    /// Also write the results here, as JSON.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Measure a server that runs already, or that a command after `--` starts.
    Server(Server),
    /// Measure a cluster: how soon pods run. It must have an API server on this machine, and nodes.
    Cluster(Cluster),
    /// Start our server, the bare one and perhaps a reference, measure each and put them side by side.
    Compare(Compare),
    /// Start our server and perhaps a reference, and measure a well-behaved client alone and beside an abusive one.
    Neighbour(Neighbour),
    /// Start our control plane and perhaps a reference's, and measure what each takes with thousands of nodes and pods. The nodes are
    /// played: nothing runs.
    Scale(Scale),
    /// The abusive client: sends what a server takes until its input ends. The token is in BENCH_TOKEN.
    #[command(hide = true)]
    Abuse { url: String },
}

#[derive(Args)]
struct Server {
    /// Such as https://127.0.0.1:6443; only loopback addresses.
    url: String,
    /// The bearer token of a cluster administrator.
    #[arg(long)]
    token: String,
    /// A process whose memory counts; may be repeated.
    #[arg(long)]
    pid: Vec<u32>,
    /// The command that starts the server; it is ended after the run.
    #[arg(last = true)]
    start: Vec<String>,
}

#[derive(Args)]
struct Cluster {
    /// How its administrator is let in.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// What pods run; it should be on the nodes.
    #[arg(long, default_value = "registry.k8s.io/pause:3.10.2")]
    image: String,
    /// Pods that are created one after the other.
    #[arg(long, default_value_t = 12)]
    pods: u32,
    /// Pods of a Deployment; 0 for none.
    #[arg(long, default_value_t = 50)]
    replicas: u32,
}

#[derive(Args)]
struct Compare {
    /// The `ferrokube` binary.
    #[arg(long)]
    ours: PathBuf,
    /// The `bare` binary.
    #[arg(long)]
    bare: PathBuf,
    /// A `kube-apiserver` binary; needs etcd and openssl on the path.
    #[arg(long)]
    reference: Option<PathBuf>,
}

#[derive(Args)]
struct Neighbour {
    /// The `ferrokube` binary.
    #[arg(long)]
    ours: PathBuf,
    /// A `kube-apiserver` binary; needs etcd and openssl on the path.
    #[arg(long)]
    reference: Option<PathBuf>,
}

#[derive(Args)]
struct Scale {
    /// The `ferrokube` binary.
    #[arg(long)]
    ours: PathBuf,
    /// A folder with the reference's kube-apiserver, kube-controller-manager and kube-scheduler; needs etcd and openssl on the path.
    #[arg(long)]
    reference: Option<PathBuf>,
    /// 5,000 by default, 50 with --quick.
    #[arg(long)]
    nodes: Option<u32>,
    /// All of the Deployments' together; 50,000 by default, 500 with --quick.
    #[arg(long)]
    pods: Option<u32>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let sizes = if cli.quick { Sizes::QUICK } else { Sizes::FULL };
    let (reports, asked) = match &cli.command {
        Command::Server(server) => (vec![server.measure(sizes).await?], 1),
        Command::Cluster(cluster) => (vec![cluster.measure().await?], 1),
        Command::Compare(compare) => (compare.measure(sizes).await?, 2 + usize::from(compare.reference.is_some())),
        Command::Neighbour(both) => (both.measure(cli.quick).await?, 1 + usize::from(both.reference.is_some())),
        Command::Scale(both) => (both.measure(cli.quick).await?, 1 + usize::from(both.reference.is_some())),
        Command::Abuse { url } => {
            let token = std::env::var(neighbour::TOKEN).context(neighbour::TOKEN)?;
            return neighbour::abuse(url, &token, |line| {
                // Nobody is left to tell if stdout is gone.
                let _ = writeln!(std::io::stdout(), "{line}");
            })
            .await;
        }
    };
    std::io::stdout().write_all(table::draw(&reports).as_bytes())?;
    if let Some(path) = cli.json {
        std::fs::write(&path, serde_json::to_vec_pretty(&reports)?).with_context(|| path.display().to_string())?;
    }
    ensure!(reports.len() == asked, "{} of {asked} servers could not be measured", asked - reports.len());
    // The first report is the server under test; whatever others do, it may not lose events.
    match reports.first().map(|report| lost_events(report, sizes)) {
        Some(lost) if lost > 0 => bail!("{lost} watch events did not arrive"),
        _ => Ok(()),
    }
}

fn lost_events(report: &Report, sizes: Sizes) -> u64 {
    let count = |key: &str, name: &str| report.find(key).and_then(|m| m.detail.get(name)).and_then(|v| v.as_u64()).unwrap_or(0);
    sizes.fan_outs.iter().map(|f| count(f.arrived_key, "expected").saturating_sub(count(f.arrived_key, "arrived"))).sum()
}

impl Server {
    async fn measure(&self, sizes: Sizes) -> anyhow::Result<Report> {
        let endpoint = Endpoint::new(&self.url, &self.token)?;
        let mut processes: Vec<(String, u32)> = self.pid.iter().map(|pid| (pid.to_string(), *pid)).collect();
        let (mut started, mut cold_start) = (None, None);
        if let Some((program, arguments)) = self.start.split_first() {
            let log = tempfile::NamedTempFile::new()?.into_temp_path();
            let mut process = Process::start(Path::new(program), arguments.iter().cloned(), log.to_path_buf())?;
            cold_start = Some(process.ready(&endpoint).await.context(program.clone())?);
            processes.extend(process.id().map(|id| (program.clone(), id)));
            started = Some((process, log));
        }
        let subject = Subject { name: &self.url, endpoint: &endpoint, processes, cold_start };
        let report = suite::run(&subject, sizes, say).await;
        let cleaned = suite::clean(&endpoint, sizes).await.context("cleaning up");
        if let Some((process, log)) = started {
            process.stop().await?;
            log.close()?;
        }
        // The first thing that went wrong is the one to hear about.
        let report = report?;
        cleaned?;
        Ok(report)
    }
}

impl Neighbour {
    async fn measure(&self, quick: bool) -> anyhow::Result<Vec<Report>> {
        let sizes = if quick { neighbour::Sizes::QUICK } else { neighbour::Sizes::FULL };
        let mut reports = vec![beside("ours", servers::ours(&self.ours).await?, sizes).await?];
        if let Some(binary) = &self.reference {
            keep(&mut reports, beside("reference", servers::reference(binary).await?, sizes).await);
        }
        Ok(reports)
    }
}

async fn beside(name: &str, running: Running, sizes: neighbour::Sizes) -> anyhow::Result<Report> {
    let report = neighbour::measure(name, &running, sizes, |step| say(&format!("{name}: {step}"))).await;
    running.stop().await?;
    report
}

impl Scale {
    /// One after the other, so that neither takes from the other.
    async fn measure(&self, quick: bool) -> anyhow::Result<Vec<Report>> {
        let usual = if quick { scale::Sizes::QUICK } else { scale::Sizes::FULL };
        let sizes = scale::Sizes { nodes: self.nodes.unwrap_or(usual.nodes), pods: self.pods.unwrap_or(usual.pods), ..usual };
        sizes.check()?;
        let mut reports = vec![at_scale("ours", servers::our_control_plane(&self.ours).await?, sizes).await?];
        if let Some(folder) = &self.reference {
            let started = servers::reference_control_plane(folder).await;
            let measured = match started {
                Ok(running) => at_scale("reference", running, sizes).await,
                Err(error) => Err(error),
            };
            keep(&mut reports, measured);
        }
        Ok(reports)
    }
}

async fn at_scale(name: &str, mut running: Running, sizes: scale::Sizes) -> anyhow::Result<Report> {
    let report = scale::measure(name, &mut running, sizes, |step| say(&format!("{name}: {step}"))).await;
    running.stop().await?;
    report
}

impl Cluster {
    async fn measure(&self) -> anyhow::Result<Report> {
        let access = Access::kubeconfig(&self.kubeconfig)?;
        let sizes = cluster::Sizes { pods: self.pods, replicas: self.replicas };
        cluster::run(access.endpoint(), &self.image, sizes).await
    }
}

impl Compare {
    /// A server that fails after ours was measured is reported and left out, so that what was found is not lost.
    async fn measure(&self, sizes: Sizes) -> anyhow::Result<Vec<Report>> {
        let ours = one("ours", servers::ours(&self.ours).await?, sizes).await?;
        let bytes = answer_bytes(&ours)?;
        let mut reports = vec![ours];
        if let Some(binary) = &self.reference {
            keep(&mut reports, measure_reference(binary, sizes).await);
        }
        keep(&mut reports, measure_bare(&self.bare, &bytes, sizes).await);
        Ok(reports)
    }
}

fn keep(reports: &mut Vec<Report>, found: anyhow::Result<Report>) {
    match found {
        Ok(report) => reports.push(report),
        Err(error) => say(&format!("bench: left out: {error:#}")),
    }
}

async fn measure_reference(binary: &Path, sizes: Sizes) -> anyhow::Result<Report> {
    // It takes more than ten megabytes for each definition, and longer for each than for the one before.
    let sizes = Sizes { definitions: sizes.definitions.min(REFERENCE_DEFINITIONS), ..sizes };
    one("reference", servers::reference(binary).await?, sizes).await
}

/// Without start and memory, since a server that keeps nothing is no measure of these.
async fn measure_bare(binary: &Path, bytes: &AnswerBytes, sizes: Sizes) -> anyhow::Result<Report> {
    let running = servers::bare(binary, bytes).await?;
    let subject = Subject { name: "bare", endpoint: &running.endpoint, processes: Vec::new(), cold_start: None };
    let report = suite::run(&subject, sizes, |step| say(&format!("bare: {step}"))).await;
    running.stop().await?;
    report
}

/// Measures a server that was started for it, and ends it.
async fn one(name: &str, running: Running, sizes: Sizes) -> anyhow::Result<Report> {
    let subject = Subject { name, endpoint: &running.endpoint, processes: running.ids(), cold_start: Some(running.cold_start) };
    let report = suite::run(&subject, sizes, |step| say(&format!("{name}: {step}"))).await;
    drop(subject);
    running.stop().await?;
    report
}

/// What the bare server must answer to move as many bytes as ours.
fn answer_bytes(report: &Report) -> anyhow::Result<AnswerBytes> {
    let value = |key: &str| report.find(key).map(|m| m.value as u64).with_context(|| format!("{key} was not measured"));
    let event = report.find("watch_many").and_then(|m| m.detail.get("event_bytes")?.as_u64()).context("no event was measured")?;
    Ok(AnswerBytes { object: value("get_bytes")?, list: value("list_json_bytes")?, list_protobuf: value("list_protobuf_bytes")?, event })
}

/// Progress and errors go to stderr, so that stdout is the table alone.
fn say(line: &str) {
    // Nobody is left to tell if stderr is gone.
    let _ = writeln!(std::io::stderr(), "{line}");
}
