//! The binary from outside: a real process, its kubeconfig, an unmodified client library.

mod access;
mod aggregation;
mod audit;
mod bootstrap;
mod codecs;
mod components;
mod conversion;
mod conversion_load;
mod conversion_webhook;
mod crash;
mod encryption;
mod etcd;
mod exchanges;
mod hostile;
mod kms_plugin;
mod node;
mod objects;
mod operator;
mod policy_status;
mod process;
mod projects;
mod snapshot;
mod watching;
mod webhook_server;
