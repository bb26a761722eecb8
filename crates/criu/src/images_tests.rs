//! Image files as CRIU writes them, and hostile ones.

use criu_proto::images::pagemap::{PagemapEntry, PagemapHead};
use criu_proto::images::stats::{DumpStatsEntry, RestoreStatsEntry};

use super::*;

fn u32s(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn entry(message: &impl Message) -> Vec<u8> {
    let bytes = message.write_to_bytes().unwrap();
    [u32s(&[u32::try_from(bytes.len()).unwrap()]), bytes].concat()
}

fn task(pid: u32, ppid: u32) -> PstreeEntry {
    PstreeEntry {
        pid: Some(pid),
        ppid: Some(ppid),
        pgid: Some(1),
        sid: Some(1),
        threads: vec![pid, pid + 100],
        ..Default::default()
    }
}

/// A directory with an inventory of `version`.
fn checkpoint(version: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let inventory = InventoryEntry { img_version: Some(version), ..Default::default() };
    std::fs::write(dir.path().join("inventory.img"), [u32s(&[INVENTORY]), entry(&inventory)].concat())
        .unwrap();
    dir
}

fn problem<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("no error"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn tasks_are_read_in_both_versions() {
    for (version, magic) in [(1, u32s(&[Magic::PSTREE.0])), (2, u32s(&[COMMON, Magic::PSTREE.0]))] {
        let dir = checkpoint(version);
        let pstree = [magic, entry(&task(1, 0)), entry(&task(7, 1))].concat();
        std::fs::write(dir.path().join("pstree.img"), pstree).unwrap();
        let images = Images::open(dir.path()).unwrap();
        let tasks = images.tasks().unwrap();
        assert_eq!(tasks.iter().map(|t| (t.pid, t.ppid)).collect::<Vec<_>>(), [(1, 0), (7, 1)]);
        assert_eq!(tasks[1].threads, [7, 107]);
    }
}

#[test]
fn a_head_precedes_the_entries_of_a_pagemap() {
    let dir = checkpoint(2);
    let head = PagemapHead { pages_id: Some(3), ..Default::default() };
    let map = PagemapEntry {
        vaddr: Some(0x7fff_0000_0000),
        compat_nr_pages: Some(0),
        nr_pages: Some(1 << 33),
        ..Default::default()
    };
    let file = [u32s(&[COMMON, Magic::PAGEMAP.0]), entry(&head), entry(&map)].concat();
    std::fs::write(dir.path().join("pagemap-1.img"), file).unwrap();
    let images = Images::open(dir.path()).unwrap();
    let mut entries = images.entries::<PagemapEntry>("pagemap-1.img", Magic::PAGEMAP).unwrap();
    assert_eq!(entries.head::<PagemapHead>().unwrap().pages_id, Some(3));
    assert_eq!(entries.next().unwrap().unwrap().nr_pages, Some(1 << 33));
    assert!(entries.next().is_none());
}

#[test]
fn a_directory_without_a_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("inventory.img");
    assert!(problem(Images::open(&dir.path().join("none"))).ends_with("none: no such directory"));
    assert!(problem(Images::open(dir.path())).ends_with("inventory.img: missing"));
    std::fs::write(&path, "").unwrap();
    assert!(problem(Images::open(dir.path())).ends_with("inventory.img: empty"));
    std::fs::write(&path, "abc").unwrap();
    assert!(
        problem(Images::open(dir.path())).contains("truncated: its magic number takes 4 bytes, 3 are left")
    );
    std::fs::write(&path, "ELF?....").unwrap();
    assert!(problem(Images::open(dir.path())).contains("is not an inventory: it starts with 0x3f464c45"));
    std::fs::write(&path, u32s(&[INVENTORY])).unwrap();
    assert!(problem(Images::open(dir.path())).ends_with("truncated: has no entry"));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(problem(Images::open(dir.path())).ends_with("not a regular file"));
    assert!(problem(Images::open(checkpoint(3).path())).contains("images of version 3"));
}

#[test]
fn a_pre_dump_has_no_version() {
    let dir = checkpoint(0);
    Images::open(dir.path()).unwrap();
    std::fs::write(dir.path().join("pstree.img"), u32s(&[COMMON, Magic::PSTREE.0])).unwrap();
    assert!(problem(Images::open(dir.path())).contains("images of version 0"));
}

#[test]
fn a_fifo_does_not_make_the_reader_wait() {
    let dir = checkpoint(2);
    let fifo = dir.path().join("pstree.img");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(problem(Images::open(dir.path()).unwrap().tasks()).ends_with("pstree.img: not a regular file"));
}

#[test]
fn a_length_beyond_the_file_allocates_nothing() {
    let dir = checkpoint(2);
    let path = dir.path().join("pstree.img");
    let images = Images::open(dir.path()).unwrap();
    for huge in [u32::MAX, 0x8000_0000, 3] {
        std::fs::write(&path, [u32s(&[COMMON, Magic::PSTREE.0, huge]), vec![8, 1]].concat()).unwrap();
        let e = problem(images.tasks());
        assert!(e.contains(&format!("an entry takes {huge} bytes, 2 are left")), "{e}");
    }
    std::fs::write(&path, [u32s(&[COMMON, Magic::PSTREE.0]), vec![1, 2]].concat()).unwrap();
    assert!(problem(images.tasks()).contains("an entry's length takes 4 bytes, 2 are left"));
}

#[test]
fn malformed_entries_end_the_reading() {
    let dir = checkpoint(2);
    let file =
        [u32s(&[COMMON, Magic::PSTREE.0]), entry(&task(1, 0)), u32s(&[2]), vec![8, 1], entry(&task(2, 1))];
    std::fs::write(dir.path().join("pstree.img"), file.concat()).unwrap();
    let images = Images::open(dir.path()).unwrap();
    let read: Vec<_> = images.entries::<PstreeEntry>("pstree.img", Magic::PSTREE).unwrap().collect();
    assert_eq!(read.len(), 2, "nothing after the error");
    assert!(read[0].is_ok());
    assert!(read[1].as_ref().unwrap_err().to_string().contains("malformed entry"));
}

#[test]
fn another_kind_of_image_is_refused() {
    let dir = checkpoint(2);
    let images = Images::open(dir.path()).unwrap();
    let path = dir.path().join("pstree.img");
    std::fs::write(&path, u32s(&[COMMON, Magic::CORE.0])).unwrap();
    assert!(problem(images.tasks()).contains("is not pstree.img: it starts with 0x55053847"));
    std::fs::write(&path, u32s(&[COMMON, Magic::PSTREE.0])).unwrap();
    assert!(problem(images.tasks()).ends_with("has no task"));
}

#[test]
fn statistics_are_in_microseconds() {
    let dir = tempfile::tempdir().unwrap();
    let dump = DumpStatsEntry {
        freezing_time: Some(1),
        frozen_time: Some(2_000_000),
        memdump_time: Some(3),
        memwrite_time: Some(4),
        pages_scanned: Some(5),
        pages_skipped_parent: Some(6),
        pages_written: Some(7),
        pages_lazy: Some(8),
        ..Default::default()
    };
    let file = StatsEntry { dump: Some(dump).into(), ..Default::default() };
    std::fs::write(dir.path().join("stats-dump"), [u32s(&[SERVICE, STATS]), entry(&file)].concat()).unwrap();
    let stats = dump_stats(dir.path()).unwrap();
    assert_eq!(stats.frozen_time, Duration::from_secs(2));
    assert_eq!((stats.pages_scanned, stats.pages_written, stats.pages_lazy), (5, 7, 8));
    assert_eq!(stats.to_file().unwrap(), std::fs::read(dir.path().join("stats-dump")).unwrap());

    let restore = RestoreStatsEntry {
        pages_compared: Some(1),
        pages_skipped_cow: Some(2),
        forking_time: Some(3),
        restore_time: Some(4),
        pages_restored: Some(5),
        ..Default::default()
    };
    let file = StatsEntry { restore: Some(restore).into(), ..Default::default() };
    std::fs::write(dir.path().join("stats-restore"), [u32s(&[SERVICE, STATS]), entry(&file)].concat())
        .unwrap();
    assert_eq!(restore_stats(dir.path()).unwrap().pages_restored, Some(5));

    std::fs::copy(dir.path().join("stats-restore"), dir.path().join("stats-dump")).unwrap();
    assert!(problem(dump_stats(dir.path())).ends_with("stats-dump: has no statistics of a dump"));
}
