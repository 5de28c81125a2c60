//! What a kubelet asks for: a signing request for its node's own name, and for what the node is reached by.

use std::collections::BTreeSet;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::NodeAddress;
use rcgen::{CertificateParams, DistinguishedName, DnType, PublicKeyData, SanType};
use ring::digest;

pub use rcgen::KeyPair;

/// Who signs client certificates of kubelets.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Who signs what kubelets serve with.
pub const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
const GROUP: &str = "system:nodes";
/// All that a key for elliptic curves is good for.
const USAGES: [&str; 2] = ["digital signature", "client auth"];
const SERVING_USAGES: [&str; 2] = ["digital signature", "server auth"];

/// How a request is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// By what it asks for: asked twice, it is the same request.
    ByContent,
    /// By the server.
    Generated,
}

/// The user that a node is.
pub fn user(node_name: &str) -> String {
    format!("system:node:{node_name}")
}

/// What a node is reached by, each in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub dns: BTreeSet<String>,
    pub ips: BTreeSet<IpAddr>,
}

impl Names {
    pub fn of(addresses: &[NodeAddress]) -> Names {
        let mut names = Names::default();
        for NodeAddress { address, type_ } in addresses {
            match (type_.as_str(), address.parse()) {
                ("Hostname" | "InternalIP" | "ExternalIP", Ok(ip)) => drop(names.ips.insert(ip)),
                ("Hostname" | "InternalDNS" | "ExternalDNS", _) if !address.is_empty() => drop(names.dns.insert(address.clone())),
                _ => {}
            }
        }
        names
    }

    /// Whether it is reached at all.
    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.ips.is_empty()
    }
}

/// A request for the certificate by which a node's kubelet is known.
pub fn client(node_name: &str, key: &KeyPair, named: Named) -> Result<CertificateSigningRequest, rcgen::Error> {
    let mut request = of_node(node_name, key, Vec::new(), CLIENT_SIGNER, USAGES)?;
    match named {
        Named::ByContent => request.metadata.name = Some(digested_name(&key.subject_public_key_info(), &user(node_name))),
        Named::Generated => request.metadata.generate_name = Some("csr-".to_owned()),
    }
    Ok(request)
}

/// A request for the certificate that a node's kubelet serves with, at these names.
pub fn serving(node_name: &str, key: &KeyPair, names: &Names) -> Result<CertificateSigningRequest, rcgen::Error> {
    let dns = names.dns.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
    let ips = names.ips.iter().map(|ip| Ok(SanType::IpAddress(*ip)));
    let names = dns.chain(ips).collect::<Result<Vec<_>, rcgen::Error>>()?;
    let mut request = of_node(node_name, key, names, SERVING_SIGNER, SERVING_USAGES)?;
    request.metadata.generate_name = Some("csr-".to_owned());
    Ok(request)
}

fn of_node(
    node_name: &str,
    key: &KeyPair,
    names: Vec<SanType>,
    signer: &str,
    usages: [&str; 2],
) -> Result<CertificateSigningRequest, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, GROUP);
    params.distinguished_name.push(DnType::CommonName, user(node_name));
    params.subject_alt_names = names;
    Ok(CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: ByteString(params.serialize_request(key)?.pem()?.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(usages.map(str::to_owned).to_vec()),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    })
}

/// A name that two requests share exactly if they ask for the same; each part is encoded, so that no two lists of parts read alike.
fn digested_name(public_key: &[u8], user: &str) -> String {
    let parts = [public_key, user.as_bytes(), GROUP.as_bytes()].into_iter().chain(USAGES.map(str::as_bytes));
    let mut digest = digest::Context::new(&digest::SHA512_256);
    for part in parts {
        digest.update(URL_SAFE_NO_PAD.encode(part).as_bytes());
        digest.update(b"|");
    }
    format!("node-csr-{}", URL_SAFE_NO_PAD.encode(digest.finish()))
}

#[cfg(test)]
mod tests {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::pem::parse_x509_pem;
    use x509_parser::prelude::FromDer;

    use super::*;

    #[test]
    fn a_request_is_for_the_nodes_user_and_group() {
        let key = KeyPair::generate().unwrap();
        let request = client("a", &key, Named::Generated).unwrap();
        assert_eq!((request.metadata.name, request.metadata.generate_name.as_deref()), (None, Some("csr-")));
        let (_, pem) = parse_x509_pem(&request.spec.request.0).unwrap();
        assert_eq!(pem.label, "CERTIFICATE REQUEST");
        let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        parsed.verify_signature().unwrap();
        assert_eq!(parsed.certification_request_info.subject.to_string(), "O=system:nodes, CN=system:node:a");
    }

    #[test]
    fn a_node_serves_at_its_addresses() {
        let addresses =
            [("InternalIP", "10.0.0.1"), ("Hostname", "a"), ("InternalDNS", "a.b"), ("ExternalIP", "no"), ("InternalIP", "10.0.0.1")];
        let addresses = addresses.map(|(type_, address)| NodeAddress { type_: type_.to_owned(), address: address.to_owned() });
        let names = Names::of(&addresses);
        let expected = Names { dns: ["a".to_owned(), "a.b".to_owned()].into(), ips: ["10.0.0.1".parse().unwrap()].into() };
        assert_eq!(names, expected);
        assert!(Names::of(&[]).is_empty() && !names.is_empty());
        let request = serving("a", &KeyPair::generate().unwrap(), &names).unwrap();
        assert_eq!(request.spec.signer_name, SERVING_SIGNER);
        assert_eq!(request.spec.usages.unwrap(), ["digital signature", "server auth"]);
        let (_, pem) = parse_x509_pem(&request.spec.request.0).unwrap();
        let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        let extensions = parsed.requested_extensions().unwrap().map(|extension| format!("{extension:?}")).collect::<String>();
        assert!(extensions.contains("DNSName(\"a.b\")"), "{extensions}");
    }

    #[test]
    fn one_key_and_node_make_one_name() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let name = |node: &str, key: &KeyPair| client(node, key, Named::ByContent).unwrap().metadata.name.unwrap();
        assert_eq!(name("a", &key), name("a", &key));
        assert_ne!(name("a", &key), name("b", &key));
        assert_ne!(name("a", &key), name("a", &other));
        assert_eq!(name("a", &key).len(), "node-csr-".len() + 43);
    }

    #[test]
    fn a_name_is_the_one_that_the_reference_gives() {
        // SHA-512/256 of "a2V5|dXNlcg|c3lzdGVtOm5vZGVz|ZGlnaXRhbCBzaWduYXR1cmU|Y2xpZW50IGF1dGg|".
        assert_eq!(digested_name(b"key", "user"), "node-csr-c44ErbUmFFj2as4lUPU5m3ARwZ6pZpqmLaYYtJGESX4");
    }
}
