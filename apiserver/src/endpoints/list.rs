//! GET of a collection: one consistent revision, whole or in pages.

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::field;
use apimachinery::status::Status;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use super::options::{ListOptions, VersionMatch};
use super::present::{ListMeta, Presenter, include_object};
use super::select::Filter;
use super::{Answer, Call, negotiate, versions};
use crate::storage::{Freshness, Object, Revision, Snapshot};

/// URL-safe base64 without padding, read as leniently as Go reads it.
const TOKEN_ENCODING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Answers with a list.
pub async fn list(call: &mut Call) -> Answer {
    let form = negotiate::output(&call.request.headers, call.query.get("pretty"), call.offer(negotiate::Offer::OBJECT))?;
    let options = ListOptions::parse(&call.query, false)?;
    let include = include_object(&form, &options.include_object)?;
    let filter = Filter::parse(&call.resource, call.namespace(), &options.label_selector, &options.field_selector)?;
    let page = read_page(call, &options, &filter).await?;
    let presenter = Presenter { resource: &call.resource, form: &form, include_object: include, now: call.request.now };
    presenter.list(page.objects, &page.meta, &call.request.headers)
}

/// A page of a list, and what its metadata says.
pub struct Page {
    pub objects: Vec<Arc<Object>>,
    pub meta: ListMeta,
    /// How many objects it was chosen from.
    looked_at: usize,
}

/// Reads the page that the options describe.
pub async fn read_page(call: &Call, options: &ListOptions, filter: &Filter) -> Result<Page, Status> {
    let cache = call.cache()?;
    let (freshness, start) = if options.continue_token.is_empty() {
        (freshness(options)?, None)
    } else {
        if !matches!(options.resource_version.as_str(), "" | "0") {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let token = Token::decode(&options.continue_token)?;
        let freshness = match token.revision {
            Some(revision) => Freshness::Exact(Revision(revision)),
            None => Freshness::Latest,
        };
        (freshness, Some(token.start))
    };
    let snapshot = match call.api.storage.list(cache, freshness).await {
        Ok(snapshot) => snapshot,
        Err(crate::storage::Error::Expired(_)) if start.is_some() => {
            let token = Token { revision: None, start: start.unwrap_or_default() };
            return Err(Status::continue_expired(token.encode()));
        }
        Err(crate::storage::Error::Expired(expired)) => {
            return Err(Status::resource_expired(format!(
                "The resourceVersion for the provided list is too old. (requested {})",
                expired.requested.0
            )));
        }
        Err(error) => return Err(call.storage_error(error, "")),
    };
    let part = Part { snapshot: &snapshot, options, filter, namespace: call.namespace(), after: start.as_deref(), cache };
    let page = match call.resource.webhook {
        Some(_) => converted(call, &part).await?,
        None => part.cut(|object| filter.matches(object)),
    };
    call.resource.stored.lists.listed(snapshot.is_loaded(), page.looked_at, page.objects.len());
    Ok(page)
}

/// What a page is cut from, and by what.
struct Part<'a> {
    snapshot: &'a Snapshot,
    options: &'a ListOptions,
    filter: &'a Filter,
    namespace: &'a str,
    /// The key of the last object of the page before, below the list's namespace.
    after: Option<&'a str>,
    cache: &'a crate::storage::Resource,
}

impl Part<'_> {
    fn prefix(&self) -> String {
        if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) }
    }

    /// Whatever the cache has (resourceVersion=0) is given whole.
    fn limit(&self) -> Option<usize> {
        usize::try_from(self.options.limit).ok().filter(|l| *l > 0 && self.options.resource_version != "0")
    }

    fn candidates(&self) -> impl Iterator<Item = &Arc<Object>> {
        let after = self.after.map(|after| format!("{}{after}", self.prefix()));
        self.snapshot.range(self.filter.exact_namespace().unwrap_or(""), after.as_deref())
    }

    /// Selects one page of the snapshot. A list that goes on pins the snapshot for its next pages.
    fn cut(&self, matches: impl Fn(&Object) -> bool) -> Page {
        let limit = self.limit();
        let mut objects = Vec::new();
        let mut more = false;
        let mut remaining = 0i64;
        let mut looked_at = 0;
        for object in self.candidates() {
            if more {
                remaining += 1;
                continue;
            }
            if limit.is_some_and(|l| objects.len() >= l) {
                more = true;
                remaining += 1;
                if !self.filter.is_trivial() {
                    // With a selector nobody counts what is left, nor looks whether any of it matches.
                    break;
                }
                continue;
            }
            looked_at += 1;
            if matches(object) {
                objects.push(object.clone());
            }
        }
        let mut meta = ListMeta { resource_version: self.snapshot.revision().to_string(), ..ListMeta::default() };
        if let (true, Some(last)) = (more, objects.last()) {
            self.cache.pin(self.snapshot);
            let start = last.key().strip_prefix(&self.prefix()).unwrap_or(last.key()).to_owned();
            meta.continue_token = Token { revision: Some(self.snapshot.revision().0), start }.encode();
            meta.remaining = self.filter.is_trivial().then_some(remaining);
        }
        Page { objects, meta, looked_at }
    }
}

/// How many objects are converted at a time to find those that selectors choose.
const SEARCH_WINDOW: usize = 500;

/// A page of objects that a webhook converts. Selectors look at what it makes of them.
async fn converted(call: &Call, part: &Part<'_>) -> Result<Page, Status> {
    let (api, resource, filter) = (&call.api, &call.resource, part.filter);
    if !filter.looks_inside() {
        let mut page = part.cut(|object| filter.matches(object));
        page.objects = versions::read_all(api, resource, page.objects).await?;
        return Ok(page);
    }
    let candidates: Vec<Arc<Object>> = part.candidates().filter(|object| filter.may_match(object)).cloned().collect();
    let mut shown: HashMap<Arc<str>, Arc<Object>> = HashMap::new();
    for window in candidates.chunks(SEARCH_WINDOW) {
        let converted = versions::read_all(api, resource, window.to_vec()).await?;
        shown.extend(converted.into_iter().filter(|object| filter.matches(object)).map(|object| (object.key().clone(), object)));
        if part.limit().is_some_and(|limit| shown.len() >= limit) {
            break;
        }
    }
    let mut page = part.cut(|object| shown.contains_key(object.key()));
    page.objects = page.objects.iter().filter_map(|object| shown.get(object.key()).cloned()).collect();
    Ok(page)
}

/// What `resourceVersion` and `resourceVersionMatch` ask of a list without a continue token.
fn freshness(options: &ListOptions) -> Result<Freshness, Status> {
    let text = options.resource_version.as_str();
    if text.is_empty() {
        return Ok(Freshness::Latest);
    }
    let revision = Revision(parse_revision(text)?);
    Ok(match options.version_match {
        VersionMatch::Exact => Freshness::Exact(revision),
        _ if revision.0 == 0 => Freshness::Any,
        VersionMatch::NotOlderThan => Freshness::NotOlderThan(revision),
        // The oldest rule: a limited list at a version is a list of just that version.
        VersionMatch::Unset if options.limit > 0 => Freshness::Exact(revision),
        VersionMatch::Unset => Freshness::NotOlderThan(revision),
    })
}

/// A resourceVersion as a revision.
pub fn parse_revision(text: &str) -> Result<u64, Status> {
    text.parse().map_err(|_| Status::bad_request(format!("invalid resource version: {}", no_revision(text))))
}

/// What is said of a resourceVersion that is no number.
pub fn no_revision(text: &str) -> String {
    let quoted = field::quote(text);
    format!("resourceVersion: Invalid value: {quoted}: strconv.ParseUint: parsing {quoted}: invalid syntax")
}

/// Where the next page starts: upstream's form, so that tokens survive a change of server.
#[derive(Debug, PartialEq, Eq)]
struct Token {
    /// `None` continues at whatever is current (`rv: -1`).
    revision: Option<u64>,
    /// The key of the last object given, below the list's namespace.
    start: String,
}

impl Token {
    fn encode(&self) -> String {
        let revision = self.revision.map_or(-1, |r| r.cast_signed());
        // The next key after the last one: its name and a zero byte.
        let text = serde_json::json!({ "v": "meta.k8s.io/v1", "rv": revision, "start": format!("{}\u{0}", self.start) }).to_string();
        TOKEN_ENCODING.encode(text)
    }

    fn decode(token: &str) -> Result<Token, Status> {
        let refuse = |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = TOKEN_ENCODING.decode(token.trim_end_matches('=')).map_err(|_| refuse("illegal base64 data at input byte 0"))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| refuse(&syntax_error(&bytes)))?;
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("");
        let version = text("v");
        if version != "meta.k8s.io/v1" {
            return Err(refuse(&format!("server does not recognize this encoded version {version}")));
        }
        let revision = value.get("rv").and_then(Value::as_i64).unwrap_or(0);
        if revision == 0 {
            return Err(refuse("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        let start = text("start");
        if start.is_empty() {
            return Err(refuse("empty start key (version meta.k8s.io/v1)"));
        }
        if start.split('/').any(|segment| segment == "..") {
            return Err(refuse(start));
        }
        let start = start.strip_suffix('\u{0}').unwrap_or(start).trim_start_matches('/').to_owned();
        Ok(Token { revision: u64::try_from(revision).ok(), start })
    }
}

/// What Go's decoder says of bytes that are not JSON; it takes them one by one.
fn syntax_error(bytes: &[u8]) -> String {
    match apimachinery::json::parse(bytes) {
        Err(error) => error.to_string(),
        Ok(_) => "unexpected end of JSON input".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_were() {
        let token = Token { revision: Some(7), start: "ns/a".to_owned() };
        assert_eq!(Token::decode(&token.encode()).expect("valid"), token);
        let inconsistent = Token { revision: None, start: "a".to_owned() };
        assert_eq!(Token::decode(&inconsistent.encode()).expect("valid"), inconsistent);
        assert!(Token::decode("eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi94In0").is_err());
    }
}
