//! Archives with what a container has changed in its root filesystem, and bundles that are made from archives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{COUNT, count, counts_on};
use hiber_tests::prelude::*;
use hiber_tests::{command, tools};

/// An overlay over busybox, which is the root of a bundle.
struct Overlay {
    at: PathBuf,
}

impl Overlay {
    #[track_caller]
    fn mount(bundle: &Path) -> Self {
        let overlay = Self { at: bundle.join("rootfs") };
        for name in ["upper", "work"] {
            fs::create_dir(bundle.join(name)).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            busybox().display(),
            bundle.join("upper").display(),
            bundle.join("work").display()
        );
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(&overlay.at);
        command::run(mount, b"").ok();
        overlay
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        umount.arg("--lazy").arg(&self.at);
        command::run(umount, b"");
    }
}

fn busybox() -> &'static Path {
    tools::rootfs_busybox().unwrap_or_else(|e| panic!("no root filesystem: {e}"))
}

/// The container changes its root by this before it counts, and holds a new file open.
const CHANGE: &str = "echo hi >/etc/changed; rm /etc/passwd; rm -r /etc/init.d 2>/dev/null; mkdir -p /new/dir; \
                      ln -s /etc /new/link; echo held >/held; exec 7</held; chmod 750 /root;";

fn changing(c: &Container) -> u64 {
    c.run_detached().ok();
    wait_for("a count of 3", || count(c) >= 3);
    count(c)
}

fn bundle() -> Bundle {
    Bundle::busybox().shell(&format!("{CHANGE} {COUNT}"))
}

/// Checks that the root at `root` is what the container has made of busybox.
#[track_caller]
fn assert_changed(root: &Path) {
    assert_eq!(fs::read_to_string(root.join("etc/changed")).unwrap(), "hi\n");
    assert!(!root.join("etc/passwd").exists());
    assert!(root.join("etc/group").exists(), "the rest is there");
    assert_eq!(fs::read_link(root.join("new/link")).unwrap(), Path::new("/etc"));
    assert!(root.join("new/dir").is_dir());
}

/// `restore --import ARCHIVE` into another bundle.
fn import(c: &Container, bundle: &Path, archive: &Path, flags: &[&str]) -> Output {
    let (bundle, archive) = (bundle.to_str().unwrap(), archive.to_str().unwrap());
    c.call_detached("restore", &[&["--detach", "--bundle", bundle, "--import", archive], flags].concat())
}

#[test]
fn changes_of_an_overlay_go_along() {
    require!(Root, Criu, Filesystem("overlay"));
    let c = Runtime::hiber().container(bundle());
    fs::remove_dir_all(c.bundle().join("rootfs")).unwrap();
    fs::create_dir(c.bundle().join("rootfs")).unwrap();
    let overlay = Overlay::mount(&c.bundle().join(""));
    let (before, archive) = (changing(&c), c.bundle().join("c.tar"));
    c.call("checkpoint", &["--export", archive.to_str().unwrap(), "--with-rootfs"]).ok();
    drop(overlay);
    c.assert_clean();
    c.runtime().run(&["inspect", "--verify", archive.to_str().unwrap()]).ok();
    let new = c.bundle().join("new");
    import(&c, &new, &archive, &["--base", busybox().to_str().unwrap()]).ok();
    assert_changed(&new.join("rootfs"));
    counts_on(&c, before);
    c.delete(&["--force"]).ok();
    assert!(new.join("config.json").exists(), "the bundle is the caller's");
}

#[test]
fn changes_are_found_by_comparison_also_of_a_container_that_runs_on() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(bundle());
    let (before, archive) = (changing(&c), c.bundle().join("c.tar"));
    let export = |flags: &[&str]| {
        c.call("checkpoint", &[&["--leave-running", "--export", archive.to_str().unwrap()], flags].concat())
    };
    export(&["--with-rootfs"]).fails("is no overlay's mount point; give --base DIR");
    export(&["--with-rootfs", "--base", "/nowhere"]).fails("/nowhere: No such file or directory");
    c.call("checkpoint", &["--base", "/"]).fails("--base needs --export");
    assert!(!archive.exists());
    export(&["--with-rootfs", "--base", busybox().to_str().unwrap()]).ok();
    counts_on(&c, before);
    c.delete(&["--force"]).ok();
    // Into a root that is there, if that is asked for.
    let new = c.bundle().join("new");
    fs::create_dir(&new).unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(busybox()).arg(new.join("rootfs"));
    command::run(copy, b"").ok();
    import(&c, &new, &archive, &["--with-rootfs"]).ok();
    assert_changed(&new.join("rootfs"));
    counts_on(&c, before);
}

#[test]
fn a_bundle_that_cannot_be_made_leaves_nothing() {
    require!(Root, Criu);
    let c = Runtime::hiber().container(bundle());
    changing(&c);
    let archive = c.bundle().join("c.tar");
    let base = busybox().to_str().unwrap();
    c.call("checkpoint", &["--export", archive.to_str().unwrap(), "--compress", "none"]).ok();
    let (new, parent) = (c.bundle().join("made/new"), c.bundle().join("made"));
    fs::create_dir(&parent).unwrap();
    let nothing = || fs::read_dir(&parent).unwrap().count() == 0 && c.status() == "gone";
    import(&c, &new, &archive, &[]).fails("has no config.json, and no rootfs");
    assert!(nothing());
    import(&c, &new, &archive, &["--base", "/nowhere"]).fails("copy the root filesystem of --base");
    assert!(nothing());
    // The file that the container holds open is among its changes, which are not in the archive: CRIU refuses.
    import(&c, &new, &archive, &["--base", base]).fails("held");
    assert!(nothing());
    // A directory with a root alone keeps that.
    fs::create_dir(&new).unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(busybox()).arg(new.join("rootfs"));
    command::run(copy, b"").ok();
    import(&c, &new, &archive, &[]).fails("held");
    let left: Vec<_> = fs::read_dir(&new).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["rootfs"]);
    import(&c, &new, &archive, &["--base", base]).fails("has a rootfs; --base is for one that is copied");
    c.assert_clean();
    for (flags, why) in [
        (&["--with-rootfs", "--prove"][..], "--with-rootfs changes the root filesystem"),
        (&["--base", base], "has a config.json; --base is for a bundle that is made"),
    ] {
        let (bundle, archive) = (c.bundle_path(), archive.to_str().unwrap());
        c.call("restore", &[&["--bundle", &bundle, "--import", archive], flags].concat()).fails(why);
    }
    c.call("restore", &["--bundle", &c.bundle_path(), "--trust-spec"]).fails("--trust-spec needs --import");
}

/// An archive grants itself nothing: where nobody else's config.json does, it gets what an ordinary container has.
#[test]
fn an_archive_that_asks_for_more_is_refused_by_name() {
    require!(Root, Criu);
    let host = tempfile::tempdir().unwrap();
    let more = Bundle::busybox().shell(COUNT).edit(|config| {
        let mount =
            json!({"destination": "/tmp", "type": "bind", "source": host.path(), "options": ["rbind"]});
        config["mounts"].as_array_mut().unwrap().push(mount);
        config["annotations"] = json!({"org.systemd.property.TimeoutStopUSec": "uint64 1"});
        config["linux"]["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
    });
    let c = Runtime::hiber().container(more);
    let (before, archive) = (changing(&c), c.bundle().join("c.tar"));
    c.call("checkpoint", &["--export", archive.to_str().unwrap(), "--compress", "none"]).ok();
    let (new, base) = (c.bundle().join("new"), busybox().to_str().unwrap());
    let refused = import(&c, &new, &archive, &["--base", base]);
    for part in [
        "asks for more than an ordinary container has",
        &format!("mounts: /tmp is bind of {}", host.path().display()),
        "annotations.org.systemd.property.TimeoutStopUSec: is obeyed",
        "linux.devices: /dev/kmsg",
        "--trust-spec grants it",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    assert!(!refused.status.success() && !new.exists());
    // A spec.dump that was changed afterwards is none that the manifest knows.
    let whole = fs::read(&archive).unwrap();
    let at = whole.windows(9).position(|at| at == b"/dev/kmsg").unwrap();
    let mut changed = whole.clone();
    changed[at..at + 9].copy_from_slice(b"/dev/null");
    fs::write(&archive, &changed).unwrap();
    import(&c, &new, &archive, &["--base", base]).fails("spec.dump: its content is not what was written");
    fs::write(&archive, &whole).unwrap();
    import(&c, &new, &archive, &["--base", base, "--trust-spec"]).ok();
    counts_on(&c, before);
}
