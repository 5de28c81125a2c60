//! Who may approve, sign and attest for a signer: what the certificate plugins share.

use apimachinery::base64::GO_STANDARD;
use base64::Engine;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

use super::{Attributes, Lookup};
use crate::filters::authorization::Decision;
use crate::filters::request_info::RequestInfo;

pub const GROUP: &str = "certificates.k8s.io";

/// Whether the user may do this for the signer, or for all signers of its domain.
pub fn may(attributes: &Attributes<'_>, lookup: &dyn Lookup, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or(signer);
    let allowed = |name: String| {
        let request = RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..RequestInfo::default()
        };
        matches!(lookup.authorize(attributes.user, &request), Decision::Allow(_))
    };
    allowed(signer.to_owned()) || allowed(format!("{domain}/*"))
}

/// The subject of a certificate signing request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
}

/// Reads a request as a CertificateSigningRequest carries it: base64 of PEM.
pub fn subject(request: &str) -> Result<Subject, String> {
    let pem = GO_STANDARD.decode(request).unwrap_or_default();
    let block = Pem::iter_from_buffer(&pem).flatten().next().filter(|block| block.label == "CERTIFICATE REQUEST");
    let block = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    let (_, parsed) = X509CertificationRequest::from_der(&block.contents).map_err(|e| e.to_string())?;
    let subject = &parsed.certification_request_info.subject;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().unwrap_or("").to_owned();
    Ok(Subject {
        common_name: subject.iter_common_name().last().map(text).unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect(),
    })
}

#[cfg(test)]
pub mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    /// A request in the form that objects carry.
    pub fn request(common_name: &str, organization: &str) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        let key = KeyPair::generate().unwrap();
        GO_STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap())
    }

    #[test]
    fn the_subject_is_read_from_the_request() {
        let expected = Subject { common_name: "a".to_owned(), organizations: vec!["b".to_owned()] };
        assert_eq!(subject(&request("a", "b")), Ok(expected));
        assert_eq!(subject("bm9uc2Vuc2U=").unwrap_err(), "PEM block type must be CERTIFICATE REQUEST");
    }
}
