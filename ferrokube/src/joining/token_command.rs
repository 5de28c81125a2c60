//! `ferrokube token`: the bootstrap tokens of a running cluster.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use apiserver::run::kubeconfig_path;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client};
use ring::rand::SystemRandom;

use super::discovery::CaHash;
use super::policy::{CLUSTER_INFO, KUBECONFIG_KEY, PUBLIC_NAMESPACE};
use super::token::{self, Token};
use crate::client_flags;

/// `ferrokube token`.
#[derive(Subcommand)]
pub enum TokenCommand {
    /// Make a token with which machines can join, and print it.
    Create(Create),
    /// Show the tokens that there are.
    List(Place),
    /// Delete tokens, by the token or its id.
    Delete(Delete),
}

/// Where the cluster is that is meant.
#[derive(Args)]
pub struct Place {
    /// The data directory that the cluster was started with; the cluster must be running.
    #[arg(long, default_value = "/var/lib/ferrokube")]
    data_dir: PathBuf,
    /// Another kubeconfig than the one in the data directory.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

#[derive(Args)]
pub struct Create {
    #[command(flatten)]
    place: Place,
    /// The token; a new one by default.
    token: Option<Token>,
    /// How long it is good, such as 24h; 0 for always.
    #[arg(long, default_value = "24h", value_parser = ttl)]
    ttl: SignedDuration,
    /// What it is for, for whoever reads the list.
    #[arg(long, default_value = "")]
    description: String,
    /// Print the whole command that joins a machine.
    #[arg(long)]
    print_join_command: bool,
}

#[derive(Args)]
pub struct Delete {
    #[command(flatten)]
    place: Place,
    #[arg(required = true)]
    tokens: Vec<String>,
}

fn ttl(text: &str) -> Result<SignedDuration, String> {
    let nanoseconds = apimachinery::time::parse_duration(text)?;
    if nanoseconds < 0 {
        return Err("must not be negative".to_owned());
    }
    Ok(SignedDuration::from_nanos(nanoseconds))
}

impl Place {
    async fn client(&self) -> anyhow::Result<Client> {
        let path = self.kubeconfig.clone().unwrap_or_else(|| kubeconfig_path(&self.data_dir));
        client_flags::connect(Path::new(&path), "ferrokube").await
    }

    async fn secrets(&self) -> anyhow::Result<Api<Secret>> {
        Ok(Api::namespaced(self.client().await?, token::NAMESPACE))
    }
}

impl TokenCommand {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            TokenCommand::Create(command) => command.run().await,
            TokenCommand::List(place) => {
                let only = ListParams::default().fields(&format!("type={}", token::TYPE));
                print(&table(&place.secrets().await?.list(&only).await?.items))
            }
            TokenCommand::Delete(command) => command.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<()> {
        let client = self.place.client().await?;
        let token = match self.token {
            Some(token) => token,
            None => Token::generate(&SystemRandom::new())?,
        };
        let expires =
            if self.ttl.is_zero() { None } else { Some(Timestamp::now().checked_add(self.ttl).context("--ttl: nobody lives so long")?) };
        let secret = token.to_secret(expires, &self.description);
        let secrets: Api<Secret> = Api::namespaced(client.clone(), token::NAMESPACE);
        secrets.create(&PostParams::default(), &secret).await.context("the token cannot be made")?;
        if !self.print_join_command {
            return print(&format!("{token}\n"));
        }
        let maps: Api<ConfigMap> = Api::namespaced(client, PUBLIC_NAMESPACE);
        let map = maps.get(CLUSTER_INFO).await.context("the cluster does not say how it is joined")?;
        let data = map.data.unwrap_or_default();
        let text = join_command(data.get(KUBECONFIG_KEY).map_or("", String::as_str), &token)?;
        print(&format!("{text}\n"))
    }
}

/// What is typed on the machine that joins.
fn join_command(cluster_info: &str, token: &Token) -> anyhow::Result<String> {
    let kubeconfig = Kubeconfig::from_yaml(cluster_info).context("cluster-info is no kubeconfig")?;
    let cluster = kubeconfig.clusters.first().and_then(|named| named.cluster.as_ref()).context("cluster-info names no cluster")?;
    let server = cluster.server.as_deref().context("cluster-info names no server")?;
    let ca = STANDARD.decode(cluster.certificate_authority_data.as_deref().unwrap_or_default()).context("the CA of cluster-info")?;
    let hashes = CaHash::of_all(&String::from_utf8(ca).context("the CA of cluster-info")?)?;
    let hashes: String = hashes.iter().map(|hash| format!(" --ca-cert-hash {hash}")).collect();
    Ok(format!("ferrokube join {server} --token {token}{hashes}"))
}

impl Delete {
    async fn run(self) -> anyhow::Result<()> {
        let secrets = self.place.secrets().await?;
        for given in &self.tokens {
            let id = given.split_once('.').map_or(given.as_str(), |(id, _)| id);
            if !token::is_id(id) {
                bail!("{id:?} is no token and no id of one");
            }
            secrets.delete(&token::secret_name(id), &DeleteParams::default()).await.with_context(|| format!("token {id}"))?;
            print(&format!("token {id:?} deleted\n"))?;
        }
        Ok(())
    }
}

/// A line a token. The secrets are shown: whoever may list them may read them.
fn table(secrets: &[Secret]) -> String {
    let rows = secrets.iter().map(|secret| {
        let text = |key: &str| {
            let value = secret.data.as_ref().and_then(|data| data.get(key));
            value.map(|value| String::from_utf8_lossy(&value.0).into_owned()).unwrap_or_default()
        };
        let usages = ["authentication", "signing"].into_iter().filter(|usage| text(&format!("usage-bootstrap-{usage}")) == "true");
        let or = |value: String, otherwise: &str| if value.is_empty() { otherwise.to_owned() } else { value };
        [
            format!("{}.{}", text("token-id"), text("token-secret")),
            or(text("expiration"), "<forever>"),
            or(usages.collect::<Vec<_>>().join(","), "<none>"),
            or(text("auth-extra-groups"), "<none>"),
            or(text("description"), "<none>"),
        ]
    });
    let header = ["TOKEN", "EXPIRES", "USAGES", "EXTRA GROUPS", "DESCRIPTION"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    rows.iter()
        .map(|row| {
            let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}   ")).collect();
            format!("{}\n", line.trim_end())
        })
        .collect()
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_tokens_and_what_they_are_for() {
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        let expected = "TOKEN                     EXPIRES     USAGES                   EXTRA GROUPS                                      DESCRIPTION\n\
                        abcdef.0123456789abcdef   <forever>   authentication,signing   system:bootstrappers:kubeadm:default-node-token   new shelf\n";
        assert_eq!(table(&[token.to_secret(None, "new shelf")]), expected);
    }

    #[test]
    fn a_time_to_live_is_a_duration() {
        assert_eq!(ttl("24h").unwrap(), SignedDuration::from_hours(24));
        assert_eq!(ttl("0").unwrap(), SignedDuration::ZERO);
        assert!(ttl("-1s").is_err());
    }
}
