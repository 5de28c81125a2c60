//! SPDY/3.1 as Kubernetes speaks it: a client's connection with a few streams, to kubelets and through them to runtimes.
//!
//! Knows frames and streams, nothing of what they carry. Like the Go implementation at the other end, it keeps no windows: a
//! stream that is not read holds up its connection.

mod connection;
mod dictionary;
mod frame;
mod headers;

pub use connection::{Connection, Error, Reader, Writer};

/// Frames, for whoever plays the server in a test.
#[cfg(test)]
pub mod testing {
    pub use super::frame::{Control, Decoder, Encoder, Head, data_head};
}
