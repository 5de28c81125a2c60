//! Client certificates: what an authority has not signed as it is, and for clients, certifies nobody.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};

use super::{Random, Target, WHO, named, seeds};

const CASES: u64 = 150;

fn parameters(name: &str, groups: &[&str]) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    for (i, group) in groups.iter().enumerate() {
        // rcgen keeps one value a type; organizations are told apart by hand.
        let kind = if i == 0 { DnType::OrganizationName } else { DnType::CustomDnType(vec![2, 5, 4, 10, i as u64]) };
        parameters.distinguished_name.push(kind, *group);
    }
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    parameters
}

struct Authority(Issuer<'static, KeyPair>, String);

fn authority(name: &str) -> Authority {
    let mut parameters = parameters(name, &[]);
    parameters.extended_key_usages.clear();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = parameters.self_signed(&key).expect("a certificate").pem();
    Authority(Issuer::new(parameters, key), certificate)
}

/// A chain and the key of its first certificate, which nobody checks to be one.
fn shown(chain: Vec<Vec<u8>>, key: &KeyPair) -> Arc<CertifiedKey> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    Arc::new(CertifiedKey::new(chain, any_supported_type(&key).expect("a key")))
}

/// Who one is who shows this; `None` if the server ends the handshake or refuses the request.
async fn who(target: &Target, case: &str, shown: Arc<CertifiedKey>) -> Option<Value> {
    let mut connection = target.way.connect_as("http/1.1", Some(shown)).await.ok()?;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let length = review.len();
    let request = format!("POST {WHO} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{review}");
    connection.write(request.as_bytes()).await;
    named(case, &connection.answer().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_but_a_signed_one_for_clients_is_believed() {
    let directory = tempfile::tempdir().expect("a folder");
    let (users, strangers) = (authority("users"), authority("users"));
    let file = directory.path().join("users.pem");
    std::fs::write(&file, &users.1).expect("a file");
    let target = Target::start(&[&format!("--client-ca-file={}", file.display())]).await;
    let key = KeyPair::generate().expect("a key");
    let signed = |parameters: CertificateParams, by: &Authority| parameters.signed_by(&key, &by.0).expect("a certificate").der().to_vec();

    let genuine = signed(parameters("fuzz", &["team"]), &users);
    let own = who(&target, "the genuine one", shown(vec![genuine.clone()], &key)).await.expect("it is believed");
    assert_eq!((&own["username"], &own["groups"]), (&json!("fuzz"), &json!(["team", "system:authenticated"])));

    let masters = || parameters("root", &["system:masters"]);
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let mut parameters = masters();
        change(&mut parameters);
        parameters
    };
    let unknown = |critical: bool| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        extension.set_criticality(critical);
        extension
    };
    let other_key = KeyPair::generate().expect("a key");
    // One who is certified as a user certifies others.
    let middle = parameters("fuzz", &["team"]);
    let by_a_user = Issuer::new(middle, &key);
    let of_a_user = masters().signed_by(&other_key, &by_a_user).expect("a certificate").der().to_vec();
    let year = |year: i32| rcgen::date_time_ymd(year, 1, 1);
    for (case, chain, key) in [
        ("of another authority of the same name", vec![signed(masters(), &strangers)], &key),
        ("of its own", vec![masters().self_signed(&key).expect("a certificate").der().to_vec()], &key),
        ("for servers", vec![signed(with(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]), &users)], &key),
        ("that has ended", vec![signed(with(&|p| p.not_after = year(2001)), &users)], &key),
        ("of the future", vec![signed(with(&|p| p.not_before = year(2400)), &users)], &key),
        ("with an unknown critical extension", vec![signed(with(&|p| p.custom_extensions = vec![unknown(true)]), &users)], &key),
        ("with somebody else's key", vec![signed(masters(), &users)], &other_key),
        ("of a user", vec![of_a_user, genuine.clone()], &other_key),
        ("that is none", vec![Vec::new()], &key),
        ("after a genuine one, whose key it has not", vec![genuine.clone(), signed(masters(), &strangers)], &other_key),
    ] {
        assert_eq!(who(&target, case, shown(chain, key)).await, None, "one {case} is believed");
    }

    for name in
        ["", "\u{0}", "a\r\nX-Remote-User: root", "system:masters", "\u{202e}toor", &"n".repeat(60_000), "%s%n", "\u{fffd}", " fuzz"]
    {
        let case = format!("named {:?}", &name[..name.len().min(20)]);
        let certificate = signed(parameters(name, &["system:nodes", "\n", "\u{0}"]), &users);
        if let Some(user) = who(&target, &case, shown(vec![certificate], &key)).await {
            assert_eq!(user["username"], name, "one {case} is taken for somebody else");
        }
    }

    for seed in seeds(CASES) {
        let mut random = Random(seed);
        let mut certificate = genuine.clone();
        random.mutate(&mut certificate);
        let case = format!("certificate of seed {seed}");
        if let Some(user) = who(&target, &case, shown(vec![certificate], &key)).await {
            assert_eq!(user["username"], own["username"], "{case}");
            assert_eq!(user["groups"], own["groups"], "{case}");
        }
    }
    target.is_well("after certificates").await;
}
