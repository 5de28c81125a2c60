//! How a call to the runtime fails: gRPC's code and the runtime's words.

use std::fmt;

/// gRPC's status codes, by the names that Go prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    Canceled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A failed call. It prints as a Go client prints it, since these words end up in events and conditions that people search for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {code} desc = {message}")]
pub struct Error {
    pub code: Code,
    pub message: String,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into() }
    }

    /// What was asked about does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Error {
        use tonic::Code as Grpc;
        let code = match status.code() {
            Grpc::Cancelled => Code::Canceled,
            Grpc::Ok | Grpc::Unknown => Code::Unknown,
            Grpc::InvalidArgument => Code::InvalidArgument,
            Grpc::DeadlineExceeded => Code::DeadlineExceeded,
            Grpc::NotFound => Code::NotFound,
            Grpc::AlreadyExists => Code::AlreadyExists,
            Grpc::PermissionDenied => Code::PermissionDenied,
            Grpc::ResourceExhausted => Code::ResourceExhausted,
            Grpc::FailedPrecondition => Code::FailedPrecondition,
            Grpc::Aborted => Code::Aborted,
            Grpc::OutOfRange => Code::OutOfRange,
            Grpc::Unimplemented => Code::Unimplemented,
            Grpc::Internal => Code::Internal,
            Grpc::Unavailable => Code::Unavailable,
            Grpc::DataLoss => Code::DataLoss,
            Grpc::Unauthenticated => Code::Unauthenticated,
        };
        Error { code, message: status.message().to_owned() }
    }
}

/// A call that must succeed where the object may be gone already.
pub fn or_gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_prints_as_a_go_client_prints_it() {
        let error = Error::from(tonic::Status::not_found("no such container"));
        assert_eq!(error.to_string(), "rpc error: code = NotFound desc = no such container");
        assert!(error.is_not_found());
    }
}
