//! The index of a pack: which chunks it has, and where its frames end.
//!
//! ```text
//! magic 8 | key's id 16 | chunks u32 | frames u32 | end of each frame u64… | id 32 + number u32 of each chunk, by id… | BLAKE3 32
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::key::KeyId;
use crate::layout::{self, FRAME, Id};

const MAGIC: &[u8; 8] = b"hiberIX1";
const HEAD: usize = 8 + 16 + 4 + 4;
const ENTRY: usize = 32 + 4;
/// A pack of more chunks than this would be one of 4 TiB.
const MAX_CHUNKS: u32 = 1 << 30;

/// An index in memory: eight bytes of each id. The rest is read when it is needed.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) key: KeyId,
    /// Where frames end, in the pack.
    pub(crate) ends: Vec<u64>,
    pub(crate) chunks: u32,
    prefixes: Vec<u64>,
    file: File,
}

fn prefix(id: &[u8]) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|n| id[n]))
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|n| bytes[n]))
}

impl Index {
    /// Reads all of it, and compares it with its hash.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let file = layout::open(path)?;
        let length = file.metadata().map_err(Error::at(path))?.len();
        let mut reader =
            Hashing { from: io::BufReader::with_capacity(1 << 18, &file), hasher: blake3::Hasher::new() };
        let mut head = [0; HEAD];
        reader.read_exact(&mut head).map_err(Error::at(path))?;
        let (chunks, frames) = (number(&head[24..]), number(&head[28..]));
        let expected = HEAD as u64 + 8 * u64::from(frames) + ENTRY as u64 * u64::from(chunks) + 32;
        if &head[..8] != MAGIC || chunks > MAX_CHUNKS || length != expected {
            return Err(Error::bad(path, "is no index of a pack"));
        }
        let mut ends = Vec::with_capacity(frames as usize);
        for _ in 0..frames {
            let mut end = [0; 8];
            reader.read_exact(&mut end).map_err(Error::at(path))?;
            ends.push(u64::from_le_bytes(end));
        }
        let mut prefixes = Vec::with_capacity(chunks as usize);
        let mut entry = [0; ENTRY];
        for _ in 0..chunks {
            reader.read_exact(&mut entry).map_err(Error::at(path))?;
            if number(&entry[32..]) as usize >= FRAME * frames as usize {
                return Err(Error::bad(path, "names a chunk that its pack has not"));
            }
            prefixes.push(prefix(&entry));
        }
        let (is, mut hash) = (reader.hasher.finalize(), [0; 32]);
        reader.from.read_exact(&mut hash).map_err(Error::at(path))?;
        if *is.as_bytes() != hash || !prefixes.is_sorted() || !ends.is_sorted() {
            return Err(Error::bad(path, "is damaged"));
        }
        let key = KeyId(std::array::from_fn(|n| head[8 + n]));
        drop(reader);
        Ok(Self { key, ends, chunks, prefixes, file })
    }

    /// The number of a chunk in the pack.
    pub(crate) fn find(&self, id: &Id) -> io::Result<Option<u32>> {
        let wanted = prefix(id);
        let mut at = self.prefixes.partition_point(|prefix| *prefix < wanted);
        while self.prefixes.get(at) == Some(&wanted) {
            let (is, number) = self.entry(at)?;
            if is == *id {
                return Ok(Some(number));
            }
            at += 1;
        }
        Ok(None)
    }

    fn entry(&self, at: usize) -> io::Result<(Id, u32)> {
        let mut entry = [0; ENTRY];
        self.file.read_exact_at(&mut entry, (HEAD + 8 * self.ends.len() + ENTRY * at) as u64)?;
        Ok((std::array::from_fn(|n| entry[n]), number(&entry[32..])))
    }

    /// The ids by the numbers of their chunks. A frame that is not full has fewer.
    pub(crate) fn ids(&self) -> io::Result<Vec<Option<Id>>> {
        let mut ids = vec![None; FRAME * self.ends.len()];
        for at in 0..self.prefixes.len() {
            let (id, number) = self.entry(at)?;
            ids[number as usize] = Some(id);
        }
        Ok(ids)
    }

    /// Writes one. `entries` are in any order.
    pub(crate) fn write(to: &File, key: KeyId, ends: &[u64], entries: &mut [(Id, u32)]) -> io::Result<()> {
        entries.sort_unstable();
        let mut to =
            Hashing { from: io::BufWriter::with_capacity(1 << 18, to), hasher: blake3::Hasher::new() };
        let count =
            |n: usize| u32::try_from(n).ok().filter(|n| *n <= MAX_CHUNKS).ok_or(io::ErrorKind::FileTooLarge);
        to.write_all(MAGIC)?;
        to.write_all(&key.0)?;
        to.write_all(&count(entries.len())?.to_le_bytes())?;
        to.write_all(&count(ends.len())?.to_le_bytes())?;
        ends.iter().try_for_each(|end| to.write_all(&end.to_le_bytes()))?;
        for (id, number) in entries {
            to.write_all(id)?;
            to.write_all(&number.to_le_bytes())?;
        }
        let hash = to.hasher.finalize();
        to.from.write_all(hash.as_bytes())?;
        to.from.flush()
    }
}

/// Hashes what passes.
struct Hashing<T> {
    from: T,
    hasher: blake3::Hasher,
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.from.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.from.flush()
    }
}
