//! What a failed request says, in the words of the server: events and conditions quote these.

use kube::Error;

/// The server's message if it answered, else what went wrong on the way.
pub fn message(error: &Error) -> String {
    match error {
        Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether the server knows the resource but not what was asked of it.
pub fn is_method_not_supported(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 405)
}
