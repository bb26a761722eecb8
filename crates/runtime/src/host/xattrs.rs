//! Extended attributes of files (xattr(7)) that belong to the files' content.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::XattrFlags;

/// An extended attribute's name and value.
pub(crate) type Xattr = (OsString, Vec<u8>);

/// The longest value and list of names (limits.h).
const MAX_XATTR: usize = 64 << 10;
/// Those that the file system or a policy makes are left to it, as labels of SELinux are.
const KEPT: [&str; 4] = ["user.", "trusted.", "security.capability", "system.posix_acl_"];

/// The extended attributes of a file, not of what it links to.
pub(crate) fn of(path: &Path) -> std::io::Result<Vec<Xattr>> {
    let mut names = [0u8; 4096];
    // Most have none, and there is no need to ask how many that is.
    let names = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => names[..length].to_vec(),
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        Err(rustix::io::Errno::RANGE) => {
            let mut names = vec![0; MAX_XATTR];
            let length = rustix::fs::llistxattr(path, &mut names[..])?;
            names.truncate(length);
            names
        }
        Err(e) => return Err(e.into()),
    };
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let names = names.map(|name| OsString::from_vec(name.to_vec()));
    let kept = names.filter(|name| is_kept(name));
    kept.filter_map(|name| {
        let mut value = vec![0; MAX_XATTR];
        match rustix::fs::lgetxattr(path, &*name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                Some(Ok((name, value)))
            }
            // It was removed meanwhile.
            Err(rustix::io::Errno::NODATA) => None,
            Err(e) => Some(Err(e.into())),
        }
    })
    .collect()
}

fn is_kept(name: &std::ffi::OsStr) -> bool {
    KEPT.iter().any(|kept| name.as_encoded_bytes().starts_with(kept.as_bytes()))
}

/// Sets them, of a file that nobody else knows of.
pub(crate) fn set(path: &Path, xattrs: &[Xattr]) -> std::io::Result<()> {
    for (name, value) in xattrs.iter().filter(|(name, _)| is_kept(name)) {
        rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).map_err(|e| {
            std::io::Error::other(format!("set {} of {}: {e}", name.display(), path.display()))
        })?;
    }
    Ok(())
}

/// As [`set`], and removes all others that belong to the content.
pub(crate) fn replace(path: &Path, xattrs: &[Xattr]) -> std::io::Result<()> {
    for (name, _) in of(path)?.iter().filter(|(name, _)| xattrs.iter().all(|(kept, _)| kept != name)) {
        rustix::fs::lremovexattr(path, name)?;
    }
    set(path, xattrs)
}
