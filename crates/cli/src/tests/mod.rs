//! Command lines, as clients and people write them.

mod clients;
mod documents;
mod every_flag;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use hiber::{Address, CgroupMode, NetworkLock, PreCopy, PreCopyMode};

use crate::commands::COMMANDS;
use crate::commands::checkpoint::CheckpointFlags;
use crate::commands::checkpoints::{self, Named};
use crate::commands::create::CreateFlags;
use crate::commands::exec::{Exec, GroupId, UserIds};
use crate::commands::restore::{LsmProfile, RestoreFlags};
use crate::commands::run::RunFlags;
use crate::documents::help;
use crate::flags::criu::{Contents, names};
use crate::line::command::Cli;
use crate::line::flag::Flags;
use crate::line::global::{Global, LogFormat, Rootless};
use crate::line::parse::{self, Action, Help, Invocation, UsageError};
use crate::line::scan::Matches;
use crate::line::shape::{HELP, shapes};
use crate::line::value::Format;

/// `hiber` and these words.
fn arguments<'a>(words: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = OsString> {
    ["/usr/bin/hiber"].into_iter().chain(words).map(OsString::from).collect::<Vec<_>>().into_iter()
}

/// Parses `hiber` and these words.
fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Invocation, UsageError> {
    parse::parse(arguments(words), COMMANDS)
}

fn line(line: &str) -> Result<Invocation, UsageError> {
    words(line.split_whitespace())
}

/// The request of a line that is right.
fn good(text: &str) -> Action {
    line(text).unwrap_or_else(|e| panic!("{text}: {e}")).action
}

/// The command of a line that is right, as text.
fn shown(text: &str) -> String {
    match good(text) {
        Action::Run(_, command) => format!("{command:?}"),
        other => panic!("{text}: {other:?}"),
    }
}

/// The arguments of a line that is right, and what stands before them.
fn matches(text: &str) -> (Cli, Matches) {
    good(text);
    parse::matches(arguments(text.split_whitespace()), COMMANDS)
}

/// The flags of a line that is right.
fn flags<T: Flags>(text: &str) -> T {
    T::read(&matches(text).1).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// The message of a line that is wrong.
fn bad(text: &str) -> String {
    match line(text) {
        Err(e) => e.message,
        Ok(ok) => panic!("{text}: {ok:?}"),
    }
}

fn path(path: &str) -> Option<PathBuf> {
    Some(path.into())
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
        let args: RunFlags = flags(text);
        assert!(args.detach && !args.keep, "{text}");
        assert_eq!((args.create.bundle, args.create.preserve_fds), (path("/b"), Some(3)), "{text}");
        assert_eq!(matches(text).1.container().unwrap().as_str(), "box");
    }
    assert!(shown("start -- -box").contains("id: ContainerId(\"-box\")"));
    assert!(shown("list -q -f json").contains("format: Some(Json), quiet: true"));
}

#[test]
fn what_follows_the_id_of_exec_is_the_command() {
    let exec = exec_of("exec -t -e A=1 --env B=2,3 --cap CAP_KILL box sh -c x --tty -- -d --help");
    assert_eq!(exec.args, ["sh", "-c", "x", "--tty", "--", "-d", "--help"]);
    assert!(exec.flags.tty && !exec.flags.detach);
    assert_eq!(
        (exec.flags.env, exec.flags.cap),
        (vec!["A=1".into(), "B=2,3".into()], vec!["CAP_KILL".into()])
    );
    assert_eq!(exec_of("exec box -- ls -l").args, ["ls", "-l"]);
    assert_eq!(exec_of("exec -- box ls -l").args, ["ls", "-l"]);
    assert!(shown("ps box -e -x").contains("options: [\"-e\", \"-x\"]"));
}

#[test]
fn exec_overrides() {
    let args =
        exec_of("exec -u 1000:100 -g 5 -g 6 --cwd /tmp --no-new-privs=false --ignore-paused box id").flags;
    assert_eq!(args.user, Some(UserIds(1000, Some(100))));
    assert_eq!((args.additional_gids, args.cwd), (vec![GroupId(5), GroupId(6)], path("/tmp")));
    assert_eq!((args.no_new_privs, args.ignore_paused), (Some(false), true));
    let args = exec_of("exec --user 7 box id").flags;
    assert_eq!((args.user, args.no_new_privs), (Some(UserIds(7, None)), None));
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
    assert!(parse::parse(odd, COMMANDS).unwrap_err().message.contains("not valid UTF-8"));
}

#[test]
fn paths_need_not_be_utf8() {
    let odd = OsString::from_vec(b"/b\xff".to_vec());
    let args =
        ["hiber", "create", "--bundle"].map(OsString::from).into_iter().chain([odd.clone(), "box".into()]);
    let args = CreateFlags::read(&parse::matches(args, COMMANDS).1).unwrap();
    assert_eq!(args.bundle, Some(odd.into()));
}

#[test]
fn signals() {
    let is = |name: &str, number: i32| {
        let kill = shown(&format!("kill box {name}"));
        assert!(kill.contains(&format!("signal: {number},")), "{name}: {kill}");
    };
    is("", 15);
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
        is(name, number);
    }
    for wrong in ["FOO", "SIG", "65", "-9", "RTMIN+31", "RTMAX-65", "9x"] {
        assert_eq!(bad(&format!("kill box {wrong}")), format!("unknown signal {wrong:?}"));
    }
}

#[test]
fn checkpoint_values() {
    let args: CheckpointFlags = flags(
        "checkpoint --lazy-pages --status-fd 5 --page-server [::1]:27 --page-server-any-peer --manage-cgroups-mode strict \
         --network-lock nftables --empty-ns network --tcp-skip-in-flight --link-remap --auto-dedup \
         --ext-unix-sk --shell-job --tcp-close box",
    );
    assert_eq!(args.status_fd(), Some(5));
    assert_eq!(args.page_server, Some(Address { host: "::1".into(), port: 27 }));
    assert_eq!(args.criu.manage_cgroups_mode, Some(CgroupMode::Strict));
    assert_eq!(args.criu.network_lock, Some(NetworkLock::Nftables));
    assert!(args.any_peer && args.tcp_skip_in_flight && args.link_remap && !args.pre_dump);
    let criu = args.criu;
    assert!(criu.lazy_pages && criu.auto_dedup);
    assert_eq!([criu.contents.ext_unix_sk, criu.contents.shell_job], [Some(true); 2]);
    assert_eq!(criu.contents.empty_ns.len(), 1);
    assert_eq!((criu.tcp_close, criu.contents.tcp_established), (Some(true), None));
    assert_eq!(flags::<CheckpointFlags>("checkpoint --status-fd -1 box").status_fd(), None);
    let args: RestoreFlags = flags("restore --lsm-profile apparmor:p --lsm-mount-context c:d box");
    assert_eq!(args.lsm_profile, Some(LsmProfile("apparmor:p".into())));
    assert_eq!(args.lsm_mount_context.as_deref(), Some("c:d"));
}

#[test]
fn manifests_and_trust() {
    let args: CheckpointFlags = flags("checkpoint --no-hash --no-sync --tcp-established=false box");
    assert!(args.no_hash && args.no_sync);
    assert_eq!(args.criu.contents.tcp_established, Some(false), "off is another choice than none");
    let args: CheckpointFlags = flags("checkpoint --pre-copy on --max-frozen 1s --max-rounds 3 box");
    let span = std::time::Duration::from_secs(1);
    assert_eq!(
        args.pre_copy.options(),
        PreCopy::default().mode(PreCopyMode::On).max_frozen(span).max_rounds(3)
    );
    assert!(flags::<RestoreFlags>("restore --trust-images box").from.trust_images);
    assert!(flags::<CheckpointFlags>("checkpoint --prove box").prove);
    assert!(flags::<RestoreFlags>("restore --prove box").prove);
    let args: CheckpointFlags = flags("checkpoint --accept a,b --accept=c box");
    assert_eq!(names(&args.accept), ["a", "b", "c"]);
    for other in ["--detach", "--lazy-pages", "--pid-file f", "--console-socket s", "--check"] {
        let flag = other.split(' ').next().unwrap_or_default();
        assert!(
            bad(&format!("restore --prove {other} box"))
                .contains(&format!("--prove and {flag} exclude each other"))
        );
    }
    let inspect = shown("inspect --format json --verify /ckpt/export.tar.zst");
    let parts = ["path: \"/ckpt/export.tar.zst\"", "format: Some(Json)", "verify: true"];
    assert!(parts.iter().all(|part| inspect.contains(part)), "{inspect}");
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
    ] {
        let e = line(&format!("checkpoint {flags} box")).unwrap_err();
        assert!(e.message.contains(part), "{flags}: {}", e.message);
        assert!(matches!(e.help, Help::No) && e.status == 1, "{flags}");
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
        (
            "state --root=/r box",
            "flag provided but not defined: -root; give the global option --root before the command",
        ),
        ("create --bundle", "flag needs an argument: --bundle"),
        ("run --detach=maybe box", "invalid boolean value \"maybe\" for -detach: expected true or false"),
        ("run --preserve-fds x box", "invalid value \"x\" for flag -preserve-fds: expected a number"),
        ("run --preserve-fds -1 box", "invalid value \"-1\" for flag -preserve-fds: expected a number"),
    ] {
        let e = line(text).unwrap_err();
        assert_eq!((e.message.as_str(), e.status), (message, 1));
        assert!(!matches!(e.help, Help::No), "{text}");
    }
}

#[test]
fn wrong_values() {
    for (text, part) in [
        ("state a/b", "invalid container ID format"),
        ("delete --force ..", "invalid container ID format"),
        ("list -f yaml", "invalid format option \"yaml\": expected table or json"),
        ("--log-format xml list", "invalid log-format \"xml\""),
        ("--rootless maybe list", "expected true, false or auto"),
    ] {
        let e = line(text).unwrap_err();
        assert!(e.message.contains(part), "{}", e.message);
        assert!(matches!(e.help, Help::No) && e.status == 1);
    }
    assert_eq!(words(["state", ""]).unwrap_err().message, "container id cannot be empty");
}

#[test]
fn unknown_commands() {
    for text in ["foo", "foo -h", "--debug foo", "help foo", "init"] {
        let e = line(text).unwrap_err();
        assert!(e.message.starts_with("No help topic for '"), "{}", e.message);
        assert!(matches!(e.help, Help::No) && e.status == 3);
    }
}

#[test]
fn global_flags() {
    let text = "--root s --debug --systemd-cgroup --rootless=TRUE --criu /c --log-format text list";
    let Cli { program, global, .. } = line(text).unwrap().cli;
    assert_eq!(program, "hiber");
    assert_eq!((&global.root, &global.criu), (&path("s"), &path("/c")));
    assert!(global.debug && global.systemd_cgroup);
    assert_eq!((global.rootless(), &global.log, global.log_format()), (Some(true), &None, LogFormat::Text));
    let global = line("--rootless auto --log-format= list").unwrap().cli.global;
    assert_eq!((global.rootless(), global.root, global.debug), (None, None, false));
    assert_eq!(global.rootless, Some(Ok(Rootless::Auto)));
    assert_eq!(words(["--root", "", "list"]).unwrap().cli.global.root, path(""), "not the default");
}

#[test]
fn an_error_knows_where_to_be_logged() {
    for text in [
        "--log /l --log-format json create",
        "--log /l --log-format json --nope",
        "--log /l --log-format json foo",
    ] {
        let global = line(text).unwrap_err().cli.global;
        assert_eq!(
            (global.log.as_deref(), global.log_format()),
            (Some(Path::new("/l")), LogFormat::Json),
            "{text}"
        );
    }
}

#[test]
fn every_way_to_ask_for_help() {
    for text in ["", "-h", "--help", "help", "h", "--debug --help", "-help foo"] {
        assert!(matches!(good(text), Action::Help(None)), "{text}");
    }
    for command in COMMANDS {
        for text in ["NAME -h", "NAME --help", "help NAME", "NAME --help a b c", "h NAME"] {
            let text = text.replace("NAME", command.name);
            assert!(matches!(good(&text), Action::Help(Some(c)) if c.name == command.name), "{text}");
        }
    }
    assert!(matches!(good("create box --help"), Action::Help(Some(_))));
    assert!(matches!(good("-v"), Action::Version));
}

#[test]
fn help_shows_every_flag_and_command() {
    let cli = line("list").unwrap().cli;
    let program = help::render(&cli, None);
    assert!(program.starts_with("NAME:\n   hiber - Open Container Initiative runtime"), "{program}");
    assert!(
        COMMANDS.iter().all(|c| program.contains(&format!("\n   {:<11}  {}", c.name, c.summary))),
        "{program}"
    );
    let unwrapped = program.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shapes(Global::TABLE).all(|f| unwrapped.contains(f.help)), "{program}");
    // A manual page on a terminal that knows no more has nothing for other letters.
    let tables = COMMANDS.iter().map(|command| command.flags).chain([Global::TABLE]);
    assert_eq!(tables.flat_map(shapes).find(|flag| !flag.help.is_ascii()).map(|flag| flag.help), None);
    assert!(program.lines().all(|line| line.chars().count() <= 103), "{program}");
    for command in COMMANDS {
        let text = help::render(&cli, Some(command));
        assert!(text.starts_with(&format!("NAME:\n   hiber {} - ", command.name)), "{text}");
        for flag in shapes(command.flags) {
            assert_eq!(text.contains(&format!("   --{}", flag.name)), !flag.hidden, "{text}");
        }
    }
    let create = COMMANDS.iter().find(|c| c.name == "create").unwrap();
    let text = help::render(&cli, Some(create));
    assert!(text.contains("USAGE:\n   hiber create [options] <container-id>\n"), "{text}");
    assert!(text.contains("   --bundle DIR, -b DIR "), "{text}");
}

/// `exec` of a line that is right.
fn exec_of(text: &str) -> Exec {
    Exec::read(&matches(text).1).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn migrations() {
    let given = shown("migrate --tcp-established --id other --bundle /b box ssh://me@host:22");
    for part in [
        r#"Ssh { user: Some("me"), host: "host", port: Some(22) }"#,
        r#"ContainerId("other")"#,
        r#"Some("/b")"#,
    ] {
        assert!(given.contains(part), "{given}");
    }
    assert!(shown("migrate --resolve box").contains("destination: None"));
    for (line, why) in [
        ("migrate box", "a destination is missing"),
        ("migrate box host", "expected ssh://[USER@]HOST[:PORT], tls://HOST:PORT or exec:COMMAND"),
        ("migrate box ssh://host:0", "a port"),
        ("migrate --id a/b box exec:x", "invalid container ID format"),
        ("migrate --resolve --dry-run box", "--resolve and --dry-run exclude each other"),
        ("migrate --stall 0s box exec:x", "--stall 0: expected more than no time"),
        ("migrate box tls://host", "has no port"),
        ("receive --stall 0s --stdio", "--stall 0: expected more than no time"),
    ] {
        assert!(bad(line).contains(why), "{line}: {}", bad(line));
    }
}

#[test]
fn checkpoints_by_name() {
    use checkpoints::{Action, ListFlags, VerifyFlags};
    let named = |text: &str| Named::read(&matches(text).1).unwrap_or_else(|e| panic!("{text}: {e}"));
    let args = named("checkpoints create --leave-running --accept a --tcp-established box before-1");
    let Action::Create(name, flags) = &args.action else { panic!("{args:?}") };
    assert_eq!((name.as_str(), args.id.as_str()), ("before-1", "box"));
    assert!(flags.leave_running && !flags.prove && flags.contents.tcp_established == Some(true));
    assert_eq!(flags.pre_copy.options(), PreCopy::default());
    assert_eq!(names(&flags.accept), ["a"]);
    let args = named("checkpoints ls --checkpoint-dir /c --format json box");
    assert_eq!(
        args.action,
        Action::List(ListFlags {
            format: Some(Format::Json),
            stored: checkpoints::Stored { store: None, store_key: None }
        })
    );
    assert_eq!(args.place.dir, path("/c"));
    let name = || "c1".parse().unwrap();
    let all = named("checkpoints verify --all --store /s --store-key /k box").action;
    let Action::Verify(names, VerifyFlags { all: true, stored, .. }, None) = all else { panic!() };
    assert!(names.is_empty() && stored.store.is_some() && stored.store_key.is_some());
    let Action::Verify(names, ..) = named("checkpoints verify box c1 c2 c3").action else { panic!() };
    assert_eq!(names.len(), 3);
    let proved = named("checkpoints verify --prove --file-locks box c1").action;
    let Action::Verify(_, VerifyFlags { prove: true, .. }, Some(contents)) = proved else { panic!() };
    assert_eq!(contents.file_locks, Some(true));
    for (verb, action) in [
        ("inspect", Action::Inspect(name())),
        ("rm", Action::Remove(name())),
        ("verify", {
            let stored = checkpoints::Stored { store: None, store_key: None };
            let flags = VerifyFlags { format: None, stored, prove: false, all: false };
            Action::Verify(vec![name()], flags, None)
        }),
    ] {
        let args = named(&format!("checkpoints {verb} --bundle /b box c1"));
        assert_eq!((args.action, args.place.bundle), (action, path("/b")));
    }
    let restore: RestoreFlags = self::flags("restore --checkpoint c1 --checkpoint-dir /c box");
    assert_eq!((restore.from.checkpoint.unwrap().as_str(), restore.from.checkpoint_dir), ("c1", path("/c")));
}

#[test]
fn all_containers() {
    let refused = |line: &str| words(line.split(' ')).err().unwrap_or_else(|| panic!("{line}")).message;
    for line in ["suspend --all --force --dir /d", "resume --all --dir /d", "resume box"] {
        assert!(words(line.split(' ')).is_ok(), "{line}");
    }
    for (line, why) in [
        ("suspend", "expected --all"),
        ("suspend --all box", "requires"),
        ("suspend --all --store-key /k", "--store-key needs --store"),
        ("resume", "requires exactly 1 argument(s)"),
        ("resume --all box", "takes a container's id or --all, and both are given"),
        ("resume --dir /d box", "--dir needs --all"),
        ("resume --file-locks box", "--file-locks has no effect here"),
    ] {
        let message = refused(line);
        assert!(message.contains(why), "{line}: {message}");
    }
}

#[test]
fn mistakes_about_checkpoints_by_name() {
    for (line, why) in [
        ("checkpoints create box", "checkpoints create: the name is missing"),
        ("checkpoints ls box c1", "takes a container's id and nothing else"),
        ("checkpoints make box c1", "expected create, ls, inspect, verify, rm, export or import"),
        ("checkpoints export box c1", "checkpoints export: the archive's file is missing"),
        ("checkpoints verify box", "checkpoints verify: the name is missing, or --all"),
        ("checkpoints verify --all box c1", "takes names or --all, and both are given"),
        ("checkpoints verify --store /s --prove box c1", "--store and --prove exclude each other"),
        ("checkpoints ls --store /s --bundle /b box", "--store and --bundle exclude each other"),
        ("checkpoints ls --store-key /k box", "--store-key needs --store"),
        ("checkpoints create --all box c1", "--all has no effect here"),
        ("checkpoints export box c1 x y", "checkpoints export: takes one file, and \"y\" is given"),
        ("checkpoints rm box c1 x", "checkpoints rm: takes no file, and \"x\" is given"),
        ("checkpoints import --compress lz4 box c1 x", "--compress has no effect here"),
        (
            "checkpoints export --compress zstd:20 box c1 x",
            "invalid --compress zstd:20: expected a level from 1 to 19",
        ),
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
    assert_eq!(matches("checkpoint checkpoints").1.container().unwrap().as_str(), "checkpoints");
}

#[test]
fn a_mistyped_flag_is_guessed() {
    for (typed, meant) in [
        ("run --detch box", "--detach"),
        ("run -bundel web box", "--bundle"),
        ("run --preserve-fd=2 box", "--preserve-fds"),
        ("checkpoint --image-paht x box", "--image-path"),
        ("--rot /x list", "--root"),
    ] {
        assert!(bad(typed).ends_with(&format!("; did you mean {meant}?")), "{typed}: {}", bad(typed));
    }
    for typed in ["run --foo box", "create -it box", "list --x", "state --detach box"] {
        assert!(!bad(typed).contains("did you mean"), "{typed}");
    }
}

#[test]
fn a_mistyped_command_is_guessed() {
    for (typed, meant) in [
        ("chekpoint", "checkpoint"),
        ("checkpiont", "checkpoint"),
        ("checkponts", "checkpoints"),
        ("retsore", "restore"),
        ("resum", "resume"),
        ("lst", "list"),
        ("delte", "delete"),
        ("exce", "exec"),
    ] {
        assert!(bad(typed).ends_with(&format!("; did you mean {meant}?")), "{typed}");
    }
    for typed in ["foo", "init", "x", "docker", "container"] {
        assert!(!bad(typed).contains("did you mean"), "{typed}");
    }
    for long in ["x".repeat(10_000), "é".repeat(7)] {
        assert!(!bad(&long).contains("did you mean"));
    }
}

#[test]
fn no_table_has_a_name_twice() {
    for command in COMMANDS {
        let mut names: Vec<_> = shapes(command.flags)
            .chain(shapes(HELP))
            .flat_map(|f| [Some(f.name), f.short])
            .flatten()
            .collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
    }
    assert!(COMMANDS.is_sorted_by_key(|c| c.name), "help lists commands in this order");
}
