//! How long it takes to say what a user may do, and whose a token or a certificate is. `cargo run --release -p apiserver --example decisions`.
//!
//! 10,000 RoleBindings, spread over a hundred namespaces and all in one; a certificate and a token that were verified before, and the
//! token for the first time.

use std::hint::black_box;
use std::io::Write as _;
use std::time::{Duration, Instant};

use apiserver::filters::authentication::{TokenVerifier, User};
use apiserver::filters::authorization::{Authorizer, Decision};
use apiserver::filters::client_certificate::ClientCertificates;
use apiserver::filters::request_info::RequestInfo;
use apiserver::rbac::Rbac;
use apiserver::rbac::index::{Index, Kind};
use apiserver::tokens::claims::{Claims, Ref};
use apiserver::tokens::verify::{Found, KnownSignatures, Objects, Verifier};
use apiserver::tokens::{Config, Issuer, legacy};
use futures::FutureExt as _;
use http::Method;
use jiff::Timestamp;
use rustls::RootCertStore;
use serde_json::{Value, json};

const BINDINGS: usize = 10_000;
const ROUNDS: usize = 20_000;

/// A role in each namespace, and bindings of it to a user and an account each.
fn roles(namespaces: usize) -> Rbac {
    let mut index = Index::default();
    let role = json!({ "rules": [
        { "verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["pods", "pods/log", "configmaps"] },
        { "verbs": ["*"], "apiGroups": ["apps"], "resources": ["deployments"] },
    ] });
    for namespace in 0..namespaces {
        index.set(Kind::Role, &format!("ns-{namespace}"), "reader", Some(&role));
    }
    for i in 0..BINDINGS {
        let binding = json!({
            "roleRef": { "kind": "Role", "name": "reader" },
            "subjects": [{ "kind": "User", "name": format!("user-{i}") }, { "kind": "ServiceAccount", "name": format!("robot-{i}") }],
        });
        index.set(Kind::Binding, &format!("ns-{}", i % namespaces), &format!("binding-{i}"), Some(&binding));
    }
    Rbac::of(index)
}

/// There is everything that a token names.
struct Everything;

impl Objects for Everything {
    fn find(&self, _resource: &str, _namespace: &str, _name: &str) -> Option<Found> {
        Some(Found { uid: "1".to_owned(), deleted_at: None })
    }

    fn read(&self, _resource: &str, _namespace: &str, _name: &str) -> Option<Value> {
        None
    }
}

/// Tokens as pods have them, each of an issuer that has not seen it.
fn tokens(out: &mut impl std::io::Write) -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let issuer = Issuer::start(&Config::default(), directory.path()).now_or_never().ok_or("keys are read at once")??;
    while issuer.keys.now().is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let now = Timestamp::now().as_second();
    let token = |n: usize| {
        let claims = Claims {
            issuer: issuer.name().to_owned(),
            audiences: issuer.audiences.clone(),
            id: format!("jti-{n}"),
            issued_at: now,
            not_before: now,
            expires_at: now + 3600,
            namespace: "default".to_owned(),
            account: Ref::new("robot", "1"),
            pod: Some(Ref::new("pod", "1")),
            node: Some(Ref::new("node", "1")),
            ..Claims::default()
        };
        issuer.keys.sign(&claims.to_payload()).now_or_never().ok_or("the key is there")?
    };
    const NEW: usize = 500;
    let all = (0..NEW + NEW / 10).map(token).collect::<Result<Vec<String>, _>>()?;
    let verifier = Verifier { issuer, objects: Everything, last_used: legacy::last_used().0, known: KnownSignatures::default() };
    let verified = |token: &str| black_box(verifier.verify(token, None)).now_or_never().is_some_and(|it| it.is_ok_and(|it| it.is_some()));
    let mut next = all.iter();
    let taken = each(NEW, |_| assert!(next.next().is_some_and(|token| verified(token))));
    writeln!(out, "a token of a service account for the first time: {taken:?}")?;
    let taken = each(ROUNDS, |_| assert!(verified(&all[0])));
    writeln!(out, "a token that was verified before: {taken:?}")?;
    Ok(())
}

fn each(rounds: usize, mut work: impl FnMut(usize)) -> Duration {
    (0..rounds / 10).for_each(&mut work);
    let since = Instant::now();
    (0..rounds).for_each(&mut work);
    since.elapsed() / u32::try_from(rounds).unwrap_or(u32::MAX)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout();
    for namespaces in [100, 1] {
        let rbac = roles(namespaces);
        for (verb, method) in [("allowed", Method::GET), ("refused", Method::DELETE)] {
            let asked: Vec<(User, RequestInfo)> = (0..BINDINGS)
                .map(|i| {
                    let groups = vec!["system:authenticated".to_owned()];
                    let path = format!("/api/v1/namespaces/ns-{}/pods/p", i % namespaces);
                    (User { name: format!("user-{i}"), groups, ..User::default() }, RequestInfo::parse(&method, &path, ""))
                })
                .collect();
            let mut allowed = 0;
            let taken = each(ROUNDS, |i| {
                let (user, request) = &asked[i * 7919 % BINDINGS];
                allowed += usize::from(matches!(black_box(rbac.authorize(user, request)), Decision::Allow(_)));
            });
            assert_eq!(allowed > 0, verb == "allowed");
            writeln!(out, "{BINDINGS} RoleBindings in {namespaces} namespaces, {verb}: {taken:?} a decision")?;
        }
    }

    let key = rcgen::KeyPair::generate()?;
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&key)?;
    let issuer = rcgen::Issuer::new(parameters, key);
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "ann");
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let shown = [parameters.signed_by(&rcgen::KeyPair::generate()?, &issuer)?.der().clone()];
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone())?;
    let known = ClientCertificates::certified_by(roots)?.ok_or("there is an authority")?;
    let taken = each(ROUNDS, |_| assert!(black_box(known.check(&shown)).is_ok()));
    writeln!(out, "a certificate that was verified before: {taken:?}")?;
    tokens(&mut out)
}
