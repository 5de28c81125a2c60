//! Tokens: what is not exactly a token that the server has signed is nobody's.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use super::{Random, Target, WHO, named, seeds};

const CASES: u64 = 400;
const HUGE: usize = 200_000;

/// Somebody who signs tokens, and whom nobody knows.
struct Forger(EcdsaKeyPair);

impl Forger {
    fn new() -> Forger {
        let random = ring::rand::SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        Forger(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).expect("a key"))
    }

    fn sign(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.0.sign(&ring::rand::SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The key as a token's header may carry it.
    fn key(&self) -> Value {
        let point = self.0.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]), "use": "sig"})
    }
}

fn decoded(segment: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segment).expect("base64")).expect("JSON")
}

/// A token that is like the genuine one, with something wrong in it.
fn forged(random: &mut Random, genuine: &str, forger: &Forger) -> Vec<u8> {
    let segments: Vec<&str> = genuine.split('.').collect();
    let (mut header, mut payload, signature) = (decoded(segments[0]), decoded(segments[1]), segments[2]);
    let extreme = |random: &mut Random| {
        let values = [
            json!(-1),
            json!(0),
            json!(1e300),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(4e18),
            json!("x"),
            json!(null),
            json!([]),
            json!({"a": {}}),
        ];
        random.one_of(&values).clone()
    };
    match random.below(11) {
        0 => {
            let mut bytes = genuine.as_bytes().to_vec();
            random.mutate(&mut bytes);
            return bytes;
        }
        1 => {
            let mut parts: Vec<String> = segments.iter().map(ToString::to_string).collect();
            for _ in 0..=random.below(3) {
                let at = random.below(parts.len());
                match random.below(5) {
                    0 => drop(parts.remove(at)),
                    1 => parts.insert(at, String::new()),
                    2 => parts[at].push('='),
                    3 => parts[at] = parts[at].replace('-', "+").replace('_', "/") + "==",
                    _ => parts.reverse(),
                }
                if parts.is_empty() {
                    break;
                }
            }
            return parts.join(".").into_bytes();
        }
        2 => {
            let names = ["none", "None", "nOnE", "", "HS256", "HS512", "RS512", "PS256", "ES256", "EdDSA", "rs256"];
            header["alg"] = json!(random.one_of(&names));
            let last = *random.one_of(&["", signature, "AAAA"]);
            return [URL_SAFE_NO_PAD.encode(header.to_string()), segments[1].to_owned(), last.to_owned()].join(".").into_bytes();
        }
        // From here on they are signed, by the forger.
        3 => {
            let ids = ["../../../dev/null", "' OR 1=1 --", "\0", "http://127.0.0.1:1/", "\u{202e}", ""];
            header["kid"] = json!(*random.one_of(&ids));
        }
        4 => header["kid"] = json!("k".repeat(random.below(HUGE))),
        5 => header["kid"] = extreme(random),
        6 => header["jwk"] = forger.key(),
        7 => {
            let name = *random.one_of(&["jku", "x5u", "x5c", "crit", "zip", "b64", "typ", "cty", "enc"]);
            header[name] = [json!("https://127.0.0.1:1/keys"), json!(["exp"]), json!(false), json!("JWE")][random.below(4)].clone();
        }
        8 => {
            let claim = *random.one_of(&["exp", "nbf", "iat", "iss", "aud", "sub", "jti", "kubernetes.io"]);
            payload[claim] = extreme(random);
        }
        9 => {
            let users = ["system:admin", "system:serviceaccount:kube-system:default", "system:node:a", "\u{0}", "system:masters"];
            payload["sub"] = json!(*random.one_of(&users));
            let doubled = payload.to_string().replacen('{', r#"{"sub":"system:serviceaccount:default:robot","sub":"x","#, 1);
            return forger.sign(&header.to_string(), &doubled).into_bytes();
        }
        _ => {
            let deep = "[".repeat(random.below(HUGE / 2));
            return forger.sign(&header.to_string(), &deep).into_bytes();
        }
    }
    if random.below(2) == 0 {
        header["alg"] = json!("ES256");
        return forger.sign(&header.to_string(), &payload.to_string()).into_bytes();
    }
    [URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload.to_string()), signature.to_owned()].join(".").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_but_a_genuine_one_is_believed() {
    let target = Target::start(&[]).await;
    let (genuine, forger) = (target.robot().await, Forger::new());
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let request = |token: &[u8]| {
        let length = review.len();
        let head = format!(
            "POST {WHO} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nAuthorization: Bearer "
        );
        [head.as_bytes(), token, b"\r\n\r\n", review.as_bytes()].concat()
    };
    let mut connection = target.way.connect("http/1.1").await;
    assert!(connection.write(&request(genuine.as_bytes())).await);
    let own = named("the genuine one", &connection.answer().await.expect("an answer")).expect("it is believed");
    let mut refused = 0;
    for seed in seeds(CASES) {
        let token = forged(&mut Random(seed), &genuine, &forger);
        let answer = if connection.write(&request(&token)).await { connection.answer().await } else { None };
        let case = format!("token of seed {seed}");
        match answer {
            Some(answer) => match named(&case, &answer) {
                // A change that changes nothing, or that ends the header before the token does.
                Some(user) => assert_eq!(user, own, "{case}: {}", String::from_utf8_lossy(&token)),
                None => refused += 1,
            },
            None => refused += 1,
        }
        // Bytes that end a header leave the connection in the middle of something.
        connection = target.way.connect("http/1.1").await;
    }
    assert!(refused > CASES / 2);
    target.is_well("after tokens").await;
}
