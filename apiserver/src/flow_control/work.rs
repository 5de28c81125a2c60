//! How many seats a request takes, by the work that it is thought to be: lists are measured by the bytes that they look at.
//!
//! What is handled at a time of a list from memory is bounded, so it takes no more than [`MOST_BYTES_STREAMED`] are worth; what is read at an
//! exact revision, or goes on where another ended, is taken for one from the store, as upstream has it. A watch is a list if it begins with what is there.

use crate::endpoints::options::Query;
use crate::filters::request_info::RequestInfo;

const BYTES_PER_SEAT: u64 = 100_000;
const MOST_BYTES_STREAMED: u64 = 1_000_000;
/// The most that a level may allow.
pub const MOST_SEATS: u32 = 100;

/// The objects of a resource.
#[derive(Clone, Copy, Debug, Default)]
pub struct Collection {
    pub objects: u64,
    pub average_bytes: u64,
}

/// `most`: what the request's level allows. A resource that nobody here stores is somebody else's work.
pub fn seats(request: &RequestInfo, query: &str, most: u32, collection: impl FnOnce() -> Option<Collection>) -> u32 {
    if !matches!(request.verb.as_str(), "list" | "watch") {
        return 1;
    }
    let query = Query::parse(query);
    let text = |name: &str| query.get(name).unwrap_or("");
    let Ok(limit) = (if text("limit").is_empty() { Ok(0) } else { text("limit").parse::<i64>() }) else { return most };
    let revision = text("resourceVersion");
    let from_beginning = matches!(revision, "" | "0");
    if request.verb == "watch" && !from_beginning && !query.flag("sendInitialEvents") {
        return 1;
    }
    let Some(Collection { objects, average_bytes }) = collection() else { return 1 };
    let streamed = request.verb == "watch"
        || match text("resourceVersionMatch") {
            "NotOlderThan" => true,
            "" => text("continue").is_empty() && (limit <= 0 || from_beginning),
            _ => false,
        };
    let limited = u64::try_from(limit).ok().filter(|limit| *limit > 0).map_or(objects, |limit| objects.min(limit));
    let selects = !text("labelSelector").is_empty() || !text("fieldSelector").is_empty();
    let looked_at = match (request.name.is_empty(), streamed, selects) {
        (false, ..) => 1,
        (true, false, true) => limited.max(objects / 2),
        _ => limited,
    };
    let bytes = looked_at.saturating_mul(average_bytes).min(if streamed { MOST_BYTES_STREAMED } else { u64::MAX });
    u32::try_from(bytes.div_ceil(BYTES_PER_SEAT)).unwrap_or(u32::MAX).clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn lists_take_seats_by_the_bytes_that_they_look_at() {
        let many = Collection { objects: 5_000, average_bytes: 2_000 };
        let few = Collection { objects: 200, average_bytes: 2_000 };
        for (path, query, collection, expect) in [
            ("/api/v1/namespaces/default/pods/a", "", many, 1),
            ("/api/v1/pods", "", Collection::default(), 1),
            ("/api/v1/pods", "", few, 4),
            ("/api/v1/pods", "", many, 10),
            ("/api/v1/pods", "limit=100", many, 2),
            ("/api/v1/pods", "limit=soon", many, 37),
            ("/api/v1/pods", "fieldSelector=metadata.name%3Da", many, 1),
            ("/api/v1/pods", "resourceVersion=7&resourceVersionMatch=Exact", many, 37),
            ("/api/v1/pods", "limit=500&continue=x", many, 10),
            ("/api/v1/pods", "limit=500&continue=x&labelSelector=a", many, 37),
            ("/api/v1/pods", "watch=true", many, 10),
            ("/api/v1/pods", "watch=true&resourceVersion=7", many, 1),
            ("/api/v1/pods", "watch=true&resourceVersion=7&sendInitialEvents=true", many, 10),
        ] {
            let request = RequestInfo::parse(&Method::GET, path, query);
            assert_eq!(seats(&request, query, 37, || Some(collection)), expect, "{path}?{query}");
        }
        assert_eq!(seats(&RequestInfo::parse(&Method::GET, "/apis/a.b/v1/x", ""), "", 37, || None), 1);
        assert_eq!(seats(&RequestInfo::parse(&Method::POST, "/api/v1/namespaces/a/pods", ""), "", 37, || Some(many)), 1);
    }
}
