//! A backup of the embedded store: one file, checked as a whole.
//!
//! Owns the file's format: a line of magic, the revision and the number of entries (u64 LE), the entries
//! (`key length: u32, key, revision: u64, expires_ms: u64, value length: u32, value`, all LE), and the SHA-256 of all
//! that. A file whose sum is wrong is not restored, not even in part.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use bytes::Bytes;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::super::store::{Key, MAX_VALUE_BYTES, Revision, StoreError};
use super::Slot;
use super::disk::{Append, FjallDisk, Record, View};

const MAGIC: &[u8] = b"FERROKUBE SNAPSHOT 1\n";
/// Keys of etcd and ours are far shorter; a longer one is a broken file.
const MAX_KEY_BYTES: usize = 64 * 1024;
const RESTORE_BATCH: usize = 1024;

/// Copies a store that is not running into a file. `Locked` if it is running: ask it, then.
pub fn save(directory: &Path, file: &Path) -> Result<Revision, StoreError> {
    let disk = FjallDisk::open(directory)?;
    let (_, revision) = disk.index()?;
    write(file, &disk.view(revision))
}

/// Makes a data directory out of a snapshot. The directory must be empty or absent, and the file whole.
pub fn restore(file: &Path, directory: &Path) -> Result<Revision, StoreError> {
    verify(file)?;
    if std::fs::read_dir(directory).is_ok_and(|mut d| d.next().is_some()) {
        return Err(StoreError::Failed(format!("the data directory {} is not empty", directory.display())));
    }
    let mut reader = BufReader::new(File::open(file).map_err(|e| failed(file, e))?);
    let mut input = Input { reader: &mut reader, file };
    input.take(MAGIC.len())?;
    let revision = Revision(input.number()?);
    let mut disk = FjallDisk::open(directory)?;
    disk.set_unfinished(true)?;
    let mut records = Vec::with_capacity(RESTORE_BATCH);
    for _ in 0..input.number()? {
        records.push(input.record()?);
        if records.len() == RESTORE_BATCH {
            disk.append(&records, revision).map_err(StoreError::Failed)?;
            records.clear();
        }
    }
    disk.append(&records, revision).map_err(StoreError::Failed)?;
    disk.set_unfinished(false)?;
    Ok(revision)
}

/// Writes beside the file and renames, so that a file of this name is always whole.
pub(super) fn write(file: &Path, view: &View) -> Result<Revision, StoreError> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let mut output = Output { writer: BufWriter::new(File::create(part).map_err(|e| failed(file, e))?), sum: Context::new(&SHA256), file };
    let mut count = 0_u64;
    view.each("", |_, _, _| {
        count += 1;
        Ok(())
    })?;
    output.put(MAGIC)?;
    output.put(&view.revision.0.to_le_bytes())?;
    output.put(&count.to_le_bytes())?;
    view.each("", |key, slot, value| {
        output.put(&(key.len() as u32).to_le_bytes())?;
        output.put(key.as_bytes())?;
        output.put(&slot.revision.0.to_le_bytes())?;
        output.put(&slot.expires_ms.unwrap_or(0).to_le_bytes())?;
        output.put(&(value.len() as u32).to_le_bytes())?;
        output.put(value)
    })?;
    let Output { mut writer, sum, .. } = output;
    let finish = || -> std::io::Result<()> {
        writer.write_all(sum.finish().as_ref())?;
        writer.into_inner()?.sync_all()?;
        std::fs::rename(part, file)?;
        let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()
    };
    finish().map_err(|e| failed(file, e))?;
    Ok(view.revision)
}

fn verify(file: &Path) -> Result<(), StoreError> {
    let mut reader = BufReader::new(File::open(file).map_err(|e| failed(file, e))?);
    let length = reader.get_ref().metadata().map_err(|e| failed(file, e))?.len();
    let broken = || StoreError::Corrupt(format!("{} is not a whole snapshot", file.display()));
    let mut left = length.checked_sub(SHA256_OUTPUT_LEN as u64).ok_or_else(broken)?;
    let mut sum = Context::new(&SHA256);
    let mut block = vec![0; 64 * 1024];
    let mut first = true;
    while left > 0 {
        let want = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let chunk = &mut block[..want];
        reader.read_exact(chunk).map_err(|e| failed(file, e))?;
        if std::mem::take(&mut first) && !chunk.starts_with(MAGIC) {
            return Err(broken());
        }
        sum.update(chunk);
        left -= chunk.len() as u64;
    }
    let mut expected = [0; SHA256_OUTPUT_LEN];
    reader.read_exact(&mut expected).map_err(|e| failed(file, e))?;
    if sum.finish().as_ref() == expected { Ok(()) } else { Err(broken()) }
}

struct Output<'a> {
    writer: BufWriter<File>,
    sum: Context,
    file: &'a Path,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.sum.update(bytes);
        self.writer.write_all(bytes).map_err(|e| failed(self.file, e))
    }
}

struct Input<'a> {
    reader: &'a mut BufReader<File>,
    file: &'a Path,
}

impl Input<'_> {
    fn take(&mut self, length: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).map_err(|e| failed(self.file, e))?;
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, StoreError> {
        let mut bytes = [0; 8];
        self.reader.read_exact(&mut bytes).map_err(|e| failed(self.file, e))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn sized(&mut self, limit: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = [0; 4];
        self.reader.read_exact(&mut bytes).map_err(|e| failed(self.file, e))?;
        let length = u32::from_le_bytes(bytes) as usize;
        if length > limit {
            return Err(StoreError::Corrupt(format!("{} has an entry of {length} bytes", self.file.display())));
        }
        self.take(length)
    }

    fn record(&mut self) -> Result<Record, StoreError> {
        let key = String::from_utf8(self.sized(MAX_KEY_BYTES)?).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        let revision = Revision(self.number()?);
        let expires = self.number()?;
        let value = Bytes::from(self.sized(MAX_VALUE_BYTES)?);
        Ok(Record { key: Key::new(key), value: Some((value, Slot { revision, expires_ms: (expires > 0).then_some(expires) })) })
    }
}

fn failed(file: &Path, error: std::io::Error) -> StoreError {
    StoreError::Failed(format!("{}: {error}", file.display()))
}
