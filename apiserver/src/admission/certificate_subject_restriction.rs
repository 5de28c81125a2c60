//! CertificateSubjectRestriction: no client certificate makes its bearer a member of system:masters.

use apimachinery::status::Status;
use serde_json::Value;

use super::signers::{GROUP, subject};
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::str_at;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// The plugin.
pub struct CertificateSubjectRestriction;

/// Why a request is refused, if it is.
fn refusal(request: &Value) -> Option<String> {
    if str_at(request, "/spec/signerName") != CLIENT_SIGNER {
        return None;
    }
    match subject(str_at(request, "/spec/request")) {
        Err(why) => Some(format!("failed to parse CSR: {why}")),
        Ok(subject) if subject.organizations.iter().any(|o| o == "system:masters") => {
            Some(format!("use of {CLIENT_SIGNER} signer with system:masters group is not allowed"))
        }
        Ok(_) => None,
    }
}

impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        new: Option<&Value>,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let applies = attributes.operation == Operation::Create && attributes.is_main(GROUP, "certificatesigningrequests");
        match new.filter(|_| applies).and_then(refusal) {
            Some(why) => Err(attributes.forbidden(new, &why)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::signers::tests::request;
    use super::*;

    #[test]
    fn nobody_asks_for_system_masters() {
        let check =
            |signer: &str, organization: &str| refusal(&json!({ "spec": { "signerName": signer, "request": request("a", organization) } }));
        assert_eq!(check(CLIENT_SIGNER, "dev"), None);
        assert_eq!(check("example.com/other", "system:masters"), None);
        assert_eq!(
            check(CLIENT_SIGNER, "system:masters").unwrap(),
            "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
        );
    }
}
