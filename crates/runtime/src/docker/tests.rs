use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use super::*;
use crate::container::exit::Ended;
use crate::container::wait::{Condition, Wait};

type Cell = StateCell<&'static str, &'static str>;
type Change<'a> = &'a dyn Fn(&Cell);

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn now() -> SystemTime {
    NOW + Duration::from_secs(1_000_000_000)
}

fn ago(seconds: u64) -> Option<SystemTime> {
    Some(now() - Duration::from_secs(seconds))
}

fn pid() -> NonZeroU32 {
    NonZeroU32::new(42).unwrap()
}

/// A cell after some transitions.
fn after(changes: &[Change<'_>]) -> Cell {
    let cell = Cell::default();
    changes.iter().for_each(|change| change(&cell));
    cell
}

fn run(cell: &Cell) {
    cell.set_running("container", "task", pid(), ago(180));
}

fn stop(cell: &Cell) {
    cell.set_stopped(Exit { code: 137, oom_killed: true }, ago(7200));
}

fn restart(cell: &Cell) {
    cell.set_restarting(Exit { code: 1, oom_killed: false }, ago(2));
}

fn pause(cell: &Cell) {
    assert!(cell.set_paused(true));
}

fn remove(cell: &Cell) {
    assert!(cell.set_removal_in_progress());
}

fn die(cell: &Cell) {
    assert!(cell.set_dead());
}

#[test]
fn words_and_lines() {
    let health = |health| move |cell: &Cell| cell.set_health(Some(health));
    let (starting, healthy, sick) =
        (health(Health::Starting), health(Health::Healthy), health(Health::Unhealthy));
    let never_finished: Change<'_> = &|_| {};
    let table: &[(&[Change<'_>], &str, &str)] = &[
        (&[never_finished], "created", "Created"),
        (&[&run], "running", "Up 3 minutes"),
        (&[&run, &starting], "running", "Up 3 minutes (health: starting)"),
        (&[&run, &healthy], "running", "Up 3 minutes (healthy)"),
        (&[&run, &sick], "running", "Up 3 minutes (unhealthy)"),
        (&[&run, &sick, &pause], "paused", "Up 3 minutes (Paused)"),
        (&[&run, &remove], "running", "Up 3 minutes"),
        (&[&run, &restart], "restarting", "Restarting (1) 2 seconds ago"),
        (&[&run, &restart, &run], "running", "Up 3 minutes"),
        (&[&run, &stop], "exited", "Exited (137) 2 hours ago"),
        (&[&run, &pause, &stop], "exited", "Exited (137) 2 hours ago"),
        (&[&run, &stop, &remove], "removing", "Removal In Progress"),
        (&[&run, &stop, &die], "dead", "Dead"),
        (&[&run, &stop, &remove, &die], "removing", "Removal In Progress"),
        (&[&run, &stop, &remove, &die, &Cell::reset_removal_in_progress], "dead", "Dead"),
        (&[&remove], "removing", "Removal In Progress"),
        (&[&stop], "created", "Created"),
    ];
    for (changes, word, line) in table {
        let state = after(changes).get();
        assert_eq!((state.word().as_str(), state.line(now()).as_str()), (*word, *line));
        assert_eq!(word.parse::<Word>().unwrap(), state.word());
        // and as JSON
        let json = serde_json::to_value(&state).unwrap();
        assert_eq!(json["Status"], *word);
        assert_eq!(serde_json::from_value::<State>(json).unwrap(), state);
    }
    // A run whose end nobody has seen.
    let flags = Flags { started_at: "2026-01-01T00:00:00Z".into(), ..Flags::default() };
    let state = State::try_from(flags).unwrap();
    assert_eq!((state.word(), state.line(now()).as_str()), (Word::Exited, ""));
    let error = "up".parse::<Word>().unwrap_err().to_string();
    assert!(
        error.starts_with("invalid container state \"up\": expected one of paused, restarting,"),
        "{error}"
    );
}

#[test]
fn flags_are_dockers() {
    let state = after(&[&run, &pause]).get();
    let json = serde_json::to_value(&state).unwrap();
    let expected = serde_json::json!({
        "Status": "paused", "Running": true, "Paused": true, "Restarting": false, "OOMKilled": false,
        "RemovalInProgress": false, "Dead": false, "Pid": 42, "ExitCode": 0, "Error": "",
        "StartedAt": "2001-09-09T01:43:40.000000000Z", "FinishedAt": "0001-01-01T00:00:00Z"
    });
    assert_eq!(json, expected);
    let stopped = Flags::from(after(&[&run, &stop, &|c: &Cell| c.set_error("no")]).get());
    assert_eq!((stopped.exit_code, stopped.oom_killed, stopped.error.as_str()), (137, true, "no"));
    assert_eq!((stopped.pid, stopped.running), (0, false));
    let restarting = Flags::from(after(&[&run, &restart]).get());
    assert_eq!((restarting.running, restarting.restarting, restarting.pid), (true, true, 0));
}

#[test]
fn what_cannot_be_is_not_read() {
    let table = [
        (r#"{"Paused": true}"#, "Paused without Running"),
        (r#"{"Restarting": true}"#, "Restarting without Running"),
        (r#"{"Running": true}"#, "Running without a Pid"),
        (r#"{"Running": true, "Pid": 1, "Dead": true}"#, "Running and Dead"),
        (r#"{"Running": true, "Pid": 1, "ExitCode": 1}"#, "Running with an ExitCode or OOMKilled"),
        (r#"{"Running": true, "Pid": 1, "Restarting": true}"#, "Restarting with a Pid"),
        (r#"{"Running": true, "Restarting": true, "Paused": true}"#, "Restarting and Paused"),
        (r#"{"Pid": 1}"#, "a Pid without Running"),
        (r#"{"StartedAt": "soon"}"#, "StartedAt \"soon\": expected a time"),
        (r#"{"Health": {"Status": "fine"}}"#, "Health.Status \"fine\": expected starting, healthy"),
    ];
    for (json, why) in table {
        let error = serde_json::from_str::<State>(json).unwrap_err().to_string();
        assert!(error.contains(why), "{json}: {error}");
    }
    let none = serde_json::from_str::<State>(r#"{"Health": {"Status": "none"}}"#).unwrap();
    assert_eq!(none, State::new());
}

#[test]
fn a_run_clears_what_the_last_one_left() {
    let cell = after(&[&run, &stop, &|c: &Cell| c.set_error("no")]);
    let finished = cell.get().finished_at();
    cell.set_running("container", "task", pid(), None);
    let state = cell.get();
    assert_eq!((state.exit_code(), state.is_oom_killed(), state.error()), (0, false, None));
    assert_eq!(state.started_at(), ago(180), "found again, not started");
    assert_eq!(state.finished_at(), finished, "of the run before");
    assert_eq!(state.pid(), Some(pid()));
    let before = SystemTime::now();
    cell.set_stopped(Exit::default(), None);
    assert!(cell.get().finished_at().unwrap() >= before);
    assert!(!cell.set_paused(true), "nothing to freeze");
    assert_eq!(cell.get().word(), Word::Exited);
}

#[test]
fn removal_begins_once_and_the_dead_do_not_run() {
    let cell = Cell::default();
    assert!(cell.set_removal_in_progress());
    assert!(!cell.set_removal_in_progress());
    cell.reset_removal_in_progress();
    assert!(cell.set_removal_in_progress());
    run(&cell);
    assert!(!cell.set_dead());
    assert_eq!(cell.get().word(), Word::Running);
}

#[test]
fn references_are_handed_out_while_they_are_valid() {
    let cell = Cell::default();
    assert_eq!((cell.container(), cell.task()), (None, None));
    run(&cell);
    assert_eq!((cell.container(), cell.task()), (Some("container"), Some("task")));
    stop(&cell);
    assert_eq!((cell.container(), cell.task()), (Some("container"), None));
    cell.set_removed(None);
    assert_eq!((cell.container(), cell.task()), (None, None));
}

/// Codes of waits; none where they go on.
fn codes(waits: &[Wait]) -> Vec<Option<i32>> {
    waits.iter().map(|wait| wait.try_get().map(|status| status.code())).collect()
}

#[test]
fn waiters_are_told_by_what_they_wait_for() {
    let all = [Condition::NotRunning, Condition::NextExit, Condition::Removed];
    let wait = |cell: &Cell| all.map(|condition| cell.wait(condition));
    let created = Cell::default();
    assert_eq!(codes(&wait(&created)), [Some(0), None, None]);
    assert_eq!(created.wait(Condition::NotRunning).get().ended, Ended::NotYet);

    let cell = after(&[&run]);
    let first = wait(&cell);
    assert_eq!(codes(&first), [None; 3]);
    restart(&cell);
    assert_eq!(codes(&first), [Some(1), Some(1), None]);
    let second = wait(&cell);
    assert_eq!(codes(&second), [None; 3], "it counts as running");
    run(&cell);
    stop(&cell);
    assert_eq!(codes(&second), [Some(137), Some(137), None]);
    let status = second[0].get();
    assert_eq!((status.oom_killed, Some(status.at)), (true, ago(7200)));
    let third = wait(&cell);
    assert_eq!(codes(&third), [Some(137), None, None]);
    cell.set_removed(Some("busy"));
    assert_eq!(codes(&third), [Some(137), Some(137), Some(137)]);
    assert_eq!(third[2].get().error.as_deref(), Some("busy"));
    assert_eq!(codes(&first), [Some(1), Some(1), Some(137)]);
    assert_eq!(codes(&wait(&cell))[2], Some(137), "removed is answered at once");
}

#[test]
fn a_wait_can_be_cancelled_or_limited_and_never_blocks() {
    let cell = after(&[&run]);
    let (cancelled, limited, kept) =
        (cell.wait(Condition::NextExit), cell.wait(Condition::NextExit), cell.wait(Condition::NextExit));
    let waiting = {
        let wait = cancelled.clone();
        std::thread::spawn(move || wait.get())
    };
    cancelled.cancel("the caller went away");
    let status = waiting.join().unwrap();
    assert_eq!((status.code(), status.error.as_deref()), (-1, Some("the caller went away")));
    let status = limited.within(Duration::from_millis(5));
    assert_eq!((status.code(), status.error.as_deref()), (-1, Some("the time limit of 5ms is over")));
    // Nobody takes these results: telling goes on all the same.
    drop(cell.wait(Condition::NextExit));
    stop(&cell);
    assert_eq!((kept.within(Duration::MAX).code(), cancelled.get().code()), (137, -1));
}

#[test]
fn a_wait_is_a_future() {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Poll, Wake};

    struct Count(AtomicU32);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let count = Arc::new(Count(AtomicU32::new(0)));
    let waker = Arc::clone(&count).into();
    let mut context = Context::from_waker(&waker);
    let cell = after(&[&run]);
    let mut wait = pin!(cell.wait(Condition::NotRunning));
    assert!(wait.as_mut().poll(&mut context).is_pending());
    assert!(wait.as_mut().poll(&mut context).is_pending());
    stop(&cell);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert!(matches!(wait.poll(&mut context), Poll::Ready(status) if status.code() == 137));
}
