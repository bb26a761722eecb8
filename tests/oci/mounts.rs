//! The root filesystem and what is mounted in it.

use hiber_tests::prelude::*;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

fn sleeper(bundle: Bundle) -> Container {
    let c = Runtime::hiber().container(bundle.args(["sleep", "1000"]));
    c.run_detached().ok();
    c
}

/// `type options` of the topmost mount at `point`, as the container sees it.
#[track_caller]
fn mounted(c: &Container, point: &str) -> String {
    c.sh(&format!("awk '$2 == \"{point}\" {{ last = $3 \" \" $4 }} END {{ print last }}' /proc/mounts"))
}

#[test]
fn the_default_mounts_have_their_types_and_options() {
    require!(Root);
    let c = sleeper(Bundle::busybox());
    for (point, kind, options) in [
        ("/proc", "proc", &["rw", "relatime"][..]),
        ("/dev", "tmpfs", &["rw", "nosuid", "size=65536k", "mode=755"]),
        ("/dev/pts", "devpts", &["rw", "nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"]),
        ("/dev/shm", "tmpfs", &["rw", "nosuid", "nodev", "noexec", "size=65536k"]),
        ("/dev/mqueue", "mqueue", &["rw", "nosuid", "nodev", "noexec"]),
        ("/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"]),
    ] {
        let line = mounted(&c, point);
        let (k, o) = line.split_once(' ').unwrap_or((&line, ""));
        assert_eq!(k, kind, "{point}");
        let o: Vec<_> = o.split(',').collect();
        assert!(options.iter().all(|x| o.contains(x)), "{point} has {o:?}");
    }
    let groups = c.sh("ls /sys/fs/cgroup");
    assert!(!groups.is_empty(), "cgroups are mounted");
}

#[test]
fn the_containers_mounts_are_its_own() {
    require!(Root);
    let c = sleeper(Bundle::busybox());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(c.id()), "a mount of the container is on the host");
    let inside = c.sh("cat /proc/mounts");
    assert!(inside.lines().all(|l| !l.contains("/old") && !l.contains(c.id())), "{inside}");
    // nothing of the host's tree is reachable: the old root is gone
    assert_eq!(c.sh("readlink /proc/1/root; ls -d /tmp/ht* 2>/dev/null | wc -l"), "/\n0");
}

#[test]
fn the_root_filesystem_is_read_only_where_asked() {
    require!(Root);
    let c = sleeper(Bundle::busybox().edit(|c| c["root"]["readonly"] = json!(true)));
    c.exec(&["touch", "/file"]).fails("Read-only file system");
    c.exec(&["touch", "/dev/shm/file"]).ok();
    let c = sleeper(Bundle::busybox());
    c.exec(&["touch", "/file"]).ok();
    assert!(c.bundle().rootfs().join("file").exists());
}

#[test]
fn masked_paths_hide_and_read_only_paths_protect() {
    require!(Root);
    let bundle = Bundle::busybox();
    fs::create_dir(bundle.rootfs().join("secrets")).unwrap();
    fs::write(bundle.rootfs().join("secrets/key"), "x").unwrap();
    fs::write(bundle.rootfs().join("secret"), "x").unwrap();
    fs::create_dir(bundle.rootfs().join("fixed")).unwrap();
    let c = sleeper(bundle.edit(|c| {
        c["linux"]["maskedPaths"] = json!(["/secrets", "/secret", "/proc/version", "/not/there"]);
        c["linux"]["readonlyPaths"] = json!(["/fixed", "/proc/sys", "/not/there"]);
    }));
    assert_eq!(c.sh("ls -A /secrets; cat /secret; wc -c </proc/version"), "0");
    c.exec(&["touch", "/secrets/new"]).fails("Read-only");
    c.exec(&["touch", "/fixed/new"]).fails("Read-only");
    c.exec(&["sh", "-c", "echo 1 >/proc/sys/kernel/printk"]).fails("Read-only");
    assert!(!c.bundle().rootfs().join("not").exists(), "missing paths are passed over, not made");
}

#[test]
fn relative_masked_and_read_only_paths_start_at_the_root() {
    require!(Root);
    let bundle = Bundle::busybox();
    for name in ["secret", "work/secret"] {
        let path = bundle.rootfs().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    let c = sleeper(bundle.edit(|c| {
        c["process"]["cwd"] = json!("/work");
        c["linux"]["maskedPaths"] = json!(["secret", "./proc/version"]);
        c["linux"]["readonlyPaths"] = json!(["proc/sys", "../etc"]);
    }));
    assert_eq!(c.sh("cat /secret; wc -c </proc/version; cat /work/secret"), "0\nx");
    c.exec(&["sh", "-c", "echo 1 >/proc/sys/kernel/printk"]).fails("Read-only");
    c.exec(&["touch", "/etc/new"]).fails("Read-only");
}

#[test]
fn bind_mounts_read_write_and_read_only_of_directories_and_files() {
    require!(Root);
    let bundle = Bundle::busybox();
    let (directory, file) = (bundle.join("directory"), bundle.join("file"));
    fs::create_dir(&directory).unwrap();
    fs::write(&file, "content").unwrap();
    let c = sleeper(
        bundle
            .mount(json!({"destination": "/data/rw", "source": directory, "options": ["bind", "rw"]}))
            .mount(json!({"destination": "/data/ro", "type": "none", "source": directory, "options": ["rbind", "ro", "nosuid"]}))
            .mount(json!({"destination": "/etc/file", "type": "bind", "source": file, "options": ["bind", "ro"]})),
    );
    c.exec(&["sh", "-c", "echo written >/data/rw/out"]).ok();
    assert_eq!(fs::read_to_string(directory.join("out")).unwrap(), "written\n");
    c.exec(&["touch", "/data/ro/out2"]).fails("Read-only");
    assert_eq!(c.sh("cat /data/ro/out /etc/file"), "written\ncontent");
    c.exec(&["sh", "-c", "echo x >/etc/file"]).fails("Read-only");
    let options = mounted(&c, "/data/ro");
    assert!(options.contains("nosuid"), "{options}");
}

#[test]
fn a_relative_source_is_below_the_bundle() {
    require!(Root);
    let bundle = Bundle::busybox();
    fs::create_dir(bundle.join("share")).unwrap();
    fs::write(bundle.join("share/word"), "near").unwrap();
    let c = sleeper(bundle.mount(json!({"destination": "/share", "source": "share", "options": ["bind"]})));
    assert_eq!(c.sh("cat /share/word"), "near");
}

#[test]
fn tmpfs_takes_size_and_mode() {
    require!(Root);
    let c = sleeper(Bundle::busybox().mount(json!({
        "destination": "/scratch", "type": "tmpfs", "source": "tmpfs",
        "options": ["size=1m", "mode=1770", "noexec", "nosuid", "nodev"]
    })));
    assert_eq!(c.sh("stat -c %a /scratch"), "1770");
    c.exec(&["dd", "if=/dev/zero", "of=/scratch/f", "bs=1k", "count=2000"]).fails("No space left");
    assert!(mounted(&c, "/scratch").contains("noexec"));
    assert!(!c.bundle().rootfs().join("scratch/f").exists());
}

#[test]
fn a_tmpfs_without_a_mode_takes_that_of_its_directory_or_the_kernels() {
    require!(Root);
    let bundle = Bundle::busybox();
    fs::create_dir(bundle.rootfs().join("there")).unwrap();
    fs::set_permissions(bundle.rootfs().join("there"), fs::Permissions::from_mode(0o711)).unwrap();
    let tmpfs = |at| json!({"destination": at, "type": "tmpfs", "source": "tmpfs"});
    let c = sleeper(bundle.mount(tmpfs("/there")).mount(tmpfs("/not-there")));
    assert_eq!(c.sh("stat -c %a /there /not-there"), "711\n1777");
}

#[test]
fn mounts_are_made_in_their_order() {
    require!(Root);
    let bundle = Bundle::busybox();
    fs::create_dir(bundle.join("below")).unwrap();
    fs::write(bundle.join("below/word"), "on top").unwrap();
    let c = sleeper(
        bundle
            .mount(json!({"destination": "/a", "type": "tmpfs", "source": "tmpfs"}))
            .mount(json!({"destination": "/a/b", "source": "below", "options": ["bind"]})),
    );
    assert_eq!(c.sh("cat /a/b/word; echo; awk '$2 ~ \"^/a\" { print $2 }' /proc/mounts"), "on top\n/a\n/a/b");
}

#[test]
fn a_mount_point_behind_a_link_stays_inside_the_root_filesystem() {
    require!(Root);
    let bundle = Bundle::busybox();
    let outside = bundle.join("outside");
    fs::create_dir(&outside).unwrap();
    symlink("../../../../../../../..", bundle.rootfs().join("up")).unwrap();
    symlink(&outside, bundle.rootfs().join("absolute")).unwrap();
    let c = sleeper(
        bundle
            .mount(json!({"destination": "/absolute/made", "type": "tmpfs", "source": "tmpfs"}))
            .mount(json!({"destination": "/up/made", "type": "tmpfs", "source": "tmpfs"})),
    );
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "a directory was made on the host");
    assert!(mounted(&c, "/made").starts_with("tmpfs"));
    assert!(!std::path::Path::new("/made").exists());
}

#[test]
fn a_tmpfs_over_a_directory_keeps_its_content_with_tmpcopyup() {
    require!(Root);
    let bundle = Bundle::busybox();
    fs::create_dir(bundle.rootfs().join("copied")).unwrap();
    fs::write(bundle.rootfs().join("copied/word"), "kept").unwrap();
    let mount =
        json!({"destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]});
    let c = sleeper(bundle.mount(mount));
    assert_eq!(c.sh("cat /copied/word; echo changed >/copied/word"), "kept");
    assert_eq!(fs::read_to_string(c.bundle().rootfs().join("copied/word")).unwrap(), "kept");
}

#[test]
fn recursive_binds_bring_submounts_and_can_make_them_read_only() {
    require!(Root);
    let bundle = Bundle::busybox();
    let outer = bundle.join("outer");
    fs::create_dir_all(outer.join("inner")).unwrap();
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "tmpfs", "tmpfs"]).arg(outer.join("inner"));
    hiber_tests::command::run(mount, b"").ok();
    fs::write(outer.join("inner/word"), "deep").unwrap();
    let c = sleeper(
        bundle
            .mount(json!({"destination": "/plain", "source": outer, "options": ["bind"]}))
            .mount(json!({"destination": "/recursive", "source": outer, "options": ["rbind", "ro"]}))
            .mount(json!({"destination": "/all-ro", "source": outer, "options": ["rbind", "rro"]})),
    );
    c.exec(&["cat", "/plain/inner/word"]).fails("No such file");
    assert_eq!(c.sh("cat /recursive/inner/word /all-ro/inner/word"), "deepdeep");
    c.exec(&["touch", "/recursive/inner/new"]).ok();
    c.exec(&["touch", "/all-ro/inner/new"]).fails("Read-only");
}

#[test]
fn propagation_of_the_root_and_of_mounts() {
    require!(Root);
    let source = json!({"destination": "/slave", "source": "/tmp", "options": ["rbind", "rslave"]});
    let c = sleeper(Bundle::busybox().mount(source).edit(|c| {
        c["linux"]["rootfsPropagation"] = json!("private");
    }));
    let root = c.sh("awk '$5 == \"/\"' /proc/self/mountinfo");
    assert!(!root.contains("shared:") && !root.contains("master:"), "{root}");
}

#[test]
fn an_unknown_mount_option_reaches_the_filesystem_and_its_refusal_the_user() {
    require!(Root);
    let mount = json!({"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["nonsense=1"]});
    let c = Runtime::hiber().container(Bundle::busybox().mount(mount));
    c.run(&[]).fails("/x");
    c.assert_clean();
}

#[test]
fn an_overlay_mount() {
    require!(Root);
    let bundle = Bundle::busybox();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(bundle.join(name)).unwrap();
    }
    fs::write(bundle.join("lower/word"), "below").unwrap();
    let option = |name: &str| format!("{name}dir={}", bundle.join(name).display());
    let options = json!([option("lower"), option("upper"), option("work")]);
    let mount = json!({"destination": "/over", "type": "overlay", "source": "overlay", "options": options});
    let c = sleeper(bundle.mount(mount));
    assert_eq!(c.sh("cat /over/word; echo up >/over/word"), "below");
    assert_eq!(fs::read_to_string(c.bundle().join("lower/word")).unwrap(), "below");
    assert_eq!(fs::read_to_string(c.bundle().join("upper/word")).unwrap(), "up\n");
}

#[test]
fn no_pivot_works_without_pivot_root() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().shell("ls /proc/1/root/bin/sh && pwd"));
    assert_eq!(c.run(&["--no-pivot"]).ok(), "/proc/1/root/bin/sh\n/");
    c.assert_clean();
}

#[test]
fn mount_points_that_are_made_belong_to_root_and_are_plain() {
    require!(Root);
    let bundle = Bundle::busybox();
    fs::write(bundle.join("word"), "x").unwrap();
    let c = sleeper(
        bundle
            .mount(json!({"destination": "/new/file", "source": "word", "options": ["bind"]}))
            .mount(json!({"destination": "/new/directory", "type": "tmpfs", "source": "tmpfs"})),
    );
    let made = c.bundle().rootfs().join("new");
    let (file, directory) =
        (fs::metadata(made.join("file")).unwrap(), fs::metadata(made.join("directory")).unwrap());
    assert!(file.is_file() && file.len() == 0 && file.uid() == 0);
    assert!(directory.is_dir() && directory.permissions().mode() & 0o777 == 0o755);
}

#[test]
fn masked_directories_share_one_empty_filesystem_and_may_be_named_twice() {
    require!(Root);
    let script = "stat -c %d /a /b; grep -c ' /a ' /proc/mounts; ls /a /b; touch /b/x";
    let bundle = Bundle::busybox().shell(script).edit(|c| {
        c["linux"]["maskedPaths"] = json!(["/a", "/b", "/a", "/none"]);
    });
    for dir in ["a", "b"] {
        std::fs::create_dir(bundle.rootfs().join(dir)).unwrap();
        std::fs::write(bundle.rootfs().join(dir).join("secret"), "").unwrap();
    }
    let output = Runtime::hiber().container(bundle).run(&[]);
    output.fails("read-only file system");
    let lines: Vec<_> = output.stdout.lines().collect();
    let [a, b, times, ..] = lines[..] else { panic!("{output}") };
    assert_eq!((a, times), (b, "1"), "{output}");
    assert!(!output.stdout.contains("secret"), "{output}");
}

#[test]
fn the_container_sees_the_propagation_it_asked_for() {
    require!(Root);
    let of_root = |wanted: Value| {
        let bundle = Bundle::busybox().shell("awk '$5 == \"/\"' /proc/self/mountinfo");
        let bundle = bundle.edit(|c| c["linux"]["rootfsPropagation"] = wanted);
        Runtime::hiber().container(bundle).run(&[]).ok().to_owned()
    };
    assert!(of_root(json!("shared")).contains("shared:"));
    assert!(of_root(json!("unbindable")).contains("unbindable"));
    assert!(!of_root(Value::Null).contains("shared:"));
}

/// A tree of binds of which some have others as their source, below the root filesystem's own path on the host.
fn nested_binds(bundle: Bundle, maps: &Value) -> Bundle {
    for (link, dir) in [("sym-a", "a/x"), ("sym-b", "b/y"), ("sym-c", "c/z")] {
        let at = bundle.join("tree").join(dir);
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("file"), dir).unwrap();
        std::os::unix::fs::symlink(&dir[..1], bundle.join("tree").join(link)).unwrap();
    }
    // closed to the ids of a user namespace
    fs::set_permissions(bundle.join("tree"), fs::Permissions::from_mode(0o700)).unwrap();
    let root = bundle.rootfs().display().to_string();
    let bind = |bundle: Bundle, source: String, destination: String, maps: &Value| {
        bundle.mount(json!({"source": source, "destination": destination, "type": "bind",
            "uidMappings": maps, "gidMappings": maps, "options": ["rbind", "rprivate"]}))
    };
    let outside = [("a", "/mnt"), ("sym-b", "/mnt/x"), ("c", "/mnt/x/y"), ("sym-a", "/mnt/x/y/z")];
    let bundle = outside.into_iter().fold(bundle, |bundle, (source, destination)| {
        let source = bundle.join("tree").join(source).display().to_string();
        bind(bundle, source, destination.to_owned(), &Value::Null)
    });
    let inside = [("mnt/x", "mnt/x/y/z/x"), ("mnt/x/y", "mnt/x/y/z"), ("mnt", "final")];
    inside.into_iter().fold(bundle, |bundle, (source, destination)| {
        bind(bundle, format!("{root}/{source}"), format!("{root}/{destination}"), maps)
    })
}

#[test]
fn binds_of_other_mounts_of_the_container_are_made_in_order() {
    require!(Root, UserNamespaces);
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    for user_namespace in [false, true] {
        for maps in [&Value::Null, &maps] {
            let bundle =
                if user_namespace { Bundle::busybox().user_namespace(100_000) } else { Bundle::busybox() };
            let bundle = nested_binds(bundle, maps).args(["cat", "/final/x/y/z/z/x/y/z/x/file"]);
            let c = Runtime::hiber().container(bundle);
            assert_eq!(c.run(&[]).ok(), "a/x", "user namespace {user_namespace}, maps {maps}");
            c.assert_clean();
        }
    }
}

#[test]
fn a_read_only_path_that_is_the_root_makes_it_read_only() {
    require!(Root);
    let with = |field: &str| {
        Bundle::busybox().edit(|c| hiber_tests::bundle::push(&mut c["linux"][field], json!("/")))
    };
    let c = sleeper(with("readonlyPaths"));
    c.exec(&["touch", "/file"]).fails("Read-only file system");
    c.sh("echo x >/dev/shm/file");
    Runtime::hiber()
        .container(with("maskedPaths"))
        .run(&[])
        .fails("linux.maskedPaths")
        .fails("root filesystem itself");
}

/// Whatever was mounted before lies below what covers it, whether that was named directly or through a link of the image.
#[test]
fn a_mount_lies_in_the_one_that_is_seen_at_its_place() {
    require!(Root);
    let tmpfs = |at: &str, mode: &str| json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": [format!("mode={mode}")]});
    for over in ["/a", "/link", "/x/../a"] {
        let bundle = Bundle::busybox();
        for dir in ["a/b/c", "x"] {
            std::fs::create_dir_all(bundle.rootfs().join(dir)).unwrap();
        }
        std::os::unix::fs::symlink("a", bundle.rootfs().join("link")).unwrap();
        let bundle = bundle
            .mount(tmpfs("/a/b", "700"))
            .mount(tmpfs("/a/b/c", "700"))
            .mount(tmpfs(over, "711"))
            .mount(tmpfs("/a/b/d", "722"))
            .mount(tmpfs("/link/b/e", "733"));
        let c = sleeper(bundle);
        let seen = c.sh("ls /a /a/b; stat -c %a /a /a/b /a/b/d /a/b/e");
        assert_eq!(seen, "/a:\nb\n\n/a/b:\nd\ne\n711\n755\n722\n733", "{over}");
    }
}

/// Mounts of the host at or below the bundle, ascending.
fn hosts_mounts(c: &Container) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| point.contains(c.id())).map(str::to_owned).collect()
}

#[test]
fn in_the_hosts_mount_namespace_mounts_go_with_the_container() {
    require!(Root);
    let open = |c: &mut Value| {
        for field in ["maskedPaths", "readonlyPaths"] {
            c["linux"].as_object_mut().unwrap().remove(field);
        }
    };
    let bundle = || Bundle::busybox().without_namespace("mount").edit(open);
    let c = sleeper(bundle().edit(|c| c["root"]["readonly"] = json!(true)));
    assert_eq!(
        c.sh("readlink /proc/self/ns/mnt"),
        fs::read_link("/proc/self/ns/mnt").unwrap().display().to_string()
    );
    c.exec(&["touch", "/file"]).fails("Read-only file system");
    c.exec(&["touch", "/dev/shm/file"]).ok();
    let before = hosts_mounts(&c);
    assert!(before.len() > 5, "{before:?}");
    // none of them is anybody's peer
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = text.lines().filter(|line| line.contains(c.id()));
    assert!(own.into_iter().all(|line| !line.contains(" shared:")), "{text}");
    c.checkpoint(&[]).fails("the container is in the host's mount namespace");
    assert_eq!(c.status(), "running");
    c.delete(&["--force"]).ok();
    assert_eq!(hosts_mounts(&c), Vec::<String>::new());

    // The caller's mounts there stay, whoever was there first.
    let c = Runtime::hiber().container(bundle().args(["true"]));
    let own = c.bundle().join("rootfs");
    hiber_tests::command::run(
        {
            let mut m = std::process::Command::new("mount");
            m.args(["--bind", own.to_str().unwrap(), own.to_str().unwrap()]);
            m
        },
        b"",
    )
    .ok();
    c.run(&[]).ok();
    assert_eq!(hosts_mounts(&c), [own.to_str().unwrap()]);
    unmount(&own);

    // A creation that fails leaves none.
    let c = Runtime::hiber().container(bundle().args(["/no/such/program"]));
    c.create(&[]).fails("/no/such/program");
    assert_eq!(hosts_mounts(&c), Vec::<String>::new());
    let masked = Runtime::hiber().container(Bundle::busybox().without_namespace("mount"));
    masked.create(&[]).fails("without a private MNT namespace");
}

#[track_caller]
fn unmount(at: &std::path::Path) {
    let mut command = std::process::Command::new("umount");
    command.arg(at);
    hiber_tests::command::run(command, b"").ok();
}
