//! The content of tmpfs mounts, packed and unpacked in tar's place.
//!
//! CRIU runs `tar`, which runs `gzip`, for each tmpfs of a container: 5 ms apiece with the tasks frozen, and most hold
//! a few device nodes or nothing. So CRIU finds this program under the name `tar`. It writes and reads the same
//! archives as long as they are small and simple; else it becomes the real tar, before it has changed anything. Either way
//! the archive has extended attributes and parts of seconds, which CRIU does not ask for; a tar that does not ask for them
//! either, as with other runtimes, restores the rest.

mod pax;

use std::ffi::{OsStr, OsString};
use std::io::{Cursor, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use ::tar::{Archive, Builder, EntryType, Header};
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use hiber_sandbox::ids;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps};

use pax::Records;

use super::stand_in;
use crate::host::xattrs::{self, Xattr};

/// The name that CRIU calls.
pub(crate) const NAME: &str = "tar";
/// Beyond these the real tar does it: entries, bytes of one file, bytes of an archive.
const MAX_ENTRIES: usize = 256;
const MAX_FILE: u64 = 64 << 10;
const MAX_ARCHIVE: u64 = 4 << 20;
/// Up to so many bytes an archive is not compressed.
const MAX_STORED: u16 = 32 << 10;

/// Acts as tar, with these arguments.
pub(crate) fn run(args: &[OsString]) -> ! {
    match try_run(args) {
        Ok(true) => std::process::exit(0),
        Ok(false) => {}
        // Nobody listens but CRIU's log.
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "hiber as tar: {e}");
            std::process::exit(2);
        }
    }
    stand_in::become_real(NAME, |command| {
        // The options of CRIU's are GNU tar's already.
        if args.first().is_some_and(|first| first == "--create") {
            command.args(["--create", "--format=posix", "--atime-preserve=system"]).args(pax::OPTIONS);
        } else {
            command.args(args.first()).args(pax::OPTIONS);
        }
        command.args(args.iter().skip(1));
    })
}

/// Does what CRIU's command lines (tmpfs_dump and tmpfs_restore in its filesystems.c) ask for; false if they ask for
/// something else or the content is not simple.
fn try_run(args: &[OsString]) -> std::io::Result<bool> {
    let words: Vec<&str> = args.iter().map_while(|arg| arg.to_str()).collect();
    if let ["--create", "--gzip", .., "--directory", "/proc/self/fd/0", "."] = words[..] {
        let Ok(Some(archive)) = pack(rustix::stdio::stdin()) else { return Ok(false) };
        std::io::stdout().write_all(&archive)?;
        return Ok(true);
    }
    if let ["--extract", "--gzip", .., "--directory", directory] = words[..] {
        let mut file = std::fs::File::from(rustix::io::dup(rustix::stdio::stdin())?);
        let Ok(Some(items)) = read(&mut file) else {
            file.rewind()?;
            return Ok(false);
        };
        return unpack(Path::new(directory), &items).map(|()| true);
    }
    Ok(false)
}

/// The description of one file in an archive.
#[derive(Debug)]
struct Item {
    /// Relative, without dots; empty for the directory itself.
    path: PathBuf,
    kind: EntryType,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timespec,
    atime: Timespec,
    xattrs: Vec<Xattr>,
    device: (u32, u32),
    /// A file's bytes or a link's target.
    content: Vec<u8>,
}

/// The archive of a directory, compressed; `None` if the real tar should make it.
fn pack(directory: impl AsFd) -> std::io::Result<Option<Vec<u8>>> {
    let root = rustix::fs::openat(&directory, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let device = rustix::fs::fstat(&root)?.st_dev;
    let mut items = Vec::new();
    if !collect(&root, OsStr::new("."), &PathBuf::new(), device, &mut items)? {
        return Ok(None);
    }
    let mut archive = Builder::new(Vec::new());
    for item in &items {
        append(&mut archive, item)?;
    }
    compress(&archive.into_inner()?).map(Some)
}

/// A gzip file with these bytes. A few are stored as they are: a compressor's tables cost more than the archive itself, while the
/// tasks are frozen.
fn compress(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let Some(length) = u16::try_from(bytes.len()).ok().filter(|length| *length <= MAX_STORED) else {
        let mut compressed = GzEncoder::new(Vec::new(), Compression::fast());
        compressed.write_all(bytes)?;
        return compressed.finish();
    };
    let mut checksum = Crc::new();
    checksum.update(bytes);
    // RFC 1952: the method is deflate, the time and the system are unknown. RFC 1951: one block, the last, not compressed.
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    file.extend(length.to_le_bytes().into_iter().chain((!length).to_le_bytes()));
    file.extend(bytes);
    file.extend(checksum.sum().to_le_bytes().into_iter().chain(u32::from(length).to_le_bytes()));
    Ok(file)
}

/// Lists `name` in `parent` and what is below it; false if something there is not simple.
fn collect(
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
    device: u64,
    items: &mut Vec<Item>,
) -> std::io::Result<bool> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => EntryType::Directory,
        FileType::Symlink => EntryType::Symlink,
        FileType::CharacterDevice => EntryType::Char,
        FileType::BlockDevice => EntryType::Block,
        FileType::Fifo => EntryType::Fifo,
        // tar leaves them out; CRIU makes them anew.
        FileType::Socket => return Ok(true),
        FileType::RegularFile => EntryType::Regular,
        FileType::Unknown => return Ok(false),
    };
    let sparse = stat.st_blocks * 512 < stat.st_size;
    let hard_linked = kind != EntryType::Directory && stat.st_nlink > 1;
    let large = kind == EntryType::Regular && (stat.st_size as u64 > MAX_FILE || sparse);
    if hard_linked || large || items.len() >= MAX_ENTRIES || stat.st_mtime.min(stat.st_atime) < 0 {
        return Ok(false);
    }
    let open = |flags| rustix::fs::openat(parent, name, flags | OFlags::CLOEXEC, Mode::empty());
    let content = match kind {
        EntryType::Symlink => rustix::fs::readlinkat(parent, name, Vec::new())?.into_bytes(),
        EntryType::Regular => {
            let mut content = Vec::new();
            let quietly = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME;
            // The container runs on, or is the original of a copy: its times are not ours to change.
            let file = match open(quietly) {
                Err(rustix::io::Errno::PERM) => open(quietly - OFlags::NOATIME),
                file => file,
            };
            std::fs::File::from(file?).take(MAX_FILE + 1).read_to_end(&mut content)?;
            content
        }
        _ => Vec::new(),
    };
    let named = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
    items.push(Item {
        path: path.to_owned(),
        xattrs: xattrs::of(&named)?,
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
        atime: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
        device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        content,
    });
    // --one-file-system: a mount point is kept, not what is mounted there
    if kind != EntryType::Directory || stat.st_dev != device {
        return Ok(true);
    }
    let directory = open(OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let dots = name == "." || name == "..";
        if !dots && !collect(&directory, name, &path.join(name), device, items)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn append(archive: &mut Builder<impl Write>, item: &Item) -> std::io::Result<()> {
    pax::append(archive, item.mtime, item.atime, &item.xattrs)?;
    let mut header = Header::new_gnu();
    header.set_entry_type(item.kind);
    header.set_mode(item.mode);
    header.set_uid(item.uid.into());
    header.set_gid(item.gid.into());
    header.set_mtime(item.mtime.tv_sec.max(0) as u64);
    header.set_device_major(item.device.0)?;
    header.set_device_minor(item.device.1)?;
    header.set_size(0);
    match item.kind {
        EntryType::Symlink => {
            let target = PathBuf::from(OsString::from_vec(item.content.clone()));
            archive.append_link(&mut header, &item.path, target)
        }
        // The library refuses this name, which tar gives to the directory itself.
        _ if item.path.as_os_str().is_empty() => {
            header.as_old_mut().name[..2].copy_from_slice(b"./");
            header.set_cksum();
            archive.append(&header, std::io::empty())
        }
        _ => {
            header.set_size(item.content.len() as u64);
            archive.append_data(&mut header, &item.path, item.content.as_slice())
        }
    }
}

/// The entries of a compressed archive; `None` if the real tar should read it.
fn read(file: &mut impl Read) -> std::io::Result<Option<Vec<Item>>> {
    let mut bytes = Vec::new();
    GzDecoder::new(file).take(MAX_ARCHIVE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_ARCHIVE {
        return Ok(None);
    }
    let mut archive = Archive::new(Cursor::new(bytes));
    let mut items: Vec<Item> = Vec::new();
    let mut records = Records::default();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let kind = match entry.header().entry_type() {
            EntryType::Continuous => EntryType::Regular,
            kind => kind,
        };
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        // The records before the entry that they describe.
        match kind {
            EntryType::XHeader => {
                let Some(parsed) = Records::parse(&content) else { return Ok(None) };
                records = parsed;
            }
            EntryType::GNULongName => records.path = Some(PathBuf::from(OsString::from_vec(text(content)))),
            EntryType::GNULongLink => records.target = Some(text(content)),
            _ => {
                let described = std::mem::take(&mut records);
                let Some(item) = item(&entry, kind, content, described)?.filter(|item| fits(item, &items))
                else {
                    return Ok(None);
                };
                items.push(item);
            }
        }
    }
    Ok(Some(items))
}

/// The bytes before the first NUL.
fn text(mut content: Vec<u8>) -> Vec<u8> {
    content.truncate(content.iter().position(|byte| *byte == 0).unwrap_or(content.len()));
    content
}

/// Whether an entry can follow `items`: its directory is among these.
fn fits(item: &Item, items: &[Item]) -> bool {
    let in_known_directory = item.path.parent().is_none_or(|parent| {
        parent.as_os_str().is_empty()
            || items.iter().any(|i| i.kind == EntryType::Directory && i.path == parent)
    });
    in_known_directory && items.len() < MAX_ENTRIES && !item.path.is_absolute()
}

/// The file that an entry of an archive and the records before it describe; `None` if it is not simple.
fn item(
    entry: &tar::Entry<'_, impl Read>,
    kind: EntryType,
    mut content: Vec<u8>,
    Records { path, target, mtime, atime, xattrs }: Records,
) -> std::io::Result<Option<Item>> {
    let simple = matches!(
        kind,
        EntryType::Regular
            | EntryType::Directory
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo
    );
    if !simple {
        return Ok(None);
    }
    let path = path.map_or_else(|| entry.path().map(std::borrow::Cow::into_owned), Ok)?;
    let path = path.strip_prefix(".").unwrap_or(&path).to_owned();
    let header = entry.header();
    if kind == EntryType::Symlink {
        content = target.or(header.link_name_bytes().map(Vec::from)).unwrap_or_default();
    }
    let (Ok(uid), Ok(gid)) = (u32::try_from(header.uid()?), u32::try_from(header.gid()?)) else {
        return Ok(None);
    };
    if uid.max(gid) > ids::MAX {
        return Err(std::io::Error::other(format!("{}: {uid}:{gid} is no owner", path.display())));
    }
    let device = match kind {
        EntryType::Char | EntryType::Block => {
            let (major, minor) = (header.device_major()?, header.device_minor()?);
            (major.unwrap_or_default(), minor.unwrap_or_default())
        }
        _ => (0, 0),
    };
    let seconds = Timespec { tv_sec: header.mtime()? as i64, tv_nsec: 0 };
    let mtime = mtime.unwrap_or(seconds);
    let (mode, atime) = (header.mode()? & 0o7777, atime.unwrap_or(mtime));
    Ok(Some(Item { path, kind, mode, uid, gid, mtime, atime, xattrs, device, content }))
}

/// Makes the files in the directory at `root`, where none of them is yet. Each is in a directory that came before it.
fn unpack(root: &Path, items: &[Item]) -> std::io::Result<()> {
    let directory = &rustix::fs::open(root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for item in items.iter().filter(|item| !item.path.as_os_str().is_empty()) {
        make_file(directory, item)?;
    }
    // Directories last to first: what was made in them has changed their times.
    for item in items.iter().rev() {
        let path = if item.path.as_os_str().is_empty() { Path::new(".") } else { &item.path };
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let (uid, gid) = (ids::uid(item.uid)?, ids::gid(item.gid)?);
        rustix::fs::chownat(directory, path, Some(uid), Some(gid), nofollow)?;
        if item.kind != EntryType::Symlink {
            // After chown, which takes the set-user-id bits away.
            rustix::fs::chmodat(directory, path, Mode::from_raw_mode(item.mode), AtFlags::empty())?;
        }
        // After chown, which takes the capabilities away, and chmod, which changes access control lists.
        xattrs::set(&root.join(path), &item.xattrs)?;
        let times = Timestamps { last_access: item.atime, last_modification: item.mtime };
        rustix::fs::utimensat(directory, path, &times, nofollow)?;
    }
    Ok(())
}

fn make_file(directory: &OwnedFd, item: &Item) -> std::io::Result<()> {
    let (path, mode) = (item.path.as_path(), Mode::from_raw_mode(item.mode));
    let node = |kind, device| rustix::fs::mknodat(directory, path, kind, mode, device);
    let device = rustix::fs::makedev(item.device.0, item.device.1);
    match item.kind {
        EntryType::Directory => rustix::fs::mkdirat(directory, path, Mode::RWXU)?,
        EntryType::Symlink => rustix::fs::symlinkat(OsStr::from_bytes(&item.content), directory, path)?,
        EntryType::Char => node(FileType::CharacterDevice, device)?,
        EntryType::Block => node(FileType::BlockDevice, device)?,
        EntryType::Fifo => node(FileType::Fifo, 0)?,
        _ => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = rustix::fs::openat(directory, path, flags, Mode::RUSR | Mode::WUSR)?;
            std::fs::File::from(file).write_all(&item.content)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
