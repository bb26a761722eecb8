//! One image file: magic numbers, then entries.

use std::fs::File;
use std::io::{BufReader, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use criu_proto::Message;

use crate::directory::ImageDirectory;
use crate::error::{CriuError, Result, bad};

/// No honest entry is larger: the largest, the address space of a task, takes some 60 bytes for each of its areas.
/// Messages in memory can be fifty times their size on disk.
const MAX_ENTRY: u64 = 16 << 20;

#[derive(Debug)]
enum Content {
    File(BufReader<File>),
    Bytes(Cursor<Arc<[u8]>>),
}

impl Read for Content {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::File(file) => file.read(buf),
            Self::Bytes(bytes) => bytes.read(buf),
        }
    }
}

/// An open image file, and how much of it has not been read.
#[derive(Debug)]
pub(crate) struct ImageFile {
    path: PathBuf,
    reader: Content,
    left: u64,
}

impl ImageFile {
    pub(crate) fn open(dir: &ImageDirectory, name: &str) -> Result<Self> {
        let path = dir.path().join(name);
        let opened = dir.file(name).and_then(|file| Ok((file.metadata()?, file)));
        let (meta, file) = opened.map_err(|e| match e.kind() {
            ErrorKind::NotFound => bad(&path, "missing"),
            _ if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                bad(&path, "not a regular file")
            }
            _ => CriuError::io(format!("open {}", path.display()), e),
        })?;
        if !meta.is_file() {
            return Err(bad(&path, "not a regular file"));
        }
        Self::new(&path, Content::File(BufReader::new(file)), meta.len())
    }

    pub(crate) fn from_bytes(path: &Path, bytes: Arc<[u8]>) -> Result<Self> {
        let left = bytes.len() as u64;
        Self::new(path, Content::Bytes(Cursor::new(bytes)), left)
    }

    fn new(path: &Path, reader: Content, left: u64) -> Result<Self> {
        match left {
            0 => Err(bad(path, "empty")),
            left => Ok(Self { path: path.into(), reader, left }),
        }
    }

    pub(crate) fn bad(&self, problem: impl Into<String>) -> CriuError {
        bad(&self.path, problem)
    }

    /// Reads `bytes.len()` bytes, which must be no more than are left.
    fn fill(&mut self, bytes: &mut [u8], of: &str) -> Result<()> {
        let len = bytes.len() as u64;
        if self.left < len {
            return Err(self.bad(format!("truncated: {of} takes {len} bytes, {} are left", self.left)));
        }
        // A file that shrinks while it is read ends early, too.
        self.reader.read_exact(bytes).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => self.bad(format!("truncated in {of}")),
            _ => CriuError::io(format!("read {}", self.path.display()), e),
        })?;
        self.left -= len;
        Ok(())
    }

    fn u32(&mut self, of: &str) -> Result<u32> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes, of)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(crate) fn expect_magic(&mut self, magic: u32, kind: &str) -> Result<()> {
        let found = self.u32("its magic number")?;
        if found == magic {
            return Ok(());
        }
        Err(self.bad(format!("is not {kind}: it starts with {found:#010x} instead of {magic:#010x}")))
    }

    /// The next entry, or `None` at the end of the file.
    pub(crate) fn entry<M: Message>(&mut self) -> Result<Option<M>> {
        if self.left == 0 {
            return Ok(None);
        }
        let len = u64::from(self.u32("an entry's length")?);
        if self.left < len {
            return Err(self.bad(format!("truncated: an entry takes {len} bytes, {} are left", self.left)));
        }
        if len > MAX_ENTRY {
            return Err(self.bad(format!("has an entry of {len} bytes; expected at most {MAX_ENTRY}")));
        }
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes, "an entry")?;
        M::parse_from_bytes(&bytes).map(Some).map_err(|e| self.bad(format!("has a malformed entry: {e}")))
    }

    /// The one entry of a file that has a single one.
    pub(crate) fn only<M: Message>(&mut self) -> Result<M> {
        self.entry()?.ok_or_else(|| self.bad("truncated: has no entry"))
    }
}

/// The content of an image file at `path`: its magics, and each entry after its length.
pub(crate) fn encode<M: Message>(path: &Path, magic: &[u32], entries: &[M]) -> Result<Vec<u8>> {
    let mut bytes: Vec<u8> = magic.iter().flat_map(|m| m.to_le_bytes()).collect();
    for entry in entries {
        let entry = entry.write_to_bytes().map_err(|e| bad(path, e.to_string()))?;
        let length = u32::try_from(entry.len()).map_err(|_| bad(path, "has too long an entry"))?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&entry);
    }
    Ok(bytes)
}
