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
        ("rnorelatime", "!relatime", "!relatime"),
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
