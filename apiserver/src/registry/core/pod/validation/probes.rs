//! Liveness, readiness and startup probes.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::validate_nonnegative_field;
use k8s_openapi::api::core::v1::{Container, Probe};

use super::handlers::validate_handler;

/// All probes of a container.
pub(super) fn validate_probes(container: &Container, grace: Option<i64>, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(probe) = &container.liveness_probe {
        errors.extend(validate_probe_that_succeeds_once(probe, grace, &path.child("livenessProbe")));
    }
    if let Some(probe) = &container.readiness_probe {
        let path = path.child("readinessProbe");
        errors.extend(validate_probe(probe, grace, &path));
        if let Some(seconds) = probe.termination_grace_period_seconds {
            let path = path.child("terminationGracePeriodSeconds");
            errors.push(Error::invalid(&path, seconds, "must not be set for readinessProbes"));
        }
    }
    if let Some(probe) = &container.startup_probe {
        errors.extend(validate_probe_that_succeeds_once(probe, grace, &path.child("startupProbe")));
    }
    errors
}

fn validate_probe_that_succeeds_once(probe: &Probe, grace: Option<i64>, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_probe(probe, grace, path);
    let threshold = probe.success_threshold.unwrap_or(0);
    if threshold != 1 {
        errors.push(Error::invalid(&path.child("successThreshold"), threshold, "must be 1"));
    }
    errors
}

fn validate_probe(probe: &Probe, grace: Option<i64>, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_handler(probe.into(), grace, path);
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (name, number) in numbers {
        errors.extend(validate_nonnegative_field(number.unwrap_or(0).into(), &path.child(name)));
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        errors.push(Error::invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0"));
    }
    errors
}
