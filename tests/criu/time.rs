//! Clocks of time namespaces go on after a restore.

use std::fs;

use crate::{counter, counts_on, sleep_and_wake};
use hiber_tests::prelude::*;

#[test]
fn the_clocks_of_a_time_namespace_go_on() {
    require!(Root, Criu, TimeNamespaces);
    let bundle = Bundle::busybox().namespace("time", None).edit(|c| {
        c["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 500_000}});
    });
    let c = counter(&Runtime::hiber(), bundle);
    let namespace = || fs::read_link(format!("/proc/{}/ns/time", c.pid())).unwrap();
    let uptime = || c.sh("cut -d' ' -f1 /proc/uptime").parse::<f64>().unwrap();
    let before = uptime();
    assert!(before > 1_000_000.0, "{before}");
    sleep_and_wake(&c, &[], &[]);
    let after = uptime();
    assert!((before..before + 60.0).contains(&after), "{before}, then {after}");
    assert_ne!(namespace(), fs::read_link("/proc/self/ns/time").unwrap(), "it has one of its own again");
    counts_on(&c, 3);
}

/// Shows its monotonic clock, in milliseconds, once or for ever: `clock`, `clock FILE`.
const CLOCK: &str = r#"
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	do {
		struct timespec now;
		clock_gettime(CLOCK_MONOTONIC, &now);
		FILE *to = argc > 1 ? fopen(argv[1], "w") : stdout;
		fprintf(to, "%lld\n", (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
		fflush(to);
		if (argc > 1) {
			fclose(to);
			usleep(20000);
		}
	} while (argc > 1);
	return 0;
}
"#;

/// Checks that who is executed in the container is where its first process is.
#[track_caller]
fn joins_the_time_namespace(c: &Container) {
    let links =
        c.sh("for name in 1/ns/time self/ns/time self/ns/time_for_children; do readlink /proc/$name; done");
    let links: Vec<_> = links.lines().collect();
    assert!(links.len() == 3 && links.iter().all(|link| *link == links[0]), "{links:?}");
}

#[test]
fn so_has_who_is_executed_in_a_user_namespace() {
    require!(Root, Criu, TimeNamespaces);
    let c = counter(&Runtime::hiber(), Bundle::busybox().user_namespace(100_000));
    joins_the_time_namespace(&c);
    sleep_and_wake(&c, &[], &[]);
    joins_the_time_namespace(&c);
    counts_on(&c, 3);
}

#[test]
fn who_is_executed_after_a_restore_has_the_clocks_of_the_first_process() {
    require!(Root, Criu, TimeNamespaces, Program("cc"));
    let bundle = Bundle::busybox().args(["clock", "/dev/shm/clock"]);
    fs::write(bundle.join("clock.c"), CLOCK).unwrap();
    let (source, program) = (bundle.join("clock.c"), bundle.rootfs().join("bin/clock"));
    hiber_tests::tools::compile(source.to_str().unwrap(), &program, &["-static"]);
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let shown = || {
        let text = fs::read_to_string(format!("/proc/{}/root/dev/shm/clock", c.pid())).unwrap_or_default();
        text.trim().parse::<i64>().ok()
    };
    wait_for("the clock", || shown().is_some());
    for round in 0..2 {
        c.checkpoint(&[]).ok();
        // The clock of the namespace stands still meanwhile, that of the machine does not.
        std::thread::sleep(std::time::Duration::from_secs(3));
        c.restore(&[]).ok();
        joins_the_time_namespace(&c);
        let executed = c.exec(&["clock"]).ok().trim().parse::<i64>().unwrap();
        let first = loop {
            if let Some(first) = shown() {
                break first;
            }
        };
        assert!((first - executed).abs() < 2000, "round {round}: {executed} beside {first}");
        // An orphan of exec's is a child of the first process, and is saved with it.
        c.sh("sleep 1000 >/dev/null 2>&1 </dev/null & ");
        let processes = c.sh("ps -o args");
        assert_eq!(processes.matches("sleep 1000").count(), round + 1, "{processes}");
    }
    sleep_and_wake(&c, &[], &[]);
    let processes = c.sh("ps -o args");
    assert_eq!(processes.lines().filter(|line| line.trim() == "sleep 1000").count(), 2, "{processes}");
}
