//! The binary from outside: a real process, its kubeconfig, an unmodified client library.

mod crash;
mod objects;
mod process;
mod watching;
