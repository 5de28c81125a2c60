use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::cri::v1;
use crate::probes::Kind;
use crate::runtime_status::{Container, State};

struct Scene {
    pod: Pod,
    observed: PodStatus,
    told: ApiStatus,
    waiting: HashMap<String, Waiting>,
    verdicts: Verdicts,
    terminal: bool,
    failure: Option<Failure>,
}

fn scene(spec: Value) -> Scene {
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 2}, "spec": spec});
    Scene {
        pod: serde_json::from_value(pod).expect("it is a pod"),
        observed: PodStatus { sandboxes: vec![ready_sandbox()], ips: vec!["10.0.0.1".to_owned()], ..PodStatus::default() },
        told: ApiStatus::default(),
        waiting: HashMap::new(),
        verdicts: Verdicts::default(),
        terminal: false,
        failure: None,
    }
}

fn ready_sandbox() -> v1::PodSandboxStatus {
    v1::PodSandboxStatus {
        id: "s".to_owned(),
        network: Some(v1::PodSandboxNetworkStatus { ip: "10.0.0.1".to_owned(), ..Default::default() }),
        ..Default::default()
    }
}

impl Scene {
    fn with(mut self, name: &str, state: State, exit_code: i32) -> Scene {
        let at = |seconds| Timestamp::from_second(seconds).expect("it is a time");
        let container = Container {
            state,
            exit_code,
            sandbox_id: "s".to_owned(),
            started_at: Some(at(1)),
            finished_at: (state == State::Exited).then(|| at(2)),
            ..Container::named(&format!("id-{name}"), name)
        };
        self.observed.containers.push(container);
        self
    }

    fn status(&self) -> ApiStatus {
        generate(
            &self.pod,
            Inputs {
                observed: &self.observed,
                told: &self.told,
                runtime: "containerd",
                host_ips: &["192.168.0.1".parse().expect("it is an address")],
                waiting: &self.waiting,
                verdicts: &self.verdicts,
                terminal: self.terminal,
                failure: self.failure.as_ref(),
                recursive_read_only: false,
                actuated: &HashMap::new(),
                resize: &[],
            },
        )
    }

    fn phase(&self) -> String {
        self.status().phase.expect("it has one")
    }
}

fn condition(status: &ApiStatus, name: &str) -> (String, Option<String>, Option<String>) {
    let found = status.conditions.iter().flatten().find(|condition| condition.type_ == name).expect("it is told");
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

fn yes() -> (String, Option<String>, Option<String>) {
    ("True".to_owned(), None, None)
}

#[test]
fn a_pod_that_has_just_come_waits_for_everything() {
    let mut scene = scene(json!({"containers": [{"name": "a", "image": "i"}]}));
    scene.observed = PodStatus::default();
    let status = scene.status();
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let no = |reason: &str, message: &str| ("False".to_owned(), Some(reason.to_owned()), Some(message.to_owned()));
    assert_eq!(condition(&status, "PodReadyToStartContainers"), no("PodSandboxNotReady", "no pod sandbox exists"));
    assert_eq!(condition(&status, "Initialized"), yes());
    assert_eq!(condition(&status, "Ready"), no("ContainersNotReady", "containers with unready status: [a]"));
    assert_eq!(condition(&status, "PodScheduled"), yes());
    let container = &status.container_statuses.expect("there is one")[0];
    let state = container.state.as_ref().and_then(|state| state.waiting.as_ref()).expect("it waits");
    assert_eq!((state.reason.as_deref(), container.started, container.image.as_str()), (Some("ContainerCreating"), Some(false), "i"));
    assert_eq!((status.host_ip.as_deref(), status.pod_ip), (Some("192.168.0.1"), None));
}

#[test]
fn a_pod_that_runs_says_where_and_since_when() {
    let status = scene(json!({"containers": [{"name": "a", "image": "i"}]})).with("a", State::Running, 0).status();
    assert_eq!((status.phase.as_deref(), status.pod_ip.as_deref()), (Some("Running"), Some("10.0.0.1")));
    for name in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&status, name), yes(), "{name}");
    }
    let conditions = status.conditions.as_ref().expect("there are some");
    assert!(conditions.iter().all(|condition| condition.observed_generation == Some(2)));
    let container = &status.container_statuses.expect("there is one")[0];
    assert_eq!((container.container_id.as_deref(), container.ready), (Some("containerd://id-a"), true));
}

#[test]
fn the_phase_follows_containers_and_policy() {
    use State::{Exited, Running};
    let main = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
    for (policy, a, b, expected) in [
        ("Always", (Running, 0), (Exited, 1), "Running"),
        ("Always", (Exited, 0), (Exited, 0), "Running"),
        ("OnFailure", (Exited, 0), (Exited, 0), "Succeeded"),
        ("OnFailure", (Exited, 0), (Exited, 1), "Running"),
        ("Never", (Exited, 0), (Exited, 1), "Failed"),
        ("Never", (Exited, 0), (Exited, 0), "Succeeded"),
        ("Never", (Exited, 0), (Running, 0), "Running"),
    ] {
        let scene = scene(main(policy)).with("a", a.0, a.1).with("b", b.0, b.1);
        assert_eq!(scene.phase(), expected, "{policy} {a:?} {b:?}");
    }
    let mut stopped = scene(main("Always")).with("a", Exited, 143).with("b", Exited, 0);
    stopped.terminal = true;
    assert_eq!(stopped.phase(), "Failed");
}

#[test]
fn a_failed_init_container_fails_the_pod_that_never_restarts() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}], "initContainers": [{"name": "i"}]});
    assert_eq!(scene(spec("Never")).with("i", State::Exited, 1).phase(), "Failed");
    let again = scene(spec("Always")).with("i", State::Exited, 1);
    assert_eq!(again.phase(), "Pending");
    let status = again.status();
    let waiting = status.container_statuses.as_ref().and_then(|all| all[0].state.clone()).and_then(|state| state.waiting);
    assert_eq!(waiting.and_then(|waiting| waiting.reason).as_deref(), Some("PodInitializing"));
    let expected = Some("containers with incomplete status: [i]".to_owned());
    assert_eq!(condition(&status, "Initialized").2, expected);
}

#[test]
fn a_container_that_waits_says_why_and_how_it_ended_last() {
    let mut scene = scene(json!({"restartPolicy": "Always", "containers": [{"name": "a"}]})).with("a", State::Exited, 1);
    scene.waiting.insert("a".to_owned(), Waiting { reason: "CrashLoopBackOff".to_owned(), message: "m".to_owned() });
    let container = scene.status().container_statuses.expect("there is one").remove(0);
    let state = container.state.and_then(|state| state.waiting).expect("it waits");
    assert_eq!((state.reason.as_deref(), state.message.as_deref()), (Some("CrashLoopBackOff"), Some("m")));
    let last = container.last_state.and_then(|state| state.terminated).expect("it has ended");
    assert_eq!(last.exit_code, 1);
}

#[test]
fn probes_decide_readiness() {
    let spec = json!({"containers": [{"name": "a", "readinessProbe": {}, "startupProbe": {}}]});
    let scene = scene(spec).with("a", State::Running, 0);
    let judged = || {
        let container = scene.status().container_statuses.expect("there is one").remove(0);
        (container.started, container.ready)
    };
    scene.verdicts.set("id-a", Kind::Readiness, Some(true));
    assert_eq!(judged(), (Some(false), false));
    scene.verdicts.set("id-a", Kind::Startup, Some(true));
    assert_eq!(judged(), (Some(true), true));
    scene.verdicts.set("id-a", Kind::Readiness, Some(false));
    assert_eq!(judged(), (Some(true), false));
}

#[test]
fn readiness_gates_hold_a_pod_back() {
    let spec = json!({"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "x/y"}]});
    let mut scene = scene(spec).with("a", State::Running, 0);
    let message = "corresponding condition of pod readiness gate \"x/y\" does not exist.";
    let ready = condition(&scene.status(), "Ready");
    assert_eq!((ready.1.as_deref(), ready.2.as_deref()), (Some("ReadinessGatesNotReady"), Some(message)));
    let told = json!({"conditions": [{"type": "x/y", "status": "True"}]});
    scene.pod.status = Some(serde_json::from_value(told).expect("it is a status"));
    assert_eq!(condition(&scene.status(), "Ready"), yes());
}

#[test]
fn an_eviction_is_told_with_its_reason_and_a_final_phase_stays() {
    let mut scene = scene(json!({"containers": [{"name": "a"}]})).with("a", State::Running, 0);
    scene.failure =
        Some(Failure { reason: "Evicted".to_owned(), message: "m".to_owned(), disrupted: Some("m".to_owned()), unless_succeeded: false });
    let status = scene.status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    assert_eq!(condition(&status, "DisruptionTarget").1.as_deref(), Some("TerminationByKubelet"));
    scene.failure = None;
    scene.told = status;
    let status = scene.status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
}

#[test]
fn a_rejected_pod_says_so() {
    let scene = scene(json!({"containers": []}));
    let status = rejected(&scene.pod, "OutOfcpu", "no room", &[]);
    assert_eq!((status.phase.as_deref(), status.message.as_deref()), (Some("Failed"), Some("Pod was rejected: no room")));
}

#[test]
fn a_transition_keeps_its_time_until_the_next() {
    let at = |seconds| Timestamp::from_second(seconds).expect("it is a time");
    let scene = scene(json!({"containers": [{"name": "a"}]}));
    let first = with_transition_times(scene.status(), &ApiStatus::default(), at(1));
    let scene = scene.with("a", State::Running, 0);
    let second = with_transition_times(scene.status(), &first, at(2));
    let time = |name: &str| {
        let all = second.conditions.iter().flatten();
        all.into_iter().find(|c| c.type_ == name).and_then(|c| c.last_transition_time.clone()).map(|time| time.0)
    };
    assert_eq!((time("PodScheduled"), time("Ready")), (Some(at(1)), Some(at(2))));
}
