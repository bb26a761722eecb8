//! Where an archive is written: a file that gets its name when all is on the disk, or a stream.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::{Errno, ioctl_fionread};

use super::oci::{Image, OciImage};
use crate::checkpoint::staging::To;
use crate::error::{Context, Error, Result};
use crate::helpers::unfinished::{self, Identity};
use crate::host::paths::open_dir;

/// How long one waits between two looks whether a pipe is empty, in nanoseconds.
const PAUSE: i64 = 5_000_000;

/// The place of an archive.
#[derive(Debug)]
pub enum Place {
    /// A file, which appears under its name when it is complete. One that is there is replaced; what is no file is written to.
    File(PathBuf),
    /// A stream, as standard output.
    Stream(OwnedFd),
    /// An image in an OCI image layout, of which the archive is the layer.
    Oci(OciImage),
}

/// An archive that is written, and is none yet.
pub(super) enum Output {
    Plain(Plain),
    Image(Box<Image>),
}

/// A file or a stream.
pub(super) struct Plain {
    file: File,
    /// For messages, and what a file is to be called.
    path: PathBuf,
    /// Its name until then.
    hidden: Option<PathBuf>,
}

impl Output {
    /// Opens it: what cannot be written is told before the container is stopped.
    pub(super) fn open(place: &Place) -> Result<Self> {
        match place {
            Place::Stream(fd) => {
                let file = fd.try_clone().map_err(|e| Error::host("write the archive", e))?;
                Ok(Self::Plain(Plain { file: file.into(), path: "standard output".into(), hidden: None }))
            }
            Place::File(path) => Plain::at(path).map(Self::Plain).context("make the archive"),
            Place::Oci(to) => Image::begin(to).map(Box::new).map(Self::Image).context("make the archive"),
        }
    }

    /// The name for messages.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Plain(plain) => &plain.path,
            Self::Image(image) => image.path(),
        }
    }

    /// The image, if it is to be one.
    pub(super) fn image(&self) -> Option<&Image> {
        match self {
            Self::Plain(_) => None,
            Self::Image(image) => Some(image),
        }
    }

    /// Where it will be, and what it is until then.
    pub(super) fn to(&self) -> Result<To> {
        match self {
            Self::Plain(plain) => {
                let (path, unfinished) = (plain.path.clone(), plain.unfinished()?);
                Ok(To::Archive { path, unfinished, beside: Vec::new() })
            }
            Self::Image(image) => {
                let (index, identity, path, beside) = image.unfinished()?;
                Ok(To::Archive { path, unfinished: Some((index, identity)), beside })
            }
        }
    }

    /// Makes it an archive, when the disk has it if it is to wait for that; of a pipe, waits until the reader has all.
    pub(super) fn publish(&mut self, sync: bool) -> Result<()> {
        match self {
            Self::Plain(plain) => plain.publish(sync),
            Self::Image(image) => image.publish(sync),
        }
    }
}

impl Plain {
    #[expect(clippy::disallowed_methods, reason = "a path of the caller's, and no container's")]
    fn at(path: &Path) -> Result<Self> {
        let fail = |e: io::Error| Error::file(path, &e);
        let path = match std::fs::canonicalize(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => std::path::absolute(path).map_err(fail)?,
            found => found.map_err(fail)?,
        };
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                return Err(Error::File { path, why: "is a directory; expected a file".into() });
            }
            Ok(meta) if meta.file_type().is_socket() => {
                return Err(Error::File { path, why: "is a socket; expected a file".into() });
            }
            Ok(meta) if !meta.is_file() => {
                let file = File::options().write(true).open(&path).map_err(|e| Error::file(&path, &e))?;
                return Ok(Self { file, path, hidden: None });
            }
            _ => {}
        }
        if let Some(parent) = path.parent() {
            unfinished::sweep(parent);
        }
        let (hidden, file) = unfinished::make_file(&path).map_err(|e| Error::file(&path, &e))?;
        Ok(Self { file, path, hidden: Some(hidden) })
    }

    /// The file under its present name, and its identity.
    fn unfinished(&self) -> Result<Option<(PathBuf, Identity)>> {
        let Some(hidden) = &self.hidden else { return Ok(None) };
        let meta = self.file.metadata().map_err(|e| Error::file(&self.path, &e))?;
        Ok(Some((hidden.clone(), (meta.dev(), meta.ino()))))
    }

    /// Gives a complete file its name, when the disk has it if it is to wait for that; of a pipe, waits until the reader has all.
    fn publish(&mut self, sync: bool) -> Result<()> {
        let fail = |e: io::Error| Error::file(&self.path, &e);
        let stat = rustix::fs::fstat(&self.file).map_err(|e| fail(e.into()))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Fifo {
            return drained(&self.file).map_err(fail);
        }
        if sync && kind == FileType::RegularFile {
            self.file.sync_all().map_err(fail)?;
        }
        let Some(hidden) = &self.hidden else { return Ok(()) };
        std::fs::rename(hidden, &self.path).map_err(fail)?;
        self.hidden = None;
        match self.path.parent().filter(|_| sync) {
            Some(parent) => rustix::fs::fsync(&open_dir(parent)?).map_err(|e| Error::file(parent, &e.into())),
            None => Ok(()),
        }
    }
}

impl Write for &Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Plain(plain) => (&plain.file).write(bytes),
            Output::Image(image) => (&**image).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.hidden.iter().for_each(|hidden| unfinished::remove(hidden));
    }
}

/// Waits until nothing is in a pipe any more.
///
/// # Errors
/// Its reader went away before.
fn drained(pipe: impl AsFd) -> io::Result<()> {
    let pause = Timespec { tv_sec: 0, tv_nsec: PAUSE };
    loop {
        if ioctl_fionread(&pipe)? == 0 {
            return Ok(());
        }
        let mut found = [PollFd::new(&pipe, PollFlags::empty())];
        match poll(&mut found, Some(&pause)) {
            Ok(_) if found[0].revents().contains(PollFlags::ERR) => return Err(Errno::PIPE.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        // Nothing else ends the wait early.
        std::thread::sleep(std::time::Duration::from_nanos(PAUSE.cast_unsigned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_when_it_is_published_and_else_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let place = Place::File(path.clone());
        let output = Output::open(&place).unwrap();
        (&output).write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(output);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

        std::fs::write(&path, "old").unwrap();
        let mut output = Output::open(&place).unwrap();
        (&output).write_all(b"whole").unwrap();
        let To::Archive { unfinished: Some((_, identity)), .. } = output.to().unwrap() else { panic!() };
        output.publish(true).unwrap();
        drop(output);
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(unfinished::identity(&path), Some(identity));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            |path: &Path| crate::error::chain(&Output::open(&Place::File(path.into())).err().unwrap());
        assert!(error(dir.path()).ends_with("is a directory; expected a file"));
        assert!(error(&dir.path().join("none/a.tar")).contains("no such file or directory"));
    }

    #[test]
    fn a_reader_that_leaves_something_is_told() {
        let (from, to) = rustix::pipe::pipe().unwrap();
        let write = || {
            let mut output = Output::open(&Place::Stream(to.try_clone().unwrap())).unwrap();
            (&output).write_all(b"all").unwrap();
            output.publish(true)
        };
        let reader = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            rustix::io::read(&from, &mut [0; 3]).unwrap();
            from
        });
        write().unwrap();
        let from = reader.join().unwrap();
        let closed = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            drop(from);
        });
        let error = write().unwrap_err().to_string();
        closed.join().unwrap();
        assert_eq!(error, "standard output: broken pipe");
    }
}
