//! The binary from outside: a real process, its kubeconfig, an unmodified client library.

mod access;
mod aggregation;
mod bootstrap;
mod codecs;
mod components;
mod conversion;
mod conversion_load;
mod conversion_webhook;
mod crash;
mod etcd;
mod node;
mod objects;
mod process;
mod snapshot;
mod watching;
