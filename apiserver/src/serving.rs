//! What the listener shows and whom it believes: certificates and authorities, read again when their files change.
//!
//! Nothing here decides who may do what.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::watch;

use crate::api::Api;
use crate::config_file;
use crate::filters::client_certificate::ClientCertificates;
use crate::filters::front_proxy::{self, FrontProxy};
use crate::loopback::Loopback;
use crate::pki::{self, Identity, Pki};
use crate::run::{Config, Error, SniFiles, advertised, read_file};
use crate::server::Tls;
use crate::system::authentication_trust;
use crate::system::service_cidr::ServiceRange;
use crate::tls::{self, NamedIdentity};

/// Whose client certificates are believed. The data directory's own CA always is: the administrator's certificate is from there.
pub fn client_ca(config: &Config, pki: &Pki) -> Result<String, Error> {
    let own = pki.ca()?;
    match &config.client_ca_file {
        Some(path) => Ok(format!("{}\n{own}", read_file(path)?.trim_end())),
        None => Ok(own),
    }
}

/// Whether two bundles have a certificate in common.
fn overlap(one: &str, other: &str) -> Result<bool, tls::Error> {
    let read = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let (one, other) = (read(one)?, read(other)?);
    Ok(one.iter().any(|certificate| other.contains(certificate)))
}

/// Which front proxies are believed, and by which headers.
pub fn front_proxy_config(config: &Config, pki: &Pki) -> Result<front_proxy::Config, Error> {
    let told = &config.front_proxies;
    let (client_ca, allowed_names) = match &told.client_ca_file {
        // What this server shows as a proxy must be believed by those who read the bundle.
        Some(path) if told.proxy_client.is_none() => {
            (format!("{}\n{}", read_file(path)?.trim_end(), pki.front_proxy_ca()?), &told.allowed_names)
        }
        Some(path) => (read_file(path)?, &told.allowed_names),
        None => (pki.front_proxy_ca()?, &told.allowed_names),
    };
    if told.client_ca_file.is_some() && allowed_names.is_empty() && overlap(&self::client_ca(config, pki)?, &client_ca)? {
        return Err(Error::OverlappingAuthorities);
    }
    let mut allowed_names = allowed_names.clone();
    let own = pki::FRONT_PROXY_CLIENT.to_owned();
    let lists_names = told.client_ca_file.is_none() || !allowed_names.is_empty();
    if told.proxy_client.is_none() && lists_names && !allowed_names.contains(&own) {
        allowed_names.push(own);
    }
    Ok(front_proxy::Config {
        client_ca,
        allowed_names,
        username_headers: told.username_headers.clone(),
        uid_headers: told.uid_headers.clone(),
        group_headers: told.group_headers.clone(),
        extra_headers_prefix: told.extra_headers_prefix.clone(),
    })
}

/// The proxies that are believed.
pub fn front_proxy(config: &Config, pki: &Pki) -> Result<Option<FrontProxy>, Error> {
    let config = front_proxy_config(config, pki)?;
    let certificates = ClientCertificates::certified_by(tls::roots(&config.client_ca)?)?;
    Ok(certificates.map(|certificates| FrontProxy { certificates, config }))
}

/// What connections are greeted with.
pub fn config(config: &Config, pki: &Pki) -> Result<ServerConfig, Error> {
    let authorities = tls::roots(&format!("{}\n{}", client_ca(config, pki)?, front_proxy_config(config, pki)?.client_ca))?;
    let of_files = |certificate: &Path, key: &Path| Ok::<_, Error>(Identity { certificate: read_file(certificate)?, key: read_file(key)? });
    let named =
        |sni: &SniFiles| Ok::<_, Error>(NamedIdentity { names: sni.names.clone(), identity: of_files(&sni.certificate, &sni.key)? });
    let named = config.tls_sni.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    let identity = match &config.tls_files {
        Some((certificate, key)) => of_files(certificate, key)?,
        None => own_identity(config, pki)?,
    };
    let mut serving = tls::server_config(&identity, &named, &authorities, &config.tls_settings)?;
    if config.connections.disable_http2 {
        serving.alpn_protocols.retain(|protocol| protocol != b"h2");
    }
    Ok(serving)
}

/// The certificate that is made and kept in the data directory.
fn own_identity(config: &Config, pki: &Pki) -> Result<Identity, Error> {
    let mut names: Vec<String> =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
            .map(str::to_owned)
            .to_vec();
    let mut addresses = vec![IpAddr::from([127, 0, 0, 1])];
    addresses.extend(config.service_cluster_ip_range.iter().map(ServiceRange::first));
    addresses.extend(config.advertise_address.or_else(|| advertised(config.bind_address)));
    if !config.bind_address.is_unspecified() && !addresses.contains(&config.bind_address) {
        addresses.push(config.bind_address);
    }
    for san in &config.extra_sans {
        match san.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(san.clone()),
        }
    }
    Ok(pki.serving(&names, &addresses)?)
}

/// Reads the files again whenever they change. What cannot be used changes nothing: a key may be there before its certificate.
pub fn follow(config: &Config, api: &Arc<Api>, tls: &Tls, shutdown: &watch::Receiver<bool>) {
    let mut files: Vec<PathBuf> = config.client_ca_file.iter().chain(&config.front_proxies.client_ca_file).cloned().collect();
    files.extend(config.tls_files.iter().flat_map(|(certificate, key)| [certificate.clone(), key.clone()]));
    files.extend(config.tls_sni.iter().flat_map(|sni| [sni.certificate.clone(), sni.key.clone()]));
    if files.is_empty() {
        return;
    }
    let mut changes = config_file::changes(files, shutdown.clone());
    let (config, api, tls) = (config.clone(), Arc::downgrade(api), tls.clone());
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            let Some(api) = api.upgrade() else { return };
            match reload(&config, &api, &tls) {
                Ok((users, proxies)) => {
                    tracing::info!("read certificates and authorities again");
                    // Extension API servers are to believe the same.
                    if let Err(status) = authentication_trust::ensure(&Loopback::new(&api), &users, &proxies).await {
                        tracing::warn!(error = status.message, "authorities that changed are not published");
                    }
                }
                Err(error) => tracing::error!(%error, "certificates or authorities that changed cannot be used"),
            }
        }
    });
}

/// Gives the authorities that count now.
fn reload(told: &Config, api: &Api, tls: &Tls) -> Result<(String, front_proxy::Config), Error> {
    let pki = Pki::open(&told.data_dir.join("pki"))?;
    let (users, proxies) = (client_ca(told, &pki)?, front_proxy_config(told, &pki)?);
    let (user_roots, proxy_roots) = (tls::roots(&users)?, tls::roots(&proxies.client_ca)?);
    tls.replace(config(told, &pki)?);
    api.authenticator.believe(user_roots, proxy_roots)?;
    Ok((users, proxies))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_certifies_users_and_proxies_must_not_be_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let (users, proxies) = (pki.ca().unwrap(), pki.front_proxy_ca().unwrap());
        assert!(!overlap(&users, &proxies).unwrap());
        assert!(overlap(&format!("{proxies}\n{users}"), &users).unwrap());
    }
}
