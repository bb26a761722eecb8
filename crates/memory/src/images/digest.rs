//! BLAKE3 of a file that is written in pieces, in any order.
//!
//! BLAKE3 is a tree: the file is hashed in groups, and a piece that is written again costs its groups alone. A group that was
//! written in several pieces, and not in their order, is read in the end.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};
use blake3::{Hash, Hasher};

/// Bytes of a group: a power of two, of at least a chunk of BLAKE3 (1 KiB). As many chunks as AVX-512 hashes side by side.
const GROUP: u64 = 16 << 10;
/// Bytes that are read at once.
const READ: u64 = 256 << 10;

/// The groups of a file.
#[derive(Debug, Default)]
pub(super) struct Digest {
    /// Of those that are whole and known.
    groups: Vec<Option<ChainingValue>>,
    /// The group to which was written last, if that was in order from its beginning on.
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    group: usize,
    hasher: Hasher,
}

impl Begun {
    fn end(&self) -> u64 {
        start_of(self.group) + self.hasher.count()
    }
}

fn start_of(group: usize) -> u64 {
    group as u64 * GROUP
}

/// The hasher of a part of a file that begins there.
fn hasher_at(offset: u64) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset);
    hasher
}

impl Digest {
    /// Takes note of what was written, in whole pages.
    pub(super) fn written(&mut self, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let group = (at / GROUP) as usize;
            let length = rest.len().min((start_of(group) + GROUP - at) as usize);
            let (part, next) = rest.split_at(length);
            self.part_written(group, at, part);
            (at, rest) = (at + length as u64, next);
        }
    }

    /// The values of the groups that begin in these bytes at an offset of the file; none of the last one, if the bytes do not fill it.
    pub(super) fn groups_in(offset: u64, bytes: &[u8]) -> Vec<(usize, Option<ChainingValue>)> {
        let first = offset.next_multiple_of(GROUP);
        let whole = bytes.get((first - offset) as usize..).unwrap_or_default();
        let value = |(n, group): (usize, &[u8])| {
            let start = first + n as u64 * GROUP;
            let value = || hasher_at(start).update(group).finalize_non_root();
            ((start / GROUP) as usize, (group.len() as u64 == GROUP).then(value))
        };
        whole.chunks(GROUP as usize).enumerate().map(value).collect()
    }

    /// Takes note of what was written behind all that there was, by its [groups](Self::groups_in). The group in the middle of which
    /// it began is read in the end.
    pub(super) fn appended(&mut self, groups: Vec<(usize, Option<ChainingValue>)>) {
        for (group, value) in groups {
            self.groups.resize(self.groups.len().max(group + 1), None);
            self.groups[group] = value;
        }
    }

    /// Of one group.
    fn part_written(&mut self, group: usize, offset: u64, part: &[u8]) {
        if self.groups.len() <= group {
            self.groups.resize(group + 1, None);
        }
        self.groups[group] = None;
        match &mut self.begun {
            Some(begun) if begun.group == group && begun.end() == offset => {
                begun.hasher.update(part);
            }
            _ if offset == start_of(group) => {
                let mut hasher = hasher_at(offset);
                hasher.update(part);
                self.begun = Some(Begun { group, hasher });
            }
            Some(begun) if begun.group == group => self.begun = None,
            _ => {}
        }
        if let Some(begun) = self.begun.take_if(|begun| begun.group == group && begun.hasher.count() == GROUP)
        {
            self.groups[group] = Some(begun.hasher.finalize_non_root());
        }
    }

    /// Reads the whole groups within `length` bytes of the file that are not known.
    pub(super) fn catch_up(&mut self, file: &File, length: u64) -> io::Result<()> {
        let whole = (length / GROUP) as usize;
        self.groups.resize(self.groups.len().max(whole), None);
        let mut group = 0;
        while let Some(first) = self.unknown(group..whole) {
            let most = whole.min(first + (READ / GROUP) as usize);
            let known = self.groups[first..most].iter().position(Option::is_some);
            group = known.map_or(most, |known| first + known);
            let mut bytes = vec![0; (start_of(group) - start_of(first)) as usize];
            file.read_exact_at(&mut bytes, start_of(first))?;
            self.written(start_of(first), &bytes);
        }
        Ok(())
    }

    fn unknown(&self, among: Range<usize>) -> Option<usize> {
        let first = among.start;
        self.groups.get(among)?.iter().position(Option::is_none).map(|at| first + at)
    }

    /// The hash of the file, which has that length, as [`blake3::hash`] has it.
    pub(super) fn of(&mut self, file: &File, length: u64) -> io::Result<Hash> {
        if length <= GROUP {
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, 0)?;
            return Ok(blake3::hash(&bytes));
        }
        let (whole, left) = ((length / GROUP) as usize, length % GROUP);
        self.groups.truncate(whole);
        let last = self.begun.take_if(|begun| left > 0 && begun.group == whole && begun.end() == length);
        self.catch_up(file, length)?;
        if left > 0 {
            let last = match last {
                Some(begun) => begun.hasher,
                None => {
                    let mut bytes = vec![0; left as usize];
                    file.read_exact_at(&mut bytes, start_of(whole))?;
                    let mut hasher = hasher_at(start_of(whole));
                    hasher.update(&bytes);
                    hasher
                }
            };
            self.groups.push(Some(last.finalize_non_root()));
        }
        let groups: Vec<ChainingValue> = self.groups.iter().flatten().copied().collect();
        let (left, right) = children(&groups, length);
        Ok(hazmat::merge_subtrees_root(&left, &right, Mode::Hash))
    }
}

/// The values of the two halves of a tree of more than one group.
fn children(groups: &[ChainingValue], length: u64) -> (ChainingValue, ChainingValue) {
    let left = hazmat::left_subtree_len(length);
    let (first, second) = groups.split_at((left / GROUP) as usize);
    (value(first, left), value(second, length - left))
}

fn value(groups: &[ChainingValue], length: u64) -> ChainingValue {
    if length <= GROUP {
        return groups[0];
    }
    let (left, right) = children(groups, length);
    hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    /// Pieces in order, out of order and again, of a file that becomes shorter in the end.
    #[test]
    fn it_is_the_hash_of_the_file() {
        for seed in 0..60 {
            let mut random = fastrand::Rng::with_seed(seed);
            let file = tempfile::tempfile().unwrap();
            let (mut digest, mut content) = (Digest::default(), Vec::new());
            let most = [3, 5, 40, 700][seed as usize % 4];
            for _ in 0..random.u64(1..60) {
                let pages = random.u64(1..30);
                let end = content.len() as u64 / PAGE;
                let at = if random.bool() { end } else { random.u64(..=end) };
                if at + pages > most {
                    continue;
                }
                let bytes: Vec<u8> =
                    std::iter::repeat_with(|| random.u8(..)).take((pages * PAGE) as usize).collect();
                file.write_all_at(&bytes, at * PAGE).unwrap();
                if at == end && random.bool() {
                    digest.appended(Digest::groups_in(at * PAGE, &bytes));
                } else {
                    digest.written(at * PAGE, &bytes);
                }
                let (from, to) = ((at * PAGE) as usize, ((at + pages) * PAGE) as usize);
                content.resize(content.len().max(to), 0);
                content[from..to].copy_from_slice(&bytes);
                if random.u8(..8) == 0 {
                    digest.catch_up(&file, content.len() as u64).unwrap();
                }
            }
            if random.bool() {
                content.truncate(content.len() / PAGE as usize / 3 * 2 * PAGE as usize);
            }
            assert_eq!(
                digest.of(&file, content.len() as u64).unwrap(),
                blake3::hash(&content),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn what_was_written_in_order_is_not_read() {
        let nothing = tempfile::tempfile().unwrap();
        let (mut digest, content) = (Digest::default(), vec![7; 41 * PAGE as usize]);
        for (number, piece) in content.chunks(3 * PAGE as usize).enumerate() {
            digest.written(number as u64 * 3 * PAGE, piece);
        }
        assert_eq!(digest.of(&nothing, content.len() as u64).unwrap(), blake3::hash(&content));
        assert!(digest.of(&nothing, PAGE).is_err(), "it is read where that is needed");
    }
}
