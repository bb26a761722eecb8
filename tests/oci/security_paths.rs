//! Hostile root filesystems: whatever an image has in place of a directory or file, and whoever changes it meanwhile,
//! nothing outside of it is made, mounted on or written. docs/threat-model.md names the attack that each test makes.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use hiber_tests::prelude::*;
use hiber_tests::pty::ConsoleSocket;
use rustix::fs::{CWD, RenameFlags, renameat_with};

fn run(bundle: Bundle) -> Output {
    let c = Runtime::hiber().container(bundle);
    let output = c.run(&[]);
    c.assert_clean();
    output
}

/// Puts a symbolic link to `target` at `path` of the root filesystem.
fn link(bundle: &Bundle, path: &str, target: impl AsRef<Path>) {
    let at = bundle.rootfs().join(path);
    if at.is_dir() && !at.is_symlink() {
        fs::remove_dir_all(&at).unwrap();
    }
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    symlink(target, at).unwrap();
}

/// A directory of the host, outside of the root filesystem, with a file.
fn outside(bundle: &Bundle) -> PathBuf {
    let outside = bundle.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("ptmx"), "the host's").unwrap();
    outside
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Leaves the mounts on /dev out, so that the container has the image's own.
fn with_own_dev(bundle: Bundle) -> Bundle {
    bundle.edit(|c| {
        let mounts = c["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    })
}

#[test]
fn links_of_the_image_lead_nowhere_outside() {
    require!(Root);
    let bundle = Bundle::busybox().shell("cat /absolute/f");
    let outside = outside(&bundle);
    let below = outside.strip_prefix("/").unwrap();
    link(&bundle, "absolute", &outside);
    link(&bundle, "relative", Path::new("../../../../../../../../..").join(below));
    fs::create_dir(bundle.join("d")).unwrap();
    fs::write(bundle.join("f"), "bound").unwrap();
    let inside = bundle.rootfs().join(below);
    // Every way in which something is made in a root filesystem.
    let bundle = bundle
        .mount(json!({"destination": "/absolute/d", "source": "d", "options": ["bind"]}))
        .mount(json!({"destination": "/relative/f", "source": "f", "options": ["bind"]}))
        .mount(json!({"destination": "/absolute/t", "type": "tmpfs", "source": "tmpfs"}))
        .edit(|c| {
            c["process"]["cwd"] = json!("/relative/cwd");
            c["linux"]["devices"] = json!([{"path": "/absolute/null", "type": "c", "major": 1, "minor": 3}]);
        });
    let c = Runtime::hiber().container(bundle);
    assert_eq!(c.run(&[]).ok(), "bound");
    assert_eq!(names(&outside), ["ptmx"]);
    assert_eq!(names(&inside), ["cwd", "d", "f", "null", "t"]);
    c.assert_clean();
}

#[test]
fn a_dev_that_is_a_link_stays_inside() {
    require!(Root);
    // CVE-2026-41579, CVE-2026-47766
    let bundle = Bundle::busybox().shell("ls -l /dev/null /dev/ptmx /dev/fd >/dev/null && echo made");
    let outside = outside(&bundle);
    link(&bundle, "dev", &outside);
    let c = Runtime::hiber().container(with_own_dev(bundle));
    assert_eq!(c.run(&[]).ok(), "made");
    assert_eq!(fs::read_to_string(outside.join("ptmx")).unwrap(), "the host's");
    assert_eq!(names(&outside), ["ptmx"]);
}

#[test]
fn links_in_place_of_devices_are_not_followed() {
    require!(Root, UserNamespaces);
    for user_namespace in [false, true] {
        // CVE-2025-31133: what is masked is covered with what /dev/null is.
        let bundle = Bundle::busybox();
        link(&bundle, "dev/null", "/etc/passwd");
        let bundle = if user_namespace { bundle.user_namespace(300_000) } else { bundle };
        run(with_own_dev(bundle)).fails("/dev/null");
    }
    // CVE-2025-52565, CVE-2026-88264: the terminal is put in place of what a link names.
    let bundle = with_own_dev(Bundle::busybox()).edit(|c| c["process"]["terminal"] = json!(true));
    link(&bundle, "dev/console", "/etc/passwd");
    let bundle = bundle.mount(json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666"]}));
    let socket = ConsoleSocket::listen(bundle.path());
    let c = Runtime::hiber().container(bundle);
    c.create(&["--console-socket", socket.path()]).fails("/dev/console");
    c.assert_clean();
}

#[test]
fn standard_streams_are_not_taken_from_where_a_link_leads() {
    require!(Root);
    // CVE-2026-88265: the caller's /dev/null is exchanged for the container's.
    let bundle = Bundle::busybox().shell("exec >/told; ls -l /proc/1/fd/0; stat -c %u:%g /etc/passwd");
    let dev = bundle.join("dev");
    fs::create_dir(&dev).unwrap();
    symlink("/etc/passwd", dev.join("null")).unwrap();
    std::os::unix::fs::chown(bundle.rootfs().join("etc/passwd"), Some(3), Some(4)).unwrap();
    let bundle =
        with_own_dev(bundle).mount(json!({"destination": "/dev", "source": "dev", "options": ["bind"]}));
    let c = Runtime::hiber().container(bundle.edit(|c| c["process"]["user"] = json!({"uid": 0, "gid": 0})));
    c.run_detached().ok();
    c.wait_stopped();
    let told = fs::read_to_string(c.bundle().rootfs().join("told")).unwrap();
    assert!(told.contains("/proc/1/fd/0 -> /dev/null\n3:4"), "{told}");
}

#[test]
fn a_terminal_comes_from_a_devpts_alone() {
    require!(Root);
    let bundle = with_own_dev(Bundle::busybox()).edit(|c| c["process"]["terminal"] = json!(true));
    fs::create_dir_all(bundle.rootfs().join("dev/pts")).unwrap();
    fs::write(bundle.rootfs().join("dev/pts/ptmx"), "no terminal").unwrap();
    let socket = ConsoleSocket::listen(bundle.path());
    let c = Runtime::hiber().container(bundle);
    c.create(&["--console-socket", socket.path()]).fails("is not that of a devpts");
    c.assert_clean();
}

#[test]
fn proc_and_sys_are_mounted_where_they_are_named() {
    require!(Root);
    for name in ["proc", "sys"] {
        // CVE-2019-19921, CVE-2023-27561, CVE-2023-28642
        let bundle = Bundle::busybox();
        link(&bundle, name, "/tmp");
        run(bundle).fails("must be mounted on ordinary directory");
    }
}

#[test]
fn nothing_is_mounted_into_proc_by_way_of_a_link() {
    require!(Root);
    // CVE-2019-16884
    let mounts = [
        json!({"destination": "/way/self/attr", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/way/sys", "type": "bind", "source": "/tmp", "options": ["bind"]}),
        json!({"destination": "/way/self", "type": "cgroup", "source": "cgroup"}),
        json!({"destination": "/way", "type": "proc", "source": "proc"}),
    ];
    for mount in mounts {
        let bundle = Bundle::busybox();
        link(&bundle, "way", "/proc");
        let output = run(bundle.mount(mount.clone()));
        assert!(!output.status.success(), "{mount}: {output}");
        let expected = ["leads into /proc", "must be mounted on ordinary directory"];
        assert!(expected.iter().any(|words| output.stderr.contains(words)), "{mount}: {output}");
    }
    let direct = json!({"destination": "/x/../proc/self/attr", "type": "tmpfs", "source": "tmpfs"});
    run(Bundle::busybox().mount(direct)).fails("/proc");
}

#[test]
fn sysctls_are_written_to_the_kernel_and_not_to_what_the_image_has() {
    require!(Root, Program("nsenter"));
    // CVE-2025-52881: a /proc of the image's own, with files of the names that the runtime writes.
    let key = "sys/net/ipv4/ip_default_ttl";
    let bundle = Bundle::busybox().args(["sleep", "1000"]).edit(|c| {
        c["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "proc");
        c["linux"]["sysctl"] = json!({"net.ipv4.ip_default_ttl": "33"});
    });
    let fake = bundle.rootfs().join("proc").join(key);
    fs::create_dir_all(fake.parent().unwrap()).unwrap();
    fs::write(&fake, "untouched").unwrap();
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let mut real = std::process::Command::new("nsenter");
    real.args(["--net", "--target", &c.pid().to_string(), "cat", &format!("/proc/{key}")]);
    assert_eq!(hiber_tests::command::run(real, b"").ok(), "33");
    assert_eq!(fs::read_to_string(fake).unwrap(), "untouched");
}

#[test]
fn masks_and_read_only_paths_hold_on_every_way() {
    require!(Root);
    let script = r"
        cat /proc/kcore /proc/self/root/proc/kcore /proc/1/root/proc/kcore /link /masked/* | head -c 1 | wc -c
        for path in /proc /proc/self/root/proc /proc/1/root/proc; do
            (echo x >$path/sysrq-trigger) && echo triggered
            (echo x >$path/sys/kernel/domainname) && echo named
        done
        unshare -Urpfm true || echo no user namespace
        umount /proc/kcore && echo unmounted
        mount -o remount,rw,bind /proc/sys && echo remounted
        unshare -Urm umount /proc/kcore && echo unmounted
        unshare -Urm mount -o remount,rw,bind /proc/sys && echo remounted
        unshare -Urpfm mount -t proc proc /proc && echo mounted
        unshare -Urm mount -t sysfs sysfs /sys && echo mounted
        mv /proc/kcore /tmp/kcore && echo moved
        rm -rf /proc/kcore || :
    ";
    let bundle = Bundle::busybox().shell(script).edit(|c| {
        for path in ["/link", "/masked"] {
            hiber_tests::bundle::push(&mut c["linux"]["maskedPaths"], json!(path));
        }
        // so that a user namespace can be made with any ids
        let all = json!(["CAP_SETFCAP"]);
        c["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    fs::write(bundle.rootfs().join("etc/secret"), "secret").unwrap();
    link(&bundle, "link", "etc/secret");
    fs::create_dir(bundle.rootfs().join("masked")).unwrap();
    fs::write(bundle.rootfs().join("masked/secret"), "secret").unwrap();
    let output = run(bundle);
    assert_eq!(output.stdout.trim(), "0", "{output}");
}

#[test]
fn cgroups_of_the_host_are_out_of_reach() {
    require!(Root);
    let script = r"
        for dir in /sys/fs/cgroup /sys/fs/cgroup/*; do
            for file in release_agent notify_on_release cgroup.procs devices.allow memory.max pids.max; do
                [ -e $dir/$file ] && (echo 1 >$dir/$file) && echo $dir/$file
            done
            mkdir $dir/child && echo $dir/child
            mount -o remount,rw,bind $dir && echo remounted $dir
        done
        :
    ";
    for runtime in [Runtime::hiber(), Runtime::hiber_on_v2()] {
        for namespace in [true, false] {
            let bundle = Bundle::busybox().shell(script);
            let bundle = if namespace { bundle } else { bundle.without_namespace("cgroup") };
            let output = runtime.container(bundle).run(&[]);
            assert_eq!(output.ok(), "", "{output}");
        }
    }
}

#[test]
fn a_user_table_that_never_ends_holds_nobody_up() {
    require!(Root);
    for target in ["pipe", "/dev/zero", "/proc/self/fd/3"] {
        let bundle = Bundle::busybox().args(["true"]);
        fs::remove_file(bundle.rootfs().join("etc/passwd")).unwrap();
        let pipe = bundle.rootfs().join("etc/pipe");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        link(&bundle, "etc/passwd", target);
        run(bundle).ok();
    }
}

#[test]
fn a_directory_that_becomes_a_link_meanwhile_leads_nowhere() {
    require!(Root);
    // CVE-2021-30465, CVE-2024-45310: another container changes a volume that both share.
    let bundle = Bundle::busybox().shell("grep -c ' - tmpfs marked ' /proc/self/mountinfo");
    let outside = outside(&bundle);
    let volume = bundle.join("volume");
    fs::create_dir_all(volume.join("point")).unwrap();
    let up = Path::new("../../../../../../../../..").join(outside.strip_prefix("/").unwrap());
    symlink(up, volume.join("link")).unwrap();
    let bundle = bundle
        .mount(json!({"destination": "/volume", "source": "volume", "options": ["bind"]}))
        .mount(json!({"destination": "/volume/point/mounted", "type": "tmpfs", "source": "marked"}))
        .mount(json!({"destination": "/volume/point/file", "source": "config.json", "options": ["bind"]}));
    let c = Runtime::hiber().container(bundle);
    let done = AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (a, b) = (volume.join("point"), volume.join("link"));
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
            }
        });
        // A way that changes on the way may be refused; what was mounted must be in the container.
        let outputs: Vec<_> = (0..25).map(|_| c.run(&[])).collect();
        done.store(true, Ordering::Relaxed);
        outputs
    });
    let succeeded: Vec<_> = ran.iter().filter(|output| output.status.success()).collect();
    assert!(!succeeded.is_empty(), "{}", ran[0]);
    for output in succeeded {
        assert_eq!(output.ok(), "1", "{output}");
    }
    assert_eq!(names(&outside), ["ptmx"]);
    c.assert_clean();
}

/// Exchanges two names again and again while `run` runs; in the end each names what it did.
fn while_exchanged<T>(a: &Path, b: &Path, run: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for _ in 0..2 {
                    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
                }
            }
        });
        let ran = run();
        done.store(true, Ordering::Relaxed);
        ran
    })
}

/// Points, types and options of a created container's mounts, in their order.
fn mount_table(c: &Container) -> Vec<(String, String)> {
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", c.pid())).unwrap();
    let of_line = |line: &str| {
        let (first, last) = line.split_once(" - ").unwrap();
        let words: Vec<_> = first.split(' ').collect();
        (words[4].to_owned(), format!("{} {} {last}", words[3], words[5]))
    };
    table.lines().map(of_line).collect()
}

/// Another container shares the root filesystem and exchanges what the kernel's filesystems are mounted on.
fn exchanged_meanwhile(
    name: &str,
    link: bool,
    whole: impl Fn(&[(String, String)], &[(String, String)]) -> bool,
) {
    let bundle = Bundle::busybox().args(["true"]);
    let (at, other) = (bundle.rootfs().join(name), bundle.rootfs().join("other"));
    if link {
        fs::create_dir(bundle.rootfs().join("elsewhere")).unwrap();
        symlink("elsewhere", &other).unwrap();
    } else {
        fs::create_dir(&other).unwrap();
    }
    let c = Runtime::hiber().container(bundle);
    c.create(&[]).ok();
    let quiet = mount_table(&c);
    c.delete(&["--force"]).ok();
    let (mut started, mut refused) = (0, 0);
    for _ in 0..60 {
        let output = while_exchanged(&at, &other, || c.create(&[]));
        if output.status.success() {
            let found = mount_table(&c);
            assert!(whole(&found, &quiet), "{found:#?}\nexpected {quiet:#?}");
            c.delete(&["--force"]).ok();
            started += 1;
        } else {
            let known = ["must be mounted on ordinary directory", "is not what was mounted there"];
            assert!(known.iter().any(|words| output.stderr.contains(words)), "{output}");
            refused += 1;
        }
    }
    assert!(started > 0 && refused > 0, "{started} started, {refused} refused");
    c.assert_clean();
}

#[test]
fn a_proc_that_becomes_a_link_meanwhile_is_whole_or_refused() {
    require!(Root);
    for name in ["proc", "sys"] {
        exchanged_meanwhile(name, true, |found, quiet| found == quiet);
    }
}

/// Wherever another directory's name takes it: there is no procfs without its masks.
#[test]
fn a_proc_that_becomes_another_directory_meanwhile_keeps_its_masks() {
    require!(Root);
    for name in ["proc", "sys"] {
        let (own, other) = (format!("/{name}"), "/other");
        exchanged_meanwhile(name, false, |found, quiet| {
            let named = |point: &str| match point.strip_prefix(other) {
                Some(below) => format!("{own}{below}"),
                None => point.to_owned(),
            };
            let found = found.iter().map(|(point, what)| (named(point), what.clone()));
            found.eq(quiet.iter().cloned())
        });
    }
}

/// Calls the runtime for a container, for a while only; whether it ended by itself is asked of it.
fn within_time(c: &Container, name: &str, flags: &[&str]) -> Output {
    let call = c.command(name, &[&["--bundle", &c.bundle_path()], flags].concat());
    let mut command = std::process::Command::new("timeout");
    command.args(["--kill-after=1", "20"]).arg(call.get_program()).args(call.get_args());
    let output = hiber_tests::command::run(command, b"");
    assert!(![Some(124), Some(137)].contains(&output.status.code()), "it waited: {output}");
    output
}

fn make_fifo(at: &Path) -> rustix::io::Result<()> {
    rustix::fs::mknodat(CWD, at, rustix::fs::FileType::Fifo, 0o666.into(), 0)
}

/// A file to be mounted on becomes a FIFO meanwhile, of which an open(2) waits for the other end.
#[test]
fn a_fifo_in_place_of_a_file_to_be_mounted_on_holds_nobody_up() {
    require!(Root, Program("timeout"));
    let bundle = Bundle::busybox().args(["true"]);
    let volume = bundle.join("volume");
    fs::create_dir(&volume).unwrap();
    let bundle = bundle
        .mount(json!({"destination": "/volume", "source": "volume", "options": ["bind"]}))
        .mount(json!({"destination": "/volume/file", "source": "config.json", "options": ["bind"]}));
    let c = Runtime::hiber().container(bundle);
    let (file, done) = (volume.join("file"), AtomicBool::new(false));
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = fs::remove_file(&file);
                let _ = make_fifo(&file);
            }
        });
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..60 {
                within_time(&c, "run", &[]);
            }
        }));
        done.store(true, Ordering::Relaxed);
        ran
    });
    ran.unwrap_or_else(|why| std::panic::resume_unwind(why));
    c.assert_clean();
}

/// A file whose opening waits stands where the runtime opens something in the image.
#[test]
fn fifos_of_the_image_hold_nobody_up() {
    require!(Root, Program("timeout"));
    let within_time = |bundle: Bundle, flags: &[&str]| {
        let c = Runtime::hiber().container(bundle);
        within_time(&c, "create", flags)
    };
    let fifo = |bundle: &Bundle, name: &str| {
        let at = bundle.rootfs().join(name);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&at);
        make_fifo(&at).unwrap();
    };
    let bundle = with_own_dev(Bundle::busybox().args(["true"]));
    fifo(&bundle, "dev/null");
    within_time(bundle, &[]).fails("/dev/null");
    let bundle = with_own_dev(Bundle::busybox()).edit(|c| c["process"]["terminal"] = json!(true));
    fifo(&bundle, "dev/pts/ptmx");
    let socket = ConsoleSocket::listen(bundle.path());
    within_time(bundle, &["--console-socket", socket.path()]).fails("is not that of a devpts");
    // The target of a bind, what is masked, what is copied, what is executed: opened for none of these.
    let bundle = Bundle::busybox().args(["/fifo"]).edit(|c| {
        hiber_tests::bundle::push(&mut c["linux"]["maskedPaths"], json!("/fifo"));
        hiber_tests::bundle::push(&mut c["linux"]["readonlyPaths"], json!("/copied"));
    });
    for name in ["fifo", "bound", "copied/fifo", "etc/passwd"] {
        fifo(&bundle, name);
    }
    let bundle = bundle
        .mount(json!({"destination": "/bound", "source": "config.json", "options": ["bind"]}))
        .mount(json!({"destination": "/copied", "type": "tmpfs", "options": ["tmpcopyup"]}));
    within_time(bundle, &[]).fails("/fifo");
}
