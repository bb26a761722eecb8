//! `events`

use std::ffi::OsStr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use hiber::id::ContainerId;
use hiber::{Ended, Event, EventsOptions, Exec, ExitStatus, FollowingMemory};
use serde::Serialize;
use serde_json::{Value, json};

use crate::containers::Containers;
use crate::line::command::{Cli, Command, Run};
use crate::line::flag::{self, Flag, Flags, flags};
use crate::line::refusal::Refusal;
use crate::output::out;

/// How often `events` tells what a container uses, unless told otherwise.
const STATS_INTERVAL: Duration = Duration::from_secs(5);

/// A span of time that is more than none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Interval(Duration);

impl flag::Value for Interval {
    fn read(flag: &str, text: &OsStr) -> Result<Self, Refusal> {
        let span = Duration::read(flag, text)?;
        if span.is_zero() {
            return Err(Refusal::value("duration interval must be greater than 0"));
        }
        Ok(Self(span))
    }
}

flags! {
    struct EventsFlags {
        interval: Option<Interval> =
            Flag::value("interval", "TIME", "time between statistics, such as 1s or 100ms (default: 5s)"),
        lifecycle: bool = Flag::switch("lifecycle", "from its creation to its deletion, without statistics"),
        stats: bool = Flag::switch("stats", "show statistics once, and leave"),
    }
}

pub(crate) const COMMAND: Command =
    Command::on_container("events", "show what happens in a container and what it uses, as JSON", |m| {
        Ok(Box::new(Events { id: m.container()?, flags: EventsFlags::read(m)? }))
    })
    .description(
        "A line of statistics every --interval, a line each time the kernel runs out of memory for the container,\n\
         and a line when it is started, paused, resumed, checkpointed or migrated, when its memory arrives after a\n\
         restore, when a process is executed in it (exec-added, exec-started) and when one ends (exit), whoever\n\
         does it; until the container has stopped. Lines of type stats and oom are runc's.\n\n\
         With --lifecycle the events since the container's creation come first, and the lines go on until the\n\
         container is deleted; statistics come only with --interval.",
    )
    .examples(&[("events --stats web", "show what web uses now")])
    .flags(EventsFlags::TABLE);

#[derive(Debug)]
struct Events {
    id: ContainerId,
    flags: EventsFlags,
}

impl Run for Events {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let task = Containers::new(cli)?.task(&self.id)?;
        let EventsFlags { interval, lifecycle, stats } = self.flags;
        if stats {
            write(&self.id, &Event::Stats(Box::new(task.stats()?)), None)?;
            return Ok(ExitCode::SUCCESS);
        }
        let standard = (!lifecycle).then_some(STATS_INTERVAL);
        let interval = interval.map(|Interval(span)| span).or(standard);
        for event in
            task.events(EventsOptions::default().interval(interval).past(lifecycle).until_deleted(lifecycle))?
        {
            let event = event?;
            let ended = matches!(event, Event::Exit { exec: None, .. });
            let memory = ended.then(|| task.following_memory()).flatten();
            write(&self.id, &event, memory)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A line of `events`, its members in the order in which runc writes them: there are scripts that look for that.
#[derive(Serialize)]
struct Line<'a, D> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<D>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
}

impl<D: Serialize> Line<'_, D> {
    fn write(&self) -> anyhow::Result<()> {
        Ok(out::write(&format!("{}\n", serde_json::to_string(self)?))?)
    }
}

/// Those of type `stats` and `oom` are runc's. `memory` is the progress of that of a container that has ended.
fn write(id: &ContainerId, event: &Event, memory: Option<FollowingMemory>) -> anyhow::Result<()> {
    let id = id.as_str();
    let bare = |kind| Line::<Value> { kind, id, data: None, time: None };
    match event {
        Event::Stats(usage) => Line { kind: "stats", id, data: Some(usage), time: None }.write(),
        Event::Oom => bare("oom").write(),
        Event::Lifecycle { time, what } => {
            let mut what = serde_json::to_value(what)?;
            let data = what.get_mut("data").map(Value::take);
            let kind = what["type"].as_str().unwrap_or_default();
            Line { kind, id, data, time: Some(rfc3339(time)) }.write()
        }
        Event::Exit { exec, status } => {
            let mut data = exit(exec.as_ref(), status);
            if let Some(FollowingMemory::Failed { .. } | FollowingMemory::Lost { .. }) = memory {
                data["memory"] = serde_json::to_value(memory)?;
            }
            let data = Some(data);
            Line { kind: "exit", id, data, time: Some(rfc3339(&status.at)) }.write()
        }
        Event::Deleted => bare("deleted").write(),
        _ => Ok(()),
    }
}

/// How a process ended; what is not known is left out.
fn exit(exec: Option<&Exec>, status: &ExitStatus) -> Value {
    let mut data = json!({"oomKilled": status.oom_killed});
    match status.ended {
        Ended::Exited(_) => data["code"] = status.code().into(),
        Ended::Signaled(signal) => {
            data["code"] = status.code().into();
            data["signal"] = signal.into();
        }
        _ => {}
    }
    if let Some(exec) = exec {
        data["pid"] = exec.pid.into();
        data["exec"] = exec.id.clone().into();
    }
    data
}

fn rfc3339(time: &SystemTime) -> String {
    humantime::format_rfc3339_nanos(*time).to_string()
}
