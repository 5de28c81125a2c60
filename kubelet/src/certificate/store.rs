//! Where certificates are kept: `kubelet-client-current.pem` and `kubelet-server-current.pem` are links to the newest pair of each,
//! older ones stay beside them as upstream's do.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rcgen::KeyPair;
use x509_parser::pem::Pem;

use super::{Error, request};

/// The key of a request that has no certificate yet.
const PENDING_KEY: &str = "kubelet-client.key.tmp";

/// The directory of a node's certificates (`--cert-dir`), as far as one purpose is concerned.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    purpose: &'static str,
}

/// A certificate with those that vouch for it, and its key; both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub common_name: String,
}

/// The key stays out of logs.
impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("user", &self.common_name).field("until", &self.not_after).finish_non_exhaustive()
    }
}

impl Pair {
    pub fn new(certificate: String, key: String) -> Result<Pair, Error> {
        let unreadable = |error: &dyn std::fmt::Display| Error::Certificate(error.to_string());
        let first = Pem::iter_from_buffer(certificate.as_bytes()).next();
        let pem = first.ok_or_else(|| unreadable(&"there is none"))?.map_err(|error| unreadable(&error))?;
        let parsed = pem.parse_x509().map_err(|error| unreadable(&error))?;
        let at = |seconds: i64| Timestamp::from_second(seconds).map_err(|error| unreadable(&error));
        let validity = parsed.validity();
        let (not_before, not_after) = (at(validity.not_before.timestamp())?, at(validity.not_after.timestamp())?);
        let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned();
        Ok(Pair { not_before, not_after, common_name: name, certificate, key })
    }

    /// Both in one text, the certificate first.
    fn parse(text: &str) -> Result<Pair, Error> {
        const KEY: &str = "-----BEGIN";
        let starts: Vec<usize> = text.match_indices(KEY).map(|(at, _)| at).collect();
        let (mut certificate, mut key) = (String::new(), String::new());
        for (index, start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).copied().unwrap_or(text.len());
            let block = &text[*start..end];
            let into = if block.starts_with("-----BEGIN CERTIFICATE-----") { &mut certificate } else { &mut key };
            into.push_str(block);
        }
        if key.is_empty() {
            return Err(Error::Certificate("there is no key".to_owned()));
        }
        Pair::new(certificate, key)
    }
}

impl Store {
    /// What the kubelet shows the API server.
    pub fn new(directory: &Path) -> Store {
        Store { directory: directory.to_owned(), purpose: "kubelet-client" }
    }

    /// What the kubelet serves with.
    pub fn serving(directory: &Path) -> Store {
        Store { directory: directory.to_owned(), purpose: "kubelet-server" }
    }

    /// The file that always holds the newest pair.
    pub fn current_path(&self) -> PathBuf {
        self.directory.join(format!("{}-current.pem", self.purpose))
    }

    /// The newest pair, if there is one.
    pub fn current(&self) -> Result<Option<Pair>, Error> {
        let path = self.current_path();
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { path, source }),
            Ok(text) => Pair::parse(&text).map(Some).map_err(|error| Error::Unreadable { path, reason: error.to_string() }),
        }
    }

    /// The newest pair, if it is this node's and has not expired.
    pub fn current_if_good(&self, node_name: &str, now: Timestamp) -> Result<Option<Pair>, Error> {
        Ok(self.current()?.filter(|pair| pair.common_name == request::user(node_name) && pair.not_after > now))
    }

    /// Keeps a pair as the newest. A crash leaves the one before or this one.
    pub fn update(&self, pair: &Pair, now: Timestamp) -> Result<(), Error> {
        let file = format!("{}-{}.pem", self.purpose, now.strftime("%Y-%m-%d-%H-%M-%S"));
        let path = self.directory.join(&file);
        self.write(&path, &format!("{}\n{}", pair.certificate.trim_end(), pair.key))?;
        let (link, temporary) = (self.current_path(), self.directory.join(format!("{}-current.pem.tmp", self.purpose)));
        let _ = fs::remove_file(&temporary);
        symlink(&file, &temporary).and_then(|()| fs::rename(&temporary, &link)).map_err(|source| Error::File { path: link, source })
    }

    /// The key that a request is made with; the same until a certificate for it was had.
    pub(super) fn pending_key(&self) -> Result<KeyPair, Error> {
        let path = self.directory.join(PENDING_KEY);
        if let Ok(text) = fs::read_to_string(&path)
            && let Ok(key) = KeyPair::from_pem(&text)
        {
            return Ok(key);
        }
        let key = KeyPair::generate()?;
        self.write(&path, &key.serialize_pem())?;
        Ok(key)
    }

    pub(super) fn forget_pending_key(&self) -> Result<(), Error> {
        let path = self.directory.join(PENDING_KEY);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::File { path, source }),
            _ => Ok(()),
        }
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), Error> {
        let at = |source| Error::File { path: path.to_owned(), source };
        fs::create_dir_all(&self.directory).map_err(at)?;
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(at)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(at)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType};

    use super::*;

    pub fn pair(node: &str, not_before: Timestamp, not_after: Timestamp) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair::new(certificate(node, &key, not_before, not_after), key.serialize_pem()).unwrap()
    }

    pub fn certificate(node: &str, key: &KeyPair, not_before: Timestamp, not_after: Timestamp) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, request::user(node));
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(not_before.as_second() as u64);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(not_after.as_second() as u64);
        params.self_signed(key).unwrap().pem()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_kept_is_found_again_and_the_newest_counts() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(&directory.path().join("pki"));
        assert_eq!(store.current().unwrap(), None);
        let first = pair("a", at("2026-01-01T00:00:00Z"), at("2026-02-01T00:00:00Z"));
        store.update(&first, at("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(store.current().unwrap().unwrap().not_after, at("2026-02-01T00:00:00Z"));
        let second = pair("a", at("2026-01-20T00:00:00Z"), at("2026-03-01T00:00:00Z"));
        store.update(&second, at("2026-01-20T00:00:00Z")).unwrap();
        let found = store.current().unwrap().unwrap();
        assert_eq!((found.not_after, found.key.trim()), (second.not_after, second.key.trim()));
        let link = fs::read_link(store.current_path()).unwrap();
        assert_eq!(link, PathBuf::from("kubelet-client-2026-01-20-00-00-00.pem"));
    }

    #[test]
    fn a_certificate_that_expired_or_is_anothers_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        store.update(&pair("a", at("2026-01-01T00:00:00Z"), at("2026-02-01T00:00:00Z")), at("2026-01-01T00:00:00Z")).unwrap();
        let good = |node, now| store.current_if_good(node, at(now)).unwrap().is_some();
        assert!(good("a", "2026-01-02T00:00:00Z"));
        assert!(!good("b", "2026-01-02T00:00:00Z"));
        assert!(!good("a", "2026-02-01T00:00:00Z"));
    }

    #[test]
    fn a_pending_key_stays_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let first = store.pending_key().unwrap().serialize_pem();
        assert_eq!(store.pending_key().unwrap().serialize_pem(), first);
        store.forget_pending_key().unwrap();
        store.forget_pending_key().unwrap();
        assert_ne!(store.pending_key().unwrap().serialize_pem(), first);
    }
}
