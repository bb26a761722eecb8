//! Properties that a thread has apart from its process, and those that processes share: CRIU saves a process's own alone.

use std::path::Path;

use hiber_sys::process::{Shareable, share};

use super::Findings;
use super::table::{SHARED, THREAD_APART};
use super::tasks::Proc;

/// Namespaces that a thread can have apart while it shares its directories with the others; mnt and user it cannot.
const NAMESPACES: [&str; 6] = ["net", "ipc", "uts", "cgroup", "pid_for_children", "time_for_children"];

pub(super) fn check(findings: &mut Findings, tasks: &[Proc]) {
    for task in tasks.iter().filter(|task| !task.is_dead()) {
        if task.threads > 1
            && let Some(what) = threads(task)
        {
            findings.of(task, &THREAD_APART, format!("one of its threads has {what} of its own"));
        }
        let parent = tasks.iter().find(|parent| parent.pid == task.parent && !parent.is_dead());
        for (what, said) in [(Shareable::Memory, "memory"), (Shareable::Directories, "working directory")] {
            if parent.is_some_and(|parent| share(task.pid, parent.pid, what).unwrap_or(false)) {
                findings.of(task, &SHARED, format!("it shares its {said} with its parent"));
            }
        }
    }
}

/// A property that a thread has and its process has not.
fn threads(task: &Proc) -> Option<&'static str> {
    let own = NAMESPACES.map(|kind| std::fs::read_link(task.path(&format!("ns/{kind}"))).ok());
    let threads = std::fs::read_dir(task.path("task")).into_iter().flatten().flatten();
    threads.filter_map(|entry| differs(task.pid, &entry.path(), &own)).next()
}

fn differs(process: i32, thread: &Path, own: &[Option<std::path::PathBuf>]) -> Option<&'static str> {
    let number: i32 = thread.file_name()?.to_str()?.parse().ok()?;
    if number == process {
        return None;
    }
    for (what, said) in
        [(Shareable::Directories, "a working directory"), (Shareable::Descriptors, "descriptors")]
    {
        if !share(process, number, what).unwrap_or(true) {
            return Some(said);
        }
    }
    let is_own = |(kind, own): (&&str, &Option<_>)| {
        let namespace = std::fs::read_link(thread.join("ns").join(kind));
        // A thread that ends meanwhile has none.
        namespace.is_err() || namespace.ok() == *own
    };
    (!NAMESPACES.iter().zip(own).all(is_own)).then_some("a namespace")
}
