//! Objects that are posted to be answered and never stored: reviews, token requests.
//!
//! Owns the way in (negotiation, decoding, defaults, ownership) and the way out. What is answered is the endpoint's.

use apimachinery::managed_fields::{self, Filter, OneVersion, Root, Scope};
use apimachinery::schema::canonical::{Empties, canonicalize};
use apimachinery::schema::defaults::apply_defaults;
use apimachinery::schema::{self, TypeId};
use apimachinery::status::Status;
use http::StatusCode;
use serde_json::Value;

use super::options::WriteOptions;
use super::{Answer, Call, body, meta, negotiate, respond};
use crate::admission::Operation;
use crate::audit;
use crate::catalog::Gvk;
use crate::endpoints::negotiate::Form;

/// The kind that an endpoint takes.
pub struct Kind {
    pub gvk: Gvk,
    type_id: TypeId,
}

impl Kind {
    /// The kind that a call's subresource speaks, or that of its resource.
    pub fn of(call: &Call) -> Result<Kind, Status> {
        let gvk = call.subresource().map_or(&call.resource.gvk, |s| &s.gvk).clone();
        let type_id = schema::builtin()
            .by_kind(&gvk.group, &gvk.version, &gvk.kind)
            .ok_or_else(|| Status::internal_error(&format!("{} has no schema", gvk.kind)))?;
        Ok(Kind { gvk, type_id })
    }
}

/// A decoded body, complete, with its sender as the owner of its fields.
pub struct Posted {
    pub object: Value,
    pub form: Form,
    kind: Kind,
    dry_run: bool,
}

/// Reads the body of a request.
pub async fn read(call: &mut Call, kind: Kind) -> Result<Posted, Status> {
    let form = negotiate::output(&call.request.headers, call.query.get("pretty"), negotiate::Offer::PLAIN)?;
    let encoding = negotiate::input(&call.request.headers)?;
    let bytes = call.read_body().await?;
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let types = call.resource.types.clone();
    let decoded = body::decode(&bytes, encoding, &body::Expected { gvk: &kind.gvk, types: &types, type_id: kind.type_id })?;
    body::validate_fields(&kind.gvk, decoded.problems, options.field_validation, &mut call.warnings)?;
    let mut object = decoded.value;
    let complete = |object: &mut Value| {
        apply_defaults(&types, &call.resource.hooks, kind.type_id, object);
        canonicalize(&types, kind.type_id, object, Empties::Drop);
    };
    audit::request_object(&object, complete);
    if object.get("metadata").is_some_and(Value::is_object) {
        meta::wipe_system_fields(&mut object);
        meta::ensure_namespace(&mut object, call.namespace())?;
    } else if !call.namespace().is_empty() {
        meta::ensure_namespace(&mut object, call.namespace())?;
    }
    complete(&mut object);
    own(call, &kind, &mut object, &options.manager(call.user_agent()));
    // What ownership added takes its place among the fields.
    canonicalize(&types, kind.type_id, &mut object, Empties::Drop);
    let mut posted = Posted { object, form, kind, dry_run: options.dry_run };
    posted.admit(call).await?;
    Ok(posted)
}

/// Makes the sender the owner of what was sent.
fn own(call: &Call, kind: &Kind, object: &mut Value, manager: &str) {
    let api_version = kind.gvk.api_version();
    let scope = Scope {
        types: &call.resource.types,
        root: Root::Builtin(kind.type_id),
        api_version: &api_version,
        kind: &kind.gvk.kind,
        subresource: &call.request.info.subresource,
        filter: &Filter::except(&[]),
        converter: &OneVersion,
    };
    let reset = managed_fields::asks_for_reset(object);
    managed_fields::on_update(&scope, None, object, manager, call.request.now, reset);
}

impl Posted {
    /// Mutating admission: what is posted is seen as a creation.
    async fn admit(&mut self, call: &mut Call) -> Result<(), Status> {
        let mut warnings = std::mem::take(&mut call.warnings);
        let attributes = call.attributes(Operation::Create, call.name(), call.namespace(), self.dry_run, &Value::Null);
        let admitted = call.api.admission.admit(&attributes, &call.api, &mut self.object, None, &mut warnings).await;
        call.warnings = warnings;
        admitted
    }

    /// Validating admission, for endpoints that check and complete what was posted first.
    pub async fn validate(&self, call: &mut Call) -> Result<(), Status> {
        let mut warnings = std::mem::take(&mut call.warnings);
        let attributes = call.attributes(Operation::Create, call.name(), call.namespace(), self.dry_run, &Value::Null);
        let validated = call.api.admission.validate(&attributes, &call.api, Some(&self.object), None, &mut warnings).await;
        call.warnings = warnings;
        validated
    }

    /// Answers with the object as it stands now.
    pub fn created(mut self, call: &mut Call) -> Answer {
        meta::metadata_mut(&mut self.object);
        canonicalize(&call.resource.types, self.kind.type_id, &mut self.object, Empties::Drop);
        respond::value(StatusCode::CREATED, &self.object, &self.form)
    }
}
