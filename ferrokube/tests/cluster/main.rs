//! The binary from outside: a real process, its kubeconfig, an unmodified client library.

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
mod operator;
mod process;
mod projects;
mod snapshot;
mod watching;
