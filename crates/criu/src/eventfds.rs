//! Images whose eventfds CRIU does not make itself, but inherits: it knows neither semaphores nor counts of more than 32 bits.

use std::collections::BTreeMap;

use criu_proto::images::files::{FdType, FdinfoEntry, FileEntry, RegFileEntry};

use crate::amend::ids;
#[cfg(doc)]
use crate::error::CriuError;
use crate::error::{Result, bad};
use crate::images::{ChangedFiles, Images, Magic};

const FILES: &str = "files.img";

/// An eventfd that a restore is to be given (`--inherit-fd`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InheritedEventfd {
    /// The name by which CRIU asks for it.
    pub key: String,
    /// Its count.
    pub count: u64,
    /// The flags of its open file description (open(2)).
    pub flags: u32,
    /// A process, by its number in the container, and its descriptor, that lead to it.
    pub descriptor: (u32, u32),
}

impl Images {
    /// The images in which the eventfds to which `descriptors` lead are regular files: of all files CRIU asks for those of
    /// pipes, sockets and regular ones among what it inherits, and of the last it looks at nothing else then. Each of
    /// `descriptors` is a process's number in the container, and the descriptor's.
    ///
    /// # Errors
    /// [`CriuError::Image`] if an image is malformed, or a descriptor is that of no eventfd.
    pub fn with_inherited_eventfds(
        &self,
        descriptors: &[(u32, u32)],
    ) -> Result<(ChangedFiles, Vec<InheritedEventfd>)> {
        if descriptors.is_empty() {
            return Ok(Default::default());
        }
        let mut wanted = BTreeMap::new();
        for descriptor in descriptors {
            wanted.entry(self.file_of(*descriptor)?).or_insert(*descriptor);
        }
        let (files, inherited) = self.without_eventfds(&mut wanted)?;
        let mut changed = self.as_regular(|id| inherited.contains_key(&id))?;
        changed.push((FILES.to_owned(), files));
        Ok((changed, inherited.into_values().collect()))
    }

    /// The number of the open file to which a descriptor leads.
    fn file_of(&self, (pid, fd): (u32, u32)) -> Result<u32> {
        let group = ids(self, pid)?.and_then(|ids| ids.files_id).unwrap_or_default();
        let name = format!("fdinfo-{group}.img");
        for entry in self.entries::<FdinfoEntry>(&name, Magic::FDINFO)? {
            let entry = entry?;
            if entry.fd() == fd {
                return Ok(entry.id());
            }
        }
        Err(bad(&self.dir().join(name), format!("has no descriptor {fd}, which is that of an eventfd")))
    }

    /// The image of files in which the `wanted` eventfds are regular files, and what these were.
    fn without_eventfds(
        &self,
        wanted: &mut BTreeMap<u32, (u32, u32)>,
    ) -> Result<(Vec<u8>, BTreeMap<u32, InheritedEventfd>)> {
        let mut inherited = BTreeMap::new();
        let mut files: Vec<FileEntry> = self.entries(FILES, Magic::FILES)?.collect::<Result<_>>()?;
        for file in &mut files {
            let id = file.id();
            if file.type_() != FdType::EVENTFD {
                continue;
            }
            let Some(descriptor) = wanted.remove(&id) else { continue };
            let Some(eventfd) = file.efd.take() else { continue };
            let key = format!("hiber-eventfd-{id}");
            let regular = RegFileEntry {
                id: Some(id),
                flags: Some(eventfd.flags()),
                pos: Some(0),
                fown: eventfd.fown.clone(),
                name: Some(format!("/{key}")),
                ..RegFileEntry::default()
            };
            file.type_ = Some(FdType::REG.into());
            file.reg = Some(regular).into();
            let (count, flags) = (eventfd.counter(), eventfd.flags());
            inherited.insert(id, InheritedEventfd { key, count, flags, descriptor });
        }
        if let Some((pid, fd)) = wanted.values().next() {
            return Err(bad(
                &self.dir().join(FILES),
                format!("descriptor {fd} of process {pid} is no eventfd"),
            ));
        }
        Ok((self.encode(FILES, Magic::FILES, &files)?, inherited))
    }
}

#[cfg(test)]
mod tests {
    use criu_proto::images::core::TaskKobjIdsEntry;
    use criu_proto::images::files::EventfdFileEntry;
    use criu_proto::images::inventory::InventoryEntry;

    use super::*;
    use crate::fixtures::{nobody, write};
    use crate::images::{COMMON, INVENTORY, INVENTORY_FILE};

    /// Process 7 with an eventfd as 3 and 4, and a timer as 5; process 8 with the eventfd as 9.
    fn images() -> (tempfile::TempDir, Images) {
        let dir = tempfile::tempdir().unwrap();
        let inventory = InventoryEntry { img_version: Some(2), ..InventoryEntry::default() };
        write(&dir, INVENTORY_FILE, &[INVENTORY], &[inventory]);
        for (pid, group, all) in
            [(7, 1, vec![(3, 20), (4, 20), (5, 21)]), (8, 2, vec![(9, 20)]), (9, 3, vec![(3, 21)])]
        {
            let ids = TaskKobjIdsEntry {
                vm_id: Some(1),
                files_id: Some(group),
                fs_id: Some(1),
                sighand_id: Some(1),
                ..TaskKobjIdsEntry::default()
            };
            write(&dir, &format!("ids-{pid}.img"), &[COMMON, Magic::IDS.0], &[ids]);
            let entry = |(fd, id): (u32, u32)| {
                let type_ = if id == 20 { FdType::EVENTFD } else { FdType::TIMERFD };
                FdinfoEntry {
                    id: Some(id),
                    flags: Some(0),
                    fd: Some(fd),
                    type_: Some(type_.into()),
                    ..FdinfoEntry::default()
                }
            };
            let all: Vec<_> = all.into_iter().map(entry).collect();
            write(&dir, &format!("fdinfo-{group}.img"), &[COMMON, Magic::FDINFO.0], &all);
        }
        let eventfd = EventfdFileEntry {
            id: Some(20),
            fown: Some(nobody()).into(),
            flags: Some(0o4002),
            counter: Some(1 << 40),
            ..EventfdFileEntry::default()
        };
        let file = |id, type_: FdType, efd: Option<EventfdFileEntry>| FileEntry {
            id: Some(id),
            type_: Some(type_.into()),
            efd: efd.into(),
            ..FileEntry::default()
        };
        let files = [file(20, FdType::EVENTFD, Some(eventfd)), file(21, FdType::TIMERFD, None)];
        write(&dir, FILES, &[COMMON, Magic::FILES.0], &files);
        let images = Images::open(dir.path()).unwrap();
        (dir, images)
    }

    #[test]
    fn an_eventfd_is_inherited_by_all_that_have_it() {
        let (dir, images) = images();
        let (changed, inherited) = images.with_inherited_eventfds(&[(7, 4), (8, 9)]).unwrap();
        let expected = InheritedEventfd {
            key: "hiber-eventfd-20".into(),
            count: 1 << 40,
            flags: 0o4002,
            descriptor: (7, 4),
        };
        assert_eq!(inherited, [expected]);
        let mut names: Vec<_> = changed.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["fdinfo-1.img", "fdinfo-2.img", FILES], "not that of others");
        for (name, content) in &changed {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let images = Images::open(dir.path()).unwrap();
        let files: Vec<FileEntry> =
            images.entries(FILES, Magic::FILES).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!((files[0].type_(), files[0].reg.name()), (FdType::REG, "/hiber-eventfd-20"));
        assert!(files[0].efd.is_none() && files[1].type_() == FdType::TIMERFD);
        let of_7: Vec<FdinfoEntry> =
            images.entries("fdinfo-1.img", Magic::FDINFO).unwrap().collect::<Result<_>>().unwrap();
        let types: Vec<_> = of_7.iter().map(FdinfoEntry::type_).collect();
        assert_eq!(types, [FdType::REG, FdType::REG, FdType::TIMERFD]);
    }

    #[test]
    fn what_is_no_eventfd_is_refused() {
        let (_dir, images) = images();
        for (wanted, problem) in
            [((7, 5), "descriptor 5 of process 7 is no eventfd"), ((7, 6), "has no descriptor 6")]
        {
            let error = images.with_inherited_eventfds(&[wanted]).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        assert!(images.with_inherited_eventfds(&[(11, 3)]).is_err());
        assert_eq!(images.with_inherited_eventfds(&[]).unwrap(), Default::default());
    }
}
