//! Named formats of texts: `format.dns1123Label().validate('x')`.

use apimachinery::validation::{is_dns1035_label, is_dns1123_label, is_dns1123_subdomain, is_qualified_name, is_valid_label_value};

use super::{Row, time, url};
use crate::value::{EvalError, Evaluated, Value};

/// A format: what is wrong with a text, and the size of the expression that stands for its cost.
pub struct Format {
    pub(crate) name: &'static str,
    pub(crate) max_regex_size: u64,
    errors: fn(&str) -> Vec<String>,
}

const fn format(name: &'static str, max_regex_size: u64, errors: fn(&str) -> Vec<String>) -> Format {
    Format { name, max_regex_size, errors }
}

static DNS1123_LABEL: Format = format("DNS1123Label", 30, is_dns1123_label);
static DNS1123_SUBDOMAIN: Format = format("DNS1123Subdomain", 60, is_dns1123_subdomain);
static DNS1035_LABEL: Format = format("DNS1035Label", 30, is_dns1035_label);
static QUALIFIED_NAME: Format = format("QualifiedName", 60, is_qualified_name);
static DNS1123_LABEL_PREFIX: Format = format("DNS1123LabelPrefix", 30, |text| is_dns1123_label(&as_prefix(text)));
static DNS1123_SUBDOMAIN_PREFIX: Format = format("DNS1123SubdomainPrefix", 60, |text| is_dns1123_subdomain(&as_prefix(text)));
static DNS1035_LABEL_PREFIX: Format = format("DNS1035LabelPrefix", 30, |text| is_dns1035_label(&as_prefix(text)));
static LABEL_VALUE: Format = format("LabelValue", 40, is_valid_label_value);
static URI: Format = format("URI", 1103, |text| url::parse_request_uri(text).err().into_iter().collect());
static UUID: Format = format("uuid", 70, |text| unless(is_uuid(text), "does not match the UUID format"));
static BYTE: Format = format("byte", 84, |text| unless(is_base64(text), "invalid base64"));
static DATE: Format = format("date", 71, |text| unless(time::parse_date(text).is_some(), "invalid date"));
static DATE_TIME: Format = format("datetime", 71, |text| unless(time::parse_date_time(text).is_some(), "invalid datetime"));

static NAMED: [(&str, &Format); 13] = [
    ("dns1123Label", &DNS1123_LABEL),
    ("dns1123Subdomain", &DNS1123_SUBDOMAIN),
    ("dns1035Label", &DNS1035_LABEL),
    ("qualifiedName", &QUALIFIED_NAME),
    ("dns1123LabelPrefix", &DNS1123_LABEL_PREFIX),
    ("dns1123SubdomainPrefix", &DNS1123_SUBDOMAIN_PREFIX),
    ("dns1035LabelPrefix", &DNS1035_LABEL_PREFIX),
    ("labelValue", &LABEL_VALUE),
    ("uri", &URI),
    ("uuid", &UUID),
    ("byte", &BYTE),
    ("date", &DATE),
    ("datetime", &DATE_TIME),
];

pub(super) const ROWS: &[Row] = &[
    ("validate", "format-validate", "kubernetes.NamedFormat.(string) -> optional(list(string))", validate),
    ("format.named", "format-named", "(string) -> optional(kubernetes.NamedFormat)", named),
    ("format.dns1123Label", "format.dns1123Label", "() -> kubernetes.NamedFormat", |_| Ok(Value::Format(&DNS1123_LABEL))),
    ("format.dns1123Subdomain", "format.dns1123Subdomain", "() -> kubernetes.NamedFormat", |_| Ok(Value::Format(&DNS1123_SUBDOMAIN))),
    ("format.dns1035Label", "format.dns1035Label", "() -> kubernetes.NamedFormat", |_| Ok(Value::Format(&DNS1035_LABEL))),
    ("format.qualifiedName", "format.qualifiedName", "() -> kubernetes.NamedFormat", |_| Ok(Value::Format(&QUALIFIED_NAME))),
    ("format.dns1123LabelPrefix", "format.dns1123LabelPrefix", "() -> kubernetes.NamedFormat", |_| {
        Ok(Value::Format(&DNS1123_LABEL_PREFIX))
    }),
    ("format.dns1123SubdomainPrefix", "format.dns1123SubdomainPrefix", "() -> kubernetes.NamedFormat", |_| {
        Ok(Value::Format(&DNS1123_SUBDOMAIN_PREFIX))
    }),
    ("format.dns1035LabelPrefix", "format.dns1035LabelPrefix", "() -> kubernetes.NamedFormat", |_| {
        Ok(Value::Format(&DNS1035_LABEL_PREFIX))
    }),
    ("format.labelValue", "format.labelValue", "() -> kubernetes.NamedFormat", |_| Ok(Value::Format(&LABEL_VALUE))),
    ("format.uri", "format.uri", "() -> kubernetes.NamedFormat", |_| Ok(Value::Format(&URI))),
    ("format.uuid", "format.uuid", "() -> kubernetes.NamedFormat", |_| Ok(Value::Format(&UUID))),
    ("format.byte", "format.byte", "() -> kubernetes.NamedFormat", |_| Ok(Value::Format(&BYTE))),
    ("format.date", "format.date", "() -> kubernetes.NamedFormat", |_| Ok(Value::Format(&DATE))),
    ("format.datetime", "format.datetime", "() -> kubernetes.NamedFormat", |_| Ok(Value::Format(&DATE_TIME))),
];

/// A name that something will be added to may end with a dash.
fn as_prefix(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) if text.len() > 1 && rest.is_char_boundary(rest.len() - 1) => format!("{}a", &rest[..rest.len() - 1]),
        _ => text.to_owned(),
    }
}

fn unless(good: bool, error: &str) -> Vec<String> {
    if good { Vec::new() } else { vec![error.to_owned()] }
}

fn is_base64(text: &str) -> bool {
    use base64::Engine;
    !text.is_empty() && apimachinery::base64::GO_STANDARD.decode(text).is_ok()
}

fn is_uuid(text: &str) -> bool {
    let mut rest = text.as_bytes();
    for (index, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if index > 0 && rest.first() == Some(&b'-') {
            rest = &rest[1..];
        }
        if rest.len() < length || !rest[..length].iter().all(u8::is_ascii_hexdigit) {
            return false;
        }
        rest = &rest[length..];
    }
    rest.is_empty()
}

fn validate<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (Value::Format(format), Some(text)) = (&args[0], args[1].as_str()) else { return Err(EvalError::no_such_overload()) };
    let errors = (format.errors)(text);
    if errors.is_empty() {
        return Ok(Value::Optional(None));
    }
    Ok(Value::some(Value::list(errors.into_iter().map(Value::string).collect())))
}

fn named<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let name = args[0].as_str().ok_or_else(EvalError::no_such_overload)?;
    let found = NAMED.iter().find(|(known, _)| *known == name);
    Ok(found.map_or(Value::Optional(None), |(_, format)| Value::some(Value::Format(format))))
}
