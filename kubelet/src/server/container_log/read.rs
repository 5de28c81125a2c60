//! Reads a log file from where it is wanted, follows it through rotations, and ends when its container has.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader, SeekFrom};
use tokio::sync::{Notify, mpsc};

use super::line::{Printer, parse};
use super::{Options, tail};
use crate::cri::{self, Runtime, v1};

/// What is read from the file at once, and sent at once at least, if there is as much.
const CHUNK_BYTES: usize = 32 * 1024;
/// A longer line is none that a runtime writes: they part lines at 16 KiB.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// While nothing is heard of the file, it is looked at this often.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// Why a log ended early. The words are upstream's; they become the end of the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unable to retrieve container logs for {0}")]
    NoContainer(String),
    #[error("failed to try resolving symlinks in path \"{path}\": {source}")]
    Resolve { path: String, source: io::Error },
    #[error("failed to open log file \"{path}\": {source}")]
    Open { path: String, source: io::Error },
    #[error("failed to read log file \"{path}\": {source}")]
    Read { path: String, source: io::Error },
    #[error("failed to read log file \"{0}\": a line is too long")]
    TooLong(String),
    #[error("failed to get parse function: unsupported log format: {0:?}")]
    Format(String),
    #[error("failed to create fsnotify watcher: {0}")]
    Watch(#[from] notify::Error),
    #[error(transparent)]
    Runtime(#[from] cri::Error),
}

/// Sends the log in chunks until its end, or until nobody listens any more.
pub async fn read(
    path: &str,
    container_id: &str,
    options: &Options,
    runtime: &dyn Runtime,
    chunks: &mpsc::Sender<Bytes>,
) -> Result<(), Error> {
    let resolved = tokio::fs::canonicalize(path).await.map_err(|source| Error::Resolve { path: path.to_owned(), source })?;
    let mut source = Source::open(resolved).await?;
    if let Some(lines) = options.tail_lines {
        source.seek_last_lines(lines).await?;
    }
    // Without following, what is written while we read does not make the last lines more.
    let mut entries_left = if options.follow { None } else { options.tail_lines };
    let mut printer = Printer::new(options);
    let mut out = Vec::new();
    let mut line = Vec::new();
    let mut follower: Option<Follower> = None;
    let mut has_ended = false;
    let mut has_parsed = false;
    while entries_left != Some(0) {
        source.read_line(&mut line).await?;
        if !line.ends_with(b"\n") && options.follow {
            if has_ended {
                break;
            }
            if !flush(&mut out, chunks).await {
                return Ok(());
            }
            let Some(follower) = &mut follower else {
                // What was written before the watch began is read before anything is waited for.
                follower = Some(Follower::new(&source.path)?);
                continue;
            };
            tokio::select! {
                ended = follower.wait(container_id, runtime) => has_ended = ended?,
                () = chunks.closed() => return Ok(()),
            }
            if source.was_replaced().await {
                // What the old file still got is read before it is left.
                if !drain(&mut source, &mut line, &mut printer, &mut out).await? {
                    break;
                }
                source = match Source::open(source.path.clone()).await {
                    Ok(source) => source,
                    Err(Error::Open { source: error, .. }) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                line.clear();
            }
            continue;
        }
        if line.is_empty() {
            break;
        }
        let is_last = !line.ends_with(b"\n");
        match parse(&line) {
            Ok(entry) => {
                has_parsed = true;
                entries_left = entries_left.map(|left| left - 1);
                if !printer.print(&entry, &mut out) {
                    break;
                }
            }
            Err(_) if !has_parsed => return Err(Error::Format(String::from_utf8_lossy(&line).into_owned())),
            Err(error) => tracing::debug!(path, %error, "a line of a log is no entry"),
        }
        line.clear();
        if is_last || (out.len() >= CHUNK_BYTES && !flush(&mut out, chunks).await) {
            break;
        }
    }
    flush(&mut out, chunks).await;
    Ok(())
}

/// Prints what whole lines the file has left; `false` when no more is wanted.
async fn drain(source: &mut Source, line: &mut Vec<u8>, printer: &mut Printer<'_>, out: &mut Vec<u8>) -> Result<bool, Error> {
    loop {
        source.read_line(line).await?;
        if !line.ends_with(b"\n") {
            return Ok(true);
        }
        if let Ok(entry) = parse(line)
            && !printer.print(&entry, out)
        {
            return Ok(false);
        }
        line.clear();
    }
}

/// Sends what has gathered; `false` when nobody listens any more.
async fn flush(out: &mut Vec<u8>, chunks: &mpsc::Sender<Bytes>) -> bool {
    out.is_empty() || chunks.send(Bytes::from(std::mem::take(out))).await.is_ok()
}

/// An open log file.
struct Source {
    path: PathBuf,
    reader: BufReader<File>,
    inode: (u64, u64),
}

impl Source {
    async fn open(path: PathBuf) -> Result<Source, Error> {
        let failed = |source| Error::Open { path: path.display().to_string(), source };
        let file = File::open(&path).await.map_err(failed)?;
        let metadata = file.metadata().await.map_err(failed)?;
        let inode = (metadata.dev(), metadata.ino());
        Ok(Source { reader: BufReader::with_capacity(CHUNK_BYTES, file), path, inode })
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Read { path: self.path.display().to_string(), source }
    }

    async fn seek_last_lines(&mut self, lines: u64) -> Result<(), Error> {
        let start = tail::start_of_last_lines(self.reader.get_mut(), lines).await;
        let start = start.map_err(|source| self.failed(source))?;
        let sought = self.reader.seek(SeekFrom::Start(start)).await;
        sought.map(drop).map_err(|source| self.failed(source))
    }

    /// Appends to `line` until its end, or until the file's.
    async fn read_line(&mut self, line: &mut Vec<u8>) -> Result<(), Error> {
        let room = MAX_LINE_BYTES.saturating_sub(line.len() as u64);
        let read = (&mut self.reader).take(room).read_until(b'\n', line).await;
        read.map_err(|source| self.failed(source))?;
        if line.len() as u64 >= MAX_LINE_BYTES {
            return Err(Error::TooLong(self.path.display().to_string()));
        }
        Ok(())
    }

    /// Whether another file has the name now, as after a rotation.
    async fn was_replaced(&self) -> bool {
        match tokio::fs::metadata(&self.path).await {
            Ok(metadata) => (metadata.dev(), metadata.ino()) != self.inode,
            // Moved away, and the runtime has not made the new one yet.
            Err(_) => false,
        }
    }
}

/// Waits for news of a log file.
struct Follower {
    news: Arc<Notify>,
    /// Watches as long as it lives.
    _watcher: RecommendedWatcher,
}

impl Follower {
    fn new(path: &Path) -> Result<Follower, Error> {
        let news = Arc::new(Notify::new());
        let waker = news.clone();
        // Only that something happened matters, so any number of events is one permit.
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let is_read_only = event.as_ref().is_ok_and(|event| event.kind.is_access());
            if !is_read_only {
                waker.notify_one();
            }
        })?;
        watcher.watch(path.parent().unwrap_or(Path::new("/")), RecursiveMode::NonRecursive)?;
        Ok(Follower { news, _watcher: watcher })
    }

    /// Waits until there may be more to read; `true` if the container runs no more, so that what is there now is all.
    async fn wait(&mut self, container_id: &str, runtime: &dyn Runtime) -> Result<bool, Error> {
        if !is_running(container_id, runtime).await? {
            return Ok(true);
        }
        tokio::select! {
            () = self.news.notified() => {}
            () = tokio::time::sleep(CHECK_PERIOD) => {}
        }
        Ok(false)
    }
}

async fn is_running(container_id: &str, runtime: &dyn Runtime) -> Result<bool, Error> {
    match runtime.container_status(container_id.to_owned(), false).await {
        Ok(answer) => Ok(answer.status.is_some_and(|status| status.state == v1::ContainerState::ContainerRunning as i32)),
        // Containers outlive their runtime.
        Err(error) if error.code == cri::Code::Unavailable => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cri::ContainerExtension;
    use crate::cri::fake::Fake;

    async fn running(fake: &Fake) -> String {
        let sandbox = fake.run_pod_sandbox(v1::PodSandboxConfig::default(), String::new()).await.unwrap();
        let config = (v1::ContainerConfig::default(), v1::PodSandboxConfig::default());
        let id = fake.create_container(sandbox, config.0, config.1, ContainerExtension::default()).await.unwrap();
        fake.start_container(id.clone()).await.unwrap();
        id
    }

    fn write(path: &Path, lines: &[&str]) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        for line in lines {
            writeln!(file, "2026-10-06T00:17:09.5Z stdout F {line}").unwrap();
        }
    }

    /// A log that is being read; what of it has been told so far.
    struct Told {
        chunks: mpsc::Receiver<Bytes>,
        text: String,
        reading: tokio::task::JoinHandle<Result<(), Error>>,
    }

    fn begin(path: &Path, id: &str, options: Options, fake: &Fake) -> Told {
        let (sender, chunks) = mpsc::channel(4);
        let (path, id, fake) = (path.to_str().unwrap().to_owned(), id.to_owned(), fake.clone());
        let reading = tokio::spawn(async move { read(&path, &id, &options, &fake, &sender).await });
        Told { chunks, text: String::new(), reading }
    }

    impl Told {
        async fn until(&mut self, end: &str) {
            while !self.text.ends_with(end) {
                let chunk = tokio::time::timeout(Duration::from_secs(10), self.chunks.recv()).await.unwrap();
                self.text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
            }
        }

        async fn whole(mut self) -> String {
            while let Some(chunk) = self.chunks.recv().await {
                self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
            self.reading.await.unwrap().unwrap();
            self.text
        }
    }

    #[tokio::test]
    async fn a_log_is_read_to_its_end() {
        let (directory, fake) = (tempfile::tempdir().unwrap(), Fake::default());
        let path = directory.path().join("0.log");
        write(&path, &["a", "b", "c"]);
        let whole = async |options| begin(&path, "", options, &fake).whole().await;
        assert_eq!(whole(Options::default()).await, "a\nb\nc\n");
        assert_eq!(whole(Options { tail_lines: Some(2), ..Options::default() }).await, "b\nc\n");
        assert_eq!(whole(Options { tail_lines: Some(0), ..Options::default() }).await, "");
        assert_eq!(whole(Options { limit_bytes: Some(3), ..Options::default() }).await, "a\nb");
        let missing = begin(&directory.path().join("1.log"), "", Options::default(), &fake).reading.await.unwrap();
        assert!(missing.unwrap_err().to_string().starts_with("failed to try resolving symlinks in path "));
        std::fs::write(directory.path().join("2.log"), "x\n").unwrap();
        let strange = begin(&directory.path().join("2.log"), "", Options::default(), &fake).reading.await.unwrap();
        assert_eq!(strange.unwrap_err().to_string(), "failed to get parse function: unsupported log format: \"x\\n\"");
    }

    #[tokio::test]
    async fn a_log_is_followed_through_rotation_until_its_container_ends() {
        let (directory, fake) = (tempfile::tempdir().unwrap(), Fake::default());
        let path = directory.path().join("0.log");
        let id = running(&fake).await;
        write(&path, &["a", "b"]);
        let mut told = begin(&path, &id, Options { follow: true, tail_lines: Some(1), ..Options::default() }, &fake);
        told.until("b\n").await;
        write(&path, &["c"]);
        told.until("c\n").await;
        std::fs::rename(&path, directory.path().join("0.log.1")).unwrap();
        write(&directory.path().join("0.log.1"), &["d"]);
        told.until("d\n").await;
        write(&path, &["e"]);
        told.until("e\n").await;
        fake.stop_container(id, 0).await.unwrap();
        write(&path, &["last words"]);
        assert_eq!(told.whole().await, "b\nc\nd\ne\nlast words\n");
    }

    #[tokio::test]
    async fn who_no_longer_listens_ends_the_reading() {
        let (directory, fake) = (tempfile::tempdir().unwrap(), Fake::default());
        let path = directory.path().join("0.log");
        let id = running(&fake).await;
        write(&path, &["a"]);
        let mut told = begin(&path, &id, Options { follow: true, ..Options::default() }, &fake);
        told.until("a\n").await;
        drop(told.chunks);
        tokio::time::timeout(Duration::from_secs(5), told.reading).await.unwrap().unwrap().unwrap();
    }
}
