//! `events` and `update`.

use std::fs::File;

use anyhow::{Context, bail};
use hiber::Event;
use hiber_sandbox::cgroup::Usage;
use hiber_sandbox::config;
use serde::Serialize;

use super::args::{EventsArgs, UpdateArgs, UpdateSource};
use super::commands::Session;
use super::out;
use hiber::id::ContainerId;

/// A line of `events`.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Usage>,
}

fn write(id: &ContainerId, event: &Event) -> anyhow::Result<()> {
    let (kind, data) = match event {
        Event::Stats(usage) => ("stats", Some(&**usage)),
        Event::Oom => ("oom", None),
    };
    let line = serde_json::to_string(&Line { kind, id: id.as_str(), data })?;
    Ok(out::write(&format!("{line}\n"))?)
}

impl Session {
    /// `events`
    pub(crate) fn events(&self, args: &EventsArgs) -> anyhow::Result<()> {
        let task = self.task(&args.id)?;
        if args.stats {
            return write(&args.id, &Event::Stats(Box::new(task.stats()?)));
        }
        let mut events = task.events(args.interval)?;
        while let Some(event) = events.wait()? {
            write(&args.id, &event)?;
        }
        Ok(())
    }

    /// `update`
    pub(crate) fn update(&self, args: &UpdateArgs) -> anyhow::Result<()> {
        let task = self.task(&args.id)?;
        // Intel RDT, a group of resctrl, is no cgroup.
        if args.intel_rdt {
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
