//! SCMP_ACT_NOTIFY: an agent outside the container gets the listener.

use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use hiber_tests::agent::receive;
use hiber_tests::prelude::*;

/// The states of so many processes; their listeners are dropped at once.
fn agent(bundle: &Bundle, times: usize) -> JoinHandle<Vec<Value>> {
    let listener = UnixListener::bind(bundle.join("agent.sock")).unwrap();
    std::thread::spawn(move || (0..times).map(|_| receive(&listener).0).collect())
}

fn with_filter(bundle: Bundle, no_new_privileges: bool, names: Value) -> Bundle {
    let path = bundle.join("agent.sock").display().to_string();
    bundle.edit(|c| {
        c["process"]["noNewPrivileges"] = json!(no_new_privileges);
        c["annotations"] = json!({"a": "b"});
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
            "listenerMetadata": "told", "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}]});
    })
}

const MKDIR: &str = "mkdir /dev/shm/x 2>&1; true";

#[test]
fn the_agent_gets_the_listener_and_the_state_of_the_process() {
    require!(Root);
    for no_new_privileges in [false, true] {
        let bundle = with_filter(Bundle::busybox(), no_new_privileges, json!(["mkdir", "mkdirat"]));
        let agent = agent(&bundle, 1);
        let c = Runtime::hiber().container(bundle.shell(MKDIR));
        let output = c.run(&[]);
        assert!(output.ok().contains("Function not implemented"), "{output}");
        let state = agent.join().unwrap().remove(0);
        assert_eq!((&state["fds"], &state["metadata"]), (&json!(["seccompFd"]), &json!("told")));
        assert_eq!(state["state"]["id"], c.id());
        assert_eq!(state["state"]["status"], "creating");
        assert_eq!(state["state"]["annotations"], json!({"a": "b"}));
        assert_eq!(state["state"]["bundle"], c.bundle_path());
        assert_eq!(state["pid"], state["state"]["pid"]);
        assert!(state["pid"].as_i64().unwrap() > 1, "a pid of the host: {state}");
    }
}

#[test]
fn the_agent_has_the_listener_when_the_container_is_created() {
    require!(Root);
    for no_new_privileges in [false, true] {
        let bundle = with_filter(Bundle::busybox(), no_new_privileges, json!(["mkdir", "mkdirat"]));
        let agent = agent(&bundle, 1);
        let c = Runtime::hiber().container(bundle.shell("! mkdir /dev/shm/x"));
        c.create(&[]).ok();
        wait_for("the listener", || agent.is_finished());
        let state = agent.join().unwrap().remove(0);
        assert_eq!(state["pid"], c.pid());
        assert_eq!(c.status(), "created");
        c.start().ok();
    }
}

#[test]
fn an_exec_has_a_listener_of_its_own() {
    require!(Root);
    let bundle = with_filter(Bundle::busybox().args(["sleep", "1000"]), true, json!(["mkdir", "mkdirat"]));
    let agent = agent(&bundle, 2);
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let output = c.exec(&["sh", "-c", MKDIR]);
    assert!(output.ok().contains("Function not implemented"), "{output}");
    let state = agent.join().unwrap().remove(1);
    assert_eq!(state["state"]["status"], "running");
    assert_eq!(state["state"]["pid"], c.pid());
    assert_ne!(state["pid"], state["state"]["pid"]);
}

#[test]
fn without_an_agent_nothing_starts() {
    require!(Root);
    let run = |bundle: Bundle| {
        let c = Runtime::hiber().container(bundle.shell(MKDIR));
        let output = c.run(&[]);
        c.assert_clean();
        output
    };
    run(with_filter(Bundle::busybox(), true, json!(["mkdir"]))).fails("failed to connect with seccomp agent");
    run(with_filter(Bundle::busybox(), true, json!(["write"])))
        .fails("SCMP_ACT_NOTIFY cannot be used for the write syscall");
    let none = with_filter(Bundle::busybox(), true, json!(["mkdir"]));
    run(none.edit(|c| c["linux"]["seccomp"]["listenerPath"] = json!(""))).fails("linux.seccomp.listenerPath");
}

#[test]
fn what_only_the_runtime_calls_need_not_be_allowed() {
    require!(Root);
    let bundle = Bundle::busybox().args(["true"]).edit(|c| {
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names":
            ["close_range", "rt_sigprocmask", "sendmsg", "recvmsg", "accept4"], "action": "SCMP_ACT_KILL_PROCESS"}]});
    });
    Runtime::hiber().container(bundle).run(&[]).ok();
}
