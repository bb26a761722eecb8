//! A container moves together with its bundle.

use crate::migrate::{assert_gone, migrate, migration, receiver, remembered, there};
use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;
use hiber_tests::tmpfs::Tmpfs;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A bundle whose cgroup goes by the container's id, which is another one there.
pub(crate) fn bundle() -> Bundle {
    Bundle::busybox().edit(|config| config["linux"]["cgroupsPath"] = serde_json::Value::Null)
}

/// Where the bundle comes to: a directory that is not there yet.
fn place(there: &Container) -> PathBuf {
    there.bundle().join("received/bundle")
}

/// Somewhere to go, and the flags by which the bundle comes there, too.
pub(crate) fn elsewhere() -> (Container, PathBuf, Vec<String>) {
    let there = there(bundle());
    let place = place(&there);
    fs::create_dir(place.parent().unwrap()).unwrap();
    let flags = ["--rootfs", "sync", "--bundle", &place.display().to_string()].map(str::to_owned).to_vec();
    (there, place, flags)
}

pub(crate) fn words(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// GNU tar's archive of a directory: all that it knows of the files there.
#[track_caller]
pub(crate) fn archive(directory: &Path) -> String {
    let mut tar = std::process::Command::new("sh");
    let script = "tar --sort=name --numeric-owner --xattrs --xattrs-include='*' --format=posix --pax-option=delete=atime,delete=ctime \
                  -C \"$1\" -c . | sha256sum";
    tar.args(["-c", script, "sh"]).arg(directory);
    hiber_tests::command::run(tar, b"").ok().to_owned()
}

/// The names in the directory in which a bundle was to come.
pub(crate) fn beside(place: &Path) -> Vec<String> {
    let entries = fs::read_dir(place.parent().unwrap()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

pub(crate) const KINDS: &str = "mkdir -p \"$1/kinds/deep/er\" && cd \"$1/kinds\" && echo text >file && ln file deep/er/linked && \
    ln -s ../nowhere link && mkfifo fifo && mknod null c 1 3 && mknod loop b 7 300 && \
    truncate -s 1G sparse && printf end >>sparse && cp file set && chown 4711:4712 set && chmod 6755 set && \
    chmod 1777 deep && touch -d '2001-02-03 04:05:06.789' file && touch -h -d '1969-01-01' link";

#[test]
fn a_bundle_comes_along() {
    require!(Root, Criu);
    let writes = "exec 3>/kept; i=0; mkdir /churn; while :; do i=$((i+1)); echo $i >&3; echo $i >>/log; \
                  echo $i >/churn/$i; rm -f /churn/$((i-3)); echo $i >/dev/shm/count; sleep 0.02; done";
    let c = Runtime::hiber().container(bundle().shell(writes));
    let mut make = std::process::Command::new("sh");
    make.args(["-ec", KINDS, "sh"]).arg(c.bundle().rootfs());
    hiber_tests::command::run(make, b"").ok();
    let (kinds, file) = (c.bundle().rootfs().join("kinds"), c.bundle().rootfs().join("kinds/file"));
    rustix::fs::lsetxattr(&file, "user.of a file", b"\0\xff", rustix::fs::XattrFlags::empty()).unwrap();
    c.run_detached().ok();
    wait_for("numbers", || count(&c) > 10);
    let (there, place, flags) = elsewhere();
    // So slowly that files come and go meanwhile.
    migrate(&c, &there, &[&words(&flags)[..], &["--bandwidth", "2M", "--compress", "none"]].concat()).ok();
    assert_gone(&c);
    assert_eq!(there.status(), "running");
    assert_eq!(beside(&place), ["bundle"]);
    assert_eq!(archive(&place.join("rootfs/kinds")), archive(&kinds));
    assert!(fs::metadata(place.join("rootfs/kinds/sparse")).unwrap().blocks() < 100);
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(place.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["args"], c.bundle().config()["process"]["args"]);
    let mut names: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "rootfs"]);
    let before = count(&there);
    wait_for("more numbers", || count(&there) > before + 10);
    there.kill("KILL").ok();
    there.wait_stopped();
    for name in ["log", "kept"] {
        let text = fs::read_to_string(place.join("rootfs").join(name)).unwrap();
        let lines: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert!(lines.len() > 20 && lines.iter().copied().eq(1..=lines.len()), "{name}: {lines:?}");
    }
    let left = fs::read_dir(place.join("rootfs/churn")).unwrap().count();
    assert!(left <= 5, "{left} files that the source has removed");
    // Nothing was changed at the source, and it can go back from there.
    assert!(c.bundle().rootfs().join("log").exists());
}

/// Writes to a mapped file leave few traces in its times; on a tmpfs none at all.
#[test]
fn what_is_written_through_a_mapping_is_not_lost() {
    require!(Root, Criu, CPrograms);
    let disk = tempfile::tempdir().unwrap();
    let _disk = Tmpfs::mount(disk.path(), (64 << 20) / rustix::param::page_size());
    let bundle = bundle().args(["/bin/mapper"]);
    hiber_tests::programs::install("mapper", &bundle);
    let mut copy = std::process::Command::new("cp");
    copy.arg("-a").arg(bundle.rootfs()).arg(disk.path());
    hiber_tests::command::run(copy, b"").ok();
    let root = disk.path().join("rootfs");
    let c = Runtime::hiber().container(bundle.edit(|config| config["root"]["path"] = json!(root)));
    c.run_detached().ok();
    wait_for("a count", || count(&c) > 2);
    // So old that times are believed.
    std::thread::sleep(Duration::from_millis(2500));
    let (there, place, flags) = elsewhere();
    migrate(&c, &there, &[&words(&flags)[..], &["--bandwidth", "4M", "--compress", "none"]].concat()).ok();
    counts_on(&there, 3);
    assert!(!place.join("rootfs/fail").exists(), "{:?}", fs::read_to_string(place.join("rootfs/fail")));
}

#[test]
fn a_root_that_is_elsewhere_comes_into_the_bundle() {
    require!(Root, Criu);
    let outside = tempfile::tempdir().unwrap();
    let c = Runtime::hiber().container(bundle().shell("sleep 1000").edit(|config| {
        config["root"]["path"] = json!(outside.path().join("root"));
    }));
    fs::rename(c.bundle().rootfs(), outside.path().join("root")).unwrap();
    c.run_detached().ok();
    let (there, place, flags) = elsewhere();
    migrate(&c, &there, &words(&flags)).ok();
    assert!(place.join("rootfs/bin/sh").exists());
    assert_eq!(there.sh("echo there").trim(), "there");
}

#[test]
fn a_bundle_that_cannot_come_is_refused_before_anything_moves() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), bundle());
    let (there, place, flags) = elsewhere();
    let flags = words(&flags);
    let refused = |flags: &[&str], why: &str| {
        for flags in [flags, &[flags, &["--dry-run"]].concat()] {
            migrate(&c, &there, flags).fails(why).exited(1);
            counts_on(&c, count(&c));
        }
        assert_gone(&there);
    };
    // Where the usual bundle of that container is.
    refused(&["--rootfs", "sync"], "exists and is not empty; --rootfs sync makes a new one");
    refused(&["--rootfs", "sync", "--bundle", "relative"], "bundle relative: expected an absolute path");
    let nowhere = place.join("deeper/bundle").display().to_string();
    refused(&["--rootfs", "sync", "--bundle", &nowhere], "no such file or directory");
    std::os::unix::fs::symlink("/tmp", &place).unwrap();
    refused(&flags, "exists and is no directory");
    fs::remove_file(&place).unwrap();
    {
        let parent = place.parent().unwrap();
        let _small = Tmpfs::mount(parent, 20);
        migrate(&c, &there, &flags).fails("not enough room in").exited(1);
        assert_eq!(beside(&place), Vec::<String>::new());
    }
    let command = format!("{} --rootfs same", receiver(&there));
    let output = hiber_tests::command::run(migration(&c, &there, &flags, &command), b"");
    output.fails("--rootfs sync: this receiver takes no bundles");
    migrate(&c, &there, &["--rootfs", "copy"]).fails("expected same or sync");
    assert_eq!(beside(&place), Vec::<String>::new());
    // An empty directory is no bundle yet.
    fs::create_dir(&place).unwrap();
    migrate(&c, &there, &[&flags[..], &["--dry-run"]].concat()).ok();
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    migrate(&c, &there, &flags).ok();
    counts_on(&there, 3);
}

/// A container with so much in its root filesystem that it takes seconds, and how to send it.
fn large() -> (Container, Container, PathBuf, Vec<String>) {
    let c = counter(&Runtime::hiber(), bundle());
    let mut random = fs::File::open("/dev/urandom").map(|file| std::io::Read::take(file, 12 << 20)).unwrap();
    std::io::copy(&mut random, &mut fs::File::create(c.bundle().rootfs().join("large")).unwrap()).unwrap();
    let (there, place, mut flags) = elsewhere();
    flags.extend(["--bandwidth".to_owned(), "6M".to_owned()]);
    (c, there, place, flags)
}

#[test]
fn a_disk_that_is_full_lets_it_run_on_here() {
    require!(Root, Criu);
    let (c, there, place, flags) = large();
    let parent = place.parent().unwrap().to_owned();
    let disk = Tmpfs::mount(&parent, (24 << 20) / rustix::param::page_size());
    std::thread::scope(|scope| {
        let filler = scope.spawn(|| {
            // When the bundle has been begun, somebody else takes the room.
            let begun = || beside(&place).iter().any(|name| name.starts_with(".bundle"));
            wait_for("the bundle", begun);
            std::thread::sleep(Duration::from_millis(300));
            let mut zeros = std::io::repeat(0);
            let _ = std::io::copy(&mut zeros, &mut fs::File::create(parent.join("other")).unwrap());
        });
        let output = migrate(&c, &there, &words(&flags));
        output.fails("refuses").fails("no space left on device").exited(1);
        filler.join().unwrap();
    });
    counts_on(&c, count(&c));
    assert_eq!(beside(&place), ["other"]);
    drop(disk);
    assert_gone(&there);
    assert_eq!(remembered(c.runtime()), Vec::<PathBuf>::new());
}

/// Whatever a killed receiver has left goes with the next migration to there, or when the container is removed.
#[test]
fn a_receiver_that_is_killed_leaves_no_bundle_for_long() {
    require!(Root, Criu);
    let (c, there, place, flags) = large();
    let mark = there.bundle().join("pid");
    let command = format!("sh -c 'echo $$ >{}; exec {}'", mark.display(), receiver(&there));
    let complete = place.join("config.json");
    let begun = || beside(&place).iter().any(|name| name.starts_with(".bundle"));
    let moments: [(&str, &dyn Fn() -> bool); 2] = [("begun", &begun), ("complete", &|| complete.exists())];
    for (moment, reached) in moments {
        let mut source = migration(&c, &there, &words(&flags), &command);
        let mut source = source.stderr(std::process::Stdio::null()).spawn().unwrap();
        let end = std::time::Instant::now() + hiber_tests::PATIENCE;
        while !reached() {
            assert!(std::time::Instant::now() < end && source.try_wait().unwrap().is_none(), "{moment}");
            std::thread::sleep(Duration::from_micros(200));
        }
        let pid = fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        assert_eq!(source.wait().unwrap().code(), Some(1), "{moment}");
        counts_on(&c, count(&c));
        there.delete(&["--force"]);
        migrate(&c, &there, &[&words(&flags)[..], &["--dry-run"]].concat()).ok();
        assert_gone(&there);
        assert_eq!(beside(&place), Vec::<String>::new(), "{moment}");
    }
    migrate(&c, &there, &words(&flags)).ok();
    counts_on(&there, 3);
    assert_eq!(c.status(), "gone");
}
