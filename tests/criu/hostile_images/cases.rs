//! One field each, by name, that would give more.

use super::{End, Victim, bundle};
use criu_proto::images::cgroup::CgroupEntry;
use criu_proto::images::core::{CoreEntry, SeccompMode, TaskKobjIdsEntry};
use criu_proto::images::files::{FdType, FileEntry};
use criu_proto::images::inventory::InventoryEntry;
use criu_proto::images::mnt::MntEntry;
use criu_proto::images::mnt::mnt_entry::FsType;
use criu_proto::images::seccomp::SeccompEntry;
use hiber_tests::prelude::*;
use std::fs;

fn mount<'a>(mounts: &'a mut [MntEntry], point: &str) -> &'a mut MntEntry {
    mounts.iter_mut().find(|m| m.mountpoint().trim_start_matches('.') == point).unwrap()
}

#[test]
fn namespaces_of_the_host_are_refused() {
    require!(Root, Criu);
    let v = Victim::new(bundle());
    type Id = fn(&mut TaskKobjIdsEntry) -> &mut Option<u32>;
    let kinds: [(&str, Id); 5] = [
        ("network", |ids| &mut ids.net_ns_id),
        ("ipc", |ids| &mut ids.ipc_ns_id),
        ("uts", |ids| &mut ids.uts_ns_id),
        ("mount", |ids| &mut ids.mnt_ns_id),
        ("pid", |ids| &mut ids.pid_ns_id),
    ];
    for (kind, field) in kinds {
        let file = v.file("ids-1.img");
        let mut inside = TaskKobjIdsEntry::default();
        v.with::<TaskKobjIdsEntry>(&file, |all| inside = all[0].clone());
        let changed = v.with::<InventoryEntry>("inventory.img", |all| {
            let outside = all[0].root_ids.as_mut().unwrap();
            *field(outside) = *field(&mut inside);
        });
        v.refuses(kind, changed, &format!("would be in the host's {kind} namespace"));
    }
    let changed = v.with::<InventoryEntry>("inventory.img", |all| {
        all[0].root_ids.as_mut().unwrap().user_ns_id = Some(77);
    });
    v.refuses("user", changed, "has a user namespace, and config.json has none");
    let changed = v.with::<CgroupEntry>("cgroup.img", |all| {
        for member in all[0].sets.iter_mut().flat_map(|set| &mut set.ctls) {
            member.cgns_prefix = None;
        }
    });
    v.refuses("cgroup", changed, "does not put the processes into a cgroup namespace");
    let changed = v.with::<InventoryEntry>("inventory.img", |all| {
        all[0].dump_criu_run_id = Some("a b; list tables".into());
    });
    v.refuses("run id", changed, "in the id of its dump");
    v.c.assert_clean();
}

type Change = fn(&mut Vec<MntEntry>);

const MOUNTS: [(&str, Change, &str); 22] = [
    ("no mask", |m| m.retain(|m| !m.mountpoint().ends_with("/proc/keys")), "does not mask /proc/keys"),
    (
        "no read-only path",
        |m| m.retain(|m| !m.mountpoint().ends_with("/proc/sys")),
        "does not make /proc/sys read-only",
    ),
    ("a writable path", |m| mount(m, "/proc/sys").flags = Some(0), "that config.json does not have"),
    ("a writable root", |m| mount(m, "/").flags = Some(0), "config.json has root.readonly"),
    ("a writable bind", |m| *mount(m, "/data").flags.as_mut().unwrap() &= !1, "at /data without ro"),
    ("suid", |m| *mount(m, "/data").flags.as_mut().unwrap() &= !2, "at /data without nosuid"),
    ("devices", |m| *mount(m, "/dev/shm").flags.as_mut().unwrap() &= !4, "at /dev/shm without nodev"),
    ("programs", |m| *mount(m, "/dev/shm").flags.as_mut().unwrap() &= !8, "at /dev/shm without noexec"),
    ("writable sysfs", |m| *mount(m, "/sys").flags.as_mut().unwrap() &= !1, "at /sys without ro"),
    ("another type", |m| mount(m, "/dev/mqueue").fstype = Some(FsType::SYSFS.into()), "of type SYSFS"),
    (
        "a disk",
        |m| {
            let mount = mount(m, "/dev/mqueue");
            mount.fstype = Some(FsType::AUTO.into());
            mount.fsname = Some("proc".into());
        },
        "of type AUTO",
    ),
    ("another key", |m| mount(m, "/data").ext_key = Some("/dev/null".into()), "of the host at /data"),
    (
        "crun's key of masked directories",
        |m| mount(m, "/data").ext_key = Some("/run/crun/.empty-directory".into()),
        "of the host at /data",
    ),
    ("the key of a mask", |m| mount(m, "/data").ext_key = Some("/proc/keys".into()), "of the host at /data"),
    (
        "a second bind",
        |m| {
            let mut second = mount(m, "/data").clone();
            (second.mnt_id, second.flags) = (Some(999), Some(0));
            second.mountpoint = Some("./tmp".into());
            m.push(second);
        },
        "of the host at /tmp",
    ),
    (
        "a second proc",
        |m| {
            let mut second = mount(m, "/proc").clone();
            (second.mnt_id, second.mountpoint) = (Some(999), Some("./tmp".into()));
            m.push(second);
        },
        "that config.json does not have",
    ),
    ("a root above", |m| mount(m, "/proc/sys").root = Some("/../..".into()), "which is no plain path"),
    ("a point above", |m| mount(m, "/data").mountpoint = Some("./../data".into()), "which is no plain path"),
    (
        "an old way",
        |m| {
            let mount = mount(m, "/data");
            (mount.ext_mount, mount.ext_key) = (Some(true), None);
        },
        "in a way that no dump here writes",
    ),
    (
        "a mask below",
        |m| {
            let root = mount(m, "/").mnt_id;
            mount(m, "/proc/keys").parent_mnt_id = root;
        },
        "that is below another",
    ),
    ("a larger tmpfs", |m| mount(m, "/dev/shm").options = Some("size=99999k".into()), "without size=65536k"),
    ("no flags", |m| mount(m, "/data").sb_flags = None, "without flags of its file system"),
];

#[test]
fn mounts_that_config_json_does_not_have_are_refused() {
    require!(Root, Criu);
    let v = Victim::new(bundle());
    let name = v.file("mountpoints-");
    for (what, change, why) in MOUNTS {
        v.refuses(what, v.with::<MntEntry>(&name, change), why);
    }
    // The host may have unmounted a volume: below is the container's own root.
    let (_, without) = v.with::<MntEntry>(&name, |m| m.retain(|m| !m.mountpoint().ends_with("/data")));
    assert!(matches!(v.restore("no volume", &[(&name, without)]), End::Restored));
    v.c.assert_clean();
}

#[test]
fn what_config_json_covers_is_not_uncovered() {
    require!(Root, Criu);
    let bundle = Bundle::busybox().shell(crate::COUNT);
    for name in ["volume/hidden", "volume/ro", "empty"] {
        fs::create_dir_all(bundle.join(name)).unwrap();
    }
    let bind = |source: &str, at: &str| json!({"destination": at, "type": "bind", "source": source, "options": ["bind"]});
    let bundle = bundle.mount(bind("volume", "/volume")).mount(bind("empty", "/volume/hidden")).edit(|c| {
        c["linux"]["readonlyPaths"].as_array_mut().unwrap().push(json!("/volume/ro"));
    });
    let v = Victim::new(bundle);
    let name = v.file("mountpoints-");
    let elsewhere = |inside: &'static str| {
        move |m: &mut Vec<MntEntry>| {
            let (mut second, root) = (mount(m, "/volume").clone(), mount(m, "/").mnt_id);
            second.root.as_mut().unwrap().push_str(inside);
            (second.mnt_id, second.ext_key, second.parent_mnt_id) = (Some(999), None, root);
            second.mountpoint = Some("./tmp".into());
            m.push(second);
        }
    };
    let none = "that config.json does not have";
    for (what, inside) in [("whole", ""), ("the hidden part", "/hidden"), ("a read-only part", "/ro")] {
        v.refuses(what, v.with::<MntEntry>(&name, elsewhere(inside)), none);
    }
    let uncovered = v.with::<MntEntry>(&name, |m| m.retain(|m| !m.mountpoint().ends_with("/hidden")));
    v.refuses("no cover", uncovered, "lacks the mount at /volume/hidden");
    v.c.assert_clean();
}

type CoreChange = fn(&mut CoreEntry);

const PROCESSES: [(&str, CoreChange, &str); 16] = [
    (
        "capabilities",
        |c| c.thread_core.as_mut().unwrap().creds.as_mut().unwrap().cap_eff[0] |= 1 << 21,
        "CAP_SYS_ADMIN",
    ),
    (
        "no new privileges",
        |c| c.thread_core.as_mut().unwrap().creds.as_mut().unwrap().no_new_privs = None,
        "lacks no_new_privs",
    ),
    (
        "CRIU's user",
        |c| c.thread_core.as_mut().unwrap().creds.as_mut().unwrap().uid = Some(u32::MAX),
        "which is no id",
    ),
    ("a user", |c| c.thread_core.as_mut().unwrap().creds.as_mut().unwrap().euid = Some(7), "runs as user 7"),
    (
        "a group",
        |c| c.thread_core.as_mut().unwrap().creds.as_mut().unwrap().groups = vec![7],
        "is in group 7",
    ),
    (
        "securebits",
        |c| c.thread_core.as_mut().unwrap().creds.as_mut().unwrap().secbits = Some(4),
        "securebits 0x4",
    ),
    ("no filter", |c| c.thread_core.as_mut().unwrap().seccomp_mode = None, "is not filtered by seccomp"),
    (
        "the filter of an older image",
        |c| {
            c.tc.as_mut().unwrap().old_seccomp_mode = Some(SeccompMode::DISABLED.into());
        },
        "is not filtered by seccomp",
    ),
    (
        "a limit",
        |c| c.tc.as_mut().unwrap().rlimits.as_mut().unwrap().rlimits[7].max = Some(1025),
        "has 1025 for the resource limit RLIMIT_NOFILE",
    ),
    (
        "limits left out",
        |c| c.tc.as_mut().unwrap().rlimits.as_mut().unwrap().rlimits.truncate(7),
        "has no resource limit RLIMIT_NOFILE",
    ),
    (
        "limits elsewhere",
        |c| c.tc.as_mut().unwrap().rlimits = None.into(),
        "has no resource limit RLIMIT_NOFILE",
    ),
    ("killed last", |c| c.tc.as_mut().unwrap().oom_score_adj = Some(-1), "has oom_score_adj -1"),
    (
        "nice",
        |c| {
            let thread = c.thread_core.as_mut().unwrap();
            (thread.sched_policy, thread.sched_nice) = (Some(0), Some(-20));
        },
        "has a nice value of -20",
    ),
    (
        "realtime",
        |c| {
            let thread = c.thread_core.as_mut().unwrap();
            (thread.sched_policy, thread.sched_prio) = (Some(1), Some(1));
        },
        "scheduling policy 1",
    ),
    ("a deadline", |c| c.thread_core.as_mut().unwrap().sched_policy = Some(6), "scheduling policy 6"),
    ("a helper", |c| c.tc.as_mut().unwrap().task_state = Some(4), "in no state that a dump writes"),
];

#[test]
fn processes_with_more_than_config_json_grants_are_refused() {
    require!(Root, Criu);
    let v = Victim::new(bundle());
    for (what, change, why) in PROCESSES {
        v.refuses(what, v.with::<CoreEntry>("core-1.img", |all| change(&mut all[0])), why);
    }
    v.c.assert_clean();
}

/// Properties that CRIU forgets come from a file of ours.
#[test]
fn what_is_given_back_is_no_more_than_config_json_grants() {
    require!(Root, Criu);
    let v = Victim::new(bundle());
    let scheduling = |policy: u32, nice: i32, priority: u32| {
        let thread = json!({"scheduling": {
            "policy": policy, "flags": 0, "nice": nice, "priority": priority,
            "runtime": 1000, "deadline": 2000, "period": 3000
        }});
        json!({"threads": {"1": thread}})
    };
    let io_priority = |value: u32| json!({"threads": {"1": {"ioPriority": value}}});
    let cases = [
        ("disks first", io_priority(1 << 13 | 4), "an I/O priority of class 1 and level 4"),
        ("a class that is none", io_priority(4 << 13), "an I/O priority of class 4"),
        ("nice", scheduling(0, -1, 0), "a nice value of -1"),
        ("realtime", scheduling(2, 0, 1), "the scheduling policy 2"),
        ("a deadline", scheduling(6, 0, 0), "the scheduling policy 6"),
        ("a nice session", json!({"processes": {"1": {"autogroupNice": -3}}}), "a nice value of -3"),
        (
            "another personality",
            json!({"switches": {"1": {"personality": 0x40_0000}}}),
            "the personality 0x400000",
        ),
        (
            "a node that none has",
            json!({"switches": {"1": {"memoryPolicy": [2, [1u64 << 60]]}}}),
            "takes memory from node 1152921504606846976",
        ),
        (
            "an area's node",
            json!({"memory": {"1": {"areas": [{"from": 4096, "to": 8192, "policy": [2, [4096]]}]}}}),
            "takes memory from node 4096",
        ),
        (
            "segments",
            json!({"memory": {"1": {"descriptors": [[0, 0x0040_f301_0000_0fffu64]]}}}),
            "has a local descriptor table, and config.json's filter forbids",
        ),
        ("what is unknown", json!({"privileges": true}), "unknown field `privileges`"),
    ];
    for (what, kept, why) in cases {
        let changed = ("kept.json", kept.to_string().into_bytes());
        let End::Refused(said) = v.restore(what, &[changed]) else { panic!("{what}: it was restored") };
        assert!(said.contains(why), "{what}: {said}");
    }
    let harmless = json!({"threads": {"1": {"ioPriority": 3 << 13, "timerSlack": 70000, "affinity": [0]}}});
    let harmless = ("kept.json", harmless.to_string().into_bytes());
    assert!(matches!(v.restore("what limits it", &[harmless]), End::Restored));
    v.c.assert_clean();
}

#[test]
fn filters_that_let_more_through_are_refused() {
    require!(Root, Criu);
    let v = Victim::new(bundle());
    type Change = fn(&mut SeccompEntry);
    // BPF_RET | BPF_K with SECCOMP_RET_ALLOW
    const ALLOW: [u8; 8] = [6, 0, 0, 0, 0, 0, 0xff, 0x7f];
    let cases: [(&str, Change, &str); 5] = [
        ("everything", |s| s.seccomp_filters[0].filter = Some(ALLOW.to_vec()), "lets more through"),
        (
            "one call",
            |s| {
                let filter = s.seccomp_filters[0].filter.as_mut().unwrap();
                // the error that stands for mkdir becomes a permission
                let denied = [6, 0, 0, 0, 18, 0, 5, 0];
                let at = filter.chunks(8).position(|i| i == denied).unwrap() * 8;
                filter[at..at + 8].copy_from_slice(&ALLOW);
            },
            "lets more through",
        ),
        ("a circle", |s| s.seccomp_filters[0].prev = Some(0), "in a circle"),
        ("nothing", |s| s.seccomp_filters.clear(), "which seccomp.img lacks"),
        ("a listener", |s| s.seccomp_filters[0].flags = Some(8), "with the flags 0x8"),
    ];
    for (what, change, why) in cases {
        v.refuses(what, v.with::<SeccompEntry>("seccomp.img", |all| change(&mut all[0])), why);
    }
    // More filters are no more freedom.
    let more = v.with::<SeccompEntry>("seccomp.img", |all| {
        let mut further = all[0].seccomp_filters[0].clone();
        further.filter = Some(ALLOW.to_vec());
        all[0].seccomp_filters[0].prev = Some(u32::try_from(all[0].seccomp_filters.len()).unwrap());
        all[0].seccomp_filters.push(further);
    });
    assert!(matches!(v.restore("a further filter", &[(&more.0, more.1)]), End::Restored));
    v.c.assert_clean();
}

#[test]
fn files_that_need_capabilities_are_refused() {
    require!(Root, Criu);
    let v = Victim::new(bundle());
    let changed = v.with::<FileEntry>("files.img", |all| {
        let mut packets = all[0].clone();
        packets.type_ = Some(FdType::PACKETSK.into());
        packets.id = Some(9999);
        all.push(packets);
    });
    v.refuses("packets", changed, "has a packet socket open");
    v.c.assert_clean();
}

#[test]
fn options_of_sockets_that_need_capabilities_are_refused() {
    require!(Root, Criu);
    let v = Victim::new(bundle());
    for (option, why) in [
        (json!({"IP_TRANSPARENT": 1}), "sets IP_TRANSPARENT, and config.json does not grant CAP_NET_RAW"),
        (json!({"SO_BUSY_POLL": 50}), "config.json does not grant CAP_NET_ADMIN"),
        (json!({"TCP_CONGESTION": "6e6f6e65"}), "sets TCP_CONGESTION"),
        (json!({"SO_NONE": 1}), "of a value that it cannot have"),
        (json!({"SO_TIMESTAMP": "00112233445566"}), "of a value that it cannot have"),
        (json!({"SO_TXTIME": "0x"}), "of a value that it cannot have"),
    ] {
        let kept = json!({"sockets": [{"process": 1, "fd": 0, "options": option}]}).to_string();
        v.refuses(&kept, ("kept.json".into(), kept.clone().into_bytes()), why);
    }
    v.c.assert_clean();
}

#[test]
fn system_v_objects_of_others_and_beyond_limits_are_refused() {
    require!(Root, Criu);
    let kept = |ipc: Value| ("kept.json".to_owned(), json!({"ipc": ipc}).to_string().into_bytes());
    let v = Victim::new(bundle().edit(|c| {
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_MEMLOCK", "hard": 65536, "soft": 65536}]);
    }));
    let queue = kept(json!({"queueBytes": {"0": 1_000_000}}));
    v.refuses("a large queue", queue, "config.json does not grant CAP_SYS_RESOURCE");
    let locked = kept(json!({"locked": {"0": 40_000, "1": 40_000}}));
    v.refuses("locked memory", locked, "locks 80000 bytes of System V memory");
    v.c.assert_clean();
    let v = Victim::new(bundle().edit(|c| {
        let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "ipc");
    }));
    v.refuses("the host's", kept(json!({"removed": [0]})), "an IPC namespace that is not its own");
    v.c.assert_clean();
}
