//! The ConfigMap that says since when the use of legacy service account tokens is recorded.

use apimachinery::status::Status;
use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::json;

use crate::loopback::Loopback;
use crate::registry::read::str_at;

const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";
const NAMESPACE: &str = "kube-system";
const COLLECTION: &str = "/api/v1/namespaces/kube-system/configmaps";

/// Creates the object, or sets its date if that is none.
pub async fn ensure(client: &Loopback) -> Result<(), Status> {
    if !client.serves("", "configmaps") {
        return Ok(());
    }
    let today = Timestamp::now().strftime("%Y-%m-%d").to_string();
    let Some(mut object) = client.get("", "configmaps", NAMESPACE, NAME) else {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": NAME, "namespace": NAMESPACE },
            "data": { "since": today },
        });
        return client.ensure(COLLECTION, object).await.map(|_| ());
    };
    if Date::strptime("%Y-%m-%d", str_at(&object, "/data/since")).is_ok() {
        return Ok(());
    }
    object["data"]["since"] = today.into();
    client.replace(&format!("{COLLECTION}/{NAME}"), object).await.map(|_| ())
}
