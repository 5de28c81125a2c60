//! Defaults of authentication.k8s.io/v1 that stand in no marker.

use crate::registry::defaulting::{Hook, set_if_unset};

pub static DEFAULTS: &[Hook] =
    &[("io.k8s.api.authentication.v1.TokenRequestSpec", |spec| set_if_unset(spec, "expirationSeconds", 60 * 60))];
