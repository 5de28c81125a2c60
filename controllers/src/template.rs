//! Pod templates as versions of a workload: when two are the same, and short names for them.
//!
//! The hashes are opaque to everybody; what makes a version the same is [`is_same`], never its hash.

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// The label by which the ReplicaSets of a Deployment, and their pods, are told apart.
pub const HASH_LABEL: &str = "pod-template-hash";

/// Whether two templates make the same pods, but for the label that a Deployment adds.
pub fn is_same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    a.spec == b.spec && without_hash(a) == without_hash(b)
}

/// The template's metadata without the label, in one form: what is empty is absent.
fn without_hash(template: &PodTemplateSpec) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
    let mut metadata = template.metadata.clone().unwrap_or_default();
    if let Some(labels) = &mut metadata.labels {
        labels.remove(HASH_LABEL);
    }
    metadata.labels = metadata.labels.filter(|labels| !labels.is_empty());
    metadata.annotations = metadata.annotations.filter(|annotations| !annotations.is_empty());
    metadata.finalizers = metadata.finalizers.filter(|finalizers| !finalizers.is_empty());
    metadata.creation_timestamp = None;
    metadata
}

/// A short name for a template. `collisions` makes another one when the name is taken.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> Result<String, serde_json::Error> {
    let mut bytes = serde_json::to_vec(template)?;
    bytes.extend(collisions.unwrap_or(0).to_le_bytes());
    Ok(name_of(fnv1a(&bytes)))
}

/// A number in letters and digits that form no words.
pub fn name_of(hash: u32) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// FNV-1a with 32 bits.
pub fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(labels: &[(&str, &str)], image: &str) -> PodTemplateSpec {
        let mut template = PodTemplateSpec::default();
        template.metadata.get_or_insert_default().labels =
            Some(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect());
        template.spec.get_or_insert_default().node_name = Some(image.to_owned());
        template
    }

    #[test]
    fn the_hash_label_makes_no_difference() {
        let plain = template(&[("app", "web")], "1");
        assert!(is_same(&plain, &template(&[("app", "web"), (HASH_LABEL, "x")], "1")));
        assert!(!is_same(&plain, &template(&[("app", "web")], "2")));
        assert!(!is_same(&plain, &template(&[("app", "db")], "1")));
        let mut bare = plain.clone();
        bare.metadata = None;
        assert!(is_same(&bare, &template(&[(HASH_LABEL, "x")], "1")));
    }

    #[test]
    fn hashes_differ_by_template_and_by_collisions() {
        let (one, two) = (template(&[], "1"), template(&[], "2"));
        let hash = |template: &PodTemplateSpec, collisions| hash(template, collisions).unwrap();
        let again = one.clone();
        assert_eq!(hash(&one, None), hash(&again, None));
        assert_ne!(hash(&one, None), hash(&two, None));
        assert_ne!(hash(&one, None), hash(&one, Some(1)));
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
        assert_eq!(name_of(1_234_567_890), "56789bcdf4");
    }
}
