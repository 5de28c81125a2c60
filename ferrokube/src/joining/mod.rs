//! How machines become nodes of a running cluster: tokens, what the cluster publishes for those who hold one, and what they make of it.
//!
//! Objects and their names are kubeadm's, so that a node that kubeadm would join can join here, and the other way round.
//! [`policy`] is the cluster's side, [`discovery`], [`join`] and [`leave`] the node's, [`token`] what both agree on.

pub mod discovery;
pub mod join;
pub mod leave;
pub mod policy;
pub mod token;
pub mod token_command;
