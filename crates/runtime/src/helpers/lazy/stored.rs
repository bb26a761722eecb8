//! Memory of a checkpoint in a store. The files of pages in the directory of its images have their lengths and holes; whoever reads
//! them fills them from the store first.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use hiber_criu::{ImageDirectory, LazyFile, LazyRestore};
use hiber_memory::page_daemon::Filler;
use hiber_store::{Cursor, Key, Opened, Store};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How much is filled at once, in bytes: what the store reads at once for a page.
const PORTION: u64 = 64 << 10;

/// A checkpoint in a store whose memory is still there.
#[derive(Debug)]
pub(crate) struct StoredMemory {
    opened: Opened,
    store: PathBuf,
    container: String,
    name: String,
}

/// The same for another process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredTask {
    store: PathBuf,
    container: String,
    name: String,
    key: Vec<u8>,
}

/// Whether a file has pages of memory.
pub(crate) fn has_pages(name: &str) -> bool {
    name.starts_with("pages-")
}

impl StoredMemory {
    pub(crate) fn new(store: &Store, container: &str, name: &str, opened: Opened) -> Self {
        let (container, name) = (container.to_owned(), name.to_owned());
        Self { opened, store: store.root().to_owned(), container, name }
    }

    /// Fills the files of pages in a directory, but for what follows by [`fillers`].
    pub(crate) fn fill(&self, images: &ImageDirectory, following: Option<&LazyRestore>) -> Result<()> {
        for (number, (name, size)) in self.opened.head().files.iter().enumerate() {
            if !has_pages(name) {
                continue;
            }
            let fail = |e: io::Error| Error::file(&images.path().join(name), &e);
            let file = writable(images, name).map_err(fail)?;
            let place = following.and_then(|lazy| lazy.files.iter().position(|file| file.name == *name));
            let later = place.zip(following).map(|(place, lazy)| lazy.parts(place)).unwrap_or_default();
            let mut at = 0;
            let end = *size..*size;
            for part in later.into_iter().chain(std::iter::once(end)) {
                if at < part.start {
                    self.opened.copy(number, at..part.start, &file).map_err(fail)?;
                }
                at = at.max(part.end);
            }
        }
        Ok(())
    }

    pub(super) fn task(&self) -> StoredTask {
        let (store, container, name) = (self.store.clone(), self.container.clone(), self.name.clone());
        StoredTask { store, container, name, key: self.opened.key().to_bytes().to_vec() }
    }
}

impl StoredTask {
    /// Opens the store again, in this process.
    pub(super) fn open(&self) -> Result<Opened> {
        let told = |e: hiber_store::Error| Error::file(&e.path, &e.why);
        let store = Store::open(&self.store).map_err(told)?;
        store.get((&self.container, &self.name), &[Key::from_bytes(&self.key)]).map_err(told)
    }
}

/// The filler of a file of pages in a directory of images.
pub(super) fn filler(from: &Opened, images: &ImageDirectory, file: &LazyFile) -> Result<Box<dyn Filler>> {
    let fail = |e: io::Error| Error::file(&images.path().join(&file.name), &e);
    let missing = || fail(io::Error::other("is not in the store"));
    let (number, size) = from.file(&file.name).ok_or_else(missing)?;
    let to = writable(images, &file.name).map_err(fail)?;
    let portions = (0..size.div_ceil(PORTION)).map(|_| Mutex::new(false)).collect();
    Ok(Box::new(Filling { from: from.clone(), cursors: Mutex::default(), number, size, to, portions }))
}

fn writable(images: &ImageDirectory, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(images, name, flags, Mode::empty())?))
}

#[derive(Debug)]
struct Filling {
    from: Opened,
    /// Those that nobody reads from just now.
    cursors: Mutex<Vec<Cursor>>,
    number: usize,
    size: u64,
    to: File,
    /// Whether each portion is there.
    portions: Vec<Mutex<bool>>,
}

impl Filling {
    fn portion(&self, start: u64) -> io::Result<()> {
        let lock = |cursors: &Mutex<Vec<Cursor>>| cursors.lock().map(|mut all| all.pop()).unwrap_or_default();
        let mut cursor = lock(&self.cursors).unwrap_or_else(|| self.from.cursor());
        let mut buffer = vec![0; usize::try_from(PORTION.min(self.size - start)).unwrap_or(0)];
        cursor.read_at(self.number, start, &mut buffer)?;
        self.to.write_all_at(&buffer, start)?;
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner).push(cursor);
        Ok(())
    }
}

impl Filler for Filling {
    fn fill(&self, offset: u64, length: u64) -> io::Result<()> {
        let (first, end) = (offset / PORTION, offset.saturating_add(length).min(self.size).div_ceil(PORTION));
        for number in first..end {
            let Some(portion) = usize::try_from(number).ok().and_then(|n| self.portions.get(n)) else {
                break;
            };
            let mut is_there = portion.lock().unwrap_or_else(PoisonError::into_inner);
            if !*is_there {
                self.portion(number * PORTION)?;
                *is_there = true;
            }
        }
        Ok(())
    }
}
