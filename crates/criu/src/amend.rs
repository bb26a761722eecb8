//! Changes of images: what CRIU has written of a container that a restore elsewhere, or CRIU's own, could not take.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use criu_proto::Message;
use criu_proto::images::cgroup::{CgroupDirEntry, CgroupEntry};
use criu_proto::images::core::{CoreEntry, TaskKobjIdsEntry};
use criu_proto::images::files::FileEntry;
use criu_proto::images::inventory::InventoryEntry;
use criu_proto::images::mnt::MntEntry;

use crate::directory::ImageDirectory;
#[cfg(doc)]
use crate::error::CriuError;
use crate::error::Result;
use crate::image_file::{ImageFile, encode};
use crate::images::{COMMON, ChangedFiles, INVENTORY, INVENTORY_FILE, Images, Magic};

/// The values by which a cgroup stops its tasks, and what lets them run: of cgroup v1 and of v2.
const FREEZERS: [(&str, &str); 2] = [("freezer.state", "THAWED"), ("cgroup.freeze", "0")];
/// The image of open files; IPPROTO_TCP (in.h), and TCP_CLOSE (tcp_states.h), which CRIU writes.
const FILES: &str = "files.img";
const TCP: u32 = 6;
const CLOSED: u32 = 7;
/// How deep cgroups of an image may be nested: a path of the kernel's has no more names.
const MAX_DEPTH: usize = 2048;

/// Says in the images of a dump whose CRIU ran in the tasks' network namespace that it was in another: a restore then makes
/// an empty one for them. Unchanged, such images have the tasks restored into the network of whoever restores them.
///
/// # Errors
/// [`CriuError::Image`] if the inventory is missing or malformed, [`CriuError::Io`] if it cannot be written.
pub fn separate_network(dir: &ImageDirectory) -> Result<()> {
    let mut file = ImageFile::open(dir, INVENTORY_FILE)?;
    file.expect_magic(INVENTORY, "a CRIU inventory")?;
    let mut inventory: InventoryEntry = file.only()?;
    let Some(ids) = inventory.root_ids.as_mut() else {
        return Err(file.bad("does not name CRIU's namespaces"));
    };
    // CRIU counts namespaces from 1.
    ids.net_ns_id = Some(u32::MAX);
    write(dir, INVENTORY_FILE, &[INVENTORY], &[inventory])
}

/// Leaves out the peers of TCP connections that have ended, as of those that were refused. CRIU saves these as sockets without a
/// connection, but its restore takes any socket with a peer for a connection, and refuses it without `--tcp-established`.
///
/// # Errors
/// [`CriuError::Image`] if an image is malformed, [`CriuError::Io`] if it cannot be read or written.
pub fn forget_peers(dir: &ImageDirectory) -> Result<()> {
    let images = Images::in_directory(dir)?;
    let mut files: Vec<FileEntry> = images.entries(FILES, Magic::FILES)?.collect::<Result<_>>()?;
    let mut found = false;
    for socket in files.iter_mut().filter_map(|file| file.isk.as_mut()) {
        if socket.proto() == TCP && socket.state() == CLOSED && socket.dst_port() != 0 {
            found = true;
            socket.dst_port = Some(0);
            socket.dst_addr.fill(0);
        }
    }
    if !found {
        return Ok(());
    }
    let bytes = images.encode(FILES, Magic::FILES, &files)?;
    dir.write(FILES, &bytes)
}

/// The namespaces and cgroups that a restore's CRIU shares with its tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shared {
    /// The namespace of System V IPC.
    pub ipc: bool,
    /// The namespace of the host name.
    pub uts: bool,
    /// The set of cgroups ([`InheritedCgroups::set`](crate::InheritedCgroups::set)).
    pub cgroups: Option<u32>,
}

/// The name and content of the images' inventory that has its CRIU where a restore's will be: CRIU then leaves the namespaces as it
/// finds them, and moves no task into cgroups in which the tasks are born. The kernel would wait for each such move. `None` if the
/// images say so already.
///
/// # Errors
/// [`CriuError::Image`] if an image is missing or malformed.
pub fn shared_inventory(images: &Images, shared: Shared) -> Result<Option<(String, Vec<u8>)>> {
    let mut inventory = images.inventory().clone();
    if shared.ipc || shared.uts {
        let first = images.tasks()?.first().map(|task| task.pid).unwrap_or_default();
        if let (Some(root), Some(theirs)) = (inventory.root_ids.as_mut(), ids(images, first)?) {
            if shared.ipc {
                root.ipc_ns_id = theirs.ipc_ns_id;
            }
            if shared.uts {
                root.uts_ns_id = theirs.uts_ns_id;
            }
        }
    }
    inventory.root_cg_set = shared.cgroups.or(inventory.root_cg_set);
    if inventory == *images.inventory() {
        return Ok(None);
    }
    let changed = encode(&images.dir().join(INVENTORY_FILE), &[INVENTORY], &[inventory])?;
    Ok(Some((INVENTORY_FILE.into(), changed)))
}

/// The numbers of a task's namespaces and of its descriptors, which are in a file of their own, or in its core.
pub(crate) fn ids(images: &Images, pid: u32) -> Result<Option<TaskKobjIdsEntry>> {
    if let Some(entries) = images.entries_if_any::<TaskKobjIdsEntry>(&format!("ids-{pid}.img"), Magic::IDS)? {
        return entries.into_iter().next().transpose();
    }
    let mut core = images.entries::<CoreEntry>(&format!("core-{pid}.img"), Magic::CORE)?;
    Ok(core.next().transpose()?.and_then(|core| core.ids.into_option()))
}

/// Says of mounts from outside whose source had been removed that they are like others: a restore takes what is at the
/// source's path then. CRIU would make an empty one there, and fails where there is one.
///
/// # Errors
/// [`CriuError::Image`] if an image is malformed, [`CriuError::Io`] if it cannot be written.
pub fn revive_external_mounts(dir: &ImageDirectory) -> Result<()> {
    let (mut removed, mut files) = (Vec::new(), Vec::new());
    let names = dir.names()?;
    for name in names.iter().filter(|name| name.starts_with("mountpoints-") && name.ends_with(".img")) {
        let mounts: Vec<MntEntry> = all(dir, name, Magic::MNTS)?;
        let is_gone = |mount: &&MntEntry| mount.ext_key.is_some() && mount.deleted == Some(true);
        removed.extend(mounts.iter().filter(is_gone).map(|m| (m.root_dev, m.root.clone())));
        files.push((name, mounts));
    }
    for (name, mut mounts) in files {
        for mount in &mut mounts {
            // A copy of such a mount in another mount namespace is bound from it.
            if mount.deleted == Some(true) && removed.contains(&(mount.root_dev, mount.root.clone())) {
                mount.deleted = None;
            }
        }
        write(dir, name, &[COMMON, Magic::MNTS.0], &mounts)?;
    }
    Ok(())
}

/// Says of file systems that write synchronously that they do: CRIU notes them by a flag (MS_SYNC of msync(2)) that mount(2)
/// takes for a mount without devices.
///
/// # Errors
/// [`CriuError::Image`] if an image is malformed, [`CriuError::Io`] if it cannot be written.
pub fn settle_synchronous_mounts(dir: &ImageDirectory) -> Result<()> {
    const MS_SYNC: u32 = 4;
    const MS_SYNCHRONOUS: u32 = 16;
    let names = dir.names()?;
    for name in names.iter().filter(|name| name.starts_with("mountpoints-") && name.ends_with(".img")) {
        let mut mounts: Vec<MntEntry> = all(dir, name, Magic::MNTS)?;
        for flags in mounts.iter_mut().filter_map(|mount| mount.sb_flags.as_mut()) {
            // No file system has that flag: what a mount keeps from processes is told of the mount.
            if *flags & MS_SYNC != 0 {
                *flags = *flags & !MS_SYNC | MS_SYNCHRONOUS;
            }
        }
        write(dir, name, &[COMMON, Magic::MNTS.0], &mounts)?;
    }
    Ok(())
}

/// The images that CRIU reads instead of those of mounts, where mounts get events from outside the container: each gets them
/// from the peer group in which its source is now. `group_of` returns that group's number, of a source with this key (`/`:
/// the root); without one the mount gets no events. CRIU takes the peer group from the source, and fails if the source has none,
/// or if mounts that had one group at the dump have sources in several now.
///
/// Empty if CRIU can take the images as they are.
///
/// # Errors
/// [`CriuError::Image`] if an image is malformed, and those of `group_of`.
pub fn with_outer_groups<E: From<crate::error::CriuError>>(
    dir: &ImageDirectory,
    mut group_of: impl FnMut(&str) -> std::result::Result<Option<u32>, E>,
) -> std::result::Result<ChangedFiles, E> {
    let names = dir.names()?;
    let names = names.iter().filter(|name| name.starts_with("mountpoints-") && name.ends_with(".img"));
    let mut files =
        names.map(|name| Ok((name, all::<MntEntry>(dir, name, Magic::MNTS)?))).collect::<Result<Vec<_>>>()?;
    let mounts = || files.iter().flat_map(|(_, mounts)| mounts);
    let inner: HashSet<u32> = mounts().filter_map(|mount| mount.shared_id).collect();
    let outer = |mount: &MntEntry| mount.master_id.filter(|id| *id != 0 && !inner.contains(id));
    // Numbers that no group of the images has.
    let mut next = inner.iter().copied().max().unwrap_or(0);
    let (mut numbers, mut sources) = (HashMap::new(), Vec::new());
    for mount in mounts() {
        let (Some(before), Some(key)) = (outer(mount), key(mount)) else { continue };
        let now = group_of(key)?.map_or(0, |group| {
            *numbers.entry(group).or_insert_with(|| {
                next = next.saturating_add(1);
                next
            })
        });
        sources.push(Outer {
            key: key.to_owned(),
            device: mount.root_dev(),
            root: mount.root().into(),
            before,
            now,
        });
    }
    if is_one_to_one(&sources) {
        return Ok(ChangedFiles::new());
    }
    let mut changed = ChangedFiles::new();
    for (name, mounts) in &mut files {
        if !mounts.iter().any(|mount| outer(mount).is_some()) {
            continue;
        }
        for mount in mounts.iter_mut() {
            if let Some(before) = outer(mount) {
                mount.master_id = Some(
                    sources.iter().filter_map(|s| s.fits(mount, before)).max().map_or(0, |(_, now)| now),
                );
            }
        }
        changed.push((
            name.to_string(),
            encode(&dir.path().join(name.as_str()), &[COMMON, Magic::MNTS.0], mounts)?,
        ));
    }
    Ok(changed)
}

/// The key under which a restore supplies the source of a mount.
fn key(mount: &MntEntry) -> Option<&str> {
    let is_root = matches!(mount.mountpoint(), "/" | "./");
    mount.ext_key.as_deref().filter(|key| !key.is_empty()).or(is_root.then_some("/"))
}

/// A mount from outside that is in a peer group outside, by number at the dump and now, or in none now (0).
struct Outer {
    key: String,
    device: u32,
    root: PathBuf,
    before: u32,
    now: u32,
}

impl Outer {
    /// How well this explains the group of another mount, and the group's number now: the mount itself best, else the smallest part
    /// of the file system that the container's own bind can be of.
    fn fits(&self, mount: &MntEntry, before: u32) -> Option<(usize, u32)> {
        if before != self.before {
            return None;
        }
        if key(mount) == Some(&self.key) {
            return Some((usize::MAX, self.now));
        }
        let is_part = mount.root_dev() == self.device && Path::new(mount.root()).starts_with(&self.root);
        is_part.then(|| (self.root.components().count(), self.now))
    }
}

/// Whether each group has one number now, and each number one group.
fn is_one_to_one(sources: &[Outer]) -> bool {
    let pairs: HashSet<_> = sources.iter().map(|source| (source.before, source.now)).collect();
    let [before, now]: [HashSet<_>; 2] =
        [pairs.iter().map(|pair| pair.0).collect(), pairs.iter().map(|pair| pair.1).collect()];
    !now.contains(&0) && [before.len(), now.len()] == [pairs.len(); 2]
}

/// Leaves out of cgroup.img what is not the container's: below hierarchies whose controllers are not `owned` everything but
/// the names of the cgroups that tasks are in; and everywhere that they were frozen, which they were for the dump.
///
/// # Errors
/// [`CriuError::Image`] if the image is malformed, [`CriuError::Io`] if it cannot be written.
pub fn tidy_cgroups(dir: &ImageDirectory, owned: impl Fn(&[String]) -> bool) -> Result<()> {
    const NAME: &str = "cgroup.img";
    // CRIU writes none where all tasks are in its own cgroups.
    if !dir.has(NAME) {
        return Ok(());
    }
    let before: Vec<CgroupEntry> = all(dir, NAME, Magic::CGROUP)?;
    let mut entries = before.clone();
    for controller in entries.iter_mut().flat_map(|entry| &mut entry.controllers) {
        if owned(&controller.cnames) {
            thaw(&mut controller.dirs, MAX_DEPTH);
            continue;
        }
        for head in &mut controller.dirs {
            *head = CgroupDirEntry { dir_name: head.dir_name.take(), ..Default::default() };
        }
    }
    if entries == before {
        return Ok(());
    }
    write(dir, NAME, &[COMMON, Magic::CGROUP.0], &entries)
}

fn thaw(dirs: &mut [CgroupDirEntry], depth: usize) {
    for dir in dirs {
        for property in &mut dir.properties {
            if let Some((_, running)) =
                FREEZERS.iter().find(|(name, _)| property.name.as_deref() == Some(name))
            {
                property.value = Some((*running).into());
            }
        }
        if depth > 0 {
            thaw(&mut dir.children, depth - 1);
        }
    }
}

/// All entries of an image of a dump that was made now, so of the present version.
fn all<M: Message>(dir: &ImageDirectory, name: &str, magic: Magic) -> Result<Vec<M>> {
    let mut file = ImageFile::open(dir, name)?;
    file.expect_magic(COMMON, "a CRIU image")?;
    file.expect_magic(magic.0, "the image that it is called")?;
    let mut entries = Vec::new();
    while let Some(entry) = file.entry()? {
        entries.push(entry);
    }
    Ok(entries)
}

fn write<M: Message>(dir: &ImageDirectory, name: &str, magic: &[u32], entries: &[M]) -> Result<()> {
    dir.write(name, &encode(&dir.path().join(name), magic, entries)?)
}

#[cfg(test)]
#[path = "amend_tests.rs"]
mod tests;
