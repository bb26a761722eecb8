//! Changes of a root file system (rootfs-diff.tar), behind a list of what was removed (deleted.files) and a zero byte.
#![no_main]

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;

use libfuzzer_sys::fuzz_target;

/// The beginnings of compressed archives: another target undoes compression, and these would fill the disk.
const COMPRESSED: [&[u8]; 3] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd], &[0x04, 0x22, 0x4d, 0x18]];

fuzz_target!(|parts: &[u8]| {
    let mut parts = parts.splitn(2, |byte| *byte == 0);
    let (deleted, diff) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if COMPRESSED.iter().any(|magic| diff.starts_with(magic)) {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (root, outside) = (directory.path().join("root"), directory.path().join("outside"));
    fs::create_dir_all(root.join("dir/below")).expect("directories");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("file"), "mine").expect("a file");
    fs::write(root.join("file"), "old").expect("a file");
    symlink(&outside, root.join("out")).expect("a link");
    symlink("../../outside", root.join("dir/out")).expect("a link");
    let whiteouts = deleted.len() % 2 == 1;
    let opened = File::open(&root).expect("the root").into();
    hiber::fuzzing::root_changes(&file(diff), &file(deleted), whiteouts, opened);
    assert_eq!(count(directory.path()), 2);
    assert_eq!(count(&outside), 1);
    assert_eq!(fs::read(outside.join("file")).expect("the file"), b"mine");
    assert_plain(&root);
});

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(content).and_then(|()| file.rewind()).expect("its content");
    file
}

/// Nothing there is a device.
fn assert_plain(directory: &Path) {
    for entry in fs::read_dir(directory).expect("the directory") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("its kind");
        assert!(!kind.is_char_device() && !kind.is_block_device());
        if kind.is_dir() {
            assert_plain(&entry.path());
        }
    }
}

fn count(directory: &Path) -> usize {
    fs::read_dir(directory).expect("the directory").count()
}
