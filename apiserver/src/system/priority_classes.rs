//! The two PriorityClasses of critical system pods.

use apimachinery::status::Status;
use serde_json::json;

use crate::loopback::Loopback;

const COLLECTION: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
/// The highest priority that users may give; the system's are above.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

const CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2 * HIGHEST_USER_PRIORITY + 1_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2 * HIGHEST_USER_PRIORITY,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// Creates the classes that are missing.
pub async fn ensure(client: &Loopback) -> Result<(), Status> {
    if !client.serves("scheduling.k8s.io", "priorityclasses") {
        return Ok(());
    }
    for (name, value, description) in CLASSES {
        if client.get("scheduling.k8s.io", "priorityclasses", "", name).is_some() {
            continue;
        }
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": { "name": name },
            "value": value,
            "description": description,
        });
        client.ensure(COLLECTION, class).await?;
    }
    Ok(())
}
