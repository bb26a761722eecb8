//! Owners of files. A file that another user than root or the caller owns or may write is not trusted. Files that are written
//! here belong to the caller alone, whatever its umask.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::error::{Error, Result};

/// The bits of a mode that let group and others write.
const OTHERS_WRITE: u32 = 0o022;
/// In a directory with this bit a name is its owner's to remove.
const STICKY: u32 = 0o1000;
/// Of a file that is the caller's alone.
pub(crate) const PRIVATE: Mode = Mode::from_raw_mode(0o600);
/// Of such a directory.
pub(crate) const PRIVATE_DIR: Mode = Mode::from_raw_mode(0o700);

/// The reason not to trust a file or directory.
fn objection(stat: &Stat) -> Option<String> {
    let (owner, mode) = (stat.st_uid, stat.st_mode & 0o7777);
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Some(format!("belongs to user {owner}: expected root or the caller"));
    }
    (mode & OTHERS_WRITE != 0).then(|| {
        format!("can be written by others than its owner: it has mode {mode:04o}, expected 0700 or 0755")
    })
}

/// Whether a file of this kind, which nobody links from elsewhere, is the caller's or root's alone.
pub(crate) fn is_trusted_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_nlink == 1
        && objection(stat).is_none()
}

fn stat_of(fd: impl AsFd, path: &Path) -> Result<Stat> {
    rustix::fs::fstat(fd).map_err(|e| Error::sys("fstat", path.display().to_string(), e))
}

/// Checks an open directory.
pub(crate) fn check_dir(dir: impl AsFd, path: &Path) -> Result<()> {
    match objection(&stat_of(dir, path)?) {
        None => Ok(()),
        Some(why) => Err(Error::File { path: path.into(), why }),
    }
}

/// Checks an open directory in which a file has its name. Others may add to it where they cannot remove what is not theirs.
pub(crate) fn check_place(dir: impl AsFd, path: &Path) -> Result<()> {
    let mut stat = stat_of(dir, path)?;
    if stat.st_mode & STICKY != 0 {
        stat.st_mode &= !OTHERS_WRITE;
    }
    objection(&stat).map_or(Ok(()), |why| Err(Error::File { path: path.into(), why }))
}

/// Checks an open file of somebody's, who may have it under several names.
pub(crate) fn check_owner(file: impl AsFd, path: &Path) -> Result<()> {
    let stat = stat_of(file, path)?;
    let why = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => objection(&stat),
        other => Some(format!("is no regular file but a {other:?}")),
    };
    why.map_or(Ok(()), |why| Err(Error::File { path: path.into(), why }))
}

/// Checks an open file.
pub(crate) fn check_file(file: impl AsFd, path: &Path) -> Result<()> {
    let stat = stat_of(file, path)?;
    if is_trusted_file(&stat) {
        return Ok(());
    }
    let why = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_nlink != 1 => {
            format!("has {} names: expected a file of the runtime's, which has one", stat.st_nlink)
        }
        FileType::RegularFile => objection(&stat).unwrap_or_default(),
        other => format!("is no regular file but a {other:?}"),
    };
    Err(Error::File { path: path.into(), why })
}

/// Writes a file that only its owner can read.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    create(path)?.write_all(bytes)
}

/// Replaces a file that only its owner can read; a reader sees the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    write(new.as_ref(), bytes)?;
    std::fs::rename(&new, path)
}

/// Removes a directory that has a mark in it. The mark goes last: half of the directory can be removed another time.
pub(crate) fn remove_marked(directory: &Path, mark: &str) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else if entry.file_name() != mark {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_dir_all(directory)
}

/// Opens a file of the caller's alone, which is empty then.
pub(crate) fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(PRIVATE.as_raw_mode());
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refused(path: &Path) -> String {
        let file = File::open(path).unwrap();
        check_file(&file, path).map_or_else(|e| e.to_string(), |()| String::new())
    }

    #[test]
    fn what_others_may_write_or_have_linked_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write(&path, b"x").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(refused(&path), "");
        for mode in [0o620, 0o602, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let message = refused(&path);
            assert!(message.contains(&format!("mode {mode:04o}")), "{message}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(refused(&path), "");
        std::fs::hard_link(&path, dir.path().join("g")).unwrap();
        assert!(refused(&path).contains("has 2 names"));
        assert!(refused(dir.path()).contains("no regular file"));
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(4711), None).unwrap();
            let message = check_dir(File::open(dir.path()).unwrap(), dir.path()).unwrap_err().to_string();
            assert!(message.contains("belongs to user 4711"), "{message}");
        }
        std::os::unix::fs::symlink("f", dir.path().join("l")).unwrap();
        assert!(write(&dir.path().join("l"), b"y").is_err(), "no link is followed");
    }
}
