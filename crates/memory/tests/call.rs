//! Calls made in the place of other programs, which must not see them.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hiber_memory::{Error, Seized, Stopped};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use syscalls::Sysno;

/// A program that ends with the test.
struct Program(Child);

impl Program {
    fn new(script: &str) -> Self {
        let mut command = Command::new("sh");
        Self(command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn tid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.tid()).unwrap()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.tid())).unwrap()
    }

    /// Waits until it does what `is` says of its line in `/proc/PID/stat`.
    #[track_caller]
    fn wait_for(&self, state: &str) {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.read("stat").contains(&format!(") {state} ")) {
            assert!(Instant::now() < end, "{}", self.read("stat"));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stopped(&self) -> Stopped {
        Seized::new(self.tid()).unwrap().wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn asks_its_number(stopped: &mut Stopped) {
    let number = stopped.call(Sysno::getpid, [0; 6]).unwrap().unwrap();
    assert_eq!(i32::try_from(number).unwrap(), stopped.tid());
}

#[test]
fn one_that_runs_runs_on() {
    let program = Program::new("while :; do :; done");
    for _ in 0..100 {
        let mut stopped = program.stopped();
        asks_its_number(&mut stopped);
        asks_its_number(&mut stopped);
        stopped.release().unwrap();
    }
    assert!(program.read("stat").contains(") R "), "{}", program.read("stat"));
}

/// Only the kernel knows the remaining time: the registers do not show it.
#[test]
fn one_that_sleeps_sleeps_for_no_longer() {
    let begun = Instant::now();
    let mut program = Program::new("exec sleep 1");
    while begun.elapsed() < Duration::from_millis(800) {
        program.wait_for("S");
        let mut stopped = program.stopped();
        asks_its_number(&mut stopped);
        stopped.release().unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(program.0.wait().unwrap().success());
    let took = begun.elapsed();
    assert!((1000..1600).contains(&took.as_millis()), "{took:?}");
}

/// A shell waits for signals in a call that blocks them before and after.
#[test]
fn no_signal_is_lost_or_comes_too_early() {
    let script = "trap 'echo heard' USR1; echo ready; sleep 20 & while :; do wait; done";
    let mut program = Program::new(script);
    let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    for round in 0..100 {
        let mut stopped = program.stopped();
        if round % 2 == 0 {
            kill_process(program.pid(), Signal::USR1).unwrap();
        }
        asks_its_number(&mut stopped);
        if round % 2 == 1 {
            kill_process(program.pid(), Signal::USR1).unwrap();
        }
        stopped.release().unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "heard");
    }
}

#[test]
fn one_that_is_stopped_stays_so() {
    let program = Program::new("exec sleep 1000");
    program.wait_for("S");
    kill_process(program.pid(), Signal::STOP).unwrap();
    program.wait_for("T");
    let seen = || waitpid(Some(program.pid()), WaitOptions::UNTRACED | WaitOptions::NOHANG).unwrap();
    assert!(seen().is_some_and(|(_, status)| status.stopped()));
    for _ in 0..20 {
        let mut stopped = program.stopped();
        asks_its_number(&mut stopped);
        stopped.release().unwrap();
        program.wait_for("T");
    }
    assert!(seen().is_none(), "its parent is told once");
    kill_process(program.pid(), Signal::CONT).unwrap();
    program.wait_for("S");
}

#[test]
fn what_a_call_writes_comes_back_and_leaves_nothing() {
    let program = Program::new("exec sleep 1000");
    program.wait_for("S");
    let before = program.read("status");
    let mut stopped = program.stopped();
    let mut bytes = *b"other name\0-----";
    // PR_SET_NAME, PR_GET_NAME
    stopped.call_with(&mut bytes, Sysno::prctl, |at| [15, at, 0, 0, 0, 0]).unwrap().unwrap();
    let mut read = [7; 16];
    stopped.call_with(&mut read, Sysno::prctl, |at| [16, at, 0, 0, 0, 0]).unwrap().unwrap();
    assert!(read.starts_with(b"other name\0"), "{read:?}");
    let refused = stopped.call(Sysno::prctl, [u64::MAX; 6]).unwrap();
    assert_eq!(refused.unwrap_err() as i32, rustix::io::Errno::INVAL.raw_os_error());
    stopped.release().unwrap();
    assert_eq!(program.read("comm"), "other name\n");
    let tell =
        |status: &str, field: &str| status.lines().find(|line| line.starts_with(field)).map(str::to_owned);
    for field in ["SigBlk", "SigPnd", "SigCgt", "VmSize", "TracerPid"] {
        assert_eq!(tell(&before, field), tell(&program.read("status"), field));
    }
}

#[test]
fn one_that_ends_is_gone() {
    let program = Program::new("exec sleep 1000");
    program.wait_for("S");
    let mut stopped = program.stopped();
    kill_process(program.pid(), Signal::KILL).unwrap();
    let ended = stopped.call(Sysno::getpid, [0; 6]);
    assert!(matches!(ended, Err(Error::Gone(_))), "{ended:?}");
    assert!(matches!(Seized::new(program.tid()), Err(Error::Gone(_) | Error::Ptrace { .. })));
}
