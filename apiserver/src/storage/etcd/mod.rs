//! The etcd store: for clusters, for several API servers on one store, and for taking over what upstream has written.
//!
//! Owns every call to etcd and the root under which keys lie. The layout, the comparison of mod revisions, the sharing
//! of leases and the compaction protocol are upstream's, so that API servers of both kinds can share an etcd.

mod address;
mod lease;
mod retry;
mod watch;

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions, GetResponse, KvClient, PutOptions, TlsOptions, Txn as EtcdTxn,
    TxnOp, TxnOpResponse, TxnResponse,
};
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::BoxStream;
use tokio::sync::watch::Sender;

use super::store::{Batch, Change, Entry, Expected, Key, Loaded, Revision, Round, Store, StoreError, Txn};
pub use address::Address;
use lease::Leases;
pub use lease::REUSE_SECONDS;
use retry::{Repeat, repeated};
use watch::{ProgressBy, Watch};

/// Where all API servers on an etcd agree on compactions: outside the root, as upstream has it.
const COMPACT_KEY: &str = "compact_rev_key";
/// How many keys are read at a time when a resource is loaded.
const PAGE_KEYS: i64 = 1000;
/// A page of the largest values, and a watch response after a long pause, are larger than gRPC's default of 4 MB.
const MAX_MESSAGE_BYTES: usize = 2 * 1024 * 1024 * 1024 - 1;
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How to reach an etcd: `--etcd-servers` and its kin.
#[derive(Clone, Default)]
pub struct Options {
    /// URLs.
    pub endpoints: Vec<String>,
    /// `--etcd-prefix`; upstream's default is `/registry`.
    pub prefix: String,
    /// For `https` endpoints.
    pub tls: Option<TlsOptions>,
    /// The longest that keys which live for a time share a lease.
    pub lease_reuse_seconds: i64,
}

/// A store in an etcd.
pub struct Etcd {
    client: Client,
    /// With a slash at its end.
    root: String,
    progress_by: ProgressBy,
    progress_requests: Sender<u64>,
    leases: Leases,
}

impl Etcd {
    /// Connects, and asks the etcd for its version.
    pub async fn connect(options: Options) -> Result<Etcd, StoreError> {
        let (interval, timeout) = KEEP_ALIVE;
        let mut connect =
            ConnectOptions::new().with_keep_alive(interval, timeout).with_connect_timeout(CONNECT_TIMEOUT).with_require_leader(true);
        if let Some(tls) = options.tls {
            connect = connect.with_tls(tls);
        }
        let client = Client::connect(&options.endpoints, Some(connect)).await.map_err(unavailable)?;
        let status = repeated(Repeat::Always, || {
            let mut client = client.maintenance_client();
            async move { client.status().await }
        })
        .await?;
        Ok(Etcd {
            client,
            root: root(&options.prefix),
            progress_by: ProgressBy::for_version(status.version()),
            progress_requests: Sender::new(0),
            leases: Leases::new(options.lease_reuse_seconds),
        })
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn transact(&self, request: EtcdTxn) -> Result<TxnResponse, StoreError> {
        let attempt = || {
            let (mut kv, request) = (self.kv(), request.clone());
            async move { kv.txn(request).await }
        };
        repeated(Repeat::Unsent, attempt).await
    }

    async fn get(&self, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, StoreError> {
        let attempt = || {
            let (mut kv, key, options) = (self.kv(), key.clone(), options.clone());
            async move { kv.get(key, Some(options)).await }
        };
        repeated(Repeat::Always, attempt).await
    }

    async fn run(&self, txn: Txn) -> Result<Revision, StoreError> {
        let path = format!("{}{}", self.root, txn.key.as_str());
        let when = match txn.expected {
            Expected::Any if matches!(txn.change, Change::Delete) => vec![Compare::mod_revision(path.clone(), CompareOp::Greater, 0)],
            Expected::Any => Vec::new(),
            Expected::Absent => vec![Compare::mod_revision(path.clone(), CompareOp::Equal, 0)],
            Expected::At(revision) => vec![Compare::mod_revision(path.clone(), CompareOp::Equal, signed(revision))],
        };
        let then = match &txn.change {
            Change::Delete if txn.expected == Expected::Absent => TxnOp::get(path.clone(), Some(GetOptions::new().with_keys_only())),
            Change::Delete => TxnOp::delete(path.clone(), None::<DeleteOptions>),
            Change::Put { value, ttl_seconds } => {
                let options = match ttl_seconds {
                    Some(ttl) => {
                        let lease = self.leases.get(self.client.lease_client(), *ttl).await?;
                        Some(PutOptions::new().with_lease(lease))
                    }
                    None => None,
                };
                TxnOp::put(path.clone(), value.to_vec(), options)
            }
        };
        let request = EtcdTxn::new().when(when).and_then([then]).or_else([TxnOp::get(path, Some(GetOptions::new().with_keys_only()))]);
        let response = self.transact(request).await?;
        outcome(&txn, &response)
    }

    async fn read(&self, prefix: &str, at: Option<Revision>) -> Result<Loaded, StoreError> {
        let root = format!("{}{prefix}", self.root);
        let mut loaded = Loaded { entries: Vec::new(), revision: at.unwrap_or_default() };
        let mut from = root.clone().into_bytes();
        let end = range_end(root.as_bytes());
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE_KEYS).with_revision(signed(loaded.revision));
            let asked = self.get(from, options).await;
            let mut page = asked.map_err(|e| match e {
                StoreError::Compacted { oldest, .. } => StoreError::Compacted { requested: loaded.revision, oldest },
                other => other,
            })?;
            if loaded.revision == Revision(0) {
                // All further pages are read at the revision of the first.
                loaded.revision = page.header().map(|h| unsigned(h.revision())).ok_or_else(headless)?;
            }
            let more = page.more();
            let kvs = page.take_kvs();
            let Some(last) = kvs.last() else { return Ok(loaded) };
            from = [last.key(), b"\0"].concat();
            for kv in kvs {
                let revision = unsigned(kv.mod_revision());
                let (key, value) = kv.into_key_value();
                let key = key.get(self.root.len()..).and_then(|k| std::str::from_utf8(k).ok());
                let key = key.ok_or_else(|| StoreError::Corrupt("a key is not text".to_owned()))?;
                loaded.entries.push(Entry { key: Key::new(key), revision, value: Bytes::from(value), unreadable: None });
            }
            if !more {
                return Ok(loaded);
            }
        }
    }

    /// Upstream's protocol. The version of the agreed key is a clock: whoever first moves it on from where all saw it
    /// compacts to the revision seen at the last tick, and the others learn the time from the key.
    async fn play(&self, round: Round) -> Result<(Round, Option<Revision>), StoreError> {
        let time = i64::try_from(round.time).unwrap_or(i64::MAX);
        let request = EtcdTxn::new()
            .when([Compare::version(COMPACT_KEY, CompareOp::Equal, time)])
            .and_then([TxnOp::put(COMPACT_KEY, round.revision.to_string(), None)])
            .or_else([TxnOp::get(COMPACT_KEY, None)]);
        let response = self.transact(request).await?;
        let revision = response.header().map(|h| unsigned(h.revision())).ok_or_else(headless)?;
        if !response.succeeded() {
            let responses = response.op_responses();
            let Some(TxnOpResponse::Get(found)) = responses.first() else { return Err(headless()) };
            let Some(kv) = found.kvs().first() else { return Ok((Round { time: 0, revision }, None)) };
            let compacted = std::str::from_utf8(kv.value()).ok().and_then(|v| v.parse().ok()).map(Revision);
            let next = Round { time: u64::try_from(kv.version()).unwrap_or(0), revision };
            return Ok((next, compacted.filter(|r| *r > Revision(0))));
        }
        let next = Round { time: round.time + 1, revision };
        if round.revision == Revision(0) {
            return Ok((next, None));
        }
        let compacted = repeated(Repeat::Unsent, || {
            let mut kv = self.kv();
            async move { kv.compact(signed(round.revision), None).await }
        });
        match compacted.await {
            // Somebody else has compacted further.
            Ok(_) | Err(StoreError::Compacted { .. }) => Ok((next, Some(round.revision))),
            Err(error) => Err(error),
        }
    }
}

impl Store for Etcd {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.run(txn).boxed()
    }

    fn load<'a>(&'a self, prefix: &'a str, at: Option<Revision>) -> BoxFuture<'a, Result<Loaded, StoreError>> {
        self.read(prefix, at).boxed()
    }

    fn watch(&self, after: Revision) -> BoxStream<'static, Result<Batch, StoreError>> {
        watch::stream(Watch {
            client: self.client.watch_client().max_decoding_message_size(MAX_MESSAGE_BYTES),
            root: self.root.clone(),
            progress_by: self.progress_by,
            requests: self.progress_requests.subscribe(),
            after,
        })
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        async {
            // Any linearizable read tells the revision; this one reads nothing.
            let options = GetOptions::new().with_count_only();
            let response = self.get(self.root.clone().into_bytes(), options).await?;
            response.header().map(|h| unsigned(h.revision())).ok_or_else(headless)
        }
        .boxed()
    }

    fn size_bytes(&self) -> BoxFuture<'_, Option<u64>> {
        let mut client = self.client.maintenance_client();
        async move { client.status().await.ok().and_then(|status| u64::try_from(status.db_size()).ok()) }.boxed()
    }

    fn request_progress(&self) {
        self.progress_requests.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn compact(&self, round: Round) -> BoxFuture<'_, Result<(Round, Option<Revision>), StoreError>> {
        self.play(round).boxed()
    }
}

/// The prefix as keys begin with it.
fn root(prefix: &str) -> String {
    match prefix.trim_matches('/') {
        "" => "/".to_owned(),
        prefix => format!("/{prefix}/"),
    }
}

/// What a transaction's response says about the transaction.
fn outcome(txn: &Txn, response: &TxnResponse) -> Result<Revision, StoreError> {
    let seen = response.header().map(|h| unsigned(h.revision())).ok_or_else(headless)?;
    let key = || txn.key.clone();
    let refused_deletion = matches!(txn.change, Change::Delete) && txn.expected == Expected::Absent;
    if response.succeeded() {
        return if refused_deletion { Err(StoreError::Absent { key: key(), seen }) } else { Ok(seen) };
    }
    let responses = response.op_responses();
    let found = match responses.first() {
        Some(TxnOpResponse::Get(found)) => found.kvs().first().map(|kv| unsigned(kv.mod_revision())),
        _ => return Err(headless()),
    };
    Err(match (found, txn.expected) {
        (None, _) => StoreError::Absent { key: key(), seen },
        (Some(_), Expected::Absent) => StoreError::Exists { key: key(), seen },
        (Some(current), _) => StoreError::Changed { key: key(), current, seen },
    })
}

/// Sorts an error of etcd: what the caller can act upon, and everything else.
fn failure(error: etcd_client::Error, requested: Revision) -> StoreError {
    if let etcd_client::Error::GRpcStatus(status) = &error {
        let message = status.message();
        if message.contains("required revision has been compacted") {
            return StoreError::Compacted { requested, oldest: Revision(0) };
        }
        if message.contains("request is too large") {
            return StoreError::TooLarge { size: 0 };
        }
        if message.contains("database space exceeded") {
            return StoreError::Full;
        }
        return StoreError::Unavailable(message.to_owned());
    }
    unavailable(error)
}

fn unavailable(error: etcd_client::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

fn headless() -> StoreError {
    StoreError::Unavailable("etcd's answer lacks a part".to_owned())
}

/// The first key after all keys with a prefix. The prefix ends in a slash, so there always is one.
fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn unsigned(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}
