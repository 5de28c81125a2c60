//! The options of a request: query parameters (and, for deletions, the body), read and checked as meta.k8s.io/v1 options.

use apimachinery::field::{self, ErrorList, Path};
use apimachinery::status::Status;
use apimachinery::validation::{validate_dry_run, validate_field_manager, validate_field_validation};
use serde_json::Value;

use crate::filters::request_info::form_pairs;

/// Decoded query parameters.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(raw: &str) -> Query {
        Query(form_pairs(raw))
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// A boolean in the API's reading of query strings: present and neither `false` nor `0` is true.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| !matches!(v, "false" | "0"))
    }

    fn optional_flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|v| !matches!(v, "false" | "0"))
    }

    fn integer(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.get(name) {
            None | Some("") => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {}: invalid syntax", field::quote(text)))),
        }
    }
}

/// `fieldValidation`: what unknown and duplicate fields of a body mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: FieldValidation,
    /// Of apply patches; `None` where the request does not say.
    pub force: Option<bool>,
}

impl WriteOptions {
    /// `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`, for the error.
    pub fn parse(query: &Query, kind: &str, apply: bool) -> Result<WriteOptions, Status> {
        let mut errors = ErrorList::new();
        let force = query.optional_flag("force");
        if kind == "PatchOptions" {
            let manager = query.get("fieldManager").unwrap_or("");
            if apply && manager.is_empty() {
                errors.push(field::Error::required(&Path::new("fieldManager"), "is required for apply patch"));
            }
            if !apply && force.is_some() {
                errors.push(field::Error::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
            }
        }
        let field_manager = query.get("fieldManager").unwrap_or("").to_owned();
        errors.extend(validate_field_manager(&field_manager, &Path::new("fieldManager")));
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let text = query.get("fieldValidation").unwrap_or("");
        errors.extend(validate_field_validation(text, &Path::new("fieldValidation")));
        let field_validation = match text {
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            _ => FieldValidation::Warn,
        };
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", kind, "", &errors));
        }
        Ok(WriteOptions { dry_run, field_manager, field_validation, force })
    }

    /// The manager that owns the fields of this write: the option, or the user agent up to its first slash.
    pub fn manager(&self, user_agent: &str) -> String {
        if !self.field_manager.is_empty() {
            return self.field_manager.clone();
        }
        let product = user_agent.split('/').next().unwrap_or("");
        let mut manager = String::with_capacity(product.len());
        for c in product.chars().filter(|c| field::is_print(*c)) {
            if manager.len() + c.len_utf8() > MAX_FIELD_MANAGER_BYTES {
                break;
            }
            manager.push(c);
        }
        manager
    }
}

/// Bytes in a field manager's name.
const MAX_FIELD_MANAGER_BYTES: usize = 128;

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut ErrorList) -> bool {
    let values: Vec<&str> = values.collect();
    errors.extend(validate_dry_run(&values, &Path::new("dryRun")));
    !values.is_empty()
}

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    Unset,
    Exact,
    NotOlderThan,
}

/// Options of list, watch and deletecollection.
#[derive(Clone, Debug)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    pub watch: bool,
    pub allow_bookmarks: bool,
    pub resource_version: String,
    pub version_match: VersionMatch,
    pub timeout_seconds: Option<i64>,
    pub limit: i64,
    pub continue_token: String,
    pub send_initial_events: Option<bool>,
    pub include_object: String,
}

impl ListOptions {
    /// `watch` forces a watch (the path `/watch/…`).
    pub fn parse(query: &Query, watch: bool) -> Result<ListOptions, Status> {
        let text = |name: &str| query.get(name).unwrap_or("").to_owned();
        let mut options = ListOptions {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            watch: watch || query.flag("watch"),
            allow_bookmarks: query.flag("allowWatchBookmarks"),
            resource_version: text("resourceVersion"),
            version_match: VersionMatch::Unset,
            timeout_seconds: query.integer("timeoutSeconds")?,
            limit: query.integer("limit")?.unwrap_or(0),
            continue_token: text("continue"),
            send_initial_events: query.optional_flag("sendInitialEvents"),
            include_object: text("includeObject"),
        };
        let errors = options.check(&text("resourceVersionMatch"));
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors));
        }
        Ok(options)
    }

    /// The rules between `resourceVersionMatch` and its neighbours (API concepts, "resource versions").
    fn check(&mut self, version_match: &str) -> ErrorList {
        let path = Path::new("resourceVersionMatch");
        let mut errors = ErrorList::new();
        if self.watch {
            if !version_match.is_empty() && self.send_initial_events.is_none() {
                errors.push(field::Error::forbidden(
                    &path,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            if self.send_initial_events.is_some() {
                if version_match != "NotOlderThan" {
                    errors.push(field::Error::forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
                }
                if !matches!(version_match, "" | "NotOlderThan") {
                    errors.push(field::Error::not_supported(&path, version_match, &["NotOlderThan"]));
                }
                if !self.continue_token.is_empty() {
                    errors.push(field::Error::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
                }
            }
        } else {
            if self.send_initial_events.is_some() {
                errors.push(field::Error::forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list"));
            }
            if !version_match.is_empty() {
                if self.resource_version.is_empty() {
                    errors.push(field::Error::forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided"));
                }
                if !self.continue_token.is_empty() {
                    errors.push(field::Error::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
                }
                if !matches!(version_match, "Exact" | "NotOlderThan") {
                    errors.push(field::Error::not_supported(&path, version_match, &["Exact", "NotOlderThan", ""]));
                }
                if version_match == "Exact" && self.resource_version == "0" {
                    errors.push(field::Error::forbidden(&path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
                }
            }
        }
        self.version_match = match version_match {
            "Exact" => VersionMatch::Exact,
            "NotOlderThan" => VersionMatch::NotOlderThan,
            _ => VersionMatch::Unset,
        };
        errors
    }
}

/// Options of a deletion.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    pub grace_period_seconds: Option<i64>,
    pub orphan_dependents: Option<bool>,
    pub propagation: Option<String>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// From the query, where a deletion has no body.
    pub fn from_query(query: &Query) -> Result<DeleteOptions, Status> {
        let grace_period_seconds = query.integer("gracePeriodSeconds")?;
        let options = DeleteOptions {
            grace_period_seconds,
            orphan_dependents: query.optional_flag("orphanDependents"),
            propagation: query.get("propagationPolicy").map(str::to_owned),
            ..DeleteOptions::default()
        };
        options.checked(query.all("dryRun").collect())
    }

    /// From a decoded meta.k8s.io/v1 DeleteOptions.
    pub fn from_body(body: &Value) -> Result<DeleteOptions, Status> {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let options = DeleteOptions {
            dry_run: false,
            grace_period_seconds: body.get("gracePeriodSeconds").and_then(Value::as_i64),
            orphan_dependents: body.get("orphanDependents").and_then(Value::as_bool),
            propagation: text(body.get("propagationPolicy")),
            uid: text(body.pointer("/preconditions/uid")),
            resource_version: text(body.pointer("/preconditions/resourceVersion")),
        };
        let dry_run = body.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        options.checked(dry_run)
    }

    fn checked(mut self, dry_run_values: Vec<&str>) -> Result<DeleteOptions, Status> {
        let mut errors = ErrorList::new();
        let path = Path::new("propagationPolicy");
        if self.orphan_dependents.is_some() && self.propagation.is_some() {
            let shown = self.propagation.clone().unwrap_or_default();
            errors.push(field::Error::invalid(&path, shown, "orphanDependents and deletionPropagation cannot be both set"));
        }
        if let Some(policy) = self.propagation.as_deref()
            && !matches!(policy, "Foreground" | "Background" | "Orphan")
        {
            errors.push(field::Error::not_supported(&path, policy, &["Foreground", "Background", "Orphan", "nil"]));
        }
        self.dry_run = dry_run(dry_run_values.into_iter(), &mut errors);
        if errors.is_empty() { Ok(self) } else { Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors)) }
    }
}
