//! What every component knows about Kubernetes objects: schemas, codecs, selectors, quantities, patches,
//! field ownership, field errors and Status. Pure: no tokio, no sockets, no files, no clock.

pub mod base64;
pub mod cron;
pub mod field;
pub mod go_bool;
pub mod go_print;
pub mod json;
pub mod managed_fields;
pub mod metrics;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod time;
pub mod time_zone;
pub mod validation;
pub mod view;
pub mod yaml;
