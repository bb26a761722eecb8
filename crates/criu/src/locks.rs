//! The images of address spaces as a restore can take them.

use criu_proto::images::mm::MmEntry;

#[cfg(doc)]
use crate::error::CriuError;
use crate::error::Result;
use crate::images::{ChangedFiles, Images, Magic};

/// MAP_LOCKED (mman.h of x86, and of the others that CRIU knows).
const LOCKED: u32 = 0x2000;

impl Images {
    /// The images that CRIU reads instead of those of these tasks' address spaces (`pids` are their numbers in their own pid
    /// namespace), so that it locks no area for which `is_wanted` is false: asked with the task's number and the area's first
    /// address. CRIU brings into memory all of an area that it locks.
    ///
    /// # Errors
    /// [`CriuError::Image`] if an image is malformed.
    pub fn without_locks(
        &self,
        pids: impl IntoIterator<Item = u32>,
        is_wanted: impl Fn(u32, u64) -> bool,
    ) -> Result<ChangedFiles> {
        let mut changed = ChangedFiles::new();
        for pid in pids {
            let name = format!("mm-{pid}.img");
            let Some(mut entries) = self.entries_if_any::<MmEntry>(&name, Magic::MM)? else { continue };
            let Some(space) = entries.next() else { continue };
            let (mut space, mut unlocked) = (space?, false);
            for area in &mut space.vmas {
                let flags = area.flags.unwrap_or_default();
                if flags & LOCKED != 0 && !is_wanted(pid, area.start.unwrap_or_default()) {
                    area.flags = Some(flags & !LOCKED);
                    unlocked = true;
                }
            }
            if unlocked {
                changed.push((name.clone(), self.encode(&name, Magic::MM, std::slice::from_ref(&space))?));
            }
        }
        Ok(changed)
    }
}
