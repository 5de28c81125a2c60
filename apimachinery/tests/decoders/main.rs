//! The readers of foreign bytes, with examples that chance has mutated: always the same ones, in a second or so for each reader.
//! `FERROKUBE_MUTATIONS` asks for more of them.

#[path = "../../src/managed_fields/property_tests/chance.rs"]
#[expect(dead_code, reason = "other tests choose in more ways")]
mod chance;
mod targets;

use std::panic::catch_unwind;

use chance::Chance;
use targets::TARGETS;

/// Mutations of each example in one run of the test.
const MUTATIONS: usize = 300;
/// What changes meaning wherever it stands.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\n",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"18446744073709551616",
    b"0.1",
    b"&a ",
    b"*a",
    b"<<: ",
    b"- ",
    b"? ",
    b"|",
    b"!!int ",
    b"$patch",
    b"$setElementOrder/",
    b"$retainKeys",
    b"in (a,b)",
    b"!=",
    b"notin",
    b"Ki",
    b"e-30",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\x0a\x7f",
    b"\x12\x00",
    b"1h",
    b"9223372036854775807",
    b"L",
    b"@every ",
    b"*/",
    b"~1",
    b"/-",
];

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"1"}},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80,"protocol":"TCP"}],"env":[{"name":"A","value":"1"}],"resources":{"requests":{"cpu":"100m"}}}],"tolerations":[{"key":"k","tolerationSeconds":5}]}}"#;

/// Examples for every target: what is one reader's is now and then another's too.
fn examples() -> Vec<Vec<u8>> {
    let texts: [&str; 26] = [
        POD,
        "{\"a\":[1,-2.5,1e3,true,null,\"\\u00e9\\n\"],\"b\":{\"c\":{}},\"b\":1}",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {x: 'y'}}\ndata:\n  a: |\n    one\n    two\n  b: >-\n    x\n  c: \"\\x41\\u00e9\"\n",
        "a: &x [1, 0x1f, 0o17, .inf, 2001-01-01, ~, yes]\nb: *x\nc:\n- - d\n  - ? e\n    : f\n--- \nz: 1\n",
        "a=1,b!=2,c in (x,y),d notin (z),e,!f,g>1,h<2",
        "metadata.name=a,spec.nodeName!=b\\,c,status.phase==Running",
        "1.5Gi",
        "100m",
        "-1e3",
        "12E",
        "0.000000001",
        "1h2m3.5s",
        "-1.5us",
        "2020-01-01T00:00:00.123456Z",
        "2020-02-30T25:61:00+23:59",
        "*/5 1-10/2 * JAN-MAR ?",
        "@every 1h30m",
        "TZ=Europe/Berlin 0 0 1 1 *",
        "\x000\x01",
        "{\"data\":{\"a\":\"b\"}}\n{\"data\":{\"a\":null,\"c\":\"d\"}}",
        "{\"a\":[1,2]}\n[{\"op\":\"add\",\"path\":\"/a/-\",\"value\":3},{\"op\":\"move\",\"from\":\"/a/0\",\"path\":\"/b\"},{\"op\":\"test\",\"path\":\"/a~1\",\"value\":1}]",
        "{\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}\n{\"spec\":{\"$setElementOrder/containers\":[{\"name\":\"d\"},{\"name\":\"c\"}],\"containers\":[{\"name\":\"c\",\"$patch\":\"delete\"},{\"name\":\"d\",\"image\":\"j\"}]}}",
        "{\"spec\":{\"ports\":[{\"port\":80,\"protocol\":\"TCP\"}],\"externalIPs\":[\"a\"]}}\n{\"spec\":{\"$deleteFromPrimitiveList/externalIPs\":[\"a\"],\"ports\":[{\"port\":80,\"$patch\":\"replace\"}],\"$retainKeys\":[\"ports\"]}}",
        "\x01{\"spec\":{\"replicas\":1,\"selector\":{\"matchLabels\":{\"a\":\"b\"}},\"strategy\":{\"rollingUpdate\":{\"maxSurge\":\"25%\"}},\"template\":{\"spec\":{\"containers\":null}}}}",
        "\x03{\"binaryData\":{\"a\":\"AP8=\"},\"immutable\":false,\"data\":{}}",
        "\x05{\"spec\":{\"schedule\":\"* * * * *\",\"jobTemplate\":{\"spec\":{\"template\":{\"spec\":{\"restartPolicy\":\"Never\"}}}}}}",
    ];
    let mut all: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    all.push([b"\0", POD.as_bytes()].concat());
    for object in [POD, r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"s"},"spec":{"ports":[{"port":81,"targetPort":"web"}]}}"#]
    {
        let object = serde_json::from_str(object).expect("JSON");
        all.push(apimachinery::protobuf::builtin().encode_object(&object).expect("an object"));
    }
    all
}

fn mutate(data: &mut Vec<u8>, others: &[Vec<u8>], chance: &mut Chance) {
    for _ in 0..=chance.below(4) {
        let at = chance.below(data.len() + 1);
        let end = (at + chance.below(8)).min(data.len());
        match chance.below(6) {
            0 if at < data.len() => data[at] ^= 1 << chance.below(8),
            1 => drop(data.drain(at..end)),
            2 => {
                let part = data[at..end].to_vec();
                data.splice(at..at, part);
            }
            3 => {
                let other = &others[chance.below(others.len())];
                let from = chance.below(other.len() + 1);
                let to = (from + chance.below(16)).min(other.len());
                data.splice(at..at, other[from..to].iter().copied());
            }
            4 => data.truncate(at.max(1)),
            _ => {
                data.splice(at..end, TOKENS[chance.below(TOKENS.len())].iter().copied());
            }
        }
    }
}

#[test]
fn bytes_that_chance_has_made_break_no_reader() {
    let mutations = std::env::var("FERROKUBE_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(MUTATIONS);
    let examples = examples();
    let mut broken = Vec::new();
    for (name, target) in TARGETS {
        let mut chance = Chance::new(7);
        let mutated = examples.iter().flat_map(|example| std::iter::repeat_n(example, mutations));
        let found = mutated.into_iter().find_map(|example| {
            let mut data = example.clone();
            mutate(&mut data, &examples, &mut chance);
            catch_unwind(|| target(&data)).is_err().then(|| data.escape_ascii().to_string())
        });
        broken.extend(found.map(|data| format!("{name}: {data}")));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
