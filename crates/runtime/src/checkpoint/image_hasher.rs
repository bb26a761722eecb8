//! Hashes memory and sends it to the disk while CRIU still writes it, because the tasks are frozen all that time.
//!
//! CRIU opens images of memory one after the other, empty, under names that count up, and only appends to them
//! (`open_pages_image_at` and `write_pages_loc`; deduplication punches its holes into those of the parent checkpoint). The
//! hasher may be behind, or may have missed a file. The rest of a file is read when the manifest is written; the whole file, if
//! it is not the one that was followed.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use hiber_criu::ImageDirectory;
use hiber_memory::images::{Image, Work};
use hiber_sys::writeback::begin_writeback;

/// The time between two looks at CRIU's files.
const PAUSE: Duration = Duration::from_millis(2);
/// The nice value (nice(2)) above that of CRIU.
const NICER: i32 = 10;
/// Bytes that are read at once: few enough to stay in the processor's cache.
const READ: usize = 256 << 10;
/// Bytes that are sent to the disk at once.
const WRITEBACK: u64 = 8 << 20;

/// A thread that follows the images of memory in a directory. Dropping this ends the thread.
pub(super) struct ImageHasher {
    /// Closed when nothing more will be written.
    going: Option<Sender<()>>,
    thread: Option<JoinHandle<Heads>>,
}

/// Hashes of the files' beginnings, taken before the manifest, by name.
#[derive(Default)]
pub(crate) struct Heads {
    begun: BTreeMap<String, Head>,
    /// Files of pages that this program has written: size and hash.
    whole: BTreeMap<String, (u64, blake3::Hash)>,
}

/// The beginning of a file: which file, and the hash of what was read of it.
struct Head {
    device: u64,
    inode: u64,
    hasher: blake3::Hasher,
}

/// The file that is read now.
struct Current {
    name: String,
    file: File,
    head: Head,
    /// Bytes that were there.
    seen: u64,
    /// Bytes that are on their way to the disk.
    sent: u64,
}

impl ImageHasher {
    /// Follows the images that will be in `dir`. Where there cannot be another thread, everything is left for later.
    pub(super) fn start(dir: ImageDirectory, work: Work) -> Self {
        let (going, stop) = mpsc::channel();
        let thread = std::thread::Builder::new().name("hiber-hash".into());
        let thread = thread.spawn(move || follow(&dir, work, &stop)).ok();
        Self { going: Some(going), thread }
    }

    /// The hashes, to be called when no more images will be written.
    pub(super) fn finish(mut self) -> Heads {
        self.stop()
    }

    fn stop(&mut self) -> Heads {
        self.going = None;
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for ImageHasher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Heads {
    /// Files that are whole, and hashed if their writer was told so.
    pub(super) fn add(&mut self, images: Vec<Image>) {
        let hashed = |image: Image| Some((image.name, (image.size, image.hash?)));
        self.whole.extend(images.into_iter().filter_map(hashed));
    }

    /// The hash of a file with this name and size, if all of it was hashed.
    pub(super) fn whole(&mut self, name: &str, size: u64) -> Option<blake3::Hash> {
        self.whole.remove(name).filter(|known| known.0 == size).map(|known| known.1)
    }

    /// A hasher that contains the part of `file` that was read, with the file positioned at the end of that part. A fresh hasher
    /// if nothing was read, if it was another file, or if the file has become shorter since.
    pub(super) fn of(&mut self, name: &str, file: &mut File) -> std::io::Result<blake3::Hasher> {
        let meta = file.metadata()?;
        match self.begun.remove(name).filter(|head| head.is_of(&meta)) {
            Some(head) => {
                file.seek(SeekFrom::Start(head.hasher.count()))?;
                Ok(head.hasher)
            }
            None => Ok(blake3::Hasher::new()),
        }
    }
}

impl Head {
    fn is_of(&self, file: &Metadata) -> bool {
        (self.device, self.inode) == (file.dev(), file.ino()) && self.hasher.count() <= file.len()
    }
}

impl Current {
    fn open(dir: &ImageDirectory, name: String) -> std::io::Result<Self> {
        let file = dir.file(&name)?;
        let meta = file.metadata()?;
        let head = Head { device: meta.dev(), inode: meta.ino(), hasher: blake3::Hasher::new() };
        Ok(Self { name, file, head, seen: 0, sent: 0 })
    }

    /// Reads once more; returns whether there was something new.
    fn go_on(&mut self, buffer: &mut [u8], work: Work) -> std::io::Result<bool> {
        let new = if work.hash {
            let read = self.file.read(buffer)?;
            self.head.hasher.update(&buffer[..read]);
            read as u64
        } else {
            self.file.metadata()?.len().saturating_sub(self.seen)
        };
        self.seen += new;
        let unsent = self.seen - self.sent;
        if work.sync && unsent >= WRITEBACK {
            // Where it cannot be begun early, it is done at the end.
            let _ = begin_writeback(self.file.as_fd(), self.sent, unsent);
            self.sent += unsent;
        }
        Ok(new > 0)
    }
}

fn follow(dir: &ImageDirectory, work: Work, stop: &Receiver<()>) -> Heads {
    // CRIU and the tasks call each other for each megabyte and must not wait for this processor. On Linux it is the thread
    // alone that gives way.
    let _ = rustix::process::nice(NICER);
    let (mut heads, mut buffer) = (Heads::default(), vec![0; READ]);
    let mut keep = |current: Option<Current>| {
        heads.begun.extend(current.map(|current| (current.name, current.head)));
    };
    let (mut current, mut number) = (None::<Current>, 1);
    while stop.try_recv() == Err(TryRecvError::Empty) {
        match current.as_mut().map(|current| current.go_on(&mut buffer, work)) {
            Some(Ok(true)) => continue,
            // The file is read again later, and an error is reported then.
            Some(Err(_)) => current = None,
            Some(Ok(false)) | None => {}
        }
        // A next one means that CRIU is done with this one.
        match Current::open(dir, format!("pages-{number}.img")) {
            Ok(next) => {
                keep(current.replace(next));
                number += 1;
            }
            Err(_) => {
                // Ends early when there is nothing more to wait for.
                let _ = stop.recv_timeout(PAUSE);
            }
        }
    }
    keep(current);
    heads
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::path::Path;

    const ALL: Work = Work { hash: true, sync: true };

    /// Waits until a hasher must have read everything.
    fn settle() {
        std::thread::sleep(PAUSE * 100);
    }

    /// The hash of a file, begun by a hasher, and how much of it the hasher had read.
    fn hash(heads: &mut Heads, path: &Path) -> (blake3::Hash, u64) {
        let mut file = File::open(path).unwrap();
        let mut hasher = heads.of(path.file_name().unwrap().to_str().unwrap(), &mut file).unwrap();
        let before = hasher.count();
        (hasher.update_reader(file).unwrap().finalize(), before)
    }

    #[test]
    fn files_are_read_while_they_grow() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [1, 2].map(|number| dir.path().join(format!("pages-{number}.img")));
        let hasher = ImageHasher::start(ImageDirectory::open(dir.path()).unwrap(), ALL);
        for path in &paths {
            let mut file = File::create(path).unwrap();
            for part in 0..20_u8 {
                file.write_all(&vec![part; 1_000_001]).unwrap();
            }
            settle();
            // The writer of the manifest does the rest.
            file.write_all(b"tail").unwrap();
        }
        let mut heads = hasher.finish();
        for path in &paths {
            let (found, before) = hash(&mut heads, path);
            assert_eq!(found, blake3::hash(&std::fs::read(path).unwrap()));
            assert!(before >= 20 * 1_000_001, "{before} bytes were read before the end");
        }
        assert!(heads.begun.is_empty());
    }

    #[test]
    fn what_is_not_the_file_that_was_followed_is_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages-1.img");
        let changes: [(&str, &dyn Fn()); 3] = [
            ("shorter", &|| File::options().write(true).open(&path).unwrap().set_len(7).unwrap()),
            ("written anew", &|| std::fs::write(&path, "other").unwrap()),
            ("another", &|| {
                let new = dir.path().join("new");
                std::fs::write(&new, "something longer than before").unwrap();
                std::fs::rename(&new, &path).unwrap();
            }),
        ];
        for (what, change) in changes {
            std::fs::write(&path, "content of it").unwrap();
            let hasher = ImageHasher::start(ImageDirectory::open(dir.path()).unwrap(), ALL);
            settle();
            change();
            let (found, before) = hash(&mut hasher.finish(), &path);
            assert_eq!((found, before), (blake3::hash(&std::fs::read(&path).unwrap()), 0), "{what}");
        }
    }

    #[test]
    fn it_ends_unasked() {
        let dir = tempfile::tempdir().unwrap();
        drop(ImageHasher::start(ImageDirectory::open(dir.path()).unwrap(), ALL));
        let mut heads = ImageHasher::start(ImageDirectory::open(dir.path()).unwrap(), ALL).finish();
        std::fs::write(dir.path().join("x"), "x").unwrap();
        assert_eq!(hash(&mut heads, &dir.path().join("x")), (blake3::hash(b"x"), 0));
    }
}
