//! `docker_states ROOT BUNDLE`: runs a bundle's container and keeps its state as Docker shows it, as a manager of containers would.
//! Prints each state's word and line, and the answers that Docker's three kinds of waiters get.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::num::NonZeroU32;
use std::time::SystemTime;

use hiber::docker::{Exit, StateCell};
use hiber::{Condition, CreateOptions, Ended, Runtime, Stdio, Task};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    hiber::run_init_if_asked();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [root, bundle] = args.as_slice() else { return Err("usage: docker_states ROOT BUNDLE".into()) };
    let runtime = Runtime::new(root.as_ref());
    let id = format!("docker-{}", std::process::id()).parse()?;
    let state = StateCell::default();
    show(&state);
    let removed = state.wait(Condition::Removed);

    let options = CreateOptions::new(bundle).stdio(Stdio::Pipes);
    let task = runtime.create(&id, &options)?;
    let exit = task.wait(Condition::NextExit)?;
    task.start()?;
    let pid = task.pid().and_then(|pid| NonZeroU32::new(pid.unsigned_abs())).ok_or("it has no process")?;
    state.set_running(task.container().clone(), task, pid, Some(SystemTime::now()));
    show(&state);

    // The manager's references are valid as long as the container runs.
    let running: Task = state.task().ok_or("it does not run")?;
    running.pause()?;
    state.set_paused(true);
    show(&state);
    running.resume()?;
    state.set_paused(false);

    let stopped = state.wait(Condition::NotRunning);
    running.kill(hiber::Signal::KILL)?;
    let how = exit.get();
    let ended = Exit { code: u8::try_from(how.code())?, oom_killed: how.oom_killed };
    state.set_stopped(ended, Some(how.at));
    show(&state);
    println!("waiter of the end: {:?}", stopped.get().ended);
    println!("waiter of the removal: {:?}", removed.try_get().map(|status| status.ended));

    if state.set_removal_in_progress() {
        show(&state);
        running.delete()?;
        state.set_removed(None);
    }
    println!("waiter of the removal: {:?}", removed.get().ended);
    println!("as JSON: {}", serde_json::to_string(&state.get())?);
    assert_eq!(removed.get().ended, Ended::Exited(137));
    Ok(())
}

/// Prints the state in a word, and in Docker's line for people.
fn show(state: &StateCell) {
    let state = state.get();
    println!("{}: {}", state.word(), state.line(SystemTime::now()));
}
