//! hiber.json, options that a restore takes from it, and what a restore refuses.

use crate::{count, counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

fn manifest(c: &Container) -> Value {
    serde_json::from_slice(&fs::read(c.images().join("hiber.json")).unwrap()).unwrap()
}

#[test]
fn a_checkpoint_has_a_manifest_of_all_its_files() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&["--file-locks", "--leave-running"]).ok();
    let m = manifest(&c);
    assert_eq!((&m["version"], &m["kind"], &m["container"]), (&json!(1), &json!("dump"), &json!(c.id())));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(m["kernel"], kernel.trim());
    assert_eq!(m["cpu"]["architecture"], std::env::consts::ARCH);
    assert!(m["config"].as_str().unwrap().starts_with("blake3:"));
    let options = &m["options"];
    assert_eq!((&options["fileLocks"], &options["leaveRunning"]), (&json!(true), &json!(true)));
    assert_eq!((&options["tcpEstablished"], &options["cgroupsMode"]), (&json!(false), &json!("soft")));
    for entry in fs::read_dir(c.images()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".img") {
            let file = &m["files"][&name];
            assert_eq!(file["size"], entry.metadata().unwrap().len(), "{name}");
            assert_eq!(file["blake3"].as_str().unwrap().len(), 64, "{name}");
        }
    }
    fs::remove_dir_all(c.images()).unwrap();
    c.checkpoint(&["--no-hash", "--no-sync"]).ok();
    assert!(manifest(&c)["files"]["core-1.img"]["blake3"].is_null());
    c.restore(&[]).ok();
    counts_on(&c, 3);
}

#[test]
fn a_restore_keeps_to_the_options_of_the_dump() {
    require!(Root, Criu);
    let script = "mkfifo /f; exec 3<>/f; nc -l -p 7000 <&3 >/dev/null & \
                  while :; do nc 127.0.0.1 7000 <&3 >/dev/null; sleep 0.1; done";
    let c = Runtime::hiber().container(Bundle::busybox().shell(script));
    c.run_detached().ok();
    let established = || c.sh("grep -c ' 01 ' /proc/net/tcp || true");
    wait_for("the connection", || established() != "0");
    sleep_and_wake(&c, &["--tcp-established"], &[]);
    assert_ne!(established(), "0", "kept without a flag at restore");
    fs::remove_dir_all(c.images()).unwrap();
    c.checkpoint(&["--tcp-established"]).ok();
    // the flag wins: CRIU refuses to restore a connection then
    let output = c.restore(&["--tcp-established=false"]);
    assert!(!output.status.success(), "{output}");
    // without a manifest it is as with runc
    fs::remove_file(c.images().join("hiber.json")).unwrap();
    let output = c.restore(&[]);
    assert!(!output.status.success(), "{output}");
    c.restore(&["--tcp-established"]).ok();
    assert_ne!(established(), "0");
}

#[test]
fn changed_images_and_those_that_others_can_write_are_refused() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let before = count(&c);
    c.checkpoint(&[]).ok();
    let mode = |mode| fs::set_permissions(c.images(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    c.restore(&[]).fails("others can write to it (mode 777)");
    mode(0o700);
    chown(c.images(), Some(1234), None).unwrap();
    c.restore(&[]).fails("belongs to user 1234");
    chown(c.images(), Some(0), None).unwrap();
    let stranger = c.images().join("core-999.img");
    fs::write(&stranger, "").unwrap();
    c.restore(&[]).fails("core-999.img: is not of this checkpoint");
    fs::remove_file(&stranger).unwrap();
    assert_eq!(c.status(), "gone");
    c.assert_clean();
    mode(0o777);
    c.restore(&["--trust-images"]).ok();
    counts_on(&c, before);
}

#[test]
fn processes_with_more_privilege_than_the_configuration_grants_are_refused() {
    require!(Root, Criu);
    let c = counter(
        &Runtime::hiber(),
        Bundle::busybox().edit(|c| c["process"]["noNewPrivileges"] = json!(false)),
    );
    let before = count(&c);
    c.checkpoint(&[]).ok();
    let config = c.bundle().join("config.json");
    let original = fs::read_to_string(&config).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&original).unwrap();
        change(&mut value);
        fs::write(&config, value.to_string()).unwrap();
    };
    with(&|v| v["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"]}));
    c.restore(&[]).fails("has CAP_NET_BIND_SERVICE, CAP_AUDIT_WRITE in its bounding set, which config.json does not grant; --trust-images");
    with(&|v| v["process"]["noNewPrivileges"] = json!(true));
    c.restore(&[]).fails("lacks no_new_privs");
    with(&|v| {
        v["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]});
    });
    c.restore(&[]).fails("is not filtered by seccomp");
    assert_eq!(c.status(), "gone");
    c.assert_clean();
    c.restore(&["--trust-images"]).ok();
    counts_on(&c, before);
}

#[test]
fn a_container_that_is_left_running_runs_while_its_checkpoint_is_hashed() {
    require!(Root, Criu);
    // dd holds 256 MiB, which take a while to hash
    let script = "mkfifo /f; exec 3<>/f; dd if=/dev/zero of=/f bs=256M count=1 & exec sleep 1000";
    let c = Runtime::hiber().container(Bundle::busybox().shell(script));
    c.run_detached().ok();
    let resident = "cat /proc/[0-9]*/statm | sort -n | tail -1 | cut -d' ' -f2";
    wait_for("dd's memory", || c.sh(resident).parse().unwrap_or(0) > 65_536);
    let images = c.images().display().to_string();
    let mut child = c.command("checkpoint", &["--leave-running", "--image-path", &images]).spawn().unwrap();
    // CRIU writes its statistics last
    let staging = c.bundle().join(&format!(".images.hiber-{}-0", child.id()));
    wait_for("CRIU's end", || staging.join("stats-dump").exists() || c.images().exists());
    let mut ran = false;
    while !c.images().exists() && child.try_wait().unwrap().is_none() {
        let status = c.status();
        ran |= status == "running" && !c.images().exists();
    }
    assert!(hiber_tests::command::wait(&mut child, "checkpoint").success());
    assert!(ran, "it was frozen until the checkpoint was there");
}

#[test]
fn a_parent_must_be_a_checkpoint_of_this_container() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let other = counter(&Runtime::hiber(), Bundle::busybox());
    fs::create_dir(c.bundle().join("nothing")).unwrap();
    c.checkpoint(&["--parent-path", "../nothing"]).fails("inventory.img");
    other.checkpoint(&["--leave-running"]).ok();
    fs::rename(other.images(), c.bundle().join("others")).unwrap();
    c.checkpoint(&["--parent-path", "../others"]).fails(other.id());
    counts_on(&c, 3);
}
