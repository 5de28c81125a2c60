//! PodSecurity: the Pod Security Standards, as the labels of a namespace ask for them.
//!
//! Pods are held to what is enforced; whoever makes pods for others is warned, and what was found is told to the audit log. What counts for
//! namespaces that say nothing, and who is exempt, is [`configuration`]'s to know.

mod baseline;
mod checks;
mod configuration;
mod policy;
mod restricted;

use std::sync::Arc;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use apimachinery::field::{self, ErrorList};
use apimachinery::status::Status;
use serde_json::Value;

use self::checks::{Pod, details, evaluate, reasons};
use self::configuration::Exemptions;
use self::policy::{Level, LevelVersion, Policy, is_labelled, policy_of};
use super::{Attributes, Lookup, Operation, Plugin, Unfit};
use crate::audit;
use crate::registry::read::{at, bool_at, list_at, str_at};

/// Pods of a namespace that are held against a new level, and how long that may take.
const MAX_EXISTING_PODS: usize = 3000;
const MAX_EXISTING_TIME: Duration = Duration::from_secs(1);

/// The plugin.
pub struct PodSecurity {
    /// Of namespaces that say nothing.
    default: Policy,
    exempt: Exemptions,
}

impl PodSecurity {
    pub fn new(told: Option<&[u8]>) -> Result<PodSecurity, Unfit> {
        let (default, exempt) = configuration::read(told)?;
        Ok(PodSecurity { default, exempt })
    }
}

/// What the audit log is told of namespaces where everything may be done.
const PRIVILEGED: &str = "privileged:latest";

/// Where the resources that make pods keep the pod: its metadata and spec.
const TEMPLATES: [(&str, &str, &str); 8] = [
    ("", "replicationcontrollers", "/spec/template"),
    ("", "podtemplates", "/template"),
    ("apps", "replicasets", "/spec/template"),
    ("apps", "deployments", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("batch", "jobs", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
];

/// Subresources of pods that do not carry a pod, or none that matters.
const IGNORED_SUBRESOURCES: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let Some(object) = new.filter(|_| attributes.operation.writes()) else { return Ok(()) };
        if attributes.is_main("", "namespaces") {
            return self.check_namespace(attributes, lookup, object, old, warnings);
        }
        if attributes.is("", "pods") {
            return self.check_pod(attributes, lookup, object, old, warnings);
        }
        if let Some((_, _, template)) = TEMPLATES.iter().find(|(group, plural, _)| attributes.is_main(group, plural)) {
            self.warn_of_template(attributes, lookup, at(object, template), warnings);
        }
        Ok(())
    }
}

fn pod_of(template: &Value) -> Pod<'_> {
    Pod { metadata: at(template, "/metadata"), spec: at(template, "/spec") }
}

impl PodSecurity {
    /// Labels must be valid (if they change); pods that a new level would refuse are told of.
    fn check_namespace(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: &Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let (policy, errors) = policy_of(new, &self.default);
        let before = old.filter(|_| attributes.operation == Operation::Update).map(|old| policy_of(old, &self.default));
        let known = before.as_ref().is_some_and(|(_, old_errors)| *old_errors == errors);
        if !errors.is_empty() && !known {
            return Err(Status::invalid(attributes.group(), &attributes.resource.gvk.kind, attributes.name, &errors));
        }
        let name = str_at(new, "/metadata/name");
        let Some((before, _)) = before else {
            warnings.extend(self.exemption_told(name, new, &policy));
            return Ok(());
        };
        let (now, then) = (policy.enforce, before.enforce);
        let is_relaxed = now.version == then.version && now.level <= then.level;
        if now == then || now.level == Level::Privileged || is_relaxed {
            return Ok(());
        }
        if self.exempt.has_namespace(name) {
            warnings.extend(self.exemption_told(name, new, &policy));
            return Ok(());
        }
        let mut pods = lookup.list("", "pods", name);
        pods.retain(|pod| !self.exempt.has_runtime_class(str_at(pod, "/spec/runtimeClassName")));
        let deadline = Instant::now() + MAX_EXISTING_TIME;
        warnings.extend(existing_pods(name, now, pods, || Instant::now() >= deadline));
        Ok(())
    }

    /// What to tell whoever gives an exempt namespace a policy that will not count.
    fn exemption_told(&self, name: &str, namespace: &Value, policy: &Policy) -> Option<String> {
        if !self.exempt.has_namespace(name) || policy.is_fully_privileged() || policy.is_equivalent(&self.default) {
            return None;
        }
        let labels = at(namespace, "/metadata/labels");
        let modes = [("enforce", policy.enforce), ("audit", policy.audit), ("warn", policy.warn)];
        let told = modes.iter().filter(|(mode, what)| what.level != Level::Privileged && is_labelled(labels, mode));
        let told: Vec<String> = told.map(|(mode, what)| format!("{mode}={what}")).collect();
        let name = apimachinery::field::quote(name);
        Some(format!("namespace {name} is exempt from Pod Security, and the policy ({}) will be ignored", told.join(", ")))
    }

    /// Whether the namespace or the user of a write is exempt; the audit log is told why.
    fn is_exempt(&self, attributes: &Attributes<'_>) -> bool {
        let reason = if self.exempt.has_namespace(attributes.namespace) {
            "namespace"
        } else if self.exempt.has_user(&attributes.user.name) {
            "user"
        } else {
            return false;
        };
        annotate("exempt", || reason.to_owned());
        true
    }

    /// Whether a pod is exempt for its runtime class; the audit log is told so.
    fn is_exempt_pod(&self, pod: &Pod<'_>) -> bool {
        let is_exempt = self.exempt.has_runtime_class(str_at(pod.spec, "/runtimeClassName"));
        if is_exempt {
            annotate("exempt", || "runtimeClass".to_owned());
        }
        is_exempt
    }

    /// What the namespace of a write asks for. A namespace that is gone asks for nothing that could be known.
    fn namespace_policy(&self, attributes: &Attributes<'_>, lookup: &dyn Lookup) -> Option<(Policy, ErrorList)> {
        let namespace = lookup.get("", "namespaces", "", attributes.namespace)?;
        Some(policy_of(&namespace, &self.default))
    }

    fn check_pod(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        pod: &Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if IGNORED_SUBRESOURCES.contains(&attributes.subresource) || self.is_exempt(attributes) {
            return Ok(());
        }
        let Some((policy, errors)) = self.namespace_policy(attributes, lookup) else {
            let why = format!("failed to lookup namespace {}", apimachinery::field::quote(attributes.namespace));
            return Err(Status::internal_error(&why));
        };
        if errors.is_empty() && policy.is_fully_privileged() {
            annotate("enforce-policy", || PRIVILEGED.to_owned());
            return Ok(());
        }
        if let Some(old) = old.filter(|_| attributes.operation == Operation::Update)
            && !is_significant(pod, old)
        {
            return Ok(());
        }
        if self.is_exempt_pod(&pod_of(pod)) {
            return Ok(());
        }
        annotate("enforce-policy", || policy.enforce.to_string());
        annotate_findings(&policy, &errors, &pod_of(pod));
        let enforced = evaluate(policy.enforce, &pod_of(pod));
        if !enforced.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&enforced));
            return Err(Status::forbidden("", "pods", attributes.name, &why));
        }
        // What passes at the enforced level passes the same check as a warning.
        if policy.warn != policy.enforce {
            warn(policy.warn, &pod_of(pod), warnings);
        }
        Ok(())
    }

    fn warn_of_template(&self, attributes: &Attributes<'_>, lookup: &dyn Lookup, template: &Value, warnings: &mut Vec<String>) {
        if self.is_exempt(attributes) || template.is_null() {
            return;
        }
        let Some((policy, errors)) = self.namespace_policy(attributes, lookup) else { return };
        let says_nothing = errors.is_empty() && policy.warn.level == Level::Privileged && policy.audit.level == Level::Privileged;
        if says_nothing || self.is_exempt_pod(&pod_of(template)) {
            return;
        }
        annotate_findings(&policy, &errors, &pod_of(template));
        warn(policy.warn, &pod_of(template), warnings);
    }
}

/// What to tell of a namespace's pods that violate a new level.
fn existing_pods(namespace: &str, policy: LevelVersion, pods: Vec<Arc<Value>>, is_late: impl Fn() -> bool) -> Vec<String> {
    let total = pods.len();
    let mut checked = 0;
    // By what they violate: the first name, and how many.
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in one_of_each_first(pods).into_iter().take(MAX_EXISTING_PODS) {
        checked += 1;
        let violations = evaluate(policy, &pod_of(&pod));
        if !violations.is_empty() {
            let name = str_at(&pod, "/metadata/name").to_owned();
            let entry = found.entry(reasons(&violations)).or_insert_with(|| (name.clone(), 0));
            entry.0 = name.min(std::mem::take(&mut entry.0));
            entry.1 += 1;
        }
        if is_late() {
            break;
        }
    }
    let mut warnings = Vec::new();
    if checked < total {
        warnings.push(format!("new PodSecurity enforce level only checked against the first {checked} of {total} existing pods"));
    }
    if !found.is_empty() {
        warnings.push(format!("existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{policy}\""));
    }
    let mut of_pods: Vec<String> = found
        .into_iter()
        .map(|(what, (name, count))| match count {
            1 => format!("{name}: {what}"),
            2 => format!("{name} (and 1 other pod): {what}"),
            _ => format!("{name} (and {} other pods): {what}", count - 1),
        })
        .collect();
    of_pods.sort();
    warnings.extend(of_pods);
    warnings
}

/// One pod of each controller before the others of that controller, which will be much like it.
fn one_of_each_first(pods: Vec<Arc<Value>>) -> Vec<Arc<Value>> {
    let mut seen: HashSet<String> = HashSet::new();
    let (mut first, others): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| {
        let controller = list_at(pod, "/metadata/ownerReferences").iter().find(|owner| bool_at(owner, "/controller"));
        controller.is_none_or(|owner| seen.insert(str_at(owner, "/uid").to_owned()))
    });
    first.extend(others);
    first
}

/// Tells the audit log.
fn annotate(key: &str, value: impl FnOnce() -> String) {
    if audit::current().is_some() {
        audit::annotate(&format!("pod-security.kubernetes.io/{key}"), value);
    }
}

/// Tells the audit log of labels that cannot be read, and of what the policy for it finds.
fn annotate_findings(policy: &Policy, errors: &ErrorList, pod: &Pod<'_>) {
    // What is looked for only to be told is not looked for if nobody is told.
    if audit::current().is_none() {
        return;
    }
    if !errors.is_empty() {
        annotate("error", || format!("Failed to parse policy: {}", field::aggregate(errors)));
    }
    let violations = evaluate(policy.audit, pod);
    if !violations.is_empty() {
        annotate("audit-violations", || format!("would violate PodSecurity \"{}\": {}", policy.audit, details(&violations)));
    }
}

fn warn(policy: LevelVersion, pod: &Pod<'_>, warnings: &mut Vec<String>) {
    let violations = evaluate(policy, pod);
    if !violations.is_empty() {
        warnings.push(format!("would violate PodSecurity \"{policy}\": {}", details(&violations)));
    }
}

/// Whether an update changes something that the checks could look at: which containers there are, and their images.
fn is_significant(new: &Value, old: &Value) -> bool {
    let image = |c: &Value| str_at(c, "/image").to_owned();
    let images = |pod: &Value, list: &str| list_at(pod, list).iter().map(image).collect::<Vec<_>>();
    if ["/spec/containers", "/spec/initContainers"].iter().any(|list| images(new, list) != images(old, list)) {
        return true;
    }
    let before = list_at(old, "/spec/ephemeralContainers");
    list_at(new, "/spec/ephemeralContainers").iter().any(|c| {
        let same = before.iter().find(|b| str_at(b, "/name") == str_at(c, "/name"));
        same.is_none_or(|b| image(b) != image(c))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    fn namespace(labels: &[(&str, &str)]) -> Value {
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|(k, v)| (format!("pod-security.kubernetes.io/{k}"), (*v).into())).collect();
        json!({ "metadata": { "name": "ns", "labels": labels } })
    }

    fn plain() -> PodSecurity {
        PodSecurity::new(None).unwrap()
    }

    fn create(labels: &[(&str, &str)], spec: Value) -> Result<Vec<String>, String> {
        let objects = Objects::of(vec![("", "namespaces", namespace(labels))]);
        let pod = json!({ "metadata": { "name": "x" }, "spec": spec });
        Write::new(Operation::Create, "", "v1", "pods").validate(&plain(), &objects, Some(&pod), None)
    }

    #[test]
    fn what_is_enforced_is_refused_and_what_is_warned_of_is_told() {
        let bad = json!({ "hostNetwork": true, "containers": [{ "name": "c", "securityContext": { "privileged": true } }] });
        let what = "host namespaces (hostNetwork=true), privileged (container \"c\" must not set securityContext.privileged=true)";
        assert_eq!(create(&[], bad.clone()), Ok(vec![]));
        assert_eq!(
            create(&[("enforce", "baseline")], bad.clone()).unwrap_err(),
            format!("pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": {what}")
        );
        assert_eq!(create(&[("warn", "baseline")], bad), Ok(vec![format!("would violate PodSecurity \"baseline:latest\": {what}")]));
    }

    #[test]
    fn a_hardened_pod_passes_at_every_level_and_version() {
        let spec = json!({
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{ "name": "c", "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } }],
        });
        for version in ["latest", "v1.0", "v1.21", "v1.24", "v1.99"] {
            assert_eq!(create(&[("enforce", "restricted"), ("enforce-version", version)], spec.clone()), Ok(vec![]), "{version}");
        }
    }

    #[test]
    fn checks_begin_and_end_with_their_versions() {
        let at = |version: &str, spec: Value| create(&[("enforce", "restricted"), ("enforce-version", version)], spec).unwrap_err();
        let plain = || json!({ "hostUsers": false, "containers": [{ "name": "c" }] });
        assert!(!at("v1.7", plain()).contains("allowPrivilegeEscalation") && at("v1.8", plain()).contains("allowPrivilegeEscalation"));
        assert!(at("v1.34", plain()).contains("runAsNonRoot") && !at("v1.35", plain()).contains("runAsNonRoot"));
        let adding = json!({ "containers": [{ "name": "c", "securityContext": { "capabilities": { "add": ["SYS_TIME"] } } }] });
        assert!(at("v1.21", adding.clone()).contains("non-default capabilities"));
        let later = at("v1.22", adding);
        assert!(!later.contains("non-default capabilities") && later.contains("unrestricted capabilities"));
    }

    #[test]
    fn a_stricter_namespace_tells_of_its_pods() {
        let pod = |name: &str, spec: Value| ("", "pods", json!({ "metadata": { "name": name, "namespace": "ns" }, "spec": spec }));
        let objects = Objects::of(vec![
            pod("b", json!({ "hostPID": true })),
            pod("a", json!({ "hostNetwork": true })),
            pod("c", json!({ "hostPID": true, "containers": [{ "name": "c", "securityContext": { "privileged": true } }] })),
        ]);
        let change = |from: &[(&str, &str)], to: &[(&str, &str)]| {
            Write::new(Operation::Update, "", "v1", "namespaces").validate(&plain(), &objects, Some(&namespace(to)), Some(&namespace(from)))
        };
        assert_eq!(
            change(&[], &[("enforce", "baseline")]).unwrap(),
            [
                "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "a (and 1 other pod): host namespaces",
                "c: host namespaces, privileged",
            ]
        );
        assert_eq!(change(&[("enforce", "restricted")], &[("enforce", "baseline")]), Ok(vec![]));
        assert!(change(&[], &[("enforce", "x")]).unwrap_err().starts_with("Namespace \"x\" is invalid: metadata.labels"));
        assert_eq!(change(&[("enforce", "x")], &[("enforce", "x")]), Ok(vec![]), "labels that were bad already do not hinder");
    }

    #[test]
    fn updates_that_change_no_image_pass() {
        let pod = |image: &str, privileged: bool| json!({ "spec": { "containers": [{ "name": "c", "image": image, "securityContext": { "privileged": privileged } }] } });
        let objects = Objects::of(vec![("", "namespaces", namespace(&[("enforce", "baseline")]))]);
        let update = |image: &str| {
            Write::new(Operation::Update, "", "v1", "pods").validate(&plain(), &objects, Some(&pod(image, true)), Some(&pod("a", true)))
        };
        assert_eq!(update("a"), Ok(vec![]));
        assert!(update("b").is_err());
    }

    #[test]
    fn the_configuration_counts_where_labels_say_nothing_and_exempts() {
        let configured = |body: &str| {
            let text = format!("apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\n{body}");
            PodSecurity::new(Some(text.as_bytes())).unwrap()
        };
        let validate = |plugin: &PodSecurity, plural: &str, new: &Value| {
            let objects = Objects::of(vec![("", "namespaces", namespace(&[]))]);
            let (group, resource) = plural.split_once('/').unwrap_or(("", plural));
            let write = Write::new(Operation::Create, group, "v1", resource).by("ann", &[]);
            write.validate(plugin, &objects, Some(new), None)
        };
        let pod = json!({ "spec": { "hostNetwork": true, "runtimeClassName": "kata" } });
        let deployment = json!({ "spec": { "template": pod } });
        let plugin = configured("defaults: {enforce: baseline, warn: baseline}");
        let why = "violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
        assert_eq!(
            validate(&plugin, "pods", &pod).unwrap_err(),
            "pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
        );
        assert_eq!(validate(&plugin, "apps/deployments", &deployment).unwrap(), [format!("would {why}")]);
        for exempt in ["usernames: [ann]", "namespaces: [ns]", "runtimeClasses: [kata]"] {
            let plugin = configured(&format!("defaults: {{enforce: baseline, warn: baseline}}\nexemptions: {{{exempt}}}"));
            assert_eq!(validate(&plugin, "pods", &pod), Ok(Vec::new()), "{exempt}");
            assert_eq!(validate(&plugin, "apps/deployments", &deployment), Ok(Vec::new()), "{exempt}");
        }
    }

    #[test]
    fn whoever_labels_an_exempt_namespace_is_told_that_it_is_in_vain() {
        let text = "apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\nexemptions: {namespaces: [ns]}";
        let plugin = PodSecurity::new(Some(text.as_bytes())).unwrap();
        let labelled = namespace(&[("enforce", "baseline"), ("audit", "restricted")]);
        let told = "namespace \"ns\" is exempt from Pod Security, and the policy (enforce=baseline:latest, audit=restricted:latest) will be ignored";
        let validate = |operation, old: Option<&Value>, new: &Value| {
            Write::new(operation, "", "v1", "namespaces").validate(&plugin, &Objects::default(), Some(new), old).unwrap()
        };
        assert_eq!(validate(Operation::Create, None, &labelled), [told]);
        assert_eq!(validate(Operation::Update, Some(&namespace(&[])), &labelled), [told]);
        assert!(validate(Operation::Update, Some(&labelled), &labelled).is_empty());
        assert!(validate(Operation::Create, None, &namespace(&[("enforce", "privileged")])).is_empty());
    }
}
