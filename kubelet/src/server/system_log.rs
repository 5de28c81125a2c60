//! `/logs/`: the files of the node's log directory, and lists of its folders.

use std::path::{Path, PathBuf};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::respond::text;

/// Read of a file at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// How much of a file tells whether it is text.
const SNIFFED_BYTES: usize = 512;
/// Names in the list of one folder.
const MAX_NAMES: usize = 10_000;

/// Shows a file or a folder below `directory`. `request_path` is what the client asked for, to tell folders from files by.
pub async fn show(directory: &Path, below: &str, request_path: &str) -> Response<Body> {
    let Some(path) = inside(directory, below) else { return not_found() };
    let Ok(metadata) = tokio::fs::metadata(&path).await else { return not_found() };
    let has_slash = request_path.ends_with('/');
    let shown = match (metadata.is_dir(), has_slash) {
        (true, true) => list(&path).await,
        (true, false) => return moved(&format!("{}/", last_segment(request_path))),
        (false, true) => return moved(&format!("../{}", last_segment(request_path.trim_end_matches('/')))),
        (false, false) if metadata.is_file() => file(&path, metadata.len()).await,
        // A pipe or a device would be read for ever.
        (false, false) => return not_found(),
    };
    shown.unwrap_or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => not_found(),
        std::io::ErrorKind::PermissionDenied => text(StatusCode::FORBIDDEN, "403 Forbidden\n"),
        _ => text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n"),
    })
}

/// The path below the directory; nothing if it would lead out of it.
fn inside(directory: &Path, below: &str) -> Option<PathBuf> {
    let mut path = directory.to_owned();
    for segment in below.split('/') {
        match segment {
            "" | "." => {}
            ".." => return None,
            segment if segment.contains('\0') => return None,
            segment => path.push(segment),
        }
    }
    Some(path)
}

fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn last_segment(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or("")
}

fn moved(location: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

async fn list(path: &Path) -> std::io::Result<Response<Body>> {
    let mut names = Vec::new();
    let mut entries = tokio::fs::read_dir(path).await?;
    while let Some(entry) = entries.next_entry().await? {
        let slash = if entry.file_type().await?.is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
        if names.len() == MAX_NAMES {
            break;
        }
    }
    names.sort();
    let mut response = Response::new(Body::from(page(&names)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Ok(response)
}

fn page(names: &[String]) -> String {
    let line = |name: &String| format!("<a href=\"{}\">{}</a>\n", reference(name), escaped(name));
    let lines: String = names.iter().map(line).collect();
    format!("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{lines}</pre>\n")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

/// A name as the target of a link: encoded, and never taken for a scheme.
fn reference(name: &str) -> String {
    let mut out = String::new();
    if name.split('/').next().is_some_and(|first| first.contains(':')) {
        out.push_str("./");
    }
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped(&out)
}

async fn file(path: &Path, length: u64) -> std::io::Result<Response<Body>> {
    let mut file = File::open(path).await?;
    let mut first = vec![0; SNIFFED_BYTES];
    let read = file.read(&mut first).await?;
    first.truncate(read);
    let is_text = !first.iter().any(|byte| *byte < 0x09 || (0x0e..0x1b).contains(byte) || (0x1c..0x20).contains(byte));
    let kind = if is_text { "text/plain; charset=utf-8" } else { "application/octet-stream" };
    // A log grows while it is read: it is shown up to where it ended when it was asked for.
    let rest = file.take(length.saturating_sub(read as u64));
    let stream = futures::stream::unfold((Some(Bytes::from(first)), rest), |(first, mut rest)| async move {
        if let Some(first) = first.filter(|first| !first.is_empty()) {
            return Some((Ok(first), (None, rest)));
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        match rest.read(&mut chunk).await {
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some((Ok::<_, std::io::Error>(Bytes::from(chunk)), (None, rest)))
            }
            Err(error) => Some((Err(error), (None, rest))),
        }
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn get(directory: &Path, below: &str) -> (u16, String) {
        let response = show(directory, below, &format!("/logs/{below}")).await;
        let code = response.status().as_u16();
        (code, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn files_and_folders_are_shown_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("pods")).unwrap();
        std::fs::write(directory.path().join("a&b"), "hello\n").unwrap();
        assert_eq!(get(directory.path(), "a&b").await, (200, "hello\n".to_owned()));
        let (code, page) = get(directory.path(), "").await;
        assert_eq!(code, 200);
        assert!(page.ends_with("<pre>\n<a href=\"a&amp;b\">a&amp;b</a>\n<a href=\"pods/\">pods/</a>\n</pre>\n"), "{page}");
        assert_eq!(get(directory.path(), "pods").await.0, 301);
        assert_eq!(get(directory.path(), "pods/../../etc/passwd").await.0, 404);
        assert_eq!(get(directory.path(), "none").await.0, 404);
    }
}
