//! Who asks: whom a front proxy names, client certificates, bearer tokens, or nobody in particular.
//!
//! Maps credentials to a [`User`]; never decides what a user may do. Service account tokens are verified by [`crate::tokens`], those of
//! other issuers by [`crate::authentication`].

use std::collections::HashMap;
use std::path::Path;

use futures::future::BoxFuture;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::server::VerifierBuilderError;

use super::super::endpoints::negotiate::header;
use super::client_certificate::ClientCertificates;
use super::front_proxy::{self, FrontProxy};
use super::web_socket_token;

/// An authenticated (or anonymous) user, as authentication.k8s.io UserInfo shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    /// Extra attributes, sorted by key.
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    /// `system:anonymous` in `system:unauthenticated`.
    pub fn anonymous() -> User {
        User { name: "system:anonymous".to_owned(), groups: vec!["system:unauthenticated".to_owned()], ..User::default() }
    }

    /// Nobody in particular.
    pub fn is_anonymous(&self) -> bool {
        self.name == "system:anonymous" || self.in_group("system:unauthenticated")
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// Adds the group that every authenticated user is in.
    pub(super) fn authenticated(mut self) -> User {
        if !self.in_group("system:authenticated") && !self.in_group("system:unauthenticated") {
            self.groups.push("system:authenticated".to_owned());
        }
        self
    }
}

/// A user, and the audiences that were asked for and that the token is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub user: User,
    pub audiences: Vec<String>,
}

/// `None` if the token is not one of the verifier's; an error if it is and must be refused.
pub type Verification = Result<Option<Verified>, String>;

/// Verifies the tokens of some issuer.
pub trait TokenVerifier: Send + Sync {
    /// The token must be meant for one of the audiences; without any, for this API server.
    fn verify<'a>(&'a self, token: &'a str, audiences: Option<&'a [String]>) -> BoxFuture<'a, Verification>;
}

/// Whether requests without credentials are let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anonymous {
    pub enabled: bool,
    /// Only to these paths; to all if empty.
    pub paths: Vec<String>,
}

impl Anonymous {
    pub fn everywhere(enabled: bool) -> Anonymous {
        Anonymous { enabled, paths: Vec::new() }
    }

    fn lets_in(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.iter().any(|allowed| allowed == path))
    }
}

/// The configured ways in.
pub struct Authenticator {
    front_proxy: Option<FrontProxy>,
    client_certificates: Option<ClientCertificates>,
    static_tokens: HashMap<String, User>,
    verifiers: Vec<Box<dyn TokenVerifier>>,
    anonymous: Anonymous,
    /// Who this server is to tokens.
    audiences: Vec<String>,
}

/// Why a token file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("--token-auth-file {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("--token-auth-file {path}, line {line}: token,user,uid[,\"group1,group2\"] expected")]
    Line { path: String, line: usize },
}

impl Authenticator {
    pub fn new(
        static_tokens: HashMap<String, User>,
        verifiers: Vec<Box<dyn TokenVerifier>>,
        anonymous: Anonymous,
        audiences: Vec<String>,
    ) -> Authenticator {
        Authenticator { front_proxy: None, client_certificates: None, static_tokens, verifiers, anonymous, audiences }
    }

    /// Lets those in whom certificates of these authorities are of. Without, no certificate counts.
    pub fn with_client_certificates(self, certificates: Option<ClientCertificates>) -> Authenticator {
        Authenticator { client_certificates: certificates, ..self }
    }

    /// Lets those in whom a front proxy speaks for.
    pub fn with_front_proxy(self, proxy: Option<FrontProxy>) -> Authenticator {
        Authenticator { front_proxy: proxy, ..self }
    }

    /// The user of a request, or `None` if its credentials are refused (401).
    pub async fn authenticate(&self, headers: &HeaderMap, certificates: &[CertificateDer<'static>], path: &str) -> Option<User> {
        let mut refused = false;
        for known in [self.proxied(headers, certificates), self.certified(certificates)] {
            match known {
                Ok(Some(user)) => return Some(user.authenticated()),
                Ok(None) => {}
                Err(reason) => {
                    tracing::debug!(reason, "certificate refused");
                    refused = true;
                }
            }
        }
        let in_protocols = match web_socket_token::token(headers) {
            Ok(token) => token,
            Err(reason) => {
                tracing::debug!(reason, "token refused");
                refused = true;
                None
            }
        };
        match bearer_token(headers).or(in_protocols.as_deref()) {
            Some(token) => match self.token(token, None).await {
                Ok(verified) => Some(verified.user),
                Err(reason) => {
                    tracing::debug!(reason, "token refused");
                    None
                }
            },
            // Whoever shows what is not believed is not taken for somebody else.
            None if refused => None,
            None => self.anonymous.lets_in(path).then(User::anonymous),
        }
    }

    /// Writes what was counted (Prometheus text format).
    pub fn render(&self, out: &mut String) {
        if let Some(known) = &self.client_certificates {
            known.render(out);
        }
    }

    /// From now on, others certify users and front proxies. Where nobody did before, nobody does.
    pub fn believe(&self, users: RootCertStore, proxies: RootCertStore) -> Result<(), VerifierBuilderError> {
        if let Some(known) = &self.client_certificates {
            known.replace(users)?;
        }
        if let Some(proxy) = &self.front_proxy {
            proxy.certificates.replace(proxies)?;
        }
        Ok(())
    }

    fn proxied(&self, headers: &HeaderMap, certificates: &[CertificateDer<'static>]) -> Result<Option<User>, String> {
        self.front_proxy.as_ref().map_or(Ok(None), |proxy| proxy.user(headers, certificates))
    }

    fn certified(&self, certificates: &[CertificateDer<'static>]) -> Result<Option<User>, String> {
        match &self.client_certificates {
            Some(known) if !certificates.is_empty() => known.check(certificates).and_then(|subject| subject.user()),
            _ => Ok(None),
        }
    }

    /// Takes out of a request what has told who sends it, so that nothing behind reads it again.
    pub fn clear(&self, headers: &mut HeaderMap) {
        headers.remove(AUTHORIZATION);
        web_socket_token::remove(headers);
        front_proxy::clear(headers, self.front_proxy.as_ref().map(|proxy| &proxy.config));
    }

    /// The user of a bearer token that is meant for one of `audiences` (for this server without any); also what TokenReview
    /// asks, and shows the error of.
    pub async fn token(&self, token: &str, audiences: Option<&[String]>) -> Result<Verified, String> {
        const INVALID: &str = "invalid bearer token";
        let mut errors = vec![INVALID.to_owned()];
        if let Some(user) = self.static_tokens.get(token) {
            let wanted = audiences.unwrap_or(&self.audiences);
            let common: Vec<String> = self.audiences.iter().filter(|a| wanted.contains(a)).cloned().collect();
            if !common.is_empty() {
                return Ok(Verified { user: user.clone().authenticated(), audiences: common });
            }
        }
        for verifier in &self.verifiers {
            match verifier.verify(token, audiences).await {
                Ok(Some(verified)) => return Ok(Verified { user: verified.user.authenticated(), audiences: verified.audiences }),
                Ok(None) => {}
                Err(reason) => errors.push(reason),
            }
        }
        Err(if errors.len() == 1 { INVALID.to_owned() } else { format!("[{}]", errors.join(", ")) })
    }

    /// Who this server is to tokens.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }
}

/// What follows `Authorization: Bearer`: the word after one space, and whether there is more.
fn bearer(headers: &HeaderMap) -> Option<(&str, bool)> {
    let (scheme, rest) = header(headers, &AUTHORIZATION).trim().split_once(' ')?;
    let (token, more) = rest.split_once(' ').map_or((rest, false), |(token, _)| (token, true));
    scheme.eq_ignore_ascii_case("bearer").then_some((token, more))
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    bearer(headers).map(|(token, _)| token).filter(|token| !token.is_empty())
}

/// What the sender should know of a token that was not looked at.
pub fn warning(headers: &HeaderMap) -> Option<&'static str> {
    let ignored = bearer(headers).is_some_and(|(token, more)| token.is_empty() && more);
    ignored.then_some("the provided Authorization header contains extra space before the bearer token, and is ignored")
}

/// Reads a CSV file of `token,user,uid[,"group1,group2"]`.
pub fn read_token_file(path: &Path) -> Result<HashMap<String, User>, TokenFileError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| TokenFileError::Read { path: shown.clone(), source })?;
    let mut tokens = HashMap::new();
    for (at, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#')) {
        let fields = csv_fields(line);
        let [token, name, uid, rest @ ..] = fields.as_slice() else {
            return Err(TokenFileError::Line { path: shown, line: at + 1 });
        };
        if token.is_empty() {
            tracing::warn!(line = at + 1, "empty token ignored");
            continue;
        }
        let groups =
            rest.first().map(|g| g.split(',').filter(|g| !g.is_empty()).map(|g| g.trim().to_owned()).collect()).unwrap_or_default();
        tokens.insert(token.clone(), User { name: name.clone(), uid: uid.clone(), groups, extra: Vec::new() });
    }
    Ok(tokens)
}

/// Fields of a CSV line, quotes honoured.
fn csv_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in line.trim().chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => {
                if let Some(last) = fields.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    fields.iter_mut().for_each(|f| *f = f.trim().to_owned());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_files_name_users_and_groups() {
        let fields = csv_fields(r#"t0k3n, admin , 1,"system:masters,dev""#);
        assert_eq!(fields, ["t0k3n", "admin", "1", "system:masters,dev"]);
    }

    #[test]
    fn every_user_but_the_anonymous_is_authenticated() {
        let user = User { name: "a".into(), ..User::default() }.authenticated();
        assert!(user.in_group("system:authenticated"));
        assert!(!User::anonymous().authenticated().in_group("system:authenticated"));
    }
}
