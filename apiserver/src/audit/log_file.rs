//! Where lines of the audit log go: standard output, a file, or a file that is put aside when it has grown.
//!
//! Files that were put aside carry the time in their name (`audit-2026-01-02T03-04-05.006.log`), as upstream's have it, so that either
//! server tidies up after the other. Tidying is done by a thread of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use parking_lot::Mutex;

const MEGABYTE: u64 = 1024 * 1024;
const TIME_IN_NAME: &str = "%Y-%m-%dT%H-%M-%S.%3f";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// When a file is put aside, and what becomes of those that were.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// 0 for never.
    pub max_size_megabytes: u64,
    /// 0 for ever.
    pub max_age_days: u32,
    /// 0 for any number.
    pub max_backups: usize,
    pub compress: bool,
}

/// Takes whole lines.
pub enum LogFile {
    StandardOutput,
    File(Mutex<Growing>),
}

/// A file and what is known of it.
pub struct Growing {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    size: u64,
    tidying: Arc<AtomicBool>,
}

impl LogFile {
    /// `-` is standard output. A file is made if it is not there, for nobody else to read.
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<LogFile> {
        if path.as_os_str() == "-" {
            return Ok(LogFile::StandardOutput);
        }
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let file = append(path)?;
        let size = file.metadata()?.len();
        let growing = Growing { path: path.to_owned(), rotation, file, size, tidying: Arc::default() };
        growing.tidy();
        Ok(LogFile::File(Mutex::new(growing)))
    }

    /// Writes one line, its end included.
    pub fn write(&self, line: &[u8]) -> io::Result<()> {
        match self {
            LogFile::StandardOutput => io::stdout().lock().write_all(line),
            LogFile::File(growing) => growing.lock().write(line),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl Growing {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let max = self.rotation.max_size_megabytes * MEGABYTE;
        let length = line.len() as u64;
        if max > 0 {
            if length > max {
                return Err(io::Error::other(format!("write length {length} exceeds maximum file size {max}")));
            }
            if self.size + length > max {
                self.rotate(Timestamp::now())?;
            }
        }
        self.file.write_all(line)?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let mode = self.file.metadata()?.permissions().mode();
        std::fs::rename(&self.path, backup_name(&self.path, now))?;
        self.file = append(&self.path)?;
        self.file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        self.size = 0;
        self.tidy();
        Ok(())
    }

    /// Removes and compresses what was put aside, one thread at a time.
    fn tidy(&self) {
        let Rotation { max_age_days, max_backups, compress, .. } = self.rotation;
        if max_age_days == 0 && max_backups == 0 && !compress || self.tidying.swap(true, Ordering::AcqRel) {
            return;
        }
        let (path, rotation, tidying) = (self.path.clone(), self.rotation.clone(), self.tidying.clone());
        let spawned = std::thread::Builder::new().name("audit-log-tidy".to_owned()).spawn(move || {
            tidying.store(false, Ordering::Release);
            if let Err(error) = tidy(&path, &rotation, Timestamp::now()) {
                tracing::warn!(path = %path.display(), %error, "old audit logs were not tidied up");
            }
        });
        if spawned.is_err() {
            self.tidying.store(false, Ordering::Release);
        }
    }
}

/// The parts of a file's name before and after the time.
fn around_time(path: &Path) -> (String, String) {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match name.rfind('.') {
        Some(dot) => (format!("{}-", &name[..dot]), name[dot..].to_owned()),
        None => (format!("{name}-"), String::new()),
    }
}

fn backup_name(path: &Path, now: Timestamp) -> PathBuf {
    let (prefix, extension) = around_time(path);
    let time = now.strftime(TIME_IN_NAME).to_string();
    path.with_file_name(format!("{prefix}{time}{extension}"))
}

/// The time in the name of a file that was put aside; `None` for other files.
fn time_of(name: &str, prefix: &str, extension: &str) -> Option<Timestamp> {
    let rest = name.strip_prefix(prefix)?;
    let rest = rest.strip_suffix(".gz").unwrap_or(rest);
    let (date, time) = rest.strip_suffix(extension)?.split_once('T')?;
    format!("{date}T{}Z", time.replace('-', ":")).parse().ok()
}

fn tidy(path: &Path, rotation: &Rotation, now: Timestamp) -> io::Result<()> {
    let (prefix, extension) = around_time(path);
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut old: Vec<(Timestamp, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(time) = time_of(&entry.file_name().to_string_lossy(), &prefix, &extension) {
            old.push((time, entry.path()));
        }
    }
    old.sort_by(|a, b| b.cmp(a));
    let too_old = |time: Timestamp| rotation.max_age_days > 0 && now.duration_since(time) > days(rotation.max_age_days);
    for (place, (time, path)) in old.iter().enumerate() {
        if rotation.max_backups > 0 && place >= rotation.max_backups || too_old(*time) {
            std::fs::remove_file(path)?;
        } else if rotation.compress && path.extension().is_none_or(|extension| extension != "gz") {
            compress(path)?;
        }
    }
    Ok(())
}

fn days(count: u32) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(DAY * count).unwrap_or(jiff::SignedDuration::MAX)
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let mut source = File::open(path)?;
    let mode = source.metadata()?.permissions().mode();
    let target = OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(&name)?;
    let mut encoder = GzEncoder::new(target, Compression::default());
    io::copy(&mut source, &mut encoder).and_then(|_| encoder.finish()).inspect_err(|_| {
        // What is half written is of no use; if it cannot be removed either, the original is still there.
        let _ = std::fs::remove_file(&name);
    })?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_has_grown_is_put_aside_and_the_log_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/audit.log");
        let rotation = Rotation { max_size_megabytes: 1, max_age_days: 0, max_backups: 0, compress: false };
        let log = LogFile::open(&path, rotation).unwrap();
        let line = [vec![b'x'; 400 * 1024], vec![b'\n']].concat();
        (0..3).for_each(|_| log.write(&line).unwrap());
        let names = names(&directory.path().join("logs"));
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(time_of(&names[0], "audit-", ".log").is_some(), "{names:?}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), line.len() as u64);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(log.write(&vec![b'x'; 2 * 1024 * 1024]).is_err());
    }

    #[test]
    fn old_files_go_by_age_and_number_and_the_rest_is_compressed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
        for day in [1, 7, 8, 9] {
            let time: Timestamp = format!("2026-01-0{day}T00:00:00Z").parse().unwrap();
            std::fs::write(backup_name(&path, time), "old").unwrap();
        }
        std::fs::write(directory.path().join("audit-other.log"), "not ours").unwrap();
        let rotation = Rotation { max_size_megabytes: 1, max_age_days: 5, max_backups: 2, compress: true };
        tidy(&path, &rotation, now).unwrap();
        assert_eq!(
            names(directory.path()),
            ["audit-2026-01-08T00-00-00.000.log.gz", "audit-2026-01-09T00-00-00.000.log.gz", "audit-other.log"]
        );
        let mut text = String::new();
        let file = File::open(directory.path().join("audit-2026-01-09T00-00-00.000.log.gz")).unwrap();
        GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "old");
    }
}
