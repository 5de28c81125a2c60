//! What the API says about its types and fields: the text of `kubectl explain`, of OpenAPI documents and of many
//! Table columns. The build script gathers it; nothing here writes prose of its own.

use std::collections::HashMap;
use std::io::Read;
use std::sync::LazyLock;

static COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.gz"));

/// By definition: the field's name (empty for the definition itself) and its description, sorted by name.
static DESCRIPTIONS: LazyLock<HashMap<&'static str, Vec<(&'static str, &'static str)>>> = LazyLock::new(|| {
    let mut text = String::new();
    flate2::read::GzDecoder::new(COMPRESSED).read_to_string(&mut text).expect("the build script wrote UTF-8 and compressed it");
    // Kept for the life of the process, like the table of types.
    read(Box::leak(text.into_boxed_str()))
});

fn read(text: &'static str) -> HashMap<&'static str, Vec<(&'static str, &'static str)>> {
    let mut out: HashMap<_, Vec<_>> = HashMap::new();
    let mut definition = "";
    for line in text.lines() {
        let Some((name, description)) = line.split_once('\t') else { continue };
        let field = match name.strip_prefix('=') {
            Some(opened) => {
                definition = opened;
                ""
            }
            None => name,
        };
        if !description.is_empty() {
            out.entry(definition).or_default().push((field, unescape(description)));
        }
    }
    out
}

fn unescape(text: &'static str) -> &'static str {
    if !text.contains('\\') {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(if chars.next() == Some('n') { '\n' } else { '\\' }),
            c => out.push(c),
        }
    }
    Box::leak(out.into_boxed_str())
}

const ANY_TOP_LEVEL: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

fn find(definition: &str, name: &str) -> Option<&'static str> {
    let fields = DESCRIPTIONS.get(definition)?;
    let at = fields.binary_search_by_key(&name, |(name, _)| name).ok()?;
    Some(fields[at].1)
}

/// The description of a definition (`io.k8s.api.core.v1.Pod`) or of one of its fields. `None` where there is none.
pub fn description(definition: &str, field: Option<&str>) -> Option<&'static str> {
    let found = find(definition, field.unwrap_or(""));
    // `kind` and `apiVersion` say the same everywhere.
    found.or_else(|| field.filter(|field| matches!(*field, "kind" | "apiVersion")).and_then(|field| find(ANY_TOP_LEVEL, field)))
}

/// What the values of a field mean, where OpenAPI says it: it follows the description.
pub fn meanings(definition: &str, field: &str) -> Option<&'static str> {
    find(definition, &format!("+{field}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::builtin;

    #[test]
    fn types_and_fields_are_described() {
        let name = description("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", Some("name")).expect("a description");
        assert!(name.starts_with("Name must be unique within a namespace."), "{name}");
        let volume = description("io.k8s.api.core.v1.Volume", Some("hostPath")).expect("a description");
        assert!(volume.starts_with("hostPath represents"), "{volume}");
        assert!(description("io.k8s.api.core.v1.PodSpec", None).is_some());
        assert_eq!(description("io.k8s.api.core.v1.PodSpec", Some("nosuch")), None);
        assert!(description("io.k8s.api.core.v1.PodList", Some("kind")).is_some());
        assert_eq!(description("io.k8s.api.core.v1.PodList", None), Some("PodList is a list of Pods."));
        let limit = description("io.k8s.apimachinery.pkg.apis.meta.v1.ListOptions", Some("limit")).expect("a description");
        assert!(limit.starts_with("limit is a maximum number of responses"), "{limit}");
        assert_eq!(description("io.k8s.apimachinery.pkg.apis.meta.v1.ListOptions", None), None);
        let protocols = meanings("io.k8s.api.core.v1.ContainerPort", "protocol").expect("values");
        assert!(protocols.starts_with("\n\nPossible enum values:\n - `\"SCTP\"` is the SCTP protocol."), "{protocols}");
        assert!(DESCRIPTIONS.values().flatten().any(|(_, text)| text.contains("\n\n")), "paragraphs are kept");
    }

    #[test]
    fn few_published_fields_lack_a_description() {
        // The JSON schema of CRDs describes itself nowhere.
        let described = builtin().iter().filter(|(_, s)| description(&s.name, None).is_some() && &*s.go_name != "JSONSchemaProps");
        let (mut all, mut missing) = (0, Vec::new());
        for (_, s) in described {
            for f in &s.fields {
                all += 1;
                if description(&s.name, Some(&f.json)).is_none() {
                    missing.push(format!("{} {}", s.name, f.json));
                }
            }
        }
        assert!(all > 2000 && missing.len() < 20, "{} of {all}: {missing:?}", missing.len());
    }
}
