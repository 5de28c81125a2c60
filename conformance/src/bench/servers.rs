//! How each server is started: ours, the reference with its etcd, the bare one, and whole control planes. Each gets free loopback ports
//! and a fresh folder.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tempfile::TempDir;

use super::connection::Endpoint;
use super::process::Process;

/// A server that runs and is ready.
pub struct Running {
    pub endpoint: Endpoint,
    pub url: String,
    pub tenants: Tenants,
    components: Components,
    pub cold_start: Duration,
    /// In the order of their start, each with its name.
    pub processes: Vec<(&'static str, Process)>,
    folder: TempDir,
}

/// The name of the account.
pub const ACCOUNT: &str = "system:serviceaccount:bench-account:default";

/// The tokens of users who may do nothing yet. Two of them have the same priority, the account has another.
pub struct Tenants {
    pub steady: String,
    pub account: String,
    pub greedy: String,
}

/// The tokens of the reference's components, each the user that it commonly is.
struct Components {
    controller_manager: String,
    scheduler: String,
}

/// How often the processes are looked after.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

impl Running {
    /// An error if one of the processes has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(|(name, process)| process.ensure_running().context(*name))
    }

    /// Comes back when one of the processes has ended.
    pub async fn until_one_ends(&mut self) -> anyhow::Error {
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            tokio::time::sleep(WATCH_PERIOD).await;
        }
    }

    /// Starts a component of the reference and waits until it listens.
    async fn start_component(&mut self, binaries: &Path, name: &'static str, token: &str, arguments: &str) -> anyhow::Result<()> {
        let folder = self.folder.path();
        let (config, port) = (folder.join(format!("{name}.kubeconfig")), free_port()?);
        fs::write(&config, kubeconfig(&self.url, token))?;
        let config = config.display();
        let arguments = [
            // Nobody asks at their own ports, so that they need not know who may.
            format!("--kubeconfig={config} --bind-address=127.0.0.1 --secure-port={port}"),
            format!("{NO_HOLDING_BACK} {arguments}"),
        ]
        .join(" ");
        let mut process = Process::start(&binaries.join(name), words(&arguments), folder.join(format!("{name}.log")))?;
        process.listening(&format!("127.0.0.1:{port}")).await?;
        self.processes.push((name, process));
        Ok(())
    }

    /// Name and id of each process.
    pub fn ids(&self) -> Vec<(String, u32)> {
        self.processes.iter().filter_map(|(name, process)| Some(((*name).to_owned(), process.id()?))).collect()
    }

    /// Ends the processes, last started first, and removes what they kept.
    pub async fn stop(self) -> anyhow::Result<()> {
        for (_, process) in self.processes.into_iter().rev() {
            process.stop().await?;
        }
        self.folder.close().context("removing the servers' data")
    }
}

/// `ferrokube apiserver` on a fresh data folder: what the reference is measured as, too.
pub async fn ours(binary: &Path) -> anyhow::Result<Running> {
    let start = Start::new()?;
    let arguments = [
        format!("apiserver --bind-address=127.0.0.1 --secure-port={}", start.port).as_str(),
        &format!("--data-dir={}", start.path("data")),
        &format!("--token-auth-file={}", start.path("tokens.csv")),
    ]
    .join(" ");
    start.finish(binary, &arguments, "ferrokube", Vec::new()).await
}

/// What etcd's authors suggest at most; at the default, two gigabytes, one that is asked for much in little time refuses writes.
const ETCD_QUOTA_BYTES: u64 = 8 << 30;

/// A kube-apiserver on an etcd of its own, which is already there when the API server's start is timed.
pub async fn reference(binary: &Path) -> anyhow::Result<Running> {
    let start = Start::new()?;
    let (client, peer) = (free_port()?, free_port()?);
    let etcd = [
        format!("--data-dir={} --log-level=error --quota-backend-bytes={ETCD_QUOTA_BYTES}", start.path("etcd")),
        format!("--listen-client-urls=http://127.0.0.1:{client} --advertise-client-urls=http://127.0.0.1:{client}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer} --initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
    ]
    .join(" ");
    let mut etcd = Process::start(Path::new("etcd"), words(&etcd), start.folder.path().join("etcd.log"))?;
    etcd.listening(&format!("127.0.0.1:{client}")).await.context("etcd")?;
    let key = start.path("service-account.key");
    let made = Command::new("openssl").args(["genrsa", "-out", &key, "2048"]).output().context("openssl")?;
    ensure!(made.status.success(), "openssl genrsa: {}", String::from_utf8_lossy(&made.stderr));
    let arguments = [
        format!("--etcd-servers=http://127.0.0.1:{client} --cert-dir={}", start.path("certificates")),
        format!("--bind-address=127.0.0.1 --secure-port={} --endpoint-reconciler-type=none", start.port),
        format!("--authorization-mode=RBAC --token-auth-file={}", start.path("tokens.csv")),
        format!("--service-account-issuer=https://kubernetes.default.svc --service-account-key-file={key}"),
        format!("--service-account-signing-key-file={key} --service-cluster-ip-range=10.96.0.0/16"),
    ]
    .join(" ");
    start.finish(binary, &arguments, "kube-apiserver", vec![("etcd", etcd)]).await
}

/// `ferrokube up` without nodes: API server, store, controllers and scheduler in one process.
pub async fn our_control_plane(binary: &Path) -> anyhow::Result<Running> {
    let start = Start::new()?;
    let arguments = [
        format!("up --nodes=0 --bind-address=127.0.0.1 --secure-port={}", start.port),
        format!("--data-dir={} --token-auth-file={}", start.path("data"), start.path("tokens.csv")),
    ]
    .join(" ");
    start.finish(binary, &arguments, "ferrokube", Vec::new()).await
}

/// What lets the reference's components send as much as they can. By default they hold back, the controller manager to 20 requests a
/// second and the scheduler to 50: 50,000 pods would take them most of an hour, in which their processors rest. Ours does not hold back.
const NO_HOLDING_BACK: &str = "--kube-api-qps=5000 --kube-api-burst=10000";

/// A kube-apiserver with an etcd, a kube-controller-manager and a kube-scheduler, from the folder of these binaries.
pub async fn reference_control_plane(folder: &Path) -> anyhow::Result<Running> {
    let mut running = reference(&folder.join("kube-apiserver")).await?;
    let path = |name: &str| running.folder.path().join(name).display().to_string();
    let (key, certificate) = (path("service-account.key"), path("certificates/apiserver.crt"));
    let controllers = [
        format!("--service-account-private-key-file={key} --root-ca-file={certificate}"),
        "--use-service-account-credentials --allocate-node-cidrs=false".to_owned(),
    ]
    .join(" ");
    let components = [
        ("kube-controller-manager", running.components.controller_manager.clone(), controllers),
        ("kube-scheduler", running.components.scheduler.clone(), String::new()),
    ];
    for (name, token, arguments) in components {
        running.start_component(folder, name, &token, &arguments).await.context(name)?;
    }
    Ok(running)
}

/// How a component is let in. It is on this machine and the server's certificate is its own, so nothing is there to verify it with.
fn kubeconfig(url: &str, token: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": url, "insecure-skip-tls-verify": true}}],
        "users": [{"name": "it", "user": {"token": token}}],
    })
    .to_string()
}

/// How many bytes the bare server answers with.
pub struct AnswerBytes {
    pub object: u64,
    pub list: u64,
    pub list_protobuf: u64,
    pub event: u64,
}

/// The bare server, answering with as many bytes as another server did.
pub async fn bare(binary: &Path, bytes: &AnswerBytes) -> anyhow::Result<Running> {
    let start = Start::new()?;
    let arguments = format!("{} {} {} {} {}", start.port, bytes.object, bytes.list, bytes.list_protobuf, bytes.event);
    start.finish(binary, &arguments, "bare", Vec::new()).await
}

/// What every start needs: a folder with a token file, a token and a port.
struct Start {
    folder: TempDir,
    token: String,
    tenants: Tenants,
    components: Components,
    port: u16,
}

impl Start {
    /// The folder is where temporary files go: TMPDIR should name a real disk, or durability costs nothing.
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (token, tenants) = (random_token()?, Tenants { steady: random_token()?, account: random_token()?, greedy: random_token()? });
        let components = Components { controller_manager: random_token()?, scheduler: random_token()? };
        let Tenants { steady, account, greedy } = &tenants;
        let Components { controller_manager, scheduler } = &components;
        let tokens = format!(
            "{token},bench,bench,\"system:masters\"\n{steady},steady,steady\n{greedy},greedy,greedy\n\
             {account},{ACCOUNT},account,\"system:serviceaccounts,system:serviceaccounts:bench-account\"\n\
             {controller_manager},system:kube-controller-manager,controller-manager\n{scheduler},system:kube-scheduler,scheduler\n"
        );
        fs::write(folder.path().join("tokens.csv"), tokens)?;
        Ok(Self { folder, token, tenants, components, port: free_port()? })
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    async fn finish(
        self,
        binary: &Path,
        arguments: &str,
        name: &'static str,
        mut processes: Vec<(&'static str, Process)>,
    ) -> anyhow::Result<Running> {
        let url = format!("https://127.0.0.1:{}", self.port);
        let endpoint = Endpoint::new(&url, &self.token)?;
        let mut process = Process::start(binary, words(arguments), self.folder.path().join(format!("{name}.log")))?;
        let cold_start = process.ready(&endpoint).await.context(name)?;
        processes.push((name, process));
        Ok(Running { endpoint, url, tenants: self.tenants, components: self.components, cold_start, processes, folder: self.folder })
    }
}

fn words(arguments: &str) -> impl Iterator<Item = String> {
    arguments.split_whitespace().map(str::to_owned)
}

/// A port that was free a moment ago; whoever takes it in between makes the start fail, loudly.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0u8; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
