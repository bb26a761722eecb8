//! Changes that are found and made again, and hostile ones.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use tar::{Builder, EntryType, Header};

use super::*;
use crate::archive::layout::{DELETED, DIFF};
use crate::error::chain;

const PLAIN: Applied = Applied { whiteouts: false, devices: false };

struct Made {
    dir: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        let made = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["base", "now", "there", "out"] {
            fs::create_dir(made.path(name)).unwrap();
        }
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn root(&self) -> std::os::fd::OwnedFd {
        open_dir(&self.path("there")).unwrap()
    }

    fn applied(&self, how: Applied) -> Result<()> {
        let file = |name: &str| File::open(self.path("out").join(name)).ok();
        apply(self.root(), file(DIFF).as_ref(), file(DELETED).as_ref(), how)
    }

    /// An archive with these entries: their names, kinds, link targets and content.
    fn archive(&self, entries: &[(&str, EntryType, &str, &[u8])]) {
        let mut builder = Builder::new(File::create(self.path("out").join(DIFF)).unwrap());
        for (name, kind, link, content) in entries {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_mtime(7);
            header.set_uid(rustix::process::geteuid().as_raw().into());
            header.set_gid(rustix::process::getegid().as_raw().into());
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.finish().unwrap();
    }

    #[track_caller]
    fn refuses(&self, entry: (&str, EntryType, &str, &[u8]), why: &str) {
        self.archive(&[entry]);
        let error = chain(&self.applied(PLAIN).unwrap_err());
        assert!(error.ends_with(why), "{error}: {why}");
    }
}

/// The names in a directory and below, with their kinds, permissions, sizes and targets.
fn listed(root: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let (mut found, mut left) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = match meta.file_type() {
                kind if kind.is_file() => fs::read(&path).unwrap(),
                kind if kind.is_symlink() => {
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                }
                _ => Vec::new(),
            };
            found.push((path.strip_prefix(root).unwrap().to_owned(), meta.mode(), content));
            if meta.is_dir() {
                left.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_has_changed_is_found_and_made_elsewhere() {
    if !rustix::process::geteuid().is_root() {
        // open_tree(2) is root's.
        return;
    }
    let made = Made::new();
    for root in ["base", "now", "there"] {
        let root = made.path(root);
        for name in ["gone", "kept", "mode", "longer"] {
            fs::write(root.join(name), name).unwrap();
            File::options()
                .write(true)
                .open(root.join(name))
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH)
                .unwrap();
        }
        fs::create_dir_all(root.join("d/below/deep")).unwrap();
        fs::create_dir(root.join("becomes-a-link")).unwrap();
        fs::write(root.join("becomes-a-link/x"), "x").unwrap();
        symlink("kept", root.join("link")).unwrap();
    }
    let now = made.path("now");
    fs::remove_file(now.join("gone")).unwrap();
    fs::set_permissions(now.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(now.join("longer"), "longer than that").unwrap();
    fs::remove_dir_all(now.join("d/below")).unwrap();
    fs::remove_dir_all(now.join("becomes-a-link")).unwrap();
    symlink("d", now.join("becomes-a-link")).unwrap();
    fs::remove_file(now.join("link")).unwrap();
    symlink("longer", now.join("link")).unwrap();
    fs::create_dir(now.join("new")).unwrap();
    fs::write(now.join("new/one"), "1").unwrap();
    fs::hard_link(now.join("new/one"), now.join("new/two")).unwrap();
    let long = "x".repeat(180);
    fs::write(now.join("new").join(&long), "long").unwrap();
    rustix::fs::lsetxattr(now.join("new/one"), "user.a", b"b", rustix::fs::XattrFlags::empty()).ok();

    let how = RootChanges::default().base(made.path("base"));
    let out = ImageDirectory::open(&made.path("out")).unwrap();
    Root::find(&now, None, &how).unwrap().write(&out).unwrap();
    let gone: Vec<String> =
        serde_json::from_slice(&fs::read(made.path("out").join(DELETED)).unwrap()).unwrap();
    assert_eq!(gone, ["/gone", "/d/below"]);
    let names = Command::new("tar").arg("-tf").arg(made.path("out").join(DIFF)).output().unwrap();
    let names = String::from_utf8(names.stdout).unwrap();
    assert!(!names.contains("kept") && names.contains(&long), "{names}");
    made.applied(PLAIN).unwrap();
    assert_eq!(listed(&made.path("there")), listed(&now));
    let inode = |name: &str| fs::metadata(made.path("there").join("new").join(name)).unwrap();
    assert_eq!(inode("one").ino(), inode("two").ino());
    let times = |root: &str| fs::metadata(made.path(root).join("new/one")).unwrap().modified().unwrap();
    assert_eq!(times("there"), times("now"));

    let own = Root::find(&now, None, &RootChanges::default().base(now.clone())).unwrap_err().to_string();
    assert!(own.contains("is the container's own root"), "{own}");
    let none = Root::find(&now, None, &RootChanges::default()).unwrap_err().to_string();
    assert!(none.contains("is no overlay's mount point; give --base DIR"), "{none}");
}

#[test]
fn what_leads_out_is_refused_by_name() {
    let made = Made::new();
    let regular = EntryType::Regular;
    made.refuses(("../x", regular, "", b""), "../x: leads out of the root filesystem");
    made.refuses(("/etc/../../x", regular, "", b""), "/etc/../../x: leads out of the root filesystem");
    made.refuses(("/x", regular, "", b""), "/x: leads out of the root filesystem");
    made.refuses(
        ("x", EntryType::Link, "../../etc/passwd", b""),
        "x: is a link to what is outside of the root filesystem",
    );
    made.refuses(("x", EntryType::Block, "", b""), "x: is a device; --trust-spec makes it nevertheless");
    made.refuses(("x", EntryType::Char, "", b""), "x: is a device; --trust-spec makes it nevertheless");
    made.refuses(
        ("x", EntryType::new(b'?'), "", b""),
        "x: is of no known kind; expected a file, directory, link or FIFO",
    );
    // A link that was there, or that came before, leads nobody out.
    symlink("/", made.path("there").join("out")).unwrap();
    made.refuses(("out/x", regular, "", b""), "out/x: is below what is no directory here");
    made.archive(&[("l", EntryType::Symlink, "/tmp", b""), ("l/x", regular, "", b"x")]);
    assert!(chain(&made.applied(PLAIN).unwrap_err()).ends_with("l/x: is below what is no directory here"));
    // In the place of a link comes a file, and not where it leads.
    let outside = made.path("outside");
    fs::write(&outside, "safe").unwrap();
    symlink(&outside, made.path("there").join("f")).unwrap();
    made.archive(&[("f", regular, "", b"new")]);
    made.applied(PLAIN).unwrap();
    assert_eq!(fs::read_to_string(&outside).unwrap(), "safe");
    assert_eq!(fs::read_to_string(made.path("there").join("f")).unwrap(), "new");
}

#[test]
fn what_is_deleted_is_below_the_root() {
    let made = Made::new();
    fs::write(made.path("precious"), "x").unwrap();
    for (list, why) in [
        (r#"["/../precious"]"#, "/../precious: leads out of the root filesystem"),
        (r#"["../precious"]"#, "../precious: leads out of the root filesystem"),
        (r#"["/"]"#, "/: leads out of the root filesystem"),
        (r#""x""#, "is no list of paths: invalid type: string \"x\", expected a sequence at line 1 column 3"),
    ] {
        fs::write(made.path("out").join(DELETED), list).unwrap();
        let error = chain(&made.applied(PLAIN).unwrap_err());
        assert!(error.contains(why), "{error}: {why}");
    }
    symlink(made.path(""), made.path("there").join("l")).unwrap();
    fs::write(made.path("out").join(DELETED), r#"["/l/precious"]"#).unwrap();
    made.applied(PLAIN).unwrap_err();
    assert!(made.path("precious").exists());
    fs::write(made.path("out").join(DELETED), r#"["/l", "/never-there"]"#).unwrap();
    made.applied(PLAIN).unwrap();
    assert_eq!(fs::read_dir(made.path("there")).unwrap().count(), 0);
}

#[test]
fn whiteouts_are_those_of_layers_and_else_names() {
    let made = Made::new();
    let there = made.path("there");
    let fill = || {
        let _ = fs::remove_dir_all(there.join("d"));
        fs::create_dir(there.join("d")).unwrap();
        for name in ["a", "b"] {
            fs::write(there.join("d").join(name), name).unwrap();
        }
    };
    let names = || {
        let names = fs::read_dir(there.join("d")).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names.join(" ")
    };
    let (file, layer) = (EntryType::Regular, Applied { whiteouts: true, devices: false });
    for (entries, as_layer, as_files) in [
        (&["d/.wh.a"][..], "b", ".wh.a a b"),
        (&["d/new", "d/.wh..wh..opq"], "new", ".wh..wh..opq a b new"),
        (&["d/.wh.never"], "a b", ".wh.never a b"),
    ] {
        let all: Vec<_> = entries.iter().map(|name| (*name, file, "", &b""[..])).collect();
        made.archive(&all);
        fill();
        made.applied(layer).unwrap();
        assert_eq!(names(), as_layer);
        fill();
        made.applied(PLAIN).unwrap();
        assert_eq!(names(), as_files);
    }
    made.archive(&[("d/.wh...", file, "", b"")]);
    let error = chain(&made.applied(layer).unwrap_err());
    assert!(error.ends_with("d/.wh...: is no whiteout"), "{error}");
}

#[test]
fn sizes_are_believed_only_as_far_as_there_is_room() {
    let made = Made::new();
    made.archive(&[("x", EntryType::Regular, "", b"abc")]);
    let path = made.path("out").join(DIFF);
    let mut bytes = fs::read(&path).unwrap();
    let mut header = Header::from_byte_slice(&bytes[..512]).clone();
    header.set_size(1 << 60);
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = chain(&made.applied(PLAIN).unwrap_err());
    assert!(error.contains("x: has 1152921504606846976 bytes, and"), "{error}");
    assert_eq!(fs::read_dir(made.path("there")).unwrap().count(), 0);
    header.set_size(5000);
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    fs::write(&path, &bytes[..1024]).unwrap();
    let error = chain(&made.applied(PLAIN).unwrap_err());
    assert!(error.contains("is no readable archive"), "{error}");
}
