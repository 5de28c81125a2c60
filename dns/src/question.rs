//! What a name under the cluster's domain asks for. Pure: nothing is looked up here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;

/// The meaning of a name, with its labels in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The cluster's domain itself.
    Apex,
    /// `dns-version`: which version of the specification this is.
    Version,
    /// `ns.dns`: us.
    NameServer,
    /// `svc`, `pod` and `dns`: names that have names below them and nothing else.
    Branch,
    /// `namespace.svc` or `namespace.pod`.
    Namespace(String),
    Service(Service),
    /// `1-2-3-4.namespace.pod`.
    Pod {
        namespace: String,
        ip: IpAddr,
    },
    /// An address' name under `in-addr.arpa` or `ip6.arpa`.
    Reverse(IpAddr),
    /// A name in the cluster's domain that nothing can have.
    Nothing,
    /// A name that is none of our business.
    Elsewhere,
}

/// `service.namespace.svc`, maybe with an endpoint's name or a port's and a protocol's before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub endpoint: Option<String>,
    /// The port and the protocol, without their underscores.
    pub port: Option<(String, String)>,
}

/// Reads a name. `domain` is the cluster's, in lower case, label by label.
pub fn subject(name: &Name, domain: &[String]) -> Subject {
    let labels: Vec<String> = name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let words: Vec<&str> = labels.iter().map(String::as_str).collect();
    if let Some(ip) = reverse(&words) {
        return Subject::Reverse(ip);
    }
    let Some(below) = words.len().checked_sub(domain.len()).filter(|below| words[*below..].iter().eq(domain)) else {
        return Subject::Elsewhere;
    };
    match &words[..below] {
        [] => Subject::Apex,
        ["dns-version"] => Subject::Version,
        ["ns", "dns"] => Subject::NameServer,
        ["svc" | "pod" | "dns"] => Subject::Branch,
        [namespace, "svc" | "pod"] => Subject::Namespace((*namespace).to_owned()),
        [ip, namespace, "pod"] => match pod_ip(ip) {
            Some(ip) => Subject::Pod { namespace: (*namespace).to_owned(), ip },
            None => Subject::Nothing,
        },
        [before @ .., name, namespace, "svc"] => {
            let service = Service { namespace: (*namespace).to_owned(), name: (*name).to_owned(), ..Service::default() };
            match before {
                [] => Subject::Service(service),
                [endpoint] => Subject::Service(Service { endpoint: Some((*endpoint).to_owned()), ..service }),
                [port, protocol] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                    (Some(port), Some(protocol)) => {
                        Subject::Service(Service { port: Some((port.to_owned(), protocol.to_owned())), ..service })
                    }
                    _ => Subject::Nothing,
                },
                _ => Subject::Nothing,
            }
        }
        _ => Subject::Nothing,
    }
}

/// An address with dashes in place of its dots or colons.
fn pod_ip(label: &str) -> Option<IpAddr> {
    label
        .replace('-', ".")
        .parse::<Ipv4Addr>()
        .map(IpAddr::V4)
        .or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}

fn reverse(words: &[&str]) -> Option<IpAddr> {
    match words {
        [d, c, b, a, "in-addr", "arpa"] => format!("{a}.{b}.{c}.{d}").parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let mut number: u128 = 0;
            for nibble in nibbles.iter().rev() {
                let [digit] = nibble.as_bytes() else { return None };
                number = number << 4 | u128::from(char::from(*digit).to_digit(16)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(number)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str) -> Subject {
        let domain = ["cluster".to_owned(), "local".to_owned()];
        subject(&Name::from_ascii(name).unwrap(), &domain)
    }

    #[test]
    fn names_of_services_are_read_from_the_right() {
        let web = Service { namespace: "shop".to_owned(), name: "web".to_owned(), ..Service::default() };
        assert_eq!(read("Web.Shop.SVC.cluster.local."), Subject::Service(web.clone()));
        assert_eq!(read("a.web.shop.svc.cluster.local."), Subject::Service(Service { endpoint: Some("a".to_owned()), ..web.clone() }));
        let port = Some(("http".to_owned(), "tcp".to_owned()));
        assert_eq!(read("_http._tcp.web.shop.svc.cluster.local."), Subject::Service(Service { port, ..web }));
        assert_eq!(read("a.b.web.shop.svc.cluster.local."), Subject::Nothing);
        assert_eq!(read("shop.svc.cluster.local."), Subject::Namespace("shop".to_owned()));
        assert_eq!(read("svc.cluster.local."), Subject::Branch);
        assert_eq!(read("cluster.local."), Subject::Apex);
        assert_eq!(read("web.cluster.local."), Subject::Nothing);
        assert_eq!(read("web.example.com."), Subject::Elsewhere);
        assert_eq!(read("local."), Subject::Elsewhere);
    }

    #[test]
    fn addresses_are_names_too() {
        let pod = |ip: &str| Subject::Pod { namespace: "shop".to_owned(), ip: ip.parse().unwrap() };
        assert_eq!(read("10-1-2-3.shop.pod.cluster.local."), pod("10.1.2.3"));
        assert_eq!(read("fd00--1.shop.pod.cluster.local."), pod("fd00::1"));
        assert_eq!(read("x.shop.pod.cluster.local."), Subject::Nothing);
        assert_eq!(read("3.2.1.10.in-addr.arpa."), Subject::Reverse("10.1.2.3".parse().unwrap()));
        let v6 = format!("1.{}0.0.d.f.ip6.arpa.", "0.".repeat(27));
        assert_eq!(read(&v6), Subject::Reverse("fd00::1".parse().unwrap()));
        assert_eq!(read("1.10.in-addr.arpa."), Subject::Elsewhere);
    }
}
