//! Reading a checkpoint.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::chunks::ChunkReader;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::layout::{CHUNK, Id};
use crate::packs::Packs;
use crate::parallel::in_parallel;
use crate::record::{Head, Record};
use crate::store::{Held, Store};

/// How much a thread copies at once, in bytes.
const PORTION: u64 = 1 << 20;

/// A checkpoint that is read. Garbage is not collected meanwhile.
#[derive(Clone)]
pub struct Opened(Arc<Inside>);

struct Inside {
    path: PathBuf,
    record: Record,
    packs: Arc<Packs>,
    key: Key,
    _held: Held,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({})", self.0.path.display())
    }
}

impl Store {
    /// Opens a checkpoint, which one of the keys has sealed, or none.
    ///
    /// # Errors
    /// There is none of that name, it is damaged, or sealed by another key.
    pub fn get(&self, (owner, name): (&str, &str), keys: &[Key]) -> Result<Opened> {
        let held = self.share()?;
        let path = self.record(owner, name)?;
        let id = crate::record::key_of(&path)?;
        let none = Key::default();
        let key = keys.iter().chain([&none]).find(|key| key.id() == id);
        let key = key.ok_or_else(|| Error::bad(&path, "is sealed by a key that was not given"))?.clone();
        let packs = Packs::load(self.root(), std::slice::from_ref(&key))?.into();
        Opened::new(path, packs, key, held)
    }
}

impl Opened {
    /// The checkpoint with this record, whose chunks are in these packs.
    pub(crate) fn new(path: PathBuf, packs: Arc<Packs>, key: Key, held: Held) -> Result<Self> {
        let record = Record::read(&path, &key)?;
        Ok(Self(Arc::new(Inside { path, record, packs, key, _held: held })))
    }

    /// Its description.
    pub fn head(&self) -> &Head {
        &self.0.record.head
    }

    /// The key that it is sealed by.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// The number of a file, and its size in bytes.
    pub fn file(&self, name: &str) -> Option<(usize, u64)> {
        let files = self.head().files.iter().enumerate();
        files.filter(|(_, (is, _))| is == name).map(|(number, (_, size))| (number, *size)).next()
    }

    /// The id of a chunk of a file.
    pub(crate) fn id(&self, file: usize, chunk: usize) -> Option<Id> {
        self.0.record.id(file, chunk)
    }

    /// A place to read from. Each thread has its own.
    pub fn cursor(&self) -> Cursor {
        Cursor { of: self.clone(), chunks: ChunkReader::new(&self.0.packs, &self.0.key) }
    }

    /// Reads a whole file.
    pub fn read(&self, file: usize) -> impl Read + use<> {
        let size = self.head().files.get(file).map_or(0, |(_, size)| *size);
        Whole { cursor: self.cursor(), file, at: 0, size }
    }

    /// Copies a part of a file to the same place in another file, on all processors.
    ///
    /// # Errors
    /// A chunk is missing or damaged, or the file cannot be written.
    pub fn copy(&self, file: usize, part: Range<u64>, to: &File) -> io::Result<()> {
        let mut portions = Vec::new();
        let mut at = part.start;
        while at < part.end {
            let end = (at + PORTION).min(part.end);
            portions.push(at..end);
            at = end;
        }
        let copy = |portions: &[Range<u64>]| -> io::Result<Vec<()>> {
            let (mut cursor, mut buffer) = (self.cursor(), Vec::new());
            for portion in portions {
                buffer.resize(usize::try_from(portion.end - portion.start).unwrap_or(0), 0);
                cursor.read_at(file, portion.start, &mut buffer)?;
                to.write_all_at(&buffer, portion.start)?;
            }
            Ok(Vec::new())
        };
        // So that no thread has all of what is slow.
        for some in portions.chunks(64) {
            in_parallel(some, copy)?;
        }
        Ok(())
    }
}

/// Reads a checkpoint's files, and remembers what it has read lately.
#[derive(Debug)]
pub struct Cursor {
    of: Opened,
    chunks: ChunkReader,
}

impl Cursor {
    /// Reads a part of a file. Each chunk is compared with its id.
    ///
    /// # Errors
    /// A chunk is missing or damaged, or the file is shorter.
    pub fn read_at(&mut self, file: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let number = usize::try_from(at / CHUNK as u64).map_err(|_| ErrorKind::UnexpectedEof)?;
            let within = (at % CHUNK as u64) as usize;
            let id = self.of.0.record.id(file, number).ok_or(ErrorKind::UnexpectedEof)?;
            let told = |e: Error| io::Error::new(e.why.kind(), format!("{}: {e}", self.of.0.path.display()));
            let chunk = self.chunks.read(&id).map_err(told)?;
            let part = chunk.get(within..).filter(|part| !part.is_empty()).ok_or(ErrorKind::UnexpectedEof)?;
            let length = part.len().min(buffer.len() - done);
            buffer[done..done + length].copy_from_slice(&part[..length]);
            done += length;
        }
        Ok(())
    }
}

struct Whole {
    cursor: Cursor,
    file: usize,
    at: u64,
    size: u64,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.size - self.at).unwrap_or(usize::MAX));
        self.cursor.read_at(self.file, self.at, &mut buffer[..length])?;
        self.at += length as u64;
        Ok(length)
    }
}
