//! Each resource through kubectl, with all that people do to objects: `transcript.txt` has the commands, and what kubectl v1.37.2 said of
//! them when kube-apiserver v1.37.2 was asked.
//!
//! With `FERROKUBE_RECORD_KUBECONFIG` the transcript is written anew, of that server, which is to have no controllers and no objects but
//! its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use futures::StreamExt;
use regex::Regex;
use serde_json::{Value, json};

use crate::codecs::{Sample, samples};
use crate::kubectl::Kubectl;
use crate::kubectl::transcript::{self, Entry, Line};
use crate::process::Cluster;

/// Adds an annotation, as somebody with an editor would.
const EDITOR: &str = "#!/bin/sh\nsed -i 's/^metadata:$/metadata:\\n  annotations:\\n    edited: \"1\"/' \"$1\"\n";
/// Resources that are gone through side by side. Each is a process of its own, and the server has the other processor.
const AT_ONCE: usize = 2;
/// Lines of an output that the transcript has; of a longer one it has the digest.
const MAX_LINES: usize = 150;

/// What else than uids differs from run to run, and what stands for it, in this order.
static DIFFERENT: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"20[2-9]\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| [+-]\d{4})?", "TIME"),
        (r"\w{3}, +\d+ \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "TIME"),
        (r#"(resourceVersion"?: "?)\d+"#, "${1}REVISION"),
        (r"(Resource Version: +)\d+", "${1}REVISION"),
        (r"\b\d+(ms|s|m\d+s|m)\b", "AGE"),
        // Of what samples say happened years ago.
        (r"\b\d+y(\d+d)?\b", "AGE"),
        (r"\S*/(LIVE|MERGED)-\d+/", "$1/"),
        (r"\b10\.96\.\d+\.\d+\b", "SERVICE-IP"),
        // Of a key that a test makes.
        (r"[A-Za-z0-9+/=]{60,}", "BASE64"),
        (r" +", " "),
    ]
    .into_iter()
    .map(|(found, name)| (Regex::new(found).expect("an expression"), name))
    .collect()
});

fn normal(text: &str) -> String {
    DIFFERENT.iter().fold(transcript::without_uids(text), |text, (found, name)| found.replace_all(&text, *name).into_owned())
}

fn lines(bytes: &[u8]) -> Vec<String> {
    normal(&String::from_utf8_lossy(bytes)).lines().map(|line| line.trim_end().to_owned()).collect()
}

/// What stands for the lines in the transcript.
fn short(lines: Vec<String>) -> Vec<String> {
    if lines.len() <= MAX_LINES {
        return lines;
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, lines.join("\n").as_bytes());
    vec![format!("({} lines, SHA-256 {})", lines.len(), digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())]
}

/// A resource with an object of it.
struct Kind {
    /// `deployments.v1.apps`
    resource: String,
    name: String,
    object: Value,
}

impl Kind {
    fn of(sample: &Sample) -> Kind {
        let text = sample.object.to_string().replace("NAME", "one").replace("ADDRESS", "1");
        let object: Value = serde_json::from_str(&text).expect("JSON as it was");
        let plural = sample.path.rsplit('/').next().unwrap_or_default();
        let resource = match object["apiVersion"].as_str().and_then(|version| version.split_once('/')) {
            Some((group, version)) => format!("{plural}.{version}.{group}"),
            None => plural.to_owned(),
        };
        let mut kind = Kind { resource, name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(), object };
        if let Some((namespace, _)) = sample.path.split_once("/namespaces/").and_then(|(_, rest)| rest.split_once('/')) {
            kind.object["metadata"]["namespace"] = namespace.into();
        }
        kind
    }

    fn file(&self, of: &str) -> String {
        format!("{}-{of}.json", self.resource)
    }

    /// The object as it is created, and as it is wanted later.
    fn write(&self, into: &Path) {
        let mut wanted = self.object.clone();
        wanted["metadata"]["labels"] = json!({ "wanted": "yes" });
        for (of, object) in [("first", &self.object), ("wanted", &wanted)] {
            std::fs::write(into.join(self.file(of)), object.to_string()).expect("a file");
        }
    }

    fn commands(&self) -> Vec<String> {
        let (first, wanted) = (self.file("first"), self.file("wanted"));
        let namespace = self.object["metadata"]["namespace"].as_str().map_or_else(String::new, |namespace| format!(" -n {namespace}"));
        let on = |verb: &str, rest: &str| format!("kubectl {verb} {} {}{namespace}{rest}", self.resource, self.name);
        let patch = |kind: &str, patch: &str| on("patch", &format!(" --type {kind} -p '{patch}'"));
        vec![
            format!("kubectl create -f {first}"),
            on("get", ""),
            on("get", " -o wide --show-labels --show-kind"),
            on("get", " -o yaml"),
            on("get", " -o 'jsonpath={.kind} {.metadata.name}'"),
            on("describe", ""),
            format!("kubectl apply -f {first}"),
            on("edit", ""),
            patch("strategic", r#"{"metadata":{"annotations":{"strategic":"1"}}}"#),
            patch("merge", r#"{"metadata":{"annotations":{"merge":"1"}}}"#),
            patch("json", r#"[{"op":"add","path":"/metadata/annotations/json","value":"1"}]"#),
            on("label", " labelled=yes"),
            on("annotate", " annotated=yes"),
            format!("kubectl diff -f {wanted}"),
            format!("kubectl apply -f {wanted}"),
            format!("kubectl apply --server-side --force-conflicts -f {wanted}"),
            on("wait", &format!(" --for 'jsonpath={{.metadata.name}}={}' --timeout 5s", self.name)),
            on("get", " -o yaml --show-managed-fields"),
            on("get", " -w --request-timeout 1s"),
            format!(
                "kubectl explain {} --api-version {} --recursive",
                self.resource.split('.').next().unwrap_or_default(),
                self.api_version()
            ),
            on("delete", " --wait=false"),
        ]
    }

    fn api_version(&self) -> &str {
        self.object["apiVersion"].as_str().unwrap_or_default()
    }
}

fn perform(kubectl: &Kubectl, command: &str) -> Entry {
    let words = transcript::words(command);
    // Administrators have other names elsewhere.
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).chain(["--as=ann", "--as-group=system:masters"]).collect();
    let output = kubectl.output(&words);
    let code = output.status.code().expect("it ends by itself");
    let mut said = lines(&output.stdout);
    if command.contains("--show-managed-fields") {
        // Upstream has entries of the same second in no order.
        said.sort();
    }
    Entry { said: short(said), complained: short(lines(&output.stderr)), code, audited: Vec::new() }
}

async fn play(kubeconfig: &Path) -> Vec<Line> {
    let home = tempfile::tempdir().expect("a directory");
    let editor = home.path().join("editor");
    std::fs::write(&editor, EDITOR).expect("a file");
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).expect("a program");
    let kubectl = Kubectl::new(kubeconfig, home.path());
    // Nobody else makes it, and pods need one.
    kubectl.output(&["create", "serviceaccount", "default"]);
    let kinds: Vec<Kind> = samples().iter().filter(|sample| !sample.only_posted).map(Kind::of).collect();
    kinds.iter().for_each(|kind| kind.write(home.path()));
    let general = ["kubectl api-resources -o wide --sort-by name", "kubectl api-versions", "kubectl get namespaces"];
    let mut played: Vec<Line> = general.iter().map(|command| Line::Command((*command).to_owned(), perform(&kubectl, command))).collect();
    let each = kinds.iter().map(|kind| {
        let (kubectl, commands) = (kubectl.clone(), kind.commands());
        async move {
            let through = move || commands.into_iter().map(|command| (perform(&kubectl, &command), command)).collect::<Vec<_>>();
            tokio::task::spawn_blocking(through).await.expect("it goes through")
        }
    });
    let all: Vec<_> = futures::stream::iter(each).buffered(AT_ONCE).collect().await;
    for (kind, done) in kinds.iter().zip(all) {
        played.push(Line::Text(format!("\n# {} {}", kind.object["kind"].as_str().unwrap_or_default(), kind.api_version())));
        played.extend(done.into_iter().map(|(entry, command)| Line::Command(command, entry)));
    }
    played
}

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/kinds/transcript.txt")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kubectl"]
async fn kubectl_says_of_each_resource_what_it_says_of_upstreams() {
    if let Some(kubeconfig) = std::env::var_os("FERROKUBE_RECORD_KUBECONFIG") {
        std::fs::write(recorded(), transcript::write(&play(Path::new(&kubeconfig)).await)).expect("a file");
        return;
    }
    let lines = transcript::read(&std::fs::read_to_string(recorded()).expect("a transcript"));
    let commands = |lines: &[Line]| lines.iter().filter(|line| matches!(line, Line::Command(..))).cloned().collect::<Vec<_>>();
    let directory = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::api_server(directory.path());
    let (expected, played) = (commands(&lines), commands(&play(cluster.kubeconfig()).await));
    assert_eq!(expected.len(), played.len(), "the transcript is of other commands");
    let differing = transcript::differences(&expected, &played);
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
