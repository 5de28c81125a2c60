//! What is done with a plugin of a kind that puts its socket into `<root dir>/plugins_registry`.

use futures::future::BoxFuture;

/// Takes plugins of one kind.
pub trait Handler: Send + Sync {
    /// A plugin has come; why it is not taken.
    fn register<'a>(&'a self, name: &'a str, endpoint: &'a str, versions: &'a [String]) -> BoxFuture<'a, Result<(), String>>;
    /// Its socket is gone.
    fn deregister<'a>(&'a self, name: &'a str, endpoint: &'a str) -> BoxFuture<'a, ()>;
}
