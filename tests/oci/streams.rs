//! Standard streams, terminals, passed file descriptors.

use hiber_tests::command;
use hiber_tests::prelude::*;
use hiber_tests::pty::{ConsoleSocket, read_until, write_all};
use std::io::{Read as _, Write as _};

#[test]
fn a_foreground_run_passes_its_streams() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().shell("tr a-z A-Z; echo error >&2"));
    let output = command::run(c.command("run", &["--bundle", &c.bundle_path()]), b"input\n");
    assert_eq!((output.ok(), output.stderr.as_str()), ("INPUT", "error\n"));
}

#[test]
fn a_created_container_keeps_the_pipes_of_its_creator() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(["cat"]));
    let (output, mut streams) = c.with_pipes("create", &[]);
    output.ok();
    c.start().ok();
    streams.stdin.write_all(b"hello\n").unwrap();
    assert_eq!(read_until(&streams.stdout, "\n"), "hello\n");
    drop(streams.stdin);
    let mut rest = String::new();
    streams.stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "the end of the input ends cat, and nobody else holds its output");
    c.wait_stopped();
}

#[test]
fn a_terminal_comes_over_the_console_socket() {
    require!(Root);
    let bundle = Bundle::busybox().args(["sh"]).edit(|c| {
        c["process"]["terminal"] = json!(true);
        c["process"]["consoleSize"] = json!({"height": 33, "width": 99});
    });
    let c = Runtime::hiber().container(bundle);
    let socket = ConsoleSocket::listen(c.bundle().path());
    c.create(&["--console-socket", socket.path()]).ok();
    let master = socket.receive();
    c.start().ok();
    write_all(&master, "stty size; tty; ls -l /dev/console | cut -c1; echo done $((40+2))\n");
    let text = read_until(&master, "done 42");
    assert!(text.contains("33 99"), "the size of the configuration: {text}");
    assert!(text.contains("/dev/pts/0") || text.contains("/dev/console"), "{text}");
    write_all(&master, "exit 5\n");
    c.wait_stopped();
}

#[test]
fn the_terminal_is_the_controlling_one() {
    require!(Root);
    let bundle = Bundle::busybox()
        .shell("trap 'echo interrupted; exit' INT; echo ready; while :; do sleep 0.05; done")
        .edit(|c| c["process"]["terminal"] = json!(true));
    let c = Runtime::hiber().container(bundle);
    let socket = ConsoleSocket::listen(c.bundle().path());
    c.create(&["--console-socket", socket.path()]).ok();
    let master = socket.receive();
    c.start().ok();
    read_until(&master, "ready");
    write_all(&master, "\x03");
    read_until(&master, "interrupted");
    c.wait_stopped();
}

#[test]
fn exec_gets_a_terminal_over_the_console_socket() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    let process = c.bundle().join("process.json");
    let config = json!({
        "terminal": true, "args": ["sh", "-c", "tty; echo over"], "cwd": "/", "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0}
    });
    std::fs::write(&process, config.to_string()).unwrap();
    let socket = ConsoleSocket::listen(c.bundle().path());
    let flags = ["--console-socket", socket.path(), "--detach", "--process", process.to_str().unwrap()];
    c.call_detached("exec", &flags).ok();
    let text = read_until(socket.receive(), "over");
    assert!(text.contains("/dev/pts/"), "{text}");
}

#[test]
fn a_terminal_without_a_console_socket_is_refused_when_detached() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().edit(|c| c["process"]["terminal"] = json!(true)));
    c.create(&[]).fails("console");
    c.assert_clean();
}

#[test]
fn a_console_socket_without_a_terminal_is_refused() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox());
    let socket = ConsoleSocket::listen(c.bundle().path());
    c.create(&["--console-socket", socket.path()]).fails("console");
    c.assert_clean();
}

#[test]
fn a_foreground_run_with_a_terminal_relays_it() {
    require!(Root);
    // script(1) gives the runtime a terminal
    let bundle =
        Bundle::busybox().shell("tty; stty size; exit 9").edit(|c| c["process"]["terminal"] = json!(true));
    let c = Runtime::hiber().container(bundle);
    let run = c.command("run", &["--bundle", &c.bundle_path()]);
    let line: Vec<_> = std::iter::once(run.get_program())
        .chain(run.get_args())
        .map(|w| w.to_string_lossy().into_owned())
        .collect();
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &format!("stty rows 21 cols 77; {}", line.join(" ")), "/dev/null"]);
    let output = command::run(script, b"");
    output.exited(9);
    assert!(output.stdout.contains("/dev/pts/0") || output.stdout.contains("/dev/console"), "{output}");
    assert!(output.stdout.contains("21 77"), "the terminal has the caller's size: {output}");
    c.assert_clean();
}

#[test]
fn preserved_file_descriptors_reach_the_container() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().shell("cat <&3; cat <&4; ls /proc/self/fd | wc -l"));
    let program = c.runtime().bare_command();
    let script = format!(
        "printf three >{0}/3; printf four >{0}/4; printf five >{0}/5; \
         exec \"$0\" --root {1} run --bundle {0} --preserve-fds 2 {2} 3<{0}/3 4<{0}/4 5<{0}/5",
        c.bundle_path(),
        c.runtime().root().display(),
        c.id()
    );
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(script).arg(program.get_program());
    // 0 1 2, 3 4, and the directory that ls reads
    assert_eq!(command::run(shell, b"").ok(), "threefour6");
}

#[test]
fn the_null_device_of_the_streams_is_the_containers_own() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", c.pid())).unwrap();
    for fd in 0..3 {
        assert_eq!(c.sh(&format!("readlink /proc/1/fd/{fd}")), "/dev/null");
        let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", c.pid())).unwrap();
        let id = info.lines().find_map(|l| l.strip_prefix("mnt_id:")).unwrap().trim();
        assert!(mounts.lines().any(|l| l.split(' ').next() == Some(id)), "mount {id} is not in\n{mounts}");
    }
}

#[test]
fn sockets_of_a_service_manager_reach_the_container() {
    require!(Root);
    let script = "echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4; cat <&5; ls /proc/self/fd | wc -l";
    let c = Runtime::hiber().container(Bundle::busybox().shell(script));
    let program = c.runtime().bare_command();
    // exec keeps the shell's process id
    let script = format!(
        "echo three >{0}/3; echo four >{0}/4; echo five >{0}/5; export LISTEN_FDS=$1 LISTEN_PID=${{2:-$$}}; \
         exec \"$0\" --root {1} run --bundle {0} --preserve-fds 1 {2} 3<{0}/3 4<{0}/4 5<{0}/5",
        c.bundle_path(),
        c.runtime().root().display(),
        c.id()
    );
    let call = |arguments: &[&str]| {
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(&script).arg(program.get_program()).args(arguments);
        command::run(shell, b"")
    };
    // 0 1 2, 3 4 5, and the directory that ls reads
    assert_eq!(call(&["2"]).ok(), "2 1\nthree\nfour\nfive\n7");
    assert_eq!(call(&["many"]).fails("LISTEN_FDS").stdout, "");
    // not ours: only --preserve-fds counts, and the two variables stay outside
    let output = call(&["2", "1"]);
    assert!(output.stdout.starts_with("\nthree\n") && output.stdout.ends_with("\n5\n"), "{output}");
}
