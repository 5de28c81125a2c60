//! A certificate authority: signs for the names and the key of a request, and decides everything else itself.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::der;
use super::request::{AlternativeName, Request};
use super::signing_key::{self, SigningKey};
use super::usages::Usages;

/// Certificates are valid from so long ago on, for those whose clocks are late.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Certificates for less than this are not shortened by that.
const SHORT: Duration = Duration::from_secs(8 * 60 * 60);
/// Nobody gets a certificate for less.
const SHORTEST: Duration = Duration::from_secs(10 * 60);
/// Bytes of a serial number.
const SERIAL_BYTES: usize = 16;

const KEY_USAGE: [u32; 4] = [2, 5, 29, 15];
const SUBJECT_ALTERNATIVE_NAME: [u32; 4] = [2, 5, 29, 17];
const BASIC_CONSTRAINTS: [u32; 4] = [2, 5, 29, 19];
const AUTHORITY_KEY_IDENTIFIER: [u32; 4] = [2, 5, 29, 35];
const EXTENDED_KEY_USAGE: [u32; 4] = [2, 5, 29, 37];

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error("no certificate in {0}")]
    NoCertificate(String),
    #[error(transparent)]
    Key(#[from] signing_key::Error),
    #[error("private key does not match public key")]
    Mismatch,
    #[error("{0}")]
    Request(String),
    #[error("the signer has expired: NotAfter={0}")]
    Expired(Timestamp),
    #[error("time out of range")]
    Time,
}

/// A CA's certificate and key.
pub struct Authority {
    key: SigningKey,
    /// DER.
    subject: Vec<u8>,
    key_identifier: Option<Vec<u8>>,
    not_after: Timestamp,
}

/// What is asked of a signature beside what the request says.
pub struct Policy<'a> {
    pub usages: &'a [String],
    pub valid_for: Duration,
    pub now: Timestamp,
    pub serial: [u8; SERIAL_BYTES],
}

/// How long a certificate is good for: what is asked for, but neither more than `longest` nor less than ten minutes.
pub fn duration(asked_seconds: Option<i32>, longest: Duration) -> Duration {
    let Some(asked) = asked_seconds else { return longest };
    let asked = Duration::from_secs(u64::try_from(asked).unwrap_or(0));
    match asked {
        asked if asked > longest => longest,
        asked => asked.max(SHORTEST),
    }
}

impl Authority {
    /// Reads the files of a CA.
    pub async fn load(certificate: &Path, key: &Path) -> Result<Authority, Error> {
        let read =
            async |path: &Path| tokio::fs::read(path).await.map_err(|source| Error::File { path: path.display().to_string(), source });
        Authority::new(&read(certificate).await?, &read(key).await?, &certificate.display().to_string())
    }

    fn new(certificate: &[u8], key: &[u8], name: &str) -> Result<Authority, Error> {
        let none = || Error::NoCertificate(name.to_owned());
        let pem = x509_parser::pem::Pem::iter_from_buffer(certificate).map_while(Result::ok).find(|pem| pem.label == "CERTIFICATE");
        let pem = pem.ok_or_else(none)?;
        let (_, parsed) = X509Certificate::from_der(&pem.contents).map_err(|_| none())?;
        let key = SigningKey::from_pem(key)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public() {
            return Err(Error::Mismatch);
        }
        let key_identifier = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
            _ => None,
        });
        let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|_| Error::Time)?;
        Ok(Authority { key, subject: parsed.subject().as_raw().to_vec(), key_identifier, not_after })
    }

    /// A certificate for the request, PEM.
    pub fn sign(&self, request: &Request, policy: &Policy<'_>) -> Result<String, Error> {
        let usages = Usages::parse(policy.usages).map_err(Error::Request)?;
        let (from, to) = self.validity(policy.valid_for, policy.now)?;
        let algorithm = self.key.algorithm();
        const V3: u8 = 2;
        let body = der::sequence(&[
            &der::explicit(0, &der::unsigned(&[V3])),
            &der::unsigned(&policy.serial),
            &algorithm,
            &self.subject,
            &der::sequence(&[&der::time(from), &der::time(to)]),
            &request.subject,
            &request.public_key,
            &der::explicit(3, &self.extensions(request, &usages)),
        ]);
        let signature = self.key.sign(&body)?;
        Ok(pem(&der::sequence(&[&body, &algorithm, &der::bytes_as_bits(&signature)])))
    }

    /// From when to when a certificate is valid: never longer than the CA itself.
    fn validity(&self, valid_for: Duration, now: Timestamp) -> Result<(Timestamp, Timestamp), Error> {
        let from = now.checked_sub(BACKDATE).map_err(|_| Error::Time)?;
        let base = if valid_for < SHORT { now } else { from };
        let to = base.checked_add(valid_for).map_err(|_| Error::Time)?;
        if now >= self.not_after {
            return Err(Error::Expired(self.not_after));
        }
        Ok((from, to.min(self.not_after)))
    }

    fn extensions(&self, request: &Request, usages: &Usages) -> Vec<u8> {
        let mut all = Vec::new();
        if usages.key != 0 {
            all.push(extension(&KEY_USAGE, true, &der::named_bits(usages.key)));
        }
        if !usages.purposes.is_empty() {
            all.push(extension(&EXTENDED_KEY_USAGE, false, &usages.purposes_der()));
        }
        // Nothing inside: it is no CA.
        all.push(extension(&BASIC_CONSTRAINTS, true, &der::sequence(&[])));
        if let Some(identifier) = &self.key_identifier {
            all.push(extension(&AUTHORITY_KEY_IDENTIFIER, false, &der::sequence(&[&der::implicit(0, identifier)])));
        }
        if !request.names.is_empty() {
            let names: Vec<Vec<u8>> = request.names.iter().map(general_name).collect();
            let nameless = request.subject == der::sequence(&[]);
            all.push(extension(&SUBJECT_ALTERNATIVE_NAME, nameless, &der::value(der::SEQUENCE, &names.concat())));
        }
        der::value(der::SEQUENCE, &all.concat())
    }
}

fn extension(identifier: &[u32], critical: bool, content: &[u8]) -> Vec<u8> {
    let critical = if critical { der::boolean(true) } else { Vec::new() };
    der::sequence(&[&der::object_identifier(identifier), &critical, &der::value(der::OCTET_STRING, content)])
}

fn general_name(name: &AlternativeName) -> Vec<u8> {
    match name {
        AlternativeName::Email(name) => der::implicit(1, name.as_bytes()),
        AlternativeName::Dns(name) => der::implicit(2, name.as_bytes()),
        AlternativeName::Uri(name) => der::implicit(6, name.as_bytes()),
        AlternativeName::Ip(std::net::IpAddr::V4(ip)) => der::implicit(7, &ip.octets()),
        AlternativeName::Ip(std::net::IpAddr::V6(ip)) => der::implicit(7, &ip.octets()),
    }
}

fn pem(certificate: &[u8]) -> String {
    use base64::Engine;
    const LINE: usize = 64;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
pub mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};

    use super::super::request::tests::text;
    use super::*;

    /// The certificate and key of a new CA, PEM.
    pub fn files() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn policy<'a>(usages: &'a [String], hours: u64, now: &str) -> Policy<'a> {
        Policy { usages, valid_for: Duration::from_secs(hours * 3600), now: now.parse().unwrap(), serial: [9; 16] }
    }

    #[test]
    fn a_certificate_says_what_was_asked_and_is_signed_by_the_ca() {
        let (certificate, key) = files();
        let ca = Authority::new(certificate.as_bytes(), key.as_bytes(), "ca").unwrap();
        let names = vec![SanType::DnsName("n.example".try_into().unwrap()), SanType::IpAddress([10, 0, 0, 1].into())];
        let request = Request::parse_signed(&text("system:node:n", "system:nodes", names)).unwrap();
        let usages = ["digital signature".to_owned(), "server auth".to_owned()];
        let signed = ca.sign(&request, &policy(&usages, 24, "2026-11-05T12:00:00Z")).unwrap();

        let (_, ca_pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap();
        let ca_parsed = ca_pem.parse_x509().unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).unwrap();
        let parsed = pem.parse_x509().unwrap();
        parsed.verify_signature(Some(ca_parsed.public_key())).unwrap();
        assert_eq!(parsed.issuer(), ca_parsed.subject());
        assert_eq!(parsed.subject().to_string(), "O=system:nodes, CN=system:node:n");
        assert_eq!(parsed.raw_serial(), [9; 16]);
        assert!(!parsed.is_ca() && parsed.key_usage().unwrap().unwrap().value.digital_signature());
        assert!(parsed.extended_key_usage().unwrap().unwrap().value.server_auth);
        assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 2);
        let (from, to) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        // Five minutes back, and so five minutes less.
        assert_eq!((from, to - from), ("2026-11-05T11:55:00Z".parse::<Timestamp>().unwrap().as_second(), 24 * 3600));
    }

    #[test]
    fn no_certificate_outlives_its_ca_and_short_ones_are_not_shortened() {
        let (certificate, key) = files();
        let ca = Authority::new(certificate.as_bytes(), key.as_bytes(), "ca").unwrap();
        let hour = Duration::from_secs(3600);
        let now = "2039-12-31T23:30:00Z".parse().unwrap();
        assert_eq!(ca.validity(hour, now).unwrap().1.to_string(), "2040-01-01T00:00:00Z");
        let now = "2030-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(ca.validity(hour, now).unwrap().1.to_string(), "2030-01-01T01:00:00Z");
        assert!(matches!(ca.validity(hour, "2041-01-01T00:00:00Z".parse().unwrap()), Err(Error::Expired(_))));
    }

    #[test]
    fn what_is_asked_for_is_kept_within_bounds() {
        let year = Duration::from_secs(365 * 24 * 3600);
        for (asked, expect) in [(None, 365 * 24 * 3600), (Some(60), 600), (Some(3600), 3600), (Some(i32::MAX), 365 * 24 * 3600)] {
            assert_eq!(duration(asked, year).as_secs(), expect, "{asked:?}");
        }
    }

    #[test]
    fn a_key_of_another_ca_is_noticed() {
        let (certificate, _) = files();
        let (_, key) = files();
        assert!(matches!(Authority::new(certificate.as_bytes(), key.as_bytes(), "ca"), Err(Error::Mismatch)));
    }
}
