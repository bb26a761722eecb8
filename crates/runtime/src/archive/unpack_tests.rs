//! Archives as they should be, and hostile ones.

use tar::Header;

use super::*;
use crate::error::chain;

const LIMITS: Limits = Limits { bytes: 1 << 20, files: 10, by: "a test" };

/// An entry: its path, kind and content.
type Given<'a> = (&'a str, EntryType, &'a [u8]);

const INVENTORY: Given<'_> = ("checkpoint/inventory.img", EntryType::Regular, b"x");

/// The bytes of an archive. Names are written as they are, whatever the library thinks of them.
fn archive(entries: &[Given<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o600);
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

struct Tried {
    dir: tempfile::TempDir,
    result: Result<Unpacked>,
}

fn tried(bytes: &[u8]) -> Tried {
    let dir = tempfile::tempdir().unwrap();
    let into = ImageDirectory::open(dir.path()).unwrap();
    let result = unpack(bytes, &how(&Identities::default()), &into, LIMITS);
    Tried { dir, result }
}

fn how(keys: &Identities) -> How<'_> {
    How { shown: Path::new("a.tar"), keys, verify: true, demands: &[], files: false }
}

#[track_caller]
fn refused(bytes: &[u8], why: &str) {
    let tried = tried(bytes);
    assert_eq!(chain(&tried.result.unwrap_err()), format!("a.tar: {why}"));
}

#[test]
fn images_come_out_and_the_rest_stays() {
    let tried = tried(&archive(&[
        ("./spec.dump", EntryType::Regular, b"{}"),
        ("rootfs-diff.tar", EntryType::Regular, &[7; 3000]),
        ("checkpoint/", EntryType::Directory, b""),
        INVENTORY,
        ("checkpoint/pages-1.img", EntryType::Regular, &[5; 4096]),
        ("volumes/", EntryType::Directory, b""),
    ]));
    let unpacked = tried.result.unwrap();
    assert_eq!(unpacked.spec.as_deref(), Some(&b"{}"[..]));
    assert_eq!(unpacked.passed, ["rootfs-diff.tar"]);
    assert_eq!(std::fs::read(tried.dir.path().join("pages-1.img")).unwrap(), [5; 4096]);
    assert_eq!(std::fs::read_dir(tried.dir.path()).unwrap().count(), 2);
}

#[test]
fn what_no_checkpoint_has_is_refused_by_name() {
    let link = "expected a file or a directory";
    for (entry, why) in [
        (("../x", EntryType::Regular, &b""[..]), "../x: leads out of the archive"),
        (("/etc/cron.d/x", EntryType::Regular, b""), "/etc/cron.d/x: leads out of the archive"),
        (("checkpoint/../../x", EntryType::Regular, b""), "checkpoint/../../x: leads out of the archive"),
        (("checkpoint/a/b", EntryType::Regular, b""), "checkpoint/a/b: is no name of a file in a checkpoint"),
        (
            ("checkpoint/\x1b[2J", EntryType::Regular, b""),
            "checkpoint/\\u{1b}[2J: is no name of a file in a checkpoint",
        ),
        (("checkpoint/a", EntryType::Symlink, b""), &format!("checkpoint/a: is a symbolic link; {link}")),
        (("checkpoint/a", EntryType::Link, b""), &format!("checkpoint/a: is a hard link; {link}")),
        (("checkpoint/a", EntryType::Char, b""), &format!("checkpoint/a: is a device; {link}")),
        (("x", EntryType::Block, b""), &format!("x: is a device; {link}")),
        (("x", EntryType::Fifo, b""), &format!("x: is a FIFO; {link}")),
        (("x", EntryType::new(b'V'), b""), &format!("x: is of no known kind; {link}")),
        (("x", EntryType::GNUSparse, b""), "x: is a sparse file; expected a plain one"),
        (("checkpoint/", EntryType::Directory, b"x"), "checkpoint/: is a directory with content"),
        (INVENTORY, "checkpoint/inventory.img: comes twice"),
        (
            ("checkpoint/pages-1.img", EntryType::Regular, &[0; (1 << 20) + 1]),
            "checkpoint/pages-1.img: has 1048577 bytes, and all images together may have 1048576: a test",
        ),
    ] {
        refused(&archive(&[INVENTORY, entry]), why);
    }
    let twice = ("spec.dump", EntryType::Regular, &b"{}"[..]);
    refused(&archive(&[INVENTORY, twice, twice]), "spec.dump: comes twice");
    let many: Vec<_> = (0..11).map(|n| format!("checkpoint/{n}")).collect();
    let many: Vec<Given<'_>> = many.iter().map(|name| (&**name, EntryType::Regular, &b""[..])).collect();
    refused(&archive(&many), "checkpoint/10: is beyond the 10 files that a checkpoint may have");
    refused(&archive(&[]), "holds no checkpoint: there is no checkpoint/inventory.img in it");
}

#[test]
fn sizes_are_those_of_the_headers() {
    let whole = archive(&[INVENTORY, ("checkpoint/a", EntryType::Regular, &[1; 600])]);
    // Cut in a header, in a content, and before the end.
    for (cut, why) in [
        (100, "truncated"),
        (1024 + 512 + 300, "truncated in checkpoint/a"),
        (whole.len() - 1024, "truncated"),
    ] {
        refused(&whole[..cut], &format!("is no readable archive: {why}"));
    }
    // A header that promises more than any file has.
    let mut header = Header::new_gnu();
    header.set_path("rootfs-diff.tar").unwrap();
    header.set_entry_type(EntryType::Regular);
    header.set_size(u64::MAX >> 1);
    header.set_cksum();
    refused(header.as_bytes(), "rootfs-diff.tar: has 9223372036854775807 bytes, too many to be passed over");
}

/// A few kilobytes that become many gigabytes.
#[test]
fn compression_does_not_matter() {
    let size = 70_u64 << 30;
    for name in ["rootfs-diff.tar", "checkpoint/pages-1.img"] {
        let mut header = Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        header.set_cksum();
        let bomb = zstd::stream::encode_all(header.as_bytes().chain(io::repeat(0).take(64 << 20)), 1);
        let error = chain(&tried(&bomb.unwrap()).result.unwrap_err());
        assert!(error.starts_with(&format!("a.tar: {name}: has {size} bytes, ")), "{error}");
    }
    // Zeros without end behind it.
    let whole = archive(&[INVENTORY]);
    let endless = whole.chain(io::repeat(0).take(1 << 30));
    let endless = zstd::stream::encode_all(endless, 1).unwrap();
    refused(&endless, "is no readable archive: goes on behind its end");
}

#[test]
fn what_is_not_tar_is_told() {
    refused(b"", "is no readable archive: truncated");
    refused(&[1; 2048], "is no readable archive: expected tar, by itself or with gzip, zstd or lz4");
    let mut packed = zstd::bulk::compress(&archive(&[INVENTORY]), 1).unwrap();
    packed.truncate(packed.len() - 5);
    let error = chain(&tried(&packed).result.unwrap_err());
    assert!(error.starts_with("a.tar: is no readable archive: "), "{error}");
}
