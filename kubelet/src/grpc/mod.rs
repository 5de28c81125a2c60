//! gRPC over unix sockets, as plugins on this node speak it: calls to them, and services for them.
//!
//! Carries messages; knows none. The runtime's transport is not here ([`crate::cri`]).

pub mod client;
pub mod server;

pub use client::Socket;

/// A status as Go's errors print it.
pub fn told(status: &tonic::Status) -> String {
    let code = match status.code() {
        tonic::Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}
