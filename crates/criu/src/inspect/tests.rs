//! Memory and arguments, from images made for the purpose; whole checkpoints are read in tests/hostile.rs.

use std::path::Path;

use criu_proto::Message;
use criu_proto::images::mm::{MmEntry, VmaEntry};
use criu_proto::images::pagemap::{PagemapEntry, PagemapHead};

use super::*;

fn entry(message: &impl Message) -> Vec<u8> {
    let bytes = message.write_to_bytes().unwrap();
    [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], &bytes].concat()
}

fn write(dir: &Path, name: &str, magic: u32, entries: &[Vec<u8>]) {
    let magics = [0x5456_4319u32.to_le_bytes(), magic.to_le_bytes()].concat();
    std::fs::write(dir.join(name), [magics, entries.concat()].concat()).unwrap();
}

/// A directory with an inventory, and the runs (address, pages, flags) of process 1.
fn checkpoint(runs: &[(u64, u64, u32)]) -> (tempfile::TempDir, Images) {
    let dir = tempfile::tempdir().unwrap();
    let inventory = [&0x5831_3116u32.to_le_bytes()[..], &2u32.to_le_bytes(), &[8, 2]].concat();
    std::fs::write(dir.path().join("inventory.img"), inventory).unwrap();
    let mut entries = vec![entry(&PagemapHead { pages_id: Some(7), ..Default::default() })];
    entries.extend(runs.iter().map(|(vaddr, pages, flags)| {
        entry(&PagemapEntry {
            vaddr: Some(*vaddr),
            compat_nr_pages: Some(0),
            nr_pages: Some(*pages),
            flags: Some(*flags),
            ..Default::default()
        })
    }));
    write(dir.path(), "pagemap-1.img", 0x5608_4025, &entries);
    let images = Images::open(dir.path()).unwrap();
    (dir, images)
}

fn area(start: u64, end: u64, status: u32) -> VmaEntry {
    VmaEntry { start: Some(start), end: Some(end), status: Some(status), ..Default::default() }
}

const P: u64 = 4096;

#[test]
fn pages_are_counted_to_the_areas_that_they_are_in() {
    // heap [1,4), a hole, stack [5,8)
    let mm = MmEntry { vmas: vec![area(P, 4 * P, 1 << 5), area(5 * P, 8 * P, 1 << 1)], ..Default::default() };
    // [0,2) present, [2,6) in the parent, [6,7) lazy, [9,10) present but mapped nowhere
    let (_dir, images) = checkpoint(&[(0, 2, 4), (2 * P, 4, 1), (6 * P, 1, 2), (9 * P, 1, 4)]);
    let kinds = memory::by_kind(&images, 1, &mm).unwrap();
    let of = |kind: &str| kinds.iter().find(|m| m.kind == kind).unwrap();
    let sizes = |m: &Memory| (m.areas, m.mapped, m.stored, m.in_parent, m.lazy);
    assert_eq!(sizes(of("heap")), (1, 3 * P, P, 2 * P, 0));
    assert_eq!(sizes(of("stack")), (1, 3 * P, 0, P, P));
}

#[test]
fn arguments_are_read_from_the_pages() {
    // pages 10 and 11 are in the file behind a page of another run; the arguments cross from one to the other
    let (dir, images) = checkpoint(&[(2 * P, 1, 4), (5 * P, 3, 1), (10 * P, 1, 4), (11 * P, 1, 4)]);
    let text = b"sh\0-c\0a  b\0";
    let mut pages = vec![0; 3 * P as usize];
    let (start, at) = (11 * P - 4, 2 * P as usize - 4);
    pages[at..at + text.len()].copy_from_slice(text);
    std::fs::write(dir.path().join("pages-7.img"), &pages).unwrap();
    let of = |start, end| {
        let mm = MmEntry { mm_arg_start: Some(start), mm_arg_end: Some(end), ..Default::default() };
        memory::arguments(&images, 1, &mm)
    };
    let end = start + text.len() as u64;
    assert_eq!(of(start, end).unwrap().unwrap(), ["sh", "-c", "a  b"]);
    assert_eq!(of(5 * P, 5 * P + 9).unwrap(), None, "in the parent");
    assert_eq!(of(end, start).unwrap(), None, "the end before the start");
    assert_eq!(of(u64::MAX - 5, u64::MAX).unwrap(), None, "mapped nowhere");
    std::fs::write(dir.path().join("pages-7.img"), &pages[..P as usize]).unwrap();
    let error = of(start, end).unwrap_err().to_string();
    assert!(error.contains("pages-7.img: truncated"), "{error}");
    std::fs::remove_file(dir.path().join("pages-7.img")).unwrap();
    assert_eq!(of(start, end).unwrap(), None, "sent elsewhere");
}

#[test]
fn areas_that_overlap_are_refused() {
    let (dir, images) = checkpoint(&[]);
    let required = |start, end| VmaEntry {
        pgoff: Some(0),
        shmid: Some(0),
        prot: Some(0),
        flags: Some(0),
        fd: Some(-1),
        ..area(start, end, 0)
    };
    let n = Some(0);
    let mut mm = MmEntry {
        exe_file_id: Some(0),
        vmas: vec![required(P, 3 * P), required(2 * P, 4 * P)],
        ..Default::default()
    };
    (mm.mm_start_code, mm.mm_end_code, mm.mm_start_data, mm.mm_end_data) = (n, n, n, n);
    (mm.mm_start_stack, mm.mm_start_brk, mm.mm_brk, mm.mm_arg_start) = (n, n, n, n);
    (mm.mm_arg_end, mm.mm_env_start, mm.mm_env_end) = (n, n, n);
    write(dir.path(), "mm-1.img", 0x5749_2820, &[entry(&mm)]);
    let error = memory::address_space(&images, 1).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "mm-1.img: has an area 0x2000..0x4000 that is empty, or overlaps one that ends at 0x3000"
        ),
        "{error}"
    );
    mm.vmas[0].end = Some(2 * P);
    let guard = VmaEntry { status: Some(1 << 16), ..required(2 * P, 3 * P) };
    mm.vmas.push(guard);
    mm.vmas.reverse();
    write(dir.path(), "mm-1.img", 0x5749_2820, &[entry(&mm)]);
    assert_eq!(memory::address_space(&images, 1).unwrap().unwrap().vmas[0].start, Some(P), "in order");
    assert!(memory::address_space(&images, 2).unwrap().is_none());
}

#[test]
fn a_pre_dump_has_memory_alone() {
    let (dir, images) = checkpoint(&[(P, 3, 4), (8 * P, 2, 1)]);
    let contents = Contents::read(&images).unwrap();
    assert!(contents.processes.is_empty());
    assert_eq!(contents.pre_dumped, [Segment { id: 1, stored: 3 * P, in_parent: 2 * P }]);
    // what has lost its list of processes is none
    std::fs::write(dir.path().join("core-1.img"), "").unwrap();
    let error = Contents::read(&images).unwrap_err().to_string();
    assert!(error.contains("pstree.img: missing"), "{error}");
}
