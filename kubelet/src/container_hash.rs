//! The hash by which a running container is recognized as the one that its pod asks for: of its name and image, upstream's number.

use k8s_openapi::api::core::v1::Container;

const OFFSET: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;

/// FNV-1a over the way Go's spew prints the bytes of the JSON object with these two fields.
pub fn of(container: &Container) -> u64 {
    let quote = |text: &str| apimachinery::json::to_string(&serde_json::Value::String(text.to_owned()));
    let image = quote(container.image.as_deref().unwrap_or(""));
    let json = format!(r#"{{"image":{image},"name":{}}}"#, quote(&container.name));
    let bytes: Vec<String> = json.bytes().map(|byte| byte.to_string()).collect();
    let printed = format!("([]uint8)[{}]", bytes.join(" "));
    let hash = printed.bytes().fold(OFFSET, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(PRIME));
    u64::from(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_upstreams_number() {
        for (name, image, expected) in [("nginx", "nginx:1.25", 0x5d0e_8bc9), ("a<b", "img&x", 0x80f5_5e02)] {
            let container = Container { name: name.to_owned(), image: Some(image.to_owned()), ..Default::default() };
            assert_eq!(of(&container), expected, "{name}");
        }
    }
}
