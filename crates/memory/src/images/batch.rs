//! Reads memory of other processes, many scattered pages by one call (process_vm_readv(2)).

use std::io::IoSliceMut;
use std::ops::Range;

use hiber_criu::pagemap::PAGE;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::finisher::{Blocks, Pieces};

/// How many ranges are read at once; the kernel takes 1024 (UIO_MAXIOV).
const MOST: usize = 512;

/// Ranges of addresses that fit a block together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    ranges: Vec<Range<u64>>,
    bytes: usize,
}

impl Batch {
    /// Adds as much of a range as fits, and takes that from it. Whether the batch is full.
    pub(crate) fn add(&mut self, range: &mut Range<u64>) -> bool {
        let room = (Blocks::BYTES - self.bytes) as u64;
        let part = range.start..range.end.min(range.start + room);
        range.start = part.end;
        self.bytes += (part.end - part.start) as usize;
        if !part.is_empty() {
            self.ranges.push(part);
        }
        self.bytes == Blocks::BYTES || self.ranges.len() == MOST
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Reads all of it from a process into a buffer of a block's size, and is empty then: the pieces that were read, and the ranges
    /// that are not mapped, or not readable.
    pub(crate) fn read(&mut self, pid: i32, to: &mut [u8]) -> (Pieces, Vec<Range<u64>>) {
        let (mut pieces, mut missing, mut offset) = (Pieces::new(), Vec::new(), 0);
        self.bytes = 0;
        let mut rest = &*std::mem::take(&mut self.ranges);
        while !rest.is_empty() {
            let mut read = read(pid, rest, &mut to[offset..]);
            // The kernel ends at the first page that cannot be read; the ranges behind it are another call's.
            while let Some((range, behind)) = rest.split_first() {
                let length = (range.end - range.start) as usize;
                let part = read.min(length);
                read -= part;
                rest = behind;
                if part > 0 {
                    pieces.push((range.start, offset..offset + part));
                }
                offset += length;
                if part < length {
                    missing.push(range.start + part as u64..range.end);
                    break;
                }
            }
        }
        (pieces, missing)
    }
}

/// Reads at an address; how many bytes, in whole pages.
pub(super) fn read_at(pid: i32, address: u64, to: &mut [u8]) -> usize {
    let end = address + to.len() as u64;
    read(pid, std::slice::from_ref(&(address..end)), to)
}

/// Reads ranges, one behind the other; how many bytes, in whole pages.
fn read(pid: i32, ranges: &[Range<u64>], to: &mut [u8]) -> usize {
    let length = |range: &Range<u64>| (range.end - range.start) as usize;
    let total = ranges.iter().map(length).sum();
    let from: Vec<_> =
        ranges.iter().map(|range| RemoteIoVec { base: range.start as usize, len: length(range) }).collect();
    let mut to = [IoSliceMut::new(&mut to[..total])];
    let read = process_vm_readv(Pid::from_raw(pid), &mut to, &from).unwrap_or(0);
    read - read % PAGE as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> i32 {
        std::process::id().cast_signed()
    }

    /// By its address.
    type Found = Vec<(u64, Vec<u8>)>;

    /// Reads them all; also what is not there, and how many blocks it took.
    fn read_all(ranges: &[Range<u64>]) -> (Found, Vec<Range<u64>>, usize) {
        let (mut batch, mut buffer) = (Batch::default(), vec![0; Blocks::BYTES]);
        let (mut found, mut missing, mut calls) = (Vec::new(), Vec::new(), 0);
        let mut read = |batch: &mut Batch| {
            let (pieces, gone) = batch.read(own(), &mut buffer);
            found.extend(pieces.into_iter().map(|(address, part)| (address, buffer[part].to_vec())));
            missing.extend(gone);
            calls += 1;
        };
        for range in ranges {
            let mut range = range.clone();
            while !range.is_empty() {
                if batch.add(&mut range) {
                    read(&mut batch);
                }
            }
        }
        read(&mut batch);
        (found, missing, calls)
    }

    #[test]
    fn scattered_pages_are_read_by_one_call() {
        let memory: Vec<u8> = (0..64 * PAGE).map(|n| (n / PAGE) as u8).collect();
        let first = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let page = |n: u64| first + n * PAGE;
        let (found, missing, calls) = read_all(&[page(1)..page(2), page(5)..page(8), page(9)..page(10)]);
        assert_eq!((missing.len(), calls), (0, 1));
        assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [page(1), page(5), page(9)]);
        for (address, bytes) in found {
            let from = (address - memory.as_ptr() as u64) as usize;
            assert!(bytes == memory[from..from + bytes.len()]);
        }
    }

    #[test]
    fn a_range_may_be_longer_than_a_block() {
        let memory = vec![7_u8; 3 * Blocks::BYTES];
        let first = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let whole = first..first + (2 * Blocks::BYTES) as u64 + PAGE;
        let (found, missing, calls) = read_all(std::slice::from_ref(&whole));
        assert_eq!((missing.len(), calls), (0, 3));
        assert_eq!(found.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>(), whole.end - whole.start);
    }

    #[test]
    fn what_is_not_there_is_told_and_the_rest_is_read() {
        let memory = vec![9_u8; 8 * PAGE as usize];
        let first = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let (found, missing, _) = read_all(&[0..PAGE, first..first + PAGE, PAGE..3 * PAGE]);
        assert_eq!(missing, [0..PAGE, PAGE..3 * PAGE]);
        assert_eq!(found, [(first, vec![9; PAGE as usize])]);
    }
}
