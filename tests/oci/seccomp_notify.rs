//! SCMP_ACT_NOTIFY: an agent outside the container gets the listener.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use hiber_tests::prelude::*;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Receives one process state with its descriptors.
fn agent(bundle: &Bundle, times: usize) -> JoinHandle<Vec<(Value, Vec<OwnedFd>)>> {
    let listener = UnixListener::bind(bundle.join("agent.sock")).unwrap();
    std::thread::spawn(move || {
        let receive = |_| {
            let (stream, _) = listener.accept().unwrap();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [0u8; 65_536];
            let iov = &mut [std::io::IoSliceMut::new(&mut bytes)];
            let length = recvmsg(&stream, iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
            let mut fds = Vec::new();
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    // Dropped at once: a listener without an agent answers ENOSYS, rather than never.
                    fds.extend(more);
                }
            }
            let names =
                fds.iter().map(|fd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap());
            assert_eq!(names.collect::<Vec<_>>(), [std::path::Path::new("anon_inode:seccomp notify")]);
            fds.clear();
            (serde_json::from_slice(&bytes[..length]).unwrap(), fds)
        };
        (0..times).map(receive).collect()
    })
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
        let (state, _) = agent.join().unwrap().remove(0);
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
        let (state, _) = agent.join().unwrap().remove(0);
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
    let (state, _) = agent.join().unwrap().remove(1);
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
