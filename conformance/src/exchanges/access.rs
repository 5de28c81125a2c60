//! Where a server is and how the administrator is let in: by a URL and a token, or as a kubeconfig says.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use crate::bench::connection::{Endpoint, Identity};

/// A server and the administrator's way in.
#[derive(Clone)]
pub struct Access {
    pub(super) endpoint: Endpoint,
}

impl Access {
    /// # Errors
    /// As [`Endpoint::new`].
    pub fn token(url: &str, token: &str) -> anyhow::Result<Access> {
        Ok(Access { endpoint: Endpoint::new(url, token)? })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The server and the user of the current context.
    ///
    /// # Errors
    /// If the file cannot be read, or names neither a token nor a client certificate that is in it.
    pub fn kubeconfig(path: &Path) -> anyhow::Result<Access> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let file: Kubeconfig = serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
        file.access().with_context(|| path.display().to_string())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: String,
    contexts: Vec<Named<Context_>>,
    clusters: Vec<Named<Cluster>>,
    users: Vec<Named<User>>,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "context", alias = "cluster", alias = "user")]
    value: T,
}

#[derive(Deserialize)]
struct Context_ {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct Cluster {
    server: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

fn named<'a, T>(all: &'a [Named<T>], name: &str) -> anyhow::Result<&'a T> {
    all.iter().find(|one| one.name == name).map(|one| &one.value).with_context(|| format!("{name} is not in it"))
}

impl Kubeconfig {
    fn access(&self) -> anyhow::Result<Access> {
        let context = named(&self.contexts, &self.current_context)?;
        let url = &named(&self.clusters, &context.cluster)?.server;
        let user = named(&self.users, &context.user)?;
        if let Some(token) = &user.token {
            return Access::token(url, token);
        }
        let (Some(certificate), Some(key)) = (&user.client_certificate_data, &user.client_key_data) else {
            bail!("user {} has neither a token nor a client certificate with its key", context.user);
        };
        let identity = Identity { certificate_pem: BASE64_STANDARD.decode(certificate)?, key_pem: BASE64_STANDARD.decode(key)? };
        Ok(Access { endpoint: Endpoint::with_certificate(url, &identity)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_names_the_server_and_the_user_of_its_context() {
        let text = "current-context: b\ncontexts:\n- {name: a, context: {cluster: c1, user: u1}}\n- {name: b, context: {cluster: c2, user: u2}}\n\
                    clusters:\n- {name: c2, cluster: {server: 'https://127.0.0.1:1'}}\nusers:\n- {name: u2, user: {token: t}}\n";
        let file: Kubeconfig = serde_saphyr::from_str(text).unwrap();
        assert!(file.access().is_ok());
        let nobody = Kubeconfig { users: Vec::new(), ..file };
        assert_eq!(nobody.access().err().unwrap().to_string(), "u2 is not in it");
    }
}
