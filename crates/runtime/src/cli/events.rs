//! `events` and `update`.

use std::fs::File;
use std::time::SystemTime;

use anyhow::{Context, bail};
use hiber::{Ended, Event, EventsOptions, Exec, ExitStatus};
use hiber_sandbox::config;
use serde_json::{Value, json};

use super::args::{EventsArgs, UpdateArgs, UpdateSource};
use super::commands::Session;
use super::out;
use hiber::id::ContainerId;

/// A line of `events`. Those of type `stats` and `oom` are runc's.
fn line(id: &ContainerId, event: &Event) -> serde_json::Result<Value> {
    let timed = |time: &SystemTime| json!({"id": id.as_str(), "time": rfc3339(time)});
    let mut line = json!({"id": id.as_str()});
    match event {
        Event::Stats(usage) => {
            line["type"] = "stats".into();
            line["data"] = serde_json::to_value(usage)?;
        }
        Event::Oom => line["type"] = "oom".into(),
        Event::Lifecycle { time, what } => {
            line = timed(time);
            let Value::Object(what) = serde_json::to_value(what)? else { return Ok(line) };
            what.into_iter().for_each(|(key, value)| line[key.as_str()] = value);
        }
        Event::Exit { exec, status } => {
            line = timed(&status.at);
            line["type"] = "exit".into();
            line["data"] = exit(exec.as_ref(), status);
        }
        Event::Deleted => line["type"] = "deleted".into(),
        _ => {}
    }
    Ok(line)
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
        let write = |event: &Event| -> anyhow::Result<()> {
            Ok(out::write(&format!("{}\n", line(&args.id, event)?))?)
        };
        if args.stats {
            return write(&Event::Stats(Box::new(task.stats()?)));
        }
        let options =
            EventsOptions { interval: args.interval, past: args.lifecycle, until_deleted: args.lifecycle };
        for event in task.events(options)? {
            write(&event?)?;
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
