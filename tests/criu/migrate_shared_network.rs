//! A container whose network is a joined namespace, as CNI makes it, or the host's: its addresses are whoever's who has made that network.

use crate::Network;
use crate::migrate::{assert_gone, migrate, migration, named_in, relayed, remembered, resolved};
use crate::migrate_network::{ADDRESSES, Lab, counting, goes_on, next, redis, run};
use hiber_tests::prelude::*;
use rustix::process::{Pid, Signal, kill_process};
use std::process::Stdio;

/// A redis at the first of two hosts, whose clients count over their connections. `place` names the network there, in messages.
#[track_caller]
fn goes_where_the_addresses_are(end: impl Fn(&Network) -> Container, place: impl Fn(&Lab) -> String) {
    let lab = Lab::with(end);
    run(&lab.hosts[0], "ip link set plug0 up");
    lab.await_server();
    lab.plug(1);
    run(&lab.hosts[1], "ip address add 198.18.90.7/24 dev plug0; ip link set plug0 up");
    let (here, there) = (&lab.ends[0], &lab.ends[1]);
    let words = format!(
        "established connections (--tcp-established) use {}, {}, which {} here does not have; expected all that they use there \
         before the container comes, and found 198.18.90.7",
        ADDRESSES[0],
        ADDRESSES[1],
        place(&lab)
    );
    counting(&lab, |counted| {
        for flags in [&["--tcp-established"][..], &["--tcp-established", "--dry-run"]] {
            goes_on(counted, "before");
            migrate(here, there, flags).fails(&words).exited(1);
            assert_gone(there);
            assert_eq!(remembered(here.runtime()), Vec::<std::path::PathBuf>::new());
        }
        // Connections that end need no address.
        migrate(here, there, &["--tcp-close", "--dry-run"]).ok();
        goes_on(counted, "refused");
        // The network there gets the addresses, of which nobody hears before the decision.
        lab.give_addresses(1);
        migrate(here, there, &["--tcp-established", "--dry-run"]).ok();
        lab.forget_neighbours();
        migrate(here, there, &["--tcp-established", "--on-miss", "force"]).ok();
        lab.neighbours_are_told();
        goes_on(counted, "over the same connections");
        assert_gone(here);
        // And takes them away here.
        run(&lab.hosts[0], "ip address flush dev plug0");
        goes_on(counted, "when the source has them no more");
    });
    let mut other = lab.connect(ADDRESSES[0]).unwrap();
    assert!(next(&mut other).unwrap() > 0);
}

#[test]
fn of_a_joined_namespace() {
    require!(Root, Criu, Redis, Program("nsenter"), NetworkCommand("ip link add name br0 type bridge"));
    goes_where_the_addresses_are(
        |host| Runtime::hiber().container(redis().namespace("network", Some(&host.path()))),
        |lab| format!("the network namespace {} (linux.namespaces)", lab.hosts[1].path()),
    );
}

#[test]
fn of_the_host() {
    require!(Root, Criu, Redis, Program("nsenter"), NetworkCommand("ip link add name br0 type bridge"));
    goes_where_the_addresses_are(
        |host| {
            let runtime = Runtime::hiber_by(["nsenter".to_owned(), format!("--net={}", host.path())]);
            runtime.container(redis().without_namespace("network"))
        },
        |_| "the network of this machine".to_owned(),
    );
}

/// A connection within the container's network needs no address of a device.
#[test]
fn connections_over_loopback_need_no_address() {
    require!(Root, Criu, Redis, Program("nsenter"));
    let hosts = [Network::new(), Network::new()];
    let server = "redis-server --bind 127.0.0.1 --save '' --appendonly no & \
                  until redis-cli ping; do sleep 0.05; done; sleep 1000 | nc 127.0.0.1 6379";
    let end = |host: &Network| {
        Runtime::hiber().container(Bundle::redis().shell(server).namespace("network", Some(&host.path())))
    };
    let [here, there] = hosts.each_ref().map(end);
    here.run_detached().ok();
    wait_for("the connection", || {
        here.exec(&["redis-cli", "info", "clients"]).stdout.contains("connected_clients:2\r")
    });
    migrate(&here, &there, &["--tcp-established"]).ok();
    let clients = there.exec(&["redis-cli", "info", "clients"]);
    assert!(clients.ok().contains("connected_clients:2\r"), "{clients}");
}

/// The clients of a container whose copy is given up hear nothing of that one.
#[test]
fn a_copy_that_is_dropped_closes_no_connection() {
    require!(Root, Criu, Redis, Program("nsenter"), NetworkCommand("ip link add name br0 type bridge"));
    let lab = Lab::with(|host| Runtime::hiber().container(redis().namespace("network", Some(&host.path()))));
    run(&lab.hosts[0], "ip link set plug0 up");
    lab.await_server();
    lab.plug(1);
    run(&lab.hosts[1], "ip link set plug0 up");
    let (here, there) = (&lab.ends[0], &lab.ends[1]);
    let marks = tempfile::tempdir().unwrap();
    let incoming = there.runtime().root().join(there.id()).join("incoming.json");
    counting(&lab, |counted| {
        lab.give_addresses(1);
        lab.know_the_client(1);
        // A source that lives on might hear that the copy is whole, and give its own up.
        for victims in [&["source"][..], &["receiver", "source"], &["source", "receiver"]] {
            goes_on(counted, "before");
            let flags = ["--tcp-established", "--on-miss", "force", "--stall", "5s"];
            let mut source = migration(here, there, &flags, &relayed(marks.path(), there));
            source.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut source = Spawned::new(&mut source);
            wait_for("the restore", || incoming.exists());
            let pid = Pid::from_raw(source.id().cast_signed()).unwrap();
            kill_process(pid, Signal::STOP).unwrap();
            let whole =
                || std::fs::read_to_string(&incoming).is_ok_and(|text| text.contains("\"whole\":true"));
            wait_for("the copy", whole);
            for victim in victims {
                let pid = if *victim == "source" { Some(pid) } else { named_in(&marks.path().join(victim)) };
                kill_process(pid.unwrap(), Signal::KILL).unwrap();
            }
            let _ = kill_process(pid, Signal::CONT);
            source.wait().unwrap();
            let when = format!("{victims:?}");
            resolved(here, there, &when);
            there.delete(&["--force"]);
            assert_gone(there);
            wait_for(&when, || here.status() == "running");
            goes_on(counted, &when);
        }
    });
}
