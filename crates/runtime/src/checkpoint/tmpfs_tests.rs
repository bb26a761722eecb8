//! Our archives are read by GNU tar, and GNU tar's by us.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use super::*;

const EXTRACT: [&str; 4] = ["--extract", "--gzip", "--no-unquote", "--no-wildcards"];

/// What a small /dev may hold, without device nodes if these tests have no right to make them.
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
    if rustix::process::geteuid().is_root() {
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(&fd, "null", FileType::CharacterDevice, Mode::from_raw_mode(0o666), null)
            .unwrap();
        std::os::unix::fs::lchown(dir.join("shm/file"), Some(1234), Some(4321)).unwrap();
    }
}

/// Everything that an archive keeps, by path.
fn listing(dir: &Path) -> Vec<String> {
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
        lines.push(format!("{name} {mode:o} {uid}:{gid} {device} {} {content}", meta.mtime()));
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
    assert!(tar.stdin(File::open(&archive).unwrap()).status().unwrap().success());
    assert_eq!(listing(&out), listing(from.path()));
}

#[test]
fn we_read_what_gnu_tar_writes() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(from.path());
    let create =
        ["--create", "--gzip", "--no-unquote", "--no-wildcards", "--one-file-system", "--check-links"];
    let tar = Command::new("tar")
        .args(create)
        .args(["--preserve-permissions", "--sparse", "--numeric-owner"])
        .arg("--directory")
        .arg(from.path())
        .arg(".")
        .output()
        .unwrap();
    let items = read(&mut tar.stdout.as_slice()).unwrap().unwrap();
    unpack(&File::open(to.path()).unwrap().into(), &items).unwrap();
    assert_eq!(listing(to.path()), listing(from.path()));
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
