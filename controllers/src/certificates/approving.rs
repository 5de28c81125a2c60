//! The approver: says yes to kubelets that ask for their client certificate and may.
//!
//! Whether they may is asked of the API server (`selfnodeclient`, `nodeclient`); everything else waits for somebody to decide.

use client::controller::Outcome;
use client::{Object, ObjectKey, Queue};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::api::PostParams;
use kube::{Api, Client};

use super::request::Request;
use super::rules::{KUBELET_CLIENT, kubelet_client};
use super::{Error, has_condition, issued, unless_overtaken};
use crate::manager::Context;

const WORKERS: usize = 5;

/// A permission, and what is said when it is the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Permission {
    subresource: &'static str,
    message: &'static str,
}

const SELF: Permission =
    Permission { subresource: "selfnodeclient", message: "Auto approving self kubelet client certificate after SubjectAccessReview." };
const ANY: Permission =
    Permission { subresource: "nodeclient", message: "Auto approving kubelet client certificate after SubjectAccessReview." };

pub async fn run(context: Context) {
    let requests = context.informers.of::<CertificateSigningRequest>();
    let queue = Queue::named("certificate");
    let sink = queue.clone();
    requests.on_change(move |change| sink.add(change.object().key()));
    requests.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| {
        let (client, request) = (context.client.clone(), requests.get_key(&key));
        async move {
            if let Some(request) = request {
                approve(client, &request).await?;
            }
            Ok::<_, Error>(Outcome::Done)
        }
    })
    .await;
}

/// The permissions of which one is enough for the request; none if it is not for this controller to decide.
fn candidates(request: &CertificateSigningRequest) -> Result<Vec<Permission>, Error> {
    if issued(request).is_some() || has_condition(request, "Approved") || has_condition(request, "Denied") {
        return Ok(Vec::new());
    }
    let parsed =
        Request::parse(&request.spec.request.0).map_err(|reason| Error::Request { name: Object::name(request).to_owned(), reason })?;
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    if request.spec.signer_name != KUBELET_CLIENT || kubelet_client(&parsed, usages).is_err() {
        return Ok(Vec::new());
    }
    let own = request.spec.username.as_deref() == Some(parsed.common_name.as_str());
    Ok(if own { vec![SELF, ANY] } else { vec![ANY] })
}

async fn approve(client: Client, request: &CertificateSigningRequest) -> Result<(), Error> {
    let mut tried = Vec::new();
    for permission in candidates(request)? {
        tried.push(permission.subresource);
        if !may(&client, request, permission.subresource).await? {
            continue;
        }
        let approved = approved(request, permission.message);
        let api: Api<CertificateSigningRequest> = Api::all(client);
        return unless_overtaken(api.replace_subresource("approval", Object::name(request), &PostParams::default(), &approved).await);
    }
    if tried.is_empty() { Ok(()) } else { Err(Error::NotPermitted { name: Object::name(request).to_owned(), tried }) }
}

async fn may(client: &Client, request: &CertificateSigningRequest, subresource: &str) -> Result<bool, Error> {
    let word = |text: &str| Some(text.to_owned());
    let spec = SubjectAccessReviewSpec {
        user: request.spec.username.clone(),
        uid: request.spec.uid.clone(),
        groups: request.spec.groups.clone(),
        extra: request.spec.extra.clone(),
        resource_attributes: Some(ResourceAttributes {
            group: word("certificates.k8s.io"),
            resource: word("certificatesigningrequests"),
            verb: word("create"),
            subresource: word(subresource),
            version: word("*"),
            ..ResourceAttributes::default()
        }),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let answer = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

fn approved(request: &CertificateSigningRequest, message: &str) -> CertificateSigningRequest {
    let mut approved = request.clone();
    let condition = CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("AutoApproved".to_owned()),
        message: Some(message.to_owned()),
        ..CertificateSigningRequestCondition::default()
    };
    approved.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    approved
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::super::request::tests::text;
    use super::*;

    fn request(common_name: &str, user: &str) -> CertificateSigningRequest {
        let mut request = CertificateSigningRequest::default();
        request.spec.request = ByteString(text(common_name, "system:nodes", vec![]));
        request.spec.signer_name = KUBELET_CLIENT.to_owned();
        request.spec.username = Some(user.to_owned());
        request.spec.usages = Some(vec!["digital signature".to_owned(), "client auth".to_owned()]);
        request
    }

    #[test]
    fn a_kubelet_may_renew_its_own_certificate_or_be_allowed_to_ask_for_any() {
        assert_eq!(candidates(&request("system:node:a", "system:node:a")).unwrap(), [SELF, ANY]);
        assert_eq!(candidates(&request("system:node:a", "system:bootstrap:x")).unwrap(), [ANY]);
        assert_eq!(candidates(&request("alice", "alice")).unwrap(), []);
    }

    #[test]
    fn what_is_decided_or_for_another_signer_is_left_alone() {
        let decided = approved(&request("system:node:a", "system:node:a"), "m");
        assert_eq!(candidates(&decided).unwrap(), []);
        let mut other = request("system:node:a", "system:node:a");
        other.spec.signer_name = "example.com/mine".to_owned();
        assert_eq!(candidates(&other).unwrap(), []);
        other.spec.request = ByteString(b"nonsense".to_vec());
        assert!(candidates(&other).unwrap_err().to_string().contains("PEM block type must be CERTIFICATE REQUEST"));
    }
}
