//! The attributes of a bind mount, from its options.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::lookup::MountId;
use super::resolve::Root;
use crate::error::Context;
use crate::inside::inside;
use crate::plan::{MountPlan, NamespaceKind};
use crate::{Result, SysError};
use hiber_sys::mount::{MountAttributes, Reach, mount_setattr};

const ATIMES: u64 = libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_NODIRATIME;
/// The attributes that a user namespace may not remove, by their names in mountinfo and mount(2).
const LOCKED: [(&str, u64, &str); 4] = [
    ("ro", libc::MOUNT_ATTR_RDONLY, "MS_RDONLY"),
    ("nosuid", libc::MOUNT_ATTR_NOSUID, "MS_NOSUID"),
    ("nodev", libc::MOUNT_ATTR_NODEV, "MS_NODEV"),
    ("noexec", libc::MOUNT_ATTR_NOEXEC, "MS_NOEXEC"),
];

/// Sets the attributes of `tree`, a copy of the mount at `source`.
///
/// A container in a user namespace must not remove restrictions of the host's mount. The kernel prevents this if the source was
/// opened inside the namespace. If the source was opened outside and handed in (`handed_in`), this function does.
pub(crate) fn set(tree: &OwnedFd, step: &MountPlan, source: &Path, handed_in: bool) -> Result<()> {
    let (own, recursive) = (step.attributes, step.recursive);
    if handed_in && !(own.is_empty() && recursive.is_empty()) {
        let all = present(source, !recursive.is_empty())?;
        let own = keeping(own, step.cleared, all.first().copied().unwrap_or_default())?;
        change(tree, own, Reach::One)?;
        for present in all {
            keeping(recursive, recursive.clear, present)?;
        }
    } else {
        match change(tree, own, Reach::One) {
            // The kernel does not tell which attributes are locked.
            Err(e) if e.errno == libc::EPERM => {
                let present = present(source, false)?.first().copied().unwrap_or_default();
                change(tree, keeping(own, step.cleared, present)?, Reach::One)?;
            }
            done => done?,
        }
    }
    Ok(change(tree, recursive, Reach::Tree)?)
}

/// Sets `nosymfollow` on the mounts at `points` of process `pid`, which has a mount namespace of its own.
///
/// # Errors
/// There is no mount at a point, or Linux is older than 5.14.
pub fn set_nosymfollow(pid: i32, points: &[PathBuf]) -> Result<()> {
    let set = || -> Result<()> {
        let root = Root::open_path(Path::new("/"))?;
        let attributes = MountAttributes { set: libc::MOUNT_ATTR_NOSYMFOLLOW, ..Default::default() };
        points.iter().try_for_each(|point| {
            let done = root.open(point, OFlags::PATH);
            let done = done.and_then(|mount| mount_setattr(mount.as_fd(), attributes, Reach::One));
            done.context(format!("have no symbolic links followed in {}", point.display()))
        })
    };
    inside(pid, &[NamespaceKind::Mount], set)?
}

fn change(tree: &OwnedFd, attributes: MountAttributes, reach: Reach) -> Result<(), SysError> {
    if attributes.is_empty() {
        return Ok(());
    }
    match mount_setattr(tree.as_fd(), attributes, reach) {
        // Linux 5.14 added this attribute.
        Err(e) if e.errno == libc::EINVAL && attributes.clear & libc::MOUNT_ATTR_NOSYMFOLLOW != 0 => {
            let clear = attributes.clear & !libc::MOUNT_ATTR_NOSYMFOLLOW;
            mount_setattr(tree.as_fd(), MountAttributes { clear, ..attributes }, reach)
        }
        done => done,
    }
}

/// `wanted` without the locked attributes. If an option names a locked attribute (`named`), or sets other access times, that is
/// an error.
fn keeping(wanted: MountAttributes, named: u64, present: u64) -> Result<MountAttributes> {
    let locked = LOCKED.iter().filter(|(_, bit, _)| wanted.clear & present & bit != 0);
    let refused = |what: &str| {
        Err(SysError::new("mount_setattr", format!("cannot {what}, in a user namespace"), libc::EPERM).into())
    };
    let names: Vec<_> =
        locked.clone().filter(|(_, bit, _)| named & bit != 0).map(|(.., name)| *name).collect();
    if !names.is_empty() {
        return refused(&format!("clear locked flags {}", names.join("|")));
    }
    if wanted.clear & libc::MOUNT_ATTR__ATIME != 0 && wanted.set & ATIMES != present & ATIMES {
        return refused("change locked atime flags");
    }
    let kept: u64 = locked.map(|(_, bit, _)| bit).sum();
    Ok(MountAttributes {
        set: (wanted.set & !ATIMES) | kept,
        clear: wanted.clear & !ATIMES & !kept,
        propagation: 0,
    })
}

/// The attributes of the mount that `source` lies on and, if wanted, of the mounts below `source`.
fn present(source: &Path, below: bool) -> Result<Vec<u64>> {
    const TABLE: &str = "/proc/thread-self/mountinfo";
    let id = MountId::at(rustix::fs::CWD, source)?.id.to_string();
    let table = std::fs::read_to_string(TABLE).map_err(|e| SysError::io("read", TABLE, &e))?;
    #[expect(clippy::disallowed_methods, reason = "sources are paths of the host")]
    let real =
        std::fs::canonicalize(source).map_err(|e| SysError::io("realpath", source.to_string_lossy(), &e))?;
    let mut found = Vec::new();
    for line in table.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let &[own, _, _, _, point, options, ..] = fields.as_slice() else { continue };
        if own == id {
            found.insert(0, parse(options));
        } else if below && Path::new(point).starts_with(&real) {
            found.push(parse(options));
        }
    }
    Ok(found)
}

/// The mount's own options in mountinfo.
fn parse(options: &str) -> u64 {
    let has = |name: &str| options.split(',').any(|option| option == name);
    let switches: u64 = LOCKED.iter().filter(|(name, ..)| has(name)).map(|(_, bit, _)| bit).sum();
    let directories = if has("nodiratime") { libc::MOUNT_ATTR_NODIRATIME } else { 0 };
    let atime = match (has("noatime"), has("relatime")) {
        (true, _) => libc::MOUNT_ATTR_NOATIME,
        (false, true) => libc::MOUNT_ATTR_RELATIME,
        (false, false) => libc::MOUNT_ATTR_STRICTATIME,
    };
    switches | directories | atime
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_locked_is_kept_or_refused() {
        let present = parse("ro,nosuid,noatime,nodiratime");
        let all = LOCKED.iter().map(|(_, bit, _)| bit).sum::<u64>();
        let wanted = |set: u64| MountAttributes { set, clear: all & !set, propagation: 0 };
        let kept = keeping(wanted(libc::MOUNT_ATTR_NODEV), 0, present).unwrap();
        assert_eq!(kept.set, libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID);
        assert_eq!(kept.clear, libc::MOUNT_ATTR_NOEXEC);
        let error = |wanted, named| keeping(wanted, named, present).unwrap_err().to_string();
        assert!(error(wanted(0), libc::MOUNT_ATTR_RDONLY).contains("clear locked flags MS_RDONLY,"));
        let strict = MountAttributes { set: libc::MOUNT_ATTR_STRICTATIME, clear: ATIMES, propagation: 0 };
        assert!(error(strict, 0).contains("locked atime flags"));
        let same = libc::MOUNT_ATTR_NOATIME | libc::MOUNT_ATTR_NODIRATIME;
        let same = MountAttributes { set: same, clear: libc::MOUNT_ATTR__ATIME, propagation: 0 };
        assert!(keeping(same, 0, present).unwrap().is_empty());
    }
}
