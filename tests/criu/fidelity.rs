//! The properties of a container, against what config.json made: its mounts. Each try ends in a refusal, and the container runs on,
//! or in a container that is restored whole.

use crate::failures::{finding, preflight};
use crate::{count, counter, counts_on, sleep_and_wake};
use hiber_tests::bundle::push;
use hiber_tests::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a program of the container's in its mount namespace, with the host's rights.
#[track_caller]
fn inside(c: &Container, args: &[&str]) {
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount=/proc/{}/ns/mnt", c.pid())).args(args);
    hiber_tests::command::run(command, b"").ok();
}

#[track_caller]
fn host(program: &str, args: &[&str]) {
    let mut command = Command::new(program);
    command.args(args);
    hiber_tests::command::run(command, b"").ok();
}

/// A file as the container sees it.
fn seen(c: &Container, path: &str) -> String {
    fs::read_to_string(format!("/proc/{}/root{path}", c.pid())).unwrap_or_else(|e| format!("{e}"))
}

/// A tmpfs of the host's, while the test runs, and not in the bundle, where it would be something left behind.
struct Tmpfs(PathBuf);

impl Tmpfs {
    #[track_caller]
    fn new(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        host("mount", &["-t", "tmpfs", "hiber-test", at.to_str().unwrap()]);
        Self(at)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A bundle with a bind of its directory `volume`, or of a file `conf`, at `/volume` or `/etc/conf`.
fn bundle(name: &str, options: &[&str]) -> Bundle {
    let bundle = Bundle::busybox();
    let source = bundle.join(name);
    let destination = if name == "conf" {
        fs::write(&source, "old").unwrap();
        "/etc/conf"
    } else {
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "old").unwrap();
        "/volume"
    };
    let source = source.to_str().unwrap().to_owned();
    bundle.mount(json!({"destination": destination, "type": "bind", "source": source, "options": options}))
}

/// A bundle with a bind of a directory outside of it at `/volume`, and that directory.
fn outer(options: &[&str]) -> (Bundle, tempfile::TempDir) {
    let volume = tempfile::tempdir().unwrap();
    let source = volume.path().to_str().unwrap();
    let mount = json!({"destination": "/volume", "type": "bind", "source": source, "options": options});
    (Bundle::busybox().mount(mount), volume)
}

/// Checks that preflight and the dump refuse for `check`, and that the container runs on.
#[track_caller]
pub(crate) fn refused(c: &Container, check: &str, words: &str) {
    let before = count(c);
    let report = preflight(c, &[]);
    let found = finding(&report, check).unwrap_or_else(|| panic!("no {check} in {report:#}"));
    let severity = if words.starts_with("--accept") { "loss" } else { "error" };
    assert_eq!((&found["severity"], &report["possible"]), (&json!(severity), &json!(false)), "{report:#}");
    let pid = c.pid();
    c.checkpoint(&[]).fails(words);
    assert_eq!((c.status().as_str(), c.pid()), ("running", pid));
    assert!(!c.images().exists(), "nothing was written");
    counts_on(c, before);
}

#[test]
fn a_source_that_was_replaced_is_refused_until_the_new_one_is_accepted() {
    require!(Root, Criu);
    let file = |c: &Container| (c.bundle().join("conf"), "/etc/conf", c.bundle().join("conf"));
    let directory =
        |c: &Container| (c.bundle().join("volume"), "/volume/file", c.bundle().join("volume/file"));
    // By rename over it, as editors do; away, and a new one in its place; removed and made again.
    for way in ["over", "away", "again"] {
        for name in ["conf", "volume"] {
            if (way, name) == ("over", "volume") {
                continue;
            }
            let c = counter(&Runtime::hiber(), bundle(name, &["bind"]));
            let (source, place, content) = if name == "conf" { file(&c) } else { directory(&c) };
            match way {
                "over" => {
                    fs::write(c.bundle().join("new"), "new").unwrap();
                    fs::rename(c.bundle().join("new"), &source).unwrap();
                }
                "away" => fs::rename(&source, c.bundle().join("old")).unwrap(),
                _ if source.is_dir() => fs::remove_dir_all(&source).unwrap(),
                _ => fs::remove_file(&source).unwrap(),
            }
            if way != "over" {
                fs::create_dir_all(content.parent().unwrap()).unwrap();
                fs::write(&content, "new").unwrap();
            }
            refused(&c, "mount-replaced", "--accept mount-replaced does without");
            let counted = count(&c);
            sleep_and_wake(&c, &["--accept", "mount-replaced"], &[]);
            assert_eq!(seen(&c, place), "new", "{way} {name}");
            counts_on(&c, counted);
            assert_eq!(fs::read_to_string(&content).unwrap(), "new");
            // And once more, from what was restored.
            assert_eq!(finding(&preflight(&c, &[]), "mount-replaced"), None);
            sleep_and_wake(&c, &[], &[]);
            assert_eq!(seen(&c, place), "new");
        }
    }
}

#[test]
fn a_file_of_a_source_that_was_replaced_is_open() {
    require!(Root, Criu);
    for (name, script) in [
        ("conf", "exec 3</etc/conf"),
        ("volume", "exec 3</volume/file"),
        ("volume", "cd /volume"),
        ("volume", "cp /bin/busybox /volume/sleep; { /volume/sleep 1000 & }"),
    ] {
        let bundle = bundle(name, &["bind"]).shell(&format!("{script}; {}", crate::COUNT));
        let c = Runtime::hiber().container(bundle);
        c.run_detached().ok();
        wait_for("a count of 3", || count(&c) >= 3);
        let source = c.bundle().join(name);
        fs::rename(&source, c.bundle().join("old")).unwrap();
        if name == "conf" {
            fs::write(&source, "new").unwrap();
        } else {
            fs::create_dir(&source).unwrap();
            fs::write(source.join("file"), "new").unwrap();
        }
        refused(
            &c,
            "mount-replaced-open",
            "a file is open or mapped on a bind mount whose source was replaced",
        );
        // Put back, it is what it was.
        fs::rename(&source, c.bundle().join("away")).unwrap();
        fs::rename(c.bundle().join("old"), &source).unwrap();
        sleep_and_wake(&c, &[], &[]);
        counts_on(&c, 3);
    }
}

#[test]
fn a_source_that_is_gone() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), bundle("conf", &["bind"]));
    fs::remove_file(c.bundle().join("conf")).unwrap();
    refused(&c, "mount-source", "the source of /etc/conf is missing");
    fs::write(c.bundle().join("conf"), "new").unwrap();
    c.checkpoint(&[]).fails("was replaced since");
    sleep_and_wake(&c, &["--accept", "mount-replaced"], &[]);
    assert_eq!(seen(&c, "/etc/conf"), "new");
}

#[test]
fn a_mount_over_one_of_config_json() {
    require!(Root, Criu);
    let over: [(&str, &[&[&str]]); 5] = [
        ("volume", &[&["mount", "-t", "tmpfs", "tmpfs", "/volume"]]),
        ("conf", &[&["sh", "-c", "echo own >/etc/own"], &["mount", "--bind", "/etc/own", "/etc/conf"]]),
        // In its place: of a tmpfs, and of the root.
        ("volume", &[&["umount", "/volume"], &["mount", "-t", "tmpfs", "tmpfs", "/volume"]]),
        (
            "conf",
            &[
                &["sh", "-c", "echo own >/etc/own"],
                &["umount", "/etc/conf"],
                &["mount", "--bind", "/etc/own", "/etc/conf"],
            ],
        ),
        // Over a masked file, which is a mount, too.
        ("volume", &[&["sh", "-c", "echo own >/etc/own"], &["mount", "--bind", "/etc/own", "/proc/keys"]]),
    ];
    for (name, commands) in over {
        let c = counter(&Runtime::hiber(), bundle(name, &["bind"]));
        for command in commands {
            inside(&c, command);
        }
        refused(&c, "mount-over", "unmount it, or name it in config.json instead");
        if let [.., ["mount", .., point]] = commands {
            inside(&c, &["umount", point]);
        }
        sleep_and_wake(&c, &[], &[]);
        counts_on(&c, 3);
    }
}

#[test]
fn two_mounts_of_config_json_on_one_point() {
    require!(Root, Criu);
    let second = |bundle: Bundle, source: &str| {
        let source = bundle.join(source).to_str().unwrap().to_owned();
        bundle.mount(json!({"destination": "/volume", "type": "bind", "source": source, "options": ["bind"]}))
    };
    let other = bundle("volume", &["bind"]);
    fs::create_dir(other.join("second")).unwrap();
    let c = counter(&Runtime::hiber(), second(other, "second"));
    refused(&c, "mount-over", "two mounts lie over each other");
    c.delete(&["--force"]).ok();
    let c = counter(&Runtime::hiber(), second(bundle("volume", &["bind"]), "volume"));
    sleep_and_wake(&c, &[], &[]);
    inside(&c, &["umount", "/volume"]);
    assert_eq!(seen(&c, "/volume/file"), "old", "the lower one is there, too");
}

/// Whether two paths are on one file system.
fn same_device(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).dev();
    device(one) == device(other)
}

#[test]
fn what_lies_below_an_rbind_stays_the_hosts() {
    require!(Root, Criu);
    let (bundle, directory) = outer(&["rbind"]);
    let volume = directory.path();
    let outer = Tmpfs::new(volume.join("a"));
    let inner = Tmpfs::new(volume.join("a/b c"));
    fs::write(inner.0.join("secret"), "of the host").unwrap();
    let c = counter(&Runtime::hiber(), bundle);
    let in_container = |path: &str| PathBuf::from(format!("/proc/{}/root/volume/{path}", c.pid()));
    assert_eq!(preflight(&c, &[])["possible"], json!(true));
    sleep_and_wake(&c, &[], &[]);
    counts_on(&c, 3);
    assert!(same_device(&in_container("a/b c"), &inner.0) && same_device(&in_container("a"), &outer.0));
    fs::write(inner.0.join("later"), "seen").unwrap();
    assert_eq!(seen(&c, "/volume/a/b c/later"), "seen");
    let images = fs::read_dir(c.images()).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    let archives: Vec<_> = images.filter(|name| name.starts_with("tmpfs-")).collect();
    // Its own: /dev and /dev/shm, if not the masks as well; none of the host's.
    for archive in &archives {
        let path = c.images().join(archive);
        let list = Command::new("tar").arg("-tzf").arg(&path).output().unwrap();
        assert!(!String::from_utf8_lossy(&list.stdout).contains("secret"), "{archive}");
    }
    // Where the host has it no more, the restore says what is missing, and is whole when it is back.
    c.checkpoint(&[]).ok();
    drop(inner);
    let report = crate::failures_restore::preflight(&c, &[]);
    let found = finding(&report, "mount-missing").unwrap_or_else(|| panic!("{report:#}"));
    assert!(found["what"].as_str().unwrap().contains("/volume/a/b c"), "{report:#}");
    c.restore(&[]).fails("/volume/a/b c");
    c.assert_clean();
    let inner = Tmpfs::new(volume.join("a/b c"));
    c.restore(&[]).ok();
    assert!(same_device(&in_container("a/b c"), &inner.0));
}

#[test]
fn the_hosts_mounts_below_a_plain_bind() {
    require!(Root, Criu);
    let (bundle, directory) = outer(&["bind", "rslave"]);
    let volume = directory.path();
    let _shared = Tmpfs::new(volume.to_owned());
    host("mount", &["--make-shared", volume.to_str().unwrap()]);
    let c = counter(&Runtime::hiber(), bundle);
    let inner = Tmpfs::new(volume.join("later"));
    wait_for("the mount", || same_device(format!("/proc/{}/root/volume/later", c.pid()).as_ref(), &inner.0));
    refused(&c, "mount-of-host", "no rbind of config.json has it there");
    drop(inner);
    sleep_and_wake(&c, &[], &[]);
    counts_on(&c, 3);
}

#[test]
fn the_hosts_mounts_that_come_later_below_an_rbind() {
    require!(Root, Criu);
    let (bundle, directory) = outer(&["rbind", "rslave"]);
    let volume = directory.path();
    let _shared = Tmpfs::new(volume.to_owned());
    host("mount", &["--make-shared", volume.to_str().unwrap()]);
    let c = counter(&Runtime::hiber(), bundle);
    let inner = Tmpfs::new(volume.join("later"));
    fs::write(inner.0.join("file"), "of the host").unwrap();
    sleep_and_wake(&c, &[], &[]);
    counts_on(&c, 3);
    assert_eq!(seen(&c, "/volume/later/file"), "of the host");
    let third = Tmpfs::new(volume.join("third"));
    let there = PathBuf::from(format!("/proc/{}/root/volume/third", c.pid()));
    wait_for("a mount that still comes through", || same_device(&there, &third.0));
}

#[test]
fn parts_of_a_volume_that_are_mounted_again_are_as_they_were() {
    require!(Root, Criu);
    let bundle =
        bundle("volume", &["bind"]).edit(|c| push(&mut c["linux"]["readonlyPaths"], json!("/volume/ro")));
    fs::create_dir(bundle.join("volume/ro")).unwrap();
    fs::write(bundle.join("volume/ro/file"), "read only").unwrap();
    let c = counter(&Runtime::hiber(), bundle);
    inside(&c, &["mkdir", "/again"]);
    inside(&c, &["mount", "--bind", "/volume/ro", "/again"]);
    sleep_and_wake(&c, &[], &[]);
    for path in ["/volume/ro/file", "/again/file"] {
        assert_eq!(seen(&c, path), "read only");
        let written = fs::write(format!("/proc/{}/root{path}", c.pid()), "x");
        assert!(written.is_err(), "{path}");
    }
}

/// A caller that the kernel spares, as a shim is, does not hand that on.
#[test]
fn who_is_killed_first_is_as_it_was() {
    require!(Root, Criu);
    for score in [None, Some(321)] {
        let bundle =
            Bundle::busybox().edit(|c| score.iter().for_each(|n| c["process"]["oomScoreAdj"] = json!(n)));
        let c = counter(&Runtime::hiber(), bundle);
        let read = || fs::read_to_string(format!("/proc/{}/oom_score_adj", c.pid())).unwrap();
        let before = read();
        c.checkpoint(&[]).ok();
        let (images, bundle) = (c.images().display().to_string(), c.bundle_path());
        let restore = c.command("restore", &["--detach", "--image-path", &images, "--bundle", &bundle]);
        let mut spared = Command::new("sh");
        spared.args(["-c", "echo -500 >/proc/self/oom_score_adj; exec \"$0\" \"$@\""]);
        spared.arg(restore.get_program()).args(restore.get_args());
        spared.envs(restore.get_envs().filter_map(|(name, value)| Some((name, value?))));
        spared.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(spared.status().unwrap().success());
        assert_eq!(read(), before);
        counts_on(&c, 3);
    }
}

#[test]
fn a_mount_of_the_hosts_in_another_place() {
    require!(Root, Criu);
    let (bundle, directory) = outer(&["bind"]);
    let source = Tmpfs::new(directory.path().to_owned());
    let c = counter(&Runtime::hiber(), bundle);
    inside(&c, &["mkdir", "/elsewhere"]);
    inside(&c, &["mount", "--move", "/volume", "/elsewhere"]);
    refused(&c, "mount-of-host", "no rbind of config.json has it there");
    inside(&c, &["mount", "--move", "/elsewhere", "/volume"]);
    sleep_and_wake(&c, &[], &[]);
    assert!(same_device(format!("/proc/{}/root/volume", c.pid()).as_ref(), &source.0));
}

#[test]
fn a_mount_of_the_containers_own_below_a_bind_is_saved() {
    require!(Root, Criu);
    for options in [["bind", "rprivate"], ["rbind", "rprivate"]] {
        let c = counter(&Runtime::hiber(), bundle("volume", &options));
        inside(&c, &["mkdir", "/volume/own"]);
        inside(&c, &["mount", "-t", "tmpfs", "tmpfs", "/volume/own"]);
        inside(&c, &["sh", "-c", "echo kept >/volume/own/file"]);
        sleep_and_wake(&c, &[], &[]);
        counts_on(&c, 3);
        assert_eq!(seen(&c, "/volume/own/file").trim(), "kept");
        assert!(!c.bundle().join("volume/own/file").exists());
    }
}

#[test]
fn mounts_of_config_json_below_a_bind_are_as_they_were() {
    require!(Root, Criu);
    let bundle = bundle("volume", &["rbind"]);
    fs::create_dir_all(bundle.join("volume/cache")).unwrap();
    fs::create_dir_all(bundle.join("volume/data")).unwrap();
    fs::create_dir_all(bundle.join("data")).unwrap();
    fs::write(bundle.join("data/file"), "data").unwrap();
    let data = bundle.join("data").to_str().unwrap().to_owned();
    let bundle = bundle
        .mount(json!({"destination": "/volume/cache", "type": "tmpfs", "source": "tmpfs"}))
        .mount(json!({"destination": "/volume/data", "type": "bind", "source": data, "options": ["bind"]}));
    let c = counter(&Runtime::hiber(), bundle);
    inside(&c, &["sh", "-c", "echo kept >/volume/cache/file"]);
    sleep_and_wake(&c, &[], &[]);
    assert_eq!(
        (seen(&c, "/volume/cache/file").trim(), seen(&c, "/volume/data/file").as_str()),
        ("kept", "data")
    );
}
