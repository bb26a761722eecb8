//! User namespaces with id mappings.

use hiber_tests::prelude::*;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

const HOST: u32 = 300_000;

fn sleeper() -> Container {
    let c = Runtime::hiber().container(Bundle::busybox().user_namespace(HOST).args(["sleep", "1000"]));
    c.run_detached().ok();
    c
}

#[test]
fn ids_are_mapped_as_asked() {
    require!(Root, UserNamespaces);
    let c = sleeper();
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(c.sh("cat /proc/self/uid_map")), ["0", "300000", "65536"]);
    assert_eq!(words(c.sh("cat /proc/self/gid_map")), ["0", "300000", "65536"]);
    assert_eq!(c.sh("id -u; id -g"), "0\n0");
    let owner = fs::metadata(format!("/proc/{}", c.pid())).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (HOST, HOST));
}

#[test]
fn files_belong_to_the_mapped_user() {
    require!(Root, UserNamespaces);
    let c = sleeper();
    c.exec(&["touch", "/made"]).ok();
    c.exec_with(&["--user", "1000:1000"], &["touch", "/tmp/made"]).ok();
    assert_eq!(fs::metadata(c.bundle().rootfs().join("made")).unwrap().uid(), HOST);
    assert_eq!(fs::metadata(c.bundle().rootfs().join("tmp/made")).unwrap().uid(), HOST + 1000);
}

#[test]
fn the_default_mounts_and_devices_work() {
    require!(Root, UserNamespaces);
    let c = sleeper();
    assert_eq!(c.sh("echo x >/dev/null; head -c 4 /dev/zero | wc -c; ls /dev/pts/ptmx"), "4\n/dev/pts/ptmx");
    assert_eq!(c.sh("hostname"), "hiber-test");
}

#[test]
fn every_namespace_is_owned_by_the_new_user_namespace() {
    require!(Root, UserNamespaces);
    // only their owner may change them
    let bundle = Bundle::busybox().user_namespace(HOST).args(["sleep", "1000"]).edit(|c| {
        let all = json!(["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
        c["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    assert_eq!(c.sh("hostname other && hostname"), "other");
    assert_eq!(c.sh("ip link set lo down && echo done"), "done");
    assert_eq!(c.sh("mount -t tmpfs tmpfs /tmp && echo done"), "done");
}

#[test]
fn a_user_namespace_without_mappings_is_refused() {
    require!(Root, UserNamespaces);
    let c = Runtime::hiber().container(Bundle::busybox().namespace("user", None));
    c.create(&[]).fails("mapping");
    c.assert_clean();
}

#[test]
fn a_user_namespace_is_joined_by_path() {
    require!(Root, UserNamespaces);
    let first = sleeper();
    let path = format!("/proc/{}/ns/user", first.pid());
    let bundle = Bundle::busybox().user_namespace(HOST).namespace("user", Some(&path)).edit(|c| {
        c["linux"]["uidMappings"] = Value::Null;
        c["linux"]["gidMappings"] = Value::Null;
    });
    let second = Runtime::hiber().container(bundle.args(["sleep", "1000"]));
    second.run_detached().ok();
    let read = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(read(first.pid()), read(second.pid()));
    assert_eq!(second.sh("id -u"), "0");
}

#[test]
fn what_is_no_id_is_none_in_a_joined_user_namespace() {
    require!(Root, UserNamespaces);
    let first = sleeper();
    let path = format!("/proc/{}/ns/user", first.pid());
    for field in ["uid", "gid"] {
        let bundle = Bundle::busybox().user_namespace(HOST).namespace("user", Some(&path)).edit(|c| {
            c["linux"]["uidMappings"] = Value::Null;
            c["linux"]["gidMappings"] = Value::Null;
            c["process"]["user"][field] = json!(u32::MAX);
        });
        let c = Runtime::hiber().container(bundle.args(["id"]));
        c.run(&[]).fails(&format!("process.user.{field}: 4294967295 is no id"));
        c.assert_clean();
    }
}

#[test]
fn the_whole_life_in_a_user_namespace_leaves_nothing() {
    require!(Root, UserNamespaces);
    let c = sleeper();
    c.call("pause", &[]).ok();
    assert_eq!(c.status(), "paused");
    c.call("resume", &[]).ok();
    c.exec(&["sh", "-c", "exit 4"]).exited(4);
    c.kill("KILL").ok();
    c.wait_stopped();
    c.delete(&[]).ok();
    c.assert_clean();
}

#[test]
fn root_of_the_user_namespace_owns_its_cgroup_where_it_can_write_there() {
    require!(Root);
    let owner = |options: &[&str]| {
        let bundle = Bundle::busybox().args(["sleep", "1000"]).user_namespace(100_000).edit(|c| {
            let mounts = c["mounts"].as_array_mut().unwrap();
            mounts.iter_mut().find(|m| m["type"] == "cgroup").unwrap()["options"] = json!(options);
        });
        let c = Runtime::hiber_on_v2().container(bundle);
        c.run_detached().ok();
        c.sh("cd /sys/fs/cgroup; mkdir sub 2>/dev/null; stat -c %u . cgroup.procs cgroup.max.depth sub 2>/dev/null || :")
    };
    assert_eq!(owner(&["nosuid"]), "0\n0\n65534\n0");
    // "sub" could not be made
    assert_eq!(owner(&["nosuid", "ro"]), "65534\n65534\n65534");
}

#[test]
fn a_network_namespace_of_another_owner_is_joined_with_the_user_namespace() {
    require!(Root, UserNamespaces);
    let (first, second) = (sleeper(), Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"])));
    second.run_detached().ok();
    let path = |c: &Container, kind: &str| format!("/proc/{}/ns/{kind}", c.pid());
    let (user, net) = (path(&first, "user"), path(&second, "net"));
    let bundle = Bundle::busybox().user_namespace(HOST).namespace("user", Some(&user));
    let bundle = bundle.namespace("network", Some(&net)).args(["sleep", "1000"]).edit(|c| {
        c["linux"]["uidMappings"] = Value::Null;
        c["linux"]["gidMappings"] = Value::Null;
        // Only who owns the network namespace may mount a sysfs.
        let sys = c["mounts"].as_array_mut().unwrap().iter_mut().find(|m| m["type"] == "sysfs").unwrap();
        *sys = json!({"destination": "/sys", "source": "/sys", "options": ["rbind"]});
    });
    let third = Runtime::hiber().container(bundle);
    third.run_detached().ok();
    let link = |file: &str| fs::read_link(file).unwrap().display().to_string();
    assert_eq!(
        third.sh("readlink /proc/self/ns/user; readlink /proc/self/ns/net"),
        format!("{}\n{}", link(&user), link(&net))
    );
}
