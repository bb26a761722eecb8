//! A checkpoint in an archive, as podman exports it: tar, by itself or with gzip or zstd.
//!
//! It is read once from end to end. Files that describe the checkpoint are kept in memory, up to a limit. Pages and other files
//! are hashed if the caller wants hashes, and dropped. Archives come from elsewhere. Therefore the parts of the format that must
//! be read whole (long names) are read here, with a limit; tar's own iterator has none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use tar::{EntryType, Header, PaxExtensions};

use crate::checkpoint::manifest::FileSum;
use crate::error::{Error, Result};

const BLOCK: usize = 512;
/// The largest extended header or long name.
const MAX_EXTENSION: u64 = 64 << 10;
/// How much is kept of an archive.
const MAX_KEPT: u64 = 256 << 20;
/// How many files are looked at.
const MAX_FILES: usize = 1 << 20;

/// The kept files of an archive, by path.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    pub(crate) kept: BTreeMap<String, Arc<[u8]>>,
    /// All regular files; with hashes if they were asked for.
    pub(crate) sums: BTreeMap<String, FileSum>,
}

impl Archive {
    /// Reads the archive at `path`.
    ///
    /// # Errors
    /// If it is none, is truncated, or is beyond the limits.
    pub(crate) fn read(path: &Path, hash: bool) -> Result<Self> {
        let bad = |e: io::Error| match e.raw_os_error() {
            Some(_) => Error::file(path, &e),
            None => Error::File { path: path.into(), why: format!("is no readable archive: {e}") },
        };
        let reader =
            decompress(BufReader::with_capacity(1 << 16, File::open(path).map_err(bad)?)).map_err(bad)?;
        let mut archive = Self::default();
        let mut walk = Walk { reader, hash, left: MAX_KEPT };
        while let Some((name, size)) = walk.next_file().map_err(bad)? {
            if archive.sums.len() == MAX_FILES {
                return Err(bad(io::Error::other(format!("it has more than {MAX_FILES} files"))));
            }
            let (kept, sum) = walk.content(&name, size).map_err(bad)?;
            if let Some(kept) = kept {
                archive.kept.insert(name.clone(), kept.into());
            }
            archive.sums.insert(name, sum);
        }
        Ok(archive)
    }
}

/// Undoes the compression that the first bytes tell.
fn decompress(mut reader: BufReader<File>) -> io::Result<Box<dyn Read>> {
    let start = reader.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(reader).map_err(io::Error::other)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(reader))
}

/// Whether a file describes the checkpoint; raw images, without CRIU's magic numbers, do not.
fn is_kept(name: &str) -> bool {
    let name = name.rsplit_once('/').map_or(name, |(_, name)| name);
    let raw = [
        "pages-",
        "tmpfs-",
        "ghost-file-",
        "ifaddr-",
        "route",
        "rule-",
        "iptables-",
        "ip6tables-",
        "nftables-",
    ];
    matches!(name, "hiber.json" | "stats-dump" | "config.dump")
        || name.ends_with(".img") && !raw.iter().any(|prefix| name.starts_with(prefix))
}

struct Walk {
    reader: Box<dyn Read>,
    hash: bool,
    /// How much more may be kept.
    left: u64,
}

impl Walk {
    /// The next regular file's path and size; the reader is then at its content.
    fn next_file(&mut self) -> io::Result<Option<(String, u64)>> {
        let (mut long_name, mut long_size) = (None, None);
        while let Some(header) = self.header()? {
            let mut size = header.entry_size()?;
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
                    continue;
                }
                EntryType::GNULongName => {
                    let name = self.extension(size)?;
                    long_name = Some(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned());
                    continue;
                }
                EntryType::Regular | EntryType::Continuous => {
                    let name = long_name.take();
                    let name =
                        name.unwrap_or_else(|| String::from_utf8_lossy(&header.path_bytes()).into_owned());
                    size = long_size.unwrap_or(size);
                    return Ok(Some((name.trim_start_matches("./").to_owned(), size)));
                }
                _ => {
                    self.skip(padded(long_size.take().unwrap_or(size))?)?;
                    long_name = None;
                }
            }
        }
        Ok(None)
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
            _ => Err(io::Error::other("expected tar, by itself or with gzip or zstd")),
        }
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(io::Error::other(format!("an extended header of {size} bytes")));
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        self.reader.read_exact(&mut bytes)?;
        self.skip(padded(size)? - size)?;
        Ok(bytes)
    }

    /// A file's content, if it is one that is kept, and its sum.
    fn content(&mut self, name: &str, size: u64) -> io::Result<(Option<Vec<u8>>, FileSum)> {
        let keep = is_kept(name);
        let mut kept = None;
        let sum = if keep {
            self.left = self.left.checked_sub(size).ok_or_else(|| {
                io::Error::other(format!(
                    "what describes the checkpoint is larger than {} MiB",
                    MAX_KEPT >> 20
                ))
            })?;
            let mut bytes = Vec::new();
            self.reader.by_ref().take(size).read_to_end(&mut bytes)?;
            let sum = if self.hash {
                FileSum::of(&*bytes)?
            } else {
                FileSum { size: bytes.len() as u64, blake3: None }
            };
            kept = Some(bytes);
            sum
        } else if self.hash {
            FileSum::of(self.reader.by_ref().take(size))?
        } else {
            FileSum { size: io::copy(&mut self.reader.by_ref().take(size), &mut io::sink())?, blake3: None }
        };
        if sum.size != size {
            return Err(io::Error::other(format!("truncated in {name}")));
        }
        self.skip(padded(size)? - size)?;
        Ok((kept, sum))
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        match io::copy(&mut self.reader.by_ref().take(count), &mut io::sink())? {
            skipped if skipped == count => Ok(()),
            _ => Err(io::Error::other("truncated")),
        }
    }
}

/// A size with the padding to whole blocks.
fn padded(size: u64) -> io::Result<u64> {
    size.checked_next_multiple_of(BLOCK as u64)
        .ok_or_else(|| io::Error::other(format!("a file of {size} bytes")))
}
