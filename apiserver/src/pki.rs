//! The certificates of a cluster that makes its own: a CA with a serving certificate and client certificates, and a CA of its own for the
//! front proxy, since whoever that one certifies may speak for others.
//!
//! Everything is written once, at the first start, and read back afterwards. Nothing here decides who may do what.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// Why the cluster's certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
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

/// Years that the CA is valid; a leaf is valid as long, since `ferrokube certs` is what renews.
const CA_YEARS: i64 = 10;
const LEAF_YEARS: i64 = 1;

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
        if self.path(&format!("{FRONT_PROXY_CLIENT}.crt")).exists() {
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
        if self.path(&format!("{name}.crt")).exists() {
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
        if self.path(&list).exists() && self.read(&list)? == wanted {
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
