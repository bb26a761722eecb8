//! Our archives are read by GNU tar, and GNU tar's by us.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use super::*;

const EXTRACT: [&str; 4] = ["--extract", "--gzip", "--no-unquote", "--no-wildcards"];

/// The contents of a small /dev, without device nodes if these tests have no right to make them.
fn fill(dir: &Path) {
    std::fs::create_dir_all(dir.join("shm/deep")).unwrap();
    std::fs::write(dir.join("shm/file"), "content").unwrap();
    std::fs::set_permissions(dir.join("shm/file"), PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::set_permissions(dir.join("shm"), PermissionsExt::from_mode(0o1777)).unwrap();
    std::os::unix::fs::symlink("/proc/self/fd/0", dir.join("stdin")).unwrap();
    std::fs::write(dir.join("a-name-longer-than-a-header".repeat(5)), "").unwrap();
    let target = "very/".repeat(40);
    std::os::unix::fs::symlink(target, dir.join("far")).unwrap();
    let fd = File::open(dir).unwrap();
    rustix::fs::mknodat(&fd, "fifo", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    // A file system without extended attributes has none to lose.
    let _ = xattrs::set(&dir.join("shm/file"), &xattrs());
    let _ = xattrs::set(&dir.join("shm"), &[("user.of a directory".into(), b"1".to_vec())]);
    let time = Timespec { tv_sec: 1_234_567_890, tv_nsec: 123_456_789 };
    let times =
        Timestamps { last_access: Timespec { tv_sec: 1_234_567_899, tv_nsec: 7 }, last_modification: time };
    rustix::fs::utimensat(&fd, "shm/file", &times, AtFlags::empty()).unwrap();
    if rustix::process::geteuid().is_root() {
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(&fd, "null", FileType::CharacterDevice, Mode::from_raw_mode(0o666), null)
            .unwrap();
        std::os::unix::fs::lchown(dir.join("shm/file"), Some(1234), Some(4321)).unwrap();
    }
}

/// Values with the bytes that separate records.
fn xattrs() -> Vec<Xattr> {
    vec![("user.a".into(), b"a\nb\0c=d".to_vec()), ("user.b".into(), Vec::new())]
}

/// Everything that an archive keeps, by path; extended attributes only if asked for.
fn listing(dir: &Path, attributes: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().unwrap();
        let content = match meta.file_type() {
            t if t.is_symlink() => path.read_link().unwrap().display().to_string(),
            t if t.is_file() => std::fs::read_to_string(&path).unwrap(),
            _ => String::new(),
        };
        let name = path.strip_prefix(dir).unwrap().display().to_string();
        let (mode, uid, gid, device) = (meta.mode(), meta.uid(), meta.gid(), meta.rdev());
        let attributes = if attributes { xattrs::of(&path).unwrap() } else { Vec::new() };
        let time = (meta.mtime(), meta.mtime_nsec());
        lines.push(format!("{name} {mode:o} {uid}:{gid} {device} {time:?} {attributes:?} {content}"));
        if meta.is_dir() {
            todo.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    lines.sort();
    lines
}

#[test]
fn gnu_tar_reads_what_we_write() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let archive = to.path().join("archive");
    std::fs::write(&archive, pack(File::open(from.path()).unwrap()).unwrap().unwrap()).unwrap();
    let out = to.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let mut tar = Command::new("tar");
    tar.args(EXTRACT).arg("--preserve-permissions").arg("--directory").arg(&out);
    let done = tar.stdin(File::open(&archive).unwrap()).output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    assert_eq!(listing(&out, false), listing(from.path(), false));
    let out = to.path().join("with attributes");
    std::fs::create_dir(&out).unwrap();
    let mut tar = Command::new("tar");
    tar.args(EXTRACT).args(pax::OPTIONS).arg("--preserve-permissions").arg("--directory").arg(&out);
    assert!(tar.stdin(File::open(&archive).unwrap()).status().unwrap().success());
    assert_eq!(listing(&out, true), listing(from.path(), true));
}

#[test]
fn we_read_what_we_write() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let archive = pack(File::open(from.path()).unwrap()).unwrap().unwrap();
    unpack(to.path(), &read(&mut archive.as_slice()).unwrap().unwrap()).unwrap();
    for dir in [from.path(), to.path()] {
        let accessed = dir.join("shm/file").metadata().unwrap();
        assert_eq!((accessed.atime(), accessed.atime_nsec()), (1_234_567_899, 7));
    }
    let listed = listing(to.path(), true);
    assert_eq!(listed, listing(from.path(), true));
    assert!(listed.iter().any(|line| line.contains("123456789")), "{listed:#?}");
}

#[test]
fn records_that_are_none_are_left_to_tar() {
    let whole = b"30 mtime=1234567890.123456789\n18 path=with\nline\n25 SCHILY.xattr.user.a=x\n";
    let records = Records::parse(whole).unwrap();
    assert_eq!(records.mtime, Some(Timespec { tv_sec: 1_234_567_890, tv_nsec: 123_456_789 }));
    assert_eq!(records.path, Some("with\nline".into()));
    assert_eq!(records.xattrs, [("user.a".into(), b"x".to_vec())]);
    for bad in [
        &b"x"[..],
        b"5 a=b",
        b"99 a=b\n",
        b"0 a=b\n",
        b"6 a=b\n",
        b"12 mtime=-1\n",
        b"13 mtime=1.x\n",
        b"21 GNU.sparse.major=1\n",
    ] {
        assert!(Records::parse(bad).is_none(), "{:?}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn we_read_what_gnu_tar_writes() {
    let from = tempfile::tempdir().unwrap();
    fill(from.path());
    for ours in [false, true] {
        let to = tempfile::tempdir().unwrap();
        let create =
            ["--create", "--gzip", "--no-unquote", "--no-wildcards", "--one-file-system", "--check-links"];
        let mut tar = Command::new("tar");
        tar.args(create).args(["--preserve-permissions", "--sparse", "--numeric-owner"]);
        if ours {
            tar.arg("--format=posix").args(pax::OPTIONS);
        }
        let tar = tar.arg("--directory").arg(from.path()).arg(".").output().unwrap();
        let items = read(&mut tar.stdout.as_slice()).unwrap().unwrap();
        unpack(to.path(), &items).unwrap();
        let whole = |dir: &Path| listing(dir, ours);
        let seconds = |dir| whole(dir).iter().map(|line| without_fraction(line)).collect::<Vec<_>>();
        match ours {
            true => assert_eq!(whole(to.path()), whole(from.path())),
            false => assert_eq!(seconds(to.path()), seconds(from.path())),
        }
    }
}

/// A line of a listing without the nanoseconds, which an older archive does not have.
fn without_fraction(line: &str) -> String {
    let (before, rest) = line.split_once(", ").unwrap();
    format!("{before}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
}

#[test]
fn what_is_not_simple_is_left_to_tar() {
    type Make = fn(&Path);
    let cases: [(&str, Make); 4] = [
        ("hard link", |dir| {
            std::fs::write(dir.join("a"), "").unwrap();
            std::fs::hard_link(dir.join("a"), dir.join("b")).unwrap();
        }),
        ("large file", |dir| std::fs::write(dir.join("a"), vec![1; MAX_FILE as usize + 1]).unwrap()),
        ("sparse file", |dir| File::create(dir.join("a")).unwrap().set_len(8192).unwrap()),
        ("many files", |dir| {
            (0..MAX_ENTRIES).for_each(|i| std::fs::write(dir.join(i.to_string()), "").unwrap());
        }),
    ];
    for (name, make) in cases {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        assert!(pack(File::open(dir.path()).unwrap()).unwrap().is_none(), "{name}");
        // nor are such archives of tar's taken apart here, but for size alone
        let tar = Command::new("tar")
            .args(["--create", "--gzip", "--sparse", "--directory"])
            .arg(dir.path())
            .arg(".")
            .output()
            .unwrap();
        if name != "large file" {
            assert!(read(&mut tar.stdout.as_slice()).unwrap().is_none(), "{name}");
        }
    }
}

#[test]
fn what_is_no_id_owns_nothing() {
    let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(u64::from(u32::MAX));
    header.set_gid(0);
    archive.append_data(&mut header, "file", std::io::empty()).unwrap();
    let bytes = archive.into_inner().unwrap().finish().unwrap();
    let error = read(&mut bytes.as_slice()).err().unwrap().to_string();
    assert_eq!(error, "file: 4294967295:0 is no owner");
}

#[test]
fn names_do_not_lead_out_of_the_directory() {
    for name in ["../escape", "link/escape", "/escape"] {
        let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let header = |kind| {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o777);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            header
        };
        archive.append_link(&mut header(EntryType::Symlink), "link", "..").unwrap();
        let mut header = header(EntryType::Regular);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, std::io::empty()).unwrap();
        let bytes = archive.into_inner().unwrap().finish().unwrap();
        assert!(read(&mut bytes.as_slice()).unwrap().is_none(), "{name}");
    }
    assert!(read(&mut b"no gzip".as_slice()).is_err());
}

#[test]
fn gzip_reads_small_and_large_archives() {
    for length in [0, 1, usize::from(MAX_STORED), usize::from(MAX_STORED) + 1] {
        let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), compress(&bytes).unwrap()).unwrap();
        let mut gzip = Command::new("gzip");
        let done = gzip.args(["--decompress", "--stdout"]).stdin(file.reopen().unwrap()).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{length}: {done:?}");
        assert!(done.stdout == bytes, "{length}");
    }
}
