//! Memory policies as `/proc/PID/numa_maps` tells them (numa(7)).

use std::fs::File;
use std::io::Read;

use hiber_memory::Stopped;
use hiber_sys::scheduling::MemoryPolicy;
use nix::errno::Errno;
use syscalls::Sysno;

use super::failures::{errno, failed};
use crate::error::{Error, Result};

/// The kernel's names (mm/mempolicy.c), in the order of their numbers (linux/mempolicy.h).
const MODES: [&str; 7] =
    ["default", "prefer", "bind", "interleave", "local", "prefer (many)", "weighted interleave"];
/// MPOL_F_STATIC_NODES, MPOL_F_RELATIVE_NODES, MPOL_F_NUMA_BALANCING
const FLAGS: [(&str, i32); 3] = [("static", 1 << 15), ("relative", 1 << 14), ("balancing", 1 << 13)];
/// How many nodes a kernel can have, and more (MAX_NUMNODES of linux/numa.h).
pub(crate) const MAX_NODES: usize = 4096;
/// So much has the first line, in bytes.
const FIRST: usize = 512;

/// The policy of a thread, which areas without one of their own show: the first one, of the program, has none. The kernel
/// walks no more than the areas that are read.
pub(super) fn parse(text: &str) -> Option<MemoryPolicy> {
    let (_, rest) = text.lines().next()?.split_once(' ')?;
    // Two names have a space in them, and so has what follows the policy.
    let mode = MODES.iter().rposition(|name| {
        rest.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ':', '=']))
    })?;
    let rest = rest.strip_prefix(MODES[mode])?;
    let word = rest.split(' ').next().unwrap_or_default();
    let (flags, nodes) = word.split_once(':').unwrap_or((word, ""));
    let given = flags.trim_start_matches('=').split('|');
    let bit = |name: &str| FLAGS.iter().find(|(flag, _)| *flag == name).map_or(0, |(_, bit)| *bit);
    let mode = i32::try_from(mode).ok()? | given.map(bit).fold(0, |all, bit| all | bit);
    (mode != 0).then(|| MemoryPolicy { mode, nodes: numbers(nodes) })
}

pub(super) fn of_thread(tid: i32) -> Option<MemoryPolicy> {
    let mut text = [0; FIRST];
    let length = File::open(format!("/proc/{tid}/numa_maps")).ok()?.read(&mut text).ok()?;
    parse(&String::from_utf8_lossy(&text[..length]))
}

/// Has the stopped thread take this policy.
pub(super) fn set(stopped: &mut Stopped, policy: &MemoryPolicy) -> Result<()> {
    apply(stopped, policy, Sysno::set_mempolicy, |mode, mask, bits| [mode, mask, bits, 0, 0, 0])
}

/// Has the stopped thread make a call with this policy: its mode, where the mask of its nodes is, and of how many bits. A machine
/// that has none of these nodes does without.
pub(super) fn apply(
    stopped: &mut Stopped,
    policy: &MemoryPolicy,
    call: Sysno,
    arguments: impl FnOnce(u64, u64, u64) -> [u64; 6],
) -> Result<()> {
    let words = policy.nodes.iter().max().map_or(0, |n| n / 64 + 1);
    let mut mask = vec![0u64; words];
    for node in &policy.nodes {
        mask[node / 64] |= 1 << (node % 64);
    }
    let mut bytes: Vec<u8> = mask.into_iter().flat_map(u64::to_ne_bytes).collect();
    let mode = u64::from(policy.mode.cast_unsigned());
    let result = match bytes.is_empty() {
        true => stopped.call(call, arguments(mode, 0, 0)),
        // The kernel takes one bit less than it is told.
        false => {
            let bits = u64::try_from(words * 64 + 1).unwrap_or_default();
            stopped.call_with(&mut bytes, call, |at| arguments(mode, at, bits))
        }
    };
    match result.map_err(failed(0))? {
        Err(Errno::EINVAL) if !policy.nodes.is_empty() => {
            tracing::warn!("memory was taken from nodes {:?}, of which there are none here", policy.nodes);
            Ok(())
        }
        result => result.map(drop).map_err(|e| Error::sys(call.name(), format!("{policy:?}"), errno(e))),
    }
}

/// Whether there is more than one node with memory: else a policy chooses nothing.
pub(super) fn has_choice() -> bool {
    let nodes = hiber_sys::file::read_to_string("/sys/devices/system/node/has_memory").unwrap_or_default();
    numbers(nodes.trim()).len() > 1
}

/// `0-2,5`
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        (to < MAX_NODES).then_some(from..=to)
    };
    list.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read() {
        let read = |text: &str| parse(&format!("00400000 {text}")).map(|policy| (policy.mode, policy.nodes));
        assert_eq!(read("default file=/bin/sh mapped=1"), None);
        assert_eq!(read("default"), None);
        assert_eq!(read("bind:0 file=/x"), Some((2, vec![0])));
        assert_eq!(read("interleave:0-1,4 anon=1"), Some((3, vec![0, 1, 4])));
        assert_eq!(read("prefer (many):0"), Some((5, vec![0])));
        assert_eq!(read("prefer=relative:1"), Some((1 | 1 << 14, vec![1])));
        assert_eq!(read("bind=static|balancing:0"), Some((2 | 1 << 15 | 1 << 13, vec![0])));
        assert_eq!(read("weighted interleave:1 mapped=1"), Some((6, vec![1])));
        assert_eq!(read("local"), Some((4, vec![])));
    }
}
