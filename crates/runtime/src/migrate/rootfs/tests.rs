//! A root file system is copied in passes, while it changes.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, OFlags, XattrFlags};

use super::change::{Change, Content, Make, Meta, NodeKind, Raw};
use super::target::Target;
use super::tree::Tree;
use crate::host::xattrs;

/// A tree, its copy, and the bytes of files that went over in the last pass.
struct Pair {
    from: tempfile::TempDir,
    to: tempfile::TempDir,
    tree: Tree,
    target: Target,
}

fn open(path: &Path) -> std::os::fd::OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

impl Pair {
    /// Beside this program, on a disk.
    fn new() -> Self {
        let place = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        Self::of(tempfile::tempdir_in(&place).unwrap(), tempfile::tempdir_in(&place).unwrap())
    }

    fn of(from: tempfile::TempDir, to: tempfile::TempDir) -> Self {
        let (tree, target) = (Tree::open(from.path()).unwrap(), Target::new(open(to.path())));
        Self { from, to, tree, target }
    }

    /// A pass; how many steps and bytes it took.
    fn pass(&mut self) -> (usize, usize) {
        let (mut steps, mut sent) = (0, 0);
        self.tree
            .pass([], &mut |changes, mut bytes| {
                let announced: u64 = changes.iter().map(|change| change.bytes().unwrap()).sum();
                assert_eq!(announced, bytes.len() as u64);
                let json = serde_json::to_vec(&changes).unwrap();
                assert_eq!(serde_json::from_slice::<Vec<Change>>(&json).unwrap(), changes);
                (steps, sent) = (steps + changes.len(), sent + bytes.len());
                changes.iter().try_for_each(|change| self.target.apply(change, &mut bytes))
            })
            .unwrap();
        (steps, sent)
    }

    #[track_caller]
    fn assert_same(&self, when: &str) {
        let (here, there) = (listing(self.from.path()), listing(self.to.path()));
        for (a, b) in here.iter().zip(&there) {
            assert_eq!(a, b, "{when}");
        }
        assert_eq!(here.len(), there.len(), "{when}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.from.path().join(name)
    }
}

/// All that is to be the same of a tree.
fn listing(root: &Path) -> Vec<String> {
    let (mut left, mut all) = (vec![PathBuf::new()], Vec::new());
    while let Some(path) = left.pop() {
        let whole = root.join(&path);
        let found = fs::symlink_metadata(&whole).unwrap();
        if found.is_dir() {
            left.extend(fs::read_dir(&whole).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        }
        all.push((path, found));
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    let group = |inode: u64| all.iter().position(|(_, found)| found.ino() == inode);
    let line = |(path, found): &(PathBuf, fs::Metadata)| {
        let whole = root.join(path);
        let content = match FileType::from_raw_mode(found.mode()) {
            FileType::RegularFile => blake3::hash(&fs::read(&whole).unwrap()).to_hex().to_string(),
            FileType::Symlink => format!("{:?}", fs::read_link(&whole).unwrap()),
            _ => format!("{}", found.rdev()),
        };
        let size = if found.is_dir() { 0 } else { found.size() };
        let times = (found.mtime(), found.mtime_nsec());
        let (mode, owner) = (found.mode(), (found.uid(), found.gid()));
        let mut attributes = xattrs::of(&whole).unwrap();
        attributes.sort();
        let group = group(found.ino());
        format!("{path:?} {mode:o} {owner:?} {times:?} {size} {content} {group:?} {attributes:?}")
    };
    all.iter().map(line).collect()
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// An access control list by which user 4711 may read (linux/posix_acl_xattr.h).
fn acl() -> Vec<u8> {
    let entry = |tag: u16, may: u16, id: u32| {
        [&tag.to_le_bytes()[..], &may.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let entries =
        [entry(1, 6, none), entry(2, 4, 4711), entry(4, 4, none), entry(16, 4, none), entry(32, 0, none)];
    [2_u32.to_le_bytes().to_vec(), entries.concat()].concat()
}

fn skip() -> bool {
    // A copy of a mount is root's to make.
    !rustix::process::geteuid().is_root()
}

#[test]
fn all_kinds_of_files_come_as_they_are() {
    if skip() {
        return;
    }
    let mut pair = Pair::new();
    let at = |name: &str| pair.path(name);
    fs::create_dir_all(at("etc/deep/er")).unwrap();
    fs::write(at("etc/passwd"), "root:x:0:0").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::set_permissions(at("etc/deep"), fs::Permissions::from_mode(0o3711)).unwrap();
    let name = std::ffi::OsStr::new("not \u{e4}scii, and % ");
    fs::write(pair.from.path().join(name), vec![7; 300_000]).unwrap();
    let bytes = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"no\xfftext\n");
    fs::write(pair.from.path().join(bytes), "x").unwrap();
    std::os::unix::fs::symlink("/etc/../nowhere", at("link")).unwrap();
    fs::hard_link(at("etc/passwd"), at("etc/deep/er/other name")).unwrap();
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        ("loop", FileType::BlockDevice, rustix::fs::makedev(7, 300)),
    ] {
        rustix::fs::mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o620), device).unwrap();
    }
    // Set-user-id and a capability, both of which a change of owner takes away: cap_net_raw=ep (linux/capability.h).
    fs::write(at("ping"), "#!").unwrap();
    std::os::unix::fs::chown(at("ping"), Some(4711), Some(4712)).unwrap();
    fs::set_permissions(at("ping"), fs::Permissions::from_mode(0o4755)).unwrap();
    let capability = [0x0200_0001_u32, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
    set_xattr(&at("ping"), "security.capability", &capability);
    set_xattr(&at("ping"), "user.of a file", b"1\0\xff");
    set_xattr(&at("etc"), "trusted.directory", b"2");
    fs::write(at("listed"), "x").unwrap();
    set_xattr(&at("listed"), "system.posix_acl_access", &acl());
    set_xattr(&at("etc"), "system.posix_acl_default", &acl());
    rustix::fs::utimensat(
        CWD,
        at("link"),
        &rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 6 },
            last_modification: rustix::fs::Timespec { tv_sec: -7, tv_nsec: 123_456_789 },
        },
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
    pair.pass();
    pair.assert_same("after a pass");
    pair.pass();
    pair.assert_same("after a second one");
    assert!(listing(pair.to.path()).iter().any(|line| line.contains("(-7, 123456789)")));
}

#[test]
fn a_second_pass_sends_what_has_changed() {
    if skip() {
        return;
    }
    let mut pair = Pair::new();
    let at = |pair: &Pair, name: &str| pair.path(name);
    let large: Vec<u8> = (0..16_u32 << 20).map(|n| (n / 5) as u8).collect();
    fs::write(at(&pair, "large"), &large).unwrap();
    (0..2000).for_each(|n| fs::write(at(&pair, &format!("f{n}")), vec![n as u8; 100]).unwrap());
    let (steps, bytes) = pair.pass();
    assert!(steps > 2000 && bytes == (16 << 20) + 200_000, "{steps} {bytes}");
    // So old that their times tell of each change.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    pair.pass();
    assert_eq!(pair.pass(), (0, 0));
    let file = fs::File::options().write(true).open(at(&pair, "large")).unwrap();
    file.write_all_at(b"changed", 5 << 20).unwrap();
    fs::rename(at(&pair, "f1"), at(&pair, "renamed")).unwrap();
    fs::remove_file(at(&pair, "f2")).unwrap();
    let (steps, bytes) = pair.pass();
    assert!(steps < 8 && bytes == 128 << 10, "{steps} {bytes}");
    pair.assert_same("after the change");
}

#[test]
fn holes_stay_holes() {
    if skip() {
        return;
    }
    let mut pair = Pair::new();
    let path = pair.path("sparse");
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(b"in the middle", 1 << 39).unwrap();
    file.write_all_at(&[1; 5000], (7 << 17) + 100_000).unwrap();
    let there = pair.to.path().join("sparse");
    let same = |when: &str| {
        let (here, there) = (fs::metadata(&path).unwrap(), fs::metadata(&there).unwrap());
        assert_eq!((here.size(), here.blocks()), (there.size(), there.blocks()), "{when}");
    };
    file.set_len(1 << 30).unwrap();
    pair.pass();
    same("a sparse file");
    pair.assert_same("a sparse file");
    file.set_len(100).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(&[3; 300_000], 1 << 20).unwrap();
    pair.pass();
    pair.assert_same("cut off and grown");
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, hole, 1 << 20, 200_704).unwrap();
    pair.pass();
    same("a new hole");
    pair.assert_same("a new hole");
}

#[test]
fn what_is_mounted_below_stays_and_what_is_under_it_comes() {
    if skip() {
        return;
    }
    let from = tempfile::tempdir().unwrap();
    let mounted = from.path().join("mounted");
    fs::create_dir(&mounted).unwrap();
    fs::write(mounted.join("below"), "x").unwrap();
    rustix::mount::mount("tmpfs", &mounted, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let mut pair = Pair::of(from, tempfile::tempdir().unwrap());
    fs::write(mounted.join("above"), "x").unwrap();
    pair.pass();
    rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::empty()).unwrap();
    pair.assert_same("without the mount");
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// Opened to be written; nobody waits at a FIFO.
fn writing(create: bool, path: &Path) -> std::io::Result<fs::File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    fs::File::options().write(true).create(create).custom_flags(flags).open(path)
}

/// Does something to a tree; errors are no matter.
fn disturb(root: &Path, dice: &mut Dice) {
    let names = ["a", "b", "c", "d"];
    let mut path = || -> PathBuf {
        let depth = 1 + dice.below(3);
        (0..depth).fold(root.to_owned(), |path, _| path.join(names[dice.below(names.len())]))
    };
    let (one, other) = (path(), path());
    let _ = match dice.below(13) {
        0 | 1 => writing(true, &one)
            .and_then(|file| file.write_all_at(&vec![dice.below(256) as u8; dice.below(400_000)], 0)),
        2 => fs::create_dir(&one),
        3 => fs::remove_file(&one),
        4 => fs::remove_dir_all(&one),
        5 => fs::rename(&one, &other),
        6 => fs::hard_link(&one, &other),
        7 => std::os::unix::fs::symlink("a/b", &one),
        8 => rustix::fs::mknodat(CWD, &one, FileType::Fifo, Mode::RUSR, 0).map_err(Into::into),
        9 => fs::set_permissions(&one, fs::Permissions::from_mode(0o600 + dice.below(0o77) as u32)),
        10 => std::os::unix::fs::lchown(&one, Some(dice.below(9) as u32), None),
        11 => rustix::fs::lsetxattr(&one, "trusted.x", &[dice.below(9) as u8], XattrFlags::empty())
            .map_err(Into::into),
        _ => writing(false, &one).and_then(|file| {
            file.write_all_at(b"some", dice.below(300_000) as u64)?;
            file.set_len(dice.below(500_000) as u64)
        }),
    };
}

#[test]
fn after_any_changes_a_pass_makes_it_the_same() {
    if skip() {
        return;
    }
    for seed in 0..20 {
        let (mut pair, mut dice) = (Pair::new(), Dice(seed));
        for pass in 0..12 {
            (0..60).for_each(|_| disturb(pair.from.path(), &mut dice));
            pair.pass();
            pair.assert_same(&format!("seed {seed}, pass {pass}"));
        }
    }
}

#[test]
fn a_tree_that_changes_while_it_is_read_is_the_same_once_it_stands_still() {
    if skip() {
        return;
    }
    let mut pair = Pair::new();
    let (root, stop) = (pair.from.path().to_owned(), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice(7);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                disturb(&root, &mut dice);
            }
        });
        for _ in 0..50 {
            pair.pass();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    pair.pass();
    pair.assert_same("at rest");
}

/// A directory, and one outside of it that no step may reach.
fn victim() -> (tempfile::TempDir, Target, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "mine").unwrap();
    let target = Target::new(open(&root));
    (dir, target, outside)
}

fn step(path: &[u8], make: Make) -> Change {
    Change { path: Raw(path.to_vec()), make, meta: None }
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    let (_dir, mut target, outside) = victim();
    let link = Make::Symlink(Raw(outside.as_os_str().as_encoded_bytes().to_vec()));
    target.apply(&step(b"link", link), &mut &[][..]).unwrap();
    target.apply(&step(b"up", Make::Symlink(Raw(b"../outside".to_vec()))), &mut &[][..]).unwrap();
    target.apply(&step(b"dir", Make::Directory), &mut &[][..]).unwrap();
    let file = |new| Make::File(Content { new, size: 3, data: vec![(0, 3)], holes: vec![] });
    let long = vec![b'a'; 256];
    let deep = b"a/".repeat(2048);
    let before = listing(&outside);
    for path in [
        &b"../outside/new"[..],
        b"/etc/new",
        b"link/new",
        b"link/file",
        b"up/file",
        b"dir/../../outside/file",
        b"dir/./x",
        b"dir//x",
        b"./x",
        b"x/",
        b"..",
        b".",
        b"",
        b"x\0y",
        b"link",
        &long,
        &deep,
    ] {
        let node = Make::Node { kind: NodeKind::Fifo, major: 0, minor: 0 };
        for make in [Make::Directory, file(true), file(false), Make::Link(Raw(b"dir".to_vec())), node] {
            let refused = target.apply(&step(path, make.clone()), &mut &b"abc"[..]);
            assert!(refused.is_err(), "{:?} {make:?}", String::from_utf8_lossy(path));
        }
    }
    for to in [&b"link/file"[..], b"../outside/file", b"up/file", b"/etc/passwd"] {
        assert!(target.apply(&step(b"stolen", Make::Link(Raw(to.to_vec()))), &mut &[][..]).is_err());
    }
    // A link is removed itself, and gets an owner itself.
    let meta = Meta { mode: 0o777, uid: 5, gid: 5, mtime: (1, 1), atime: (1, 1), xattrs: vec![] };
    target.apply(&Change { meta: Some(meta.clone()), ..step(b"link", Make::Nothing) }, &mut &[][..]).unwrap();
    for odd in [
        Meta { uid: u32::MAX, ..meta.clone() },
        Meta { mtime: (0, 1_073_741_823), ..meta.clone() },
        Meta { atime: (0, 1_073_741_822), ..meta },
    ] {
        let change = Change { meta: Some(odd), ..step(b"dir", Make::Nothing) };
        assert!(target.apply(&change, &mut &[][..]).is_err(), "{change:?}");
    }
    target.apply(&step(b"link", Make::Removal), &mut &[][..]).unwrap();
    assert_eq!(listing(&outside), before);
}

#[test]
fn ranges_that_lie_are_refused() {
    let (_dir, mut target, _) = victim();
    for (size, data, holes) in [
        (3, vec![(0, 4)], vec![]),
        (3, vec![(u64::MAX, 2)], vec![]),
        (3, vec![(1, 0)], vec![]),
        (3, vec![], vec![(2, u64::MAX)]),
        (1 << 63, vec![(0, 1)], vec![]),
        (9, vec![(0, 9)], vec![]),
    ] {
        let make = Make::File(Content { new: true, size, data, holes });
        assert!(target.apply(&step(b"file", make.clone()), &mut &b"abcd"[..]).is_err(), "{make:?}");
        let _ = target.apply(&step(b"file", Make::Removal), &mut &[][..]);
    }
    let endless = Make::File(Content { data: vec![(0, u64::MAX), (0, 1)], ..Content::default() });
    assert_eq!(step(b"file", endless).bytes(), None);
}
