//! Who a request is from: a client certificate, a bearer token that the API server reviews, or nobody in particular.
//!
//! Authenticates only; what somebody may do is [`super::authorization`]'s.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::{HeaderMap, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::reviews::{Cache, retrying};

/// Everybody whom somebody knows is in this group.
const AUTHENTICATED: &str = "system:authenticated";
/// The failure to authenticate is remembered this long, as upstream does.
const REFUSED_TTL: Duration = Duration::from_secs(10);

/// Somebody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    fn anonymous() -> User {
        User { name: "system:anonymous".to_owned(), groups: vec!["system:unauthenticated".to_owned()], ..User::default() }
    }
}

/// Finds out who requests are from.
pub struct Authenticator {
    anonymous: bool,
    webhook: Option<(Client, Duration)>,
    /// By the digest of the token, so that no token lies in memory longer than its request.
    reviewed: Cache<Vec<u8>, Option<User>>,
}

impl Authenticator {
    /// `webhook` is for how long an accepted token is believed without asking again; `None` takes no tokens.
    pub fn new(anonymous: bool, webhook: Option<(Client, Duration)>) -> Authenticator {
        Authenticator { anonymous, webhook, reviewed: Cache::default() }
    }

    /// The user, or nobody who may be let in.
    pub async fn authenticate(&self, headers: &HeaderMap, certificates: &[CertificateDer<'static>]) -> Result<Option<User>, kube::Error> {
        if let Some(user) = certificates.first().and_then(|leaf| of_certificate(leaf)) {
            return Ok(Some(user));
        }
        if let Some(token) = bearer_token(headers) {
            let user = self.review(token).await?;
            // A token that is no good does not make its bearer anonymous.
            return Ok(user);
        }
        Ok(self.anonymous.then(User::anonymous))
    }

    async fn review(&self, token: &str) -> Result<Option<User>, kube::Error> {
        let Some((client, ttl)) = &self.webhook else { return Ok(None) };
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref().to_vec();
        if let Some(known) = self.reviewed.get(&digest, Instant::now()) {
            return Ok(known);
        }
        let api: Api<TokenReview> = Api::all(client.clone());
        let review = TokenReview { spec: TokenReviewSpec { token: token.to_owned(), audiences: None }, ..TokenReview::default() };
        let parameters = PostParams::default();
        let reviewed = retrying(|| api.create(&parameters, &review)).await?;
        let user = of_review(reviewed);
        let ttl = if user.is_some() { *ttl } else { REFUSED_TTL };
        self.reviewed.insert(digest, user.clone(), Instant::now() + ttl);
        Ok(user)
    }
}

/// The subject's common name and organizations; nobody if there is no common name.
fn of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let name = parsed.subject().iter_common_name().next().and_then(text).filter(|name| !name.is_empty())?;
    let mut groups: Vec<String> = parsed.subject().iter_organization().filter_map(text).collect();
    groups.push(AUTHENTICATED.to_owned());
    Some(User { name, groups, ..User::default() })
}

fn of_review(review: TokenReview) -> Option<User> {
    let status = review.status.filter(|status| status.authenticated == Some(true))?;
    let user = status.user?;
    let mut groups = user.groups.unwrap_or_default();
    if !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    let extra = user.extra.unwrap_or_default();
    Some(User { name: user.username.unwrap_or_default(), uid: user.uid.unwrap_or_default(), groups, extra: extra.into_iter().collect() })
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};

    use super::*;

    #[test]
    fn a_certificate_names_its_user_and_groups() {
        use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:masters");
        params.distinguished_name.push(DnType::CommonName, "apiserver");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let user = of_certificate(certificate.der()).unwrap();
        assert_eq!(user.name, "apiserver");
        assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
    }

    #[test]
    fn a_review_that_does_not_say_authenticated_names_nobody() {
        let review = |authenticated| TokenReview {
            status: Some(TokenReviewStatus {
                authenticated,
                user: Some(UserInfo { username: Some("u".to_owned()), ..UserInfo::default() }),
                ..TokenReviewStatus::default()
            }),
            ..TokenReview::default()
        };
        assert_eq!(of_review(review(None)), None);
        assert_eq!(of_review(review(Some(false))), None);
        assert_eq!(of_review(review(Some(true))).unwrap().groups, ["system:authenticated"]);
    }

    #[tokio::test]
    async fn nobody_is_let_in_anonymously_unless_so_configured() {
        let headers = HeaderMap::new();
        assert_eq!(Authenticator::new(false, None).authenticate(&headers, &[]).await.unwrap(), None);
        assert_eq!(Authenticator::new(true, None).authenticate(&headers, &[]).await.unwrap(), Some(User::anonymous()));
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, "Bearer x".parse().unwrap());
        assert_eq!(Authenticator::new(true, None).authenticate(&headers, &[]).await.unwrap(), None);
    }
}
