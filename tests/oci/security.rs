//! The things that a container gets hold of: never the host's files, descriptors, rights or secrets. docs/threat-model.md names the
//! attack that each test makes.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use hiber_tests::command::run;
use hiber_tests::prelude::*;
use hiber_tests::tools;

fn give_capabilities(config: &mut Value, all: &[&str]) {
    config["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Waits for the process of /evil, opens the program that it runs, and writes to it once it is no longer running.
const ATTACK: &str = r#"
for i in $(seq 400); do
    for process in /proc/[0-9]*; do
        case $(tr '\0' ' ' <$process/cmdline) in *"nonsense /evil"*) found=$process && break 2 ;; esac
    done
    usleep 10000
done
[ "$found" ] || exit 0
exec 3<$found/exe && echo opened
mount -o remount,rw,bind /proc/self/fd/3 && echo remounted
kill -9 ${found#/proc/}
for i in $(seq 20); do
    (echo attacked >/proc/self/fd/3) && echo written
    usleep 10000
done 2>&1 | sort -u
"#;

/// An image that wants to execute a program of the host brings what that is linked with. A release is static, and the
/// machines on which it is tested have no ldd(1).
fn bring_libraries(program: &Path, rootfs: &Path) {
    let Ok(linked) = Command::new("ldd").arg(program).output() else { return };
    for library in
        String::from_utf8_lossy(&linked.stdout).split_whitespace().filter(|word| word.starts_with('/'))
    {
        let to = rootfs.join(&library[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(library, to).unwrap();
    }
}

#[test]
fn the_runtimes_binary_cannot_be_written() {
    require!(Root);
    let bundle = Bundle::busybox().args(["sleep", "1000"]).edit(|c| {
        give_capabilities(c, &["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_KILL"]);
    });
    let program = bundle.join("hiber");
    fs::copy(tools::hiber().unwrap(), &program).unwrap();
    let before = fs::read(&program).unwrap();
    // The runtime executes itself, and cannot say what it thinks of these arguments.
    write_program(&bundle.rootfs().join("evil"), "#!/proc/self/exe nonsense\n");
    let (_reader, mut full) = std::io::pipe().unwrap();
    full.write_all(&[b'x'; 1 << 16]).unwrap();
    bring_libraries(&program, &bundle.rootfs());
    write_program(&bundle.rootfs().join("attack"), ATTACK);
    let c = Runtime::hiber_at(&program).container(bundle);
    c.run_detached().ok();
    let mut victim = c.command("exec", &[]);
    let null = victim.arg("/evil").stdin(Stdio::null()).stdout(Stdio::null()).stderr(full);
    let mut victim = null.spawn().unwrap();
    let output = c.exec(&["sh", "/attack"]);
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(output.stdout.contains("opened"), "{output}");
    assert!(output.stdout.contains("Read-only file system"), "{output}");
    assert!(!output.stdout.contains("written") && !output.stdout.contains("remounted"), "{output}");
    assert!(fs::read(&program).unwrap() == before, "{output}");
}

/// `command` as a caller starts it who has left files open.
fn with_open_files(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"exec 3</ 7</etc/passwd 9</; exec "$@""#, "sh"]).arg(command.get_program());
    shell.args(command.get_args());
    for (key, value) in command.get_envs() {
        shell.env(key, value.unwrap_or_default());
    }
    shell
}

#[test]
fn no_descriptor_leaks_into_the_container_or_a_hook() {
    require!(Root);
    // the fourth is that of the directory being listed
    let list = ["sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"];
    let bundle = Bundle::busybox().args(list);
    let hooks = ["createRuntime", "createContainer", "poststart", "poststop"];
    let told = |hook: &str| bundle.join(hook).display().to_string();
    let hook = |out: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("ls /proc/self/fd | tr '\\n' ' ' >{out}")]}]);
    let mut all: serde_json::Map<String, Value> =
        hooks.iter().map(|name| ((*name).to_owned(), hook(&told(name)))).collect();
    all.insert("startContainer".into(), hook("/tmp/startContainer"));
    let files: Vec<_> = hooks.iter().map(|name| bundle.join(name)).collect();
    let bundle = bundle.edit(|c| c["hooks"] = Value::Object(all));
    let inside = bundle.rootfs().join("tmp/startContainer");
    let c = Runtime::hiber().container(bundle);
    let path = c.bundle_path();
    let output = run(with_open_files(&c.command("run", &["--bundle", &path])), b"");
    assert_eq!(output.ok(), "0 1 2 3 ");
    for file in files.iter().chain([&inside]) {
        assert_eq!(fs::read_to_string(file).unwrap(), "0 1 2 3 ", "{}", file.display());
    }
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    let mut exec = c.command("exec", &[]);
    exec.args(list);
    assert_eq!(run(with_open_files(&exec), b"").ok(), "0 1 2 3 ");
    // Descriptors that were asked for are there, and no others.
    let mut exec = c.command("exec", &["--preserve-fds", "1"]);
    exec.args(list);
    assert_eq!(run(with_open_files(&exec), b"").ok(), "0 1 2 3 4 ");
}

/// A bundle with an executable file `marker` outside of its root filesystem.
fn with_marker(user_namespace: bool) -> Bundle {
    let bundle = Bundle::busybox().args(["sleep", "1000"]);
    let bundle = if user_namespace { bundle.user_namespace(300_000) } else { bundle };
    write_program(&bundle.join("marker"), "#!/bin/sh\necho escaped\n");
    bundle
}

/// Paths to the bundle's directory through whatever the runtime may have open.
fn ways_out(bundle: &Bundle) -> Vec<String> {
    let host = bundle.path().display().to_string();
    (3..12).flat_map(|n| ["", "/.."].map(|up| format!("/proc/self/fd/{n}{up}{host}"))).collect()
}

#[test]
fn no_descriptor_of_the_runtime_leads_out() {
    require!(Root, UserNamespaces);
    // In a user namespace mounts are locked to each other, and ".." leads further than elsewhere.
    for user_namespace in [false, true] {
        let c = Runtime::hiber().container(with_marker(user_namespace));
        c.run_detached().ok();
        for way in ways_out(c.bundle()) {
            c.exec(&[&format!("{way}/marker")]).fails("exec: ");
            c.exec_with(&["--cwd", &way], &["./marker"]).fails("exec failed");
        }
        for n in 3..12 {
            c.exec_with(&["--cwd", &format!("/proc/self/fd/{n}")], &["true"]).fails("process.cwd");
        }
    }
}

#[test]
fn neither_program_nor_working_directory_of_a_new_container_leads_out() {
    require!(Root, UserNamespaces);
    for user_namespace in [false, true] {
        let c = Runtime::hiber().container(with_marker(user_namespace));
        let write = |key: &str, value: Value| {
            let mut config = c.bundle().config().clone();
            config["process"][key] = value;
            fs::write(c.bundle().join("config.json"), config.to_string()).unwrap();
        };
        for way in ways_out(c.bundle()) {
            write("args", json!([format!("{way}/marker")]));
            c.run(&[]).fails("exec: ");
        }
        for n in 3..12 {
            write("cwd", json!(format!("/proc/self/fd/{n}")));
            c.run(&[]).fails("process.cwd");
        }
        c.assert_clean();
    }
}

#[test]
fn groups_and_capabilities_are_those_asked_for() {
    require!(Root);
    // The caller's own groups stay outside (CVE-2022-24769 and CVE-2022-29162 for the inheritable set).
    let bundle = Bundle::busybox().args(["sh", "-c", "id -G; grep ^CapInh /proc/self/status"]);
    let c = Runtime::hiber().container(bundle);
    let path = c.bundle_path();
    let with_groups = |command: &Command| {
        let mut outer = Command::new("setpriv");
        outer.args(["--groups", "7,8,1000"]).arg(command.get_program()).args(command.get_args());
        outer
    };
    let expected = "0\nCapInh:\t0000000000000000";
    assert_eq!(run(with_groups(&c.command("run", &["--bundle", &path])), b"").ok(), expected);
    let c = Runtime::hiber().container(Bundle::busybox().args(["sleep", "1000"]));
    c.run_detached().ok();
    let mut exec = c.command("exec", &["--cap", "CAP_NET_ADMIN"]);
    exec.args(["sh", "-c", "id -G; grep ^CapInh /proc/self/status"]);
    assert_eq!(run(with_groups(&exec), b"").ok(), expected);
    // A number is itself, and never root for want of a group (CVE-2026-30892).
    assert_eq!(c.exec_with(&["--user", "1"], &["sh", "-c", "id -u; id -g"]).ok(), "1\n0");
    // A name that is a number is no name (CVE-2016-3697).
    c.sh("echo '1000:x:0:0::/:/bin/sh' >>/etc/passwd");
    assert_eq!(c.exec_with(&["--user", "1000"], &["id", "-u"]).ok(), "1000");
}

#[test]
fn the_runtime_takes_no_stream_for_its_channel() {
    // As init it takes a descriptor that was passed to it: none of the streams, and none that is not there.
    for number in ["0", "1", "2", "99", "-1", "x"] {
        let mut init = Runtime::hiber().bare_command();
        init.args(["init", number]);
        let output = run(init, b"");
        assert!(output.status.code() == Some(3) && output.stderr.contains("'init'"), "{number}: {output}");
    }
}

#[test]
fn no_secret_is_logged() {
    require!(Root);
    let secret = "hunter2-in-the-environment";
    let bundle = |program: &str| {
        let hook = json!([{"path": "/bin/false", "env": [format!("HOOK={secret}")]}]);
        let bundle = Bundle::busybox().args([program]).edit(|c| {
            hiber_tests::bundle::push(&mut c["process"]["env"], json!(format!("PASSWORD={secret}")));
        });
        (bundle, hook)
    };
    let check = |bundle: Bundle| {
        let c = Runtime::hiber().container(bundle);
        let mut command = c.runtime().command();
        command.args(["--debug", "run", "--bundle", &c.bundle_path(), c.id()]);
        let output = run(command, b"");
        assert!(output.stderr.contains("level=debug"), "{output}");
        assert!(!output.stderr.contains(secret), "{output}");
    };
    check(bundle("true").0);
    check(bundle("no-such-program").0);
    let (failing, hook) = bundle("true");
    check(failing.edit(|c| c["hooks"] = json!({"createRuntime": hook})));
}

/// Has a container look at all processes in it while others join, and returns what it saw.
fn watched(script: &str, capabilities: &[&str]) -> (Container, String) {
    let script = format!("while :; do {script}; done >/seen 2>/dev/null");
    let bundle = Bundle::busybox().shell(&script).edit(|c| give_capabilities(c, capabilities));
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    for _ in 0..10 {
        c.exec(&["true"]).ok();
    }
    c.kill("KILL").ok();
    let seen = fs::read_to_string(c.bundle().rootfs().join("seen")).unwrap();
    (c, seen)
}

#[test]
fn a_joining_process_shows_nothing_of_the_host() {
    require!(Root);
    // Looks at every process from before it has become the container's (CVE-2016-9962).
    let (c, seen) = watched("ls -l /proc/[0-9]*/ /proc/[0-9]*/fd/ | grep -o ' -> .*'", &["CAP_KILL"]);
    let host = c.runtime().root().display().to_string();
    assert!(seen.contains("/bin/busybox"), "{seen}");
    let foreign: Vec<_> = seen.lines().filter(|l| l.contains("hiber") || l.contains(&host)).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[test]
fn a_joining_process_has_no_directory_of_the_host() {
    require!(Root);
    // Sees as much of it as whoever may trace it.
    let script = "for f in /proc/[0-9]*/fd/*; do [ -d $f ] && readlink $f; done; echo looked";
    let (_, seen) = watched(script, &["CAP_SYS_PTRACE"]);
    assert!(seen.contains("looked"), "{seen}");
    let directories: Vec<_> = seen.lines().filter(|line| *line != "looked").collect();
    assert!(directories.is_empty(), "{directories:?}");
}
