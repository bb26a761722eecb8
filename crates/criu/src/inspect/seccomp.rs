//! The programs that filter system calls (seccomp.img).

use criu_proto::images::seccomp::SeccompEntry;

use crate::error::{CriuError, Result};
use crate::images::{Images, Magic};

const FILE: &str = "seccomp.img";

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
    /// What is wrong with the list: a filter that does not exist, or one that comes twice.
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

impl Images {
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
