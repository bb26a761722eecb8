//! Image directories: links in them, who could have written them, what is exchanged behind a restore's back, and that a
//! restore writes nothing there and needs nobody else to be able to read them.

use crate::{count, counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;
use hiber_tests::pty::{ConsoleSocket, read_until, write_all};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Something mounted for the length of a test.
struct Mounted(PathBuf);

impl Mounted {
    #[track_caller]
    fn new(place: PathBuf, arguments: &[&str]) -> Self {
        fs::create_dir_all(&place).unwrap();
        let mut command = Command::new("mount");
        command.args(arguments).arg(&place);
        hiber_tests::command::run(command, b"").ok();
        Self(place)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        hiber_tests::command::quietly(command.arg("-l").arg(&self.0));
    }
}

/// Restores from images elsewhere than in their usual place.
fn restore_from(c: &Container, images: &Path, flags: &[&str]) -> Output {
    let (images, bundle) = (images.display().to_string(), c.bundle_path());
    let all = [&["--detach", "--image-path", &images, "--bundle", &bundle], flags].concat();
    c.call_detached("restore", &all)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    hiber_tests::command::run(
        {
            command.arg("-a").args([from, to]);
            command
        },
        b"",
    )
    .ok();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Closes the images to everybody but root.
fn close(dir: &Path) {
    for name in names(dir) {
        set_mode(&dir.join(name), 0o600);
    }
    set_mode(dir, 0o700);
}

#[test]
fn links_lead_nothing_out_of_an_image_directory() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let before = count(&c);
    c.checkpoint(&[]).ok();
    let precious = c.bundle().join("precious");
    fs::write(&precious, "kept").unwrap();
    for name in ["restore.log", "stats-restore", "pages-77.img"] {
        let link = c.images().join(name);
        symlink(&precious, &link).unwrap();
        for flags in [&[][..], &["--trust-images"]] {
            c.restore(flags).fails(&format!("{name}: is a symbolic link"));
        }
        fs::remove_file(&link).unwrap();
    }
    let mut fifo = Command::new("mkfifo");
    hiber_tests::command::run(
        {
            fifo.arg(c.images().join("core-77.img"));
            fifo
        },
        b"",
    )
    .ok();
    c.restore(&["--trust-images"]).fails("core-77.img: is neither a file nor a directory");
    fs::remove_file(c.images().join("core-77.img")).unwrap();
    let image = c.images().join("pstree.img");
    fs::hard_link(&image, c.bundle().join("second-name")).unwrap();
    c.restore(&[]).fails("pstree.img: has another name elsewhere (a hard link)");
    fs::remove_file(c.bundle().join("second-name")).unwrap();
    let work = c.bundle().join("work");
    fs::create_dir(&work).unwrap();
    symlink(&precious, work.join("restore.log")).unwrap();
    c.restore(&["--work-path", work.to_str().unwrap()]).fails("work/restore.log: is a symbolic link");
    set_mode(&work, 0o777);
    c.restore(&["--work-path", work.to_str().unwrap()])
        .fails("cannot be the work directory: others can write");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
    assert_eq!(c.status(), "gone");
    c.assert_clean();
    let files = names(&c.images());
    c.restore(&[]).ok();
    counts_on(&c, before);
    assert_eq!(names(&c.images()), files, "a restore writes nothing there");
}

#[test]
fn a_checkpoint_writes_through_no_link_of_its_work_directory() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let (precious, work) = (c.bundle().join("precious"), c.bundle().join("work"));
    fs::write(&precious, "kept").unwrap();
    fs::create_dir(&work).unwrap();
    for name in ["dump.log", "stats-dump"] {
        symlink(&precious, work.join(name)).unwrap();
        c.checkpoint(&["--work-path", work.to_str().unwrap()]).fails(&format!("{name}: is a symbolic link"));
        fs::remove_file(work.join(name)).unwrap();
    }
    // A file in the place of the images is replaced, not written into.
    fs::create_dir(c.images()).unwrap();
    symlink(&precious, c.images().join("dump.log")).unwrap();
    assert_eq!(c.status(), "running");
    c.checkpoint(&[]).ok();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
    c.restore(&[]).ok();
    counts_on(&c, 3);
}

#[test]
fn images_that_cannot_be_written_to_are_restored() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let before = count(&c);
    c.checkpoint(&[]).ok();
    let images = c.images().display().to_string();
    let readonly = Mounted::new(c.bundle().join("ro"), &["--bind", &images]);
    let mut remount = Command::new("mount");
    remount.args(["-o", "remount,bind,ro"]).arg(readonly.path());
    hiber_tests::command::run(remount, b"").ok();
    // A restore that fails says where its log is.
    let program = c.bundle().rootfs().join("bin/busybox");
    let kept = fs::read(&program).unwrap();
    fs::write(&program, "other").unwrap();
    let output = restore_from(&c, readonly.path(), &[]);
    output.fails("log: ");
    let said = format!("{output}");
    let log = PathBuf::from(said.split("log: ").nth(1).unwrap().split(['"', '\n', ' ']).next().unwrap());
    assert!(fs::read_to_string(&log).unwrap().contains("Error ("), "{}", log.display());
    fs::remove_file(&log).unwrap();
    let output = c.restore(&[]);
    output.fails(&format!("log: {images}/restore.log"));
    assert!(fs::read_to_string(c.images().join("restore.log")).unwrap().contains("Error ("));
    fs::write(&program, kept).unwrap();

    restore_from(&c, readonly.path(), &[]).ok();
    counts_on(&c, before);
    c.delete(&["--force"]).ok();

    let full = Mounted::new(c.bundle().join("full"), &["-t", "tmpfs", "-o", "size=4m", "full"]);
    let there = full.path().join("images");
    copy(&c.images(), &there);
    let _ = fs::write(full.path().join("rest"), vec![1; 8 << 20]);
    assert!(fs::write(full.path().join("more"), [1; 5000]).is_err(), "it is full");
    restore_from(&c, &there, &[]).ok();
    counts_on(&c, before);
}

#[test]
fn a_directory_that_is_exchanged_meanwhile_is_the_one_that_was_looked_at() {
    require!(Root, Criu);
    let script = |mark: &str| format!("echo {mark} >/dev/shm/mark; exec sleep 1000");
    let dump = |mark: &str| {
        let c = Runtime::hiber().container(Bundle::busybox().shell(&script(mark)));
        c.run_detached().ok();
        wait_for("the mark", || marked(&c) == mark);
        c.checkpoint(&[]).ok();
        c
    };
    let (c, other) = (dump("trusted"), dump("hostile"));
    let place = c.bundle().join("place");
    fs::create_dir(&place).unwrap();
    let (good, bad) = (place.join("images"), place.join("other"));
    fs::rename(c.images(), &good).unwrap();
    copy(&other.images(), &bad);
    // Another user's.
    for path in names(&bad).iter().map(|name| bad.join(name)).chain([bad.clone()]) {
        std::os::unix::fs::chown(path, Some(1234), Some(1234)).unwrap();
    }
    restore_from(&c, &bad, &[]).fails("belongs to user 1234");
    let over = AtomicBool::new(false);
    let (mut whole, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &good, rustix::fs::CWD, &bad, exchange).unwrap();
                // Each half is longer than a step of a restore, and shorter than all of it.
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        });
        for _ in 0..50 {
            let output = restore_from(&c, &good, &[]);
            if output.status.success() {
                assert_eq!(marked(&c), "trusted", "others' images were restored");
                whole += 1;
                c.delete(&["--force"]).ok();
            } else {
                let said = format!("{output}");
                if !said.contains("belongs to user 1234") {
                    over.store(true, Ordering::Relaxed);
                }
                output.fails("belongs to user 1234");
                refused += 1;
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(whole > 0 && refused > 0, "{whole} whole, {refused} refused: nothing was exchanged in time");
}

fn marked(c: &Container) -> String {
    let text = fs::read_to_string(format!("/proc/{}/root/dev/shm/mark", c.pid()));
    text.unwrap_or_default().trim().to_owned()
}

#[test]
fn the_root_of_a_user_namespace_needs_no_way_to_its_images() {
    require!(Root, Criu, UserNamespaces);
    let c = counter(&Runtime::hiber(), Bundle::busybox().user_namespace(100_000));
    let before = count(&c);
    c.checkpoint(&[]).ok();
    let mode = fs::metadata(c.images()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700, "images hold memory");
    close(&c.images());
    c.restore(&[]).ok();
    counts_on(&c, before);
    assert_eq!(fs::metadata(c.images()).unwrap().permissions().mode() & 0o777, 0o700);
    c.delete(&["--force"]).ok();

    // On a file system that maps no owners.
    let dir = |name: &str| {
        let dir = c.bundle().join(name);
        fs::create_dir(&dir).unwrap();
        dir.display().to_string()
    };
    let options = format!("lowerdir={},upperdir={},workdir={}", dir("lower"), dir("upper"), dir("overlay"));
    let overlay = Mounted::new(c.bundle().join("o"), &["-t", "overlay", "-o", &options, "overlay"]);
    let there = overlay.path().join("images");
    copy(&c.images(), &there);
    for name in names(&there) {
        set_mode(&there.join(name), 0o644);
    }
    restore_from(&c, &there, &[]).ok();
    counts_on(&c, before);
}

#[test]
fn a_terminal_in_a_user_namespace_comes_back() {
    require!(Root, Criu, UserNamespaces);
    let bundle = Bundle::busybox()
        .user_namespace(100_000)
        .shell("stty -echo; while read line; do echo \"heard $line\"; done")
        .edit(|c| c["process"]["terminal"] = json!(true));
    let c = Runtime::hiber().container(bundle);
    let socket = ConsoleSocket::listen(c.bundle().path());
    c.create(&["--console-socket", socket.path()]).ok();
    let master = socket.receive();
    c.start().ok();
    write_all(&master, "one\n");
    read_until(&master, "heard one");
    c.checkpoint(&[]).ok();
    drop(master);
    close(&c.images());
    c.restore(&["--console-socket", socket.path()]).ok();
    let master = socket.receive();
    write_all(&master, "two\n");
    read_until(&master, "heard two");
}

#[test]
fn parents_are_those_that_were_checked() {
    require!(Root, Criu, UserNamespaces);
    for bundle in [Bundle::busybox(), Bundle::busybox().user_namespace(100_000)] {
        let c = counter(&Runtime::hiber(), bundle);
        let before = count(&c);
        c.checkpoint(&[]).ok();
        // CRIU opens the pages of each parent, also where it needs none of them.
        let elsewhere = c.bundle().join("a/b");
        fs::create_dir_all(&elsewhere).unwrap();
        copy(&c.images(), &elsewhere.join("older"));
        let parent = c.images().join("parent");
        symlink("../a/b/older", &parent).unwrap();
        close(&elsewhere.join("older"));
        let pages = elsewhere.join("older/pages-9.img");
        symlink("/dev/zero", &pages).unwrap();
        c.restore(&[]).fails("older/pages-9.img: is a symbolic link");
        fs::remove_file(pages).unwrap();
        set_mode(&elsewhere.join("older"), 0o777);
        c.restore(&[]).fails("older: others can write to it");
        set_mode(&elsewhere.join("older"), 0o700);
        c.restore(&[]).ok();
        counts_on(&c, before);
    }
}

#[test]
fn what_is_restored_leaves_no_mount_and_can_sleep_again() {
    require!(Root, Criu, UserNamespaces);
    let c = counter(&Runtime::hiber(), Bundle::busybox().user_namespace(100_000));
    let mounts = || fs::read_to_string(format!("/proc/{}/mountinfo", c.pid())).unwrap().lines().count();
    let before = mounts();
    sleep_and_wake(&c, &[], &[]);
    assert_eq!(mounts(), before);
    fs::remove_dir_all(c.images()).unwrap();
    sleep_and_wake(&c, &[], &[]);
    counts_on(&c, 3);
}

/// A root with one static program in it and no /tmp, as images for one program have it.
fn bare(readonly: bool) -> Bundle {
    let bundle = Bundle::busybox();
    let program = fs::read(bundle.rootfs().join("bin/busybox")).unwrap();
    fs::remove_dir_all(bundle.rootfs()).unwrap();
    fs::create_dir(bundle.rootfs()).unwrap();
    fs::write(bundle.rootfs().join("busybox"), program).unwrap();
    set_mode(&bundle.rootfs().join("busybox"), 0o755);
    let script = crate::COUNT.replace("mv ", "/busybox mv ").replace("sleep ", "/busybox sleep ");
    bundle.args(["/busybox", "sh", "-c", &script]).edit(|c| c["root"]["readonly"] = json!(readonly))
}

fn run_counting(bundle: Bundle) -> Container {
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    c
}

#[test]
fn a_root_without_tmp_needs_none_and_gets_none() {
    require!(Root, Criu, UserNamespaces);
    for bundle in [bare(true), bare(false), bare(true).user_namespace(100_000)] {
        let c = run_counting(bundle);
        let report = crate::failures::preflight(&c, &[]);
        assert_eq!(report["possible"], json!(true), "{report:#}");
        let (files, times) =
            (names(&c.bundle().rootfs()), fs::metadata(c.bundle().rootfs()).unwrap().modified());
        let mounts = || fs::read_to_string(format!("/proc/{}/mountinfo", c.pid())).unwrap().lines().count();
        let before = mounts();
        sleep_and_wake(&c, &[], &[]);
        counts_on(&c, 3);
        assert_eq!(mounts(), before);
        assert_eq!(names(&c.bundle().rootfs()), files, "no trace in the root");
        assert_eq!(names(Path::new(&format!("/proc/{}/root", c.pid()))), files);
        if c.bundle().config()["root"]["readonly"] == json!(true) {
            assert_eq!(fs::metadata(c.bundle().rootfs()).unwrap().modified().unwrap(), times.unwrap());
        }
        // A restore that fails leaves none either.
        fs::remove_dir_all(c.images()).unwrap();
        c.checkpoint(&[]).ok();
        fs::write(c.bundle().rootfs().join("busybox"), "other").unwrap();
        assert!(!c.restore(&[]).status.success());
        assert_eq!(names(&c.bundle().rootfs()), files);
        c.assert_clean();
    }
}

#[test]
fn a_root_that_criu_could_not_enter_again_is_refused_before_anything_stops() {
    require!(Root, Criu);
    let refused = |c: &Container, why: &str| {
        let report = crate::failures::preflight(c, &[]);
        let finding = crate::failures::finding(&report, "root-tmp").unwrap_or_else(|| panic!("{report:#}"));
        assert!(finding["what"].as_str().unwrap().contains(why), "{finding:#}");
        c.checkpoint(&[]).fails(why).fails("make an empty directory /tmp");
        assert_eq!(c.status(), "running");
        counts_on(c, 3);
        assert!(!c.images().exists());
    };
    let c = run_counting(bare(false));
    for (target, why) in [("/var", "has a link at /tmp that leads out of it"), ("../..", "leads out of it")] {
        symlink(target, c.bundle().rootfs().join("tmp")).unwrap();
        refused(&c, why);
        fs::remove_file(c.bundle().rootfs().join("tmp")).unwrap();
    }
    sleep_and_wake(&c, &[], &[]);
    counts_on(&c, 3);

    // Its file system itself is read-only.
    let bundle = bare(true);
    for dir in ["proc", "dev", "sys"] {
        fs::create_dir(bundle.rootfs().join(dir)).unwrap();
    }
    let source = bundle.rootfs().display().to_string();
    let readonly = Mounted::new(bundle.join("image"), &["--bind", &source]);
    let mut remount = Command::new("mount");
    remount.args(["-o", "remount,bind,ro"]).arg(readonly.path());
    hiber_tests::command::run(remount, b"").ok();
    let path = readonly.path().display().to_string();
    let c = run_counting(bundle.edit(|c| c["root"]["path"] = json!(path)));
    refused(&c, "has no /tmp, and its file system is read-only");
    fs::create_dir(c.bundle().rootfs().join("tmp")).unwrap();
    c.checkpoint(&[]).ok();
    c.restore(&[]).ok();
    counts_on(&c, 3);
}

#[test]
fn a_restore_that_is_killed_leaves_no_tmp_behind_its_deletion() {
    require!(Root, Criu);
    let c = run_counting(bare(true));
    c.checkpoint(&[]).ok();
    let hook = c.bundle().join("hook");
    fs::write(&hook, "#!/bin/sh\nkill -9 $PPID\n").unwrap();
    set_mode(&hook, 0o755);
    let path = c.bundle().join("config.json");
    let config = fs::read(&path).unwrap();
    let mut changed: Value = serde_json::from_slice(&config).unwrap();
    changed["hooks"] = json!({"prestart": [{"path": hook}]});
    fs::write(&path, changed.to_string()).unwrap();
    let files = names(&c.bundle().rootfs());
    assert!(!c.restore(&[]).status.success());
    assert!(c.bundle().rootfs().join("tmp").exists(), "the hook came too early or too late");
    c.delete(&["--force"]).ok();
    assert_eq!(names(&c.bundle().rootfs()), files);
    fs::write(&path, config).unwrap();
    c.restore(&[]).ok();
    counts_on(&c, 3);
    assert_eq!(names(&c.bundle().rootfs()), files);
}
