//! Reading tar, whose headers and extended records are the library's.

use std::io::{self, BufReader, Cursor, ErrorKind, Read};
use std::path::Path;

use tar::{EntryType, Header, PaxExtensions};

use crate::age::{self, Identities};
use crate::error::Error;

const BLOCK: usize = 512;
/// The largest extended header or long name.
const MAX_EXTENSION: u64 = 64 << 10;
/// How much may follow the end: GNU tar fills the last 10 KiB, and whatever other programs may fill is less than this.
const MAX_AFTER: u64 = 1 << 20;

/// How many of the first bytes tell what they are the beginning of.
const START: usize = 32;

/// Opens what is encrypted, and undoes the compression.
fn open<'a>(reader: impl Read + 'a, keys: &Identities) -> io::Result<Box<dyn Read + 'a>> {
    let (start, reader) = begun(reader)?;
    if start.starts_with(age::ARMOR) {
        return Err(age::Failure::Armored.into());
    }
    if start.starts_with(age::MAGIC) {
        return decompress(age::decrypt(reader, keys)?);
    }
    decompress(reader)
}

/// The first bytes, and a reader of all.
fn begun<R: Read>(mut reader: R) -> io::Result<(Vec<u8>, BufReader<impl Read + use<R>>)> {
    let mut start = Vec::new();
    // A pipe may give them one by one.
    reader.by_ref().take(START as u64).read_to_end(&mut start)?;
    let reader = Cursor::new(start.clone()).chain(reader);
    Ok((start, BufReader::with_capacity(1 << 16, reader)))
}

/// Undoes the compression that the first bytes tell.
pub(crate) fn decompress<'a>(reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let (start, reader) = begun(reader)?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        // It refuses windows larger than 128 MiB by itself.
        return Ok(Box::new(zstd::stream::read::Decoder::with_buffer(reader)?));
    }
    if start.starts_with(&[0x04, 0x22, 0x4d, 0x18]) {
        return Ok(Box::new(lz4_flex::frame::FrameDecoder::new(reader)));
    }
    Ok(Box::new(reader))
}

/// Why the archive at `path` cannot be read.
pub(crate) fn unreadable(path: &Path, e: &io::Error) -> Error {
    let failure = e.get_ref().and_then(|e| e.downcast_ref::<age::Failure>());
    match (e.raw_os_error(), failure) {
        (Some(_), _) => Error::file(path, e),
        (None, Some(failure)) => Error::File { path: path.into(), why: failure.to_string() },
        (None, None) => Error::File { path: path.into(), why: format!("is no readable archive: {e}") },
    }
}

/// An entry of an archive.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its path, as it is there.
    pub(crate) name: String,
    pub(crate) kind: EntryType,
    /// Of its content, in bytes.
    pub(crate) size: u64,
}

/// An archive that is read. It gives the content of the entry that was given last.
pub(crate) struct Tar<'a> {
    reader: Box<dyn Read + 'a>,
    /// The entry's name, and how much is left of its content, and of its padding.
    name: String,
    left: u64,
    padding: u64,
}

impl<'a> Tar<'a> {
    /// One that is encrypted is opened with `keys`.
    pub(crate) fn new(reader: impl Read + 'a, keys: &Identities) -> io::Result<Self> {
        Ok(Self { reader: open(reader, keys)?, name: String::new(), left: 0, padding: 0 })
    }

    /// The next entry; none at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entry>> {
        let (mut long_name, mut long_size) = (None, None);
        loop {
            self.pass()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size()?;
            match header.entry_type() {
                EntryType::XHeader => {
                    for extension in PaxExtensions::new(&self.extension(size)?) {
                        let extension = extension?;
                        let value = String::from_utf8_lossy(extension.value_bytes());
                        match extension.key_bytes() {
                            b"path" => long_name = Some(value.into_owned()),
                            b"size" => long_size = Some(value.parse().map_err(io::Error::other)?),
                            _ => {}
                        }
                    }
                }
                EntryType::GNULongName => {
                    let name = self.extension(size)?;
                    long_name = Some(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned());
                }
                EntryType::GNULongLink | EntryType::XGlobalHeader => drop(self.extension(size)?),
                kind => {
                    let name = || String::from_utf8_lossy(&header.path_bytes()).into_owned();
                    let (name, size) = (long_name.unwrap_or_else(name), long_size.unwrap_or(size));
                    self.begin(&name, size)?;
                    return Ok(Some(Entry { name, kind, size }));
                }
            }
        }
    }

    /// Reads up to the end of what was compressed, where its checksum is.
    pub(crate) fn end(mut self) -> io::Result<()> {
        match io::copy(&mut self.reader.by_ref().take(MAX_AFTER), &mut io::sink())? {
            MAX_AFTER => Err(io::Error::other("goes on behind its end")),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, name: &str, size: u64) -> io::Result<()> {
        let padded = size
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or_else(|| io::Error::other(format!("a file of {size} bytes")))?;
        name.clone_into(&mut self.name);
        (self.left, self.padding) = (size, padded - size);
        Ok(())
    }

    /// Passes what is left of an entry.
    fn pass(&mut self) -> io::Result<()> {
        let whole = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        match io::copy(&mut self.reader.by_ref().take(whole), &mut io::sink())? {
            passed if passed == whole => Ok(()),
            _ => Err(self.truncated()),
        }
    }

    fn truncated(&self) -> io::Error {
        match &*self.name {
            "" => io::Error::other("truncated"),
            name => io::Error::other(format!("truncated in {name}")),
        }
    }

    /// The next header; `None` at the end.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut block = [0; BLOCK];
        match self.reader.read_exact(&mut block) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Err(io::Error::other("truncated")),
            Err(e) => return Err(e),
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        // The checksum counts its own field as spaces.
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(i, b)| u32::from(if (148..156).contains(&i) { b' ' } else { *b }))
            .sum();
        match header.cksum() {
            Ok(expected) if expected == sum => Ok(Some(header)),
            _ => Err(io::Error::other("expected tar, by itself or with gzip, zstd or lz4")),
        }
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(io::Error::other(format!("an extended header of {size} bytes")));
        }
        self.begin("an extended header", size)?;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Tar<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        match self.reader.read(&mut buffer[..most])? {
            0 => Err(self.truncated()),
            read => {
                self.left -= read as u64;
                Ok(read)
            }
        }
    }
}
