//! `--manage-cgroups-mode`: what a restore makes of cgroups that the container had below its own, and of their values.

use std::fs;
use std::path::PathBuf;

use crate::{counter, counts_on};
use hiber_tests::cgroup::hierarchies;
use hiber_tests::prelude::*;

/// The container's cgroup on a host with v2 alone.
fn cgroup(c: &Container) -> PathBuf {
    hierarchies()[0].mount.join(&c.bundle().cgroup()[1..])
}

fn depth(directory: PathBuf) -> String {
    fs::read_to_string(directory.join("cgroup.max.depth")).unwrap_or_default().trim().to_owned()
}

/// A counting container that has put its process into `inner`, below its cgroup, with a value in each of the two, and
/// is saved then.
#[track_caller]
fn divided(flags: &[&str]) -> Container {
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let inner = cgroup(&c).join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("cgroup.procs"), c.pid().to_string()).unwrap();
    fs::write(inner.join("cgroup.max.depth"), "5").unwrap();
    fs::write(cgroup(&c).join("cgroup.max.depth"), "7").unwrap();
    c.checkpoint(flags).ok();
    c
}

/// Makes `inner` before CRIU can, with a value of its own.
fn make_inner(c: &Container) {
    let inner = cgroup(c).join("inner");
    fs::create_dir_all(&inner).unwrap();
    fs::write(inner.join("cgroup.max.depth"), "9").unwrap();
}

/// Where the container's process is, below the container's cgroup.
fn place(c: &Container) -> String {
    let all = fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
    all.trim().strip_prefix(&format!("0::{}", c.bundle().cgroup())).unwrap_or(&all).to_owned()
}

#[test]
fn soft_makes_what_is_missing_and_leaves_the_rest() {
    require!(Root, Criu, UnifiedCgroups);
    for flags in [&[][..], &["--manage-cgroups-mode", "soft"]] {
        let c = divided(flags);
        c.restore(flags).ok();
        assert_eq!(place(&c), "/inner");
        // the container's own cgroup is as config.json has it
        assert_eq!((depth(cgroup(&c).join("inner")), depth(cgroup(&c))), ("5".into(), "max".into()));
        counts_on(&c, 3);
        c.delete(&["--force"]).ok();
        c.assert_clean();
        make_inner(&c);
        c.restore(flags).ok();
        assert_eq!((place(&c).as_str(), depth(cgroup(&c).join("inner")).as_str()), ("/inner", "9"));
    }
}

#[test]
fn full_sets_the_values_of_existing_ones_too() {
    require!(Root, Criu, UnifiedCgroups);
    let c = divided(&["--manage-cgroups-mode", "full"]);
    make_inner(&c);
    c.restore(&["--manage-cgroups-mode", "full"]).ok();
    assert_eq!((place(&c).as_str(), depth(cgroup(&c).join("inner")).as_str()), ("/inner", "5"));
    counts_on(&c, 3);
}

#[test]
fn strict_refuses_a_cgroup_that_is_there() {
    require!(Root, Criu, UnifiedCgroups);
    let c = divided(&[]);
    make_inner(&c);
    c.restore(&["--manage-cgroups-mode", "strict"]).fails("strict: the container's cgroup is there already");
    // It is not the restore's, and stays.
    fs::remove_dir(cgroup(&c).join("inner")).unwrap();
    fs::remove_dir(cgroup(&c)).unwrap();
    c.assert_clean();
    c.restore(&["--manage-cgroups-mode", "strict"]).ok();
    assert_eq!((place(&c).as_str(), depth(cgroup(&c).join("inner")).as_str()), ("/inner", "5"));
    counts_on(&c, 3);
}

#[test]
fn ignore_puts_everything_into_the_containers_own() {
    require!(Root, Criu, UnifiedCgroups);
    let c = divided(&["--manage-cgroups-mode", "ignore"]);
    c.restore(&["--manage-cgroups-mode", "ignore"]).ok();
    assert_eq!((place(&c).as_str(), depth(cgroup(&c)).as_str()), ("", "max"));
    assert!(!cgroup(&c).join("inner").exists());
    counts_on(&c, 3);
}
