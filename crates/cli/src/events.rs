//! `events` and `update`.

use std::fs::File;
use std::time::SystemTime;

use anyhow::{Context, bail};
use hiber::{Ended, Event, EventsOptions, Exec, ExitStatus};
use hiber_sandbox::config;
use serde::Serialize;
use serde_json::{Value, json};

use super::args::{EventsArgs, UpdateArgs, UpdateSource};
use super::commands::Session;
use super::out;
use hiber::id::ContainerId;

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

/// Those of type `stats` and `oom` are runc's.
fn write(id: &ContainerId, event: &Event) -> anyhow::Result<()> {
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
            let data = Some(exit(exec.as_ref(), status));
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

impl Session {
    /// `events`
    pub(crate) fn events(&self, args: &EventsArgs) -> anyhow::Result<()> {
        let task = self.task(&args.id)?;
        if args.stats {
            return write(&args.id, &Event::Stats(Box::new(task.stats()?)));
        }
        let options =
            EventsOptions { interval: args.interval, past: args.lifecycle, until_deleted: args.lifecycle };
        for event in task.events(options)? {
            write(&args.id, &event?)?;
        }
        Ok(())
    }

    /// `update`
    pub(crate) fn update(&self, args: &UpdateArgs) -> anyhow::Result<()> {
        let task = self.task(&args.id)?;
        // Intel RDT, a group of resctrl, is no cgroup.
        if !args.intel_rdt.is_empty() && !task.container().facts()?.resctrl.update(&args.intel_rdt)? {
            bail!("updating a non-existent Intel RDT configuration is not supported");
        }
        let resources = match &args.source {
            UpdateSource::Flags(resources) => (**resources).clone(),
            UpdateSource::Stdin => config::load_resources(std::io::stdin().lock())?,
            UpdateSource::File(path) => {
                let file =
                    File::open(path).with_context(|| format!("open --resources {}", path.display()))?;
                config::load_resources(file)?
            }
        };
        Ok(task.update(&resources)?)
    }
}
