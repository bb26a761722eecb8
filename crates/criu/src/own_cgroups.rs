//! The cgroups of a checkpoint that are its container's.

use criu_proto::images::cgroup::{CgControllerEntry, CgMemberEntry, CgroupEntry};
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
    /// The first task's set of cgroups, if a restorer in the container's cgroups is in just these: the task is in none below, and
    /// has no cgroup namespace to be made.
    pub inherited: Option<u32>,
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

    fn inherited_set(&self, entry: &CgroupEntry) -> Result<Option<u32>> {
        if entry.sets.is_empty() {
            return Ok(None);
        }
        let Some(first) = self.tasks()?.first().map(|task| task.pid) else { return Ok(None) };
        let core: Option<CoreEntry> =
            self.entries(&format!("core-{first}.img"), Magic::CORE)?.next().transpose()?;
        let id = core.and_then(|core| core.thread_core.cg_set.or(core.tc.cg_set));
        let is_own = |member: &CgMemberEntry| {
            let of = |c: &&CgControllerEntry| c.cnames.iter().any(|name| name == member.name());
            let [dir] = entry.controllers.iter().find(of).map_or(&[][..], |c| &c.dirs) else { return false };
            member.cgns_prefix.is_none()
                && dir.dir_name().trim_matches('/') == member.path().trim_matches('/')
        };
        let set = entry.sets.iter().find(|set| set.id.is_some() && set.id == id);
        Ok(set.filter(|set| set.ctls.iter().all(is_own)).and_then(|set| set.id))
    }
}

impl OwnCgroups {
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
