//! Waiting for the next change of some resources: what drives the API server's own controllers.
//!
//! Level-triggered: a change says that something is different now, never what. Idle resources cost nothing.

use std::sync::Arc;

use futures::future::select_all;

use crate::api::Api;
use crate::storage::{Cursor, Resource, Scope};

/// Resources whose changes are waited for.
pub struct Watched(Vec<One>);

struct One {
    resource: Arc<Resource>,
    scope: Scope,
    cursor: Cursor,
}

/// The objects of a resource in memory, by the group and plural of its stored version. `None` if it is not served.
pub fn cache(api: &Api, group: &str, plural: &str) -> Option<Arc<Resource>> {
    api.catalog.load().stored_resource(group, plural).and_then(|s| s.cache()).cloned()
}

impl Watched {
    /// Watches from now on. Resources that are not served never change.
    pub fn new(api: &Api, resources: &[(&str, &str)]) -> Watched {
        Watched::scoped(api, resources, &Scope::All)
    }

    /// Watches the objects of one name.
    pub fn named(api: &Api, resources: &[(&str, &str)], name: &str) -> Watched {
        Watched::scoped(api, resources, &Scope::Name(name.into()))
    }

    fn scoped(api: &Api, resources: &[(&str, &str)], scope: &Scope) -> Watched {
        let ones = resources.iter().filter_map(|(group, plural)| {
            let resource = cache(api, group, plural)?;
            let (_, cursor) = resource.list_and_watch(scope.clone());
            Some(One { resource, scope: scope.clone(), cursor })
        });
        Watched(ones.collect())
    }

    /// Returns after the next change, or after many: a caller that looks at everything misses nothing.
    pub async fn changed(&mut self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        select_all(self.0.iter_mut().map(|one| Box::pin(one.changed()))).await;
    }
}

impl One {
    async fn changed(&mut self) {
        if self.cursor.next().await.is_err() {
            // Outrun by the log: everything may be different, and the watch starts anew.
            (_, self.cursor) = self.resource.list_and_watch(self.scope.clone());
        }
    }
}
