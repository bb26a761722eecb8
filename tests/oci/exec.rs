//! exec: more processes in a running container.

use hiber_tests::prelude::*;
use std::fs;

fn sleeper() -> Container {
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    c
}

#[test]
fn exec_runs_in_the_containers_namespaces_and_cgroup() {
    require!(Root);
    let c = sleeper();
    let pid = c.pid();
    for (kind, path) in [("mnt", "mnt"), ("net", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")] {
        let own = fs::read_link(format!("/proc/{pid}/ns/{path}")).unwrap();
        assert_eq!(c.sh(&format!("readlink /proc/self/ns/{kind}")), own.to_string_lossy());
    }
    assert_eq!(c.sh("hostname"), "hiber-test");
    assert_eq!(c.sh("cat /proc/1/comm"), "sleep");
    let pids = hiber_tests::cgroup::pids(&c.bundle().cgroup());
    let script = "touch /there; while [ -e /there ]; do sleep 0.02; done";
    let mut child = {
        let mut command = c.command("exec", &[]);
        command.args(["sh", "-c", script]);
        command.spawn().unwrap()
    };
    wait_for("the process", || c.bundle().rootfs().join("there").exists());
    assert!(hiber_tests::cgroup::pids(&c.bundle().cgroup()).len() > pids.len());
    fs::remove_file(c.bundle().rootfs().join("there")).unwrap();
    assert_eq!(hiber_tests::command::wait(&mut child, "exec").code(), Some(0));
}

#[test]
fn exec_passes_streams_and_the_exit_status() {
    require!(Root);
    let c = sleeper();
    c.exec(&["sh", "-c", "exit 42"]).exited(42);
    let output = c.exec(&["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    let mut command = c.command("exec", &[]);
    command.args(["tr", "a-z", "A-Z"]);
    assert_eq!(hiber_tests::command::run(command, b"through").ok(), "THROUGH");
    c.exec(&["sh", "-c", "kill -TERM $$"]).exited(128 + 15);
}

#[test]
fn exec_of_a_missing_command_says_so() {
    require!(Root);
    let c = sleeper();
    let output = c.exec(&["/no/such/command"]);
    output.fails("no such file or directory");
    let output = c.exec(&["no-such-command"]);
    output.fails("executable file not found");
    assert_eq!(c.status(), "running");
}

#[test]
fn exec_flags_set_directory_environment_and_user() {
    require!(Root);
    let c = sleeper();
    assert_eq!(c.exec_with(&["--cwd", "/tmp"], &["pwd"]).ok(), "/tmp");
    assert_eq!(c.exec_with(&["--env", "A=b c"], &["sh", "-c", "echo $A"]).ok(), "b c");
    assert_eq!(c.exec_with(&["--user", "1000:100"], &["sh", "-c", "id -u; id -g"]).ok(), "1000\n100");
    let groups = c.exec_with(&["--user", "1234:1234", "--additional-gids", "44"], &["id", "-G"]);
    // runc 1.3 gives the group twice
    let groups: std::collections::BTreeSet<&str> = groups.ok().split(' ').collect();
    assert_eq!(groups, ["1234", "44"].into());
}

#[test]
fn exec_takes_a_process_file() {
    require!(Root);
    let c = sleeper();
    let process = c.bundle().join("process.json");
    let config = json!({
        "args": ["sh", "-c", "id -u; pwd; echo $WORD; exit 5"],
        "cwd": "/tmp",
        "env": ["PATH=/bin", "WORD=said"],
        "user": {"uid": 1000, "gid": 1000}
    });
    fs::write(&process, config.to_string()).unwrap();
    let output = c.call("exec", &["--process", process.to_str().unwrap()]);
    output.exited(5);
    assert_eq!(output.stdout, "1000\n/tmp\nsaid\n");
}

/// (uid_t)-1, for which setresuid(2) leaves a process what it is: root.
#[test]
fn what_is_no_id_executes_nothing() {
    require!(Root, UserNamespaces);
    let in_user_namespace =
        Runtime::hiber().container(Bundle::busybox().user_namespace(300_000).args(["sleep", "1000"]));
    in_user_namespace.run_detached().ok();
    for c in [sleeper(), in_user_namespace] {
        let none = "4294967295";
        for (flag, value) in [("--user", none), ("--user", "0:4294967295"), ("--additional-gids", none)] {
            c.exec_with(&[flag, value], &["id"]).fails("is no number from 0 to 4294967294");
        }
        for (field, ids) in [
            ("uid", json!(4_294_967_295_u32)),
            ("gid", json!(4_294_967_295_u32)),
            ("additionalGids", json!([4_294_967_295_u32])),
        ] {
            let process = c.bundle().join("process.json");
            let mut config =
                json!({"args": ["id"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
            config["user"][field] = ids;
            fs::write(&process, config.to_string()).unwrap();
            let output = c.call("exec", &["--process", process.to_str().unwrap()]);
            output.fails(&format!("process.user.{field}"));
            assert!(output.stderr.contains("4294967295 is no id"), "{output}");
        }
    }
}

#[test]
fn a_detached_exec_returns_and_writes_its_pid() {
    require!(Root);
    let c = sleeper();
    let (pid_file, process) = (c.bundle().join("exec.pid"), c.bundle().join("process.json"));
    let config =
        json!({"args": ["sleep", "500"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    fs::write(&process, config.to_string()).unwrap();
    let (process, file) = (process.to_str().unwrap(), pid_file.to_str().unwrap());
    c.call_detached("exec", &["--pid-file", file, "--process", process, "--detach"]).ok();
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    assert_ne!(pid, c.pid());
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(line, b"sleep\x00500\x00");
    assert!(hiber_tests::cgroup::pids(&c.bundle().cgroup()).contains(&pid));
}

#[test]
fn exec_needs_a_running_container() {
    require!(Root);
    let c = sleeper();
    c.kill("KILL").ok();
    c.wait_stopped();
    c.exec(&["true"]).fails("stopped");
    c.delete(&[]).ok();
    c.exec(&["true"]).fails("does not exist");
}

#[test]
fn exec_enters_a_created_container() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]));
    c.create(&[]).ok();
    assert_eq!(c.sh("hostname"), "hiber-test");
    assert_eq!(c.status(), "created");
}

#[test]
fn exec_preserves_file_descriptors_where_asked() {
    require!(Root);
    let c = sleeper();
    // descriptor 3 reaches the runtime through the shell
    let root = c.runtime().root().display().to_string();
    let runtime = c.runtime().bare_command();
    let mut command = std::process::Command::new("sh");
    let script = format!(
        "exec \"$0\" --root {root} exec --preserve-fds 1 {} sh -c 'cat <&3' 3<<END\nthrough three\nEND\n",
        c.id()
    );
    command.arg("-c").arg(script).arg(runtime.get_program());
    assert_eq!(hiber_tests::command::run(command, b"").ok(), "through three");
}

#[test]
fn many_execs_at_once_all_succeed() {
    require!(Root);
    let c = sleeper();
    let children: Vec<_> = (0..8)
        .map(|i| {
            let mut command = c.command("exec", &[]);
            command.args(["sh", "-c", &format!("exit {}", 10 + i)]);
            command.spawn().unwrap()
        })
        .collect();
    for (i, mut child) in children.into_iter().enumerate() {
        let code = hiber_tests::command::wait(&mut child, "exec").code();
        assert_eq!(code, i32::try_from(10 + i).ok());
    }
}

#[test]
fn an_exec_can_run_in_a_cgroup_below_the_containers() {
    require!(Root, Controller("pids"), Controller("memory"));
    let c = sleeper();
    let parent = c.bundle().cgroup();
    if ["pids", "memory"].iter().any(|c| hiber_tests::cgroup::mount_of(c).is_some_and(|h| h.v2)) {
        return; // which has one hierarchy, and no controllers to name
    }
    for controller in ["pids", "memory"] {
        let top =
            hiber_tests::cgroup::mount_of(controller).unwrap().mount.join(parent.trim_start_matches('/'));
        std::fs::create_dir(top.join("sub")).unwrap();
    }
    let shown = |flags: &[&str]| c.exec_with(flags, &["cat", "/proc/self/cgroup"]);
    let all = shown(&["--cgroup", "pids:sub"]);
    assert!(all.ok().contains(":pids:/sub"), "{all}");
    assert!(all.ok().contains(":memory:/\n"), "{all}");
    shown(&["--cgroup", ".."]).fails("bad sub cgroup path");
    shown(&["--cgroup", "pids:none"]).fails("no such file or directory");
    shown(&["--cgroup", "whaaat:/"]).fails("unknown controller whaaat");
    shown(&["--cgroup", "a", "--cgroup", "b"]).fails("missing <controller>: prefix");
    assert!(shown(&["--cgroup", "/"]).ok().contains(":pids:/\n"));
}

/// Listens, runs `call`, and gives the pid in the /proc/self/fdinfo of the pidfd that came.
fn pidfd_of(c: &Container, call: impl FnOnce(&str)) -> i32 {
    use std::io::IoSliceMut;
    use std::os::fd::AsRawFd;
    let path = c.bundle().join("pidfd.sock");
    let _ = std::fs::remove_file(&path);
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    call(&path.display().to_string());
    let (stream, _) = listener.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0u8; 64];
    let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags).unwrap();
    let fd = ancillary
        .drain()
        .find_map(|m| match m {
            rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .expect("a descriptor");
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    info.lines().find_map(|l| l.strip_prefix("Pid:")).unwrap().trim().parse().unwrap()
}

#[test]
fn a_pidfd_goes_to_whom_asks_for_one() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]));
    let first = pidfd_of(&c, |socket| {
        c.create(&["--pidfd-socket", socket]).ok();
    });
    assert_eq!(first, c.pid());
    c.start().ok();
    let file = c.bundle().join("pid");
    let exec = pidfd_of(&c, |socket| {
        let file = file.display().to_string();
        let flags = ["--detach", "--pid-file", &file, "--pidfd-socket", socket];
        let mut command = c.command("exec", &flags);
        command.args(["sleep", "1000"]);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        assert!(command.stderr(std::process::Stdio::null()).status().unwrap().success());
    });
    assert_eq!(exec.to_string(), std::fs::read_to_string(file).unwrap());
}
