//! The configuration of the process: identity, rights, limits, seccomp.

use hiber_tests::prelude::*;

/// Runs `script` in a container that `change` has configured and returns what it prints.
#[track_caller]
fn prints(script: &str, change: impl FnOnce(&mut Value)) -> String {
    let c = Runtime::hiber().container(Bundle::busybox().shell(script).edit(change));
    let output = c.run(&[]).ok().to_owned();
    c.assert_clean();
    output
}

/// A line of /proc/self/status without its name.
#[track_caller]
fn status(field: &str, change: impl FnOnce(&mut Value)) -> String {
    let text = prints(&format!("grep ^{field}: /proc/self/status"), change);
    text.split_once(':').map_or(text.as_str(), |(_, v)| v).trim().to_owned()
}

#[test]
fn environment_directory_and_arguments() {
    require!(Root);
    let c = Runtime::hiber().container(
        Bundle::busybox().args(["sh", "-c", "pwd; echo \"$ONE|$0|$1|$HOME\"", "zero", "a b"]).edit(|c| {
            c["process"]["cwd"] = json!("/tmp");
            c["process"]["env"] = json!(["PATH=/bin", "ONE=with = and  spaces"]);
        }),
    );
    assert_eq!(c.run(&[]).ok(), "/tmp\nwith = and  spaces|zero|a b|/root");
}

#[test]
fn a_missing_working_directory_is_made() {
    require!(Root);
    assert_eq!(prints("pwd", |c| c["process"]["cwd"] = json!("/not/there/yet")), "/not/there/yet");
}

#[test]
fn user_group_and_additional_groups() {
    require!(Root);
    let user = json!({"uid": 1234, "gid": 2345, "additionalGids": [10, 44, 2000]});
    let printed = prints("id -u; id -g; id -G", |c| c["process"]["user"] = user);
    assert_eq!(printed, "1234\n2345\n2345 10 44 2000");
}

#[test]
fn umask() {
    require!(Root);
    assert_eq!(prints("umask", |_| ()), "0022");
    assert_eq!(prints("umask", |c| c["process"]["user"]["umask"] = json!(0o77)), "0077");
}

#[test]
fn resource_limits() {
    require!(Root);
    let limits = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_STACK", "soft": 4194304, "hard": 8388608}
    ]);
    let printed =
        prints("ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -Ss", |c| c["process"]["rlimits"] = limits);
    assert_eq!(printed, "100\n200\n0\n4096");
}

#[test]
fn an_unknown_or_upside_down_limit_is_refused() {
    require!(Root);
    for limit in [
        json!({"type": "RLIMIT_WISHES", "soft": 1, "hard": 1}),
        json!({"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}),
    ] {
        let bundle = Bundle::busybox().edit(|c| c["process"]["rlimits"] = json!([limit]));
        let c = Runtime::hiber().container(bundle);
        c.run(&[]).fails("process.rlimits");
        c.assert_clean();
    }
}

#[test]
fn capabilities_are_the_five_sets_that_were_asked_for() {
    require!(Root);
    // bits of capability.h: CAP_CHOWN 0, CAP_KILL 5, CAP_NET_BIND_SERVICE 10, CAP_SYS_CHROOT 18
    let sets = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "effective": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"],
        "ambient": ["CAP_CHOWN"]
    });
    let bit = |bits: &[u64]| format!("{:016x}", bits.iter().fold(0u64, |all, b| all | 1 << b));
    let user = json!({"uid": 1000, "gid": 1000});
    let with = |c: &mut Value| {
        c["process"]["capabilities"] = sets.clone();
        c["process"]["user"] = user.clone();
    };
    // executing a program as another user than root keeps what is ambient
    assert_eq!(status("CapBnd", with), bit(&[0, 5, 10, 18]));
    assert_eq!(status("CapInh", with), bit(&[0, 10]));
    assert_eq!(status("CapAmb", with), bit(&[0]));
    assert_eq!(status("CapPrm", with), bit(&[0]));
    assert_eq!(status("CapEff", with), bit(&[0]));
    // and as root what is bounding
    let as_root = |c: &mut Value| {
        c["process"]["capabilities"] = sets.clone();
        c["process"]["noNewPrivileges"] = json!(false);
    };
    assert_eq!(status("CapPrm", as_root), bit(&[0, 5, 10, 18]));
}

#[test]
fn without_capabilities_there_are_none() {
    require!(Root);
    let none = |c: &mut Value| {
        c["process"]["capabilities"] = json!({"bounding": [], "permitted": [], "effective": []});
    };
    assert_eq!(status("CapBnd", none), "0000000000000000");
    assert_eq!(status("CapEff", none), "0000000000000000");
    assert_eq!(
        prints("chown 5:5 /etc/passwd 2>&1 || true", none),
        "chown: /etc/passwd: Operation not permitted"
    );
}

#[test]
fn an_unknown_capability_is_left_out() {
    require!(Root);
    let sets = json!({"bounding": ["CAP_KILL", "CAP_OF_THE_FUTURE"], "permitted": [], "effective": []});
    assert_eq!(status("CapBnd", |c| c["process"]["capabilities"] = sets), "0000000000000020");
}

#[test]
fn no_new_privileges() {
    require!(Root);
    assert_eq!(status("NoNewPrivs", |c| c["process"]["noNewPrivileges"] = json!(true)), "1");
    assert_eq!(status("NoNewPrivs", |c| c["process"]["noNewPrivileges"] = json!(false)), "0");
}

#[test]
fn oom_score() {
    require!(Root);
    let printed = prints("cat /proc/self/oom_score_adj", |c| c["process"]["oomScoreAdj"] = json!(321));
    assert_eq!(printed, "321");
}

#[test]
fn seccomp_answers_with_the_errno_of_the_profile() {
    require!(Root);
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18},
            {"names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO"}
        ]
    });
    let script = "mkdir /tmp/d 2>&1; chmod 600 /etc/passwd 2>&1; grep ^Seccomp: /proc/self/status";
    let printed = prints(script, |c| c["linux"]["seccomp"] = profile);
    assert_eq!(
        printed,
        "mkdir: can't create directory '/tmp/d': Invalid cross-device link\n\
         chmod: /etc/passwd: Operation not permitted\n\
         Seccomp:\t2"
    );
}

#[test]
fn seccomp_compares_arguments() {
    require!(Root);
    // personality(2) 0x20000 is UNAME26; the shell's `kill -0` stays allowed, signal 10 is not
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{
            "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
            "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]
        }]
    });
    let script = "trap '' USR1; kill -0 $$ && echo zero; kill -10 $$ 2>/dev/null || echo ten refused";
    let printed = prints(script, |c| c["linux"]["seccomp"] = profile);
    assert_eq!(printed, "zero\nten refused");
}

#[test]
fn seccomp_kills_where_the_profile_says_so() {
    require!(Root);
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]
    });
    let script = "mkdir /tmp/d; echo $?";
    let printed = prints(script, |c| c["linux"]["seccomp"] = profile);
    assert_eq!(printed, (128 + 31).to_string(), "SIGSYS is 31");
}

#[test]
fn seccomp_also_holds_for_exec_and_without_no_new_privileges() {
    require!(Root);
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18}]
    });
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]).edit(|c| {
        c["linux"]["seccomp"] = profile;
        c["process"]["noNewPrivileges"] = json!(false);
    }));
    c.run_detached().ok();
    let output = c.exec(&["mkdir", "/tmp/d"]);
    output.fails("cross-device link");
}

#[test]
fn exec_takes_rights_and_limits_of_the_container() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]).edit(|c| {
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]);
        c["process"]["user"] = json!({"uid": 0, "gid": 0, "umask": 0o27});
    }));
    c.run_detached().ok();
    assert_eq!(
        c.sh("ulimit -n; umask; grep ^CapBnd: /proc/self/status"),
        "77\n0027\nCapBnd:\t0000000020000420"
    );
    assert_eq!(c.sh("grep ^NoNewPrivs: /proc/self/status"), "NoNewPrivs:\t1");
}

#[test]
fn no_file_descriptor_of_the_runtime_reaches_the_container() {
    require!(Root);
    // ls itself has the directory open, as 3
    assert_eq!(prints("ls /proc/self/fd", |_| ()), "0\n1\n2\n3");
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    assert_eq!(c.sh("ls /proc/self/fd"), "0\n1\n2\n3");
    let open = std::fs::read_dir(format!("/proc/{}/fd", c.pid())).unwrap().count();
    assert_eq!(open, 3);
}

#[test]
fn the_process_starts_with_default_signals() {
    require!(Root);
    assert_eq!(status("SigBlk", |_| ()), "0000000000000000");
    let signals = |text: &str| u64::from_str_radix(text.trim(), 16).unwrap();
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = signals(own.lines().find_map(|l| l.strip_prefix("SigIgn:")).unwrap());
    let ignored = signals(&status("SigIgn", |_| ()));
    // QUIT (3) is the shell's own; PIPE (13) is ignored by this test, as by every Rust program
    assert_eq!(ignored & !(1 << 2) & !(own & !(1 << 12)), 0, "{ignored:x}, and the caller ignores {own:x}");
}

#[test]
fn a_capability_that_the_runtime_lacks_is_refused() {
    require!(Root, Program("setpriv"));
    let bundle = |set: &str| {
        Bundle::busybox().edit(|c| {
            c["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "network");
            c["process"]["capabilities"] =
                json!({"bounding": ["CAP_KILL", "CAP_SYS_TIME"], "permitted": ["CAP_KILL"]});
            c["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_SYS_TIME"]);
        })
    };
    for set in ["permitted", "inheritable"] {
        let c = Runtime::hiber().container(bundle(set));
        let path = c.bundle_path();
        let inner = c.command("run", &["--bundle", &path]);
        let mut command = std::process::Command::new("setpriv");
        command.args(["--bounding-set=-sys_time", "--inh-caps=-sys_time"]);
        command.arg(inner.get_program()).args(inner.get_args());
        let output = hiber_tests::command::run(command, b"");
        let words = format!(
            "process.capabilities.{set}: unable to apply caps: the runtime itself lacks CAP_SYS_TIME"
        );
        output.fails(&words);
        c.assert_clean();
        c.run(&[]).ok();
    }
}

#[test]
fn an_ambient_capability_that_cannot_be_is_warned_of() {
    require!(Root);
    let bundle = Bundle::busybox().args(["grep", "CapAmb", "/proc/self/status"]).edit(|c| {
        let caps = &mut c["process"]["capabilities"];
        caps["inheritable"] = json!(["CAP_KILL"]);
        caps["ambient"] = json!(["CAP_KILL", "CAP_CHOWN"]);
    });
    let output = Runtime::hiber().container(bundle).run(&[]);
    assert_eq!(output.ok(), "CapAmb:\t0000000000000020");
    assert!(output.stderr.contains("can't raise ambient capability CAP_CHOWN: "), "{output}");
}

#[test]
fn a_personality_is_the_containers_and_its_execs() {
    require!(Root);
    for (domain, machine) in [("LINUX", "x86_64"), ("LINUX32", "i686")] {
        let bundle = Bundle::busybox().args(["sleep", "1000"]);
        let bundle = bundle.edit(|c| c["linux"]["personality"] = json!({"domain": domain}));
        let c = Runtime::hiber().container(bundle);
        c.run_detached().ok();
        assert_eq!(c.sh("uname -m"), machine);
        let own = std::fs::read_to_string(format!("/proc/{}/personality", c.pid())).unwrap();
        assert_eq!(own.trim() == "00000008", domain == "LINUX32", "{own}");
    }
}

/// By their titles in /proc/PID/limits.
const RLIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "CPU"),
    ("Max file size", "FSIZE"),
    ("Max data size", "DATA"),
    ("Max stack size", "STACK"),
    ("Max core file size", "CORE"),
    ("Max resident set", "RSS"),
    ("Max processes", "NPROC"),
    ("Max open files", "NOFILE"),
    ("Max locked memory", "MEMLOCK"),
    ("Max address space", "AS"),
    ("Max file locks", "LOCKS"),
    ("Max pending signals", "SIGPENDING"),
    ("Max msgqueue size", "MSGQUEUE"),
    ("Max nice priority", "NICE"),
    ("Max realtime priority", "RTPRIO"),
    ("Max realtime timeout", "RTTIME"),
];

#[test]
fn every_resource_limit_can_be_set() {
    require!(Root);
    let hard_limits = |pid: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        RLIMITS.map(|(title, _)| {
            let line = text.lines().find_map(|line| line.strip_prefix(title)).unwrap();
            let mut numbers = line.split_whitespace().map(|n| n.parse::<u64>().unwrap_or(u64::MAX));
            (numbers.next().unwrap(), numbers.next().unwrap())
        })
    };
    // not over what this process may give, and each another
    let own = hard_limits("self").into_iter().enumerate();
    let wanted: Vec<(u64, u64)> =
        own.map(|(n, (_, hard))| (hard.min(1 << 23), hard.min((1 << 40) + n as u64))).collect();
    let limit = |((_, name), (soft, hard)): (&(&str, &str), &(u64, u64))| json!({"type": format!("RLIMIT_{name}"), "soft": soft, "hard": hard});
    let all: Vec<Value> = RLIMITS.iter().zip(&wanted).map(limit).collect();
    let bundle = Bundle::busybox().args(["sleep", "1000"]).edit(|c| c["process"]["rlimits"] = json!(all));
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    assert_eq!(hard_limits(&c.pid().to_string()).to_vec(), wanted);
}
