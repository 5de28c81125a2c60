//! The stores under test: where they live, how they are opened and restarted.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::storage::embedded::Embedded;
use crate::storage::etcd::{self, Etcd};
use crate::storage::store::Store;

const ETCD: &str = "/usr/bin/etcd";

pub(super) enum Backend {
    Embedded(TempDir),
    Etcd(EtcdServer),
}

pub(super) struct EtcdServer {
    directory: TempDir,
    client: u16,
    peer: u16,
    child: Child,
}

impl Backend {
    pub fn embedded() -> Backend {
        Backend::Embedded(tempfile::tempdir().unwrap())
    }

    /// `None`, with a message, on machines without etcd. `FERROKUBE_TEST_ETCD` names another binary.
    pub fn etcd(case: &str) -> Option<Backend> {
        if !Path::new(&etcd_binary()).exists() {
            writeln!(std::io::stderr(), "{case}: skipped, there is no {}", etcd_binary()).unwrap();
            return None;
        }
        // Both are bound at once, so that they differ.
        let [client, peer] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap()).map(|l| l.local_addr().unwrap().port());
        let directory = tempfile::tempdir().unwrap();
        let child = start(directory.path(), client, peer);
        Some(Backend::Etcd(EtcdServer { directory, client, peer, child }))
    }

    pub async fn open(&self) -> Arc<dyn Store> {
        self.open_at("/registry").await
    }

    /// The prefix matters to etcd only.
    pub async fn open_at(&self, prefix: &str) -> Arc<dyn Store> {
        match self {
            Backend::Embedded(directory) => Arc::new(Embedded::open(directory.path()).unwrap()),
            Backend::Etcd(server) => {
                let options = etcd::Options {
                    endpoints: vec![format!("http://127.0.0.1:{}", server.client)],
                    prefix: prefix.into(),
                    tls: None,
                    lease_reuse_seconds: etcd::REUSE_SECONDS,
                };
                for _ in 0..100 {
                    let opened = tokio::time::timeout(Duration::from_secs(2), Etcd::connect(options.clone())).await;
                    if let Ok(Ok(store)) = opened {
                        return Arc::new(store);
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                panic!("etcd does not answer");
            }
        }
    }

    /// Ends the store (a server without warning) and opens it again.
    pub async fn restart(&mut self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        drop(store);
        if let Backend::Etcd(server) = self {
            server.child.kill().unwrap();
            server.child.wait().unwrap();
            server.child = start(server.directory.path(), server.client, server.peer);
        }
        self.open().await
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn etcd_binary() -> String {
    std::env::var("FERROKUBE_TEST_ETCD").unwrap_or_else(|_| ETCD.to_owned())
}

fn start(directory: &Path, client: u16, peer: u16) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    Command::new(etcd_binary())
        .arg("--data-dir")
        .arg(directory)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
