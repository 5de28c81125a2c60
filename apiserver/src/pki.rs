//! The certificates of a cluster that makes its own: a CA with a serving certificate and client certificates, and a CA of its own for the
//! front proxy, since whoever that one certifies may speak for others.
//!
//! Everything is written once, at the first start, and read back afterwards; what ends within a month is made anew. Nothing here decides who
//! may do what.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{GeneralName, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

/// Why the cluster's certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("{0}: no certificate")]
    NoCertificate(String),
}

/// Where the files are, under one directory. Names are those that kubeadm uses.
pub struct Pki {
    directory: PathBuf,
}

/// A certificate chain and its key, PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

const CA: &str = "ca";
const FRONT_PROXY_CA: &str = "front-proxy-ca";
/// The name of the API server's certificate as a front proxy, and of its files.
pub const FRONT_PROXY_CLIENT: &str = "front-proxy-client";

/// What a certificate of the cluster's own says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Of its file, without `.crt`.
    pub name: String,
    pub common_name: String,
    pub organizations: Vec<String>,
    /// The common name of who certified it.
    pub authority: String,
    pub not_after: Timestamp,
}

impl Described {
    /// Authorities stay as they are: everything that they have certified, and everybody who trusts them, would have to change too.
    pub fn is_authority(&self) -> bool {
        [CA, FRONT_PROXY_CA].contains(&self.name.as_str())
    }
}

const CA_YEARS: i64 = 10;
const LEAF_YEARS: i64 = 1;
/// What ends sooner is made anew at the next start.
const RENEW_BEFORE_HOURS: i64 = 30 * 24;

impl Pki {
    /// Opens (or fills) `directory`.
    pub fn open(directory: &Path) -> Result<Pki, Error> {
        fs::create_dir_all(directory).map_err(|source| Error::File { path: directory.to_owned(), source })?;
        let pki = Pki { directory: directory.to_owned() };
        pki.ensure_authority(CA, "kubernetes")?;
        pki.ensure_authority(FRONT_PROXY_CA, "front-proxy-ca")?;
        Ok(pki)
    }

    fn ensure_authority(&self, name: &str, common_name: &str) -> Result<(), Error> {
        let certificate_file = format!("{name}.crt");
        if self.path(&certificate_file).exists() {
            return Ok(());
        }
        let key = KeyPair::generate()?;
        let certificate = ca_params(common_name).self_signed(&key)?;
        self.write(&format!("{name}.key"), &key.serialize_pem(), true)?;
        self.write(&certificate_file, &certificate.pem(), false)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The CA certificate, PEM.
    pub fn ca(&self) -> Result<String, Error> {
        self.read("ca.crt")
    }

    /// Who certifies front proxies, PEM.
    pub fn front_proxy_ca(&self) -> Result<String, Error> {
        self.read("front-proxy-ca.crt")
    }

    /// What the API server shows extension API servers, so that they believe whom it speaks for.
    pub fn front_proxy_client(&self) -> Result<Identity, Error> {
        if self.is_good(FRONT_PROXY_CLIENT)? {
            return self.identity(FRONT_PROXY_CLIENT);
        }
        let mut params = leaf_params(FRONT_PROXY_CLIENT, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(FRONT_PROXY_CA, FRONT_PROXY_CLIENT, params)
    }

    /// The serving certificate for these names and addresses; made anew when they have changed.
    pub fn serving(&self, names: &[String], addresses: &[IpAddr]) -> Result<Identity, Error> {
        self.server("apiserver", leaf_params("kube-apiserver", &[]), names, addresses)
    }

    /// A client certificate for `user` in `groups`, kept under `name`.
    pub fn client(&self, name: &str, user: &str, groups: &[&str]) -> Result<Identity, Error> {
        if self.is_good(name)? {
            return self.identity(name);
        }
        let mut params = leaf_params(user, groups);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(CA, name, params)
    }

    /// The certificate that a node's kubelet serves with, kept under `name`; made anew when its names or addresses have changed.
    pub fn kubelet_serving(&self, name: &str, node: &str, addresses: &[IpAddr]) -> Result<Identity, Error> {
        let names = [node.to_owned()];
        self.server(name, leaf_params(&format!("system:node:{node}"), &["system:nodes"]), &names, addresses)
    }

    /// A serving certificate, made anew when the names and addresses that it is for have changed.
    fn server(&self, name: &str, mut params: CertificateParams, names: &[String], addresses: &[IpAddr]) -> Result<Identity, Error> {
        let list = format!("{name}.sans");
        let wanted = names.iter().cloned().chain(addresses.iter().map(ToString::to_string)).collect::<Vec<_>>().join("\n");
        if self.path(&list).exists() && self.read(&list)? == wanted && self.is_good(name)? {
            return self.identity(name);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        let identity = self.issue(CA, name, params)?;
        self.write(&list, &wanted, false)?;
        Ok(identity)
    }

    /// All certificates, by name.
    pub fn certificates(&self) -> Result<Vec<Described>, Error> {
        let entries = fs::read_dir(&self.directory).map_err(|source| Error::File { path: self.directory.clone(), source })?;
        let names = entries.flatten().filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".crt")?.to_owned()));
        let mut all = names.map(|name| self.describe(&name)).collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    fn describe(&self, name: &str) -> Result<Described, Error> {
        self.parsed(name, |certificate| Described {
            name: name.to_owned(),
            common_name: texts(certificate.subject().iter_common_name()).pop().unwrap_or_default(),
            organizations: texts(certificate.subject().iter_organization()),
            authority: texts(certificate.issuer().iter_common_name()).pop().unwrap_or_default(),
            not_after: Timestamp::from_second(certificate.validity().not_after.timestamp()).unwrap_or(Timestamp::MIN),
        })
    }

    fn parsed<T>(&self, name: &str, read: impl FnOnce(&X509Certificate<'_>) -> T) -> Result<T, Error> {
        let none = || Error::NoCertificate(self.path(&format!("{name}.crt")).display().to_string());
        let text = self.read(&format!("{name}.crt"))?;
        let (_, pem) = parse_x509_pem(text.as_bytes()).map_err(|_| none())?;
        Ok(read(&pem.parse_x509().map_err(|_| none())?))
    }

    /// Whether a certificate is there that is good for a while.
    fn is_good(&self, name: &str) -> Result<bool, Error> {
        if !self.path(&format!("{name}.crt")).exists() {
            return Ok(false);
        }
        let soon = Timestamp::now() + SignedDuration::from_hours(RENEW_BEFORE_HOURS);
        Ok(self.describe(name)?.not_after > soon)
    }

    /// Makes a certificate anew, with another key: for the same names, uses and groups, by the same authority.
    pub fn renew(&self, name: &str) -> Result<Described, Error> {
        let described = self.describe(name)?;
        let organizations: Vec<&str> = described.organizations.iter().map(String::as_str).collect();
        let mut params = leaf_params(&described.common_name, &organizations);
        let (names, addresses, serves) = self.parsed(name, |certificate| {
            let (mut names, mut addresses) = (Vec::new(), Vec::new());
            for general in certificate.subject_alternative_name().ok().flatten().iter().flat_map(|found| &found.value.general_names) {
                match general {
                    GeneralName::DNSName(name) => names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                    _ => {}
                }
            }
            let serves = certificate.extended_key_usage().ok().flatten().is_some_and(|usage| usage.value.server_auth);
            (names, addresses, serves)
        })?;
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
        params.extended_key_usages = vec![if serves { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth }];
        let by_front_proxies = self.describe(FRONT_PROXY_CA)?.common_name == described.authority;
        self.issue(if by_front_proxies { FRONT_PROXY_CA } else { CA }, name, params)?;
        self.describe(name)
    }

    fn issue(&self, authority: &str, name: &str, params: CertificateParams) -> Result<Identity, Error> {
        let ca_key = KeyPair::from_pem(&self.read(&format!("{authority}.key"))?)?;
        let issuer = Issuer::from_ca_cert_pem(&self.read(&format!("{authority}.crt"))?, ca_key)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        self.write(&format!("{name}.key"), &key.serialize_pem(), true)?;
        self.write(&format!("{name}.crt"), &certificate.pem(), false)?;
        self.identity(name)
    }

    fn identity(&self, name: &str) -> Result<Identity, Error> {
        Ok(Identity { certificate: self.read(&format!("{name}.crt"))?, key: self.read(&format!("{name}.key"))? })
    }

    fn read(&self, name: &str) -> Result<String, Error> {
        let path = self.path(name);
        fs::read_to_string(&path).map_err(|source| Error::File { path, source })
    }

    fn write(&self, name: &str, text: &str, secret: bool) -> Result<(), Error> {
        write_file(&self.path(name), text, secret)
    }
}

fn texts<'a>(attributes: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Vec<String> {
    attributes.filter_map(|attribute| attribute.as_str().ok().map(str::to_owned)).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Writes a file whole: a crash leaves the old one or the new one. Secrets are readable by the owner alone.
pub fn write_file(path: &Path, text: &str, secret: bool) -> Result<(), Error> {
    let at = |source| Error::File { path: path.to_owned(), source };
    let temporary = path.with_extension("tmp");
    let mode = if secret { 0o600 } else { 0o644 };
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary).map_err(at)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(at)?;
    fs::rename(&temporary, path).map_err(at)
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    valid_for_years(&mut params, CA_YEARS);
    params
}

fn leaf_params(common_name: &str, organizations: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for organization in organizations {
        params.distinguished_name.push(DnType::OrganizationName, *organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.use_authority_key_identifier_extension = true;
    valid_for_years(&mut params, LEAF_YEARS);
    params
}

/// Valid from an hour ago, so that machines whose clocks differ a little agree.
fn valid_for_years(params: &mut CertificateParams, years: i64) {
    let now = jiff::Timestamp::now().as_second();
    let from = time::OffsetDateTime::from_unix_timestamp(now - 3600).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    params.not_before = from;
    params.not_after = from + time::Duration::days(365 * years);
}

/// A kubeconfig for one cluster, user and context, credentials inline.
pub fn kubeconfig(server: &str, ca_pem: &str, user: &str, identity: &Identity) -> String {
    use base64::Engine;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: ferrokube\n  cluster:\n    server: {server}\n    certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {cert}\n    client-key-data: {key}\ncontexts:\n- name: {user}@ferrokube\n  context:\n    cluster: ferrokube\n    user: {user}\ncurrent-context: {user}@ferrokube\n",
        ca = encode(ca_pem),
        cert = encode(&identity.certificate),
        key = encode(&identity.key),
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn identities(pki: &Pki) -> [Identity; 3] {
        let names = ["localhost".to_owned(), "kubernetes".to_owned()];
        [
            pki.serving(&names, &[IpAddr::V4(Ipv4Addr::LOCALHOST)]).unwrap(),
            pki.client("admin", "ann", &["system:masters", "team"]).unwrap(),
            pki.front_proxy_client().unwrap(),
        ]
    }

    #[test]
    fn what_is_renewed_says_the_same_with_another_key() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let old = identities(&pki);
        let before = pki.certificates().unwrap();
        let names: Vec<&str> = before.iter().map(|described| described.name.as_str()).collect();
        assert_eq!(names, ["admin", "apiserver", "ca", "front-proxy-ca", "front-proxy-client"]);
        let sans = |pki: &Pki| pki.parsed("apiserver", |c| format!("{:?}", c.subject_alternative_name().unwrap().unwrap().value)).unwrap();
        let names_before = sans(&pki);
        for described in before.iter().filter(|described| !described.is_authority()) {
            let renewed = pki.renew(&described.name).unwrap();
            let said = |described: &Described| Described { not_after: Timestamp::MIN, ..described.clone() };
            assert_eq!(said(&renewed), said(described));
        }
        assert_eq!(sans(&pki), names_before);
        let new = identities(&pki);
        assert!(old.iter().zip(&new).all(|(old, new)| old.key != new.key && old.certificate != new.certificate));
        assert!(identities(&pki).iter().zip(&new).all(|(again, new)| again.key == new.key), "what is good is kept");
    }

    #[test]
    fn what_ends_soon_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let mut params = leaf_params("ann", &[]);
        params.not_after = params.not_before + std::time::Duration::from_secs(24 * 3600);
        let short = pki.issue(CA, "admin", params).unwrap();
        assert_ne!(pki.client("admin", "ann", &[]).unwrap().key, short.key);
    }
}
