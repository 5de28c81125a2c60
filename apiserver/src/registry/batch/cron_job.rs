//! CronJobs: jobs by the clock.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::selector::label::format_label_selector;
use apimachinery::validation::{name_is_dns_subdomain, validate_nonnegative_field};
use apimachinery::view::view;
use apimachinery::{cron, time_zone};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec};
use serde_json::Value;

use super::job_spec;
use crate::registry::apps::template;
use crate::registry::printer::{self, boolean, integer, text, wide};
use crate::registry::read::{at, bool_at, list_at, str_at};
use crate::registry::strategy::{bump_generation_if_changed, drop_field, generation, keep_all_but_status, keep_status, set_generation};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
    cells,
};

pub static RESOURCE: Definition = Definition {
    group: "batch",
    version: "v1",
    plural: "cronjobs",
    singular: "cronjob",
    kind: "CronJob",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["cj"],
    categories: &["all"],
    schema: "io.k8s.api.batch.v1.CronJob",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: "batch",
        version: "v1",
        kind: "CronJob",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["spec"] },
    }],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const SPEC: &str = "io.k8s.api.batch.v1.CronJobSpec";
const STATUS: &str = "io.k8s.api.batch.v1.CronJobStatus";

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Schedule", Description::Field(SPEC, "schedule")),
    text("Timezone", Description::Field(SPEC, "timeZone")),
    boolean("Suspend", Description::Field(SPEC, "suspend")),
    integer("Active", Description::Field(STATUS, "active")),
    text("Last Schedule", Description::Field(STATUS, "lastScheduleTime")),
    printer::AGE,
    cells::CONTAINERS,
    cells::IMAGES,
    wide("Selector", Description::Field("io.k8s.api.batch.v1.JobSpec", "selector")),
];

const JOB_SPEC: &str = "/spec/jobTemplate/spec";
const TEMPLATE: &str = "/spec/jobTemplate/spec/template";

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = cells::containers_and_images(object, TEMPLATE);
    let suspend = match at(object, "/spec/suspend").as_bool() {
        None => "<unset>",
        Some(true) => "True",
        Some(false) => "False",
    };
    let last = at(object, "/status/lastScheduleTime");
    vec![
        printer::name(object),
        str_at(object, "/spec/schedule").into(),
        at(object, "/spec/timeZone").as_str().unwrap_or("<none>").into(),
        suspend.into(),
        list_at(object, "/status/active").len().into(),
        if last.is_null() { "<none>".into() } else { printer::age(last, now) },
        printer::object_age(object, now),
        names,
        images,
        format_label_selector(object.pointer("/spec/jobTemplate/spec/selector")).into(),
    ]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        set_generation(new, 1);
        job_spec::drop_disabled(new.pointer_mut(JOB_SPEC), None);
        template::drop_disabled(new, None, TEMPLATE);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let (mut errors, declared) = validate_spec(new, None);
        let name = str_at(new, "/metadata/name");
        if name.len() > MAX_NAME_BYTES {
            errors.push(Error::invalid(&Path::new("metadata.name"), name, format!("must be no more than {MAX_NAME_BYTES} characters")));
        }
        errors.extend(declared);
        errors
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        let mut warnings = template::name_warnings(new);
        warnings.extend(job_spec::warnings(new, None, JOB_SPEC));
        warnings
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        job_spec::drop_disabled(new.pointer_mut(JOB_SPEC), Some(at(old, JOB_SPEC)));
        template::drop_disabled(new, Some(old), TEMPLATE);
        bump_generation_if_changed(new, old, &["spec"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let (mut errors, declared) = validate_spec(new, Some(old));
        errors.extend(declared);
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        if generation(new) != generation(old) {
            warnings.extend(job_spec::warnings(new, Some(old), JOB_SPEC));
        }
        if str_at(new, "/spec/schedule").contains("TZ") {
            // Upstream names the path so.
            warnings.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
        }
        warnings
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, _new: &Value, _old: &Value) -> ErrorList {
        Vec::new()
    }
}

/// Jobs are named after the CronJob, with 11 characters more, and their pods after them.
const MAX_NAME_BYTES: usize = 52;

/// The errors of the written rules, and those of the declared ones, which come last.
fn validate_spec(object: &Value, old: Option<&Value>) -> (ErrorList, ErrorList) {
    let cron_job: CronJob = view(object);
    let spec: CronJobSpec = cron_job.spec;
    let path = Path::new("spec");
    let schedule_path = path.child("schedule");
    let (mut errors, mut declared) = (Vec::new(), Vec::new());
    let old_schedule = old.map(|o| str_at(o, "/spec/schedule"));
    if spec.schedule.is_empty() {
        let into = if old_schedule == Some("") { &mut errors } else { &mut declared };
        into.push(Error::required(&schedule_path, ""));
    } else {
        let zone_allowed = old_schedule.is_some_and(|schedule| schedule.contains("TZ"));
        errors.extend(validate_schedule(&spec.schedule, zone_allowed, spec.time_zone.is_some(), &schedule_path));
    }
    if let Some(seconds) = spec.starting_deadline_seconds {
        errors.extend(validate_nonnegative_field(seconds, &path.child("startingDeadlineSeconds")));
    }
    if let Some(zone) = spec.time_zone.as_deref()
        && old.is_none_or(|o| at(o, "/spec/timeZone").as_str() != Some(zone))
    {
        errors.extend(validate_time_zone(zone, &path.child("timeZone")));
    }
    errors.extend(validate_concurrency(spec.concurrency_policy.as_deref().unwrap_or(""), &path.child("concurrencyPolicy")));
    errors.extend(validate_job_template(object, &spec, old, &path.child("jobTemplate")));
    for (field, limit) in
        [("successfulJobsHistoryLimit", spec.successful_jobs_history_limit), ("failedJobsHistoryLimit", spec.failed_jobs_history_limit)]
    {
        if let Some(limit) = limit {
            errors.extend(validate_nonnegative_field(i64::from(limit), &path.child(field)));
        }
    }
    (errors, declared)
}

/// A zone in the schedule is tolerated only where there already was one.
fn validate_schedule(schedule: &str, zone_allowed: bool, has_time_zone: bool, path: &Path<'_>) -> ErrorList {
    let mut errors = Vec::new();
    if let Err(problem) = cron::parse(schedule) {
        errors.push(Error::invalid(path, schedule, problem));
    }
    match (schedule.contains("TZ"), zone_allowed) {
        (true, true) if has_time_zone => {
            errors.push(Error::invalid(path, schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"));
        }
        (true, false) => errors.push(Error::invalid(path, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")),
        _ => {}
    }
    errors
}

fn validate_time_zone(zone: &str, path: &Path<'_>) -> ErrorList {
    if zone.is_empty() {
        return vec![Error::invalid(path, zone, "timeZone must be nil or non-empty string")];
    }
    let well_formed = |part: &str| {
        let characters = part.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_+".contains(&b));
        characters && (1..=14).contains(&part.len()) && part != "." && part != ".." && !part.starts_with('-')
    };
    if !zone.split('/').all(well_formed) {
        return vec![Error::invalid(path, zone, format!("unknown time zone {zone}"))];
    }
    let mut errors = Vec::new();
    if zone.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(Error::invalid(path, zone, detail));
    }
    if let Err(problem) = time_zone::load(zone) {
        errors.push(Error::invalid(path, zone, problem));
    }
    errors
}

fn validate_concurrency(policy: &str, path: &Path<'_>) -> ErrorList {
    const POLICIES: [&str; 3] = ["Allow", "Forbid", "Replace"];
    match policy {
        "" => vec![Error::required(path, "")],
        known if POLICIES.contains(&known) => Vec::new(),
        other => vec![Error::not_supported(path, other, &POLICIES)],
    }
}

fn validate_job_template(object: &Value, spec: &CronJobSpec, old: Option<&Value>, path: &Path<'_>) -> ErrorList {
    let job = spec.job_template.spec.clone().unwrap_or_default();
    let raw = at(object, JOB_SPEC);
    let spec_path = path.child("spec");
    let mut errors = job_spec::validate(&job, raw, old.map(|o| at(o, JOB_SPEC)), &spec_path);
    if job.selector.is_some() {
        errors.push(Error::invalid(&spec_path.child("selector"), at(raw, "/selector").clone(), "`selector` will be auto-generated"));
    }
    if bool_at(raw, "/manualSelector") {
        errors.push(Error::not_supported(&spec_path.child("manualSelector"), true, &["nil", "false"]));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_schedule_names_no_zone_unless_it_did() {
        let check = |schedule: &str, allowed: bool, zone: bool| texts(validate_schedule(schedule, allowed, zone, &Path::new("s")));
        assert!(check("*/5 * * * *", false, true).is_empty());
        assert!(check("TZ=UTC 0 0 * * *", true, false).is_empty());
        assert_eq!(
            check("TZ=UTC 0 0 * * *", false, false),
            ["s: Invalid value: \"TZ=UTC 0 0 * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"]
        );
        assert_eq!(
            check("TZ=UTC 0 0 * * *", true, true),
            ["s: Invalid value: \"TZ=UTC 0 0 * * *\": cannot use both timeZone field and TZ or CRON_TZ in schedule"]
        );
        assert_eq!(check("x", false, false), ["s: Invalid value: \"x\": expected exactly 5 fields, found 1: [x]"]);
    }

    #[test]
    fn time_zones_are_those_of_the_database() {
        let check = |zone: &str| texts(validate_time_zone(zone, &Path::new("z")));
        assert!(check("Europe/Berlin").is_empty());
        assert_eq!(check(""), ["z: Invalid value: \"\": timeZone must be nil or non-empty string"]);
        assert_eq!(check("a//b"), ["z: Invalid value: \"a//b\": unknown time zone a//b"]);
        assert_eq!(check("Nowhere"), ["z: Invalid value: \"Nowhere\": unknown time zone Nowhere"]);
        assert_eq!(
            check("Local"),
            ["z: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"]
        );
    }
}
