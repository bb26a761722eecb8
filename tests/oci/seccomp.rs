//! System call filters: what a profile must allow for the runtime's sake is execve(2), and what the filter leaves a process.

use hiber_tests::prelude::*;
use hiber_tests::tools;

/// Runs a program that makes one system call, with a profile that allows nothing else but its start; and executes it in a
/// container of that profile.
fn runs_under_the_narrowest_profile(user: u32, no_new_privileges: bool) {
    let profile = json!({"defaultAction": "SCMP_ACT_KILL_PROCESS",
        "syscalls": [{"names": ["execve", "exit_group"], "action": "SCMP_ACT_ALLOW"}]});
    let bundle = Bundle::busybox();
    let program = bundle.rootfs().join("bin/exit");
    let flags = ["-static", "-nostdlib", "-ffreestanding", "-O1"];
    tools::compile(concat!(env!("CARGO_MANIFEST_DIR"), "/oci/exit.c"), &program, &flags);
    let bundle = bundle.edit(|c| {
        c["process"]["noNewPrivileges"] = json!(no_new_privileges);
        c["process"]["user"] = json!({"uid": user, "gid": user});
        c["linux"]["seccomp"] = profile;
    });
    let c = Runtime::hiber().container(bundle.args(["exit"]));
    let output = c.run(&[]);
    assert_eq!(output.status.code(), Some(7), "user {user}, {no_new_privileges}: {output}");
    // Created and started by two, where init has waited in between.
    c.create(&[]).ok();
    c.start().ok();
    c.wait_stopped();
    c.delete(&[]).ok();
}

#[test]
fn a_profile_need_allow_nothing_but_execve_for_the_runtime() {
    require!(Root, Program("cc"));
    for user in [0, 1000] {
        for no_new_privileges in [false, true] {
            runs_under_the_narrowest_profile(user, no_new_privileges);
        }
    }
}

fn denied(names: Value, no_new_privileges: bool, bundle: Bundle) -> Bundle {
    bundle.edit(|c| {
        c["process"]["noNewPrivileges"] = json!(no_new_privileges);
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": names, "action": "SCMP_ACT_ERRNO"}]});
    })
}

/// Calls that look for a program, and calls that change its user and rights.
fn of_the_set_up() -> Value {
    json!([
        "faccessat2",
        "faccessat",
        "access",
        "setresuid",
        "setresgid",
        "setgroups",
        "capset",
        "prctl",
        "chdir",
        "getcwd",
        "sendmsg",
        "recvmsg",
        "accept4",
        "poll",
        "ppoll",
        "rt_sigaction",
        "seccomp"
    ])
}

#[test]
fn calls_of_the_set_up_may_be_denied() {
    require!(Root);
    for no_new_privileges in [false, true] {
        let bundle = denied(of_the_set_up(), no_new_privileges, Bundle::busybox());
        let c = Runtime::hiber().container(bundle.args(["sleep", "1000"]).edit(|c| {
            c["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [5]});
        }));
        c.run_detached().ok();
        assert_eq!(c.exec(&["echo", "said"]).ok(), "said", "{no_new_privileges}");
        c.exec(&["nowhere"]).fails("executable file not found in $PATH");
        c.exec(&["/etc"]).fails("stat /etc: ");
    }
}

#[test]
fn the_right_to_load_a_filter_is_none_of_the_programs() {
    require!(Root);
    let show = ["grep", "-E", "Cap(Prm|Eff|Inh|Amb|Bnd)|^Seccomp:", "/proc/self/status"];
    for user in [0, 1000] {
        for no_new_privileges in [false, true] {
            let set_user = |c: &mut Value| {
                c["process"]["user"] = json!({"uid": user, "gid": user});
                let all = json!(["CAP_KILL"]);
                c["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all, "inheritable": all, "ambient": all});
            };
            let printed = |bundle: Bundle| {
                let c = Runtime::hiber().container(bundle.edit(set_user).args(show));
                c.run(&[]).ok().to_owned()
            };
            let with = printed(denied(json!(["mkdir"]), no_new_privileges, Bundle::busybox()));
            let without = printed(Bundle::busybox().edit(|c| c["linux"]["seccomp"] = Value::Null));
            assert_eq!(
                with.replace("Seccomp:\t2", "Seccomp:\t0"),
                without,
                "user {user}, {no_new_privileges}"
            );
            assert!(with.contains("CapPrm:\t0000000000000020") && with.contains("Seccomp:\t2"), "{with}");
        }
    }
}
