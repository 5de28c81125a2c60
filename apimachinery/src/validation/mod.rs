//! Content checks shared by every kind: names, labels, addresses, selectors, object metadata.
//!
//! Owns the wording of these checks, which carries the specification's regular expressions as text; the checks
//! themselves are scanners. Two families of functions: those on a bare string return messages without a place,
//! those that take a [`Path`](crate::field::Path) return field errors. Knows no kind.

mod conditions;
mod formats;
mod ip;
mod labels;
mod meta;
mod names;
mod options;
mod values;

pub use conditions::{is_valid_condition_reason, validate_condition, validate_conditions};
pub use formats::{
    extended_resource_name, is_c_identifier, is_decimal_integer, is_prefixed_label_key, long_name, long_name_caseless,
    resource_fully_qualified_name, resource_pool_name, short_name, uuid,
};
pub use ip::{
    Cidr, Ip, get_warnings_for_cidr, get_warnings_for_ip, is_valid_cidr, is_valid_cidr_for_legacy_field, is_valid_interface_address,
    is_valid_ip, is_valid_ip_for_legacy_field,
};
pub use labels::{
    LabelSelectorOptions, label_selector_has_invalid_label_value, validate_annotations, validate_label_name, validate_label_selector,
    validate_label_selector_requirement, validate_labels,
};
pub use meta::{FinalizerRule, MetaRules, validate_finalizer_name, validate_object_meta, validate_object_meta_update};
pub use names::{
    is_config_map_key, is_dns1035_label, is_dns1123_label, is_dns1123_subdomain, is_dns1123_subdomain_with_underscore,
    is_domain_prefixed_key, is_domain_prefixed_path, is_env_var_name, is_fully_qualified_domain_name, is_fully_qualified_name,
    is_http_header_name, is_qualified_name, is_relaxed_env_var_name, is_valid_label_value, is_valid_path_segment_name,
    is_valid_path_segment_prefix, is_wildcard_dns1123_subdomain, name_is_dns_label, name_is_dns_subdomain, name_is_dns1035_label,
    validate_path_segment_name,
};
pub use options::{validate_delete_options, validate_dry_run, validate_field_manager, validate_field_validation, validate_managed_fields};
pub use values::{
    is_in_range, is_valid_group_id, is_valid_percent, is_valid_port_name, is_valid_port_num, is_valid_user_id, validate_immutable_field,
    validate_nonnegative_field, validate_positive_field,
};

/// The detail of an error on a field that may not change.
pub const FIELD_IMMUTABLE: &str = "field is immutable";
/// The detail of an error on a number that may not be negative.
pub const IS_NEGATIVE: &str = "must be greater than or equal to 0";

/// The message for a string of more than `length` characters.
pub fn max_len_error(length: usize) -> String {
    format!("must be no more than {length} characters")
}

/// The message for a string of more than `length` bytes, where the check is one of the declarative formats.
pub fn max_bytes_error(length: usize) -> String {
    format!("must be no more than {length} bytes")
}

/// The message for a string that does not match `regex`; the examples are valid strings.
pub fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{regex}')");
    }
    let mut out = format!("{message} (e.g. ");
    for (i, example) in examples.iter().enumerate() {
        if i > 0 {
            out.push_str(" or ");
        }
        out.push('\'');
        out.push_str(example);
        out.push_str("', ");
    }
    out.push_str("regex used for validation is '");
    out.push_str(regex);
    out.push_str("')");
    out
}

/// The message for a string that may not be empty.
pub const fn empty_error() -> &'static str {
    "must be non-empty"
}

/// The message for a number outside `lo..=hi`.
pub fn inclusive_range_error(lo: i64, hi: i64) -> String {
    format!("must be between {lo} and {hi}, inclusive")
}
