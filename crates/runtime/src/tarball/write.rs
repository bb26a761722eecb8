//! Writing tar.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::compression::Packer;
use crate::tarball::Compression;

const BLOCK: usize = 512;
/// Bytes that are copied at once.
const COPIED: usize = 256 << 10;

/// An archive that is written.
pub(crate) struct TarWriter<'a, W: Write> {
    to: Tapped<'a, W>,
    /// The time of all its files, in seconds since 1970.
    time: u64,
    buffer: Vec<u8>,
}

/// A look at bytes on their way.
pub(crate) type Tap<'a> = &'a dyn Fn(&[u8]);

/// The stream, and who sees it before it is compressed.
struct Tapped<'a, W: Write> {
    to: Packer<W>,
    tap: Option<Tap<'a>>,
}

impl<W: Write> Tapped<'_, W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tap.iter().for_each(|tap| tap(bytes));
        self.to.write_all(bytes)
    }
}

impl<'a, W: Write> TarWriter<'a, W> {
    pub(crate) fn new(to: W, how: Compression, time: u64) -> io::Result<Self> {
        let to = Tapped { to: Packer::new(to, how)?, tap: None };
        Ok(Self { to, time, buffer: vec![0; COPIED] })
    }

    /// Shows all that follows to `tap` as well, before it is compressed.
    pub(crate) fn tap(&mut self, tap: Tap<'a>) {
        self.to.tap = Some(tap);
    }

    /// Adds a directory, of which the name ends in a slash.
    pub(crate) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.header(name, EntryType::Directory, 0o700, 0)
    }

    /// Adds a file of so many bytes.
    ///
    /// # Errors
    /// `content` has fewer; those of reading and writing.
    pub(crate) fn file(&mut self, name: &str, size: u64, mut content: impl Read) -> io::Result<()> {
        self.header(name, EntryType::Regular, 0o600, size)?;
        let mut left = size;
        while left > 0 {
            let part = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            content.read_exact(&mut self.buffer[..part])?;
            self.to.write_all(&self.buffer[..part])?;
            left -= part as u64;
        }
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        self.to.write_all(&[0; BLOCK][..padding as usize])
    }

    /// Ends the archive, all of which is written then.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.to.write_all(&[0; 2 * BLOCK])?;
        let mut to = self.to.to.finish()?;
        to.flush()?;
        Ok(to)
    }

    fn header(&mut self, name: &str, kind: EntryType, mode: u32, size: u64) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_path(name)?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.time);
        header.set_size(size);
        header.set_cksum();
        self.to.write_all(header.as_bytes())
    }
}
