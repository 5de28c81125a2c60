//! The main job on real containers: what `kubectl apply -f deployment.yaml` leads to, until nothing is left of it.
//!
//! Needs root, containerd, runc, CNI plugins, iptables, a static busybox, docker-registry and skopeo, so these tests run only where they
//! are asked for (`make test` does, and says so where the machine cannot).

mod asking;
mod faults;
mod fields;
mod host;
mod image;
mod job;
mod joining;
mod machine;
mod place;
mod policies;
mod registry;
mod stories;
