//! Restores of large containers: a daemon brings the memory before the container runs.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use hiber_tests::prelude::*;

use crate::background::{Setting, bringers, bringers_by, large, reached, record};
use crate::lazy::holds_all;

const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// The machine gives huge pages only to who asks.
fn few_huge_pages() -> Option<Setting> {
    let always = fs::read_to_string(HUGE_PAGES).unwrap_or_default().contains("[always]");
    always.then(|| Setting::set(HUGE_PAGES, "madvise"))
}

/// Restores, and tells how many MiB CRIU has read itself.
#[track_caller]
fn read_by_criu(c: &Container, flags: &[&str]) -> u64 {
    let work = c.bundle().join("work");
    fs::create_dir_all(&work).unwrap();
    c.restore(&[flags, &["--work-path", work.to_str().unwrap()]].concat()).ok();
    hiber_criu::images::restore_stats(&work).unwrap().pages_restored.unwrap() >> 8
}

#[test]
fn all_memory_is_there_when_it_runs() {
    require!(Root, Criu, Redis);
    let _setting = few_huge_pages();
    let c = large(96);
    for _ in 0..2 {
        c.checkpoint(&[]).ok();
        let read = read_by_criu(&c, &[]);
        assert!(read < 32, "CRIU has read {read} MiB itself");
        assert_eq!(bringers(&c), Vec::<u32>::new());
        assert_eq!(c.state()["memory"], Value::Null);
        holds_all(&c);
    }
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

#[test]
fn criu_reads_where_a_daemon_would_not_pay_or_may_not() {
    require!(Root, Criu, Redis);
    let _setting = few_huge_pages();
    let small = crate::counter(&Runtime::hiber(), Bundle::busybox());
    small.checkpoint(&[]).ok();
    assert!(read_by_criu(&small, &[]) < 32);
    let large = large(96);
    large.checkpoint(&[]).ok();
    // It frees what it has read, which a daemon does not.
    let read = read_by_criu(&large, &["--auto-dedup"]);
    assert!(read >= 96, "CRIU has read {read} MiB itself");
}

#[test]
fn memory_that_processes_share_since_a_fork_is_still_shared() {
    require!(Root, Criu, Redis);
    let _setting = few_huge_pages();
    let c = large(96);
    // The child that saves writes slowly, and shares nearly everything.
    c.exec(&["redis-cli", "config", "set", "rdb-key-save-delay", "1000000"]).ok();
    c.exec(&["redis-cli", "bgsave"]).ok();
    let used = || {
        let pids = c.call("ps", &["--format", "json"]).json();
        let pids: Vec<i64> = pids.as_array().unwrap().iter().map(|pid| pid.as_i64().unwrap()).collect();
        assert_eq!(pids.len(), 2);
        let share = |pid: &i64| {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
        };
        pids.iter().map(share).sum::<u64>()
    };
    let before = used();
    // It has inherited the connection of the client that asked.
    c.checkpoint(&["--tcp-close"]).ok();
    c.restore(&["--tcp-close"]).ok();
    let after = used();
    assert!(after < before + 32, "{before} MiB before, {after} MiB after");
}

#[test]
fn who_brings_memory_is_killed_and_the_restore_fails() {
    require!(Root, Criu, Redis);
    let _setting = few_huge_pages();
    let c = large(256);
    c.checkpoint(&["--no-hash"]).ok();
    for (victim, why) in [(1, "was killed by signal 9"), (0, "the process that watched over")] {
        let killed = || {
            let (record, restored) = (record(&c), AtomicBool::new(false));
            std::thread::scope(|scope| {
                let (record, restored) = (&record, &restored);
                scope.spawn(move || {
                    while !restored.load(Ordering::Relaxed) {
                        let both = bringers_by(record);
                        if both.len() == 2 && reached("KILL", &both[victim..=victim]) {
                            return;
                        }
                    }
                });
                let output = c.restore(&[]);
                restored.store(true, Ordering::Relaxed);
                output
            })
        };
        // It may have brought everything before.
        let failed = (0..10).find_map(|_| {
            let output = killed();
            if output.status.success() {
                holds_all(&c);
                c.delete(&["--force"]).ok();
                return None;
            }
            Some(output)
        });
        failed.expect("ten restores were quicker than a kill").fails(why);
        c.call("state", &[]).fails("does not exist");
        c.assert_clean();
    }
    c.restore(&[]).ok();
    holds_all(&c);
}
