//! Links in HTML pages of proxied targets. Only the values of attributes that hold URLs are touched; everything else of a page
//! stays as it is, byte for byte.

use std::io::{self, Read, Write};

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::{DeflateDecoder, GzDecoder};
use flate2::write::{DeflateEncoder, GzEncoder};
use futures::StreamExt;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, BodyStream};
use hyper::body::Incoming;

use super::links::Links;

/// A larger page is passed on with its links as they are.
const MAX_PAGE_BYTES: usize = 32 << 20;

/// The attributes of each tag that hold a URL.
const URL_ATTRIBUTES: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Between such a tag and its end there is text, whatever it looks like.
const TEXT_ELEMENTS: [&str; 9] = ["iframe", "noembed", "noframes", "noscript", "script", "style", "textarea", "title", "xmp"];

/// Whether an answer is a page.
pub fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    kind.split(';').next().is_some_and(|kind| kind.trim() == "text/html")
}

/// The page with its links changed; as it came if it is too large, broken, or packed in a way that we do not know.
pub async fn with_links(headers: &mut HeaderMap, body: Incoming, links: &Links) -> Result<Body, hyper::Error> {
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
    let packing = match encoding.as_slice() {
        b"" => Packing::None,
        b"gzip" => Packing::Gzip,
        b"deflate" => Packing::Deflate,
        _ => return Ok(Body::new(body)),
    };
    let mut body = BodyStream::new(body);
    let mut packed = Vec::new();
    while let Some(frame) = body.next().await {
        if let Ok(data) = frame?.into_data() {
            packed.extend_from_slice(&data);
        }
        if packed.len() > MAX_PAGE_BYTES {
            let read = futures::stream::iter([Ok(Bytes::from(packed))]);
            let rest = body.into_data_stream();
            return Ok(Body::from_stream(read.chain(rest)));
        }
    }
    match changed(&packed, packing, links) {
        Ok(Some(page)) => {
            headers.remove(header::CONTENT_LENGTH);
            Ok(Body::from(page))
        }
        Ok(None) => Ok(Body::from(packed)),
        Err(error) => {
            tracing::debug!(%error, "the links of a page were left as they are");
            Ok(Body::from(packed))
        }
    }
}

#[derive(Clone, Copy)]
enum Packing {
    None,
    Gzip,
    Deflate,
}

/// Nothing if the page is too large when unpacked.
fn changed(packed: &[u8], packing: Packing, links: &Links) -> io::Result<Option<Vec<u8>>> {
    let mut page = Vec::new();
    let limit = MAX_PAGE_BYTES as u64 + 1;
    match packing {
        Packing::None => return Ok(Some(rewrite(packed, links))),
        Packing::Gzip => GzDecoder::new(packed).take(limit).read_to_end(&mut page)?,
        Packing::Deflate => DeflateDecoder::new(packed).take(limit).read_to_end(&mut page)?,
    };
    if page.len() > MAX_PAGE_BYTES {
        return Ok(None);
    }
    let page = rewrite(&page, links);
    let packed = match packing {
        Packing::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&page)?;
            encoder.finish()?
        }
        _ => {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&page)?;
            encoder.finish()?
        }
    };
    Ok(Some(packed))
}

/// The page with its links changed.
fn rewrite(page: &[u8], links: &Links) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + 1024);
    let mut at = 0;
    while let Some(open) = find(page, at, b"<") {
        out.extend_from_slice(&page[at..open]);
        let rest = &page[open..];
        let end = |found: Option<usize>, length: usize| found.map_or(page.len(), |found| found + length);
        at = match rest {
            [b'<', b'!', b'-', b'-', ..] => end(find(page, open + 4, b"-->"), 3),
            [b'<', b'!' | b'?' | b'/', ..] => end(find(page, open, b">"), 1),
            [b'<', letter, ..] if letter.is_ascii_alphabetic() => {
                let tag = Tag::parse(page, open);
                copy_tag(page, &tag, links, &mut out);
                if TEXT_ELEMENTS.contains(&tag.name.as_str()) {
                    let close = end_of_text(page, tag.end, &tag.name);
                    out.extend_from_slice(&page[tag.end..close]);
                    at = close;
                } else {
                    at = tag.end;
                }
                continue;
            }
            _ => open + 1,
        };
        out.extend_from_slice(&page[open..at]);
    }
    out.extend_from_slice(&page[at.min(page.len())..]);
    out
}

fn find(page: &[u8], from: usize, wanted: &[u8]) -> Option<usize> {
    let rest = page.get(from..)?;
    rest.windows(wanted.len()).position(|window| window == wanted).map(|found| from + found)
}

/// Where the end tag of a text element begins, or the page ends.
fn end_of_text(page: &[u8], from: usize, name: &str) -> usize {
    let mut at = from;
    while let Some(close) = find(page, at, b"</") {
        let after = &page[close + 2..];
        let is_named = after.get(..name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes()));
        if is_named && after.get(name.len()).is_none_or(|byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>')) {
            return close;
        }
        at = close + 2;
    }
    page.len()
}

/// A start tag: its name in lower case, and where its attributes' values are.
struct Tag {
    name: String,
    start: usize,
    end: usize,
    attributes: Vec<Attribute>,
}

struct Attribute {
    name: String,
    /// The value, without quotes.
    value: std::ops::Range<usize>,
    /// The value with its quotes.
    quoted: std::ops::Range<usize>,
}

impl Tag {
    fn parse(page: &[u8], start: usize) -> Tag {
        let until =
            |from: usize, stop: &dyn Fn(u8) -> bool| page[from..].iter().position(|byte| stop(*byte)).map_or(page.len(), |n| from + n);
        let lower = |range: std::ops::Range<usize>| String::from_utf8_lossy(&page[range]).to_ascii_lowercase();
        let mut at = until(start + 1, &|byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>'));
        let mut tag = Tag { name: lower(start + 1..at), start, end: page.len(), attributes: Vec::new() };
        loop {
            at = until(at, &|byte| !byte.is_ascii_whitespace() && byte != b'/');
            match page.get(at) {
                None => return tag,
                Some(b'>') => {
                    tag.end = at + 1;
                    return tag;
                }
                Some(_) => {}
            }
            let name_start = at;
            // A name has one byte at least, whichever that is.
            at = until(at + 1, &|byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>' | b'='));
            let name = lower(name_start..at);
            let equals = until(at, &|byte| !byte.is_ascii_whitespace());
            if page.get(equals) != Some(&b'=') {
                continue;
            }
            let from = until(equals + 1, &|byte| !byte.is_ascii_whitespace());
            let (value, quoted) = match page.get(from) {
                Some(quote @ (b'"' | b'\'')) => {
                    let close = until(from + 1, &|byte| byte == *quote);
                    (from + 1..close, from..(close + 1).min(page.len()))
                }
                _ => {
                    let close = until(from, &|byte| byte.is_ascii_whitespace() || byte == b'>');
                    (from..close, from..close)
                }
            };
            at = quoted.end;
            tag.attributes.push(Attribute { name, value, quoted });
        }
    }
}

fn copy_tag(page: &[u8], tag: &Tag, links: &Links, out: &mut Vec<u8>) {
    let holds_url = URL_ATTRIBUTES.iter().find(|(name, _)| *name == tag.name).map_or(&[][..], |(_, attributes)| attributes);
    let mut at = tag.start;
    for attribute in tag.attributes.iter().filter(|attribute| holds_url.contains(&attribute.name.as_str())) {
        // Entities in it need not be resolved: what is changed is in front of them.
        let value = std::str::from_utf8(&page[attribute.value.clone()]).ok();
        let Some(changed) = value.and_then(|value| links.changed(value)) else { continue };
        let quote = if changed.contains('"') { '\'' } else { '"' };
        out.extend_from_slice(&page[at..attribute.quoted.start]);
        out.extend_from_slice(format!("{quote}{changed}{quote}").as_bytes());
        at = attribute.quoted.end;
    }
    out.extend_from_slice(&page[at..tag.end]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links::new("/x/proxy/", "/", "10.0.0.1:80".to_owned(), "h".to_owned())
    }

    fn check(page: &str, expected: &str) {
        assert_eq!(String::from_utf8(rewrite(page.as_bytes(), &links())).unwrap(), expected, "{page}");
    }

    #[test]
    fn attributes_that_hold_urls_are_changed() {
        check("<a href=\"/rewriteme\">test</a>", "<a href=\"/x/proxy/rewriteme\">test</a>");
        check("<A class=b HREF = '/b?c=1&amp;d' id>x", "<A class=b HREF = \"/x/proxy/b?c=1&amp;d\" id>x");
        check("<img src=/i.png longdesc=l><br/>", "<img src=\"/x/proxy/i.png\" longdesc=l><br/>");
        check("<script src=\"/a.js\">if (a<b) '<a href=\"/no\">'</script><link href='/c'/>", {
            "<script src=\"/x/proxy/a.js\">if (a<b) '<a href=\"/no\">'</script><link href=\"/x/proxy/c\"/>"
        });
    }

    #[test]
    fn everything_else_stays() {
        for page in [
            "",
            "plain < text",
            "<a href=\"relative\">",
            "<a href=\"https://elsewhere/\">",
            "<p title=\"/p\" data-href='/x'>",
            "<!-- <a href=\"/b\"> --><!DOCTYPE html>",
            "<!-- never closed <a href=\"/b\">",
            "<a name=\"never closed",
            "</a href=\"/b\">",
            "<textarea><a href=\"/b\">",
            "<",
            "<a",
            "<a =",
        ] {
            check(page, page);
        }
    }

    #[test]
    fn packed_pages_are_packed_again() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(b"<a href=/b>").unwrap();
        let packed = changed(&encoder.finish().unwrap(), Packing::Gzip, &links()).unwrap().unwrap();
        let mut page = String::new();
        GzDecoder::new(packed.as_slice()).read_to_string(&mut page).unwrap();
        assert_eq!(page, "<a href=\"/x/proxy/b\">");
        assert!(changed(b"no gzip", Packing::Gzip, &links()).is_err());
    }
}
