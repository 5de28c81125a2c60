use client::events::Recorder;
use parking_lot::Mutex;
use serde_json::json;

use super::super::{Verdicts, metrics};
use super::*;
use crate::cri::fake::Fake;

struct Bench {
    worker: Worker,
    status: Arc<Mutex<Arc<ApiStatus>>>,
    news: Arc<Mutex<usize>>,
}

fn bench(kind: Kind, probe: serde_json::Value, status: serde_json::Value) -> Bench {
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "b", "uid": "c"},
        "spec": {"containers": [{"name": "x"}]}}))
    .expect("it is a pod");
    let status: ApiStatus = serde_json::from_value(status).expect("it is a status");
    let status = Arc::new(Mutex::new(Arc::new(status)));
    let news = Arc::new(Mutex::new(0));
    let (read, count) = (status.clone(), news.clone());
    let shared = Shared {
        runtime: Arc::new(Fake::default()),
        recorder: Recorder::recording().0,
        verdicts: Verdicts::default(),
        metrics: metrics::Results::default(),
        status_of: Box::new(move |_| Some(read.lock().clone())),
        on_news: Box::new(move |_| *count.lock() += 1),
        began: Timestamp::now(),
        workers: Mutex::default(),
    };
    let container = pod::containers(&pod)[0].clone();
    let probe = serde_json::from_value(probe).expect("it is a probe");
    Bench { worker: Worker { shared: Arc::new(shared), pod: Arc::new(pod), container, kind, probe }, status, news }
}

fn running(started: bool, seconds_ago: i64) -> serde_json::Value {
    let at = Timestamp::from_second(Timestamp::now().as_second() - seconds_ago).expect("it is a time");
    json!({"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"name": "x", "containerID": "containerd://1", "image": "",
        "imageID": "", "ready": false, "restartCount": 0, "started": started, "state": {"running": {"startedAt": at.to_string()}}}]})
}

#[test]
fn startup_comes_before_the_others() {
    for (kind, started, expected) in [
        (Kind::Startup, false, true),
        (Kind::Startup, true, false),
        (Kind::Liveness, false, false),
        (Kind::Liveness, true, true),
        (Kind::Readiness, true, true),
    ] {
        let bench = bench(kind, json!({}), running(started, 0));
        let next = bench.worker.next(&mut Memory::default());
        assert_eq!(matches!(next, Next::Probe { .. }), expected, "{kind:?} {started}");
    }
}

#[test]
fn a_verdict_takes_as_many_results_as_its_threshold() {
    let bench = bench(Kind::Liveness, json!({"failureThreshold": 2, "successThreshold": 1}), running(true, 0));
    let mut memory = Memory::default();
    bench.worker.next(&mut memory);
    let verdict = || bench.worker.shared.verdicts.liveness("1");
    bench.worker.judge(&mut memory, false);
    assert_eq!((verdict(), *bench.news.lock()), (Some(true), 0));
    bench.worker.judge(&mut memory, false);
    assert_eq!((verdict(), *bench.news.lock()), (Some(false), 1));
    assert_eq!(bench.worker.next(&mut memory), Next::Wait);
}

#[test]
fn a_new_container_is_judged_anew() {
    let bench = bench(Kind::Readiness, json!({}), running(true, 0));
    let mut memory = Memory::default();
    bench.worker.next(&mut memory);
    bench.worker.judge(&mut memory, true);
    assert_eq!(bench.worker.shared.verdicts.readiness("1"), Some(true));
    let mut status = running(true, 0);
    status["containerStatuses"][0]["containerID"] = json!("containerd://2");
    *bench.status.lock() = Arc::new(serde_json::from_value(status).expect("it is a status"));
    bench.worker.next(&mut memory);
    assert_eq!(bench.worker.shared.verdicts.readiness("1"), None);
    assert_eq!(bench.worker.shared.verdicts.readiness("2"), Some(false));
}

#[test]
fn what_was_ready_before_the_kubelet_started_stays_so_until_it_is_probed() {
    let mut status = running(true, 60);
    status["containerStatuses"][0]["ready"] = json!(true);
    let bench = bench(Kind::Readiness, json!({"initialDelaySeconds": 100}), status);
    assert!(matches!(bench.worker.next(&mut Memory::default()), Next::WaitFor(_)));
    assert_eq!(bench.worker.shared.verdicts.readiness("1"), Some(true));
}
