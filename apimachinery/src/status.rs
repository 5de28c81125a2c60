//! `Status`: what the API answers instead of an object. One constructor per reason, the only home of its code, reason,
//! message and details. Never decides which one applies.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::field::{self, ErrorList, quote};

/// A `meta/v1` Status. Empty strings and zeros are absent on the wire.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub code: u16,
    /// Empty where the cause of a failure is unknown.
    pub reason: Cow<'static, str>,
    pub message: String,
    /// `Some` and empty is written as `{}`.
    pub details: Option<Details>,
    /// `metadata.continue`: how an expired list can be continued inconsistently.
    pub continue_token: String,
}

/// `details` of a [`Status`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource, or the kind where the reason is `Invalid`.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: u32,
}

/// One of the `causes` of a [`Status`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// A group and a resource or kind, as messages name it: `deployments.apps`, `pods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qualified<'a> {
    pub group: &'a str,
    pub name: &'a str,
}

impl std::fmt::Display for Qualified<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.group.is_empty() { f.write_str(self.name) } else { write!(f, "{}.{}", self.name, self.group) }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

fn details(group: &str, kind: &str, name: &str) -> Option<Details> {
    Some(Details { group: group.to_owned(), kind: kind.to_owned(), name: name.to_owned(), ..Details::default() })
}

fn retry(seconds: u32) -> Option<Details> {
    Some(Details { retry_after_seconds: seconds, ..Details::default() })
}

impl Status {
    fn failure(code: u16, reason: &'static str, message: impl Into<String>, details: Option<Details>) -> Status {
        Status { code, reason: reason.into(), message: message.into(), details, continue_token: String::new() }
    }

    /// A success without an object, such as the answer to a deletion.
    pub fn success(details: Option<Details>) -> Status {
        Status { details, ..Status::default() }
    }

    /// Whether this tells of a success.
    pub fn is_success(&self) -> bool {
        self.code < 400
    }

    /// 404: there is no such object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Status {
        let message = format!("{} {} not found", Qualified { group, name: resource }, quote(name));
        Status::failure(404, "NotFound", message, details(group, resource, name))
    }

    /// 409: the name is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Status {
        let message = format!("{} {} already exists", Qualified { group, name: resource }, quote(name));
        Status::failure(409, "AlreadyExists", message, details(group, resource, name))
    }

    /// 409: every generated name was taken.
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str, retry_after_seconds: u32) -> Status {
        let mut status = Status::already_exists(group, resource, name);
        status.message.push_str(", the server was not able to generate a unique name for the object");
        if let Some(details) = &mut status.details {
            details.retry_after_seconds = retry_after_seconds;
        }
        status
    }

    /// 401; an empty `reason` reads "not authorized".
    pub fn unauthorized(reason: &str) -> Status {
        Status::failure(401, "Unauthorized", if reason.is_empty() { "not authorized" } else { reason }, None)
    }

    /// 403. The message names resource and object if they are not empty: `pods "p" is forbidden: …`.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Status {
        let qualified = Qualified { group, name: resource };
        let message = if group.is_empty() && resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{qualified} is forbidden: {why}")
        } else {
            format!("{qualified} {} is forbidden: {why}", quote(name))
        };
        Status::failure(403, "Forbidden", message, details(group, resource, name))
    }

    /// 409: the object is not in the state that the request expects.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on {} {}: {why}", Qualified { group, name: resource }, quote(name));
        Status::failure(409, "Conflict", message, details(group, resource, name))
    }

    /// 409: the request's resource version is not the object's.
    pub fn modified(group: &str, resource: &str, name: &str) -> Status {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Status::conflict(group, resource, name, why)
    }

    /// 409: other managers own what an apply would change.
    pub fn apply_conflict(causes: Vec<Cause>, message: impl Into<String>) -> Status {
        Status::failure(409, "Conflict", message, Some(Details { causes, ..Details::default() }))
    }

    /// 410.
    pub fn gone(message: impl Into<String>) -> Status {
        Status::failure(410, "Gone", message, None)
    }

    /// 410: a resource version or continue token is too old.
    pub fn resource_expired(message: impl Into<String>) -> Status {
        Status::failure(410, "Expired", message, None)
    }

    /// 410: the revision of a list was compacted.
    pub fn list_expired() -> Status {
        Status::resource_expired("The resourceVersion for the provided list is too old.")
    }

    /// 410: the revision of a continue token was compacted. `continue_token`, if not empty, continues at the newest revision.
    pub fn continue_expired(continue_token: String) -> Status {
        let message = if continue_token.is_empty() {
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter."
        } else {
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."
        };
        Status { continue_token, ..Status::resource_expired(message) }
    }

    /// 410: a watch starts before the oldest event that is kept.
    pub fn watch_expired(requested: u64, oldest: u64) -> Status {
        Status::resource_expired(format!("too old resource version: {requested} ({oldest})"))
    }

    /// 422. `kind` is a kind, not a resource.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &ErrorList) -> Status {
        let mut message = format!("{} {} is invalid", Qualified { group, name: kind }, quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&field::aggregate(errors));
        }
        let mut status = Status::failure(422, "Invalid", message, details(group, kind, name));
        if let Some(details) = &mut status.details {
            details.causes =
                errors.iter().map(|e| Cause { reason: e.kind.reason().to_owned(), message: e.body(), field: e.field.clone() }).collect();
        }
        status
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::failure(400, "BadRequest", message, None)
    }

    /// 429; the client may come again after so many seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        Status::failure(429, "TooManyRequests", message, retry(retry_after_seconds))
    }

    /// 429 of the request limits, which say "Too many requests: …" and give no time.
    pub fn too_many_requests_error(message: &str) -> Status {
        Status::failure(429, "TooManyRequests", format!("Too many requests: {message}"), None)
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Status {
        Status::failure(503, "ServiceUnavailable", message, None)
    }

    /// 405: the resource has no such verb. `action` is the verb as a noun phrase, such as `create`.
    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Status {
        let message = format!("{action} is not supported on resources of kind {}", quote(&Qualified { group, name: resource }.to_string()));
        Status::failure(405, "MethodNotAllowed", message, details(group, resource, ""))
    }

    /// 500: the store did not answer in time; the operation stands as the details' name.
    pub fn server_timeout(group: &str, resource: &str, operation: &str, retry_after_seconds: u32) -> Status {
        let qualified = Qualified { group, name: resource };
        let message = format!("The {operation} operation against {qualified} could not be completed at this time, please try again.");
        let mut status = Status::failure(500, "ServerTimeout", message, details(group, resource, operation));
        if let Some(details) = &mut status.details {
            details.retry_after_seconds = retry_after_seconds;
        }
        status
    }

    /// 500 with "Internal error occurred: …".
    pub fn internal_error(why: &str) -> Status {
        let causes = vec![Cause { message: why.to_owned(), ..Cause::default() }];
        let details = Some(Details { causes, ..Details::default() });
        Status::failure(500, "InternalError", format!("Internal error occurred: {why}"), details)
    }

    /// 500 without a reason: what upstream answers for errors that carry no status of their own.
    pub fn unknown(message: impl Into<String>) -> Status {
        Status::failure(500, "", message, None)
    }

    /// 504 with "Timeout: …".
    pub fn timeout(message: &str, retry_after_seconds: u32) -> Status {
        Status::failure(504, "Timeout", format!("Timeout: {message}"), retry(retry_after_seconds))
    }

    /// 504: a read asks for a revision that this server has not seen.
    pub fn too_large_resource_version(minimum: u64, current: u64, retry_after_seconds: u32) -> Status {
        let mut status = Status::timeout(&format!("Too large resource version: {minimum}, current: {current}"), retry_after_seconds);
        if let Some(details) = &mut status.details {
            let message = "Too large resource version".to_owned();
            details.causes.push(Cause { reason: "ResourceVersionTooLarge".to_owned(), message, field: String::new() });
        }
        status
    }

    /// 413 with "Request entity too large: …".
    pub fn request_entity_too_large(message: &str) -> Status {
        Status::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"), None)
    }

    /// 406: none of the `Accept`ed media types can be served.
    pub fn not_acceptable(accepted: &[&str]) -> Status {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Status::failure(406, "NotAcceptable", message, None)
    }

    /// 406: what is asked for has no such form; `message` says why.
    pub fn no_such_form(message: impl Into<String>) -> Status {
        Status::failure(406, "NotAcceptable", message, None)
    }

    /// 406: the media type is known, but not for objects converted to `target` (a kind with its version).
    pub fn not_acceptable_conversion(target: &str, accepted: &[&str]) -> Status {
        let message = format!("only the following media types are accepted when converting to {target}: {}", accepted.join(", "));
        Status::failure(406, "NotAcceptable", message, None)
    }

    /// 415: the body's `Content-Type` is not one that can be read.
    pub fn unsupported_media_type(accepted: &[&str]) -> Status {
        let message = format!("the body of the request was in an unknown format - accepted media types include: {}", accepted.join(", "));
        Status::failure(415, "UnsupportedMediaType", message, None)
    }

    /// What a code alone says, as the server words it where no endpoint answers. `server_message` is shown only with some codes;
    /// `verb` is the HTTP method. Resource and name may be empty.
    pub fn generic(code: u16, verb: &str, group: &str, resource: &str, name: &str, server_message: &str) -> Status {
        let (reason, mut message) = generic_reason(code, verb, server_message);
        if !(group.is_empty() && resource.is_empty()) {
            let verb = verb.to_lowercase();
            let qualified = Qualified { group, name: resource };
            let object = if name.is_empty() { String::new() } else { format!(" {name}") };
            message.push_str(&format!(" ({verb} {qualified}{object})"));
        }
        Status::failure(code, reason, message, details(group, resource, name))
    }

    /// The object on the wire, in the order in which upstream writes its fields.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        text(&mut out, "kind", "Status");
        text(&mut out, "apiVersion", "v1");
        let mut metadata = Map::new();
        text(&mut metadata, "continue", &self.continue_token);
        out.insert("metadata".to_owned(), Value::Object(metadata));
        text(&mut out, "status", if self.is_success() { "Success" } else { "Failure" });
        text(&mut out, "message", &self.message);
        text(&mut out, "reason", &self.reason);
        if let Some(details) = &self.details {
            out.insert("details".to_owned(), details.to_value());
        }
        if self.code != 0 {
            out.insert("code".to_owned(), self.code.into());
        }
        Value::Object(out)
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut out = Map::new();
        text(&mut out, "name", &self.name);
        text(&mut out, "group", &self.group);
        text(&mut out, "kind", &self.kind);
        text(&mut out, "uid", &self.uid);
        if !self.causes.is_empty() {
            out.insert("causes".to_owned(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds != 0 {
            out.insert("retryAfterSeconds".to_owned(), self.retry_after_seconds.into());
        }
        Value::Object(out)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut out = Map::new();
        text(&mut out, "reason", &self.reason);
        text(&mut out, "message", &self.message);
        text(&mut out, "field", &self.field);
        Value::Object(out)
    }
}

fn text(out: &mut Map<String, Value>, field: &str, value: &str) {
    if !value.is_empty() {
        out.insert(field.to_owned(), value.into());
    }
}

fn generic_reason(code: u16, verb: &str, server_message: &str) -> (&'static str, String) {
    let (reason, message) = match code {
        400 => ("BadRequest", "the server rejected our request for an unknown reason"),
        401 => ("Unauthorized", "the server has asked for the client to provide credentials"),
        403 => ("Forbidden", server_message),
        404 => ("NotFound", "the server could not find the requested resource"),
        405 => ("MethodNotAllowed", "the server does not allow this method on the requested resource"),
        406 if matches!(server_message, "" | "unknown") => {
            ("NotAcceptable", "the server was unable to respond with a content type that the client supports")
        }
        406 => ("NotAcceptable", server_message),
        409 if verb == "POST" => ("AlreadyExists", "the server reported a conflict"),
        409 => ("Conflict", "the server reported a conflict"),
        415 => ("UnsupportedMediaType", server_message),
        422 => ("Invalid", "the server rejected our request due to an error in our request"),
        429 => ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504 => ("Timeout", "the server was unable to return a response in the time allotted, but may still be processing the request"),
        500.. => {
            let message = format!("an error on the server ({}) has prevented the request from succeeding", quote(server_message));
            return ("InternalError", message);
        }
        _ => return ("", format!("the server responded with the status code {code} but did not return more information")),
    };
    (reason, message.to_owned())
}

#[cfg(test)]
mod tests {
    use crate::field::{Error, Path};

    use super::*;

    fn check(status: &Status, expected: &str) {
        assert_eq!(status.to_value().to_string(), expected);
    }

    #[test]
    fn statuses_are_written_as_the_reference_server_writes_them() {
        check(
            &Status::not_found("", "configmaps", "absent"),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"configmaps \"absent\" not found","reason":"NotFound","details":{"name":"absent","kind":"configmaps"},"code":404}"#,
        );
        check(
            &Status::generic(404, "GET", "", "", "", ""),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"the server could not find the requested resource","reason":"NotFound","details":{},"code":404}"#,
        );
        check(
            &Status::forbidden("authorization.k8s.io", "subjectaccessreviews", "", "no"),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"subjectaccessreviews.authorization.k8s.io is forbidden: no","reason":"Forbidden","details":{"group":"authorization.k8s.io","kind":"subjectaccessreviews"},"code":403}"#,
        );
        check(
            &Status::unknown("resourceVersion should not be set on objects to be created"),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"resourceVersion should not be set on objects to be created","code":500}"#,
        );
        check(
            &Status::success(details("apps", "deployments", "d")),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","details":{"name":"d","group":"apps","kind":"deployments"}}"#,
        );
    }

    #[test]
    fn an_invalid_status_carries_a_cause_for_every_error() {
        let path = Path::new("spec");
        let errors = vec![Error::required(&path.child("a"), ""), Error::required(&path.child("a"), ""), Error::invalid(&path, 1, "no")];
        check(
            &Status::invalid("apps", "Deployment", "d", &errors),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Deployment.apps \"d\" is invalid: [spec.a: Required value, spec: Invalid value: 1: no]","reason":"Invalid","details":{"name":"d","group":"apps","kind":"Deployment","causes":[{"reason":"FieldValueRequired","message":"Required value","field":"spec.a"},{"reason":"FieldValueRequired","message":"Required value","field":"spec.a"},{"reason":"FieldValueInvalid","message":"Invalid value: 1: no","field":"spec"}]},"code":422}"#,
        );
        assert_eq!(Status::invalid("", "Pod", "p", &vec![]).message, "Pod \"p\" is invalid");
    }

    #[test]
    fn messages_follow_the_code_where_no_endpoint_answers() {
        let table = [
            (Status::generic(405, "PUT", "", "", "", ""), "the server does not allow this method on the requested resource"),
            (Status::generic(406, "GET", "", "", "", "406: Not Acceptable"), "406: Not Acceptable"),
            (Status::generic(409, "POST", "apps", "deployments", "d", ""), "the server reported a conflict (post deployments.apps d)"),
            (
                Status::generic(418, "GET", "", "pods", "", ""),
                "the server responded with the status code 418 but did not return more information (get pods)",
            ),
            (Status::generic(502, "GET", "", "", "", "x"), "an error on the server (\"x\") has prevented the request from succeeding"),
            (
                Status::method_not_supported("apps", "deployments", "create"),
                "create is not supported on resources of kind \"deployments.apps\"",
            ),
            (
                Status::server_timeout("", "pods", "list", 2),
                "The list operation against pods could not be completed at this time, please try again.",
            ),
            (Status::request_entity_too_large("limit is 3145728"), "Request entity too large: limit is 3145728"),
        ];
        for (status, message) in table {
            assert_eq!(status.message, message);
        }
    }
}
