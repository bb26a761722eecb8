//! Mounts as images have them, and their options.

use std::path::{Component, Path, PathBuf};

use criu_proto::images::mnt::MntEntry;
use criu_proto::images::mnt::mnt_entry::FsType;
use hiber_criu::Images;
use hiber_criu::images::Magic;

use crate::error::Result;

/// All flags that a mount has in images: those of one mount, of its file system, and of its propagation. Commands like
/// MS_REMOUNT and MS_REC are not among them.
const KNOWN: u32 = 0x03bf_8ddf;
/// MS_REC, which CRIU says of debugfs.
const REC: u32 = 0x4000;
/// A mount of the images; paths are absolute and clean.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) id: u32,
    pub(super) parent: u32,
    pub(super) point: PathBuf,
    pub(super) fstype: FsType,
    pub(super) device: u32,
    pub(super) root: PathBuf,
    pub(super) flags: u32,
    pub(super) options: String,
    pub(super) key: Option<String>,
    /// The numbers of its peer group, and of the group whose slave it is; 0 for none.
    pub(super) groups: (u32, u32),
    /// Whether it would be in the host's group of those that share what is mounted below.
    pub(super) shared_outside: bool,
}

/// The mounts of a namespace.
pub(super) fn read(images: &Images, id: u32) -> Result<std::result::Result<Vec<Mount>, String>> {
    let name = format!("mountpoints-{id}.img");
    let mut mounts = Vec::new();
    for entry in images.entries::<MntEntry>(&name, Magic::MNTS)? {
        match mount(&entry?) {
            Ok(mount) => mounts.push(mount),
            Err(problem) => return Ok(Err(format!("{problem} ({name})"))),
        }
    }
    Ok(Ok(mounts))
}

fn mount(entry: &MntEntry) -> std::result::Result<Mount, String> {
    let given = entry.mountpoint.as_deref().unwrap_or_default();
    let point = clean(given).ok_or_else(|| format!("mounts at {given:?}, which is no plain path"))?;
    let bad = |what: &str| Err(format!("has a mount at {} {what}", point.display()));
    // Older ways to say "from outside", and what only plugins and removed directories need.
    if entry.ext_mount == Some(true) || entry.with_plugin == Some(true) || entry.deleted == Some(true) {
        return bad(
            "that is external, a plugin's or of a removed directory, in a way that no dump here writes",
        );
    }
    let (flags, Some(sb_flags)) = (entry.flags.unwrap_or(0), entry.sb_flags) else {
        return bad("without flags of its file system");
    };
    let Some(Ok(fstype)) = entry.fstype.map(|t| t.enum_value()) else {
        return bad("of an unknown type");
    };
    // Mounts that the kernel makes by itself below this one come along.
    let flags = if fstype == FsType::DEBUGFS { flags & !REC } else { flags };
    if (flags | sb_flags) & !KNOWN != 0 {
        return bad(&format!("with the flags {flags:#x} and {sb_flags:#x}"));
    }
    let root = entry.root.as_deref().unwrap_or_default();
    let Some(root) = clean(root) else { return bad(&format!("of {root:?}, which is no plain path")) };
    let key = entry.ext_key.clone().filter(|key| !key.is_empty());
    let shared = entry.shared_id.unwrap_or(0) != 0 && entry.internal_sharing != Some(true);
    Ok(Mount {
        id: entry.mnt_id.unwrap_or(0),
        parent: entry.parent_mnt_id.unwrap_or(0),
        shared_outside: shared && entry.master_id.unwrap_or(0) == 0 && key.is_some(),
        groups: (entry.shared_id.unwrap_or(0), entry.master_id.unwrap_or(0)),
        point,
        fstype,
        device: entry.root_dev.unwrap_or(0),
        root,
        flags,
        options: entry.options.clone().unwrap_or_default(),
        key,
    })
}

/// An absolute path; CRIU notes those of mount points below its own root, "." or none before the first slash.
fn clean(path: &str) -> Option<PathBuf> {
    let path = Path::new(path.strip_prefix('.').filter(|rest| rest.starts_with('/')).unwrap_or(path));
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::RootDir => {}
            Component::CurDir | Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

/// The options of a new file system that keep processes from something.
pub(super) fn confining(fstype: &str, data: &str) -> Vec<String> {
    let options = data.split(',').filter(|option| {
        let name = option.split_once('=').map_or(*option, |(name, _)| name);
        match (fstype, name) {
            ("proc", "hidepid" | "subset") => !option.ends_with("=0") && !option.ends_with("=off"),
            ("tmpfs", "size") => bytes(option).is_some(),
            ("overlay", "lowerdir" | "upperdir" | "workdir") => true,
            _ => false,
        }
    });
    options.map(str::to_owned).collect()
}

/// Whether an option of the images is what config.json's says, or less.
pub(super) fn at_most(has: &str, wanted: &str) -> bool {
    let (Some((name, value)), Some((wanted_name, wanted_value))) =
        (has.split_once('='), wanted.split_once('='))
    else {
        return has == wanted;
    };
    if name != wanted_name {
        return false;
    }
    match name {
        "size" => bytes(has) <= bytes(wanted),
        // The kernel shows names for the numbers.
        "hidepid" => value != "off" && value != "0",
        _ => value == wanted_value,
    }
}

/// `size=64k` as a number; none for a share of the memory.
fn bytes(option: &str) -> Option<u64> {
    let value = option.strip_prefix("size=")?;
    let (number, shift) = match value.as_bytes().last()? {
        b'k' | b'K' => (&value[..value.len() - 1], 10),
        b'm' | b'M' => (&value[..value.len() - 1], 20),
        b'g' | b'G' => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_plain() {
        for (given, is) in
            [("./", "/"), ("./proc/sys", "/proc/sys"), ("/", "/"), ("/a//b", "/a/b"), ("", "/")]
        {
            assert_eq!(clean(given), Some(PathBuf::from(is)), "{given}");
        }
        for bad in ["../etc", "./../etc", "/a/../b", "..", "./a/.."] {
            assert_eq!(clean(bad), None, "{bad}");
        }
    }

    #[test]
    fn options_may_confine_more() {
        for (has, wanted, good) in [
            ("size=64k", "size=65536", true),
            ("size=64k", "size=64m", true),
            ("size=65m", "size=64m", false),
            ("hidepid=invisible", "hidepid=2", true),
            ("hidepid=off", "hidepid=2", false),
            ("subset=pid", "subset=pid", true),
            ("lowerdir=/b", "lowerdir=/a", false),
        ] {
            assert_eq!(at_most(has, wanted), good, "{has} for {wanted}");
        }
        assert_eq!(confining("tmpfs", "size=50%,mode=755"), [""; 0]);
        assert_eq!(confining("proc", "hidepid=2,gid=3"), ["hidepid=2"]);
    }
}
