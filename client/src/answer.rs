//! What a failed request means to whoever sent it.

use kube::Error;

fn has_reason(error: &Error, reason: &str) -> bool {
    matches!(error, Error::Api(status) if status.reason == reason)
}

/// The object is not there (or its namespace, or the resource itself).
pub fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 404)
}

/// Somebody else wrote the object meanwhile.
pub fn is_conflict(error: &Error) -> bool {
    has_reason(error, "Conflict")
}

/// There is an object of that name.
pub fn is_already_exists(error: &Error) -> bool {
    has_reason(error, "AlreadyExists")
}

/// The object breaks a rule; the same request will fail again.
pub fn is_invalid(error: &Error) -> bool {
    has_reason(error, "Invalid")
}

pub fn is_forbidden(error: &Error) -> bool {
    has_reason(error, "Forbidden")
}

/// The namespace is being deleted, so that nothing can be created in it.
pub fn is_namespace_terminating(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.reason == "Forbidden"
        && status.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating")))
}

/// Nothing if the object was not there, which is what a deletion wants.
pub fn or_absent<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
