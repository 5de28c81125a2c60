//! How long admission took: a phase of it as a whole, each plugin, and each webhook; and what webhooks said.
//!
//! A chain keeps the times of its plugins. Webhooks are few calls over a network, and their names come from users: they are looked up, in
//! families that have room for so many.

use std::time::{Duration, Instant};

use apimachinery::metrics::{Buckets, Counter, Family, Histogram, Series, Told, counters, head, histograms, render};

use crate::admission::Operation;

const DURATIONS: Buckets = Buckets::Listed(&[0.005, 0.025, 0.1, 0.5, 1.0, 2.5]);
const WEBHOOK_DURATIONS: Buckets = Buckets::Listed(&[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0]);
/// Codes above are told as this one.
const MAX_CODE: u16 = 600;

const CREATE: u8 = 1;
const UPDATE: u8 = 1 << 1;
const DELETE: u8 = 1 << 2;
const CONNECT: u8 = 1 << 3;
const WRITES: u8 = CREATE | UPDATE;
const ALL: u8 = WRITES | DELETE | CONNECT;

/// What upstream's plugins take part in, which is what they are timed at: operations, whether they may change what is written, and
/// whether they are asked once nobody does any more. Plugins that are not here are timed at everything.
#[rustfmt::skip]
const PARTS: [(&str, u8, bool, bool); 37] = [
    ("AlwaysPullImages", WRITES, true, true),
    ("CertificateApproval", UPDATE, false, true),
    ("CertificateSigning", UPDATE, false, true),
    ("CertificateSubjectRestriction", CREATE, false, true),
    ("ClusterTrustBundleAttest", WRITES, false, true),
    ("DefaultIngressClass", CREATE, true, false),
    ("DefaultStorageClass", CREATE, true, false),
    ("DefaultTolerationSeconds", WRITES, true, false),
    ("DenyServiceExternalIPs", WRITES, false, true),
    ("EventRateLimit", WRITES, false, true),
    ("ExtendedResourceToleration", WRITES, true, false),
    ("ImagePolicyWebhook", WRITES, false, true),
    ("LimitPodHardAntiAffinityTopology", WRITES, false, true),
    ("LimitRanger", WRITES, true, true),
    ("MutatingAdmissionPolicy", WRITES | CONNECT, true, false),
    // Here it is asked about deletions when nothing is changed any more.
    ("MutatingAdmissionWebhook", ALL, true, true),
    ("NamespaceAutoProvision", CREATE, true, false),
    ("NamespaceExists", WRITES | DELETE, false, true),
    ("NamespaceLifecycle", WRITES | DELETE, true, false),
    ("NodeDeclaredFeatureValidator", WRITES, false, true),
    ("NodeRestriction", WRITES | DELETE, true, false),
    ("OwnerReferencesPermissionEnforcement", WRITES, false, true),
    ("PersistentVolumeClaimResize", UPDATE, false, true),
    ("PodGroupProtection", CREATE, true, false),
    ("PodNodeSelector", CREATE, true, true),
    ("PodResizeValidator", UPDATE, false, true),
    ("PodSecurity", WRITES, false, true),
    ("PodTolerationRestriction", WRITES, true, true),
    ("PodTopologyLabels", CREATE, true, false),
    ("Priority", WRITES | DELETE, true, true),
    ("ResourceQuota", WRITES, false, true),
    ("RuntimeClass", CREATE, true, true),
    ("ServiceAccount", WRITES, true, true),
    ("StorageObjectInUseProtection", CREATE, true, false),
    ("TaintNodesByCondition", CREATE, true, false),
    ("ValidatingAdmissionPolicy", ALL, false, true),
    ("ValidatingAdmissionWebhook", ALL, false, true),
];

/// A phase of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Admit,
    Validate,
}

impl Phase {
    const ALL: [Phase; 2] = [Phase::Admit, Phase::Validate];

    fn as_str(self) -> &'static str {
        match self {
            Phase::Admit => "admit",
            Phase::Validate => "validate",
        }
    }
}

const OPERATIONS: [Operation; 4] = [Operation::Create, Operation::Update, Operation::Delete, Operation::Connect];

/// Times by phase, by operation, and by whether the write was refused.
struct Times([[[Histogram; 2]; 4]; 2]);

impl Times {
    fn new() -> Times {
        let histogram = |_| Histogram::of(DURATIONS);
        Times(std::array::from_fn(|_| std::array::from_fn(|_| std::array::from_fn(histogram))))
    }

    fn took(&self, phase: Phase, operation: Operation, is_refused: bool, time: Duration) {
        self.0[phase as usize][operation as usize][usize::from(is_refused)].observe_time(time);
    }

    fn write(&self, out: &mut String, name: &str, first: &str) {
        for (phase, operation) in Phase::ALL.iter().flat_map(|phase| OPERATIONS.map(|operation| (*phase, operation))) {
            for (times, rejected) in self.0[phase as usize][operation as usize].iter().zip([false, true]) {
                if times.count() > 0 {
                    let (phase, operation) = (phase.as_str(), operation.as_str());
                    times.write(out, name, &format!("{first}operation=\"{operation}\",rejected=\"{rejected}\",type=\"{phase}\""));
                }
            }
        }
    }
}

/// The times of a plugin.
pub struct PluginTimes {
    name: &'static str,
    operations: u8,
    admits: bool,
    validates: bool,
    times: Times,
}

impl PluginTimes {
    pub fn of(name: &'static str) -> PluginTimes {
        let part = PARTS.iter().find(|(plugin, ..)| *plugin == name);
        let (operations, admits, validates) =
            part.map_or((ALL, true, true), |(_, operations, admits, validates)| (*operations, *admits, *validates));
        PluginTimes { name, operations, admits, validates, times: Times::new() }
    }

    /// When the plugin begins with something that is timed.
    pub fn begin(&self, phase: Phase, operation: Operation) -> Option<Instant> {
        let takes_part = match phase {
            Phase::Admit => self.admits,
            Phase::Validate => self.validates,
        };
        (takes_part && self.operations & (1 << operation as u8) != 0).then(Instant::now)
    }

    pub fn end(&self, begun: Option<Instant>, phase: Phase, operation: Operation, is_refused: bool) {
        if let Some(begun) = begun {
            self.times.took(phase, operation, is_refused, begun.elapsed());
        }
    }
}

/// The times of phases as a whole.
pub struct PhaseTimes(Times);

impl Default for PhaseTimes {
    fn default() -> PhaseTimes {
        PhaseTimes(Times::new())
    }
}

impl PhaseTimes {
    pub fn took(&self, phase: Phase, operation: Operation, is_refused: bool, time: Duration) {
        self.0.took(phase, operation, is_refused, time);
    }
}

/// Writes what a chain has timed.
pub fn write<'a>(out: &mut String, phases: &PhaseTimes, plugins: impl Iterator<Item = &'a PluginTimes>) {
    let mut samples = String::new();
    let name = "apiserver_admission_controller_admission_duration_seconds";
    let help =
        "[STABLE] How long admission plugins took, in seconds, by plugin, phase (admit or validate), operation, and whether it refused.";
    plugins.for_each(|plugin| plugin.times.write(&mut samples, name, &format!("name=\"{}\",", plugin.name)));
    told(out, name, help, &samples);
    samples.clear();
    let name = "apiserver_admission_step_admission_duration_seconds";
    let help = "[STABLE] How long a phase of admission (admit or validate) took, in seconds, by operation, and whether it refused.";
    phases.0.write(&mut samples, name, "");
    told(out, name, help, &samples);
}

fn told(out: &mut String, name: &str, help: &str, samples: &str) {
    if !samples.is_empty() {
        head(out, name, "histogram", help);
        out.push_str(samples);
    }
}

static WEBHOOKS: Family<Histogram> = histograms(
    "apiserver_admission_webhook_admission_duration_seconds",
    "[STABLE] How long admission webhooks took, in seconds, by webhook, phase (admit or validating), operation, and whether it refused.",
    &["name", "operation", "rejected", "type"],
    WEBHOOK_DURATIONS,
);
static WEBHOOK_REQUESTS: Family<Counter> = counters(
    "apiserver_admission_webhook_request_total",
    "[ALPHA] Calls of admission webhooks, by webhook, phase, operation, HTTP code (600 for any above), and whether it refused.",
    &["code", "name", "operation", "rejected", "type"],
);
static WEBHOOK_REJECTIONS: Family<Counter> = counters(
    "apiserver_admission_webhook_rejection_count",
    "[ALPHA] Writes that failed at an admission webhook, by webhook, phase, operation, whether by error, and HTTP code (600 for any above).",
    &["error_type", "name", "operation", "rejection_code", "type"],
);
static WEBHOOKS_OPEN: Family<Counter> = counters(
    "apiserver_admission_webhook_fail_open_count",
    "[ALPHA] Writes that went on although an admission webhook could not be asked, by webhook and phase.",
    &["name", "type"],
);

/// What the webhooks of this process tell.
static TOLD: &[&dyn Told] = &[&WEBHOOKS, &WEBHOOKS_OPEN, &WEBHOOK_REJECTIONS, &WEBHOOK_REQUESTS];

pub fn render_webhooks(out: &mut String) {
    render(out, TOLD);
}

/// What came of asking a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Yes,
    /// With this code.
    No(u16),
    /// It could not be asked, and its failure policy refuses the write.
    Unreachable(u16),
    /// It could not be asked, and its failure policy lets the write pass.
    Open(u16),
    /// It must not be asked this.
    Unaskable,
}

/// Counts that a webhook was asked.
pub fn webhook_asked(name: &str, is_mutating: bool, operation: Operation, said: Said, time: Duration) {
    let (phase, operation) = (if is_mutating { "admit" } else { "validating" }, operation.as_str());
    let (code, rejected, error) = match said {
        Said::Yes => (200, false, None),
        Said::No(code) => (code, true, Some("no_error")),
        Said::Unreachable(code) => (code, true, Some("calling_webhook_error")),
        Said::Open(code) => (code, false, None),
        Said::Unaskable => (0, true, Some("apiserver_internal_error")),
    };
    let (code, rejected) = (code.min(MAX_CODE).to_string(), if rejected { "true" } else { "false" });
    WEBHOOKS.with(&[name, operation, rejected, phase]).observe_time(time);
    WEBHOOK_REQUESTS.with(&[&code, name, operation, rejected, phase]).inc();
    if let Some(error) = error {
        WEBHOOK_REJECTIONS.with(&[error, name, operation, &code, phase]).inc();
    }
    if matches!(said, Said::Open(_)) {
        WEBHOOKS_OPEN.with(&[name, phase]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_timed_at_what_they_take_part_in() {
        let (quota, unknown) = (PluginTimes::of("ResourceQuota"), PluginTimes::of("Other"));
        assert!(quota.begin(Phase::Validate, Operation::Create).is_some());
        assert!(quota.begin(Phase::Admit, Operation::Create).is_none() && quota.begin(Phase::Validate, Operation::Delete).is_none());
        assert!(unknown.begin(Phase::Admit, Operation::Connect).is_some());
        quota.end(quota.begin(Phase::Validate, Operation::Update), Phase::Validate, Operation::Update, true);
        quota.end(None, Phase::Admit, Operation::Update, false);
        let phases = PhaseTimes::default();
        phases.took(Phase::Admit, Operation::Connect, false, Duration::from_secs(3));
        let mut text = String::new();
        write(&mut text, &phases, [&quota, &unknown].into_iter());
        let counts: Vec<&str> = text.lines().filter(|line| line.contains("_count")).collect();
        let expected = [
            "apiserver_admission_controller_admission_duration_seconds_count{name=\"ResourceQuota\",operation=\"UPDATE\",rejected=\"true\",type=\"validate\"} 1",
            "apiserver_admission_step_admission_duration_seconds_count{operation=\"CONNECT\",rejected=\"false\",type=\"admit\"} 1",
        ];
        assert_eq!(counts, expected);
    }

    #[test]
    fn what_a_webhook_says_is_told_by_its_outcome() {
        let asked = |said| webhook_asked("told.example.com", false, Operation::Create, said, Duration::from_secs(4));
        [Said::Yes, Said::No(700), Said::Unreachable(503), Said::Open(503), Said::Unaskable].into_iter().for_each(asked);
        let mut text = String::new();
        render_webhooks(&mut text);
        let (name, phase) = ("name=\"told.example.com\"", "type=\"validating\"");
        let took = |bound| format!("{name},operation=\"CREATE\",rejected=\"true\",{phase},le=\"{bound}\"");
        let rejected = |error, code| {
            let labels = format!("error_type=\"{error}\",{name},operation=\"CREATE\",rejection_code=\"{code}\",{phase}");
            format!("apiserver_admission_webhook_rejection_count{{{labels}}} 1")
        };
        for line in [
            format!("apiserver_admission_webhook_admission_duration_seconds_bucket{{{}}} 0", took("2.5")),
            format!("apiserver_admission_webhook_admission_duration_seconds_bucket{{{}}} 3", took("10")),
            format!("apiserver_admission_webhook_request_total{{code=\"503\",{name},operation=\"CREATE\",rejected=\"false\",{phase}}} 1"),
            rejected("no_error", "600"),
            rejected("apiserver_internal_error", "0"),
            format!("apiserver_admission_webhook_fail_open_count{{{name},{phase}}} 1"),
        ] {
            assert!(text.lines().any(|told| *told == line), "{line}\n{text}");
        }
    }
}
