//! The kernel's packet filter, spoken to directly: tables, chains, rules and sets of nf_tables, written in transactions.
//!
//! Knows nothing of Services, policies or pods: what is to be written is the business of those who write.

pub mod batch;
pub mod expression;
pub mod family;
pub mod key;
pub mod netlink;
pub mod rule;
