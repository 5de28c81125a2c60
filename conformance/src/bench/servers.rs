//! How each server is started: ours, the reference with its etcd, and the bare one. Each gets free loopback ports and a fresh folder.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::connection::Endpoint;
use super::process::Process;

/// A server that runs and is ready.
pub struct Running {
    pub endpoint: Endpoint,
    pub url: String,
    pub tenants: Tenants,
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

impl Running {
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

/// A kube-apiserver on an etcd of its own, which is already there when the API server's start is timed.
pub async fn reference(binary: &Path) -> anyhow::Result<Running> {
    let start = Start::new()?;
    let (client, peer) = (free_port()?, free_port()?);
    let etcd = [
        format!("--data-dir={} --log-level=error", start.path("etcd")),
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
    port: u16,
}

impl Start {
    /// The folder is where temporary files go: TMPDIR should name a real disk, or durability costs nothing.
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (token, tenants) = (random_token()?, Tenants { steady: random_token()?, account: random_token()?, greedy: random_token()? });
        let Tenants { steady, account, greedy } = &tenants;
        let tokens = format!(
            "{token},bench,bench,\"system:masters\"\n{steady},steady,steady\n{greedy},greedy,greedy\n\
             {account},{ACCOUNT},account,\"system:serviceaccounts,system:serviceaccounts:bench-account\"\n"
        );
        fs::write(folder.path().join("tokens.csv"), tokens)?;
        Ok(Self { folder, token, tenants, port: free_port()? })
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
        Ok(Running { endpoint, url, tenants: self.tenants, cold_start, processes, folder: self.folder })
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
