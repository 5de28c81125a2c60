//! CertificateApproval: only who may approve for a signer approves its requests.

use apimachinery::field::quote;
use apimachinery::status::Status;
use serde_json::Value;

use super::signers::{GROUP, may};
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::str_at;

/// The plugin.
pub struct CertificateApproval;

impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
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
            && attributes.subresource == "approval"
            && attributes.is(GROUP, "certificatesigningrequests");
        // The old object is asked, so that nobody changes the signer while approving.
        let Some(request) = old.filter(|_| applies) else { return Ok(()) };
        let signer = str_at(request, "/spec/signerName");
        if may(attributes, lookup, "approve", signer) {
            return Ok(());
        }
        Err(attributes.forbidden(new, &format!("user not permitted to approve requests with signerName {}", quote(signer))))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn approval_needs_the_signer_or_its_domain() {
        let write = Write::new(Operation::Update, "", "v1", "pods");
        let mut attributes = write.attributes();
        attributes.subresource = "approval";
        let request = json!({ "spec": { "signerName": "example.com/a" } });
        let grant = |allowed: Vec<&'static str>| {
            let objects = Objects { allowed, ..Objects::default() };
            may(&attributes, &objects, "approve", str_at(&request, "/spec/signerName"))
        };
        assert!(!grant(vec![]));
        assert!(grant(vec!["approve certificates.k8s.io/signers example.com/a"]));
        assert!(grant(vec!["approve certificates.k8s.io/signers example.com/*"]));
        assert!(!grant(vec!["sign certificates.k8s.io/signers example.com/*"]));
    }
}
