//! Conversations with a peer in a thread that plays CRIU, and with scripts that play a broken one.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use criu_proto::rpc::{CriuFeatures, CriuRestoreResp, CriuVersion};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;
use crate::locate::Criu;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// The other end of a session, in CRIU's role.
struct Peer(OwnedFd);

impl Peer {
    /// Runs `role` in a thread.
    fn play(role: impl FnOnce(&Self) + Send + 'static) -> (Session, JoinHandle<()>) {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (Session::from_socket(ours), thread::spawn(move || role(&Self(theirs))))
    }

    fn request(&self) -> CriuReq {
        CriuReq::parse_from_bytes(&packet::receive(&self.0).unwrap().unwrap().bytes).unwrap()
    }

    fn respond(&self, response: &CriuResp) {
        packet::send(&self.0, &response.write_to_bytes().unwrap()).unwrap();
    }

    /// Sends a notification and returns the answer.
    fn notify(&self, step: &str, pid: Option<i32>) -> CriuReq {
        self.respond(&notification(step, pid));
        let answer = self.request();
        assert_eq!(answer.type_, Some(CriuReqType::NOTIFY.into()));
        answer
    }
}

fn response(kind: CriuReqType, success: bool) -> CriuResp {
    CriuResp { type_: Some(kind.into()), success: Some(success), ..Default::default() }
}

fn notification(step: &str, pid: Option<i32>) -> CriuResp {
    let notify = CriuNotify { script: Some(step.into()), pid, ..Default::default() };
    CriuResp { notify: MessageField::some(notify), ..response(CriuReqType::NOTIFY, true) }
}

fn restored(pid: i32) -> CriuResp {
    let restore = CriuRestoreResp { pid: Some(pid), ..Default::default() };
    CriuResp { restore: MessageField::some(restore), ..response(CriuReqType::RESTORE, true) }
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

#[test]
fn one_session_takes_questions_and_then_a_dump() {
    let (mut session, peer) = Peer::play(|peer| {
        let request = peer.request();
        assert_eq!((request.type_, request.keep_open), (Some(CriuReqType::VERSION.into()), Some(true)));
        let version = CriuVersion { major_number: Some(4), minor_number: Some(2), ..Default::default() };
        peer.respond(&CriuResp { version: Some(version).into(), ..response(CriuReqType::VERSION, true) });

        let request = peer.request();
        assert_eq!((request.type_, request.keep_open), (Some(CriuReqType::FEATURE_CHECK.into()), Some(true)));
        assert_eq!(request.features.mem_track, Some(true));
        let features = CriuFeatures { lazy_pages: Some(true), ..Default::default() };
        peer.respond(&CriuResp {
            features: Some(features).into(),
            ..response(CriuReqType::FEATURE_CHECK, true)
        });

        let request = peer.request();
        assert_eq!((request.type_, request.keep_open), (Some(CriuReqType::DUMP.into()), None));
        assert_eq!((request.opts.pid, request.opts.notify_scripts), (Some(42), Some(true)));
        for step in ["pre-dump", "network-lock", "some-step-of-tomorrow", "post-dump", "network-unlock"] {
            assert_eq!(peer.notify(step, None).notify_success, Some(true), "{step}");
        }
        peer.respond(&response(CriuReqType::DUMP, true));
    });
    assert_eq!(session.version().unwrap(), Version::new(4, 2, 0));
    assert_eq!(session.version().unwrap(), Version::new(4, 2, 0), "asked once");
    assert_eq!(session.features().unwrap(), Features { lazy_pages: true, ..Default::default() });
    let mut steps = Vec::new();
    session
        .dump(&DumpOptions::new(42, null()), |step| {
            steps.push(format!("{step:?}"));
            Ok(())
        })
        .unwrap();
    assert_eq!(steps, ["PreDump", "NetworkLock", "PostDump", "NetworkUnlock"]);
    peer.join().unwrap();
}

#[test]
fn a_handler_can_name_external_files() {
    let (session, peer) = Peer::play(|peer| {
        peer.request();
        let answer = peer.notify("query-ext-files", None);
        assert_eq!(answer.opts.external, ["file[1:2]"]);
        assert!(peer.notify("status-ready", None).opts.is_none());
        peer.respond(&response(CriuReqType::DUMP, true));
    });
    let options = DumpOptions::new(42, null());
    session
        .dump(&options, |step| {
            if let DumpNotify::QueryExtFiles(external) = step {
                external.push("file[1:2]".into());
            }
            Ok(())
        })
        .unwrap();
    peer.join().unwrap();
}

#[test]
fn a_restore_hands_over_pids_and_a_terminal() {
    let (session, peer) = Peer::play(|peer| {
        let request = peer.request();
        assert_eq!(request.type_, Some(CriuReqType::RESTORE.into()));
        peer.notify("pre-restore", None);
        peer.notify("setup-namespaces", Some(77));
        peer.notify("post-setup-namespaces", None);
        let (mut reader, writer) = std::io::pipe().unwrap();
        let bytes = notification("orphan-pts-master", None).write_to_bytes().unwrap();
        let fds = [writer.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&peer.0, &[std::io::IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
        drop(writer);
        assert_eq!(peer.request().notify_success, Some(true));
        let mut written = String::new();
        reader.read_to_string(&mut written).unwrap();
        assert_eq!(written, "master");
        for step in ["post-restore", "network-unlock", "pre-resume", "post-resume"] {
            assert_eq!(peer.notify(step, Some(77)).notify_success, Some(true));
        }
        peer.respond(&restored(77));
    });
    let mut steps = Vec::new();
    let pid = session
        .restore(&RestoreOptions::new(null()), |step| {
            steps.push(match step {
                RestoreNotify::SetupNamespaces { pid } => format!("namespaces {pid}"),
                RestoreNotify::PostRestore { pid } => format!("restored {pid}"),
                RestoreNotify::OrphanPtsMaster(fd) => {
                    File::from(fd).write_all(b"master").unwrap();
                    "master".into()
                }
                other => format!("{other:?}"),
            });
            Ok(())
        })
        .unwrap();
    assert_eq!(pid, 77);
    assert_eq!(
        steps,
        [
            "PreRestore",
            "namespaces 77",
            "PostSetupNamespaces",
            "master",
            "restored 77",
            "NetworkUnlock",
            "PreResume",
            "PostResume"
        ]
    );
    peer.join().unwrap();
}

#[test]
fn a_refused_step_keeps_both_errors() {
    let (session, peer) = Peer::play(|peer| {
        peer.request();
        assert_eq!(peer.notify("network-lock", None).notify_success, Some(true));
        assert_eq!(peer.notify("post-dump", None).notify_success, Some(false));
        assert_eq!(peer.notify("network-unlock", None).notify_success, Some(false));
        let failed = CriuResp {
            cr_errno: Some(52),
            cr_errmsg: Some("Error (criu/x.c:1): Some file locks are hold by dumping tasks!\n".into()),
            ..response(CriuReqType::DUMP, false)
        };
        peer.respond(&failed);
    });
    let options = DumpOptions::new(42, null());
    let error = session
        .dump(&options, |step| match step {
            DumpNotify::PostDump => Err("the disk is full".into()),
            DumpNotify::NetworkUnlock => Err("a second error".into()),
            _ => Ok(()),
        })
        .unwrap_err();
    assert_eq!(error.to_string(), "criu dump stopped at post-dump");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the disk is full");
    let failure = error.failure().unwrap();
    assert_eq!(failure.cr_errno, Some(52));
    assert!(failure.to_string().contains("hold by dumping tasks! (a process holds a file lock"), "{failure}");
    peer.join().unwrap();
}

#[test]
fn a_refusal_that_comes_too_late_is_still_an_error() {
    let (session, peer) = Peer::play(|peer| {
        peer.request();
        assert_eq!(peer.notify("post-resume", None).notify_success, Some(false));
        peer.respond(&restored(5));
    });
    let error = session
        .restore(&RestoreOptions::new(null()), |step| match step {
            RestoreNotify::PostResume => Err("late".into()),
            _ => Ok(()),
        })
        .unwrap_err();
    assert!(matches!(error, CriuError::Handler { ended: None, .. }), "{error:?}");
    peer.join().unwrap();
}

#[test]
fn a_step_without_its_pid_or_terminal_is_refused() {
    for (step, problem) in [
        ("setup-namespaces", "the pid is missing"),
        ("orphan-pts-master", "the terminal's descriptor is missing"),
    ] {
        let (session, peer) = Peer::play(move |peer| {
            peer.request();
            assert_eq!(peer.notify(step, None).notify_success, Some(false));
            peer.respond(&response(CriuReqType::RESTORE, false));
        });
        let error = session.restore(&RestoreOptions::new(null()), |_| Ok(())).unwrap_err();
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), problem);
        peer.join().unwrap();
    }
}

#[test]
fn the_end_of_the_peer_is_an_error_at_any_point() {
    let roles: [fn(&Peer); 3] = [
        |_| {},
        |peer| drop(peer.request()),
        |peer| {
            peer.request();
            peer.notify("pre-dump", None);
        },
    ];
    for role in roles {
        let (session, peer) = Peer::play(role);
        let error = session.dump(&DumpOptions::new(42, null()), |_| Ok(())).unwrap_err();
        assert!(matches!(error, CriuError::Died { .. }), "{error:?}");
        assert!(error.to_string().starts_with("criu dump died (connection closed)"), "{error}");
        peer.join().unwrap();
    }
}

#[test]
fn what_is_no_response_ends_the_conversation() {
    let cases: [(&[u8], &str); 4] = [
        (b"\xff\xff\xff", "a packet of 3 bytes is no response"),
        (b"\x08", "a packet of 1 bytes is no response"),
        (b"\x08\x02\x10\x01", "a response of type RESTORE instead of DUMP"),
        (b"\x08\x63\x10\x01", "instead of DUMP"),
    ];
    for (bytes, problem) in cases {
        let (session, peer) = Peer::play(move |peer| {
            peer.request();
            packet::send(&peer.0, bytes).unwrap();
            // The session must hang up, whatever else this side would do.
            assert!(packet::receive(&peer.0).unwrap().is_none());
        });
        let error = session.dump(&DumpOptions::new(42, null()), |_| Ok(())).unwrap_err();
        assert!(matches!(error, CriuError::Protocol { .. }), "{error:?}");
        assert!(error.to_string().contains(problem), "{error}");
        peer.join().unwrap();
    }
}

#[test]
fn a_request_that_criu_does_not_know_is_a_failure() {
    let (session, peer) = Peer::play(|peer| {
        assert_eq!(peer.request().type_, Some(CriuReqType::SINGLE_PRE_DUMP.into()));
        let errmsg = Some("Error (criu/cr-service.c:1): RPC error: Invalid req".into());
        peer.respond(&CriuResp { cr_errmsg: errmsg, ..response(CriuReqType::EMPTY, false) });
    });
    let error = session.pre_dump(&PreDumpOptions::new(42, null())).unwrap_err();
    assert!(error.to_string().starts_with("criu pre-dump failed: Error (criu/cr-service.c:1)"), "{error}");
    peer.join().unwrap();
}

#[test]
fn a_large_packet_arrives_whole() {
    let message = "x".repeat(100_000);
    let expected = message.clone();
    let (session, peer) = Peer::play(move |peer| {
        let request = peer.request();
        assert_eq!(request.opts.external.len(), 5_000);
        peer.respond(&CriuResp { cr_errmsg: Some(message), ..response(CriuReqType::DUMP, false) });
    });
    let mut options = DumpOptions::new(42, null());
    options.common.external = vec![crate::External::other("mnt[/0123456789]:x"); 5_000];
    let error = session.dump(&options, |_| Ok(())).unwrap_err();
    assert_eq!(error.failure().unwrap().cr_errmsg.as_deref(), Some(expected.as_str()));
    peer.join().unwrap();
}

#[test]
fn a_failure_is_explained_by_the_log_of_this_operation_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("dump.log");
    let options = || DumpOptions::new(42, File::open(dir.path()).unwrap().into());
    std::fs::write(&log, "(00.1) Error (criu/x.c:1): Connected TCP socket\n").unwrap();
    let old = SystemTime::now() - Duration::from_secs(60);
    File::options().write(true).open(&log).unwrap().set_modified(old).unwrap();
    let harmless =
        "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted";
    let fail = move |peer: &Peer| {
        let failed = response(CriuReqType::DUMP, false);
        peer.respond(&CriuResp { cr_errno: Some(16), cr_errmsg: Some(harmless.into()), ..failed });
    };

    let (session, peer) = Peer::play(move |peer| {
        peer.request();
        fail(peer);
    });
    let error = session.dump(&options(), |_| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "criu dump failed: Device or resource busy (os error 16)");
    peer.join().unwrap();

    let (session, peer) = Peer::play({
        let log = log.clone();
        move |peer| {
            peer.request();
            std::fs::write(log, "(00.1) Error (criu/y.c:2): Some file locks are hold by dumping tasks!\n")
                .unwrap();
            fail(peer);
        }
    });
    let error = session.dump(&options(), |_| Ok(())).unwrap_err();
    assert_eq!(error.failure().unwrap().log.as_deref(), Some(log.canonicalize().unwrap().as_path()));
    let text = error.to_string();
    assert!(text.contains("Error (criu/y.c:2)") && text.contains("file_locks"), "{text}");
    assert!(!text.contains("TCP") && !text.contains("RLIMIT"), "{text}");
    peer.join().unwrap();
}

/// One at a time: a thread that forks while another writes a program makes that one "busy" to exec.
static SPAWNING: Mutex<()> = Mutex::new(());

struct Script {
    dir: tempfile::TempDir,
    criu: Criu,
    _turn: MutexGuard<'static, ()>,
}

/// A program that stands for criu.
fn script(text: &str) -> Script {
    let turn = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("criu");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let criu = Criu::find(Some(&path)).unwrap();
    Script { dir, criu, _turn: turn }
}

#[test]
fn a_criu_that_cannot_start_is_quoted() {
    let Script { criu, .. } = &script(
        "echo 'Error (criu/util.c:642): exited, status=1' >&2
         echo 'Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds' >&2
         exit 1",
    );
    let text = criu.start().unwrap_err().to_string();
    assert!(text.contains("cannot start: exit status: 1"), "{text}");
    assert!(text.contains("Unexpected rt vDSO area bounds") && text.contains("use a newer CRIU"), "{text}");
    assert!(!text.contains("exited"), "{text}");
}

/// The packets are those of Debian 12's CRIU 3.17.1 on kernel 6.18; each dd takes one request.
#[test]
fn a_criu_whose_probe_fails_is_asked_what_is_wrong() {
    let Script { criu, .. } = &script(
        r#"if [ "$1" = check ]; then
             echo 'Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds' >&2; exit 1
           fi
           exec <&"$2" >&"$2"
           dd bs=4096 count=1 of=/dev/null 2>/dev/null; printf '\010\012\020\001R\006\010\003\020\021 \001'
           dd bs=4096 count=1 of=/dev/null 2>/dev/null; printf '\010\011\020\000'"#,
    );
    let mut session = criu.start().unwrap();
    assert_eq!(session.version().unwrap(), Version::new(3, 17, 1));
    let text = session.features().unwrap_err().to_string();
    assert!(text.contains("cannot start: its feature check failed: this CRIU does not know"), "{text}");
    assert!(text.contains("vdso: Unexpected rt vDSO area bounds"), "{text}");
}

#[test]
fn a_criu_that_is_too_old_is_refused() {
    let Script { criu, .. } = &script(
        r#"dd bs=4096 count=1 of=/dev/null 2>/dev/null <&"$2"; printf '\010\012\020\001R\004\010\003\020\020' >&"$2""#,
    );
    let text = criu.start().unwrap_err().to_string();
    assert!(text.ends_with("is CRIU 3.16, but hiber needs CRIU 3.17"), "{text}");
}

#[test]
fn words_of_the_dynamic_linker_are_quoted_too() {
    let Script { criu, .. } =
        &script("echo 'criu: error while loading shared libraries: libnet.so.1' >&2; exit 127");
    let text = criu.start().unwrap_err().to_string();
    assert!(
        text.ends_with("exit status: 127: criu: error while loading shared libraries: libnet.so.1"),
        "{text}"
    );
}

#[test]
fn a_program_without_its_interpreter_is_named() {
    let Script { dir, criu, .. } = &script("");
    std::fs::write(dir.path().join("criu"), "#!/none/such\n").unwrap();
    let text = criu.start().unwrap_err().to_string();
    assert!(text.contains("criu cannot start: No such file or directory"), "{text}");
}

#[test]
fn a_killed_criu_is_reaped_and_its_signal_told() {
    let Script { criu, .. } = &script("kill -9 $$");
    let text = criu.start().unwrap_err().to_string();
    assert!(text.contains("signal: 9"), "{text}");
}

#[test]
fn a_dead_criu_is_noticed_though_a_child_of_it_holds_the_socket() {
    // The child closes its output, and holds the socket for longer than any test should take.
    let Script { dir, criu, .. } = &script(r#"sleep 30 >/dev/null 2>&1 & echo $! > "$0.pid"; exit 3"#);
    let begun = std::time::Instant::now();
    let text = criu.start().unwrap_err().to_string();
    let pid: i32 = std::fs::read_to_string(dir.path().join("criu.pid")).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    assert!(text.contains("exit status: 3"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn only_passed_files_are_inherited_and_under_the_told_numbers() {
    let Script { dir, criu, .. } =
        &script(r#"ls -l /proc/self/fd > "$0.fds"; cat <&"$(cat "$0.number")" > "$0.got"; exit 1"#);
    let kept = File::create(dir.path().join("not-passed")).unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"through the pipe").unwrap();
    let mut launch = criu.launch();
    let number = launch.pass(reader).unwrap();
    drop(writer);
    std::fs::write(dir.path().join("criu.number"), number.0.to_string()).unwrap();
    launch.start().unwrap_err();
    drop(kept);
    let got = std::fs::read_to_string(dir.path().join("criu.got")).unwrap();
    assert_eq!(got, "through the pipe");
    let fds = std::fs::read_to_string(dir.path().join("criu.fds")).unwrap();
    assert!(fds.contains(&format!(" {} -> pipe:", number.0)), "{fds}");
    assert!(fds.contains("0 -> /dev/null") && !fds.contains("not-passed"), "{fds}");
}

#[test]
fn a_criu_that_does_nothing_is_ended() {
    let Script { criu, .. } = &script("exec sleep 1000");
    let mut launch = criu.launch();
    launch.patience(Some(Duration::from_millis(300)));
    let text = launch.start().unwrap_err().to_string();
    assert!(text.contains("cannot start: it did nothing for 0 s and was killed"), "{text}");
}
