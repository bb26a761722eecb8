//! Checkpoints of containers whose cgroup is a scope of systemd's.

use std::fs;

use crate::{counter, counts_on, sleep_and_wake};
use hiber_tests::cgroup::places;
use hiber_tests::command;
use hiber_tests::prelude::*;

fn property(unit: &str, name: &str) -> String {
    let mut show = std::process::Command::new("systemctl");
    show.args(["show", "--value", "--property", name, unit]);
    command::run(show, b"").ok().to_owned()
}

fn in_a_scope() -> Bundle {
    let bundle = Bundle::busybox();
    let path = format!("system.slice:t:{}", bundle.name());
    bundle.edit(|c| {
        c["linux"]["cgroupsPath"] = json!(path);
        c["linux"]["resources"]["pids"] = json!({"limit": 50});
    })
}

#[test]
fn a_scope_is_made_again_for_the_restored() {
    require!(Root, Criu, Systemd);
    let c = counter(&Runtime::hiber_with_systemd(), in_a_scope());
    let scope = format!("t-{}.scope", c.id());
    for _ in 0..2 {
        c.checkpoint(&[]).ok();
        assert_eq!(c.status(), "gone");
        wait_for("the scope to go", || property(&scope, "LoadState") == "not-found");
        c.assert_clean();
        c.restore(&[]).ok();
        assert_eq!(
            (property(&scope, "ActiveState"), property(&scope, "TasksMax")),
            ("active".into(), "50".into())
        );
        let all = places(c.pid());
        assert!(all.iter().all(|place| *place == format!("/system.slice/{scope}")), "{all:?}");
        counts_on(&c, 3);
        c.exec(&["true"]).ok();
        fs::remove_dir_all(c.images()).unwrap();
    }
    c.delete(&["--force"]).ok();
    wait_for("the scope to go", || property(&scope, "LoadState") == "not-found");
    c.assert_clean();
}

#[test]
fn a_failed_restore_leaves_no_scope() {
    require!(Root, Criu, Systemd);
    let c = counter(&Runtime::hiber_with_systemd(), in_a_scope());
    c.checkpoint(&["--no-hash"]).ok();
    let pages = fs::read_dir(c.images()).unwrap().flatten().map(|e| e.path());
    let pages = pages.into_iter().find(|p| p.to_string_lossy().contains("pages-")).unwrap();
    let size = fs::metadata(&pages).unwrap().len();
    fs::write(&pages, vec![0; size as usize]).unwrap();
    fs::remove_file(c.images().join("mm-1.img")).unwrap();
    fs::remove_file(c.images().join("hiber.json")).unwrap();
    let output = c.restore(&[]);
    assert!(!output.status.success(), "{output}");
    let scope = format!("t-{}.scope", c.id());
    wait_for("the scope to go", || property(&scope, "LoadState") == "not-found");
    c.assert_clean();
}

#[test]
fn between_the_two_managers() {
    require!(Root, Criu, Systemd, UnifiedCgroups);
    // dumped with cgroupfs, restored in a scope
    let first = counter(&Runtime::hiber(), Bundle::busybox());
    first.checkpoint(&[]).ok();
    let second = Runtime::hiber_with_systemd().container(in_a_scope().shell(crate::COUNT));
    second.restore(&["--image-path", first.images().to_str().unwrap()]).ok();
    counts_on(&second, 3);
    sleep_and_wake(&second, &[], &[]);
    counts_on(&second, 3);
}
