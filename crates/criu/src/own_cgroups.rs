//! The cgroups of a checkpoint that are its container's.

use criu_proto::images::cgroup::CgroupEntry;

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
        Ok(OwnCgroups { entry, image })
    }
}
