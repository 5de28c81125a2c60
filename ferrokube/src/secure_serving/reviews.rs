//! Who asks and whether they may, by the API server's word: TokenReview and SubjectAccessReview.

use std::collections::HashMap;

use apimachinery::status::Status;
use apiserver::filters::authentication::{Anonymous, Authenticator, User};
use apiserver::filters::client_certificate::ClientCertificates;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;

/// Questions asked at once; more wait.
const MAX_AT_ONCE: usize = 10;

pub struct Reviews {
    authentication: Client,
    authorization: Client,
    /// Who is known without asking: by a certificate, or nobody in particular.
    certificates: Authenticator,
    slots: Semaphore,
}

impl Reviews {
    pub fn new(authentication: Client, authorization: Client, certificates: Option<ClientCertificates>) -> Reviews {
        let anybody = Authenticator::new(HashMap::new(), Vec::new(), Anonymous::everywhere(true), Vec::new());
        let certificates = anybody.with_client_certificates(certificates);
        Reviews { authentication, authorization, certificates, slots: Semaphore::new(MAX_AT_ONCE) }
    }

    /// The sender of a request.
    pub async fn user(&self, headers: &HeaderMap, certificates: &[CertificateDer<'static>], path: &str) -> Result<User, Status> {
        let token = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
        let refused = || Status::unauthorized("Unauthorized");
        let Some(token) = token.filter(|_| certificates.is_empty()) else {
            let mut headers = headers.clone();
            headers.remove(AUTHORIZATION);
            return self.certificates.authenticate(&headers, certificates, path).await.ok_or_else(refused);
        };
        let _slot = self.slots.acquire().await.map_err(|_| refused())?;
        let spec = TokenReviewSpec { token: token.trim().to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answered = Api::<TokenReview>::all(self.authentication.clone()).create(&PostParams::default(), &review).await;
        let status = answered.map_err(unreachable)?.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Err(refused());
        }
        let user = status.user.unwrap_or_default();
        Ok(User {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default().into_iter().collect(),
        })
    }

    /// Whether a user may do something to a path; else why not.
    pub async fn allows(&self, user: &User, path: &str, verb: &str) -> Result<Result<(), String>, Status> {
        // What everybody else has to ask for is theirs.
        if user.in_group("system:masters") {
            return Ok(Ok(()));
        }
        let _slot = self.slots.acquire().await.map_err(|_| Status::internal_error("shutting down"))?;
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
            groups: Some(user.groups.clone()),
            extra: (!user.extra.is_empty()).then(|| user.extra.iter().cloned().collect()),
            non_resource_attributes: Some(NonResourceAttributes { path: Some(path.to_owned()), verb: Some(verb.to_owned()) }),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answered = Api::<SubjectAccessReview>::all(self.authorization.clone()).create(&PostParams::default(), &review).await;
        let status = answered.map_err(unreachable)?.status.unwrap_or_default();
        Ok(if status.allowed { Ok(()) } else { Err(status.reason.unwrap_or_default()) })
    }
}

fn unreachable(error: kube::Error) -> Status {
    tracing::warn!(%error, "the API server does not say who asks and whether they may");
    Status::internal_error("the API server cannot be asked")
}
