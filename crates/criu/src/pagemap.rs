//! Maps of pages: which pages of memory a checkpoint has (pagemap-PID.img of a task, pagemap-shmem-ID.img of a shared segment).
//!
//! A map has one head, which names its file of pages (pages-N.img), and runs of pages in the order of their addresses. The pages
//! of all runs that are [`PRESENT`] follow each other in the file of pages, in that order (CRIU: criu/pagemap.c).

use std::path::Path;

use criu_proto::images::pagemap::{PagemapEntry, PagemapHead};

use crate::directory::ImageDirectory;
use crate::error::{Result, bad};
use crate::image_file::encode;
use crate::images::{COMMON, Images, Magic};

/// Images do not say how large pages are; on x86-64 they have this size in bytes.
pub const PAGE: u64 = 4096;

/// Flags of a run (CRIU: criu/include/pagemap.h): the parent checkpoint has the pages.
pub const IN_PARENT: u32 = 1;
/// The pages may be brought over after the restore.
pub const LAZY: u32 = 2;
/// The pages are in the file of pages.
pub const PRESENT: u32 = 4;

/// A run of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The address of its first byte; in a shared segment, the offset.
    pub start: u64,
    /// The address after its last byte.
    pub end: u64,
    /// [`IN_PARENT`], [`LAZY`], [`PRESENT`].
    pub flags: u32,
}

impl Run {
    /// CRIU before 2.0 says only whether a run is in the parent.
    fn new(entry: &PagemapEntry) -> Option<Self> {
        let pages = entry.nr_pages.unwrap_or(u64::from(entry.compat_nr_pages.unwrap_or_default()));
        let start = entry.vaddr.unwrap_or_default();
        let end = start.checked_add(pages.checked_mul(PAGE)?)?;
        let old = if entry.in_parent.unwrap_or(false) { IN_PARENT } else { PRESENT };
        Some(Self { start, end, flags: entry.flags.unwrap_or(old) })
    }

    fn entry(&self) -> PagemapEntry {
        let pages = self.len() / PAGE;
        PagemapEntry {
            vaddr: Some(self.start),
            // CRIU before 4.2 reads this field.
            compat_nr_pages: Some(u32::try_from(pages).unwrap_or_default()),
            flags: Some(self.flags),
            nr_pages: Some(pages),
            ..PagemapEntry::default()
        }
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it has no page.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether its pages are in the file of pages.
    pub fn is_present(&self) -> bool {
        self.flags & PRESENT != 0
    }
}

/// The number of a map's file of pages, and the runs of the map `name`: in order, without overlap.
///
/// # Errors
/// [`CriuError::Image`](crate::CriuError::Image) naming the file if it is missing or its head malformed; per run, if it is
/// malformed, overlaps the one before, is out of order or ends nowhere.
pub fn runs(images: &Images, name: &str) -> Result<(u32, impl Iterator<Item = Result<Run>> + use<>)> {
    let wrong =
        bad(&images.dir().join(name), "has runs of pages that overlap, are out of order, or end nowhere");
    let mut wrong = Some(wrong);
    let mut entries = images.entries::<PagemapEntry>(name, Magic::PAGEMAP)?;
    let head: PagemapHead = entries.head()?;
    let mut last = 0;
    let runs = entries.map_while(move |entry| match entry {
        Err(e) => Some(Err(e)),
        Ok(entry) => match Run::new(&entry).filter(|run| run.start >= last) {
            Some(run) => {
                last = run.end;
                Some(Ok(run))
            }
            None => wrong.take().map(Err),
        },
    });
    Ok((head.pages_id.unwrap_or_default(), runs))
}

/// Writes the map `name`, whose pages are in pages-`pages`.img. The runs must be in order.
///
/// # Errors
/// [`CriuError::Io`](crate::CriuError::Io).
pub fn write(dir: &ImageDirectory, name: &str, pages: u32, runs: &[Run]) -> Result<()> {
    dir.write(name, &encoded(&dir.path().join(name), pages, runs)?)
}

/// The content of such a map.
pub(crate) fn encoded(path: &Path, pages: u32, runs: &[Run]) -> Result<Vec<u8>> {
    let head = PagemapHead { pages_id: Some(pages), ..PagemapHead::default() };
    let mut content = encode(path, &[COMMON, Magic::PAGEMAP.0], &[head])?;
    let entries: Vec<_> = runs.iter().map(Run::entry).collect();
    content.extend(encode(path, &[], &entries)?);
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let dir = ImageDirectory::open(dir.path()).unwrap();
        let inventory = [&0x5831_3116u32.to_le_bytes()[..], &2u32.to_le_bytes(), &[8, 2]].concat();
        dir.write("inventory.img", &inventory).unwrap();
        let images = Images::in_directory(&dir).unwrap();
        let written = [
            Run { start: PAGE, end: 3 * PAGE, flags: PRESENT | LAZY },
            Run { start: 3 * PAGE, end: 1 << 46, flags: LAZY },
        ];
        write(&dir, "pagemap-1.img", 7, &written).unwrap();
        let (pages, found) = runs(&images, "pagemap-1.img").unwrap();
        assert_eq!((pages, found.collect::<Result<Vec<_>>>().unwrap()), (7, written.to_vec()));
        write(&dir, "pagemap-2.img", 7, &[written[1], written[0]]).unwrap();
        let found = runs(&images, "pagemap-2.img").unwrap().1.collect::<Result<Vec<_>>>();
        assert!(found.unwrap_err().to_string().contains("out of order"));
    }
}
