//! How far a migration is: a bar at a terminal, lines elsewhere, and JSON for programs.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use hiber::migrate::{Phase, Progress, Stage};
use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::out;
use crate::line::value::Format;

/// How often a program is told, and a file.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(5);

/// Shows progress on standard output. Nobody's container is given up because that cannot be told.
#[derive(Debug)]
pub(crate) struct Shown {
    to: To,
    /// The stage that was shown last, and when.
    last: Option<(Stage, Instant)>,
}

#[derive(Debug)]
enum To {
    Program,
    Terminal(ProgressBar),
    File,
}

impl Shown {
    pub(crate) fn new(format: Format) -> Self {
        let to = match format {
            Format::Json => To::Program,
            Format::Table if std::io::stdout().is_terminal() => {
                To::Terminal(ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout()))
            }
            Format::Table => To::File,
        };
        Self { to, last: None }
    }

    pub(crate) fn show(&mut self, phase: Phase) {
        let (word, bytes) = match phase {
            Phase::Accepted { .. } => ("accepted", None),
            Phase::Rootfs { bytes, .. } => ("rootfs", Some(bytes)),
            Phase::Dumping => ("dumping", None),
            Phase::Sending { bytes } => ("sending", Some(bytes)),
            Phase::Restoring => ("restoring", None),
            Phase::Committed => ("committed", None),
            Phase::Arrived => ("arrived", None),
            Phase::Moving(progress) => return self.moving(&progress),
            _ => return,
        };
        let words = || bytes.map_or(word.to_owned(), |bytes| format!("{word}: {}", BinaryBytes(bytes)));
        match &self.to {
            To::Program => {
                let mut line = json!({ "phase": word });
                if let Some(bytes) = bytes {
                    line["bytes"] = bytes.into();
                }
                if let Phase::Accepted { clock } = phase {
                    line["clockAheadMilliseconds"] = clock.into();
                }
                let _ = out::write(&format!("{line}\n"));
            }
            To::Terminal(bar) => {
                bar.set_style(style("{spinner} {msg}"));
                bar.set_message(words());
                bar.tick();
            }
            To::File => drop(out::write(&format!("{}\n", words()))),
        }
    }

    fn moving(&mut self, progress: &Progress) {
        let often = match self.to {
            To::Program => OFTEN,
            To::Terminal(_) => Duration::ZERO,
            To::File => SELDOM,
        };
        let now = Instant::now();
        if self.last.is_some_and(|(stage, last)| stage == progress.stage && now - last < often) {
            return;
        }
        self.last = Some((progress.stage, now));
        match &self.to {
            To::Program => drop(out::write(&format!("{}\n", as_json(progress)))),
            To::Terminal(bar) => {
                let shape =
                    if progress.total.is_some() { "{msg} [{bar:24}]{prefix}" } else { "{msg}{prefix}" };
                bar.set_style(style(shape));
                bar.set_length(progress.total.unwrap_or(progress.done));
                bar.set_position(progress.done);
                bar.set_message(name(progress.stage));
                bar.set_prefix(details(progress));
            }
            To::File => drop(out::write(&format!("{}:{}\n", name(progress.stage), details(progress)))),
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let To::Terminal(bar) = &self.to {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn name(stage: Stage) -> String {
    match stage {
        Stage::Rootfs(1) => "root filesystem".into(),
        Stage::Rootfs(pass) => format!("root filesystem, pass {pass}"),
        Stage::Round(round) => format!("memory, round {round}"),
        Stage::Rest => "memory, the rest".into(),
        Stage::PostCopy => "memory that follows".into(),
        _ => "more".into(),
    }
}

fn details(progress: &Progress) -> String {
    let mut text = format!(" {}", BinaryBytes(progress.done));
    if let Some(total) = progress.total {
        let left = total.saturating_sub(progress.done);
        let _ = write!(text, " of {}, {} left", BinaryBytes(total), BinaryBytes(left));
    }
    if let Some(rate) = progress.rate {
        let _ = write!(text, ", {}/s", BinaryBytes(rate));
    }
    if let Some(downtime) = progress.downtime {
        let _ = write!(text, ", downtime about {} ms", downtime.as_millis());
    }
    text
}

fn as_json(progress: &Progress) -> serde_json::Value {
    let (stage, number) = match progress.stage {
        Stage::Rootfs(pass) => ("rootfs", Some(pass)),
        Stage::Round(round) => ("memory", Some(round)),
        Stage::Rest => ("rest", None),
        Stage::PostCopy => ("post-copy", None),
        _ => ("more", None),
    };
    let mut line = json!({ "phase": "moving", "stage": stage, "bytes": progress.done });
    let more = [
        ("round", number.map(u64::from)),
        ("totalBytes", progress.total),
        ("bytesPerSecond", progress.rate),
        ("downtimeMilliseconds", progress.downtime.map(|time| time.as_millis() as u64)),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            line[name] = value.into();
        }
    }
    line
}
