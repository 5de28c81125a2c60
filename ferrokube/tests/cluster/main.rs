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
mod exchanges;
mod hostile;
mod node;
mod objects;
mod process;
mod snapshot;
mod watching;
mod webhook_server;
