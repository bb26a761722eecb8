//! The cgroups of a checkpoint that are its container's.

use std::collections::BTreeSet;

use criu_proto::images::cgroup::{CgControllerEntry, CgMemberEntry, CgSetEntry, CgroupEntry};
use criu_proto::images::core::CoreEntry;

use crate::error::Result;
use crate::images::{Images, Magic};

/// The image's name.
pub const CGROUP_IMAGE: &str = "cgroup.img";

/// The cgroups of a checkpoint without hierarchies in which the container has none of its own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OwnCgroups {
    /// The remaining part.
    pub entry: CgroupEntry,
    /// The same as an image, where the checkpoint's has more.
    pub image: Option<Vec<u8>>,
    /// The cgroups that the first task has in common with a restorer in the container's; `None` if the task is in cgroups below these.
    pub inherited: Option<InheritedCgroups>,
}

/// The cgroups of a restorer that its tasks share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InheritedCgroups {
    /// The set of cgroups in the image, which is the restorer's.
    pub set: u32,
    /// Whether the restorer must be in a cgroup namespace whose roots these cgroups are.
    pub namespace: bool,
}

impl Images {
    /// The cgroups that are the container's. Where it had none of its own in a hierarchy, a dump saves the whole machine's
    /// there, and a restore would make all of them again.
    ///
    /// # Errors
    /// [`CriuError::Image`](crate::CriuError::Image) if the image is malformed.
    pub fn own_cgroups(&self) -> Result<OwnCgroups> {
        let entries = self.entries_if_any::<CgroupEntry>(CGROUP_IMAGE, Magic::CGROUP)?;
        let mut entry = entries.and_then(|mut entries| entries.next()).transpose()?.unwrap_or_default();
        let (foreign, own) = std::mem::take(&mut entry.controllers)
            .into_iter()
            .partition::<Vec<_>, _>(|c| c.dirs.iter().any(|dir| dir.dir_name().is_empty()));
        entry.controllers = own;
        for set in &mut entry.sets {
            set.ctls
                .retain(|member| !foreign.iter().any(|c| c.cnames.iter().any(|name| name == member.name())));
        }
        let image = (!foreign.is_empty())
            .then(|| self.encode(CGROUP_IMAGE, Magic::CGROUP, std::slice::from_ref(&entry)))
            .transpose()?;
        let inherited = self.inherited_set(&entry)?;
        Ok(OwnCgroups { entry, image, inherited })
    }

    fn inherited_set(&self, entry: &CgroupEntry) -> Result<Option<InheritedCgroups>> {
        if entry.sets.is_empty() {
            return Ok(None);
        }
        let Some(first) = self.tasks()?.first().map(|task| task.pid) else { return Ok(None) };
        let core: Option<CoreEntry> =
            self.entries(&format!("core-{first}.img"), Magic::CORE)?.next().transpose()?;
        let id = core.and_then(|core| core.thread_core.cg_set.or(core.tc.cg_set));
        let Some(set) = entry.sets.iter().find(|set| set.id.is_some() && set.id == id) else {
            return Ok(None);
        };
        let is_own = |member: &CgMemberEntry| {
            let of = |c: &&CgControllerEntry| c.cnames.iter().any(|name| name == member.name());
            let [dir] = entry.controllers.iter().find(of).map_or(&[][..], |c| &c.dirs) else { return false };
            let is_root = member.cgns_prefix.is_none_or(|at| member.path().len() == at as usize);
            is_root && dir.dir_name().trim_matches('/') == member.path().trim_matches('/')
        };
        let mut namespaces = set.ctls.iter().map(|member| member.cgns_prefix.is_some());
        let namespace = namespaces.next().unwrap_or(false);
        let shared = namespaces.all(|other| other == namespace) && set.ctls.iter().all(is_own);
        Ok(set.id.filter(|_| shared).map(|set| InheritedCgroups { set, namespace }))
    }
}

impl OwnCgroups {
    /// The image for a restorer whose cgroups are those that the tasks [inherit](Self::inherited): CRIU moves tasks of other sets,
    /// even where these differ in the namespace alone, of which CRIU notes only the first task's. `None` if the checkpoint's does.
    ///
    /// # Errors
    /// [`CriuError::Image`](crate::CriuError::Image) if the image cannot be written.
    pub fn unmoved(&self, images: &Images) -> Result<Option<Vec<u8>>> {
        let Some(InheritedCgroups { set: first, .. }) = self.inherited else { return Ok(self.image.clone()) };
        let paths = |set: &CgSetEntry| {
            let of = |member: &CgMemberEntry| (member.name().to_owned(), member.path().to_owned());
            set.ctls.iter().map(of).collect::<BTreeSet<_>>()
        };
        let all: BTreeSet<_> = self.entry.sets.iter().map(paths).collect();
        if self.entry.sets.len() < 2 || all.len() > 1 {
            return Ok(self.image.clone());
        }
        let mut entry = self.entry.clone();
        for set in entry.sets.iter_mut().filter(|set| set.id != Some(first)) {
            set.ctls.clear();
        }
        images.encode(CGROUP_IMAGE, Magic::CGROUP, &[entry]).map(Some)
    }

    /// With all tasks in the container's own cgroup of version 2, and no cgroups below that, for somebody who makes those afterwards:
    /// CRIU takes the first task's for the container's, and knows no others beside that. `below` is where the first task was.
    ///
    /// # Errors
    /// [`CriuError::Image`](crate::CriuError::Image) if the image cannot be written.
    pub fn gathered(mut self, images: &Images, below: &str) -> Result<Self> {
        let Self { entry, .. } = &mut self;
        let members =
            || entry.sets.iter().flat_map(|set| &set.ctls).filter(|member| member.name().is_empty());
        let suffix = format!("/{below}");
        let Some(own) = members().find_map(|member| member.path().strip_suffix(&suffix)).map(str::to_owned)
        else {
            return Ok(self);
        };
        for member in entry.sets.iter_mut().flat_map(|set| &mut set.ctls) {
            if member.name().is_empty() && member.path().starts_with(&format!("{own}/")) {
                if member.cgns_prefix.is_some() {
                    member.cgns_prefix = u32::try_from(own.len()).ok();
                }
                member.path = Some(own.clone());
            }
        }
        for controller in &mut entry.controllers {
            if controller.cnames.iter().any(|name| !name.is_empty()) {
                continue;
            }
            controller.dirs.truncate(1);
            if let Some(dir) = controller.dirs.first_mut() {
                let slash = dir.dir_name().starts_with('/');
                dir.dir_name = Some(if slash { own.clone() } else { own.trim_start_matches('/').to_owned() });
                dir.children.clear();
                dir.properties.clear();
            }
        }
        self.image = Some(images.encode(CGROUP_IMAGE, Magic::CGROUP, std::slice::from_ref(&self.entry))?);
        self.inherited = images.inherited_set(&self.entry)?;
        Ok(self)
    }
}
