//! Content negotiation: which encoding a body is in and which one the answer takes.
//!
//! Two checks stand behind each other, as in the reference: the route's (is any accepted type one that the route produces?) and
//! the encoder's (the first clause, by quality, whose type and transformation can be served).

use super::options::Query;
use apimachinery::go_bool;
use apimachinery::status::Status;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};

/// An encoding of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

impl Encoding {
    /// In the order in which the server offers them.
    pub const ALL: [Encoding; 3] = [Encoding::Json, Encoding::Yaml, Encoding::Protobuf];

    pub const fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    fn from_media_type(media_type: &str) -> Option<Encoding> {
        Encoding::ALL.into_iter().find(|e| e.media_type() == media_type)
    }
}

/// What an object is turned into before it is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transform {
    None,
    /// `as=Table`; the version of meta.k8s.io (`v1` or `v1beta1`).
    Table(&'static str),
    /// `as=PartialObjectMetadata`.
    Metadata(&'static str),
    /// `as=PartialObjectMetadataList`.
    MetadataList(&'static str),
}

/// The form that an answer takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub encoding: Encoding,
    pub pretty: bool,
    pub transform: Transform,
}

impl Form {
    pub const JSON: Form = Form { encoding: Encoding::Json, pretty: false, transform: Transform::None };
}

/// What a route offers.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    pub encodings: &'static [Encoding],
    /// Tables and metadata can be asked for.
    pub transforms: bool,
    /// Tables too, not metadata alone.
    pub tables: bool,
    /// The answer is a stream of watch events.
    pub stream: bool,
    /// Whole objects can be had as protobuf.
    pub whole_as_protobuf: bool,
}

impl Offer {
    pub const OBJECT: Offer = Offer { encodings: &Encoding::ALL, transforms: true, tables: true, stream: false, whole_as_protobuf: true };
    pub const WATCH: Offer = Offer { encodings: &Encoding::ALL, transforms: true, tables: true, stream: true, whole_as_protobuf: true };
    /// Status and other answers that are never transformed.
    pub const PLAIN: Offer = Offer { encodings: &Encoding::ALL, transforms: false, tables: false, stream: false, whole_as_protobuf: true };
}

/// One clause of an Accept header.
struct Clause<'a> {
    kind: &'a str,
    subtype: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut found: Vec<Clause<'_>> = header.split(',').filter_map(clause).collect();
    found.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    found
}

fn clause(text: &str) -> Option<Clause<'_>> {
    let mut pieces = text.split(';').map(str::trim);
    let (kind, subtype) = pieces.next()?.split_once('/')?;
    let mut quality = 1.0;
    let mut params = Vec::new();
    for piece in pieces {
        let Some((key, value)) = piece.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        if key == "q" {
            quality = value.parse().unwrap_or(1.0);
        } else {
            params.push((key, value));
        }
    }
    Some(Clause { kind: kind.trim(), subtype: subtype.trim(), params, quality })
}

/// The route's check: some accepted media type, parameters aside, is among those produced.
pub fn route_accepts(headers: &HeaderMap, produced: &[Encoding]) -> Result<(), Status> {
    let types: Vec<&str> = produced.iter().map(|e| e.media_type()).collect();
    route_accepts_types(headers, &types)
}

/// The same check for a route with media types of its own.
pub fn route_accepts_types(headers: &HeaderMap, produced: &[&str]) -> Result<(), Status> {
    let accept = header(headers, &ACCEPT);
    if accept.is_empty() {
        return Ok(());
    }
    let matches = accept.split(',').any(|piece| {
        let media = piece.split(';').next().unwrap_or("").trim();
        media == "*/*" || produced.contains(&media)
    });
    if matches {
        return Ok(());
    }
    let message = format!("406: Not Acceptable\n\nAvailable representations: {}", produced.join(", "));
    Err(Status::generic(406, "", "", "", "", &message))
}

/// The encoder's check. `user_agent` and the `pretty` query parameter decide on indentation.
pub fn output(headers: &HeaderMap, pretty_param: Option<&str>, offer: Offer) -> Result<Form, Status> {
    let accept = header(headers, &ACCEPT);
    let mut form = if accept.is_empty() {
        Form { encoding: offer.encodings[0], ..Form::JSON }
    } else {
        clauses(accept).iter().find_map(|c| select(c, offer)).ok_or_else(|| not_acceptable(offer))?
    };
    form.pretty |= wants_pretty(headers, pretty_param);
    if offer.stream && form.encoding == Encoding::Yaml {
        return Err(not_acceptable(offer));
    }
    Ok(form)
}

fn not_acceptable(offer: Offer) -> Status {
    let media: Vec<String> = if offer.stream {
        offer.encodings.iter().filter(|e| **e != Encoding::Yaml).map(|e| format!("{};stream=watch", e.media_type())).collect()
    } else {
        offer.encodings.iter().map(|e| e.media_type().to_owned()).collect()
    };
    let media: Vec<&str> = media.iter().map(String::as_str).collect();
    Status::not_acceptable(&media)
}

fn select(clause: &Clause<'_>, offer: Offer) -> Option<Form> {
    offer.encodings.iter().find_map(|encoding| {
        let (kind, subtype) = encoding.media_type().split_once('/')?;
        let matches =
            (clause.kind == kind && (clause.subtype == subtype || clause.subtype == "*")) || (clause.kind == "*" && clause.subtype == "*");
        if !matches {
            return None;
        }
        options(clause, *encoding, offer)
    })
}

fn options(clause: &Clause<'_>, encoding: Encoding, offer: Offer) -> Option<Form> {
    let param = |name: &str| clause.params.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
    if let Some(stream) = param("stream").filter(|s| !s.is_empty())
        && (stream != "watch" || encoding == Encoding::Yaml)
    {
        return None;
    }
    if param("sv").is_some_and(|v| !v.is_empty()) {
        return None;
    }
    let convert = (param("as"), param("g"), param("v"));
    let transform = match convert {
        (None, None, None) if encoding == Encoding::Protobuf && !offer.whole_as_protobuf => return None,
        (None, None, None) => Transform::None,
        _ if !offer.transforms => return None,
        (Some(kind), Some("meta.k8s.io"), Some(version)) => {
            let version = match version {
                "v1" => "v1",
                "v1beta1" => "v1beta1",
                _ => return None,
            };
            match kind {
                "Table" if encoding != Encoding::Protobuf && offer.tables => Transform::Table(version),
                "PartialObjectMetadata" => Transform::Metadata(version),
                "PartialObjectMetadataList" => Transform::MetadataList(version),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(Form { encoding, pretty: param("pretty") == Some("1"), transform })
}

/// People with browsers and command-line clients get indented JSON unless they say otherwise.
fn wants_pretty(headers: &HeaderMap, param: Option<&str>) -> bool {
    if let Some(value) = param.filter(|v| !v.is_empty()) {
        return go_bool::parse(value) == Ok(true);
    }
    let agent = header(headers, &USER_AGENT);
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|prefix| agent.starts_with(prefix))
}

/// The encoding of a request body. An absent type means JSON.
pub fn input(headers: &HeaderMap) -> Result<Encoding, Status> {
    let content_type = header(headers, &CONTENT_TYPE);
    if content_type.is_empty() {
        return Ok(Encoding::Json);
    }
    let media = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    Encoding::from_media_type(&media).ok_or_else(|| {
        let supported: Vec<&str> = Encoding::ALL.iter().map(|e| e.media_type()).collect();
        Status::unsupported_media_type(&supported)
    })
}

/// The kinds of patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// The patch type of a PATCH body: the route's check, exact but for parameters.
pub fn patch_type(headers: &HeaderMap) -> Result<PatchType, Status> {
    let content_type = header(headers, &CONTENT_TYPE);
    match content_type.split(';').next().unwrap_or("").trim() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ => Err(Status::generic(415, "", "", "", "", NO_ROUTE_FOR_BODY)),
    }
}

/// What a router says that has no route for such a body.
pub const NO_ROUTE_FOR_BODY: &str = "415: Unsupported Media Type";

/// The form of errors: the one that was asked for where an error can be had in it. Else it is JSON for people, as upstream has it:
/// who asks for a Table and nothing else gets no error that a machine would want.
pub fn of_errors(headers: &HeaderMap, raw_query: &str) -> Form {
    let query = Query::parse(raw_query);
    output(headers, query.get("pretty"), Offer::PLAIN).unwrap_or(Form { pretty: true, ..Form::JSON })
}

/// A header's text; empty if it is absent or not text.
pub fn header<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, text.parse().expect("a header"));
        headers
    }

    #[test]
    fn the_best_clause_that_can_be_served_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let form = output(&accept(table), None, Offer::OBJECT).expect("acceptable");
        assert_eq!(form.transform, Transform::Table("v1"));
        let form = output(&accept(table), None, Offer::PLAIN).expect("falls back to the second clause");
        assert_eq!(form.transform, Transform::None);
        let form = output(&accept("application/json;q=0.1,application/yaml"), None, Offer::OBJECT).expect("acceptable");
        assert_eq!(form.encoding, Encoding::Yaml);
        assert!(output(&accept("application/json;as=Nope;v=v1;g=meta.k8s.io"), None, Offer::OBJECT).is_err());
        assert!(output(&accept("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io"), None, Offer::OBJECT).is_err());
    }

    #[test]
    fn the_route_wants_one_of_its_types_named() {
        assert!(route_accepts(&accept("application/*"), &Encoding::ALL).is_err());
        assert!(route_accepts(&accept("application/xml, */*;q=0.1"), &Encoding::ALL).is_ok());
        assert!(route_accepts(&accept("application/json; charset=utf-8"), &Encoding::ALL).is_ok());
    }
}
