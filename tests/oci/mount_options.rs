//! Every mount option of the runtime specification (config.md "Linux mount options").

use hiber_tests::prelude::*;
use std::collections::BTreeMap;
use std::fs;

/// A mount as /proc/PID/mountinfo tells: its own options, its propagation, its filesystem's options.
#[derive(Debug, Default, Clone)]
struct Mounted {
    own: Vec<String>,
    propagation: Vec<String>,
    filesystem: Vec<String>,
}

fn mounts(pid: i32) -> BTreeMap<String, Mounted> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let split = |list: &str| list.split(',').map(str::to_owned).collect();
    let read = |line: &str| {
        let (first, last) = line.split_once(" - ").unwrap();
        let words: Vec<_> = first.split(' ').collect();
        let propagation = words[6..].iter().map(|w| w.split(':').next().unwrap().to_owned()).collect();
        let filesystem = split(last.rsplit(' ').next().unwrap());
        (words[4].to_owned(), Mounted { own: split(words[5]), propagation, filesystem })
    };
    text.lines().map(read).collect()
}

/// A container with one mount for each row, at `/m/NUMBER`, and what became of them.
fn mounted(kind: &str, source: &str, rows: &[Vec<&str>]) -> (Container, BTreeMap<String, Mounted>) {
    let mut bundle = Bundle::busybox().args(["sleep", "1000"]);
    for (at, options) in rows.iter().enumerate() {
        let destination = format!("/m/{at}");
        bundle = bundle
            .mount(json!({"destination": destination, "type": kind, "source": source, "options": options}));
    }
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let found = mounts(c.pid());
    (c, found)
}

/// Whether `list` has all of the words, and none of those with `!`.
fn has(list: &[String], words: &str) -> bool {
    words.split_whitespace().all(|word| match word.strip_prefix('!') {
        Some(word) => !list.iter().any(|l| l == word),
        None => list.iter().any(|l| l == word),
    })
}

#[test]
fn of_a_new_filesystem() {
    require!(Root);
    // options, and what must be found of the mount and of its filesystem
    let rows: &[(&str, &str, &str)] = &[
        ("defaults", "rw relatime", "rw"),
        ("ro", "ro", ""),
        ("ro,rw", "rw", ""),
        ("nosuid,nodev,noexec", "nosuid nodev noexec", ""),
        ("nosuid,suid,nodev,dev,noexec,exec", "!nosuid !nodev !noexec", ""),
        ("noatime", "noatime !relatime", ""),
        ("noatime,atime", "!noatime", ""),
        ("relatime", "relatime", ""),
        ("strictatime", "!relatime !noatime", ""),
        ("strictatime,nostrictatime", "relatime", ""),
        ("norelatime", "!noatime", ""),
        ("nodiratime", "nodiratime", ""),
        ("nodiratime,diratime", "!nodiratime", ""),
        ("nosymfollow", "nosymfollow", ""),
        ("nosymfollow,symfollow", "!nosymfollow", ""),
        ("sync", "", "sync"),
        ("sync,async", "", "!sync"),
        ("dirsync", "", "dirsync"),
        ("lazytime", "", "lazytime"),
        ("lazytime,nolazytime", "", "!lazytime"),
        ("silent,loud,iversion,noiversion", "rw", "rw"),
        ("mode=711,size=4096k,nr_inodes=99", "", "mode=711 size=4096k nr_inodes=99"),
    ];
    let options: Vec<Vec<&str>> = rows.iter().map(|(options, ..)| options.split(',').collect()).collect();
    let (c, found) = mounted("tmpfs", "tmpfs", &options);
    for (at, (options, own, filesystem)) in rows.iter().enumerate() {
        let mount = &found[&format!("/m/{at}")];
        assert!(has(&mount.own, own), "{options}: {mount:?}");
        assert!(has(&mount.filesystem, filesystem), "{options}: {mount:?}");
    }
    // not only told but done
    c.exec(&["touch", "/m/1/file"]).fails("Read-only file system");
    let link = rows.iter().position(|(options, ..)| *options == "nosymfollow").unwrap();
    c.sh(&format!("ln -s /etc/passwd /m/{link}/link"));
    c.exec(&["cat", &format!("/m/{link}/link")]).fails("Too many levels of symbolic links");
}

#[test]
fn recursive_ones() {
    require!(Root);
    // options, what must be found of the mount, and of one below it
    let rows: &[(&str, &str, &str)] = &[
        ("ro", "ro", "rw"),
        ("rro", "ro", "ro"),
        ("rro,rrw", "rw", "rw"),
        ("rnosuid,rnodev,rnoexec", "nosuid nodev noexec", "nosuid nodev noexec"),
        ("nosuid,rsuid", "!nosuid", "!nosuid"),
        ("nodev,rdev", "!nodev", "!nodev"),
        ("noexec,rexec", "!noexec", "!noexec"),
        ("rnodiratime", "nodiratime", "nodiratime"),
        ("rnodiratime,rdiratime", "!nodiratime", "!nodiratime"),
        ("rnoatime", "noatime", "noatime"),
        ("rnoatime,ratime", "relatime !noatime", "relatime !noatime"),
        ("rstrictatime", "!relatime !noatime", "!relatime !noatime"),
        ("rstrictatime,rnostrictatime", "relatime", "relatime"),
        ("rnoatime,rrelatime", "relatime", "relatime"),
        ("rnoatime,rnorelatime", "relatime !noatime", "relatime !noatime"),
        ("rnosymfollow", "nosymfollow", "nosymfollow"),
        ("rnosymfollow,rsymfollow", "!nosymfollow", "!nosymfollow"),
    ];
    let with_bind = |options: &'static str| ["rbind"].into_iter().chain(options.split(',')).collect();
    let options: Vec<Vec<&str>> = rows.iter().map(|(options, ..)| with_bind(options)).collect();
    // has a mount below it on every machine
    let (_c, found) = mounted("bind", "/dev", &options);
    for (at, (options, own, below)) in rows.iter().enumerate() {
        let (mount, pts) = (&found[&format!("/m/{at}")], &found[&format!("/m/{at}/pts")]);
        assert!(has(&mount.own, own), "{options}: {mount:?}");
        assert!(has(&pts.own, below), "{options}, below: {pts:?}");
    }
}

#[test]
fn of_propagation() {
    require!(Root);
    let rows: &[(&str, &str, &str)] = &[
        ("private", "!shared !master !unbindable", "!unbindable"),
        ("rprivate", "!shared !master", "!shared !master"),
        ("shared", "shared", "!unbindable"),
        ("rshared", "shared", "shared"),
        ("shared,slave", "!shared !unbindable", ""),
        ("rslave", "!shared", "!shared"),
        ("unbindable", "unbindable", "!unbindable"),
        ("runbindable", "unbindable", "unbindable"),
    ];
    let with_bind = |options: &'static str| ["rbind"].into_iter().chain(options.split(',')).collect();
    let options: Vec<Vec<&str>> = rows.iter().map(|(options, ..)| with_bind(options)).collect();
    let (_c, found) = mounted("bind", "/dev", &options);
    for (at, (options, own, below)) in rows.iter().enumerate() {
        let (mount, pts) = (&found[&format!("/m/{at}")], &found[&format!("/m/{at}/pts")]);
        assert!(has(&mount.propagation, own), "{options}: {mount:?}");
        assert!(has(&pts.propagation, below), "{options}, below: {pts:?}");
    }
}

/// Runs the container where `script` has mounted something before, which nobody else sees.
fn run_where(script: &str, c: &Container) -> Output {
    let run = c.command("run", &["--bundle", &c.bundle_path()]);
    let mut command = std::process::Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        &format!("{script}; exec \"$@\""),
        "sh",
    ]);
    command.arg(run.get_program()).args(run.get_args());
    hiber_tests::command::run(command, b"")
}

/// A bundle that binds its directory `source` and prints what became of that.
fn bound(options: &[&str]) -> Bundle {
    let bundle = Bundle::busybox().args(["grep", " /m ", "/proc/self/mountinfo"]);
    std::fs::create_dir(bundle.join("source")).unwrap();
    let options: Vec<_> = ["bind"].iter().chain(options).collect();
    bundle.mount(json!({"destination": "/m", "type": "bind", "source": "source", "options": options}))
}

/// A source with every attribute.
fn full_source(bundle: &Bundle) -> String {
    let options = "ro,nosuid,nodev,noexec,noatime,nodiratime";
    format!("mount -t tmpfs -o {options} full {}", bundle.join("source").display())
}

fn own_options(output: &Output) -> Vec<String> {
    let words = output.ok().split(' ').nth(5).map(str::to_owned);
    words.unwrap_or_default().split(',').map(str::to_owned).collect()
}

/// The options of runc 1.3 gives for the same.
#[test]
fn a_bind_is_what_its_options_say_and_its_source_where_they_say_nothing() {
    require!(Root, Program("unshare"));
    let rows: &[(&str, &str)] = &[
        ("", "ro,nosuid,nodev,noexec,noatime,nodiratime"),
        ("rprivate", "ro,nosuid,nodev,noexec,noatime,nodiratime"),
        ("ro", "ro,noatime,nodiratime"),
        ("rw", "rw,noatime,nodiratime"),
        ("suid", "rw,noatime,nodiratime"),
        ("dev", "rw,noatime,nodiratime"),
        ("exec", "rw,noatime,nodiratime"),
        ("nosuid", "rw,nosuid,noatime,nodiratime"),
        ("nodev,noexec", "rw,nodev,noexec,noatime,nodiratime"),
        ("sync", "rw,noatime,nodiratime"),
        ("relatime", "rw,relatime"),
        ("strictatime", "rw"),
        ("noatime", "rw,noatime"),
        ("nodiratime", "rw,nodiratime,relatime"),
        ("atime", "rw,noatime,nodiratime"),
        ("norelatime", "rw,noatime,nodiratime"),
        ("nosymfollow", "rw,noatime,nodiratime,nosymfollow"),
        ("rro", "ro,nosuid,nodev,noexec,noatime,nodiratime"),
        ("rrw", "rw,nosuid,nodev,noexec,noatime,nodiratime"),
        ("ro,rrw", "rw,noatime,nodiratime"),
        ("rnorelatime", "ro,nosuid,nodev,noexec,nodiratime,relatime"),
        ("rrelatime", "ro,nosuid,nodev,noexec,nodiratime,relatime"),
    ];
    for (options, expected) in rows {
        let options: Vec<_> = options.split(',').filter(|option| !option.is_empty()).collect();
        let c = Runtime::hiber().container(bound(&options));
        let output = run_where(&full_source(c.bundle()), &c);
        assert_eq!(own_options(&output).join(","), *expected, "{options:?}");
    }
}

#[test]
fn a_bind_in_a_user_namespace_keeps_what_the_hosts_mount_has() {
    require!(Root, UserNamespaces, Program("unshare"));
    let run = |options: &[&str]| {
        let c = Runtime::hiber().container(bound(options).user_namespace(300_000));
        let output = run_where(&full_source(c.bundle()), &c);
        c.assert_clean();
        output
    };
    let all = "ro,nosuid,nodev,noexec,noatime,nodiratime";
    for options in [&[] as &[&str], &["ro"], &["nodev"], &["noatime", "nodiratime"], &["atime"], &["rnosuid"]]
    {
        assert_eq!(own_options(&run(options)).join(","), all, "{options:?}");
    }
    run(&["rw"]).fails("cannot clear locked flags MS_RDONLY");
    run(&["suid", "dev"]).fails("cannot clear locked flags MS_NOSUID|MS_NODEV");
    run(&["rrw"]).fails("cannot clear locked flags MS_RDONLY");
    run(&["strictatime"]).fails("cannot change locked atime flags");
    // Nothing of a filesystem that is read-only for everybody.
    let c = Runtime::hiber().container(bound(&["rw"]).user_namespace(300_000));
    let source = c.bundle().join("source").display().to_string();
    let script = format!(
        "mount -t tmpfs full {source}; mount -o remount,ro {source}; mount -o remount,bind,rw {source}"
    );
    assert_eq!(own_options(&run_where(&script, &c)).join(","), "rw,relatime");
}

#[test]
fn the_root_has_the_propagation_that_is_asked_for_where_the_hosts_is_shared() {
    require!(Root, Program("unshare"));
    let rows: [(Value, &[&str]); 6] = [
        (Value::Null, &["master"]),
        (json!("slave"), &["master"]),
        (json!("rslave"), &["master"]),
        (json!("private"), &[]),
        (json!("rprivate"), &[]),
        (json!("rshared"), &["shared"]),
    ];
    for (given, expected) in rows {
        let bundle = Bundle::busybox().args(["cat", "/proc/self/mountinfo"]).edit(|c| {
            if !given.is_null() {
                c["linux"]["rootfsPropagation"] = given.clone();
            }
        });
        let c = Runtime::hiber().container(bundle);
        for script in ["mount --make-rshared /".to_owned(), {
            // A mount of the root's own.
            let at = c.bundle().rootfs().display().to_string();
            format!("mount --make-rshared /; mount --bind {at} {at}; mount --make-shared {at}")
        }] {
            let output = run_where(&script, &c);
            let table = output.ok();
            let line = table.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
            let (fields, _) = line.split_once(" - ").unwrap();
            let found: Vec<_> = fields.split(' ').skip(6).filter(|f| !f.is_empty()).collect();
            let kinds: Vec<_> = found.iter().map(|field| field.split(':').next().unwrap()).collect();
            assert_eq!(kinds, expected, "{given} after {script}: {line}");
        }
    }
}

/// The options above, those of other tests, and what cannot be seen.
#[test]
fn features_lists_the_options_that_are_tested() {
    require!(Root);
    let here = include_str!("mount_options.rs");
    let features = Runtime::hiber().run(&["features"]).json();
    let elsewhere = ["bind", "tmpcopyup", "idmap", "ridmap", "acl", "noacl", "mand", "nomand", "remount"];
    for option in features["mountOptions"].as_array().unwrap() {
        let option = option.as_str().unwrap();
        let tested = here.split(['"', ',']).any(|word| word == option) || elsewhere.contains(&option);
        assert!(tested, "{option} is not tested");
    }
}
