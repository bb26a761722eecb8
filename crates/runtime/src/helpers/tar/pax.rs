//! The records that describe a file in a tar archive in addition to its header: POSIX's pax format, `LENGTH KEY=VALUE\n`, with
//! the extended attributes under the names that star and GNU tar give them.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::Timespec;
use tar::{Builder, EntryType, Header};

use crate::host::xattrs::Xattr;

const XATTR: &[u8] = b"SCHILY.xattr.";
/// The arguments by which GNU tar keeps the same ones as `host/xattrs.rs`.
pub(super) const OPTIONS: [&str; 5] = [
    "--xattrs",
    "--xattrs-include=user.*",
    "--xattrs-include=trusted.*",
    "--xattrs-include=security.capability",
    "--xattrs-include=system.posix_acl_*",
];

/// The records for the next entry.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<PathBuf>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) mtime: Option<Timespec>,
    pub(super) atime: Option<Timespec>,
    pub(super) xattrs: Vec<Xattr>,
}

impl Records {
    /// None if they are malformed, or say what is not known here.
    pub(super) fn parse(mut rest: &[u8]) -> Option<Self> {
        let mut records = Self::default();
        while !rest.is_empty() {
            let blank = rest.iter().position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&rest[..blank]).ok()?.parse().ok()?;
            let (record, after) = rest.split_at_checked(length)?;
            rest = after;
            let (key, value) = split(record.get(blank + 1..)?.strip_suffix(b"\n")?)?;
            match key {
                b"path" => records.path = Some(PathBuf::from(OsString::from_vec(value.to_vec()))),
                b"linkpath" => records.target = Some(value.to_vec()),
                b"mtime" => records.mtime = Some(time(value)?),
                b"atime" => records.atime = Some(time(value)?),
                b"ctime" => {}
                _ => records
                    .xattrs
                    .push((OsString::from_vec(key.strip_prefix(XATTR)?.to_vec()), value.to_vec())),
            }
        }
        Some(records)
    }
}

fn split(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..at], &record[at + 1..]))
}

/// `SECONDS.FRACTION`, of a time since 1970.
fn time(value: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9}").parse().ok()?;
    Some(Timespec { tv_sec: seconds.parse().ok()?, tv_nsec: nanoseconds })
}

/// Writes what a header has no place for.
pub(super) fn append(
    archive: &mut Builder<impl Write>,
    mtime: Timespec,
    atime: Timespec,
    xattrs: &[Xattr],
) -> std::io::Result<()> {
    let mut content = Vec::new();
    for (key, time) in [("mtime", mtime), ("atime", atime)] {
        if key == "mtime" && time.tv_nsec == 0 {
            continue;
        }
        record(&mut content, key.as_bytes(), format!("{}.{:09}", time.tv_sec, time.tv_nsec).as_bytes());
    }
    for (name, value) in xattrs {
        record(&mut content, &[XATTR, name.as_encoded_bytes()].concat(), value);
    }
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_path("PaxHeaders/file")?;
    header.set_cksum();
    archive.append(&header, &*content)
}

/// The length counts its own digits.
fn record(content: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length += 1;
    }
    content.extend(format!("{length} ").bytes());
    content.extend([key, b"=", value, b"\n"].concat());
}
