//! Device nodes, and the device cgroup.

use hiber_tests::prelude::*;

fn with_mknod(bundle: Bundle) -> Bundle {
    bundle.edit(|c| {
        let all = json!(["CAP_MKNOD", "CAP_SYSLOG"]);
        c["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    })
}

fn sleeper(runtime: &Runtime, bundle: Bundle) -> Container {
    let c = runtime.container(bundle.args(["sleep", "1000"]));
    c.run_detached().ok();
    c
}

#[test]
fn the_default_devices_are_there_and_work() {
    require!(Root);
    let c = sleeper(&Runtime::hiber(), Bundle::busybox());
    let printed = c.sh("cd /dev; stat -c '%n %t:%T %a %F' null zero full tty random urandom");
    let expected = "null 1:3 666 character special file\n\
                    zero 1:5 666 character special file\n\
                    full 1:7 666 character special file\n\
                    tty 5:0 666 character special file\n\
                    random 1:8 666 character special file\n\
                    urandom 1:9 666 character special file";
    assert_eq!(printed, expected);
    assert_eq!(c.sh("head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c"), "3\n3");
    c.exec(&["sh", "-c", "echo x >/dev/full"]).fails("No space left");
    let links = c.sh("cd /dev; for l in fd stdin stdout stderr ptmx; do readlink $l; done");
    assert_eq!(links, "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx");
}

#[test]
fn asked_for_devices_are_made_with_mode_and_owner() {
    require!(Root);
    let bundle = Bundle::busybox().edit(|c| {
        c["linux"]["devices"] = json!([
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 1000, "gid": 44},
            {"path": "/dev/deep/pipe", "type": "p", "fileMode": 0o600, "uid": 0, "gid": 0}
        ]);
        c["linux"]["resources"] = json!({"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}
        ]});
    });
    let c = sleeper(&Runtime::hiber(), bundle);
    let printed = c.sh("stat -c '%n %t:%T %a %u:%g' /dev/mine; stat -c '%a %F' /dev/deep/pipe");
    assert_eq!(printed, "/dev/mine 1:3 640 1000:44\n600 fifo");
    c.exec_with(&["--user", "1000:44"], &["sh", "-c", "echo x >/dev/mine"]).ok();
}

#[test]
fn the_device_list_is_enforced() {
    require!(Root);
    // 1:5 is /dev/zero, which every container may use; 7:0 is /dev/loop0, 1:11 /dev/kmsg
    let c = sleeper(&Runtime::hiber(), with_mknod(Bundle::busybox()));
    c.exec(&["mknod", "/tmp/zero", "c", "1", "5"]).ok();
    c.exec(&["mknod", "/tmp/loop", "b", "7", "0"]).ok();
    c.exec(&["sh", "-c", "cat /tmp/loop"]).fails("Operation not permitted");
    assert_eq!(c.sh("head -c 2 /tmp/zero | wc -c"), "2");

    let allowed = with_mknod(Bundle::busybox()).edit(|c| {
        c["linux"]["resources"] = json!({"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}
        ]});
    });
    let c = sleeper(&Runtime::hiber(), allowed);
    c.exec(&["mknod", "/tmp/kmsg", "c", "1", "11"]).ok();
    c.exec(&["sh", "-c", "exec 3</tmp/kmsg"]).ok();
    c.exec(&["sh", "-c", "echo x >/tmp/kmsg"]).fails("Operation not permitted");
}

#[test]
fn the_device_list_is_enforced_on_cgroup_v2() {
    require!(Root);
    let allowed = with_mknod(Bundle::busybox()).edit(|c| {
        c["linux"]["resources"] = json!({"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}
        ]});
    });
    let c = sleeper(&Runtime::hiber_on_v2(), allowed);
    c.exec(&["mknod", "/tmp/loop", "b", "7", "0"]).ok();
    c.exec(&["sh", "-c", "cat /tmp/loop"]).fails("Operation not permitted");
    c.exec(&["mknod", "/tmp/kmsg", "c", "1", "11"]).ok();
    c.exec(&["sh", "-c", "exec 3</tmp/kmsg"]).ok();
    c.exec(&["sh", "-c", "echo x >/tmp/kmsg"]).fails("Operation not permitted");
    assert_eq!(c.sh("head -c 2 /dev/zero | wc -c"), "2");
}

#[test]
fn a_node_is_no_permission() {
    require!(Root);
    let bundle = Bundle::busybox().shell("head -c 1 /dev/kmsg").edit(|c| {
        c["linux"]["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
        c["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}]);
    });
    Runtime::hiber().container(bundle).run(&[]).fails("operation not permitted");
}

/// A list of rules for kmsg (1:11), and how the device can then be opened: for reading, for writing, for both.
const LISTS: [(&[&str], &str); 9] = [
    (&["+c 1:11 rwm", "-c 1:* rwm"], ""),
    (&["+c 1:11 rw", "-c *:11 r"], "w"),
    (&["+c 1:* r", "+c 1:11 w"], "r w rw"),
    (&["+c 1:* r", "+c *:11 w"], "r w rw"),
    (&["+c 1:11 rwm", "-a"], ""),
    (&["+a", "-c 1:11 rwm", "+c 1:* rwm"], "r w rw"),
    (&["+a", "-c 1:11 w"], "r"),
    (&["+c 1:* rwm", "-c 1:11 w", "-a"], ""),
    (&["+c 1:* rwm", "-c 1:11 w", "+c 1:11 w"], "r w rw"),
];

fn rule(text: &str) -> Value {
    let mut rule = json!({"allow": text.starts_with('+'), "access": "rwm"});
    let words: Vec<_> = text[1..].split([' ', ':']).collect();
    if let [kind, major, minor, access] = words[..] {
        let number = |word: &str| word.parse().unwrap_or(-1);
        rule["type"] = json!(kind);
        (rule["major"], rule["minor"]) = (json!(number(major)), json!(number(minor)));
        rule["access"] = json!(access);
    }
    rule
}

#[test]
fn a_list_of_rules_means_the_same_on_every_cgroup() {
    require!(Root);
    for (list, expected) in LISTS {
        for runtime in [Runtime::hiber(), Runtime::hiber_on_v2()] {
            let bundle = with_mknod(Bundle::busybox()).edit(|c| {
                c["linux"]["resources"]["devices"] = list.iter().map(|text| rule(text)).collect();
            });
            // The defaults follow the list, and let every node be made.
            let script = "mknod /kmsg c 1 11; for way in '< r' '> w' '<> rw'; do set -- $way; \
                (eval \"exec 3$1/kmsg\") 2>/dev/null && echo $2; done; true";
            let output = runtime.container(bundle.shell(script)).run(&[]);
            assert_eq!(output.ok().replace('\n', " "), expected, "{list:?}: {output}");
        }
    }
}

#[test]
fn what_cgroup_v1_cannot_express_is_refused_there() {
    require!(Root);
    for list in [["+c 1:* rw", "-c 1:11 w"], ["+c 1:* rw", "-c *:11 w"]] {
        let bundle = || {
            Bundle::busybox().edit(|c| {
                c["linux"]["resources"]["devices"] = list.iter().map(|text| rule(text)).collect();
            })
        };
        let hierarchies = hiber_tests::cgroup::hierarchies();
        let on_v1 = hierarchies.iter().any(|h| !h.v2 && h.controllers.iter().any(|c| c == "devices"));
        let c = Runtime::hiber().container(bundle());
        let output = c.run(&[]);
        if on_v1 {
            output.fails("linux.resources.devices: not supported: cgroup v1 cannot make rule");
            c.assert_clean();
        } else {
            output.ok();
        }
        Runtime::hiber_on_v2().container(bundle()).run(&[]).ok();
    }
}
