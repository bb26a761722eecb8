//! Images in which pipes from outside are `/dev/null`: a restore whose caller has no streams for the container.

use std::collections::BTreeSet;

use criu_proto::images::files::{FdType, FdinfoEntry, FileEntry, PipeEntry, RegFileEntry};
use criu_proto::images::mnt::MntEntry;

use crate::amend::ids;
#[cfg(doc)]
use crate::error::CriuError;
use crate::error::Result;
use crate::images::{ChangedFiles, Images, Magic};

const FILES: &str = "files.img";

impl Images {
    /// The images in which the pipes with these keys, such as `pipe:[4242]`, are `/dev/null` of the first task's mount namespace. A `/dev/null` of the host's, inherited in a pipe's place, lies on no mount of the tasks' own, and CRIU
    /// could never dump them again.
    ///
    /// # Errors
    /// [`CriuError::Image`] if an image is malformed.
    pub fn with_null_pipes(&self, keys: &BTreeSet<&str>) -> Result<ChangedFiles> {
        // Images without it have their files in others, and are of a CRIU before 3.0.
        let (Some(mount), Some(files)) = (self.root_mount()?, self.entries_if_any(FILES, Magic::FILES)?)
        else {
            return Ok(ChangedFiles::new());
        };
        let mut files: Vec<FileEntry> = files.collect::<Result<_>>()?;
        let mut replaced = BTreeSet::new();
        for file in &mut files {
            let is_one = |pipe: &PipeEntry| keys.contains(&*format!("pipe:[{}]", pipe.pipe_id()));
            let Some(pipe) = file.pipe.as_ref().filter(|pipe| is_one(pipe)).cloned() else { continue };
            file.pipe = None.into();
            let regular = RegFileEntry {
                id: pipe.id,
                flags: pipe.flags,
                pos: Some(0),
                fown: pipe.fown,
                name: Some("/dev/null".into()),
                mnt_id: i32::try_from(mount).ok(),
                ..RegFileEntry::default()
            };
            file.type_ = Some(FdType::REG.into());
            file.reg = Some(regular).into();
            replaced.insert(file.id());
        }
        if replaced.is_empty() {
            return Ok(ChangedFiles::new());
        }
        let mut changed = self.as_regular(|id| replaced.contains(&id))?;
        changed.push((FILES.to_owned(), self.encode(FILES, Magic::FILES, &files)?));
        Ok(changed)
    }

    /// The images of descriptors in which those of these open files are a regular file's.
    pub(crate) fn as_regular(&self, is_one: impl Fn(u32) -> bool) -> Result<ChangedFiles> {
        let mut changed = ChangedFiles::new();
        for name in self.names()?.into_iter().filter(|name| name.starts_with("fdinfo-")) {
            let mut entries: Vec<FdinfoEntry> = self.entries(&name, Magic::FDINFO)?.collect::<Result<_>>()?;
            let mut concerned = entries.iter_mut().filter(|entry| is_one(entry.id())).peekable();
            if concerned.peek().is_none() {
                continue;
            }
            concerned.for_each(|entry| entry.type_ = Some(FdType::REG.into()));
            let image = self.encode(&name, Magic::FDINFO, &entries)?;
            changed.push((name, image));
        }
        Ok(changed)
    }

    /// The number of the mount that is the first task's root; none if its mount namespace is not in the images.
    fn root_mount(&self) -> Result<Option<u32>> {
        let Some(first) = self.tasks()?.first().map(|task| task.pid) else { return Ok(None) };
        let Some(namespace) = ids(self, first)?.and_then(|ids| ids.mnt_ns_id) else { return Ok(None) };
        let mounts = self.entries_if_any::<MntEntry>(&format!("mountpoints-{namespace}.img"), Magic::MNTS)?;
        for mount in mounts.into_iter().flatten() {
            let mount = mount?;
            if mount.mountpoint().trim_start_matches('.') == "/" {
                return Ok(mount.mnt_id);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use criu_proto::images::core::TaskKobjIdsEntry;
    use criu_proto::images::inventory::InventoryEntry;
    use criu_proto::images::pstree::PstreeEntry;

    use super::*;
    use crate::fixtures::{nobody, write};
    use crate::images::{COMMON, INVENTORY, INVENTORY_FILE};

    fn mount(number: u32, point: &str) -> MntEntry {
        MntEntry {
            fstype: Some(criu_proto::images::mnt::mnt_entry::FsType::AUTO.into()),
            mnt_id: Some(number),
            root_dev: Some(1),
            parent_mnt_id: Some(1),
            flags: Some(0),
            root: Some("/".into()),
            mountpoint: Some(point.into()),
            source: Some(String::new()),
            options: Some(String::new()),
            ..MntEntry::default()
        }
    }

    /// Task 1 with the pipe 77 as 1 and 2, and the pipe 78 as 3.
    fn images() -> (tempfile::TempDir, Images) {
        let dir = tempfile::tempdir().unwrap();
        let inventory = InventoryEntry { img_version: Some(2), ..InventoryEntry::default() };
        write(&dir, INVENTORY_FILE, &[INVENTORY], &[inventory]);
        let task = PstreeEntry {
            pid: Some(1),
            ppid: Some(0),
            pgid: Some(1),
            sid: Some(1),
            ..PstreeEntry::default()
        };
        write(&dir, "pstree.img", &[COMMON, Magic::PSTREE.0], &[task]);
        let ids = TaskKobjIdsEntry {
            vm_id: Some(1),
            files_id: Some(1),
            fs_id: Some(1),
            sighand_id: Some(1),
            mnt_ns_id: Some(9),
            ..TaskKobjIdsEntry::default()
        };
        write(&dir, "ids-1.img", &[COMMON, Magic::IDS.0], &[ids]);
        write(&dir, "mountpoints-9.img", &[COMMON, Magic::MNTS.0], &[mount(31, "/dev"), mount(30, "/")]);
        let descriptor = |(fd, id)| FdinfoEntry {
            id: Some(id),
            flags: Some(0),
            fd: Some(fd),
            type_: Some(FdType::PIPE.into()),
            ..FdinfoEntry::default()
        };
        write(&dir, "fdinfo-1.img", &[COMMON, Magic::FDINFO.0], &[(1, 5), (2, 5), (3, 6)].map(descriptor));
        let pipe = |(id, pipe_id)| FileEntry {
            id: Some(id),
            type_: Some(FdType::PIPE.into()),
            pipe: Some(PipeEntry {
                id: Some(id),
                pipe_id: Some(pipe_id),
                flags: Some(1),
                fown: Some(nobody()).into(),
                ..PipeEntry::default()
            })
            .into(),
            ..FileEntry::default()
        };
        write(&dir, FILES, &[COMMON, Magic::FILES.0], &[(5, 77), (6, 78)].map(pipe));
        let images = Images::open(dir.path()).unwrap();
        (dir, images)
    }

    #[test]
    fn a_pipe_becomes_the_tasks_own_null() {
        let (_dir, images) = images();
        assert_eq!(images.with_null_pipes(&["pipe:[79]", "/dev/null"].into()).unwrap(), []);
        let changed = images.with_null_pipes(&["pipe:[77]"].into()).unwrap();
        let images = images.with(&changed);
        let files: Vec<FileEntry> =
            images.entries(FILES, Magic::FILES).unwrap().collect::<Result<_>>().unwrap();
        let null = &files[0].reg;
        assert_eq!((null.name(), null.mnt_id(), null.flags()), ("/dev/null", 30, 1));
        assert!(files[0].pipe.is_none() && files[0].type_() == FdType::REG);
        assert_eq!((files[1].type_(), files[1].pipe.pipe_id()), (FdType::PIPE, 78));
        let descriptors: Vec<FdinfoEntry> =
            images.entries("fdinfo-1.img", Magic::FDINFO).unwrap().collect::<Result<_>>().unwrap();
        let types: Vec<_> = descriptors.iter().map(FdinfoEntry::type_).collect();
        assert_eq!(types, [FdType::REG, FdType::REG, FdType::PIPE]);
    }
}
