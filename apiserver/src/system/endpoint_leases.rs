//! Which API servers on one store live: each keeps a key with its address there that is gone soon after the server is.
//!
//! They lie where upstream's servers keep theirs and look the same, so that servers of both kinds see each other.

use std::net::IpAddr;

use apimachinery::status::Status;
use apimachinery::{json, protobuf};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::api::Api;
use crate::storage::encrypted::Kind;
use crate::storage::{Mortal, StoreError};

const PREFIX: &str = "masterleases";
/// What upstream's configuration of ciphers calls them.
const RESOURCE: &str = "apiServerIPInfo";
/// Seconds after which a server that does not renew is taken for dead, as upstream has it: more than the ten between two renewals.
const TTL_SECONDS: u32 = 15;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Encode(#[from] protobuf::EncodeError),
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        Status::internal_error(&error.to_string())
    }
}

/// The leases of all API servers on the store.
#[derive(Clone)]
pub struct EndpointLeases(Mortal);

impl EndpointLeases {
    pub fn new(api: &Api) -> EndpointLeases {
        EndpointLeases(api.storage.mortal(PREFIX, &Kind { group: "".into(), resource: RESOURCE.into() }))
    }

    /// Tells the others that the server at this address lives.
    pub async fn renew(&self, address: IpAddr) -> Result<(), Error> {
        let value = protobuf::builtin().encode_object(&lease(address))?;
        Ok(self.0.renew(&address.to_string(), Bytes::from(value), TTL_SECONDS).await?)
    }

    /// Tells the others that the server at this address is gone. Says whether they believed that it lived.
    pub async fn give_up(&self, address: IpAddr) -> Result<bool, Error> {
        Ok(self.0.remove(&address.to_string()).await?)
    }

    /// The addresses of all who live.
    pub async fn addresses(&self) -> Result<Vec<IpAddr>, Error> {
        Ok(self.0.values().await?.iter().filter_map(|value| address(value)).collect())
    }
}

fn lease(address: IpAddr) -> Value {
    json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": {}, "subsets": [{ "addresses": [{ "ip": address.to_string() }] }] })
}

/// The address in a lease, which may be protobuf or JSON; `None` if it has none.
fn address(stored: &[u8]) -> Option<IpAddr> {
    let value = match protobuf::builtin().decode_object(stored) {
        Ok(value) => value,
        Err(message) => match json::parse(stored) {
            Ok((value, _)) => value,
            Err(_) => {
                tracing::warn!(error = %message, "the lease of an API server cannot be read");
                return None;
            }
        },
    };
    value.pointer("/subsets/0/addresses/0/ip")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_reads_back_in_both_forms_and_what_has_no_address_is_nobodys() {
        for text in ["10.1.2.3", "fd00::1"] {
            let wanted: IpAddr = text.parse().unwrap();
            let message = protobuf::builtin().encode_object(&lease(wanted)).unwrap();
            assert!(message.starts_with(b"k8s\0"));
            assert_eq!(address(&message), Some(wanted));
            assert_eq!(address(lease(wanted).to_string().as_bytes()), Some(wanted));
        }
        for nobody in [&b"{}"[..], b"", br#"{"subsets":[{"addresses":[{"ip":"here"}]}]}"#] {
            assert_eq!(address(nobody), None);
        }
    }
}
