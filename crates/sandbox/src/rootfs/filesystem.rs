//! New filesystems: by mount(2) on a descriptor, or on a mount of their own that is nowhere yet.
//!
//! mount(2) needs one call but returns no descriptor of the mount. A caller that needs the descriptor must open the mount by its
//! path, where somebody else may have mounted something meanwhile. fsopen(2) and its companions need several calls and return the
//! descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::mount::MsFlags;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::resolve::fd_path;
use crate::{Error, Result, SysError};
use hiber_sys::mount::attributes;

/// A filesystem to be mounted: the arguments of mount(2).
pub(super) struct New<'a> {
    pub(super) fstype: &'a str,
    pub(super) source: &'a str,
    pub(super) flags: u64,
    pub(super) data: &'a str,
}

impl New<'_> {
    /// Whether [`detached`](Self::detached) can mount this type. Others have options that only they can parse (overlay), have an
    /// option in their name (fuse.sshfs), or support mount(2) alone.
    pub(super) fn can_be_detached(fstype: &str) -> bool {
        matches!(fstype, "proc" | "sysfs" | "tmpfs" | "tracefs")
    }

    /// Mounts it on the open file or directory `target`.
    pub(super) fn on(&self, target: impl AsFd) -> Result<()> {
        nix::mount::mount(
            Some(self.source),
            &fd_path(target.as_fd()),
            Some(self.fstype),
            MsFlags::from_bits_retain(self.flags),
            Some(self.data).filter(|d| !d.is_empty()),
        )
        .map_err(|e| {
            let Self { fstype, source, flags, data } = self;
            let options = if data.is_empty() { String::new() } else { format!(", data {data:?}") };
            let what = format!("{fstype} from {source:?} (flags {flags:#x}{options})");
            self.explain(SysError::new("mount", what, e as i32))
        })
    }

    /// Makes a detached mount, which move_mount(2) can attach.
    pub(super) fn detached(&self) -> Result<OwnedFd> {
        let fstype = self.fstype;
        let failed = |call: &str, what: &str, e: Errno| {
            self.explain(SysError::new(call, format!("{fstype}{what}"), e.raw_os_error()))
        };
        let context = rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|e| failed("fsopen", "", e))?;
        let told =
            |call: &str, what: &str, e: Errno| failed(call, &format!("{what}{}", said(context.as_fd())), e);
        let set = |key: &str, value: Option<&str>| {
            match value {
                Some(value) => rustix::mount::fsconfig_set_string(context.as_fd(), key, value),
                None => rustix::mount::fsconfig_set_flag(context.as_fd(), key),
            }
            .map_err(|e| told("fsconfig", &format!(" {key}={}", value.unwrap_or_default()), e))
        };
        set("source", Some(self.source))?;
        for (_, name) in SUPERBLOCK.iter().filter(|(flag, _)| self.flags & flag.bits() != 0) {
            set(name, None)?;
        }
        for option in options(self.data) {
            match option.split_once('=') {
                Some((key, value)) => set(key, Some(value.trim_matches('"')))?,
                None => set(option, None)?,
            }
        }
        rustix::mount::fsconfig_create(context.as_fd()).map_err(|e| told("fsconfig", "", e))?;
        let attributes = MountAttrFlags::from_bits_retain(attributes(self.flags) as u32);
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|e| told("fsmount", "", e))
    }

    fn explain(&self, error: SysError) -> Error {
        match needs(self.fstype).filter(|_| error.errno == libc::EPERM) {
            Some(what) => Error::While { what: what.into(), source: Box::new(error.into()) },
            None => error.into(),
        }
    }
}

/// Explains EPERM for a filesystem that shows a namespace: the user namespace must own that namespace.
fn needs(fstype: &str) -> Option<&'static str> {
    Some(match fstype {
        "sysfs" => "a new sysfs takes a network namespace of the container's own",
        "mqueue" => "a new mqueue takes an ipc namespace of the container's own",
        "proc" => {
            "a new procfs takes a pid namespace of the container's own, and one without masks around it"
        }
        _ => return None,
    })
}

/// Flags of mount(2) for the filesystem (not the mount), by their names for fsconfig(2).
const SUPERBLOCK: [(MsFlags, &str); 5] = [
    (MsFlags::MS_RDONLY, "ro"),
    (MsFlags::MS_SYNCHRONOUS, "sync"),
    (MsFlags::MS_DIRSYNC, "dirsync"),
    (MsFlags::MS_LAZYTIME, "lazytime"),
    (MsFlags::MS_MANDLOCK, "mand"),
];

/// Splits mount data into options at commas, apart from commas within quotes (SELinux contexts) and commas before a digit (the
/// nodes of tmpfs's `mpol`).
fn options(data: &str) -> Vec<&str> {
    let bytes = data.as_bytes();
    let (mut options, mut start, mut quoted) = (Vec::new(), 0, false);
    for (at, byte) in bytes.iter().enumerate() {
        quoted ^= *byte == b'"';
        if *byte == b',' && !quoted && !bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
            options.push(&data[start..at]);
            start = at + 1;
        }
    }
    options.push(&data[start..]);
    options.retain(|option| !option.is_empty());
    options
}

/// The kernel's messages about the filesystem's configuration. Each read(2) returns one message with its severity.
fn said(context: BorrowedFd<'_>) -> String {
    let mut text = String::new();
    let mut line = [0; 1024];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        let message = String::from_utf8_lossy(&line[..length]);
        let message = message.trim_end();
        text = format!("{text}: {}", message.split_once(' ').map_or(message, |(_, message)| message));
    }
    text
}

/// Adds an SELinux context to mount data.
pub(super) fn with_label(data: &str, label: Option<&str>) -> String {
    match label {
        None => data.to_owned(),
        Some(label) if data.is_empty() => format!("context=\"{label}\""),
        Some(label) => format!("{data},context=\"{label}\""),
    }
}

/// Filesystems whose files take the mount's context; proc, sysfs and mqueue have their own.
pub(super) fn takes_label(fstype: &str) -> bool {
    !matches!(fstype, "proc" | "sysfs" | "mqueue")
}

/// A directory's bits as an option of a tmpfs.
pub(super) fn mode_of(dir: impl AsFd) -> Result<String> {
    let stat = rustix::fs::fstat(dir).map_err(|e| SysError::new("fstat", "the target", e.raw_os_error()))?;
    Ok(format!("mode={:o}", Mode::from_raw_mode(stat.st_mode).bits() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parted_as_the_kernel_does() {
        let data = "mode=755,size=1m,mpol=bind:0,2,noswap,,context=\"a:b:s0:c1,c2\",huge=never";
        let expected =
            ["mode=755", "size=1m", "mpol=bind:0,2", "noswap", "context=\"a:b:s0:c1,c2\"", "huge=never"];
        assert_eq!(options(data), expected);
        assert!(options("").is_empty());
    }
}
