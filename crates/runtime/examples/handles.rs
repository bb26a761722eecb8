//! `handles ROOT ID`: each operation on a running container, by a handle that is kept and by one that is opened for it.
//!
//! For `hack/bench-handles`, which counts its system calls: before and after each operation it looks for a file whose
//! name says which that is.
#![forbid(unsafe_code)]

use std::path::Path;

use hiber::Signal;
use hiber::{EventsOptions, ExecOptions, Runtime, Task};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
type Operation = fn(&Task) -> Result<()>;

const OPERATIONS: [(&str, Operation); 7] = [
    ("state", |task| Ok(task.status().map(drop)?)),
    ("ps", |task| Ok(task.pids().map(drop)?)),
    ("stats", |task| Ok(task.stats().map(drop)?)),
    ("pause", |task| Ok(task.pause()?)),
    ("resume", |task| Ok(task.resume()?)),
    ("kill", |task| Ok(task.kill(Signal::new(18).ok_or("SIGCONT")?)?)),
    ("exec", |task| {
        let mut process = task.container().spec()?.process().clone().ok_or("no process")?;
        process.set_args(Some(vec!["true".into()]));
        let process = task.exec(&process, &ExecOptions::default())?;
        while process.exit_status().is_none() {
            rustix::event::poll(
                &mut [rustix::event::PollFd::from_borrowed_fd(process.pidfd(), rustix::event::PollFlags::IN)],
                None,
            )?;
        }
        Ok(())
    }),
];

fn main() -> Result<()> {
    hiber::run_init_if_asked();
    let mut args = std::env::args().skip(1);
    let (Some(root), Some(id)) = (args.next(), args.next()) else {
        return Err("usage: handles ROOT ID".into());
    };
    let runtime = Runtime::new(Path::new(&root));
    let id = id.parse()?;
    let kept = runtime.open(&id)?.task()?;
    // A handle that is kept has been used before; following the container is a use, too.
    drop(kept.events(EventsOptions::default())?);
    for (_, operation) in OPERATIONS {
        operation(&kept)?;
    }
    for (name, operation) in OPERATIONS {
        marked(name, "kept", || operation(&kept))?;
    }
    for (name, operation) in OPERATIONS {
        marked(name, "opened", || operation(&runtime.open(&id)?.task()?))?;
    }
    marked("nothing", "kept", || Ok(()))
}

fn marked(name: &str, how: &str, operation: impl FnOnce() -> Result<()>) -> Result<()> {
    let mark = |when: &str| Path::new("/mark").join(name).join(how).join(when).exists();
    mark("begin");
    let result = operation();
    mark("end");
    result
}
