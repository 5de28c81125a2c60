//! The binary from outside: a real process, its kubeconfig, an unmodified client library.

mod bootstrap;
mod codecs;
mod components;
mod crash;
mod etcd;
mod node;
mod objects;
mod process;
mod snapshot;
mod watching;
