//! A container moves by TLS, between ends that know each other.

use crate::migrate::{Traveller, assert_gone, remembered, there, writer};
use crate::tls::{Ca, Fault, Link, Receiver, migration, without_certificate};
use crate::{count, counter, counts_on};
use hiber_tests::command::run;
use hiber_tests::prelude::*;
use rustix::process::{Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Two ends of one CA.
fn both() -> Ca {
    let ca = Ca::new();
    ca.issue("source", |_| {}).issue("there", |_| {});
    ca
}

#[test]
fn redis_arrives_with_its_keys_by_name_and_by_address() {
    require!(Root, Criu, Redis);
    let server = "redis-server --bind 127.0.0.1 --save '' --appendonly no";
    let bundle = || Bundle::redis().shell(&format!("exec {server}"));
    let (c, there) = (Runtime::hiber().container(bundle()), there(bundle()));
    c.run_detached().ok();
    wait_for("redis", || c.exec(&["redis-cli", "ping"]).stdout.contains("PONG"));
    let keys: String = (0..10_000).map(|i| format!("SET key:{i} value:{}\n", i * i)).collect();
    let mut write = c.command("exec", &[]);
    write.arg("redis-cli");
    run(write, keys.as_bytes()).ok();
    let ca = both();
    let (mut from, mut to) = (&c, &there);
    for (host, rounds) in [("localhost", "on"), ("127.0.0.1", "off")] {
        let receiver = Receiver::start(to, &ca.flags("there"));
        let flags = ["--tcp-close", "--pre-copy", rounds, "--on-miss", "force"];
        let at = (host, receiver.port);
        run(migration(from, to, &[&flags[..], &["--dry-run"]].concat(), at, &ca.flags("source")), b"").ok();
        run(migration(from, to, &flags, at, &ca.flags("source")), b"").ok();
        assert_gone(from);
        assert_eq!(to.status(), "running");
        let wrong = "for i = 0, 9999 do if redis.call('GET', 'key:' .. i) ~= 'value:' .. string.format('%d', i * i) \
                     then return 'key:' .. i end end return 'none'";
        assert_eq!(to.exec(&["redis-cli", "eval", wrong, "0"]).ok(), "none");
        assert_eq!(receiver.log(), "");
        wait_for("the end of its processes", || receiver.serving().is_empty());
        (from, to) = (to, from);
    }
}

#[test]
fn memory_that_changes_all_the_time_arrives_whole() {
    require!(Root, Criu, CPrograms);
    let (c, there) = writer();
    let ca = both();
    let mut ends = [&c, &there];
    for flags in [&["--pre-copy", "on", "--on-miss", "force"][..], &["--post-copy"]] {
        let [here, there] = ends;
        let receiver = Receiver::start(there, &ca.flags("there"));
        run(migration(here, there, flags, ("localhost", receiver.port), &ca.flags("source")), b"").ok();
        crate::pre_copy::works_on(&c, &format!("by TLS, {flags:?}"));
        assert_gone(here);
        // `migrate` has returned: all of its memory is in its place.
        assert_eq!(remembered(there.runtime()), Vec::<PathBuf>::new());
        ends.reverse();
    }
}

/// It is refused with these words, and runs on; nothing is left there.
#[track_caller]
fn refused(c: &Container, there: &Container, at: (&str, u16), identity: &[String], words: &str) {
    let output = run(migration(c, there, &["--stall", "2s"], at, identity), b"");
    output.fails(words).exited(1);
    assert_eq!(output.stderr.lines().count(), 1, "{output}");
    counts_on(c, count(c));
    assert_eq!(remembered(c.runtime()), Vec::<PathBuf>::new());
    assert_gone(there);
}

#[test]
fn ends_that_do_not_know_each_other_are_told_which_is_wrong() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let there = there(Bundle::busybox());
    let (ca, other) = (both(), both());
    let past = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let server_alone = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    };
    ca.issue("expired", past).issue("server", server_alone);
    ca.issue("elsewhere", |params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("elsewhere.example".try_into().unwrap())];
    });
    let good = Receiver::start(&there, &ca.flags("there"));
    let at = ("127.0.0.1", good.port);
    let refuses = "the destination refuses the certificate of this end: it";
    for (identity, here, log) in [
        (other.flags("source"), "the certificate of the destination is not of the CA in --ca here", ""),
        (
            other.flags_with("source", &ca),
            &format!("{refuses} is not of the CA in --ca there")[..],
            "the certificate of the source is not of the CA in --ca here",
        ),
        (
            ca.flags("expired"),
            &format!("{refuses} has expired, or is not valid yet"),
            "the certificate of the source has expired at 2020-01-01T00:00:00Z",
        ),
        (
            ca.flags("server"),
            &format!("{refuses} may not be used for this (its extended key usage)"),
            "the certificate of the source may not be used for this",
        ),
    ] {
        refused(&c, &there, at, &identity, here);
        good.says(log);
    }
    let expired = Receiver::start(&there, &ca.flags("expired"));
    let words = "the certificate of the destination has expired at 2020-01-01T00:00:00Z";
    refused(&c, &there, ("localhost", expired.port), &ca.flags("source"), words);
    let elsewhere = Receiver::start(&there, &ca.flags("elsewhere"));
    for host in ["localhost", "127.0.0.1"] {
        let words = format!("the certificate of the destination is not for {host}, but for");
        refused(&c, &there, (host, elsewhere.port), &ca.flags("source"), &words);
    }
    assert!(without_certificate(good.port, Path::new(&ca.path("ca.pem"))).is_err());
    good.says("the source has shown no certificate");
    // None of them has harmed it.
    run(migration(&c, &there, &["--dry-run"], at, &ca.flags("source")), b"").ok();
}

/// A port at which one that speaks no TLS answers so, once.
fn answers(with: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let _ = socket.write_all(with);
        let _ = socket.read(&mut [0; 1000]);
    });
    port
}

#[test]
fn an_end_that_is_none_is_told() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let there = there(Bundle::busybox());
    let ca = both();
    let source = ca.flags("source");
    for (port, words) in [
        (answers(b"SSH-2.0-OpenSSH_9.9\r\n"), "the destination does not speak TLS"),
        (answers(b"\x15\x03\x03\x00\x02\x02\x28"), "the destination does not speak TLS 1.3"),
        (answers(b""), "closed the connection before TLS was agreed upon"),
    ] {
        refused(&c, &there, ("127.0.0.1", port), &source, words);
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    refused(&c, &there, ("127.0.0.1", port), &source, "the destination has stalled for 2 s (--stall)");
    drop(silent);
    refused(&c, &there, ("127.0.0.1", port), &source, "connection refused");
    refused(&c, &there, ("no-such-host.invalid", port), &source, "connect to tls://no-such-host.invalid");

    let receiver =
        Receiver::start(&there, &[ca.flags("there"), vec!["--stall".into(), "1s".into()]].concat());
    let connect = || TcpStream::connect(("127.0.0.1", receiver.port)).unwrap();
    connect().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    receiver.says("the source does not speak TLS");
    // A byte now and then does not keep it waiting for longer.
    let mut hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".chunks(1);
    let (mut slow, began) = (connect(), Instant::now());
    while !receiver.log().contains("the source has stalled for 1 s") {
        assert!(began.elapsed() < hiber_tests::PATIENCE, "{}", receiver.log());
        let _ = slow.write(hello.next().unwrap_or(&[0]));
        std::thread::sleep(Duration::from_millis(300));
    }
    drop(connect());
    receiver.says("closed the connection before TLS was agreed upon");
    run(migration(&c, &there, &["--dry-run"], ("127.0.0.1", receiver.port), &source), b"").ok();
}

#[test]
fn files_that_cannot_be_used_are_named_at_either_end() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let there = there(Bundle::busybox());
    let ca = both();
    fs::write(ca.path("garbage"), "-----BEGIN CERTIFICATE-----\nno\n").unwrap();
    fs::write(ca.path("wrong"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let with = |at: usize, file: &str| {
        let mut flags = ca.flags("source");
        flags[at] = ca.path(file);
        flags
    };
    for (flags, words) in [
        (with(1, "absent"), format!("--cert {}: no such file or directory", ca.path("absent"))),
        (with(3, "absent"), format!("--key {}: no such file or directory", ca.path("absent"))),
        (with(5, "garbage"), format!("--ca {}: ", ca.path("garbage"))),
        (with(5, "wrong"), format!("--ca {}: ", ca.path("wrong"))),
        (with(3, "source.pem"), format!("--key {}: has no private key", ca.path("source.pem"))),
        (with(1, "source.key"), format!("--cert {}: has no certificate", ca.path("source.key"))),
        (with(3, "there.key"), "is not the key of --cert".to_owned()),
    ] {
        refused(&c, &there, ("127.0.0.1", 1), &flags, &words);
        let mut receive = there.runtime().command();
        receive.args(["receive", "--listen", "127.0.0.1:0"]).args(&flags);
        run(receive, b"").fails(&words).exited(1);
    }
    for (flags, words) in [
        (&["--stdio", "--ca", "x"][..], "--cert, --key and --ca need each other"),
        (&["--listen", "127.0.0.1:0"], "--listen needs --cert, --key and --ca"),
        (&["--stdio", "--listen", "127.0.0.1:0"], "expected either --stdio or --listen"),
        (&[], "expected either --stdio or --listen"),
    ] {
        let mut receive = there.runtime().command();
        receive.arg("receive").args(flags);
        run(receive, b"").fails(words).exited(1);
    }
    refused(&c, &there, ("127.0.0.1", 1), &[], "tls:// needs --cert, --key and --ca");
    let mut receive = there.runtime().command();
    receive.args(["receive", "--listen", "nonsense"]).args(ca.flags("there"));
    run(receive, b"").fails("--listen nonsense: expected ADDRESS:PORT").exited(1);
}

/// The link fails at bytes that are spread over all that passes: exactly one copy survives each time, and a resolution by TLS ends
/// each doubt.
#[test]
fn a_link_that_fails_at_any_byte_leaves_one_copy() {
    require!(Root, Criu);
    let mut counter = Traveller::new();
    let ca = both();
    let receivers = counter.ends.each_ref().map(|end| Receiver::start(end, &ca.flags("there")));
    let move_on = |counter: &Traveller, fault: Option<(usize, Fault)>| {
        let (here, there) = (&counter.ends[counter.at], &counter.ends[1 - counter.at]);
        let link = Link::new(receivers[1 - counter.at].port, fault);
        let flags = ["--stall", "2s"];
        let output = run(migration(here, there, &flags, ("127.0.0.1", link.port), &ca.flags("source")), b"");
        (output, link.passed)
    };
    let (output, passed) = move_on(&counter, None);
    output.ok();
    counter.is_at_one_end("undisturbed");
    let all = [0, 1].map(|direction| passed[direction].load(Ordering::Relaxed));
    let (mut moved, mut stayed) = (0, 0);
    for round in 0..20_u64 {
        let direction = usize::from(round % 3 == 0);
        // The last bytes of both directions are the decision and the answer to it.
        let at = if round % 4 == 1 { all[direction] - 1 - round * 4 } else { all[direction] * round / 20 };
        let fault = match round % 5 {
            4 => Fault::Stall(at),
            3 => Fault::Flip(at),
            _ => Fault::Cut(at),
        };
        let when = format!("{fault:?} of {} in direction {direction}", all[direction]);
        let (output, _) = move_on(&counter, Some((direction, fault)));
        let (here, there) = (&counter.ends[counter.at], &counter.ends[1 - counter.at]);
        let end = Instant::now() + hiber_tests::PATIENCE;
        while !remembered(here.runtime()).is_empty() {
            // Where it went is the link, which is no more.
            let mut resolve = here.command("migrate", &["--resolve"]);
            resolve.arg(format!("tls://127.0.0.1:{}", receivers[1 - counter.at].port));
            let resolved = run(resolve, b"");
            assert!(Instant::now() < end, "{when}: {output}\n{resolved}");
        }
        wait_for("the receiver's end", || receivers.iter().all(|receiver| receiver.serving().is_empty()));
        assert_eq!(remembered(there.runtime()), Vec::<PathBuf>::new(), "{when}");
        let was = counter.at;
        counter.is_at_one_end(&when);
        if counter.at == was {
            output.fails("tls://127.0.0.1:").exited(1);
            stayed += 1;
        } else {
            moved += 1;
        }
    }
    assert!(moved > 0 && stayed > 0, "moved {moved} times, stayed {stayed} times");
}

/// The processes of either end are killed at moments that are spread over the whole.
#[test]
fn either_end_is_killed() {
    require!(Root, Criu);
    let mut counter = Traveller::new();
    let ca = both();
    let receivers = counter.ends.each_ref().map(|end| Receiver::start(end, &ca.flags("there")));
    for round in 0..12_u32 {
        let (here, there) = (&counter.ends[counter.at], &counter.ends[1 - counter.at]);
        let receiver = &receivers[1 - counter.at];
        let mut source =
            migration(here, there, &["--stall", "2s"], ("localhost", receiver.port), &ca.flags("source"));
        source.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut source = Spawned::new(&mut source);
        std::thread::sleep(Duration::from_millis(60) * (round * 7 % 12));
        if round % 2 == 0 {
            let _ = source.kill();
        } else {
            for pid in receiver.serving() {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        source.wait().unwrap();
        let when = format!("round {round}");
        let end = Instant::now() + hiber_tests::PATIENCE;
        while !remembered(here.runtime()).is_empty() {
            let resolved = run(here.command("migrate", &["--resolve"]), b"");
            assert!(Instant::now() < end, "{when}: {resolved}");
            std::thread::sleep(Duration::from_millis(50));
        }
        wait_for("the receiver's end", || receiver.serving().is_empty());
        counter.is_at_one_end(&when);
    }
}

#[test]
fn several_come_at_once() {
    require!(Root, Criu);
    let all: Vec<_> = (0..4).map(|_| counter(&Runtime::hiber(), Bundle::busybox())).collect();
    let ends: Vec<_> = (0..4).map(|_| there(Bundle::busybox())).collect();
    let shared = Runtime::hiber();
    let ends: Vec<_> = ends.iter().map(|end| end.in_hands_of(&shared)).collect();
    let ca = both();
    let receiver = Receiver::start(&ends[0], &ca.flags("there"));
    let before: Vec<_> = all.iter().map(count).collect();
    // Somebody who says nothing keeps nobody waiting.
    let _idle: Vec<_> = (0..8).map(|_| TcpStream::connect(("127.0.0.1", receiver.port)).unwrap()).collect();
    let start = |(c, there): (&Container, &Container)| {
        let mut command = migration(c, there, &[], ("localhost", receiver.port), &ca.flags("source"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<_> = all.iter().zip(&ends).map(start).collect();
    for source in running {
        let output = source.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    for ((c, there), before) in all.iter().zip(&ends).zip(before) {
        assert_gone(c);
        assert_eq!(there.status(), "running");
        counts_on(there, before);
    }
}

#[test]
fn a_listener_that_is_to_end_finishes_its_work_first() {
    require!(Root, Criu, CPrograms);
    let ca = both();
    let (c, there) = writer();
    let mut idle = Receiver::start(&there, &ca.flags("there"));
    idle.signal(Signal::TERM);
    wait_for("the end of an idle listener", || idle.ended() == Some(0));
    let refused = TcpStream::connect(("127.0.0.1", idle.port)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    let (mut from, mut to) = (&c, &there);
    for signals in [1, 2] {
        let mut receiver = Receiver::start(to, &ca.flags("there"));
        let flags = [
            "--pre-copy",
            "on",
            "--max-rounds",
            "2",
            "--bandwidth",
            "30M",
            "--on-miss",
            "force",
            "--format",
            "json",
        ];
        let mut source = migration(from, to, &flags, ("localhost", receiver.port), &ca.flags("source"));
        let mut source = source.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(source.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("dumping")));
        for _ in 0..signals {
            receiver.signal(Signal::TERM);
            wait_for("the end of listening", || TcpStream::connect(("127.0.0.1", receiver.port)).is_err());
        }
        if signals == 1 {
            assert_eq!(receiver.ended(), None, "a migration is under way");
        } else {
            wait_for("the end without its work", || receiver.ended() == Some(0));
        }
        lines.for_each(drop);
        assert!(source.wait().unwrap().success(), "{}", receiver.log());
        wait_for("the end", || receiver.ended() == Some(0));
        crate::pre_copy::works_on(&c, "while its listener ends");
        assert_gone(from);
        (from, to) = (to, from);
    }
}
