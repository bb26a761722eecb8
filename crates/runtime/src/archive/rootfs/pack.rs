//! Changes become `rootfs-diff.tar` and `deleted.files`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use hiber_criu::ImageDirectory;
use rustix::fs::FileType;
use tar::{Builder, EntryType, Header};

use super::compare::{Changes, look};
use super::layers::open_file;
use crate::archive::layout::{DELETED, DIFF};
use crate::error::{Error, Result};
use crate::host::xattrs;

/// Extended attributes in tar, as GNU tar and Go write them.
pub(super) const XATTR: &str = "SCHILY.xattr.";

/// Whether an extended attribute means the same in another file system; those of overlays would lead elsewhere there.
pub(super) fn is_portable(name: &str) -> bool {
    !name.starts_with("trusted.overlay.") && !name.starts_with("user.overlay.")
}

/// Writes the files that are there into an archive of that name.
pub(super) fn write_present(changes: &Changes, to: &ImageDirectory, archive: &str) -> Result<()> {
    let fail = |e: &io::Error| Error::file(&to.path().join(archive), e);
    let file = to.create(archive).map_err(|e| fail(&e))?;
    let mut pack = Pack { builder: Builder::new(io::BufWriter::new(file)), names: HashMap::new() };
    for path in &changes.present {
        pack.add(changes, path).map_err(|e| Error::host(format!("{:?}", Path::new("/").join(path)), e))?;
    }
    let file = pack.builder.into_inner().map_err(|e| fail(&e))?;
    file.into_inner().map_err(|e| fail(e.error()))?;
    Ok(())
}

pub(super) fn write(changes: &Changes, to: &ImageDirectory) -> Result<()> {
    write_present(changes, to, DIFF)?;
    let gone: Vec<_> = changes.gone.iter().map(|path| Path::new("/").join(path)).collect();
    let names = gone.iter().map(|path| {
        path.to_str().ok_or_else(|| {
            let why =
                format!("{path:?} was removed, whose name is no UTF-8: {DELETED} is JSON and cannot have it");
            Error::Invalid(why)
        })
    });
    let names = names.collect::<Result<Vec<_>>>()?;
    let json = serde_json::to_vec(&names).map_err(|e| Error::internal("encode deleted.files", e))?;
    Ok(to.write(DELETED, &json)?)
}

struct Pack {
    builder: Builder<io::BufWriter<File>>,
    /// The first names of files that have several.
    names: HashMap<(u64, u64), PathBuf>,
}

impl Pack {
    fn add(&mut self, changes: &Changes, path: &Path) -> io::Result<()> {
        let (directory, stat) = look(&changes.root, path)?;
        let Some(name) = path.file_name() else { return Ok(()) };
        let named = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        let mut header = Header::new_gnu();
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(stat.st_uid.into());
        header.set_gid(stat.st_gid.into());
        header.set_mtime(stat.st_mtime.max(0).cast_unsigned());
        header.set_size(0);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.names.get(&(stat.st_dev, stat.st_ino)) {
                header.set_entry_type(EntryType::Link);
                return self.builder.append_link(&mut header, path, first);
            }
            self.names.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        self.extend(&named, (stat.st_mtime, stat.st_mtime_nsec as u32))?;
        match kind {
            FileType::RegularFile => {
                let file = open_file(&directory, name)?;
                let size = stat.st_size.cast_unsigned();
                header.set_entry_type(EntryType::Regular);
                header.set_size(size);
                // One that has become shorter meanwhile ends in zeros.
                self.builder.append_data(&mut header, path, file.chain(io::repeat(0)).take(size))
            }
            FileType::Directory => {
                header.set_entry_type(EntryType::Directory);
                self.builder.append_data(&mut header, path, io::empty())
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&directory, name, Vec::new())?;
                header.set_entry_type(EntryType::Symlink);
                let target = std::ffi::OsString::from_vec(target.into_bytes());
                self.builder.append_link(&mut header, path, target)
            }
            FileType::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                self.builder.append_data(&mut header, path, io::empty())
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let block = kind == FileType::BlockDevice;
                header.set_entry_type(if block { EntryType::Block } else { EntryType::Char });
                header.set_device_major(rustix::fs::major(stat.st_rdev))?;
                header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
                self.builder.append_data(&mut header, path, io::empty())
            }
            // Tar has no sockets; CRIU makes those that are bound anew.
            _ => Ok(()),
        }
    }

    /// Adds what a header has no place for.
    fn extend(&mut self, named: &Path, (seconds, nanoseconds): (i64, u32)) -> io::Result<()> {
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        if nanoseconds != 0 || seconds < 0 {
            records.push(("mtime".to_owned(), format!("{seconds}.{nanoseconds:09}").into_bytes()));
        }
        for (name, value) in xattrs::of(named)? {
            if let Some(name) = std::str::from_utf8(name.as_bytes()).ok().filter(|name| is_portable(name)) {
                records.push((format!("{XATTR}{name}"), value));
            }
        }
        let records = records.iter().map(|(key, value)| (&**key, &**value));
        if records.len() == 0 { Ok(()) } else { self.builder.append_pax_extensions(records) }
    }
}
