//! What a request is refused with.

use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub cause: Option<&'static str>,
}

pub type Result<T> = std::result::Result<T, Failure>;

fn failure(code: u16, reason: &'static str, message: impl Into<String>) -> Failure {
    Failure { code, reason, message: message.into(), cause: None }
}

impl Failure {
    pub fn bad_request(message: impl Into<String>) -> Failure {
        failure(400, "BadRequest", message)
    }

    pub fn forbidden(message: impl Into<String>) -> Failure {
        failure(403, "Forbidden", message)
    }

    pub fn namespace_terminating(namespace: &str) -> Failure {
        let message = format!("unable to create new content in namespace {namespace} because it is being terminated");
        Failure { cause: Some("NamespaceTerminating"), ..failure(403, "Forbidden", message) }
    }

    pub fn not_found(what: &str) -> Failure {
        failure(404, "NotFound", format!("{what} not found"))
    }

    pub fn method_not_allowed() -> Failure {
        failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub fn already_exists(what: &str) -> Failure {
        failure(409, "AlreadyExists", format!("{what} already exists"))
    }

    pub fn conflict(what: &str) -> Failure {
        failure(409, "Conflict", format!("Operation cannot be fulfilled on {what}"))
    }

    pub fn unsupported_media_type() -> Failure {
        failure(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
    }

    pub fn invalid(message: impl Into<String>) -> Failure {
        failure(422, "Invalid", message)
    }

    pub fn too_many_requests(message: impl Into<String>) -> Failure {
        failure(429, "TooManyRequests", message)
    }

    pub fn internal_error() -> Failure {
        failure(500, "InternalError", "an error on the server has prevented the request from succeeding")
    }

    pub fn timeout() -> Failure {
        failure(504, "Timeout", "request did not complete within the allotted timeout")
    }

    pub fn expired() -> Failure {
        failure(410, "Expired", "too old resource version")
    }

    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(cause) = self.cause {
            status["details"] = json!({"causes": [{"reason": cause}]});
        }
        status
    }
}
