//! A well-behaved client beside an abusive one: what its requests take while it is alone, and while somebody else sends all that a
//! server takes.
//!
//! There are two well-behaved ones: a user, whose requests have the abusive one's priority, and a service account, whose requests have
//! another. All have namespaces of their own. The abusive one is a process of its own and lets others go first
//! (`nice`), as a machine of its own would: what is measured is the server, not how two clients share a processor.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use super::connection::{Connection, Endpoint, JSON};
use super::fixture;
use super::load::{Load, Tally, Until};
use super::measure::{Better, Measure, Report, Unit};
use super::servers::{ACCOUNT, Running};

/// The abusive client's requests in flight: so many connections, with so many on each.
const CONNECTIONS: usize = 30;
const STREAMS: usize = 100;
/// The token of [`abuse`] is in this variable: arguments can be seen by everybody.
pub const TOKEN: &str = "BENCH_TOKEN";
/// A well-behaved client sends a request this often, of each kind in turn.
const PACE: Duration = Duration::from_millis(8);
/// An object that is there from the beginning, and the number of the first that is not.
const FIRST: &str = "settings-00000";
const NEW: u64 = 1_000_000;
const STEADY: &str = "bench-steady";
const OTHER: &str = "bench-account";
const GREEDY: &str = "bench-greedy";
/// An abusive client that has not sent anything by then does not work.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How much is sent before what is counted: connections, caches and queues are then as they stay.
const WARM_UP: Duration = Duration::from_secs(2);

/// How long, and on how many objects.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub time: Duration,
    /// Config maps in the abusive client's namespace, which it lists; the other has a hundredth of it.
    pub objects: u64,
}

impl Sizes {
    pub const FULL: Sizes = Sizes { time: Duration::from_secs(15), objects: 2_000 };
    pub const QUICK: Sizes = Sizes { time: Duration::from_secs(2), objects: 200 };
}

/// Latencies of a well-behaved client's kinds of requests.
struct Latencies {
    get: Tally,
    list: Tally,
    create: Tally,
}

/// Measures one server that was started for it.
pub async fn measure(name: &str, running: &Running, sizes: Sizes, say: impl Fn(&str)) -> anyhow::Result<Report> {
    prepare(&running.endpoint, sizes).await.context("the set-up")?;
    let user = running.endpoint.for_another(&running.tenants.steady)?;
    let account = running.endpoint.for_another(&running.tenants.account)?;
    let both = async |time| tokio::try_join!(client(&user, STEADY, time), client(&account, OTHER, time));
    say("alone");
    both(WARM_UP).await?;
    let alone = both(sizes.time).await?;
    say("beside an abusive client");
    let greedy = Greedy::start(&running.url, &running.tenants.greedy).await?;
    both(WARM_UP).await?;
    let beside = both(sizes.time).await?;
    let sent = greedy.stop().await?;
    say(&sent);
    let mut measures = Vec::new();
    for (who, keys, alone, beside) in [
        ("a user's get", ["user_get_alone", "user_get_beside", "user_get_ratio"], &alone.0.get, &beside.0.get),
        ("a user's list", ["user_list_alone", "user_list_beside", "user_list_ratio"], &alone.0.list, &beside.0.list),
        ("a user's create", ["user_create_alone", "user_create_beside", "user_create_ratio"], &alone.0.create, &beside.0.create),
        ("an account's get", ["account_get_alone", "account_get_beside", "account_get_ratio"], &alone.1.get, &beside.1.get),
        ("an account's list", ["account_list_alone", "account_list_beside", "account_list_ratio"], &alone.1.list, &beside.1.list),
        (
            "an account's create",
            ["account_create_alone", "account_create_beside", "account_create_ratio"],
            &alone.1.create,
            &beside.1.create,
        ),
    ] {
        for (key, when, tally) in [(keys[0], "alone", alone), (keys[1], "beside the abusive client", beside)] {
            let measure = Measure::milliseconds(key, format!("p99 of {who}, {when}"), tally.quantile_ms(0.99));
            measures.push(measure.with("p50", tally.quantile_ms(0.5)).with("done", tally.done));
        }
        let times = beside.quantile_ms(0.99) / alone.quantile_ms(0.99).max(f64::MIN_POSITIVE);
        measures.push(Measure::new(keys[2], "  in percent of alone", times * 100.0, Unit::Percent, Better::Lower));
    }
    Ok(Report { server: name.to_owned(), measures })
}

/// Namespaces, objects, and the right to everything there.
async fn prepare(endpoint: &Endpoint, sizes: Sizes) -> anyhow::Result<()> {
    let mut connection = endpoint.connect().await?;
    let few = sizes.objects / 100;
    for (namespace, user, objects) in [(STEADY, "steady", few), (OTHER, ACCOUNT, few), (GREEDY, "greedy", sizes.objects)] {
        fixture::namespace(&mut connection, namespace).await?;
        let binding = json!({
            "metadata": { "name": "everything" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
        });
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings");
        connection.create(&path, Bytes::from(binding.to_string())).await?;
        let load = Load { connections: 1, streams: 20, until: Until::Count(objects.max(1)) };
        load.run(endpoint, move |mut connection, number| async move {
            connection.create(&fixture::config_maps_path(namespace), fixture::config_map(number)).await.map(|_| ())
        })
        .await?;
    }
    Ok(())
}

/// A well-behaved client: one request at a time, at its pace; any failure is an error.
async fn client(endpoint: &Endpoint, namespace: &str, time: Duration) -> anyhow::Result<Latencies> {
    let mut connection = endpoint.connect().await?;
    let path = fixture::config_maps_path(namespace);
    let (mut kinds, started) = ([Vec::new(), Vec::new(), Vec::new()], Instant::now());
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0_u64.. {
        pace.tick().await;
        if started.elapsed() >= time {
            break;
        }
        let begun = Instant::now();
        let kind = match number % 3 {
            0 => connection.get_length(&format!("{path}/{FIRST}"), JSON).await.map(|_| 0)?,
            1 => connection.get_length(&path, JSON).await.map(|_| 1)?,
            _ => connection.create(&path, fixture::config_map(NEW + number)).await.map(|_| 2)?,
        };
        kinds[kind].push(begun.elapsed());
        if kind == 2 {
            // Its namespace stays as big as it is.
            let made = format!("{path}/settings-{}", NEW + number);
            let (status, body) = connection.exchange(Method::DELETE, &made, Bytes::new()).await?;
            ensure!(status.is_success(), "DELETE {made}: {status}: {}", String::from_utf8_lossy(&body));
        }
    }
    let elapsed = started.elapsed();
    let [get, list, create] = kinds.map(|latencies| Tally::of(latencies, elapsed));
    Ok(Latencies { get, list, create })
}

/// The process of the abusive client. It ends when its input does.
struct Greedy {
    child: Child,
    output: BufReader<tokio::process::ChildStdout>,
}

impl Greedy {
    async fn start(url: &str, token: &str) -> anyhow::Result<Greedy> {
        let program = std::env::current_exe().context("the path of this program")?;
        let mut child = Command::new("nice")
            .args(["-n", "19"])
            .arg(program)
            .args(["abuse", url])
            .env(TOKEN, token)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting the abusive client")?;
        let mut output = BufReader::new(child.stdout.take().context("its output")?);
        let mut line = String::new();
        tokio::time::timeout(START_TIMEOUT, output.read_line(&mut line)).await.context("the abusive client does not start")??;
        ensure!(!line.is_empty(), "the abusive client has ended");
        Ok(Greedy { child, output })
    }

    /// Ends it, and gives what it says of itself.
    async fn stop(mut self) -> anyhow::Result<String> {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.output.read_to_string(&mut said).await?;
        self.child.wait().await?;
        Ok(said.trim().to_owned())
    }
}

/// What became of the abusive client's requests.
#[derive(Default)]
struct Sent {
    served: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

/// The abusive client: thousands of requests in flight, whatever the server answers, until nobody holds its input.
pub async fn abuse(url: &str, token: &str, say: impl Fn(&str)) -> anyhow::Result<()> {
    let endpoint = Endpoint::new(url, token)?;
    let sent = Arc::new(Sent::default());
    for _ in 0..CONNECTIONS {
        tokio::spawn(keep_sending(endpoint.clone(), sent.clone()));
    }
    while sent.served.load(Ordering::Relaxed) + sent.refused.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    say("sending");
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    let [served, refused, failed] = [&sent.served, &sent.refused, &sent.failed].map(|count| count.load(Ordering::Relaxed));
    say(&format!("the abusive client was served {served} times, refused {refused} times, and failed {failed} times"));
    Ok(())
}

async fn keep_sending(endpoint: Endpoint, sent: Arc<Sent>) {
    loop {
        if let Ok(connection) = endpoint.connect().await {
            let streams = (0..STREAMS).map(|stream| stream_of(connection.clone(), stream, &sent));
            futures::future::join_all(streams).await;
        } else {
            sent.failed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// One request after the other, until the connection fails.
async fn stream_of(mut connection: Connection, stream: usize, sent: &Sent) {
    let path = fixture::config_maps_path(GREEDY);
    for number in stream.. {
        let exchanged = match number % 10 {
            0..2 => connection.exchange(Method::GET, &path, Bytes::new()).await,
            2..5 => connection.exchange(Method::POST, &path, Bytes::from_static(br#"{"metadata":{"generateName":"more-"}}"#)).await,
            _ => connection.exchange(Method::GET, &format!("{path}/{FIRST}"), Bytes::new()).await,
        };
        let count = match exchanged {
            Ok((status, _)) if status.is_success() => &sent.served,
            Ok(_) => &sent.refused,
            Err(_) => {
                sent.failed.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}
