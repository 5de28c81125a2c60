//! The base64 of `[]byte` fields.

use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

/// Standard base64 with padding, as forgiving as Go's `base64.StdEncoding`: leftover bits of the last character may be
/// set. (Go also passes over line breaks; callers remove them.)
pub const GO_STANDARD: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
