//! Memory that is copied while the container runs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::interchange::{CGROUPS_IGNORED, beside_crun};
use crate::{count, counter, counts_on};
use hiber_tests::prelude::*;
use nix::mount::{MsFlags, mount};
use nix::sys::ptrace;
use nix::unistd::Pid;

/// How often a container with hostile memory sleeps and wakes; `HIBER_TORTURES` says otherwise.
const TORTURES: usize = 20;

/// A container whose program does to its memory all that can be done, and knows what must be in it.
pub(crate) fn torture(change: impl FnOnce(Bundle) -> Bundle) -> Container {
    torture_of(&Runtime::hiber(), change)
}

fn torture_of(runtime: &Runtime, change: impl FnOnce(Bundle) -> Bundle) -> Container {
    let bundle = Bundle::busybox().args(["/bin/torture", "3", "1500"]);
    hiber_tests::programs::install("torture", &bundle);
    let c = runtime.container(change(bundle));
    c.run_detached().ok();
    wait_for("the program to begin", || steps(&c) > 0);
    c
}

/// How much it has done.
fn steps(c: &Container) -> u64 {
    let mut word = [0; 8];
    let file = fs::File::open(c.bundle().rootfs().join("done"));
    file.and_then(|file| file.read_exact_at(&mut word, 0)).map_or(0, |()| u64::from_ne_bytes(word))
}

/// Checks that it goes on, and has found nothing wrong.
#[track_caller]
pub(crate) fn works_on(c: &Container, what: &str) {
    let before = steps(c);
    let failure = c.bundle().rootfs().join("fail");
    wait_for("the program to go on", || steps(c) > before + 200 || failure.exists());
    let failure = fs::read_to_string(failure).unwrap_or_default();
    assert_eq!(failure, "", "{what}");
}

/// Checkpoints it and restores it, again and again, in all ways in turn.
fn sleeps_and_wakes(c: &Container, times: usize) {
    let ways: [&[&str]; 4] = [
        &["--pre-copy", "on"],
        &["--pre-copy", "on", "--max-frozen", "1ms", "--max-rounds", "30"],
        &["--pre-copy", "on", "--max-rounds", "1", "--leave-running"],
        &["--pre-copy", "off"],
    ];
    for n in 0..times {
        let way = ways[n % ways.len()];
        c.checkpoint(way).ok();
        let what = format!("round {n}, {way:?}");
        if way.contains(&"--leave-running") {
            works_on(c, &what);
            c.delete(&["--force"]).ok();
        }
        Runtime::hiber().run(&["inspect", "--verify", &c.images().display().to_string()]).ok();
        c.restore(&[]).ok();
        works_on(c, &what);
    }
}

#[test]
fn no_page_is_ever_stale() {
    require!(Root, Criu, CPrograms);
    let times = std::env::var("HIBER_TORTURES").ok().map_or(TORTURES, |times| times.parse().unwrap());
    let c = torture(|bundle| bundle);
    sleeps_and_wakes(&c, times);
    c.delete(&["--force"]).ok();
    c.assert_clean();
}

/// Does `work` with a /run in memory that nobody else sees: there CRIU keeps its notes about the kernel, by which it can be told
/// to leave memory to hiber.
pub(crate) fn with_notes(work: impl FnOnce() + Send) {
    let with_own_run = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let (none, all) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount(none, "/", none, all, none).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        work();
    };
    std::thread::scope(|scope| {
        let done = scope.spawn(with_own_run).join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Checks that CRIU has neither read nor sent memory that can be read.
#[track_caller]
fn was_left_to_hiber(c: &Container) {
    let stats = hiber_criu::images::dump_stats(&c.images()).unwrap();
    assert!(stats.pages_skipped_parent > 1000 && stats.pages_written < 100, "{stats:?}");
    assert!(!c.images().join("parent").exists());
}

#[test]
fn no_page_is_ever_stale_that_criu_leaves_to_hiber() {
    require!(Root, Criu, CPrograms);
    let times = std::env::var("HIBER_TORTURES").ok().map_or(TORTURES, |times| times.parse().unwrap());
    with_notes(|| {
        let c = torture(|bundle| bundle);
        // The first CRIU makes the notes.
        c.checkpoint(&[]).ok();
        c.restore(&[]).ok();
        // With `off` CRIU writes the memory if it happens to be little at that moment.
        c.checkpoint(&["--pre-copy", "on"]).ok();
        was_left_to_hiber(&c);
        c.restore(&[]).ok();
        works_on(&c, "left to hiber");
        sleeps_and_wakes(&c, times);
        // Others are told what is true.
        let could_be_told = hiber_criu::own_tracking::notes_with_tracking().is_some();
        assert_ne!(could_be_told, hiber_tests::require::Need::DirtyTracking.check().is_ok());
        c.delete(&["--force"]).ok();
        c.assert_clean();
    });
}

#[test]
fn a_program_is_tracked_whose_filter_denies_that() {
    require!(Root, Criu, CPrograms);
    let denied = ["userfaultfd", "ptrace", "process_vm_readv"];
    let c = torture(|bundle| {
        bundle.edit(|c| {
            let names = json!({"names": denied, "action": "SCMP_ACT_KILL_PROCESS"});
            c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [names]});
        })
    });
    c.checkpoint(&["--pre-copy", "on", "--leave-running"]).ok();
    works_on(&c, "confined");
}

#[test]
fn a_program_in_a_user_namespace_is_tracked() {
    require!(Root, Criu, CPrograms);
    let c = torture(|bundle| bundle.user_namespace(100_000));
    sleeps_and_wakes(&c, 2);
}

#[track_caller]
fn taken_over(ours: &Runtime, other: &Runtime, change: impl Fn(Bundle) -> Bundle, flags: &[&str]) {
    for way in [["--pre-copy", "on"], ["--pre-copy", "off"]] {
        let c = torture_of(ours, &change);
        c.checkpoint(&[&way[..], flags].concat()).ok();
        let restored = c.in_hands_of(other);
        restored.restore(flags).ok();
        works_on(&restored, &format!("{way:?}"));
        restored.delete(&["--force"]).ok();
    }
}

#[test]
fn runc_restores_what_was_copied_ahead() {
    require!(Root, Criu, Runc, CPrograms);
    taken_over(&Runtime::hiber(), &Runtime::runc(), |bundle| bundle, &[]);
}

#[test]
fn crun_restores_what_was_copied_ahead() {
    require!(Root, Criu, Crun, CPrograms);
    let unmasked = |bundle: Bundle| bundle.edit(|c| c["linux"]["maskedPaths"] = json!([]));
    taken_over(&beside_crun(), &Runtime::crun(), unmasked, &CGROUPS_IGNORED);
}

#[test]
fn criu_alone_restores_what_was_copied_ahead() {
    require!(Root, Criu, CPrograms);
    // Parts from outside have keys that only hiber knows.
    let c = torture(|bundle| {
        bundle.edit(|c| {
            c["linux"]["maskedPaths"] = json!([]);
            c["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "cgroup");
        })
    });
    c.checkpoint(&["--pre-copy", "on", "--manage-cgroups-mode", "ignore"]).ok();
    let (root, work) = (c.bundle().rootfs(), c.bundle().join("work"));
    fs::create_dir(&work).unwrap();
    // CRIU wants the root to be a mount point.
    let mut criu = Command::new("unshare");
    criu.args(["--mount", "sh", "-c", "mount --bind \"$0\" \"$0\" && exec \"$@\""]).arg(&root);
    criu.arg(hiber_tests::tools::criu().unwrap()).args([
        "restore",
        "--manage-cgroups=ignore",
        "--restore-detached",
    ]);
    criu.args(["-v4", "--log-file", "restore.log", "--pidfile", "pid"]).arg("--root").arg(&root);
    criu.arg("--images-dir").arg(c.images()).arg("--work-dir").arg(&work);
    let done = criu.output().unwrap();
    let log = || fs::read_to_string(work.join("restore.log")).unwrap_or_default();
    assert!(done.status.success(), "{done:?}\n{}", log());
    let pid = fs::read_to_string(work.join("pid")).unwrap().trim().parse().unwrap();
    works_on(&c, "criu alone");
    // The pid namespace ends with its first process.
    nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// A program of 32 bits that counts in its memory, and shows the count in a file; it needs no C library.
const NARROW: &str = r#"
static unsigned memory[1 << 20];
static int call(int number, int a, const void *b, int c, int d, int e)
{
	int result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
	return result;
}
void _start(void)
{
	int fd = call(5, (int)"/count", (void *)0102, 0644, 0, 0);
	const int pause[2] = { 0, 1000000 };
	for (unsigned n = 1;; n++) {
		for (unsigned i = 0; i < 1 << 20; i += 1024)
			if (memory[i]++ != n - 1)
				call(1, 1, 0, 0, 0, 0);
		call(181, fd, &n, 4, 0, 0);
		call(162, (int)pause, 0, 0, 0, 0);
	}
}
"#;

#[test]
fn a_32_bit_program_is_copied_while_it_is_frozen() {
    require!(Root, Criu, Program("cc"));
    let bundle = Bundle::busybox().args(["/bin/narrow"]);
    let source = bundle.join("narrow.c");
    fs::write(&source, NARROW).unwrap();
    let flags = ["-m32", "-static", "-nostdlib", "-ffreestanding", "-fno-pic", "-no-pie", "-O1"];
    hiber_tests::tools::compile(source.to_str().unwrap(), &bundle.rootfs().join("bin/narrow"), &flags);
    let c = Runtime::hiber().container(bundle);
    c.run_detached().ok();
    let count = || {
        let mut word = [0; 4];
        let file = fs::File::open(c.bundle().rootfs().join("count"));
        file.and_then(|file| file.read_exact_at(&mut word, 0)).map_or(0, |()| u32::from_le_bytes(word))
    };
    let goes_on = || {
        let before = count();
        wait_for("the program to go on", || count() > before + 5);
    };
    goes_on();
    c.checkpoint(&["--pre-copy", "on"]).fails("runs a 32-bit program");
    goes_on();
    c.checkpoint(&["--pre-copy", "on", "--leave-running"]).fails("runs a 32-bit program");
    c.checkpoint(&[]).ok();
    c.restore(&[]).ok();
    goes_on();
}

/// The traces that tracking could leave in a process: descriptors, areas with their flags, and who traces it.
fn traces(c: &Container) -> String {
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", c.pid())).unwrap();
    let files = fs::read_dir(format!("/proc/{}/fd", c.pid())).unwrap().flatten();
    let mut files: Vec<_> = files.map(|file| fs::read_link(file.path()).unwrap_or_default()).collect();
    files.sort();
    let tracer = read("status").lines().find(|line| line.starts_with("TracerPid")).map(str::to_owned);
    let tracked =
        read("smaps").lines().filter(|line| line.starts_with("VmFlags:") && line.contains(" uw")).count();
    format!("{files:?} {tracer:?} {tracked}")
}

/// Waits until the container has no other traces than `before`, and goes on.
#[track_caller]
fn leaves_nothing(c: &Container, before: &str) {
    let end = Instant::now() + hiber_tests::PATIENCE;
    while traces(c) != before && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(traces(c), before);
    works_on(c, "killed");
}

/// Begins a checkpoint that copies memory in many rounds. It may be through before it is killed: then the container runs on, too.
fn copies_for_long(c: &Container) -> Child {
    let _ = fs::remove_dir_all(c.bundle().join("killed"));
    let images = c.bundle().join("killed/images").display().to_string();
    let rounds = ["--pre-copy", "on", "--max-frozen", "1ns", "--max-rounds", "10000"];
    let flags = [&rounds[..], &["--leave-running", "--image-path", &images]].concat();
    c.command("checkpoint", &flags).spawn().unwrap()
}

#[test]
fn nothing_is_left_of_it() {
    require!(Root, Criu, CPrograms);
    let c = torture(|bundle| bundle);
    let before = traces(&c);
    assert!(before.ends_with("Some(\"TracerPid:\\t0\") 0"), "{before}");
    c.checkpoint(&["--pre-copy", "on", "--leave-running"]).ok();
    assert_eq!(traces(&c), before);
    // Killed at any moment: the container runs on.
    for millis in [10, 30, 50, 100, 150, 300, 600] {
        let mut hiber = copies_for_long(&c);
        std::thread::sleep(Duration::from_millis(millis));
        hiber.kill().unwrap();
        hiber.wait().unwrap();
        leaves_nothing(&c, &before);
        let left = || fs::read_dir(c.bundle().join("killed")).map_or(0, Iterator::count);
        let published = c.bundle().join("killed/images/inventory.img").exists();
        wait_for("the images to go", || left() == usize::from(published));
    }
}

/// In turn while it asks the process what cannot be seen from outside, and while it makes the process hand over its userfaultfd.
#[test]
fn killed_while_threads_make_its_calls_it_leaves_them_as_they_were() {
    // An older kernel tracks memory without the process's help.
    require!(Root, Criu, CPrograms, Linux(6, 7));
    let c = torture(|bundle| bundle);
    let before = traces(&c);
    let status = format!("/proc/{}/status", c.pid());
    let is_traced = || !fs::read_to_string(&status).unwrap_or_default().contains("TracerPid:\t0\n");
    let mut met = [0, 0];
    for round in 0..40 {
        let mut hiber = copies_for_long(&c);
        let end = Instant::now() + Duration::from_secs(5);
        let mut until = |traced: bool| {
            while is_traced() != traced && Instant::now() < end && hiber.try_wait().unwrap().is_none() {}
            is_traced() == traced
        };
        let times = round % 2;
        let found = until(true) && (0..times).all(|_| until(false) && until(true));
        // At another moment of it each time.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(round * 10) {}
        hiber.kill().unwrap();
        hiber.wait().unwrap();
        met[times as usize] += u32::from(found);
        leaves_nothing(&c, &before);
    }
    assert!(met.iter().all(|met| *met > 0), "no moment was met: {met:?}");
}

/// Soft-dirty bits are one for all: who clears them between a pre-dump and the next dump, takes pages from the latter.
#[test]
fn a_pre_dump_is_still_worth_something_after_a_pre_copy() {
    require!(Root, Criu, CPrograms, DirtyTracking);
    let c = torture(|bundle| bundle);
    let images = |name: &str| c.bundle().join(name).display().to_string();
    c.checkpoint(&["--pre-dump", "--image-path", &images("pre")]).ok();
    works_on(&c, "after the pre-dump");
    let copied = ["--pre-copy", "on", "--leave-running", "--image-path", &images("copied")];
    if hiber_tests::require::Need::Linux(6, 7).check().is_ok() {
        c.checkpoint(&copied).ok();
    } else {
        c.checkpoint(&copied).fails("the next dump counts on its soft-dirty bits");
        c.checkpoint(&["--leave-running", "--image-path", &images("copied")]).ok();
    }
    works_on(&c, "after the copy");
    c.checkpoint(&["--parent-path", "../pre"]).ok();
    c.restore(&[]).ok();
    works_on(&c, "of the pre-dump and what was written since");
}

#[test]
fn what_is_traced_by_somebody_is_refused_and_runs_on() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    let pid = Pid::from_raw(c.pid());
    ptrace::seize(pid, ptrace::Options::empty()).unwrap();
    let output = c.checkpoint(&["--pre-copy", "on"]);
    output.fails("it is traced by process");
    assert_eq!(c.status(), "running");
    // It stops at each signal until it is let go.
    ptrace::interrupt(pid).unwrap();
    nix::sys::wait::waitpid(pid, None).unwrap();
    ptrace::detach(pid, None).unwrap();
    counts_on(&c, count(&c));
    c.checkpoint(&["--pre-copy", "on"]).ok();
}

#[test]
fn what_cannot_be_had_together_is_refused() {
    require!(Root, Criu);
    let c = counter(&Runtime::hiber(), Bundle::busybox());
    c.checkpoint(&["--pre-copy", "on", "--pre-dump"])
        .fails("--pre-copy on and --pre-dump exclude each other");
    assert_eq!(c.status(), "running");
}
