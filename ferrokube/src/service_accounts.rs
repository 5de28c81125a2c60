//! `--use-service-account-credentials`: each controller acts as a service account of its own, with tokens that the API server is asked for.
//!
//! A token is kept in memory alone, and renewed when a fifth of its time is left.

use std::sync::Arc;
use std::time::Duration;

use client::answer::{is_already_exists, is_not_found};
use controllers::manager::Clients;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::client::Body;
use kube::config::AuthInfo;
use kube::{Api, Client, Error};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::client_flags;

const NAMESPACE: &str = "kube-system";
/// What is asked for; the server may give another time.
const VALID_SECONDS: i64 = 3600;
/// A token is good for nothing when so little of its time is left.
const RENEW_AT: f64 = 0.8;

/// The clients of a controller manager in a process of its own.
pub struct ProcessClients {
    shared: Client,
    /// Without credentials; what is sent brings its own. Nothing if all controllers act as the manager.
    bare: Option<Client>,
}

impl ProcessClients {
    pub fn new(config: kube::Config, own_accounts: bool) -> Result<ProcessClients, Error> {
        let bare = if own_accounts {
            let mut bare = config.clone();
            bare.auth_info = AuthInfo::default();
            Some(client_flags::client(bare)?)
        } else {
            None
        };
        Ok(ProcessClients { shared: client_flags::client(config)?, bare })
    }
}

impl Clients for ProcessClients {
    fn shared(&self) -> Client {
        self.shared.clone()
    }

    fn of(&self, account: &str) -> Client {
        match &self.bare {
            Some(bare) => client_of(&self.shared, bare, account),
            None => self.shared.clone(),
        }
    }
}

/// A client that acts as the account. `manager` asks for its tokens, `bare` carries its requests.
fn client_of(manager: &Client, bare: &Client, account: &str) -> Client {
    let token =
        Arc::new(Token { accounts: Api::namespaced(manager.clone(), NAMESPACE), account: account.to_owned(), current: Mutex::new(None) });
    let bare = bare.clone();
    let service = tower::service_fn(move |mut request: Request<Body>| {
        let (token, bare) = (token.clone(), bare.clone());
        async move {
            request.headers_mut().insert(AUTHORIZATION, token.get().await?);
            let response: Response<Body> = bare.send(request).await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                // The account may have been deleted, and its tokens with it.
                token.forget().await;
            }
            Ok::<_, Error>(response)
        }
    });
    Client::new(service, "default")
}

struct Token {
    accounts: Api<ServiceAccount>,
    account: String,
    current: Mutex<Option<Current>>,
}

struct Current {
    header: HeaderValue,
    renew: Instant,
    expires: Instant,
}

impl Token {
    async fn get(&self) -> Result<HeaderValue, Error> {
        let mut current = self.current.lock().await;
        let now = Instant::now();
        if let Some(token) = current.as_ref().filter(|token| now < token.renew) {
            return Ok(token.header.clone());
        }
        match self.request().await {
            Ok(token) => Ok(current.insert(token).header.clone()),
            Err(error) => match current.as_ref().filter(|token| now < token.expires) {
                Some(token) => {
                    tracing::warn!(account = self.account, %error, "no new token, going on with the old one");
                    Ok(token.header.clone())
                }
                None => Err(error),
            },
        }
    }

    async fn forget(&self) {
        *self.current.lock().await = None;
    }

    async fn request(&self) -> Result<Current, Error> {
        let asked = Instant::now();
        let spec = TokenRequestSpec { expiration_seconds: Some(VALID_SECONDS), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answered = match self.accounts.create_token_request(&self.account, &PostParams::default(), &request).await {
            Err(error) if is_not_found(&error) => {
                self.create_account().await?;
                self.accounts.create_token_request(&self.account, &PostParams::default(), &request).await
            }
            answered => answered,
        };
        let status = answered?.status.unwrap_or_default();
        let valid = status.expiration_timestamp.map(|at| at.0.duration_since(Timestamp::now()));
        // A token without a time, or whose time has passed here already, is good for this one request.
        let valid = valid.and_then(|valid| Duration::try_from(valid).ok()).unwrap_or_default();
        let mut header =
            HeaderValue::from_str(&format!("Bearer {}", status.token.unwrap_or_default())).map_err(|e| Error::HttpError(e.into()))?;
        header.set_sensitive(true);
        Ok(Current { header, renew: asked + valid.mul_f64(RENEW_AT), expires: asked + valid })
    }

    async fn create_account(&self) -> Result<(), Error> {
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(self.account.clone());
        account.metadata.namespace = Some(NAMESPACE.to_owned());
        match self.accounts.create(&PostParams::default(), &account).await {
            Err(error) if is_already_exists(&error) => Ok(()),
            created => created.map(drop),
        }
    }
}
