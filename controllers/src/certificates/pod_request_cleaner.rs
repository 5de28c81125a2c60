//! The cleaner of PodCertificateRequests: whether signed or not, after a quarter of an hour nobody waits for one.

use std::time::Duration;

use client::clock;
use client::{Object, answer};
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use crate::manager::Context;

const PERIOD: Duration = Duration::from_secs(5 * 60);
const KEPT: SignedDuration = SignedDuration::from_mins(15);

pub async fn run(context: Context) {
    let requests = context.informers.of::<PodCertificateRequest>();
    requests.synced().await;
    loop {
        for request in requests.list().iter().filter(|request| is_old(request, clock::now())) {
            let api: Api<PodCertificateRequest> = Api::namespaced(context.client.clone(), Object::namespace(&**request));
            let only = Preconditions { uid: request.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
            if let Err(error) = answer::or_absent(api.delete(Object::name(&**request), &params).await) {
                tracing::warn!(controller = context.name, request = %Object::key(&**request), %error, "unable to delete PodCertificateRequest");
            }
        }
        tokio::select! {
            biased;
            () = context.shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

fn is_old(request: &PodCertificateRequest, now: Timestamp) -> bool {
    request.metadata.creation_timestamp.as_ref().is_none_or(|created| now.duration_since(created.0) >= KEPT)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[test]
    fn a_request_is_old_after_a_quarter_of_an_hour() {
        let mut request = PodCertificateRequest::default();
        request.metadata.creation_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
        assert!(!is_old(&request, "2026-01-01T00:14:59Z".parse().unwrap()));
        assert!(is_old(&request, "2026-01-01T00:15:00Z".parse().unwrap()));
    }
}
