//! Command lines that clients of runc send.

mod podman {
    use super::super::*;

    #[test]
    fn probes() {
        assert!(matches!(good("--version"), Action::Version));
        assert!(matches!(good("checkpoint --help"), Action::Help(Some(c)) if c.name == "checkpoint"));
        let probe = line("restore --lsm-mount-context").unwrap_err();
        assert_eq!(probe.message, "flag needs an argument: --lsm-mount-context");
        assert_eq!(probe.status, 1);
    }

    #[test]
    fn create() {
        let text = "--log-format=json --log /l create --bundle /b --pid-file /p --console-socket /s \
                    --preserve-fds 2 box";
        let invocation = line(text).unwrap();
        assert_eq!(invocation.cli.global.log_format(), LogFormat::Json);
        assert_eq!(invocation.cli.global.log, path("/l"));
        assert_eq!(matches(text).1.container().unwrap().as_str(), "box");
        assert_eq!(
            flags::<CreateFlags>(text),
            CreateFlags {
                pidfd_socket: None,
                bundle: path("/b"),
                console_socket: path("/s"),
                pid_file: path("/p"),
                no_pivot: false,
                no_new_keyring: false,
                preserve_fds: Some(2),
            }
        );
    }

    #[test]
    fn lifecycle() {
        for command in ["start", "state", "pause", "resume", "delete --force"] {
            let text = shown(&format!("{command} box"));
            assert!(text.contains("id: ContainerId(\"box\")"), "{text}");
        }
        assert!(shown("delete --force box").contains("force: true"));
        assert!(shown("kill box 9").contains("signal: 9"));
    }

    #[test]
    fn exec() {
        let exec = exec_of("exec --pid-file /p --process /f --detach --console-socket /s box");
        assert!(exec.flags.detach && exec.args.is_empty());
        let paths = [exec.flags.pid_file, exec.flags.process, exec.flags.console_socket];
        assert_eq!(paths, ["/p", "/f", "/s"].map(path));
    }

    #[test]
    fn checkpoint() {
        let args: CheckpointFlags = flags(
            "checkpoint --image-path /b/checkpoint --work-path /b --leave-running --leave-running \
             --tcp-established --file-locks box",
        );
        let contents = &args.criu.contents;
        assert_eq!((&args.criu.image_path, &contents.work_path), (&path("/b/checkpoint"), &path("/b")));
        assert_eq!((contents.tcp_established, contents.file_locks), (Some(true), Some(true)));
        assert!(args.leave_running);
        let first = "checkpoint --image-path /i --work-path /b --pre-dump box";
        assert!(flags::<CheckpointFlags>(first).pre_dump);
        let second = "checkpoint --image-path /i --work-path /b --parent-path ../pre-checkpoint box";
        assert_eq!(flags::<CheckpointFlags>(second).parent_path, path("../pre-checkpoint"));
    }

    #[test]
    fn restore() {
        let args: RestoreFlags = flags(
            "restore --bundle /b --pid-file /p --detach --image-path /i --work-path /b \
             --console-socket /s --tcp-established --tcp-close --file-locks box",
        );
        assert_eq!((args.bundle, args.pid_file, args.console_socket), (path("/b"), path("/p"), path("/s")));
        let Contents { tcp_established, file_locks, ext_unix_sk, .. } = args.criu.contents;
        assert!(args.detach && !args.no_subreaper);
        assert_eq!(
            [tcp_established, args.criu.tcp_close, file_locks, ext_unix_sk],
            [Some(true), Some(true), Some(true), None]
        );
    }
}

mod containerd_and_docker {
    use super::super::*;

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
            let global =
                line(&format!("{PREFIX} {text}")).unwrap_or_else(|e| panic!("{text}: {e}")).cli.global;
            assert_eq!(global.log_format(), LogFormat::Json);
            assert_eq!((global.root, global.log), (path("/run/r"), path("/b/log.json")));
        }
        assert_eq!(shown("features"), "Features");
    }

    #[test]
    fn their_values() {
        assert!(shown("ps --format json box").contains("format: Some(Json)"));
        let kill = shown("kill --all box 9");
        assert!(kill.contains("all: true") && kill.contains("signal: 9"), "{kill}");
        assert!(flags::<RestoreFlags>("restore -no-subreaper --bundle /b box").no_subreaper);
    }
}
