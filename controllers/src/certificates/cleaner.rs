//! The cleaner: deletes signing requests that nobody needs any more.

use std::time::Duration;

use client::clock;
use client::{Object, answer};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::DeleteParams;

use super::{conditions, issued};
use crate::manager::Context;

const PERIOD: Duration = Duration::from_secs(60 * 60);
/// How long a request is kept that was decided, and one that nobody has decided or signed.
const KEPT_DECIDED: SignedDuration = SignedDuration::from_hours(1);
const KEPT_PENDING: SignedDuration = SignedDuration::from_hours(24);

pub async fn run(context: Context) {
    let requests = context.informers.of::<CertificateSigningRequest>();
    requests.synced().await;
    let api: Api<CertificateSigningRequest> = Api::all(context.client);
    loop {
        for request in requests.list() {
            let Some(why) = reason(&request, clock::now()) else { continue };
            tracing::info!(controller = context.name, csr = Object::name(&*request), why, "deleting certificate signing request");
            if let Err(error) = answer::or_absent(api.delete(Object::name(&*request), &DeleteParams::default()).await) {
                tracing::warn!(controller = context.name, csr = Object::name(&*request), %error, "unable to delete certificate signing request");
            }
        }
        tokio::select! {
            biased;
            () = context.shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Why a request can go; nothing if it cannot.
fn reason(request: &CertificateSigningRequest, now: Timestamp) -> Option<&'static str> {
    let older = |time: &Option<Time>, than: SignedDuration| time.as_ref().is_some_and(|time| now.duration_since(time.0) > than);
    let condition = |kind: &str, than| conditions(request).iter().any(|c| c.type_ == kind && older(&c.last_update_time, than));
    let certificate = issued(request);
    if certificate.is_some() && condition("Approved", KEPT_DECIDED) {
        return Some("its certificate was issued long ago");
    }
    if condition("Denied", KEPT_DECIDED) {
        return Some("it was denied long ago");
    }
    if condition("Failed", KEPT_DECIDED) {
        return Some("it failed long ago");
    }
    if conditions(request).is_empty() && older(&request.metadata.creation_timestamp, KEPT_PENDING) {
        return Some("nobody has decided about it");
    }
    let approved = conditions(request).iter().any(|c| c.type_ == "Approved");
    if approved && certificate.is_some_and(|certificate| has_expired(certificate, now)) {
        return Some("its certificate has expired");
    }
    if certificate.is_none() && condition("Approved", KEPT_PENDING) {
        return Some("nobody has signed it");
    }
    None
}

fn has_expired(certificate: &[u8], now: Timestamp) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(certificate) else { return false };
    pem.parse_x509().is_ok_and(|parsed| now.as_second() > parsed.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition;

    use super::super::authority::tests::files;
    use super::*;

    fn request(condition: Option<(&str, &str)>, certificate: &str) -> CertificateSigningRequest {
        let mut request = CertificateSigningRequest::default();
        request.metadata.creation_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
        let status = request.status.get_or_insert_default();
        status.conditions = condition.map(|(kind, at)| {
            vec![CertificateSigningRequestCondition {
                type_: kind.to_owned(),
                last_update_time: Some(Time(at.parse().unwrap())),
                ..CertificateSigningRequestCondition::default()
            }]
        });
        status.certificate = Some(ByteString(certificate.as_bytes().to_vec()));
        request
    }

    #[test]
    fn a_request_goes_an_hour_after_the_decision_and_a_day_after_nothing_happened() {
        // The certificate is good until 2040.
        let certificate = files().0;
        let cases = [
            (request(None, ""), "2026-01-01T23:00:00Z", None),
            (request(None, ""), "2026-01-02T01:00:00Z", Some("nobody has decided about it")),
            (request(Some(("Approved", "2026-01-01T12:00:00Z")), &certificate), "2026-01-01T12:30:00Z", None),
            (
                request(Some(("Approved", "2026-01-01T12:00:00Z")), &certificate),
                "2026-01-01T13:30:00Z",
                Some("its certificate was issued long ago"),
            ),
            (request(Some(("Denied", "2026-01-01T12:00:00Z")), ""), "2026-01-01T13:30:00Z", Some("it was denied long ago")),
            (request(Some(("Failed", "2026-01-01T12:00:00Z")), ""), "2026-01-01T13:30:00Z", Some("it failed long ago")),
            (request(Some(("Approved", "2026-01-01T12:00:00Z")), ""), "2026-01-02T11:00:00Z", None),
            (request(Some(("Approved", "2026-01-01T12:00:00Z")), ""), "2026-01-02T13:00:00Z", Some("nobody has signed it")),
            (
                request(Some(("Approved", "2040-01-01T00:00:00Z")), &certificate),
                "2040-01-01T00:10:00Z",
                Some("its certificate has expired"),
            ),
        ];
        for (request, now, expect) in cases {
            assert_eq!(reason(&request, now.parse().unwrap()), expect, "{now} {:?}", request.status.unwrap().conditions);
        }
    }
}
