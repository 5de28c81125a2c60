//! CertificateSigning: only who may sign for a signer sets certificates and conditions of its requests.

use apimachinery::field::quote;
use apimachinery::status::Status;
use serde_json::Value;

use super::signers::{GROUP, may};
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::{list_at, str_at};

/// The plugin.
pub struct CertificateSigning;

impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let applies = attributes.operation == Operation::Update
            && attributes.subresource == "status"
            && attributes.is(GROUP, "certificatesigningrequests");
        let (Some(request), Some(before), true) = (new, old, applies) else { return Ok(()) };
        let same = str_at(request, "/status/certificate") == str_at(before, "/status/certificate")
            && list_at(request, "/status/conditions") == list_at(before, "/status/conditions");
        let signer = str_at(before, "/spec/signerName");
        if same || may(attributes, lookup, "sign", signer) {
            return Ok(());
        }
        Err(attributes.forbidden(new, &format!("user not permitted to sign requests with signerName {}", quote(signer))))
    }
}
