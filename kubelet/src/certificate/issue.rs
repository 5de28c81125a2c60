//! Asking for a certificate and waiting for it.

use std::time::Duration;

use client::answer::is_already_exists;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;

use super::Error;

/// How often an answer is looked for: more and more seldom, since it comes at once or after somebody's decision.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    first: Duration,
    longest: Duration,
}

impl Interval {
    pub const FIRST: Interval = Interval { first: Duration::from_millis(50), longest: Duration::from_secs(2) };

    fn next(self, current: Duration) -> Duration {
        (current * 2).min(self.longest)
    }
}

/// Posts the request, or finds it posted before, and waits for its certificate, PEM.
pub async fn obtain(client: &Client, request: &CertificateSigningRequest, timeout: Duration, interval: Interval) -> Result<String, Error> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let posted = match api.create(&PostParams::default(), request).await {
        Err(error) if is_already_exists(&error) && request.metadata.name.is_some() => {
            let name = request.metadata.name.clone().unwrap_or_default();
            let found = api.get(&name).await.map_err(|source| Error::Read { name: name.clone(), source })?;
            if (&found.spec.signer_name, &found.spec.usages) != (&request.spec.signer_name, &request.spec.usages) {
                return Err(Error::Incompatible(name));
            }
            found
        }
        created => created.map_err(Error::Create)?,
    };
    let name = posted.metadata.name.unwrap_or_default();
    let (deadline, mut pause) = (Instant::now() + timeout, interval.first);
    loop {
        match api.get(&name).await {
            Ok(current) => {
                if let Some(certificate) = outcome(&current)? {
                    return Ok(certificate);
                }
            }
            // Gone: whoever deleted it wants it asked anew. Anything else may pass.
            Err(source) if client::answer::is_not_found(&source) => return Err(Error::Read { name, source }),
            Err(error) => tracing::warn!(%error, request = name, "cannot see whether the certificate was issued"),
        }
        if Instant::now() + pause > deadline {
            return Err(Error::Timeout { name, timeout });
        }
        tokio::time::sleep(pause).await;
        pause = interval.next(pause);
    }
}

/// What became of a request so far: a certificate, nothing yet, or a refusal.
fn outcome(request: &CertificateSigningRequest) -> Result<Option<String>, Error> {
    let Some(status) = &request.status else { return Ok(None) };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let words = |condition: &CertificateSigningRequestCondition| {
        (condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default())
    };
    for condition in conditions {
        let (reason, message) = words(condition);
        match condition.type_.as_str() {
            "Denied" => return Err(Error::Denied { reason, message }),
            "Failed" => return Err(Error::Failed { reason, message }),
            _ => {}
        }
    }
    let approved = conditions.iter().any(|condition| condition.type_ == "Approved");
    let certificate = status.certificate.as_ref().map(|bytes| bytes.0.as_slice()).unwrap_or_default();
    if !approved || certificate.is_empty() {
        return Ok(None);
    }
    String::from_utf8(certificate.to_vec()).map(Some).map_err(|_| Error::Certificate("what was issued is no text".to_owned()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn request(conditions: &[&str], certificate: &str) -> CertificateSigningRequest {
        let mut request = CertificateSigningRequest::default();
        let status = request.status.get_or_insert_default();
        let condition = |kind: &&str| CertificateSigningRequestCondition {
            type_: (*kind).to_owned(),
            status: "True".to_owned(),
            reason: Some("Because".to_owned()),
            message: Some("m".to_owned()),
            ..CertificateSigningRequestCondition::default()
        };
        status.conditions = Some(conditions.iter().map(condition).collect());
        status.certificate = (!certificate.is_empty()).then(|| ByteString(certificate.as_bytes().to_vec()));
        request
    }

    #[test]
    fn a_request_ends_in_a_certificate_or_a_refusal() {
        assert_eq!(outcome(&CertificateSigningRequest::default()).unwrap(), None);
        assert_eq!(outcome(&request(&["Approved"], "")).unwrap(), None);
        assert_eq!(outcome(&request(&["Approved"], "pem")).unwrap().as_deref(), Some("pem"));
        let refused = outcome(&request(&["Denied"], "")).unwrap_err().to_string();
        assert_eq!(refused, "certificate signing request is denied, reason: Because, message: m");
        let failed = outcome(&request(&["Approved", "Failed"], "")).unwrap_err().to_string();
        assert_eq!(failed, "certificate signing request failed, reason: Because, message: m");
    }

    #[test]
    fn looking_becomes_seldom_but_not_rare() {
        let pauses: Vec<Duration> =
            std::iter::successors(Some(Interval::FIRST.first), |pause| Some(Interval::FIRST.next(*pause))).take(10).collect();
        assert_eq!(pauses[1], Duration::from_millis(100));
        assert_eq!(pauses[9], Duration::from_secs(2));
    }
}
