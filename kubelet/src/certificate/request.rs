//! What a kubelet asks for: a signing request for its node's own name.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use rcgen::{CertificateParams, DistinguishedName, DnType, PublicKeyData};
use ring::digest;

pub use rcgen::KeyPair;

/// Who signs client certificates of kubelets.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const GROUP: &str = "system:nodes";
/// All that a key for elliptic curves is good for.
const USAGES: [&str; 2] = ["digital signature", "client auth"];

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

/// A request for the certificate by which a node's kubelet is known.
pub fn client(node_name: &str, key: &KeyPair, named: Named) -> Result<CertificateSigningRequest, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, GROUP);
    params.distinguished_name.push(DnType::CommonName, user(node_name));
    let mut request = CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: ByteString(params.serialize_request(key)?.pem()?.into_bytes()),
            signer_name: CLIENT_SIGNER.to_owned(),
            usages: Some(USAGES.map(str::to_owned).to_vec()),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    match named {
        Named::ByContent => request.metadata.name = Some(digested_name(&key.subject_public_key_info(), &user(node_name))),
        Named::Generated => request.metadata.generate_name = Some("csr-".to_owned()),
    }
    Ok(request)
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
