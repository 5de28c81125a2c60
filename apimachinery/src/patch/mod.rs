//! The three patch types other than apply: JSON patch, JSON merge patch and strategic merge patch.
//!
//! Each maps an object and a patch to an object, or to an error with upstream's answer. Decoding, defaulting and ownership of
//! the result are the caller's; server-side apply is in [`crate::managed_fields`].

mod directives;
pub mod json;
pub mod merge;
mod order;
pub mod restore;
pub mod strategic;

/// How upstream answers a refused patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 400, reason BadRequest, the error's text as the message.
    BadRequest,
    /// 413, reason RequestEntityTooLarge, the error's text as the message.
    TooLarge,
    /// 422, reason Invalid, empty details, and as the message "the server rejected our request due to an error in our
    /// request": the error's own text is not shown.
    Rejected,
    /// 500 without a reason, the error's text as the message.
    Internal,
}

/// The message of [`Answer::Rejected`].
pub const REJECTED: &str = "the server rejected our request due to an error in our request";
