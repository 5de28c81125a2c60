//! Proxies that speak for users: whom the `X-Remote-*` headers name, if a proxy that may do so shows its certificate; and the same headers
//! the other way, for the extension API servers that this server is the proxy of.
//!
//! Pure but for the verification of the certificate. Headers of nobody in particular are never believed, and never passed on.

use http::{HeaderMap, HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;

use super::authentication::User;
use super::client_certificate::ClientCertificates;
use super::request_info::percent_decode;

/// How front proxies are known, and where they say for whom they speak. Field names follow upstream's `--requestheader-` flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who certifies proxies, PEM.
    pub client_ca: String,
    /// Common names of proxies; any if empty.
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_headers_prefix: Vec<String>,
}

const REMOTE_USER: &str = "X-Remote-User";
const REMOTE_UID: &str = "X-Remote-Uid";
const REMOTE_GROUP: &str = "X-Remote-Group";
const REMOTE_EXTRA: &str = "X-Remote-Extra-";

impl Config {
    /// The usual headers, believed from the proxies of an authority.
    pub fn standard(client_ca: String, allowed_names: Vec<String>) -> Config {
        let one = |name: &str| vec![name.to_owned()];
        Config {
            client_ca,
            allowed_names,
            username_headers: one(REMOTE_USER),
            uid_headers: one(REMOTE_UID),
            group_headers: one(REMOTE_GROUP),
            extra_headers_prefix: one(REMOTE_EXTRA),
        }
    }
}

/// The proxies that are believed.
pub struct FrontProxy {
    pub certificates: ClientCertificates,
    pub config: Config,
}

impl FrontProxy {
    /// Whom a proxy speaks for; nobody if it does not say.
    pub fn user(&self, headers: &HeaderMap, chain: &[CertificateDer<'static>]) -> Result<Option<User>, String> {
        if chain.is_empty() {
            return Ok(None);
        }
        let proxy = self.certificates.check(chain)?;
        let allowed = &self.config.allowed_names;
        if !allowed.is_empty() && !allowed.contains(&proxy.common_name) {
            return Err(format!("x509: subject with cn={} is not in the allowed list", proxy.common_name));
        }
        Ok(named(headers, &self.config))
    }
}

/// Whom the headers name.
fn named(headers: &HeaderMap, config: &Config) -> Option<User> {
    let first = |names: &[String]| names.iter().map(|name| text(headers.get(name.as_str()))).find(|value| !value.is_empty());
    let name = first(&config.username_headers)?;
    let groups = config.group_headers.iter().flat_map(|name| headers.get_all(name.as_str())).map(|v| text(Some(v)));
    let mut extra: Vec<(String, Vec<String>)> = Vec::new();
    for prefix in &config.extra_headers_prefix {
        let prefix = prefix.to_ascii_lowercase();
        for (header, value) in headers {
            let Some(key) = header.as_str().strip_prefix(prefix.as_str()) else { continue };
            let (key, value) = (percent_decode(key), text(Some(value)));
            match extra.iter_mut().find(|(known, _)| *known == key) {
                Some((_, values)) => values.push(value),
                None => extra.push((key, vec![value])),
            }
        }
    }
    extra.sort();
    Some(User { name, uid: first(&config.uid_headers).unwrap_or_default(), groups: groups.filter(|g| !g.is_empty()).collect(), extra })
}

fn text(value: Option<&HeaderValue>) -> String {
    value.map_or_else(String::new, |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Takes out what says whom a request is of: the usual headers, and those of a configuration.
pub fn clear(headers: &mut HeaderMap, config: Option<&Config>) {
    let own = |list: fn(&Config) -> &[String]| config.map(list).unwrap_or_default().iter().map(|name| name.to_ascii_lowercase());
    let mut names: Vec<String> = [REMOTE_USER, REMOTE_UID, REMOTE_GROUP].map(str::to_ascii_lowercase).to_vec();
    names.extend(own(|c| &c.username_headers).chain(own(|c| &c.uid_headers)).chain(own(|c| &c.group_headers)));
    let mut prefixes = vec![REMOTE_EXTRA.to_ascii_lowercase()];
    prefixes.extend(own(|c| &c.extra_headers_prefix));
    let told = |name: &HeaderName| names.iter().any(|n| n == name.as_str()) || prefixes.iter().any(|p| name.as_str().starts_with(p));
    let gone: Vec<HeaderName> = headers.keys().filter(|name| told(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// Says whom a request is of, and nobody else.
pub fn speak_for(user: &User, headers: &mut HeaderMap) {
    clear(headers, None);
    let mut say = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
        // A name with a line break in it cannot be said, and was not authenticated either.
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    };
    say(REMOTE_USER, &user.name);
    if !user.uid.is_empty() {
        say(REMOTE_UID, &user.uid);
    }
    user.groups.iter().for_each(|group| say(REMOTE_GROUP, group));
    for (key, values) in &user.extra {
        let name = format!("{REMOTE_EXTRA}{}", escape(key));
        values.iter().for_each(|value| say(&name, value));
    }
}

/// What a header's name cannot hold is written as `%XX`, and the percent sign with it.
fn escape(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_is_said_of_a_user_reads_back() {
        let user = User {
            name: "jane@example.com".to_owned(),
            uid: "u1".to_owned(),
            groups: vec!["dev".to_owned(), "system:authenticated".to_owned()],
            extra: vec![
                ("example.com/a%b".to_owned(), vec!["x".to_owned(), "y z".to_owned()]),
                ("scopes".to_owned(), vec!["all".to_owned()]),
            ],
        };
        let mut said =
            headers(&[("x-remote-user", "root"), ("x-remote-group", "system:masters"), ("x-remote-extra-evil", "1"), ("accept", "*/*")]);
        speak_for(&user, &mut said);
        let config = Config::standard(String::new(), Vec::new());
        assert_eq!(named(&said, &config), Some(user));
        assert_eq!(said.get("accept").unwrap(), "*/*");
        assert!(said.contains_key("x-remote-extra-example.com%2fa%25b"), "{said:?}");
        clear(&mut said, Some(&config));
        assert_eq!(said.len(), 1);
    }

    #[test]
    fn without_a_name_there_is_nobody_and_own_headers_are_cleared() {
        let config = Config { username_headers: vec!["X-Who".into(), "X-Also".into()], ..Config::standard(String::new(), Vec::new()) };
        assert_eq!(named(&headers(&[("x-remote-user", "root"), ("x-remote-group", "g")]), &config), None);
        let mut also = headers(&[("x-also", "ann"), ("x-who", ""), ("x-remote-group", "")]);
        assert_eq!(named(&also, &config), Some(User { name: "ann".to_owned(), ..User::default() }));
        clear(&mut also, Some(&config));
        assert!(also.is_empty(), "{also:?}");
    }
}
