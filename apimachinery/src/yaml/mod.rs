//! YAML to and from JSON values, as `sigs.k8s.io/yaml` reads and prints it (YAML 1.1: `on`, `no`, `0o7`, `<<`).
//!
//! Owns how scalars resolve, how duplicate keys are reported and how objects are laid out as text. The syntax itself
//! is read by the parser that serde-saphyr brings. Never looks at what an object means.

mod decode;
mod emit;
mod go_syntax;
mod number;
mod order;
mod parse;
mod plain_json;
mod resolve;

pub use emit::to_string;

use serde_json::Value;

/// Text that is no YAML, or YAML that has no JSON form. Callers that upstream lets say so put
/// `error converting YAML to JSON: ` before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// A document read leniently, and what a strict reader would have said.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Maps are sorted by key; of equal keys the last counts.
    pub value: Value,
    /// The error for duplicate keys, if there are any: `yaml: unmarshal errors:` and a line for each.
    pub strict_error: Option<Error>,
}

/// Reads the first document of the text. Empty text is `null`.
pub fn parse(text: &[u8]) -> Result<Parsed, Error> {
    match plain_json::read(text) {
        Some(value) => Ok(Parsed { value, strict_error: None }),
        None => read_yaml(text),
    }
}

fn read_yaml(text: &[u8]) -> Result<Parsed, Error> {
    let text = parse::check_characters(text)?;
    decode::decode(&parse::parse(text)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Value {
        parse(text.as_bytes()).expect(text).value
    }

    fn error(text: &str) -> String {
        parse(text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn scalars_resolve_as_in_yaml_1_1() {
        for (text, expected) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("on", json!(true)),
            ("No", json!(false)),
            ("'no'", json!("no")),
            ("0o7", json!(7)),
            ("010", json!(8)),
            ("0x1F", json!(31)),
            ("-0b11", json!(-3)),
            ("1_000", json!(1000)),
            ("1e3", json!(1000)),
            ("1.50", json!(1.5)),
            (".5", json!(0.5)),
            ("18446744073709551615", json!(u64::MAX)),
            ("1.2.3", json!("1.2.3")),
            ("10:30", json!("10:30")),
            ("2020-01-01", json!("2020-01-01")),
            ("!!str 5", json!("5")),
            ("!!float 5", json!(5)),
            ("!!binary aGk=", json!("hi")),
            ("!custom 5", json!("5")),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn keys_become_sorted_strings() {
        assert_eq!(value("n: 2\nb: 1\n1: x\n1.5: z\n").to_string(), r#"{"1":"x","1.5":"z","b":1,"false":2}"#);
        assert_eq!(error("? [a]\n: 1"), r#"yaml: invalid map key: []interface {}{"a"}"#);
        assert_eq!(error("{{ .x }}"), r#"yaml: invalid map key: map[interface {}]interface {}{".x":interface {}(nil)}"#);
        assert_eq!(error("~: 1"), "unsupported map key of type: %!s(<nil>), key: <nil>, value: 1");
    }

    #[test]
    fn anchors_and_merges_expand_within_bounds() {
        assert_eq!(value("a: &x {k: 1, l: 2}\nb:\n  <<: *x\n  l: 3\n"), json!({"a": {"k": 1, "l": 2}, "b": {"k": 1, "l": 3}}));
        assert_eq!(error("a: *x"), "yaml: unknown anchor 'x' referenced");
        assert_eq!(error("a: &x [*x]"), "yaml: anchor 'x' value contains itself");
        assert_eq!(error("a: {<<: 1}"), "yaml: map merge requires map or sequence of maps as the value");
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..9 {
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","));
        }
        assert_eq!(error(&bomb), "yaml: document contains excessive aliasing");
    }

    #[test]
    fn errors_read_as_upstream() {
        assert_eq!(error("{"), "yaml: line 1: did not find expected node content");
        assert_eq!(error("a: b: c"), "yaml: mapping values are not allowed in this context");
        assert_eq!(error("a: 1\nb: c: d\n"), "yaml: line 2: mapping values are not allowed in this context");
        assert_eq!(error("a:\n\t- b"), "yaml: line 2: found character that cannot start any token");
        assert_eq!(error("a: \u{1}"), "yaml: control characters are not allowed");
        assert_eq!(error("a: .inf"), "json: unsupported value: +Inf");
        assert_eq!(parse(b"a: \xff").expect_err("refused").to_string(), "yaml: invalid leading UTF-8 octet");
        let nested = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        assert_eq!(error(&nested), "yaml: exceeded max depth of 10000");
    }

    #[test]
    fn duplicate_keys_are_reported_and_the_last_counts() {
        let parsed = parse(b"a: 1\nb:\n  c: 1\n  c: 2\na: 3\n").expect("reads");
        assert_eq!(parsed.value, json!({"a": 3, "b": {"c": 2}}));
        assert_eq!(
            parsed.strict_error.expect("duplicates").to_string(),
            "yaml: unmarshal errors:\n  line 4: key \"c\" already set in map\n  line 5: key \"a\" already set in map"
        );
    }

    #[test]
    fn text_is_laid_out_as_upstream() {
        let object = json!({
            "b": [1, {"x": [], "y": {}}, ["n"]], "a10": "true", "a9": "a: b", "multi": "line\nline\n", "none": null, "empty": "",
            "time": "2020-01-01T00:00:00Z", "float": 1500000.5, "tail ": "x\n\n", "emoji": "\u{1f600}", "long": "word ".repeat(20),
        });
        let text = "a9: 'a: b'\na10: \"true\"\nb:\n- 1\n- x: []\n  \"y\": {}\n- - \"n\"\nemoji: \"\\U0001F600\"\nempty: \"\"\nfloat: 1.5000005e+06\n\
                    long: LONG\n\
                    multi: |\n  line\n  line\nnone: null\n'tail ': |+\n  x\n\ntime: \"2020-01-01T00:00:00Z\"\n";
        let text = text.replace("LONG", &format!("'{}\n  {}'", ["word"; 15].join(" "), "word ".repeat(5)));
        assert_eq!(to_string(&object), text);
        assert_eq!(value(&text), object);
    }
}
