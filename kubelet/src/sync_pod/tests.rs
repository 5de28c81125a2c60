use serde_json::{Value, json};

use super::*;
use crate::cri::v1;
use crate::probes::Kind;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).expect("it is a pod")
}

fn sandbox(attempt: u32, ready: bool) -> v1::PodSandboxStatus {
    v1::PodSandboxStatus {
        id: format!("s{attempt}"),
        metadata: Some(v1::PodSandboxMetadata { attempt, ..Default::default() }),
        state: i32::from(!ready),
        network: Some(v1::PodSandboxNetworkStatus { ip: "10.0.0.1".to_owned(), ..Default::default() }),
        ..Default::default()
    }
}

fn container(name: &str, state: State, exit_code: i32) -> runtime_status::Container {
    runtime_status::Container {
        state,
        exit_code,
        sandbox_id: "s0".to_owned(),
        ..runtime_status::Container::named(&format!("id-{name}"), name)
    }
}

fn status(containers: Vec<runtime_status::Container>) -> PodStatus {
    PodStatus { sandboxes: vec![sandbox(0, true)], containers, ..PodStatus::default() }
}

fn planned(spec: Value, status: &PodStatus) -> Vec<Action> {
    plan(&pod(spec), status, Circumstances::default())
}

fn kill(name: &str, message: &str, reason: KillReason) -> Action {
    Action::Kill { id: format!("id-{name}"), name: name.to_owned(), message: message.to_owned(), reason }
}

#[test]
fn a_new_pod_gets_a_sandbox_and_then_its_containers() {
    let new = PodStatus::default();
    let create = Action::CreateSandbox { attempt: 0, changed: false };
    let main = json!({"restartPolicy": "Always", "containers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(planned(main, &new), [create.clone(), Action::Start(0), Action::Start(1)]);
    let init = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    assert_eq!(planned(init, &new), [create, Action::StartInit(0)]);
}

#[test]
fn a_pod_that_runs_is_left_alone() {
    let running = status(vec![container("a", State::Running, 0)]);
    assert_eq!(planned(json!({"containers": [{"name": "a"}]}), &running), []);
}

#[test]
fn a_container_that_ended_starts_again_as_its_policy_says() {
    for (policy, exit_code, expected) in
        [("Always", 0, vec![Action::Start(0)]), ("OnFailure", 1, vec![Action::Start(0)]), ("OnFailure", 0, vec![]), ("Never", 1, vec![])]
    {
        let spec = json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
        let known = status(vec![container("a", State::Exited, exit_code), container("b", State::Running, 0)]);
        assert_eq!(planned(spec, &known), expected, "{policy} {exit_code}");
    }
}

#[test]
fn a_pod_whose_containers_are_all_done_is_stopped() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}]});
    assert_eq!(planned(spec, &status(vec![container("a", State::Exited, 0)])), [Action::StopPod]);
}

#[test]
fn a_lost_sandbox_is_made_anew_unless_the_pod_has_run_its_course() {
    let mut lost = status(vec![container("a", State::Exited, 1)]);
    lost.sandboxes = vec![sandbox(0, false)];
    let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}]});
    let renew = vec![Action::StopPod, Action::CreateSandbox { attempt: 1, changed: true }, Action::Start(0)];
    assert_eq!(planned(spec("Always"), &lost), renew);
    assert_eq!(planned(spec("Never"), &lost), [Action::StopPod]);
    lost.containers[0].exit_code = 0;
    assert_eq!(planned(spec("OnFailure"), &lost), [Action::StopPod]);
}

#[test]
fn init_containers_run_one_after_another() {
    let spec = json!({"restartPolicy": "Always", "containers": [{"name": "a"}],
        "initContainers": [{"name": "i"}, {"name": "j"}]});
    let at = |containers| planned(spec.clone(), &status(containers));
    assert_eq!(at(vec![]), [Action::StartInit(0)]);
    assert_eq!(at(vec![container("i", State::Running, 0)]), []);
    assert_eq!(at(vec![container("i", State::Exited, 0)]), [Action::StartInit(1)]);
    assert_eq!(at(vec![container("i", State::Exited, 1)]), [Action::StartInit(0)]);
    assert_eq!(at(vec![container("j", State::Exited, 0), container("i", State::Exited, 0)]), [Action::Start(0)]);
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}], "initContainers": [{"name": "i"}]});
    assert_eq!(planned(spec, &status(vec![container("i", State::Exited, 1)])), [Action::StopPod]);
}

#[test]
fn a_sidecar_lets_the_next_one_start_and_is_kept_running() {
    let spec = json!({"restartPolicy": "Always", "containers": [{"name": "a"}],
        "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}]});
    let at = |containers| planned(spec.clone(), &status(containers));
    assert_eq!(at(vec![container("s", State::Running, 0)]), [Action::StartInit(1)]);
    let initialized = vec![container("s", State::Running, 0), container("i", State::Exited, 0)];
    assert_eq!(at(initialized), [Action::Start(0)]);
    let died = vec![container("s", State::Exited, 1), container("i", State::Exited, 0), container("a", State::Running, 0)];
    assert_eq!(at(died), [Action::StartInit(0)]);
}

#[test]
fn a_sidecar_is_waited_for_if_it_has_a_startup_probe() {
    let pod = pod(json!({"restartPolicy": "Always", "containers": [{"name": "a"}],
        "initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {}}]}));
    let known = status(vec![container("s", State::Running, 0)]);
    let verdicts = Verdicts::default();
    let at = |verdict: Option<bool>| {
        verdicts.set("id-s", Kind::Startup, verdict);
        plan(&pod, &known, Circumstances { verdicts: Some(&verdicts), ..Circumstances::default() })
    };
    assert_eq!(at(None), []);
    assert_eq!(at(Some(true)), [Action::Start(0)]);
    let failed = kill("s", "Init container s failed startup probe", KillReason::StartupProbe);
    assert_eq!(at(Some(false)), [failed, Action::StartInit(0)]);
}

#[test]
fn probes_that_fail_have_their_container_killed() {
    let known = status(vec![container("a", State::Running, 0), container("b", State::Running, 0)]);
    let verdicts = Verdicts::default();
    verdicts.set("id-a", Kind::Liveness, Some(false));
    for (policy, message, restart) in
        [("Always", "Container a failed liveness probe, will be restarted", true), ("Never", "Container a failed liveness probe", false)]
    {
        let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}));
        let mut expected = vec![kill("a", message, KillReason::LivenessProbe)];
        expected.extend(restart.then_some(Action::Start(0)));
        assert_eq!(plan(&pod, &known, Circumstances { verdicts: Some(&verdicts), ..Circumstances::default() }), expected);
    }
}

#[test]
fn another_image_means_another_container() {
    let mut known = status(vec![container("a", State::Running, 0)]);
    known.containers[0].hash = Some(1);
    let actions = planned(json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}), &known);
    let message = "Container a definition changed, will be restarted";
    assert_eq!(actions, [kill("a", message, KillReason::Other), Action::Start(0)]);
}

#[test]
fn an_ephemeral_container_is_started_once() {
    let spec = json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "e"}]});
    let running = || container("a", State::Running, 0);
    assert_eq!(planned(spec.clone(), &status(vec![running()])), [Action::StartEphemeral(0)]);
    assert_eq!(planned(spec, &status(vec![running(), container("e", State::Exited, 1)])), []);
}

#[test]
fn all_are_reset_those_that_asked_for_it_last() {
    let pod = pod(json!({"containers": [{"name": "a", "restartPolicy": "Never", "restartPolicyRules":
        [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [7]}}]}, {"name": "b"}]}));
    let known = status(vec![container("a", State::Exited, 7), container("b", State::Running, 0)]);
    let reset = |name: &str, kill| Action::Reset { id: format!("id-{name}"), name: name.to_owned(), kill };
    let actions = plan(&pod, &known, Circumstances { restart_all: true, ..Circumstances::default() });
    assert_eq!(actions, [reset("b", true), reset("a", false)]);
}

#[test]
fn earlier_tries_of_init_containers_are_removed() {
    let spec = json!({"restartPolicy": "Always", "containers": [{"name": "a"}], "initContainers": [{"name": "i"}]});
    let mut older = container("i", State::Exited, 1);
    older.id = "older".to_owned();
    let known = status(vec![container("i", State::Exited, 1), older]);
    assert_eq!(planned(spec, &known), [Action::Remove { id: "older".to_owned() }, Action::StartInit(0)]);
}

#[test]
fn a_resize_updates_or_restarts_as_the_policy_says() {
    let known = status(vec![container("a", State::Running, 0)]);
    let spec = |cpu: &str, policy: &str| {
        pod(json!({"restartPolicy": "Always", "containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]}]}))
    };
    let before = spec("1", "").spec.expect("it has one").containers.remove(0).resources.expect("it has some");
    let actuated = Actuated::from([("a".to_owned(), before)]);
    let at = |pod: &Pod| plan(pod, &known, Circumstances { actuated: Some(&actuated), ..Circumstances::default() });
    assert_eq!(at(&spec("1", "NotRequired")), []);
    assert_eq!(at(&spec("2", "NotRequired")), [Action::Resize { id: "id-a".to_owned(), name: "a".to_owned() }]);
    let restart = kill("a", "Container a resize requires restart", KillReason::Other);
    assert_eq!(at(&spec("2", "RestartContainer")), [restart, Action::Start(0)]);
}
