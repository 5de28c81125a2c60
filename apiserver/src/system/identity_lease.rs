//! The Lease in kube-system that says that this API server is alive, and the end of those that are not.

use std::time::Duration;

use apimachinery::status::Status;
use apimachinery::time::format_micro_time;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Settings, until_stopped};
use crate::loopback::{Loopback, MANAGER};
use crate::registry::read::{optional_int_at, str_at};

const NAMESPACE: &str = "kube-system";
const COLLECTION: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const IDENTITY_LABEL: &str = "apiserver.kubernetes.io/identity";
const DURATION_SECONDS: i64 = 3_600;
/// Upstream renews every 10 s a lease that is good for an hour. On an SD card that is 8,640 needless writes a day, so
/// it is done every 5 minutes here.
const RENEW_INTERVAL: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(1);
/// How often the leases of others are looked at.
const COLLECT_INTERVAL: Duration = Duration::from_secs(3_600);

/// Starts renewing and collecting.
pub fn spawn(client: &Loopback, settings: &Settings) {
    if !client.serves("coordination.k8s.io", "leases") {
        return;
    }
    let identity = Identity::of(settings);
    let c = client.clone();
    until_stopped(client.api(), async move { renew(&c, &identity).await });
    let c = client.clone();
    until_stopped(client.api(), async move { collect(&c).await });
}

/// Who this server is, as its lease tells it.
struct Identity {
    lease: String,
    holder: String,
    hostname: String,
    peer_address: Option<String>,
}

impl Identity {
    fn of(settings: &Settings) -> Identity {
        let lease = name(&settings.hostname);
        let holder = format!("{lease}_{}", uuid::Uuid::new_v4());
        let peer_address = settings.advertise_address.map(|address| std::net::SocketAddr::new(address, settings.port).to_string());
        Identity { lease, holder, hostname: settings.hostname.clone(), peer_address }
    }

    fn lease(&self, now: Timestamp) -> Value {
        let mut lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.lease,
                "namespace": NAMESPACE,
                "labels": { IDENTITY_LABEL: MANAGER, "kubernetes.io/hostname": self.hostname },
            },
            "spec": { "holderIdentity": self.holder, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": format_micro_time(now) },
        });
        if let Some(address) = &self.peer_address {
            lease["metadata"]["annotations"] = json!({ "kubernetes.io/peer-advertise-address": address });
        }
        lease
    }
}

/// This machine's name.
pub fn hostname() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "localhost".to_owned());
    read.trim().to_owned()
}

/// What an API server of a machine is called: its lease, and in metrics.
pub fn name(hostname: &str) -> String {
    format!("apiserver-{}", digest(hostname))
}

/// 16 bytes of the SHA-256 of the host's and the component's name, each after its length, in base 32.
fn digest(hostname: &str) -> String {
    let mut input = Vec::with_capacity(hostname.len() + MANAGER.len() + 4);
    for part in [hostname, MANAGER] {
        let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
        input.extend_from_slice(&length.to_be_bytes());
        input.extend_from_slice(part.as_bytes());
    }
    let hash = ring::digest::digest(&ring::digest::SHA256, &input);
    base32(&hash.as_ref()[..16])
}

/// RFC 4648, lower case, no padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bit = |n: usize| bytes.get(n / 8).is_some_and(|byte| byte >> (7 - n % 8) & 1 == 1);
    (0..(bytes.len() * 8).div_ceil(5))
        .map(|group| {
            let index = (0..5).fold(0usize, |index, n| index << 1 | usize::from(bit(group * 5 + n)));
            ALPHABET[index] as char
        })
        .collect()
}

async fn renew(client: &Loopback, identity: &Identity) {
    let path = format!("{COLLECTION}/{}", identity.lease);
    // A lease of an earlier process would name one that is gone.
    if let Err(status) = client.delete(&path, "").await {
        tracing::warn!(lease = identity.lease, error = status.message, "the old lease stays");
    }
    loop {
        let wait = match renew_once(client, identity, &path).await {
            Ok(()) => RENEW_INTERVAL,
            Err(status) => {
                tracing::warn!(lease = identity.lease, error = status.message, "the lease was not renewed");
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn renew_once(client: &Loopback, identity: &Identity, path: &str) -> Result<(), Status> {
    let wanted = identity.lease(Timestamp::now());
    let Some(mut current) = client.get("coordination.k8s.io", "leases", NAMESPACE, &identity.lease) else {
        return client.create(COLLECTION, wanted).await.map(|_| ());
    };
    for (field, value) in wanted["spec"].as_object().into_iter().flatten() {
        current["spec"][field] = value.clone();
    }
    client.replace(path, current).await.map(|_| ())
}

/// Deletes the leases of API servers that have not renewed them.
async fn collect(client: &Loopback) {
    loop {
        let now = Timestamp::now();
        for lease in client.list("coordination.k8s.io", "leases").iter().filter(|l| is_identity(l) && is_expired(l, now)) {
            let name = str_at(lease, "/metadata/name");
            if let Err(status) = client.delete(&format!("{COLLECTION}/{name}"), str_at(lease, "/metadata/uid")).await {
                tracing::warn!(lease = name, error = status.message, "an expired lease stays");
            }
        }
        tokio::time::sleep(COLLECT_INTERVAL).await;
    }
}

fn is_identity(lease: &Value) -> bool {
    str_at(lease, "/metadata/namespace") == NAMESPACE && str_at(lease, "/metadata/labels/apiserver.kubernetes.io~1identity") == MANAGER
}

fn is_expired(lease: &Value, now: Timestamp) -> bool {
    let renewed: Option<Timestamp> = str_at(lease, "/spec/renewTime").parse().ok();
    let duration = optional_int_at(lease, "/spec/leaseDurationSeconds");
    let end = renewed.zip(duration).and_then(|(at, seconds)| at.checked_add(SignedDuration::from_secs(seconds)).ok());
    end.is_none_or(|end| end < now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_the_lease_that_upstream_gives_it() {
        assert_eq!(digest("vm"), "wlv32tlttr4jl3gtroqexyxapa");
    }

    #[test]
    fn a_lease_expires_when_it_was_not_renewed_in_time() {
        let now = Timestamp::from_second(10_000).unwrap();
        let lease = |renewed: &str| json!({"spec": {"renewTime": renewed, "leaseDurationSeconds": 3600}});
        assert!(!is_expired(&lease("1970-01-01T02:00:00.000000Z"), now));
        assert!(is_expired(&lease("1970-01-01T01:00:00.000000Z"), now));
        assert!(is_expired(&json!({"spec": {}}), now));
    }
}
