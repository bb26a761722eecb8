//! Programs in the kernel: a filter binds the thread that installs it, so each test has a
//! thread of its own for that.

use std::os::unix::process::ExitStatusExt;

use hiber_sandbox::seccomp::{Program, compile, known_actions, known_flags, supported_flags};
use hiber_sys::seccomp::install;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde_json::{Value, json};

use super::captured;

fn program(profile: Value) -> Program {
    compile(&serde_json::from_value(profile).unwrap()).unwrap()
}

/// Runs `f` in a thread below the filter.
fn confined<T: Send + 'static>(program: Program, f: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        install(&program.filter, program.flags).unwrap();
        f()
    })
    .join()
    .unwrap()
}

fn unix_socket(kind: SockType) -> Result<(), Errno> {
    socket(AddressFamily::Unix, kind, SockFlag::empty(), None).map(drop)
}

#[test]
fn rules_on_calls_and_arguments() {
    let program = program(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            { "names": ["chdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77 },
            { "names": ["chroot"], "action": "SCMP_ACT_ERRNO" },
            { "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95, "args": [
                { "index": 0, "value": 1, "op": "SCMP_CMP_EQ" },
                { "index": 1, "value": 0xf, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ" },
            ]},
        ],
    }));
    assert_eq!(program.warnings.len(), 1, "{:?}", program.warnings);
    assert!(program.warnings[0].contains("no_such_call"));
    let seen = confined(program, || {
        (
            rustix::process::chdir("/").map_err(|e| Some(e.raw_os_error())),
            nix::unistd::chroot("/"),
            unix_socket(SockType::Stream),
            unix_socket(SockType::Datagram),
        )
    });
    assert_eq!(seen, (Err(Some(77)), Err(Errno::EPERM), Ok(()), Err(Errno::EOPNOTSUPP)));
}

#[test]
fn default_profiles_let_programs_run() {
    for (name, text) in captured::FILES {
        let archs = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
        let profile = captured::load(text, &["CAP_AUDIT_WRITE"], "amd64", &archs);
        let seen = confined(compile(&profile).unwrap(), || {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("file");
            std::fs::write(&file, "text").unwrap();
            let read = std::fs::read_to_string(&file).unwrap();
            let thread = std::thread::spawn(|| 1).join().unwrap();
            let chroot = nix::unistd::chroot("/");
            let personality = nix::sys::personality::get().is_ok();
            (read, thread, unix_socket(SockType::Stream), personality, chroot)
        });
        assert_eq!(seen, ("text".into(), 1, Ok(()), true, Err(Errno::EPERM)), "{name}");
    }
}

#[test]
fn listener() {
    let program = program(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "/run/agent.sock",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{ "names": ["chroot"], "action": "SCMP_ACT_NOTIFY" }],
    }));
    assert!(program.notify);
    let flags = std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        let listener = install(&program.filter, program.flags).unwrap().expect("a listener");
        rustix::io::fcntl_getfd(&listener).unwrap()
    });
    assert_eq!(flags.join().unwrap(), rustix::io::FdFlags::CLOEXEC);
}

#[test]
fn kill_process() {
    const CHILD: &str = "HIBER_TEST_SECCOMP_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let program = program(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["chroot"], "action": "SCMP_ACT_KILL_PROCESS" }],
        }));
        let outcome = confined(program, || nix::unistd::chroot("/"));
        panic!("chroot returned {outcome:?}");
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kernel::kill_process"])
        .env(CHILD, "1")
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(libc::SIGSYS));
}

#[test]
fn refused_filter_says_why() {
    let error = install(&[], 0).unwrap_err();
    assert_eq!((error.call.as_str(), error.errno), ("seccomp", libc::EINVAL));
    assert!(error.args.contains("0 instructions"), "{error}");
}

/// A kernel of 5.19 or newer has all that the specification names.
#[test]
fn features() {
    assert_eq!(supported_flags(), known_flags());
    assert_eq!(known_actions().len(), 9);
    assert!(known_actions().is_sorted());
}
