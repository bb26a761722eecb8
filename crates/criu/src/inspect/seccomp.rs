//! The programs that filter system calls (seccomp.img).

use criu_proto::images::seccomp::SeccompEntry;

use crate::error::{CriuError, Result};
use crate::images::{ChangedFiles, Images, Magic};

const FILE: &str = "seccomp.img";
/// linux/seccomp.h: SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER (Linux 5.0) and _TSYNC_ESRCH (5.7).
const USER_NOTIF: u32 = 0x7fc0_0000;
const NEW_LISTENER: u32 = 1 << 3;
const TSYNC_ESRCH: u32 = 1 << 4;

/// The filters of all threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeccompFilters {
    all: Vec<(SeccompFilter, Option<u32>)>,
}

/// A filter that is installed in a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompFilter {
    /// `struct sock_filter` of linux/filter.h, one after the other.
    pub program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_* of linux/seccomp.h.
    pub flags: u32,
}

impl SeccompFilter {
    /// Whether installing the filter gives it, and those that its thread has already, to all threads of the process
    /// (SECCOMP_FILTER_FLAG_TSYNC).
    pub fn is_for_all_threads(&self) -> bool {
        self.flags & 1 != 0
    }
}

impl SeccompFilters {
    /// The filters of a thread in the order in which they are installed, from its first
    /// ([`Thread::seccomp_filter`](super::Thread::seccomp_filter)) on.
    ///
    /// # Errors
    /// The mistake in the list: a filter that does not exist, or one that comes twice.
    pub fn chain(&self, first: u32) -> Result<Vec<&SeccompFilter>, String> {
        let mut chain = Vec::new();
        let mut next = Some(first);
        while let Some(position) = next {
            let at = usize::try_from(position).ok().and_then(|n| self.all.get(n));
            let (filter, after) = at.ok_or_else(|| format!("names filter {position}, which {FILE} lacks"))?;
            if chain.len() == self.all.len() {
                return Err(format!("has filters that follow each other in a circle ({FILE})"));
            }
            chain.push(filter);
            next = *after;
        }
        Ok(chain)
    }
}

/// Instructions of which one gives SECCOMP_RET_USER_NOTIF, whatever its data.
fn asks_agent(program: &[u8]) -> bool {
    /// BPF_RET | BPF_K
    const RETURN: u16 = 0x06;
    /// Without SECCOMP_RET_DATA.
    const ACTION: u32 = 0xffff_0000;
    let (instructions, _) = program.as_chunks::<8>();
    instructions.iter().any(|b| {
        let (code, k) = (u16::from_ne_bytes([b[0], b[1]]), u32::from_ne_bytes([b[4], b[5], b[6], b[7]]));
        code == RETURN && k & ACTION == USER_NOTIF
    })
}

impl Images {
    /// The image of filters with each that has an agent answer for calls installed with a listener, which is then a descriptor
    /// of its process: without, as CRIU saves them, the kernel answers for the agent with ENOSYS. Nothing if none does.
    ///
    /// # Errors
    /// As [`Images::seccomp_filters`].
    pub fn with_seccomp_listeners(&self) -> Result<ChangedFiles> {
        let entries = self.entries_if_any::<SeccompEntry>(FILE, Magic::SECCOMP)?;
        let Some(mut entry) = entries.and_then(|mut entries| entries.next()).transpose()? else {
            return Ok(ChangedFiles::new());
        };
        let mut asking = entry
            .seccomp_filters
            .iter_mut()
            .filter(|filter| filter.filter.as_deref().is_some_and(asks_agent))
            .peekable();
        if asking.peek().is_none() {
            return Ok(ChangedFiles::new());
        }
        // A filter for all threads can have a listener only if the kernel need not tell the thread that could not follow.
        asking.for_each(|filter| filter.flags = Some(filter.flags() | NEW_LISTENER | TSYNC_ESRCH));
        Ok(vec![(FILE.to_owned(), self.encode(FILE, Magic::SECCOMP, std::slice::from_ref(&entry))?)])
    }

    /// The filters of all threads; none where no thread had one.
    ///
    /// # Errors
    /// [`CriuError::Image`] if the image is malformed.
    pub fn seccomp_filters(&self) -> Result<SeccompFilters> {
        let entries = self.entries_if_any::<SeccompEntry>(FILE, Magic::SECCOMP)?;
        let Some(entry) = entries.and_then(|mut entries| entries.next()).transpose()? else {
            return Ok(SeccompFilters::default());
        };
        let read = |filter: criu_proto::images::seccomp::SeccompFilter| {
            let program = filter.filter.filter(|bytes| bytes.len() % 8 == 0).ok_or_else(|| {
                let problem = "has a filter that is no whole number of instructions".into();
                CriuError::Image { path: self.dir().join(FILE), problem }
            })?;
            Ok((SeccompFilter { program, flags: filter.flags.unwrap_or(0) }, filter.prev))
        };
        Ok(SeccompFilters { all: entry.seccomp_filters.into_iter().map(read).collect::<Result<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(nexts: &[Option<u32>]) -> SeccompFilters {
        let filter = |n: usize| SeccompFilter { program: vec![u8::try_from(n).unwrap(); 8], flags: 0 };
        SeccompFilters { all: nexts.iter().enumerate().map(|(n, next)| (filter(n), *next)).collect() }
    }

    #[test]
    fn a_filter_that_asks_an_agent() {
        let program = |action: u32| {
            let load = [0x20u8, 0, 0, 0, 0, 0, 0xc0, 0x7f];
            let mut bytes = load.to_vec();
            bytes.extend([6, 0, 0, 0]);
            bytes.extend(action.to_ne_bytes());
            bytes
        };
        assert!(asks_agent(&program(0x7fc0_0000)) && asks_agent(&program(0x7fc0_0005)));
        assert!(!asks_agent(&program(0x7fff_0000)), "what is loaded is no action");
    }

    #[test]
    fn a_chain_ends_and_has_what_the_image_has() {
        let all = filters(&[None, Some(0), Some(1), None]);
        let chain = |first| all.chain(first).map(|c| c.iter().map(|f| f.program[0]).collect::<Vec<_>>());
        assert_eq!(chain(2), Ok(vec![2, 1, 0]));
        assert_eq!(chain(3), Ok(vec![3]));
        assert_eq!(chain(4), Err("names filter 4, which seccomp.img lacks".into()));
        let circle = filters(&[Some(1), Some(0)]).chain(0).unwrap_err();
        assert!(circle.contains("in a circle"), "{circle}");
    }
}
