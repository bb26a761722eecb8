//! Which memory of a running process was written since one has last looked.

mod areas;
mod dirty_bits;
mod protections;
mod written;

use std::sync::Arc;

use hiber_sys::zero_pages::ZeroPages;

use self::dirty_bits::DirtyBits;
use self::protections::Protections;
pub use self::written::Written;
use crate::error::{Error, Result};
use crate::images::Ranges;

/// The kernel's ways to tell what is written.
#[derive(Debug, Clone)]
pub struct Means(Way);

#[derive(Debug, Clone)]
enum Way {
    Protections,
    DirtyBits(Arc<ZeroPages>),
}

/// A process whose writes are tracked. Dropped, nothing is left of that in the process.
#[derive(Debug)]
pub struct Tracked {
    pid: i32,
    by: By,
}

#[derive(Debug)]
enum By {
    Protections(Protections),
    DirtyBits(DirtyBits),
}

impl Means {
    /// The best way of this kernel: protected memory (UFFD_FEATURE_WP_ASYNC and PAGEMAP_SCAN, Linux 6.7), else soft-dirty bits
    /// (CONFIG_MEM_SOFT_DIRTY).
    ///
    /// # Errors
    /// What is missing for each.
    pub fn find() -> Result<Self, String> {
        let missing = match protections::available() {
            Ok(()) => return Ok(Self(Way::Protections)),
            Err(missing) => missing,
        };
        let zeros = dirty_bits::available();
        let zeros = zeros.map_err(|also| format!("this kernel lacks {missing}, and {also}"))?;
        Ok(Self(Way::DirtyBits(zeros)))
    }

    /// Whether the processes must not run in [`Tracked::written`], which clears the soft-dirty bits of all their memory. Somebody
    /// else who looks at these bits, such as CRIU between a pre-dump and the next dump, would miss what was written before.
    pub fn clears_dirty_bits(&self) -> bool {
        matches!(self.0, Way::DirtyBits(_))
    }
}

impl Tracked {
    /// Tracks process `pid` from now on.
    ///
    /// # Errors
    /// [`Error::Untracked`] with the reason. Where memory is protected, also what [`StoppedProcess`](crate::StoppedProcess) says of
    /// a thread that cannot be stopped: it runs a 32-bit program, is traced by somebody else, or confined so that nobody may lift
    /// it.
    pub fn start(pid: i32, means: &Means) -> Result<Self> {
        seen(pid)?;
        let by = match &means.0 {
            Way::Protections => By::Protections(Protections::start(pid)?),
            Way::DirtyBits(zeros) => By::DirtyBits(DirtyBits::new(pid, Arc::clone(zeros))),
        };
        Ok(Self { pid, by })
    }

    /// The pages that were written since the last call; all pages the first time. If that
    /// [clears soft-dirty bits](Means::clears_dirty_bits), the process must not run.
    ///
    /// # Errors
    /// [`Error::Gone`], [`Error::Untracked`] if it has begun to do what cannot be seen, or if the kernel refuses.
    pub fn written(&mut self) -> Result<Written> {
        let found = match &mut self.by {
            By::Protections(protections) => protections.written(),
            By::DirtyBits(bits) => bits.written(),
        }?;
        // After memory was protected: a write that was under way then ends before, or is seen here.
        seen(self.pid).map(|()| found)
    }

    /// How many bytes were written since the last look, or were never looked at.
    ///
    /// # Errors
    /// Those of [`Self::written`].
    pub fn rest(&self) -> Result<u64> {
        match &self.by {
            By::Protections(protections) => protections.rest(),
            By::DirtyBits(bits) => bits.rest(),
        }
    }

    /// The addresses at which nothing was written since the last look; the process must not run.
    ///
    /// # Errors
    /// Those of [`Self::written`].
    pub fn clean(&self) -> Result<Ranges> {
        seen(self.pid)?;
        match &self.by {
            By::Protections(protections) => protections.clean(),
            By::DirtyBits(bits) => bits.clean(),
        }
    }

    /// Pages of files that the process has made its own, or will when CRIU stops it: nobody tells when they are written.
    ///
    /// # Errors
    /// Those of [`Self::written`].
    pub fn of_files(&self) -> Result<Ranges> {
        match &self.by {
            By::Protections(protections) => protections.of_files(),
            By::DirtyBits(bits) => bits.of_files(),
        }
    }
}

/// Declares all memory of a process unchanged to who looks at its soft-dirty bits, if the kernel has such.
///
/// # Errors
/// [`Error::Gone`], or if that is not permitted.
pub fn clear_dirty_bits(pid: i32) -> Result<()> {
    dirty_bits::clear(pid)
}

fn seen(pid: i32) -> Result<()> {
    areas::unseen_writes(pid).map_or(Ok(()), |why| Err(Error::Untracked(pid, why.into())))
}
