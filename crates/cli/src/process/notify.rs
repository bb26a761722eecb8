//! Services that tell when they are ready (sd_notify(3)).

use hiber::Task;

/// Where the caller wants to hear that the service is ready.
pub(crate) fn host() -> Option<String> {
    std::env::var("NOTIFY_SOCKET").ok().filter(|path| !path.is_empty())
}

/// Starts a container; where the caller waits for its service, until it is ready.
pub(crate) fn start(task: &Task) -> anyhow::Result<()> {
    let notify = host().map(|host| task.notify(&host)).transpose()?.flatten();
    task.start()?;
    if let (Some(notify), Some(init)) = (notify, task.init()) {
        notify.forward(init.pidfd(), init.pid())?;
    }
    Ok(())
}

/// Starts a container that this process stays with: it is the service's process, then.
pub(crate) fn start_attended(task: &Task) -> anyhow::Result<()> {
    let notify = host().map(|host| task.notify(&host)).transpose()?.flatten();
    task.start()?;
    if let (Some(notify), Some(init)) = (notify, task.init()) {
        let watched = init.clone();
        std::thread::spawn(move || notify.forward(watched.pidfd(), std::process::id() as i32));
    }
    Ok(())
}
