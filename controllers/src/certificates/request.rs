//! What a certificate signing request asks for: PKCS #10 in PEM.

use std::net::IpAddr;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// A name that the certificate is to be for, beside its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlternativeName {
    Dns(String),
    Email(String),
    Ip(IpAddr),
    Uri(String),
}

/// A request that was signed with its own key.
#[derive(Clone, Debug)]
pub struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    /// In the order in which certificates list them: DNS names, e-mail addresses, IP addresses, URIs.
    pub names: Vec<AlternativeName>,
    /// The subject, DER, as it is to be in the certificate.
    pub subject: Vec<u8>,
    /// The public key with its algorithm, DER.
    pub public_key: Vec<u8>,
}

impl Request {
    /// Reads the PEM text of a request. Whether it is signed rightly is asked when it is signed for.
    pub fn parse(text: &[u8]) -> Result<Request, String> {
        let pem = block(text).ok_or("PEM block type must be CERTIFICATE REQUEST")?;
        read(&parsed(&pem)?)
    }

    /// Reads the PEM text of a request that must be signed with its own key.
    pub fn parse_signed(text: &[u8]) -> Result<Request, String> {
        let pem = block(text).ok_or("PEM block type must be CERTIFICATE REQUEST")?;
        let request = parsed(&pem)?;
        request.verify_signature().map_err(|error| format!("unable to verify certificate request signature: {error}"))?;
        read(&request)
    }

    pub fn dns_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter_map(|name| match name {
            AlternativeName::Dns(name) => Some(name.as_str()),
            _ => None,
        })
    }

    fn has(&self, kind: impl Fn(&AlternativeName) -> bool) -> bool {
        self.names.iter().any(kind)
    }

    pub fn has_ips(&self) -> bool {
        self.has(|name| matches!(name, AlternativeName::Ip(_)))
    }

    pub fn has_emails(&self) -> bool {
        self.has(|name| matches!(name, AlternativeName::Email(_)))
    }

    pub fn has_uris(&self) -> bool {
        self.has(|name| matches!(name, AlternativeName::Uri(_)))
    }
}

/// The first block of the text, if it is a request.
fn block(text: &[u8]) -> Option<Vec<u8>> {
    let pem = x509_parser::pem::Pem::iter_from_buffer(text).next()?.ok()?;
    (pem.label == "CERTIFICATE REQUEST").then_some(pem.contents)
}

fn parsed(der: &[u8]) -> Result<X509CertificationRequest<'_>, String> {
    match X509CertificationRequest::from_der(der) {
        Ok(([], request)) => Ok(request),
        Ok(_) => Err("asn1: syntax error: trailing data".to_owned()),
        Err(error) => Err(format!("asn1: structure error: {error}")),
    }
}

fn read(request: &X509CertificationRequest<'_>) -> Result<Request, String> {
    let info = &request.certification_request_info;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().map(str::to_owned);
    let words = |result: Result<Vec<String>, x509_parser::error::X509Error>| result.map_err(|error| format!("malformed subject: {error}"));
    let common_names = words(info.subject.iter_common_name().map(text).collect())?;
    let mut names = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(alternative) = extension {
            for name in &alternative.general_names {
                names.extend(alternative_name(name)?);
            }
        }
    }
    names.sort_by_key(|name| match name {
        AlternativeName::Dns(_) => 0,
        AlternativeName::Email(_) => 1,
        AlternativeName::Ip(_) => 2,
        AlternativeName::Uri(_) => 3,
    });
    Ok(Request {
        // Of several the last counts, as Go reads them.
        common_name: common_names.last().cloned().unwrap_or_default(),
        organizations: words(info.subject.iter_organization().map(text).collect())?,
        names,
        subject: info.subject.as_raw().to_vec(),
        public_key: info.subject_pki.raw.to_vec(),
    })
}

/// Kinds of names that certificates of ours do not carry are left out.
fn alternative_name(name: &GeneralName<'_>) -> Result<Option<AlternativeName>, String> {
    Ok(Some(match name {
        GeneralName::DNSName(name) => AlternativeName::Dns((*name).to_owned()),
        GeneralName::RFC822Name(name) => AlternativeName::Email((*name).to_owned()),
        GeneralName::URI(name) => AlternativeName::Uri((*name).to_owned()),
        GeneralName::IPAddress(bytes) => AlternativeName::Ip(match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).map(IpAddr::from).map_err(|error| error.to_string())?,
            16 => <[u8; 16]>::try_from(*bytes).map(IpAddr::from).map_err(|error| error.to_string())?,
            length => return Err(format!("x509: cannot parse IP address of length {length}")),
        }),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
pub mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    /// The PEM text of a request.
    pub fn text(common_name: &str, organization: &str, names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if !organization.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap().into_bytes()
    }

    #[test]
    fn a_request_says_who_and_for_which_names() {
        let dns = SanType::DnsName("n1.example".try_into().unwrap());
        let text = text("system:node:n1", "system:nodes", vec![SanType::IpAddress([10, 0, 0, 1].into()), dns]);
        let request = Request::parse_signed(&text).unwrap();
        assert_eq!(
            (request.common_name.as_str(), request.organizations.as_slice()),
            ("system:node:n1", ["system:nodes".to_owned()].as_slice())
        );
        assert_eq!(request.names, [AlternativeName::Dns("n1.example".into()), AlternativeName::Ip([10, 0, 0, 1].into())]);
        assert_eq!(request.dns_names().collect::<Vec<_>>(), ["n1.example"]);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let expect = "PEM block type must be CERTIFICATE REQUEST";
        assert_eq!(Request::parse(b"nonsense").unwrap_err(), expect);
        assert_eq!(Request::parse(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap_err(), expect);
        let broken = b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
        assert!(Request::parse(broken).unwrap_err().starts_with("asn1: structure error"));
    }
}
