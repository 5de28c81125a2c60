//! A set of policies and webhooks, through kubectl: `transcript.txt` has the commands, and what kubectl and the audit log said of them
//! when kube-apiserver v1.37.2 was asked. `manifests` are the files that they name.
//!
//! With `FERROKUBE_RECORD_KUBECONFIG` and `FERROKUBE_RECORD_AUDIT_LOG` the transcript is written anew, of that server; it is to be empty
//! but for what a server makes, and to tell its log, in blocking mode, what [`AUDIT_POLICY`] wants.

mod hooks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::kubectl::Kubectl;
use crate::kubectl::transcript::{self, Entry, Line};
use crate::process::Cluster;
use crate::webhook_server::Serving;

/// What is told of requests: all that admission writes to the log.
const AUDIT_POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Request
  namespaces: [shop, lab]
  verbs: [create, update, patch, delete]
- level: None
"#;
/// How long a recorded server may take to put policies and webhooks in force.
const IN_FORCE: Duration = Duration::from_secs(6);
/// A loaded machine is slow to write its log.
const TIMEOUT: Duration = Duration::from_secs(30);
/// As many commands are on record at least.
const COMMANDS: usize = 45;

/// A server under test.
struct Subject<'a> {
    kubectl: Kubectl,
    audit_log: &'a Path,
    /// Bytes of the log that have been looked at.
    read: usize,
    normal: Normal,
}

/// What differs from run to run, and what stands for it.
struct Normal(Vec<(String, &'static str)>);

impl Normal {
    fn text(&self, text: &str) -> String {
        let text = self.0.iter().fold(text.to_owned(), |text, (found, name)| text.replace(found, name));
        transcript::without_uids(&text)
    }
}

/// Upstream asks policies in no order: those that failed are told by their names.
fn in_order(key: &str, value: &str) -> String {
    if key != "validation.policy.admission.k8s.io/validation_failure" {
        return value.to_owned();
    }
    let mut failures: Vec<Value> = serde_json::from_str(value).expect("failures");
    failures.sort_by_key(|failure| failure["policy"].to_string());
    Value::from(failures).to_string()
}

/// The manifests with the place and the authorities of the webhooks in them.
fn manifests(into: &Path, serving: &Serving) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/policing/manifests");
    let stranger = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "a stranger");
    let other = parameters.self_signed(&stranger).expect("a certificate").pem();
    for file in std::fs::read_dir(folder).expect("manifests") {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let text = text
            .replace("OTHERCA", &STANDARD.encode(&other))
            .replace("caBundle: CA", &format!("caBundle: {}", STANDARD.encode(&serving.ca)));
        let text = text.replace("PORT", &serving.port.to_string());
        std::fs::write(into.join(path.file_name().expect("a name")), text).expect("a file");
    }
}

impl Subject<'_> {
    /// Does what a line says, and tells what came of it.
    async fn perform(&mut self, command: &str) -> Entry {
        let words = transcript::words(command);
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(words.remove(0), "kubectl", "{command}");
        // Administrators have other names elsewhere, and policies tell them.
        words.extend(["--as=ann", "--as-group=system:masters"]);
        let output = tokio::task::block_in_place(|| self.kubectl.output(&words));
        let lines = |bytes: &[u8]| self.normal.text(&String::from_utf8_lossy(bytes)).lines().map(str::to_owned).collect();
        let (said, complained) = (lines(&output.stdout), lines(&output.stderr));
        let code = output.status.code().expect("it ends by itself");
        Entry { said, complained, code, audited: self.audited().await }
    }

    /// What the log has of the requests since the last look, once it has the end of each.
    async fn audited(&mut self) -> Vec<String> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let text = std::fs::read_to_string(self.audit_log).unwrap_or_default();
            let new = &text[self.read..];
            let events: Vec<Value> = new.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let of_stage = |stage: &str| events.iter().filter(|event| event["stage"] == stage).count();
            let is_whole = new.is_empty() || new.ends_with('\n');
            if is_whole && of_stage("RequestReceived") == of_stage("ResponseComplete") {
                self.read = text.len();
                return events.iter().filter(|event| event["stage"] == "ResponseComplete").flat_map(|event| self.told(event)).collect();
            }
            assert!(Instant::now() < deadline, "the log does not tell the end of what it has begun: {new}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A request, and the annotations that admission made.
    fn told(&self, event: &Value) -> Vec<String> {
        let of = |name: &str| event["objectRef"][name].as_str().unwrap_or("");
        let subresource = if of("subresource").is_empty() { String::new() } else { format!("/{}", of("subresource")) };
        let code = &event["responseStatus"]["code"];
        let verb = event["verb"].as_str().unwrap_or("");
        let request = format!("{verb} {}{subresource} {}/{} {code}", of("resource"), of("namespace"), of("name"));
        let annotations: BTreeMap<String, String> = serde_json::from_value(event["annotations"].clone()).unwrap_or_default();
        // Who was let in and how long it took is not admission's.
        let others = ["authorization.k8s.io/", "apiserver.latency.k8s.io/"];
        let annotations = annotations.iter().filter(|(key, _)| !others.iter().any(|other| key.starts_with(other)));
        let annotations = annotations.map(|(key, value)| format!("  {key}: {}", self.normal.text(&in_order(key, value))));
        std::iter::once(request).chain(annotations).collect()
    }
}

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/policing/transcript.txt")
}

/// Goes through the transcript; what each command came to.
async fn play(lines: &[Line], kubeconfig: &Path, audit_log: &Path, in_force: Duration) -> Vec<Line> {
    let directory = tempfile::tempdir().expect("a directory");
    let serving = hooks::serve().await;
    manifests(directory.path(), &serving);
    let normal = Normal(vec![(serving.port.to_string(), "PORT")]);
    let kubectl = Kubectl::new(kubeconfig, directory.path());
    let mut subject = Subject { kubectl, audit_log, read: std::fs::read_to_string(audit_log).unwrap_or_default().len(), normal };
    let mut played = Vec::new();
    for line in lines {
        played.push(match line {
            Line::Command(command, _) => Line::Command(command.clone(), subject.perform(command).await),
            Line::InForce => {
                tokio::time::sleep(in_force).await;
                Line::InForce
            }
            Line::Text(text) => Line::Text(text.clone()),
        });
    }
    played
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kubectl"]
async fn kubectl_and_the_audit_log_say_of_policies_and_webhooks_what_they_say_of_upstreams() {
    let lines = transcript::read(&std::fs::read_to_string(recorded()).expect("a transcript"));
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    if let (Some(kubeconfig), Some(log)) = (variable("FERROKUBE_RECORD_KUBECONFIG"), variable("FERROKUBE_RECORD_AUDIT_LOG")) {
        let played = play(&lines, &kubeconfig, &log, IN_FORCE).await;
        std::fs::write(recorded(), transcript::write(&played)).expect("a file");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (policy, log) = (directory.path().join("policy.yaml"), directory.path().join("audit.log"));
    std::fs::write(&policy, AUDIT_POLICY).expect("a file");
    let flags = [format!("--audit-policy-file={}", policy.display()), format!("--audit-log-path={}", log.display())];
    // As the reference ran, which had no controllers either. What is written is in force at once.
    let cluster = Cluster::api_server_with(&directory.path().join("data"), &[&flags[0], &flags[1]]);
    let played = play(&lines, cluster.kubeconfig(), &log, Duration::ZERO).await;
    assert!(played.iter().filter(|line| matches!(line, Line::Command(..))).count() >= COMMANDS);
    let differing = transcript::differences(&lines, &played);
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
