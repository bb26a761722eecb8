//! The filters of system calls.

use hiber_criu::inspect::{Seccomp, SeccompFilter, SeccompFilters, Thread};
use hiber_sandbox::seccomp::{Program, SockFilter, is_as_strict};

use super::grant::{Grant, Verdict};

/// SECCOMP_FILTER_FLAG_TSYNC and _LOG (linux/seccomp.h): for all threads, and with a line in the log.
const HARMLESS: u32 = 1 | 2;

/// The filters that a process's other threads get from its first one. Where all have the same, CRIU leaves them out
/// of the others' images, and marks those of the first for all threads.
pub(super) fn shared<'a>(
    filters: &'a SeccompFilters,
    leader: &Thread,
) -> Result<Vec<&'a SeccompFilter>, String> {
    let mut chain = own(filters, leader)?;
    let last = chain.iter().rposition(|filter| filter.is_for_all_threads());
    chain.truncate(last.map_or(0, |last| last + 1));
    Ok(chain)
}

/// The filters that a thread's own image names.
fn own<'a>(filters: &'a SeccompFilters, thread: &Thread) -> Result<Vec<&'a SeccompFilter>, String> {
    if mode(thread) != Seccomp::Filter {
        return Ok(Vec::new());
    }
    filters.chain(thread.seccomp_filter.unwrap_or(0))
}

fn mode(thread: &Thread) -> Seccomp {
    thread.credentials.as_ref().map_or(Seccomp::Disabled, |c| c.seccomp)
}

impl Grant<'_> {
    /// One of a thread's filters must stop what config.json's does; others beside it can only stop more.
    pub(super) fn filtered(
        &self,
        filters: &SeccompFilters,
        thread: &Thread,
        shared: &[&SeccompFilter],
    ) -> Verdict {
        let mode = mode(thread);
        let own = own(filters, thread)?;
        let chain = if mode == Seccomp::Disabled { shared } else { &own };
        let wanted = self.plan.init.seccomp.as_ref();
        let harmless = HARMLESS | wanted.map_or(0, |program| program.flags);
        if let Some(filter) = chain.iter().find(|filter| filter.flags & !harmless != 0) {
            return Err(format!("has a seccomp filter with the flags {:#x}", filter.flags));
        }
        let Some(wanted) = wanted else { return Ok(()) };
        // Strict mode lets less through than any profile that a program can start with.
        if mode == Seccomp::Strict {
            return Ok(());
        }
        if chain.is_empty() {
            return Err("is not filtered by seccomp, as config.json wants it".into());
        }
        match chain.iter().any(|filter| stops(filter, wanted)) {
            true => Ok(()),
            false => Err("has a seccomp filter that lets more through than config.json's".into()),
        }
    }
}

fn stops(filter: &SeccompFilter, wanted: &Program) -> bool {
    let instruction = |b: &[u8; 8]| SockFilter {
        code: u16::from_ne_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    };
    let (instructions, _) = filter.program.as_chunks::<8>();
    let program: Vec<_> = instructions.iter().map(instruction).collect();
    is_as_strict(&program, &wanted.filter)
}
