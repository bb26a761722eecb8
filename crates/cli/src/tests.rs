//! Command lines, as clients and people write them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use hiber::{PreCopy, PreCopyMode, Runtime, Start, Stdio};
use oci_spec::runtime::Spec;

use super::args::*;
use super::commands::{Session, exec_options};
use super::exec_process;
use super::help;
use super::parse::{Help, UsageError, parse};
use super::table::{self, COMMANDS, Count, Flag, Takes};

/// Parses `hiber` and these words.
fn words<'a>(line: impl IntoIterator<Item = &'a str>) -> Result<Invocation, UsageError> {
    parse(["/usr/bin/hiber"].into_iter().chain(line).map(OsString::from))
}

fn line(line: &str) -> Result<Invocation, UsageError> {
    words(line.split_whitespace())
}

/// The command of a line that is right.
fn good(text: &str) -> Command {
    line(text).unwrap_or_else(|e| panic!("{text}: {e}")).command
}

/// The message of a line that is wrong.
fn bad(text: &str) -> String {
    match line(text) {
        Err(e) => e.message,
        Ok(ok) => panic!("{text}: {ok:?}"),
    }
}

macro_rules! arguments {
    ($line:expr, $variant:ident) => {
        match good($line) {
            Command::$variant(args) => args,
            other => panic!("{}: {other:?}", $line),
        }
    };
}

fn path(path: &str) -> Option<PathBuf> {
    Some(path.into())
}

mod podman {
    use super::*;

    #[test]
    fn probes() {
        assert!(matches!(good("--version"), Command::Version));
        assert!(matches!(good("checkpoint --help"), Command::Help(Some(c)) if c.name == "checkpoint"));
        let probe = line("restore --lsm-mount-context").unwrap_err();
        assert_eq!(probe.message, "flag needs an argument: --lsm-mount-context");
        assert_eq!(probe.status, 1);
    }

    #[test]
    fn create() {
        let text = "--log-format=json --log /l create --bundle /b --pid-file /p --console-socket /s \
                    --preserve-fds 2 box";
        let invocation = line(text).unwrap();
        assert_eq!(invocation.global.log_format, LogFormat::Json);
        assert_eq!(invocation.global.log, path("/l"));
        let args = arguments!(text, Create);
        assert_eq!(
            args,
            CreateArgs {
                pidfd_socket: None,
                id: "box".parse().unwrap(),
                bundle: path("/b"),
                console_socket: path("/s"),
                pid_file: path("/p"),
                no_pivot: false,
                no_new_keyring: false,
                preserve_fds: 2,
            }
        );
    }

    #[test]
    fn lifecycle() {
        assert!(matches!(good("start box"), Command::Start { id } if id.as_str() == "box"));
        assert!(matches!(good("state box"), Command::State { id } if id.as_str() == "box"));
        assert!(matches!(good("pause box"), Command::Pause { id } if id.as_str() == "box"));
        assert!(matches!(good("resume box"), Command::Resume { id } if id.as_str() == "box"));
        assert!(
            matches!(good("delete --force box"), Command::Delete { id, force: true } if id.as_str() == "box")
        );
        assert_eq!(arguments!("kill box 9", Kill).signal, 9);
    }

    #[test]
    fn exec() {
        let args = arguments!("exec --pid-file /p --process /f --detach --console-socket /s box", Exec);
        assert_eq!((args.pid_file, args.process, args.console_socket), (path("/p"), path("/f"), path("/s")));
        assert!(args.detach && args.args.is_empty());
    }

    #[test]
    fn checkpoint() {
        let args = arguments!(
            "checkpoint --image-path /b/checkpoint --work-path /b --leave-running --leave-running \
             --tcp-established --file-locks box",
            Checkpoint
        );
        assert_eq!((args.criu.image_path, args.criu.work_path), (path("/b/checkpoint"), path("/b")));
        assert!(
            args.leave_running
                && args.criu.tcp_established == Some(true)
                && args.criu.file_locks == Some(true)
        );
        assert!(arguments!("checkpoint --image-path /i --work-path /b --pre-dump box", Checkpoint).pre_dump);
        let second = "checkpoint --image-path /i --work-path /b --parent-path ../pre-checkpoint box";
        assert_eq!(arguments!(second, Checkpoint).parent_path, path("../pre-checkpoint"));
    }

    #[test]
    fn restore() {
        let args = arguments!(
            "restore --bundle /b --pid-file /p --detach --image-path /i --work-path /b \
             --console-socket /s --tcp-established --tcp-close --file-locks box",
            Restore
        );
        assert_eq!((args.bundle, args.pid_file, args.console_socket), (path("/b"), path("/p"), path("/s")));
        let CriuFlags { tcp_established, tcp_close, file_locks, ext_unix_sk, .. } = &args.criu;
        assert!(args.detach);
        assert_eq!(
            [tcp_established, tcp_close, file_locks, ext_unix_sk],
            [&Some(true), &Some(true), &Some(true), &None]
        );
        assert!(!args.no_subreaper);
    }
}

mod containerd_and_docker {
    use super::*;

    const PREFIX: &str = "--root /run/r --log /b/log.json --log-format json";

    #[test]
    fn every_command_line_that_they_send() {
        for text in [
            "create --bundle /b --pid-file /b/init.pid --console-socket /s box",
            "start box",
            "delete box",
            "delete --force box",
            "kill box 15",
            "kill --all box 9",
            "ps --format json box",
            "exec --process /f --console-socket /s --detach --pid-file /p box",
            "pause box",
            "checkpoint --image-path /d --work-path /w --file-locks --leave-running box",
            "resume box",
            "restore --image-path /d --work-path /w --detach --pid-file /p --console-socket /s \
             -no-subreaper --bundle /b box",
        ] {
            let global = line(&format!("{PREFIX} {text}")).unwrap_or_else(|e| panic!("{text}: {e}")).global;
            assert_eq!((global.root, global.log), (path("/run/r"), path("/b/log.json")));
            assert_eq!(global.log_format, LogFormat::Json);
        }
        assert!(matches!(good("features"), Command::Features));
    }

    #[test]
    fn their_values() {
        assert_eq!(arguments!("ps --format json box", Ps).format, Format::Json);
        let kill = arguments!("kill --all box 9", Kill);
        assert!(kill.all && kill.signal == 9);
        assert!(arguments!("restore -no-subreaper --bundle /b box", Restore).no_subreaper);
    }
}

#[test]
fn flags_in_every_spelling() {
    for text in [
        "run -d --bundle /b --preserve-fds 3 box",
        "run box -d --bundle /b --preserve-fds 3",
        "run --detach=true -b /b -preserve-fds=3 box",
        "run --detach --detach=false -detach=T box --bundle /a --bundle=/b -preserve-fds 3",
        "run -d --bundle /b --preserve-fds 3 -- box",
    ] {
        let args = arguments!(text, Run);
        assert!(args.detach && !args.keep, "{text}");
        assert_eq!((args.create.bundle, args.create.preserve_fds), (path("/b"), 3), "{text}");
        assert_eq!(args.create.id.as_str(), "box");
    }
    assert!(matches!(good("start -- -box"), Command::Start { id } if id.as_str() == "-box"));
    assert_eq!(arguments!("list -q -f json", List), ListArgs { format: Format::Json, quiet: true });
}

#[test]
fn what_follows_the_id_of_exec_is_the_command() {
    let args = arguments!("exec -t -e A=1 --env B=2,3 --cap CAP_KILL box sh -c x --tty -- -d --help", Exec);
    assert_eq!(args.args, ["sh", "-c", "x", "--tty", "--", "-d", "--help"]);
    assert!(args.tty && !args.detach);
    assert_eq!((args.env, args.caps), (vec!["A=1".into(), "B=2,3".into()], vec!["CAP_KILL".into()]));
    assert_eq!(arguments!("exec box -- ls -l", Exec).args, ["ls", "-l"]);
    assert_eq!(arguments!("exec -- box ls -l", Exec).args, ["ls", "-l"]);
    assert_eq!(arguments!("ps box -e -x", Ps).args, ["-e", "-x"]);
}

#[test]
fn exec_overrides() {
    let args =
        arguments!("exec -u 1000:100 -g 5 -g 6 --cwd /tmp --no-new-privs=false --ignore-paused box id", Exec);
    assert_eq!(args.user, Some((1000, Some(100))));
    assert_eq!((args.additional_gids, args.cwd), (vec![5, 6], path("/tmp")));
    assert_eq!((args.no_new_privs, args.ignore_paused), (Some(false), true));
    let args = arguments!("exec --user 7 box id", Exec);
    assert_eq!((args.user, args.no_new_privs), (Some((7, None)), None));
    assert_eq!(bad("exec -u me box id"), "exec failed: bad uid: \"me\" is no number from 0 to 4294967294");
    assert_eq!(bad("exec -u 1:-1 box id"), "exec failed: bad gid: \"-1\" is no number from 0 to 4294967294");
    for arguments in ["-u 4294967295", "-u 0:4294967295", "-g 4294967295"] {
        let error = bad(&format!("exec {arguments} box id"));
        assert!(error.ends_with(": \"4294967295\" is no number from 0 to 4294967294"), "{error}");
    }
    assert_eq!(bad("exec box"), "exec failed: exec args cannot be empty");
    assert_eq!(line("exec box").unwrap_err().status, 255);
    let odd = ["hiber", "exec", "box", "ls"]
        .map(OsString::from)
        .into_iter()
        .chain([OsString::from_vec(vec![0xff])]);
    assert!(parse(odd).unwrap_err().message.contains("not valid UTF-8"));
}

#[test]
fn paths_need_not_be_utf8() {
    let odd = OsString::from_vec(b"/b\xff".to_vec());
    let args =
        ["hiber", "create", "--bundle"].map(OsString::from).into_iter().chain([odd.clone(), "box".into()]);
    let Ok(Invocation { command: Command::Create(args), .. }) = parse(args) else { panic!() };
    assert_eq!(args.bundle, Some(odd.into()));
}

#[test]
fn signals() {
    let signal = |name: &str| arguments!(&format!("kill box {name}"), Kill).signal;
    assert_eq!(arguments!("kill box", Kill).signal, 15);
    for (name, number) in [
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigusr1", 10),
        ("0", 0),
        ("64", 64),
        ("CLD", 17),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
        ("rtmin", 34),
    ] {
        assert_eq!(signal(name), number, "{name}");
    }
    for wrong in ["FOO", "SIG", "65", "-9", "RTMIN+31", "RTMAX-65", "9x"] {
        assert_eq!(bad(&format!("kill box {wrong}")), format!("unknown signal {wrong:?}"));
    }
}

#[test]
fn checkpoint_values() {
    let args = arguments!(
        "checkpoint --lazy-pages --status-fd 5 --page-server [::1]:27 --page-server-any-peer --manage-cgroups-mode strict \
         --network-lock nftables --empty-ns network --tcp-skip-in-flight --link-remap --auto-dedup \
         --ext-unix-sk --shell-job --tcp-close box",
        Checkpoint
    );
    assert_eq!(args.status_fd, Some(5));
    assert_eq!(args.page_server, Some(PageServer { address: "::1".into(), port: 27 }));
    assert_eq!(args.criu.cgroups, Some(CgroupsMode::Strict));
    assert_eq!(args.criu.network_lock, Some(NetworkLock::Nftables));
    assert!(args.any_peer && args.tcp_skip_in_flight && args.link_remap && !args.pre_dump);
    let criu = args.criu;
    assert!(criu.lazy_pages && criu.auto_dedup);
    assert_eq!([criu.empty_network, criu.ext_unix_sk, criu.shell_job], [Some(true); 3]);
    assert_eq!((criu.tcp_close, criu.tcp_established), (Some(true), None));
    assert_eq!(arguments!("checkpoint --status-fd -1 box", Checkpoint).status_fd, None);
    let args = arguments!("restore --lsm-profile apparmor:p --lsm-mount-context c:d box", Restore);
    assert_eq!(
        (args.lsm_profile.as_deref(), args.lsm_mount_context.as_deref()),
        (Some("apparmor:p"), Some("c:d"))
    );
}

#[test]
fn manifests_and_trust() {
    let args = arguments!("checkpoint --no-hash --no-sync --tcp-established=false box", Checkpoint);
    assert!(args.no_hash && args.no_sync);
    assert_eq!(args.criu.tcp_established, Some(false), "off is another choice than none");
    let args = arguments!("checkpoint --pre-copy on --max-frozen 1s --max-rounds 3 box", Checkpoint);
    let span = std::time::Duration::from_secs(1);
    assert_eq!(args.pre_copy, PreCopy { mode: PreCopyMode::On, max_frozen: span, max_rounds: 3 });
    assert!(arguments!("restore --trust-images box", Restore).trust_images);
    assert!(arguments!("checkpoint --prove box", Checkpoint).prove);
    assert!(arguments!("restore --prove box", Restore).prove);
    let args = arguments!("checkpoint --accept a,b --accept=c box", Checkpoint);
    assert_eq!(args.accept, ["a", "b", "c"]);
    for other in ["--pre-dump", "--lazy-pages", "--page-server h:1"] {
        let flag = other.split(' ').next().unwrap_or_default();
        assert!(
            bad(&format!("checkpoint --prove {other} box"))
                .contains(&format!("--prove and {flag} exclude each other"))
        );
    }
    for other in ["--detach", "--lazy-pages", "--pid-file f", "--console-socket s", "--check"] {
        let flag = other.split(' ').next().unwrap_or_default();
        assert!(
            bad(&format!("restore --prove {other} box"))
                .contains(&format!("--prove and {flag} exclude each other"))
        );
    }
    let args = arguments!("inspect --format json --verify /ckpt/export.tar.zst", Inspect);
    assert_eq!((args.path.as_path(), args.format), (Path::new("/ckpt/export.tar.zst"), Format::Json));
    assert!(args.verify);
    assert!(bad("inspect").contains("exactly 1 argument"));
}

#[test]
fn checkpoint_values_that_cannot_be() {
    for (flags, part) in [
        ("--page-server localhost", "no port"),
        ("--page-server h:x", "no number from 1"),
        ("--page-server h:0", "no number from 1"),
        ("--page-server h:70000", "no number from 1"),
        ("--page-server ::1:27", "needs brackets"),
        ("--page-server :27", "no address"),
        ("--manage-cgroups-mode hard", "expected soft or full or strict or ignore"),
        ("--network-lock ipfw", "expected iptables or nftables or skip"),
        ("--pre-copy sometimes", "expected auto or on or off"),
        ("--max-rounds 0", "--max-rounds 0: expected 1 or more"),
        ("--empty-ns mount", "namespace \"mount\" is not supported"),
        ("--parent-path /abs", "--parent-path must be relative"),
        ("--pre-dump --lazy-pages", "exclude each other"),
        ("--status-fd 3", "needs --lazy-pages"),
    ] {
        let e = line(&format!("checkpoint {flags} box")).unwrap_err();
        assert!(e.message.contains(part), "{flags}: {}", e.message);
        assert_eq!((e.help, e.status), (Help::No, 1), "{flags}");
    }
    assert!(bad("restore --lsm-profile none box").contains("expected TYPE:NAME"));
}

#[test]
fn wrong_command_lines() {
    for (text, message) in [
        ("create", "hiber: \"create\" requires exactly 1 argument(s)"),
        ("state a b", "hiber: \"state\" requires exactly 1 argument(s)"),
        ("list a", "hiber: \"list\" requires exactly 0 argument(s)"),
        ("exec", "hiber: \"exec\" requires a minimum of 1 argument(s)"),
        ("kill a 9 b", "hiber: \"kill\" requires a maximum of 2 argument(s)"),
        ("create --foo box", "flag provided but not defined: -foo"),
        ("--foo create box", "flag provided but not defined: -foo"),
        ("create -it box", "flag provided but not defined: -it"),
        ("create --bundle", "flag needs an argument: --bundle"),
        ("run --detach=maybe box", "invalid boolean value \"maybe\" for -detach: expected true or false"),
        ("run --preserve-fds x box", "invalid value \"x\" for flag -preserve-fds: expected a number"),
        ("run --preserve-fds -1 box", "invalid value \"-1\" for flag -preserve-fds: expected a number"),
    ] {
        let e = line(text).unwrap_err();
        assert_eq!((e.message.as_str(), e.status), (message, 1));
        assert_ne!(e.help, Help::No, "{text}");
    }
}

#[test]
fn wrong_values() {
    for (text, part) in [
        ("state a/b", "invalid container ID format"),
        ("delete --force ..", "invalid container ID format"),
        ("list -f yaml", "invalid format option \"yaml\": expected table or json"),
        ("--log-format xml list", "invalid log-format: xml"),
        ("--rootless maybe list", "expected true, false or auto"),
    ] {
        let e = line(text).unwrap_err();
        assert!(e.message.contains(part), "{}", e.message);
        assert_eq!((e.help, e.status), (Help::No, 1));
    }
    assert_eq!(words(["state", ""]).unwrap_err().message, "container id cannot be empty");
}

#[test]
fn unknown_commands() {
    for text in ["foo", "foo -h", "--debug foo", "help foo", "init"] {
        let e = line(text).unwrap_err();
        assert!(e.message.starts_with("No help topic for '"), "{}", e.message);
        assert_eq!((e.help, e.status), (Help::No, 3));
    }
}

#[test]
fn global_flags() {
    let text = "--root s --debug --systemd-cgroup --rootless=TRUE --criu /c --log-format text list";
    let global = line(text).unwrap().global;
    assert_eq!(global.program, "hiber");
    assert_eq!((global.root, global.criu), (path("s"), path("/c")));
    assert!(global.debug && global.systemd_cgroup);
    assert_eq!((global.rootless, global.log, global.log_format), (Some(true), None, LogFormat::Text));
    let global = line("--rootless auto --log-format= list").unwrap().global;
    assert_eq!((global.rootless, global.root, global.debug), (None, None, false));
    assert_eq!(words(["--root", "", "list"]).unwrap().global.root, path(""), "not the default");
}

#[test]
fn an_error_knows_where_to_be_logged() {
    for text in [
        "--log /l --log-format json create",
        "--log /l --log-format json --nope",
        "--log /l --log-format json foo",
    ] {
        let global = line(text).unwrap_err().global;
        assert_eq!(
            (global.log.as_deref(), global.log_format),
            (Some(Path::new("/l")), LogFormat::Json),
            "{text}"
        );
    }
}

#[test]
fn every_way_to_ask_for_help() {
    for text in ["", "-h", "--help", "help", "h", "--debug --help", "-help foo"] {
        assert!(matches!(good(text), Command::Help(None)), "{text}");
    }
    for command in COMMANDS {
        for text in ["NAME -h", "NAME --help", "help NAME", "NAME --help a b c", "h NAME"] {
            let text = text.replace("NAME", command.name);
            assert!(matches!(good(&text), Command::Help(Some(c)) if c == command), "{text}");
        }
    }
    assert!(matches!(good("create box --help"), Command::Help(Some(_))));
    assert!(matches!(good("-v"), Command::Version));
}

#[test]
fn help_shows_every_flag_and_command() {
    let program = help::render("hiber", None);
    assert!(program.starts_with("NAME:\n   hiber - Open Container Initiative runtime"), "{program}");
    assert!(
        COMMANDS.iter().all(|c| program.contains(&format!("\n   {:<11}  {}", c.name, c.summary))),
        "{program}"
    );
    let unwrapped = program.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(table::GLOBAL.iter().all(|f| unwrapped.contains(f.help)), "{program}");
    assert!(program.lines().all(|line| line.chars().count() <= 103), "{program}");
    for command in COMMANDS {
        let text = help::render("runc", Some(command));
        assert!(text.starts_with(&format!("NAME:\n   runc {} - ", command.name)), "{text}");
        for flag in command.flags {
            assert_eq!(text.contains(&format!("   --{}", flag.name)), !flag.hidden, "{text}");
        }
    }
    let create = table::command("create").unwrap();
    let text = help::render("hiber", Some(create));
    assert!(text.contains("USAGE:\n   hiber create [options] <container-id>\n"), "{text}");
    assert!(text.contains("   --bundle DIR, -b DIR "), "{text}");
}

#[test]
fn checkpoints_by_name() {
    let args = arguments!(
        "checkpoints create --leave-running --accept a --tcp-established box before-1",
        Checkpoints
    );
    let CheckpointsAction::Create { name, leave_running: true, prove: false, accept, criu, pre_copy } =
        args.action
    else {
        panic!("{args:?}");
    };
    assert_eq!((name.as_str(), criu.tcp_established, args.id.as_str()), ("before-1", Some(true), "box"));
    assert_eq!(pre_copy, PreCopy::default());
    assert_eq!(accept, ["a"]);
    let args = arguments!("checkpoints ls --checkpoint-dir /c --format json box", Checkpoints);
    assert_eq!((args.action, args.dir), (CheckpointsAction::List { format: Format::Json }, path("/c")));
    for (verb, action) in [
        ("inspect", CheckpointsAction::Inspect("c1".parse().unwrap())),
        ("rm", CheckpointsAction::Remove("c1".parse().unwrap())),
        (
            "verify",
            CheckpointsAction::Verify { name: "c1".parse().unwrap(), format: Format::Table, prove: None },
        ),
        (
            "verify --prove",
            CheckpointsAction::Verify {
                name: "c1".parse().unwrap(),
                format: Format::Table,
                prove: Some(CriuFlags::default()),
            },
        ),
    ] {
        let args = arguments!(&format!("checkpoints {verb} --bundle /b box c1"), Checkpoints);
        assert_eq!((args.action, args.bundle), (action, path("/b")));
    }
    let restore = arguments!("restore --checkpoint c1 --checkpoint-dir /c box", Restore);
    assert_eq!((restore.checkpoint.unwrap().as_str(), restore.checkpoint_dir), ("c1", path("/c")));
    for (line, why) in [
        ("checkpoints create box", "checkpoints create: the name is missing"),
        ("checkpoints ls box c1", "takes a container's id and nothing else"),
        ("checkpoints make box c1", "expected create, ls, inspect, verify or rm"),
        ("checkpoints ls a/b", "invalid container ID format"),
        (
            "checkpoints create box c",
            "Invalid checkpoint ID (c), only [a-zA-Z0-9][a-zA-Z0-9_.-]+ are allowed",
        ),
        ("checkpoints create --empty-ns mount box c1", "expected network"),
        ("checkpoints ls --prove box", "--prove has no effect here"),
        ("checkpoints rm --format json box c1", "--format has no effect here"),
        ("checkpoints verify --tcp-established box c1", "--tcp-established has no effect here"),
        ("restore --checkpoint c1 --image-path /i box", "exclude each other"),
        ("restore --checkpoint-dir /c box", "--checkpoint-dir needs --checkpoint"),
    ] {
        let message = bad(line);
        assert!(message.contains(why), "{line}: {message}");
    }
    // The word is not in the way of runc's.
    assert_eq!(arguments!("checkpoint checkpoints", Checkpoint).id.as_str(), "checkpoints");
}

/// A value that is not the default.
fn sample(flag: &Flag) -> &'static str {
    if let Some(word) = flag.words.last() {
        return word;
    }
    match flag.takes {
        Takes::Nothing => "true",
        Takes::One(metavar) | Takes::Many(metavar) => match metavar {
            "N" | "GID" | "UID[:GID]" | "USEC" | "SHARES" | "WEIGHT" | "BYTES" | "COUNT" => "7",
            "TIME" => "3s",
            "FD" => "-1",
            "ADDRESS:PORT" => "h:1",
            "TYPE:NAME" => "a:b",
            "NAME" => "c1",
            _ => "x",
        },
    }
}

/// Whoever adds a flag to the table must give it a meaning, or this fails.
#[test]
fn every_flag_of_the_table_reaches_a_type() {
    let show = |line: &[&str]| format!("{:?}", words(line.iter().copied()).map_err(|e| e.message));
    for command in COMMANDS {
        for flag in command.flags {
            let arguments: &[&str] = match (command.name, command.count) {
                (_, Count::Exactly(0)) => &[],
                ("exec", _) => &["box", "sh"],
                ("checkpoints", _) if flag.name == "format" => &["ls", "box"],
                ("checkpoints", _) => &["create", "box", "c1"],
                ("completion", _) => &["bash"],
                _ => &["box"],
            };
            let value = sample(flag);
            // -1 means "none" to --status-fd; any other needs lazy pages
            let (value, more) = match (command.name, flag.name) {
                (_, "status-fd") => ("5", "--lazy-pages"),
                ("restore", "page-server") => (value, "--lazy-pages"),
                ("restore", "checkpoint-dir") => (value, "--checkpoint=c1"),
                ("checkpoint" | "restore", "format") => (value, "--check"),
                _ => (value, "--"),
            };
            let plain = show(&[&[command.name, more], arguments].concat());
            assert!(plain.starts_with("Ok"), "{plain}");
            for name in [Some(flag.name), flag.short].into_iter().flatten() {
                let given = format!("--{name}={value}");
                let with = show(&[&[command.name, &given, more], arguments].concat());
                assert!(with.starts_with("Ok") && with != plain, "{} {given}: {with}", command.name);
            }
        }
    }
}

/// What the library is told by a command line; none where the command has no options of the library's.
fn told(line: &[&str]) -> Option<String> {
    let Invocation { global, command } =
        words(line.iter().copied()).unwrap_or_else(|e| panic!("{line:?}: {e}"));
    let session = Session::new(Runtime::new(Path::new("/nowhere")), &global, 0);
    Some(match &command {
        Command::Create(args) => {
            format!("{:?}", session.create_options(args, Start::ByAnybody, Stdio::Inherit))
        }
        Command::Run(args) => {
            format!("{:?}", session.create_options(&args.create, Start::ByAnybody, Stdio::Inherit))
        }
        Command::Restore(args) => format!("{:?}", session.restore_options(args, Stdio::Inherit)),
        Command::Checkpoint(args) => format!("{:?}", session.checkpoint_options(args).unwrap()),
        Command::Exec(args) => {
            let mut process = exec_process::from_flags(&Spec::default(), args).unwrap();
            // Sets are shown in any order.
            let capabilities = process.capabilities().as_ref().and_then(|all| all.bounding().clone());
            let capabilities: BTreeSet<_> =
                capabilities.into_iter().flatten().map(|c| c.to_string()).collect();
            process.set_capabilities(None);
            format!("{:?} {process:?} {capabilities:?}", exec_options(args, Stdio::Inherit))
        }
        _ => return None,
    })
}

/// What the command does itself stands here; that it reads the flag at all, the compiler knows.
#[test]
fn every_other_flag_reaches_the_library() {
    let own = |command: &str, flag: &str| match flag {
        "help" | "console-socket" | "pidfd-socket" | "pid-file" | "detach" | "check" | "format" => true,
        "keep" | "no-subreaper" => ["run", "restore"].contains(&command),
        "no-pivot" | "checkpoint" | "checkpoint-dir" | "prove" => command == "restore",
        "process" | "tty" => command == "exec",
        _ => false,
    };
    for name in ["create", "run", "exec", "checkpoint", "restore"] {
        let command = table::command(name).unwrap();
        let arguments: &[&str] = if name == "exec" { &["box", "sh"] } else { &["box"] };
        for flag in command.flags.iter().filter(|flag| !own(name, flag.name)) {
            let value = sample(flag);
            let (value, more) = match flag.name {
                "status-fd" => ("1", "--lazy-pages"),
                "page-server" => (value, "--lazy-pages"),
                "cap" => ("CAP_CHOWN", "--"),
                "env" => ("A=b", "--"),
                // The configuration has it on.
                "no-new-privs" => ("false", "--"),
                _ => (value, "--"),
            };
            let given = format!("--{}={value}", flag.name);
            let plain = told(&[&[name, more], arguments].concat());
            assert_ne!(told(&[&[name, &given, more], arguments].concat()), plain, "{name} {given}");
        }
        for (global, commands) in [
            ("--rootless=true", &["create", "run", "restore"][..]),
            ("--systemd-cgroup", &["create", "run", "restore"]),
            ("--criu=/c", &["checkpoint", "restore"]),
        ] {
            let with = told(&[&[global, name], arguments].concat());
            let differs = with != told(&[&[name], arguments].concat());
            assert_eq!(differs, commands.contains(&name), "{global} {name}");
        }
    }
}

#[test]
fn the_values_that_shells_offer_are_taken() {
    let try_each = |table: &'static [Flag], line: &dyn Fn(String) -> Vec<String>| {
        for (flag, word) in table.iter().flat_map(|flag| flag.words.iter().map(move |word| (flag, word))) {
            let given = line(format!("--{}={word}", flag.name));
            words(given.iter().map(String::as_str)).unwrap_or_else(|e| panic!("{given:?}: {e}"));
        }
    };
    try_each(table::GLOBAL, &|flag| vec![flag, "list".into()]);
    for command in COMMANDS {
        let check = command.flags.iter().any(|f| f.name == "check");
        let line = |flag: String| {
            let first: &[&str] = match (command.name, command.count) {
                (_, Count::Exactly(0)) => &[],
                ("checkpoints", _) if flag.starts_with("--format") => &["ls", "box"],
                ("checkpoints", _) => &["create", "box", "c1"],
                _ if check => &["--check", "box"],
                _ => &["box"],
            };
            [command.name].iter().chain(first).map(|&w| w.to_owned()).chain([flag]).collect()
        };
        try_each(command.flags, &line);
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(matches!(good(&format!("completion {shell}")), Command::Completion(_)));
    }
}
