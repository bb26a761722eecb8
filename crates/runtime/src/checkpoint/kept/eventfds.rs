//! Counters that are descriptors (eventfd(2)). CRIU makes none that is a semaphore, nor with a count of more than 32 bits: a restore
//! makes these, and CRIU inherits them.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hiber_criu::Images;
use hiber_criu::images::ChangedFiles;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::io::{Errno, IoSliceMut, ReadWriteFlags};
use serde::{Deserialize, Serialize};

use super::descriptors::Descriptor;
use crate::error::{Error, Result};

/// An eventfd by one of the descriptors that lead to it. Its count is in the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Eventfd {
    /// In the container's pid namespace.
    process: u32,
    fd: u32,
    /// Whether a read takes 1 (EFD_SEMAPHORE).
    semaphore: bool,
}

/// Reads those among `descriptors` that CRIU does not make as they are. Their processes are frozen.
pub(super) fn of(descriptors: &[Descriptor<'_>]) -> Result<Vec<Eventfd>> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for descriptor in descriptors.iter().filter(|descriptor| descriptor.is_eventfd()) {
        let info = descriptor.info()?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // Linux 5.2; without it a file that many have is looked at many times.
        if field("eventfd-id:").is_some_and(|id| !seen.insert(id.to_owned())) {
            continue;
        }
        let count = field("eventfd-count:").and_then(|count| u64::from_str_radix(count, 16).ok());
        let count = count.unwrap_or(0);
        // Linux 6.5
        let semaphore = match field("eventfd-semaphore:") {
            Some(flag) => flag != "0",
            None => {
                let (owner, fd) = (descriptor.owner.inner, descriptor.fd);
                let copy = descriptor.copy()?;
                is_semaphore(copy.as_fd(), count)
                    .map_err(|e| Error::sys("eventfd", format!("descriptor {fd} of process {owner}"), e))?
            }
        };
        if semaphore || count > u32::MAX.into() {
            let (process, fd) = (descriptor.owner.inner.unsigned_abs(), descriptor.fd.unsigned_abs());
            all.push(Eventfd { process, fd, semaphore });
        }
    }
    Ok(all)
}

/// Whether a read takes 1 where more is in it; then its count is what it was. A process that waits for it sees no new event.
fn is_semaphore(copy: BorrowedFd<'_>, count: u64) -> rustix::io::Result<bool> {
    let added = 2u64.saturating_sub(count);
    let add = |count: u64| match count {
        0 => Ok(()),
        count => transfer(rustix::io::write(copy, &count.to_ne_bytes())),
    };
    add(added)?;
    let taken = take(copy)?;
    if taken != 1 {
        // All of it.
        add(count)?;
        return Ok(false);
    }
    match added {
        0 => add(1)?,
        _ => {
            for _ in 1..added {
                take(copy)?;
            }
        }
    }
    Ok(true)
}

/// Reads without waiting, whatever the file's flags are.
fn take(copy: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    let mut bytes = [0; 8];
    let mut part = [IoSliceMut::new(&mut bytes)];
    transfer(rustix::io::preadv2(copy, &mut part, u64::MAX, ReadWriteFlags::NOWAIT))?;
    Ok(u64::from_ne_bytes(bytes))
}

fn transfer(moved: rustix::io::Result<usize>) -> rustix::io::Result<()> {
    match moved? {
        8 => Ok(()),
        _ => Err(Errno::IO),
    }
}

/// Makes the eventfds, and the images that have CRIU inherit them.
pub(super) fn make(kept: &[Eventfd], images: &Images) -> Result<(ChangedFiles, Vec<(String, OwnedFd)>)> {
    let descriptors: Vec<_> = kept.iter().map(|eventfd| (eventfd.process, eventfd.fd)).collect();
    let (changed, inherited) = images.with_inherited_eventfds(&descriptors)?;
    let made = inherited.into_iter().map(|wanted| {
        let is_kept = |kept: &&Eventfd| (kept.process, kept.fd) == wanted.descriptor;
        let semaphore = kept.iter().find(is_kept).is_some_and(|kept| kept.semaphore);
        let mut flags = EventfdFlags::CLOEXEC;
        flags.set(EventfdFlags::SEMAPHORE, semaphore);
        flags.set(EventfdFlags::NONBLOCK, wanted.flags & OFlags::NONBLOCK.bits() != 0);
        let fail = |e| Error::sys("eventfd", format!("count {}", wanted.count), e);
        let made = eventfd(0, flags).map_err(fail)?;
        if wanted.count > 0 {
            // No count fills an empty one, so nobody waits.
            transfer(rustix::io::write(&made, &wanted.count.to_ne_bytes())).map_err(fail)?;
        }
        Ok((wanted.key, made))
    });
    Ok((changed, made.collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_semaphore_is_found_out_and_left_as_it_was() {
        for semaphore in [false, true] {
            for count in [0, 1, 2, 3, 41] {
                let mut flags = EventfdFlags::CLOEXEC;
                flags.set(EventfdFlags::SEMAPHORE, semaphore);
                let counter = eventfd(count, flags).unwrap();
                assert_eq!(is_semaphore(counter.as_fd(), count.into()), Ok(semaphore), "{count}");
                let left = std::iter::from_fn(|| take(counter.as_fd()).ok()).sum::<u64>();
                assert_eq!(left, u64::from(count), "{semaphore}");
            }
        }
    }
}
