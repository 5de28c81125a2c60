//! The certificate that a kubelet serves with, where the cluster is to sign it (`serverTLSBootstrap`): asked for once the node has
//! addresses, and again in time and whenever the addresses change. Somebody has to approve each request.

use std::net::IpAddr;
use std::time::Duration;

use client::Shutdown;
use jiff::Timestamp;
use kube::Client;
use rcgen::KeyPair;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

use super::Error;
use super::issue::{Interval, obtain};
use super::request::{self, Names};
use super::rotation::{FIRST_RETRY, LONGEST_RETRY, TIMEOUT, renewal};
use super::store::{Pair, Store};

/// How often the node's addresses are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// As long as the node has none.
const LOOK_FIRST: Duration = Duration::from_millis(200);

/// Sees to a node's serving certificate.
pub struct Serving<N, S> {
    pub node_name: String,
    pub store: Store,
    pub client: Client,
    /// What the node is reached by now.
    pub names: N,
    /// Serves with a pair from now on.
    pub show: S,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// A certificate is to be asked for.
    Now,
    /// Nothing for so long.
    In(Duration),
}

impl<N: Fn() -> Names, S: Fn(&Pair) -> Result<(), Error>> Serving<N, S> {
    /// Serves with what is kept, asks for what is missing, until shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let jitter = rand::random();
        let mut current = self.kept();
        let mut retry = FIRST_RETRY;
        loop {
            let names = (self.names)();
            let wait = match due(current.as_ref(), &names, jitter, Timestamp::now()) {
                Due::In(wait) => wait,
                Due::Now => {
                    let asked = tokio::select! {
                        asked = self.ask(&names) => asked,
                        () = shutdown.cancelled() => return,
                    };
                    match asked {
                        Ok(pair) => {
                            tracing::info!(until = %pair.not_after, "the node has a new serving certificate");
                            (current, retry) = (Some(pair), FIRST_RETRY);
                            LOOK_FIRST
                        }
                        Err(error) => {
                            tracing::error!(%error, "no serving certificate, trying again in {} s", retry.as_secs());
                            let wait = retry;
                            retry = (retry * 2).min(LONGEST_RETRY);
                            wait
                        }
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// The newest pair, if it is good; it is served with then.
    fn kept(&self) -> Option<Pair> {
        let kept = self.store.current_if_good(&self.node_name, Timestamp::now());
        let shown = kept.and_then(|pair| pair.map(|pair| (self.show)(&pair).map(|()| pair)).transpose());
        shown.unwrap_or_else(|error| {
            tracing::error!(%error, "the node's serving certificate cannot be used");
            None
        })
    }

    async fn ask(&self, names: &Names) -> Result<Pair, Error> {
        let key = KeyPair::generate()?;
        let asked = request::serving(&self.node_name, &key, names)?;
        let certificate = obtain(&self.client, &asked, TIMEOUT, Interval::FIRST).await?;
        let pair = Pair::new(certificate, key.serialize_pem())?;
        self.store.update(&pair, Timestamp::now())?;
        (self.show)(&pair)?;
        Ok(pair)
    }
}

fn due(current: Option<&Pair>, names: &Names, jitter: f64, now: Timestamp) -> Due {
    if names.is_empty() {
        return Due::In(LOOK_FIRST);
    }
    let Some(pair) = current.filter(|pair| names_of(pair) == *names) else { return Due::Now };
    match Duration::try_from(renewal(pair, jitter).duration_since(now)) {
        Ok(left) if !left.is_zero() => Due::In(left.min(LOOK_EVERY)),
        _ => Due::Now,
    }
}

/// What a certificate is for; nothing if it cannot be read.
fn names_of(pair: &Pair) -> Names {
    let mut names = Names::default();
    let Some(Ok(pem)) = Pem::iter_from_buffer(pair.certificate.as_bytes()).next() else { return names };
    let Ok(parsed) = pem.parse_x509() else { return names };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else { return names };
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => drop(names.dns.insert((*name).to_owned())),
            GeneralName::IPAddress(bytes) => names.ips.extend(address(bytes)),
            _ => {}
        }
    }
    names
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, SanType};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn pair(dns: &str, ip: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress(ip.parse().unwrap()));
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 11);
        Pair::new(params.self_signed(&key).unwrap().pem(), key.serialize_pem()).unwrap()
    }

    fn names(dns: &str, ip: &str) -> Names {
        Names { dns: [dns.to_owned()].into(), ips: [ip.parse().unwrap()].into() }
    }

    #[test]
    fn a_certificate_is_asked_for_in_time_and_when_addresses_change() {
        let (own, now) = (names("a", "fd00::1"), at("2026-01-02T00:00:00Z"));
        let current = pair("a", "fd00::1");
        assert_eq!(names_of(&current), own);
        assert_eq!(due(None, &Names::default(), 0.5, now), Due::In(LOOK_FIRST), "the node is not known yet");
        assert_eq!(due(None, &own, 0.5, now), Due::Now);
        assert_eq!(due(Some(&current), &own, 0.5, now), Due::In(LOOK_EVERY));
        assert_eq!(due(Some(&current), &names("a", "10.0.0.1"), 0.5, now), Due::Now, "the address is another");
        // After 80 % of its time.
        assert_eq!(due(Some(&current), &own, 0.5, at("2026-01-08T23:59:58Z")), Due::In(Duration::from_secs(2)));
        assert_eq!(due(Some(&current), &own, 0.5, at("2026-01-09T00:00:00Z")), Due::Now);
    }
}
