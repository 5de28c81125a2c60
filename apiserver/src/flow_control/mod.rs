//! API priority and fairness (KEP-1040): which FlowSchema a request belongs to, and which priority level that names.
//!
//! [`config`] makes of the stored objects what requests are matched with, [`classify`] matches, [`bootstrap`] has the objects
//! that every cluster starts with, [`ensure`] puts them there and [`follow`] keeps all of it in step with what is stored.

pub mod bootstrap;
pub mod classify;
pub mod config;
pub mod ensure;
pub mod follow;

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;

use crate::filters::authentication::User;
use crate::filters::request_info::RequestInfo;
use config::Config;

/// The API group of the configuration, and its version.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
pub const COLLECTIONS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
pub const SCHEMAS: &str = "flowschemas";
pub const LEVELS: &str = "prioritylevelconfigurations";

/// The configuration in force.
#[derive(Default)]
pub struct FlowControl {
    config: ArcSwap<Config>,
}

impl FlowControl {
    pub fn replace(&self, config: Config) {
        self.config.store(Arc::new(config));
    }

    /// The uids of the matching FlowSchema and of its priority level, as response headers tell them. `None` only before the
    /// configuration has been read for the first time.
    pub fn classify(&self, user: &User, request: &RequestInfo) -> Option<(HeaderValue, HeaderValue)> {
        let config = self.config.load();
        let (schema, level) = config.find(user, request)?;
        Some((schema.uid.clone(), level.uid.clone()))
    }
}
