//! Writing a checkpoint.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::chunks::ChunkReader;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::key::{Key, Seal, salt};
use crate::layout::{self, CHUNK, FRAME, INDEX, Id, PACK, PACKS, RECORD, UNFINISHED};
use crate::pack::{self, Filling, difference};
use crate::packs::Packs;
use crate::parallel::in_parallel;
use crate::reader::Opened;
use crate::record::{Head, Record};
use crate::store::{Held, Listed, Store, sync_dir};

/// How much is read, hashed and compressed at once, in bytes.
const BLOCK: usize = 4 << 20;

/// How frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// By zstd (RFC 8878) at this level, 1 to 19.
    Zstd(i32),
    /// Not at all.
    None,
}

/// The cost of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// Bytes of its files.
    pub size: u64,
    /// Bytes that the store has more.
    pub added: u64,
}

/// Writes one checkpoint. Dropped before [`finish`](Self::finish), it leaves nothing.
pub struct Writer {
    store: Store,
    held: Held,
    owner: String,
    key: Key,
    level: Option<i32>,
    known: Arc<Packs>,
    /// The checkpoint that this one is likely to be similar to.
    earlier: Option<Opened>,
    pack: PackWriter,
    record: (PathBuf, File),
    target: PathBuf,
    files: Vec<(String, u64)>,
    ids: Vec<u8>,
    finished: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({})", self.target.display())
    }
}

fn create(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
    file.map_err(Error::at(path))
}

impl Writer {
    /// Begins a checkpoint of a container, under a name that is not there yet.
    ///
    /// # Errors
    /// The name is taken, or the store cannot be written.
    pub fn new(store: &Store, (owner, name): (&str, &str), key: &Key, how: Compress) -> Result<Self> {
        let held = store.share()?;
        let target = store.record(owner, name)?;
        if target.exists() {
            return Err(Error::new(&target, io::Error::from(io::ErrorKind::AlreadyExists)));
        }
        let level = match how {
            Compress::Zstd(level) => Some(level),
            Compress::None => None,
        };
        let known = Packs::load(store.root(), std::slice::from_ref(key))?.into();
        let path = store.root().join(UNFINISHED).join(layout::number()).with_extension(RECORD);
        let pack = PackWriter::new(store, key)?;
        let record = create(&path)?;
        Ok(Self {
            store: store.clone(),
            held,
            owner: owner.into(),
            key: key.clone(),
            level,
            known,
            earlier: None,
            pack,
            record: (path, record),
            target,
            files: Vec::new(),
            ids: Vec::new(),
            finished: false,
        })
    }

    /// The path that the record has until it is finished, and the path that it has then: a file that is renamed.
    pub fn paths(&self) -> (&Path, &Path) {
        (&self.record.0, &self.target)
    }

    /// Other files that are nothing if the record is not finished.
    pub fn beside(&self) -> Vec<PathBuf> {
        vec![self.pack.path.clone(), self.pack.path.with_extension(INDEX)]
    }

    /// The newest checkpoint of the container that has the same key; none if it has none. Chunks that are new may be much like its own: see
    /// [`Like`].
    ///
    /// # Errors
    /// It cannot be read.
    pub fn earlier(&mut self) -> Result<Option<Opened>> {
        let newest = self.store.newest(&self.owner, std::slice::from_ref(&self.key))?;
        let open = |newest: Listed| {
            let path = self.store.record(&self.owner, &newest.name)?;
            Opened::new(path, Arc::clone(&self.known), self.key.clone(), self.held.clone())
        };
        self.earlier = newest.map(open).transpose()?;
        Ok(self.earlier.clone())
    }

    /// Adds a file; its size in bytes. `like` says where chunks of the earlier checkpoint are that its chunks may be like. `saw` is
    /// told what was read.
    ///
    /// # Errors
    /// Those of the reader, by `name`, and of the store.
    pub fn add(
        &mut self,
        name: &str,
        like: &[Like],
        mut content: impl Read + Send,
        mut saw: impl FnMut(&[u8]) + Send,
    ) -> Result<u64> {
        let mut size = 0;
        let mut read = || {
            let mut block = Vec::with_capacity(BLOCK);
            content.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
            saw(&block);
            Ok(block)
        };
        let failed = |e: io::Error| Error::new(Path::new(name), e);
        let mut block = read().map_err(failed)?;
        while !block.is_empty() {
            size += block.len() as u64;
            let (next, put) = std::thread::scope(|scope| {
                let reading = (block.len() == BLOCK).then(|| scope.spawn(&mut read));
                let put = self.put(&block, (size - block.len() as u64) / CHUNK as u64, like);
                (
                    reading.map(|reading| {
                        reading.join().unwrap_or_else(|_| Err(io::Error::other("the reader panicked")))
                    }),
                    put,
                )
            });
            put?;
            block = next.transpose().map_err(failed)?.unwrap_or_default();
        }
        self.files.push((name.into(), size));
        Ok(size)
    }

    /// Stores the chunks of a block that no pack has. The block begins with the chunk `first` of its file.
    fn put(&mut self, block: &[u8], first: u64, like: &[Like]) -> Result<()> {
        let chunks: Vec<(u64, &[u8])> = (first..).zip(block.chunks(CHUNK)).collect();
        let (names, key, known) = (self.key.chunks(), self.key.id(), &self.known);
        let earlier = self.earlier.as_ref();
        let look = |part: &[(u64, &[u8])]| -> Result<Vec<(Id, Look)>> {
            let mut reader = ChunkReader::new(known, &self.key);
            let mut look = |(number, chunk): &(u64, &[u8])| {
                let id = names.id(chunk);
                if known.find(key, &id)?.is_some() {
                    return Ok((id, Look::Known));
                }
                let similar = earlier.and_then(|earlier| Like::find(like, *number, earlier));
                let difference = similar.and_then(|similar| differs_little(chunk, &similar, &mut reader));
                Ok((id, difference.unwrap_or(Look::New)))
            };
            part.iter().map(&mut look).collect()
        };
        let found = in_parallel(&chunks, look)?;
        for ((_, chunk), (id, found)) in chunks.iter().zip(found) {
            self.ids.extend_from_slice(&id);
            match found {
                Look::Known => {}
                Look::New => self.pack.add(id, chunk, None),
                Look::Difference(base, difference) => self.pack.add(id, &difference, Some(base)),
            }
        }
        self.pack.write_full(self.level)
    }

    /// Gives the checkpoint its name. With `sync`, the disk has all of it before.
    ///
    /// # Errors
    /// Another one has the name by now, or the store cannot be written. The checkpoint is not there then.
    pub fn finish(mut self, created: &str, sync: bool) -> Result<Stored> {
        let packs = self.store.root().join(PACKS);
        let added = self.pack.finish(self.level, &packs, sync)?;
        let head = Head::new(created, added + self.ids.len() as u64, std::mem::take(&mut self.files));
        let size = head.size();
        let (path, file) = &self.record;
        Record::write(file, &self.key, &head, &self.ids).map_err(Error::at(path))?;
        let dir = self.target.parent().unwrap_or(self.store.root());
        match std::fs::create_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(Error::at(dir))?,
        }
        if sync {
            file.sync_all().map_err(Error::at(path))?;
        }
        match rustix::fs::renameat_with(CWD, path, CWD, &self.target, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {
                return Err(Error::new(&self.target, io::Error::from(io::ErrorKind::AlreadyExists)));
            }
            renamed => renamed.map_err(|e| Error::new(&self.target, e))?,
        }
        self.finished = true;
        if sync {
            sync_dir(dir)?;
            dir.parent().map_or(Ok(()), sync_dir)?;
        }
        Ok(Stored { size, added: head.added })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.record.0);
        }
    }
}

/// A part of a file that is likely to be similar to a part of a file of an earlier checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Like {
    /// Numbers of chunks of the new file.
    pub chunks: Range<u64>,
    /// The number of the earlier file, and of its chunk that is like the first of these.
    pub earlier: (usize, u64),
}

impl Like {
    /// The chunk that is like the one with this number. They are in order.
    fn find(all: &[Self], number: u64, earlier: &Opened) -> Option<Id> {
        let at = all.partition_point(|like| like.chunks.end <= number);
        let like = all.get(at).filter(|like| like.chunks.contains(&number))?;
        let chunk = like.earlier.1 + (number - like.chunks.start);
        earlier.id(like.earlier.0, usize::try_from(chunk).ok()?)
    }
}

/// The result of looking for a chunk.
enum Look {
    /// A pack has it.
    Known,
    New,
    /// New, and little different from this base.
    Difference(Id, Vec<u8>),
}

/// The difference, if most of a chunk is as in the one with this id. One that cannot be read is like none.
fn differs_little(chunk: &[u8], similar: &Id, reader: &mut ChunkReader) -> Option<Look> {
    let (base, content) = reader.base(similar).ok().filter(|(_, content)| content.len() == chunk.len())?;
    let difference = difference(chunk, &content);
    let same = difference.iter().filter(|byte| **byte == 0).count();
    (2 * same > chunk.len()).then_some(Look::Difference(base, difference))
}

/// Writes one pack. Dropped before it is finished, it leaves nothing.
pub(crate) struct PackWriter {
    path: PathBuf,
    file: File,
    key: Key,
    seal: Seal,
    at: u64,
    ends: Vec<u64>,
    /// Numbers of chunks; those that are not written yet have none.
    entries: HashMap<Id, u32>,
    /// Frames that are full, and those of chunks and of differences that have room.
    full: Vec<Filling>,
    open: [Filling; 2],
}

impl PackWriter {
    pub(crate) fn new(store: &Store, key: &Key) -> Result<Self> {
        let path = store.root().join(UNFINISHED).join(layout::number()).with_extension(PACK);
        let file = create(&path)?;
        let salt = salt().map_err(Error::at(&path))?;
        let head = pack::head(key.id(), &salt);
        (&file).write_all(&head).map_err(Error::at(&path))?;
        let (at, seal) = (head.len() as u64, key.file(&salt));
        let (ends, entries, full, open) = Default::default();
        Ok(Self { path, file, key: key.clone(), seal, at, ends, entries, full, open })
    }

    /// Takes a chunk, or its difference from a base, unless it has one with this id.
    pub(crate) fn add(&mut self, id: Id, chunk: &[u8], base: Option<Id>) {
        if let std::collections::hash_map::Entry::Vacant(place) = self.entries.entry(id) {
            place.insert(u32::MAX);
            let open = &mut self.open[usize::from(base.is_some())];
            open.add(id, chunk, base);
            if open.is_full() {
                self.full.push(std::mem::take(open));
            }
        }
    }

    /// Writes the frames that are full.
    pub(crate) fn write_full(&mut self, level: Option<i32>) -> Result<()> {
        let full = std::mem::take(&mut self.full);
        self.write(&full, level)
    }

    fn write(&mut self, frames: &[Filling], level: Option<i32>) -> Result<()> {
        let packed = in_parallel(frames, |part| part.iter().map(|frame| frame.packed(level)).collect());
        let mut all = Vec::new();
        for (of, frame) in frames.iter().zip(packed.map_err(Error::at(&self.path))?) {
            let first = u32::try_from(FRAME * self.ends.len()).unwrap_or(u32::MAX);
            self.entries.extend(of.ids.iter().copied().zip(first..));
            let frame = self.seal.seal(self.ends.len() as u64, frame);
            all.extend_from_slice(&frame);
            self.ends.push(self.at + all.len() as u64);
        }
        self.at += all.len() as u64;
        (&self.file).write_all(&all).map_err(Error::at(&self.path))
    }

    /// Gives the pack its name in `to`, and then its index, if it has anything; how many bytes these have.
    pub(crate) fn finish(&mut self, level: Option<i32>, to: &Path, sync: bool) -> Result<u64> {
        let mut rest = std::mem::take(&mut self.full);
        rest.extend(self.open.iter_mut().map(std::mem::take).filter(|open| !open.is_empty()));
        self.write(&rest, level)?;
        if self.ends.is_empty() {
            return Ok(0);
        }
        let index = self.path.with_extension(INDEX);
        let file = create(&index)?;
        let mut entries: Vec<_> = self.entries.drain().collect();
        Index::write(&file, self.key.id(), &self.ends, &mut entries).map_err(Error::at(&index))?;
        if sync {
            self.file.sync_all().map_err(Error::at(&self.path))?;
            file.sync_all().map_err(Error::at(&index))?;
        }
        for path in [&self.path, &index] {
            let name = to.join(path.file_name().unwrap_or_default());
            std::fs::rename(path, name).map_err(Error::at(path))?;
            // Readers look for the index, which must not be there without its pack.
            if sync {
                sync_dir(to)?;
            }
        }
        Ok(self.at + file.metadata().map_or(0, |meta| meta.len()))
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        // They have other names if they were finished.
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(self.path.with_extension(INDEX));
    }
}
