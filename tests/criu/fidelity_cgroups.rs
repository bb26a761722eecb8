//! `--manage-cgroups-mode` on every layout of cgroups, and what of the host's cgroups a checkpoint has.

use crate::{count, counter, counts_on};
use hiber_sys::bpf::{self, Insn, Reg};
use hiber_tests::cgroup::{Hierarchy, hierarchies};
use hiber_tests::prelude::*;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

const MODES: [&str; 4] = ["soft", "full", "strict", "ignore"];

/// Saves a container by each mode, and restores it without and with that: no mode is taken from the manifest, and what was
/// saved without cgroups is restored only by a caller who says so.
#[track_caller]
fn modes(runtime: &Runtime) {
    for mode in MODES {
        let flags = ["--manage-cgroups-mode", mode];
        let c = counter(runtime, Bundle::busybox());
        for restore in [&[][..], &flags] {
            let before = count(&c);
            c.checkpoint(&flags).ok();
            assert_eq!(c.status(), "gone");
            c.assert_clean();
            if mode == "ignore" && restore.is_empty() {
                let why = "pass --manage-cgroups-mode ignore";
                let found = crate::failures_restore::preflight(&c, &[]);
                assert!(found.to_string().contains(why), "{found:#}");
                c.restore(&[]).fails(why);
                c.assert_clean();
                c.restore(&flags).ok();
                let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/cgroup")).unwrap();
                assert_eq!(of(&c.pid().to_string()), of("self"), "the message says so");
            } else {
                c.restore(restore).ok();
            }
            assert_eq!(c.status(), "running", "{mode}");
            counts_on(&c, before);
        }
        // One that was frozen comes back running.
        c.call("pause", &[]).ok();
        c.checkpoint(&flags).ok();
        c.restore(&flags).ok();
        counts_on(&c, 3);
    }
}

#[test]
fn every_mode_restores_on_the_hosts_layout() {
    require!(Root, Criu);
    modes(&Runtime::hiber());
}

#[test]
fn every_mode_restores_on_v2() {
    require!(Root, Criu);
    modes(&Runtime::hiber_on_v2());
}

/// Tasks are born in their cgroups, and in their cgroup namespace: CRIU waits for the kernel for each task that it moves.
#[test]
fn no_task_is_moved_into_its_cgroups() {
    require!(Root, Criu);
    let bundle = |namespace: bool| {
        let bundle = Bundle::busybox().without_namespace("cgroup");
        if namespace { bundle.namespace("cgroup", None) } else { bundle }
    };
    for (bundle, owned) in
        [(bundle(false), false), (bundle(true), false), (bundle(true).user_namespace(200_000), true)]
    {
        let c = counter(&Runtime::hiber(), bundle);
        let work = c.bundle().join("work");
        fs::create_dir_all(&work).unwrap();
        let places = || {
            let read = |path: String| fs::read_to_string(path).unwrap();
            (c.sh("cat /proc/self/cgroup"), read(format!("/proc/{}/cgroup", c.pid())))
        };
        let before = places();
        // CRIU moves the tasks of a container whose user namespace owns the cgroup namespace.
        let owner = || {
            let pid = c.pid().to_string();
            let mut lsns = std::process::Command::new("lsns");
            lsns.args(["--noheadings", "--type", "cgroup", "--output", "ONS", "--task", &pid]);
            hiber_tests::command::run(lsns, b"").ok().trim().to_owned()
        };
        let user = || fs::metadata(format!("/proc/{}/ns/user", c.pid())).unwrap().ino().to_string();
        for _ in 0..2 {
            assert!(!owned || owner() == user());
            let count = count(&c);
            c.checkpoint(&[]).ok();
            c.restore(&["--work-path", work.to_str().unwrap()]).ok();
            assert_eq!(places(), before);
            let log = fs::read_to_string(work.join("restore.log")).unwrap();
            assert_eq!(log.contains("/cgroup.procs"), owned, "{log}");
            assert!(!owned || owner() == user());
            counts_on(&c, count);
        }
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/cgroup")).unwrap();
        let own = c.bundle().config()["linux"]["namespaces"].as_array().unwrap();
        let has = own.iter().any(|namespace| namespace["type"] == "cgroup");
        assert_eq!(of(&c.pid().to_string()) != of("self"), has);
    }
}

/// A cgroup of the test's in every hierarchy of the host, with others in it.
struct Foreign(Vec<PathBuf>);

impl Foreign {
    fn new(name: &str, count: usize) -> Self {
        let mut all = Vec::new();
        for hierarchy in hierarchies() {
            let top = hierarchy.mount.join(name);
            all.push(top.clone());
            all.extend((0..count).map(|number| top.join(format!("foreign-{number}"))));
        }
        for directory in &all {
            fs::create_dir(directory).unwrap();
        }
        Self(all)
    }

    fn remove(&self) {
        for directory in self.0.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.remove();
    }
}

#[test]
fn cgroups_of_others_are_neither_saved_nor_made_again() {
    require!(Root, Criu);
    // On v2 the container has no cgroup in the hierarchies of v1 that the kernel has as well.
    for (runtime, mode) in [Runtime::hiber(), Runtime::hiber_on_v2()]
        .iter()
        .flat_map(|runtime| ["soft", "full", "strict"].map(|mode| (runtime, mode)))
    {
        let bundle = Bundle::busybox();
        let foreign = Foreign::new(&format!("{}-foreign", bundle.name()), 3);
        let c = counter(runtime, bundle);
        let flags = ["--manage-cgroups-mode", mode];
        c.checkpoint(&flags).ok();
        let image = fs::read(c.images().join("cgroup.img")).unwrap();
        assert!(!String::from_utf8_lossy(&image).contains("foreign"), "{mode}");
        foreign.remove();
        c.restore(&flags).ok();
        counts_on(&c, 3);
        assert!(foreign.0.iter().all(|directory| !directory.exists()), "{mode}");
    }
}

/// A container's cgroup in one hierarchy, and a value that cgroups have there.
fn one(c: &Container, v2: bool) -> (PathBuf, &'static str) {
    let with = |h: &Hierarchy| if v2 { h.v2 } else { h.controllers.iter().any(|name| name == "pids") };
    let hierarchy = hierarchies().into_iter().find(with).unwrap();
    let file = if hierarchy.v2 { "cgroup.max.depth" } else { "pids.max" };
    (hierarchy.mount.join(&c.bundle().cgroup()[1..]), file)
}

/// A process in a cgroup below the container's own, with a value in each: what a restore makes of them by each mode.
#[track_caller]
fn nested(runtime: &Runtime, v2: bool) {
    for (mode, expected) in [("soft", ["5", "max"]), ("full", ["5", "7"]), ("strict", ["5", "max"])] {
        // Its first process stays where it is, so that both cgroups are saved.
        let c = runtime.container(Bundle::busybox().shell(&format!("sleep 10000 & {}", crate::COUNT)));
        c.run_detached().ok();
        wait_for("a count of 3", || count(&c) >= 3);
        let (own, file) = one(&c, v2);
        let inner = own.join("inner");
        fs::create_dir(&inner).unwrap();
        for (directory, value) in [(&inner, "5"), (&own, "7")] {
            fs::write(directory.join(file), value).unwrap();
        }
        let all = fs::read_to_string(own.join("cgroup.procs")).unwrap();
        let sleeps = |pid: &&str| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.contains("10000"))
        };
        let other = all.lines().filter(|pid| *pid != c.pid().to_string()).find(sleeps).unwrap();
        fs::write(inner.join("cgroup.procs"), other).unwrap();
        let flags = ["--manage-cgroups-mode", mode];
        c.checkpoint(&flags).ok();
        assert!(!own.exists());
        c.restore(&flags).ok();
        let value = |directory: &PathBuf| fs::read_to_string(directory.join(file)).unwrap().trim().to_owned();
        assert_eq!([value(&inner), value(&own)], expected, "{mode}");
        assert_eq!(fs::read_to_string(inner.join("cgroup.procs")).unwrap().lines().count(), 1, "{mode}");
        counts_on(&c, 3);
    }
}

#[test]
fn cgroups_below_the_containers_are_made_again_on_the_hosts_layout() {
    require!(Root, Criu);
    nested(&Runtime::hiber(), hierarchies().iter().all(|h| h.v2));
}

#[test]
fn cgroups_below_the_containers_are_made_again_on_v2() {
    require!(Root, Criu);
    nested(&Runtime::hiber_on_v2(), true);
}

#[test]
fn strict_refuses_what_is_there_on_every_layout() {
    require!(Root, Criu);
    for (runtime, v2) in [(Runtime::hiber(), false), (Runtime::hiber_on_v2(), true)] {
        let v2 = v2 || hierarchies().iter().all(|h| h.v2);
        let c = counter(&runtime, Bundle::busybox());
        let (own, _) = one(&c, v2);
        let flags = ["--manage-cgroups-mode", "strict"];
        c.checkpoint(&flags).ok();
        fs::create_dir_all(&own).unwrap();
        let report = crate::failures_restore::preflight(&c, &flags);
        let found = crate::failures::finding(&report, "cgroup").unwrap_or_else(|| panic!("{report:#}"));
        assert!(found["what"].as_str().unwrap().contains("strict"), "{report:#}");
        c.restore(&flags).fails("strict: the container's cgroup is there already");
        assert!(own.exists(), "it is not the restore's");
        fs::remove_dir(&own).unwrap();
        fs::remove_dir(own.parent().unwrap()).unwrap();
        c.assert_clean();
        c.restore(&flags).ok();
        counts_on(&c, 3);
    }
}

#[test]
fn images_that_freeze_their_restore_do_not_hold_it_up() {
    require!(Root, Criu, Runc);
    // runc saves the state of a paused container, and CRIU is in its cgroup when it sets that.
    let c = counter(&Runtime::runc(), Bundle::busybox());
    c.call("pause", &[]).ok();
    c.checkpoint(&["--manage-cgroups-mode", "full"]).ok();
    let c = c.in_hands_of(&Runtime::hiber());
    c.restore(&["--manage-cgroups-mode", "full"]).ok();
    assert_eq!(c.status(), "running");
    counts_on(&c, 3);
}

/// A container whose first process has moved into a cgroup below the container's, as systemd does, beside others with limits.
#[test]
fn delegated_cgroups_of_v2() {
    require!(Root, Criu);
    let v2 = hierarchies().into_iter().find(|h| h.v2).unwrap();
    let _given = Given::of(&v2.mount);
    let c =
        Runtime::hiber_on_v2().container(Bundle::busybox().shell(&format!("sleep 10000 & {}", crate::COUNT)));
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    let own = v2.mount.join(&c.bundle().cgroup()[1..]);
    let read = |name: &str| fs::read_to_string(own.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    for name in ["init", "work", "work/deep", "work/idle"] {
        fs::create_dir(own.join(name)).unwrap();
    }
    let sleeps =
        |pid: &str| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.starts_with(b"sleep\x0010000"));
    wait_for("nobody to be in the container's cgroup itself", || {
        for pid in read("cgroup.procs").lines() {
            let place = if sleeps(pid) { "work/deep" } else { "init" };
            // It may have ended.
            let _ = fs::write(own.join(place).join("cgroup.procs"), pid);
        }
        read("cgroup.procs").is_empty()
    });
    let set = limits(&own, &controllers(&v2.mount, &own));
    for (name, file, value) in &set {
        fs::write(own.join(name).join(file), value).unwrap_or_else(|e| panic!("{name}/{file}: {e}"));
    }
    let attribute = |kind: &str| format!("{kind}.hiber");
    for (name, kind) in [("work", "trusted"), ("work/deep", "user")] {
        let (dir, flags) = (fs::File::open(own.join(name)).unwrap(), rustix::fs::XattrFlags::CREATE);
        rustix::fs::fsetxattr(dir, attribute(kind), b"a unit", flags).unwrap();
    }
    let has_attribute = |name: &str, kind: &str| {
        let mut value = [0; 16];
        rustix::fs::getxattr(own.join(name), attribute(kind), &mut value[..])
            .is_ok_and(|length| &value[..length] == b"a unit")
    };
    let shows = || {
        let values =
            set.iter().map(|(name, file, _)| format!("{name}/{file} {}", read(&format!("{name}/{file}"))));
        let gives = ["", "work/"].map(|name| read(&format!("{name}cgroup.subtree_control")));
        let has =
            |name: &str, is: &dyn Fn(&str) -> bool| read(&format!("{name}/cgroup.procs")).lines().any(is);
        let first = c.pid().to_string();
        (values.collect::<Vec<_>>(), gives, has("init", &|pid| pid == first), has("work/deep", &sleeps))
    };
    let before = shows();
    assert!(before.2 && before.3, "{before:?}");
    for _ in 0..2 {
        c.checkpoint(&[]).ok();
        assert!(!own.exists());
        c.restore(&[]).ok();
        assert_eq!(shows(), before);
        // The container has no right to give a trusted one.
        assert!(has_attribute("work/deep", "user") && !has_attribute("work", "trusted"));
        counts_on(&c, 3);
    }
}

#[test]
fn trusted_attributes_of_a_privileged_container() {
    require!(Root, Criu);
    let bundle = Bundle::busybox().shell(crate::COUNT).edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            hiber_tests::bundle::push(&mut config["process"]["capabilities"][set], "CAP_SYS_ADMIN".into());
        }
    });
    let c = Runtime::hiber_on_v2().container(bundle);
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    let v2 = hierarchies().into_iter().find(|h| h.v2).unwrap();
    let work = v2.mount.join(&c.bundle().cgroup()[1..]).join("work");
    fs::create_dir(&work).unwrap();
    rustix::fs::setxattr(&work, "trusted.hiber", b"a unit", rustix::fs::XattrFlags::CREATE).unwrap();
    for _ in 0..2 {
        c.checkpoint(&[]).ok();
        assert!(!work.exists());
        c.restore(&[]).ok();
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(&work, "trusted.hiber", &mut value[..]).unwrap();
        assert_eq!(&value[..length], b"a unit");
        counts_on(&c, 3);
    }
}

/// The controllers that the machine's first cgroup gave to others before. New ones are taken back in the end, but for machines
/// that forget everything, where all tests use these.
struct Given(std::path::PathBuf, String);

impl Given {
    fn of(mount: &std::path::Path) -> Self {
        let file = mount.join("cgroup.subtree_control");
        let before = fs::read_to_string(&file).unwrap();
        Self(file, before)
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if !hiber_tests::cgroup::is_mixed() {
            return;
        }
        let had = |name: &&str| self.1.split_whitespace().any(|before| before == *name);
        for name in
            fs::read_to_string(&self.0).unwrap_or_default().split_whitespace().filter(|name| !had(name))
        {
            // Somebody else may need it by now.
            let _ = fs::write(&self.0, format!("-{name}"));
        }
    }
}

#[test]
fn threads_in_a_cgroup_below_are_a_loss() {
    require!(Root, Criu);
    let c = Runtime::hiber_on_v2().container(Bundle::busybox().shell(crate::COUNT));
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    let v2 = hierarchies().into_iter().find(|h| h.v2).unwrap();
    let own = v2.mount.join(&c.bundle().cgroup()[1..]);
    let threads = own.join("init/threads");
    fs::create_dir_all(&threads).unwrap();
    let procs = || fs::read_to_string(own.join("cgroup.procs")).unwrap();
    wait_for("nobody to be in the container's cgroup itself", || {
        // It may have ended.
        procs().lines().for_each(|pid| drop(fs::write(own.join("init/cgroup.procs"), pid)));
        procs().is_empty()
    });
    fs::write(threads.join("cgroup.type"), "threaded").unwrap();
    fs::write(threads.join("cgroup.threads"), c.pid().to_string()).unwrap();
    let before = count(&c);
    let report = crate::failures::preflight(&c, &[]);
    assert!(crate::failures::finding(&report, "threaded-cgroup").is_some(), "{report:#}");
    c.checkpoint(&[]).fails("init/threads").fails("--accept threaded-cgroup");
    counts_on(&c, before);
    c.checkpoint(&["--accept", "threaded-cgroup"]).ok();
    c.restore(&[]).ok();
    counts_on(&c, before);
}

#[test]
fn programs_on_a_cgroup_below_are_a_loss() {
    require!(Root, Criu);
    let c = Runtime::hiber_on_v2().container(Bundle::busybox().shell(crate::COUNT));
    c.run_detached().ok();
    wait_for("a count of 3", || count(&c) >= 3);
    let v2 = hierarchies().into_iter().find(|h| h.v2).unwrap();
    let below = v2.mount.join(&c.bundle().cgroup()[1..]).join("below");
    fs::create_dir(&below).unwrap();
    let before = count(&c);
    let said = |report: &serde_json::Value| crate::failures::finding(report, "cgroup-program").is_some();
    assert!(!said(&crate::failures::preflight(&c, &[])), "the container's own device filter is none");
    let all_devices = [Insn::mov64_imm(Reg::R0, 1), Insn::exit()];
    bpf::set_device_filter(fs::File::open(&below).unwrap().as_fd(), &all_devices).unwrap();
    let report = crate::failures::preflight(&c, &[]);
    assert!(said(&report), "{report:#}");
    c.checkpoint(&[]).fails("attached to the cgroup below").fails("--accept cgroup-program");
    counts_on(&c, before);
    c.checkpoint(&["--accept", "cgroup-program"]).ok();
    c.restore(&[]).ok();
    counts_on(&c, before);
    let again = fs::File::open(&below).unwrap();
    assert_eq!(bpf::query(again.as_fd()).unwrap(), [0; 0], "the cgroup is there, without its program");
}

/// The controllers that the cgroups in `own` can have. The kernel gives a cgroup those that the ones above it have, from the top on.
fn controllers(mount: &std::path::Path, own: &std::path::Path) -> Vec<String> {
    let above: Vec<_> = own.ancestors().skip(1).take_while(|dir| dir.starts_with(mount)).collect();
    let all = fs::read_to_string(mount.join("cgroup.controllers")).unwrap();
    let given = |name: &&str| {
        let on = format!("+{name}");
        let gives = |dir: &std::path::Path| fs::write(dir.join("cgroup.subtree_control"), &on).is_ok();
        above.iter().rev().all(|dir| gives(dir)) && gives(own) && gives(&own.join("work"))
    };
    all.split_whitespace().filter(given).map(str::to_owned).collect()
}

/// The limits that these controllers have: cgroup, file and value.
fn limits(own: &std::path::Path, controllers: &[String]) -> Vec<(&'static str, &'static str, &'static str)> {
    let mut set = vec![("work", "cgroup.max.depth", "7")];
    for (controller, file, value) in [
        ("memory", "memory.high", "104857600"),
        ("memory", "memory.max", "209715200"),
        ("cpu", "cpu.weight", "77"),
        ("cpu", "cpu.max", "50000 100000"),
        ("pids", "pids.max", "55"),
        ("io", "io.weight", "default 77"),
        ("hugetlb", "hugetlb.2MB.max", "4194304"),
    ] {
        if controllers.iter().any(|name| name == controller) && own.join("work").join(file).exists() {
            set.extend(["work", "work/idle"].map(|name| (name, file, value)));
        }
    }
    set
}
