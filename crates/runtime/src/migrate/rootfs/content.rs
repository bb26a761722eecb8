//! The content of a regular file, in blocks whose hashes tell which of them the other end lacks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::change::Range;

/// Bytes that are compared, and sent, as one.
const BLOCK: u64 = 128 << 10;

/// The first half of a BLAKE3 hash; none of a block that is a hole.
type Sum = Option<[u8; 16]>;

/// A file's content as the other end has it.
#[derive(Debug, Default)]
pub(super) struct Known {
    size: u64,
    blocks: Vec<Sum>,
}

/// A block that the other end lacks.
pub(super) struct Part {
    /// The ranges of data in it, and those between.
    pub(super) data: Vec<Range>,
    pub(super) holes: Vec<Range>,
    /// Those of the data.
    pub(super) bytes: Vec<u8>,
}

impl Known {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Gives `take` all parts of a file of `size` bytes that differ, and takes note of them.
    pub(super) fn update<E: From<io::Error>>(
        &mut self,
        file: &File,
        size: u64,
        mut take: impl FnMut(Part) -> Result<(), E>,
    ) -> Result<(), E> {
        let blocks = usize::try_from(size.div_ceil(BLOCK)).map_err(io::Error::other)?;
        // Blocks of another length have another hash, and a hole is zeros at the other end, however long.
        self.blocks.resize(blocks, None);
        self.size = size;
        let mut extents = Extents { file, size, next: Some((0, 0)) };
        let mut buffer = vec![0; BLOCK as usize];
        for (block, known) in self.blocks.iter_mut().enumerate() {
            let start = block as u64 * BLOCK;
            let end = size.min(start + BLOCK);
            let data = extents.within(start, end)?;
            let block = &mut buffer[..(end - start) as usize];
            let sum = read(file, start, block, &data)?;
            if *known == sum {
                continue;
            }
            *known = sum;
            let bytes = data.iter().flat_map(|(at, n)| &block[(at - start) as usize..][..*n as usize]);
            take(Part { bytes: bytes.copied().collect(), holes: between(start, end, &data), data })?;
        }
        Ok(())
    }
}

/// Fills a block with the data in it, and zeros; the hash, if there is any data.
fn read(file: &File, start: u64, block: &mut [u8], data: &[Range]) -> io::Result<Sum> {
    if data.is_empty() {
        return Ok(None);
    }
    block.fill(0);
    for (at, length) in data {
        let part = &mut block[(at - start) as usize..][..*length as usize];
        let mut done = 0;
        while done < part.len() {
            match file.read_at(&mut part[done..], at + done as u64) {
                // It became shorter meanwhile: zeros, until the next look.
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
    let mut sum = [0; 16];
    sum.copy_from_slice(&blake3::hash(block).as_bytes()[..16]);
    Ok(Some(sum))
}

/// The ranges from `start` to `end` that are not among `data`.
fn between(start: u64, end: u64, data: &[Range]) -> Vec<Range> {
    let ends = std::iter::once(start).chain(data.iter().map(|(at, length)| at + length));
    let starts = data.iter().map(|(at, _)| *at).chain(std::iter::once(end));
    ends.zip(starts).filter(|(from, to)| from < to).map(|(from, to)| (from, to - from)).collect()
}

/// The data in a file, from its beginning to its end (lseek(2), SEEK_DATA and SEEK_HOLE).
struct Extents<'a> {
    file: &'a File,
    size: u64,
    /// From where to where there is data, at or after the last place that was asked for; none if there is no more.
    next: Option<(u64, u64)>,
}

impl Extents<'_> {
    /// That from `start` to `end`. Places are asked for in their order.
    fn within(&mut self, start: u64, end: u64) -> io::Result<Vec<Range>> {
        let mut found = Vec::new();
        while let Some((from, to)) = self.next {
            if to <= start {
                self.next = self.after(to.max(start))?;
                continue;
            }
            if from >= end {
                break;
            }
            let (from, until) = (from.max(start), to.min(end));
            found.push((from, until - from));
            if to >= end {
                break;
            }
            self.next = self.after(to)?;
        }
        Ok(found)
    }

    fn after(&self, at: u64) -> io::Result<Option<(u64, u64)>> {
        if at >= self.size {
            return Ok(None);
        }
        let from = match rustix::fs::seek(self.file, SeekFrom::Data(at)) {
            Ok(from) => from,
            Err(Errno::NXIO) => return Ok(None),
            // All is data.
            Err(Errno::INVAL) => return Ok(Some((at, self.size))),
            Err(e) => return Err(e.into()),
        };
        match rustix::fs::seek(self.file, SeekFrom::Hole(from)) {
            Ok(to) => Ok((from < self.size).then_some((from, to.min(self.size)))),
            Err(Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}
