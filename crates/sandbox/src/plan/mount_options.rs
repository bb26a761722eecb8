//! The options of mounts and their effects.

use nix::mount::MsFlags;

use hiber_sys::mount::MS_NOSYMFOLLOW;

/// The effect of one mount option.
#[derive(Clone, Copy)]
pub(super) enum Effect {
    /// Sets flags of mount(2), and the matching attributes of a bind mount.
    Set(MsFlags),
    /// Clears flags, and the matching attributes of a bind mount.
    Clear(MsFlags),
    /// Attributes of a mount and everything below.
    SetRecursive(u64),
    ClearRecursive(u64),
    Propagation(MsFlags, bool),
    Bind(bool),
    CopyUp,
    IdMap(bool),
    Nothing,
}

pub(super) const ATIME_MASK: u64 = libc::MOUNT_ATTR__ATIME;
/// The attributes that are on or off.
pub(super) const SWITCHES: u64 = libc::MOUNT_ATTR_RDONLY
    | libc::MOUNT_ATTR_NOSUID
    | libc::MOUNT_ATTR_NODEV
    | libc::MOUNT_ATTR_NOEXEC
    | libc::MOUNT_ATTR_NOSYMFOLLOW;

/// The options that are not passed on to the filesystem (mount(8), runtime-spec "Linux mount options"), and their effects.
#[rustfmt::skip]
const EFFECTS: &[(&str, Effect)] = {
    use Effect::{Bind, Clear, ClearRecursive, CopyUp, IdMap, Nothing, Propagation, Set, SetRecursive};
    &[
        ("defaults", Nothing),
        ("ro", Set(MsFlags::MS_RDONLY)),
        ("rw", Clear(MsFlags::MS_RDONLY)),
        ("nosuid", Set(MsFlags::MS_NOSUID)),
        ("suid", Clear(MsFlags::MS_NOSUID)),
        ("nodev", Set(MsFlags::MS_NODEV)),
        ("dev", Clear(MsFlags::MS_NODEV)),
        ("noexec", Set(MsFlags::MS_NOEXEC)),
        ("exec", Clear(MsFlags::MS_NOEXEC)),
        ("noatime", Set(MsFlags::MS_NOATIME)),
        ("atime", Clear(MsFlags::MS_NOATIME)),
        ("nodiratime", Set(MsFlags::MS_NODIRATIME)),
        ("diratime", Clear(MsFlags::MS_NODIRATIME)),
        ("relatime", Set(MsFlags::MS_RELATIME)),
        ("norelatime", Clear(MsFlags::MS_RELATIME)),
        ("strictatime", Set(MsFlags::MS_STRICTATIME)),
        ("nostrictatime", Clear(MsFlags::MS_STRICTATIME)),
        ("nosymfollow", Set(MS_NOSYMFOLLOW)),
        ("symfollow", Clear(MS_NOSYMFOLLOW)),
        ("sync", Set(MsFlags::MS_SYNCHRONOUS)),
        ("async", Clear(MsFlags::MS_SYNCHRONOUS)),
        ("dirsync", Set(MsFlags::MS_DIRSYNC)),
        ("mand", Set(MsFlags::MS_MANDLOCK)),
        ("nomand", Clear(MsFlags::MS_MANDLOCK)),
        ("silent", Set(MsFlags::MS_SILENT)),
        ("loud", Clear(MsFlags::MS_SILENT)),
        ("lazytime", Set(MsFlags::MS_LAZYTIME)),
        ("nolazytime", Clear(MsFlags::MS_LAZYTIME)),
        ("iversion", Set(MsFlags::MS_I_VERSION)),
        ("noiversion", Clear(MsFlags::MS_I_VERSION)),
        ("remount", Set(MsFlags::MS_REMOUNT)),
        ("rro", SetRecursive(libc::MOUNT_ATTR_RDONLY)),
        ("rrw", ClearRecursive(libc::MOUNT_ATTR_RDONLY)),
        ("rnosuid", SetRecursive(libc::MOUNT_ATTR_NOSUID)),
        ("rsuid", ClearRecursive(libc::MOUNT_ATTR_NOSUID)),
        ("rnodev", SetRecursive(libc::MOUNT_ATTR_NODEV)),
        ("rdev", ClearRecursive(libc::MOUNT_ATTR_NODEV)),
        ("rnoexec", SetRecursive(libc::MOUNT_ATTR_NOEXEC)),
        ("rexec", ClearRecursive(libc::MOUNT_ATTR_NOEXEC)),
        ("rnodiratime", SetRecursive(libc::MOUNT_ATTR_NODIRATIME)),
        ("rdiratime", ClearRecursive(libc::MOUNT_ATTR_NODIRATIME)),
        ("rrelatime", ClearRecursive(ATIME_MASK)),
        ("rnorelatime", ClearRecursive(ATIME_MASK)),
        ("rnostrictatime", ClearRecursive(ATIME_MASK)),
        ("ratime", ClearRecursive(ATIME_MASK)),
        ("rnoatime", SetRecursive(libc::MOUNT_ATTR_NOATIME)),
        ("rstrictatime", SetRecursive(libc::MOUNT_ATTR_STRICTATIME)),
        ("rnosymfollow", SetRecursive(libc::MOUNT_ATTR_NOSYMFOLLOW)),
        ("rsymfollow", ClearRecursive(libc::MOUNT_ATTR_NOSYMFOLLOW)),
        ("bind", Bind(false)),
        ("rbind", Bind(true)),
        ("private", Propagation(MsFlags::MS_PRIVATE, false)),
        ("rprivate", Propagation(MsFlags::MS_PRIVATE, true)),
        ("shared", Propagation(MsFlags::MS_SHARED, false)),
        ("rshared", Propagation(MsFlags::MS_SHARED, true)),
        ("slave", Propagation(MsFlags::MS_SLAVE, false)),
        ("rslave", Propagation(MsFlags::MS_SLAVE, true)),
        ("unbindable", Propagation(MsFlags::MS_UNBINDABLE, false)),
        ("runbindable", Propagation(MsFlags::MS_UNBINDABLE, true)),
        ("tmpcopyup", CopyUp),
        ("idmap", IdMap(false)),
        ("ridmap", IdMap(true)),
        ("acl", Nothing),
        ("noacl", Nothing),
    ]
};

/// The effect of an option; `None` if the option is the filesystem's.
pub(super) fn effect(option: &str) -> Option<Effect> {
    EFFECTS.iter().find(|(name, _)| *name == option).map(|(_, effect)| *effect)
}

/// Every option of the table above, for `features`.
pub const MOUNT_OPTIONS: &[&str] = &[
    "acl",
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noacl",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_for_features_is_the_table() {
        for option in MOUNT_OPTIONS {
            assert!(effect(option).is_some(), "{option}");
        }
        assert!(MOUNT_OPTIONS.is_sorted());
    }
}
