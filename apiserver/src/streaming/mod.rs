//! Connections that have been upgraded: SPDY, WebSocket, and the translation of one into the other.
//!
//! Clients speak WebSocket to the API server where runtimes speak SPDY. Nothing here knows the API's objects, nor who may do what.

pub mod bytes_out;
pub mod remote_command;
pub mod spdy;
pub mod splice;
pub mod tunnel;
pub mod web_socket;
