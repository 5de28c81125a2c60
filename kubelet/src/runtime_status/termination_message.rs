//! What a container said at its end: the file that it wrote, or the end of its log.

use std::io::SeekFrom;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::container_config::labels;
use crate::cri::v1;

/// The end of the file that is told.
const FILE_BYTES: u64 = 4096;
/// The end of the log that is told: so many lines, and of them so many bytes.
const LOG_LINES: usize = 80;
const LOG_BYTES: usize = 2048;
/// How much of a log file is searched for these lines.
const LOG_TAIL_BYTES: u64 = 256 << 10;

/// The runtime's message, and what the container has to say after it.
pub async fn with_own_words(status: &v1::ContainerStatus) -> String {
    let annotation = |key: &str| status.annotations.get(key).map_or("", String::as_str);
    let to_logs = annotation(labels::TERMINATION_MESSAGE_POLICY) == "FallbackToLogsOnError"
        && status.exit_code != 0
        && status.reason != "ContainerCannotRun";
    let own = own_words(status, annotation(labels::TERMINATION_MESSAGE_PATH), to_logs).await;
    match (status.message.is_empty(), own.is_empty()) {
        (_, true) => status.message.clone(),
        (true, false) => own,
        (false, false) => format!("{}: {own}", status.message),
    }
}

async fn own_words(status: &v1::ContainerStatus, path: &str, to_logs: bool) -> String {
    let absolute = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mount = status.mounts.iter().find(|mount| !path.is_empty() && mount.container_path == absolute);
    if let Some(mount) = mount {
        match tail(Path::new(&mount.host_path), FILE_BYTES).await {
            Ok(bytes) if !bytes.is_empty() || !to_logs => return String::from_utf8_lossy(&bytes).into_owned(),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return format!("Error on reading termination log {}: {error}", mount.host_path),
        }
    }
    if !to_logs {
        return String::new();
    }
    match tail(Path::new(&status.log_path), LOG_TAIL_BYTES).await {
        Ok(bytes) => last_of_log(&bytes),
        Err(error) => format!("Error on reading termination message from logs: {error}"),
    }
}

async fn tail(path: &Path, bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut file = tokio::fs::File::open(path).await?;
    let length = file.metadata().await?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes))).await?;
    let mut read = Vec::new();
    file.take(bytes).read_to_end(&mut read).await?;
    Ok(read)
}

/// The last lines of a log in CRI's format, without their time, stream and tag.
fn last_of_log(bytes: &[u8]) -> String {
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let mut text = Vec::new();
    let mut whole_lines = 0;
    let mut kept = Vec::new();
    for line in lines.iter().rev() {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (Some(_), Some(_), Some(tag), Some(content)) = (parts.next(), parts.next(), parts.next(), parts.next()) else { continue };
        let partial = tag.starts_with(b"P");
        whole_lines += usize::from(!partial);
        if whole_lines > LOG_LINES {
            break;
        }
        kept.push(if partial { content.strip_suffix(b"\n").unwrap_or(content) } else { content });
    }
    kept.iter().rev().for_each(|content| text.extend_from_slice(content));
    let start = text.len().saturating_sub(LOG_BYTES);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn exited(file: &Path, log: &Path, policy: &str) -> v1::ContainerStatus {
        v1::ContainerStatus {
            exit_code: 1,
            log_path: log.display().to_string(),
            annotations: HashMap::from([
                (labels::TERMINATION_MESSAGE_PATH.to_owned(), "/dev/termination-log".to_owned()),
                (labels::TERMINATION_MESSAGE_POLICY.to_owned(), policy.to_owned()),
            ]),
            mounts: vec![v1::Mount {
                container_path: "/dev/termination-log".to_owned(),
                host_path: file.display().to_string(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn the_file_comes_first_and_the_log_where_it_is_asked_for() {
        let dir = tempfile::tempdir().expect("there is a place");
        let (file, log) = (dir.path().join("message"), dir.path().join("0.log"));
        std::fs::write(&file, "").expect("it can be written");
        std::fs::write(&log, "t stdout F one\nt stderr P tw\nt stderr F o\n").expect("it can be written");
        assert_eq!(with_own_words(&exited(&file, &log, "File")).await, "");
        assert_eq!(with_own_words(&exited(&file, &log, "FallbackToLogsOnError")).await, "one\ntwo\n");
        std::fs::write(&file, "said").expect("it can be written");
        assert_eq!(with_own_words(&exited(&file, &log, "FallbackToLogsOnError")).await, "said");
    }

    #[test]
    fn only_the_end_of_a_log_is_told() {
        let log: String = (0..200).map(|n| format!("t stdout F {n}\n")).collect();
        let told = last_of_log(log.as_bytes());
        assert!(told.starts_with("120\n") && told.ends_with("199\n"), "{told}");
    }
}
