//! Preflight: what would make a checkpoint or a restore fail, or cost much, found without freezing or changing anything.
//!
//! It looks at /proc, at sockets by copies of their descriptors (pidfd_getfd(2)) and at images. A report describes one moment:
//! the container runs on meanwhile.

mod accept;
mod apart;
mod bound;
mod device_names;
mod dump;
mod explain;
mod files;
mod host;
mod losses;
mod mount_comparison;
mod mounts;
mod network;
pub(crate) mod restore;
mod root_files;
mod sessions;
mod sockets;
mod table;
mod tasks;
mod unsaved;
mod watches;

use std::fmt;

use serde::Serialize;

pub use crate::checkpoint::manifest::AcceptedLoss;
pub use accept::ACCEPT;
pub(crate) use accept::Accepted;
pub(crate) use explain::{explain, explain_restore};
pub(crate) use host::{attacked, check_pipe_size, check_root, check_user_namespace};
pub(crate) use losses::{check_cgroups, check_losses};
pub(crate) use mount_comparison::{MountComparison, compare_mounts};
pub(crate) use network::{check_network, saved_networks};
pub(crate) use restore::{check_restore, numbers_taken};
pub(crate) use table::PARENT_DEATH;
pub use table::{CHECKS, Check, When};
pub(crate) use tasks::before_freezing;
pub(crate) use watches::watched_paths;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The command would fail.
    Error,
    /// A restore would not bring back what is named: the command refuses that, unless it is accepted.
    Loss,
    /// It may fail, or something may be lost.
    Warning,
    /// It works, and takes time or space.
    Cost,
    /// It works; worth knowing.
    #[default]
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Loss => "loss",
            Self::Warning => "warning",
            Self::Cost => "cost",
            Self::Info => "info",
        })
    }
}

/// The report of preflight. The JSON has these names in camelCase.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Report {
    /// `checkpoint` or `restore`.
    pub operation: &'static str,
    /// The container's id.
    pub container: String,
    /// Whether nothing is in the way.
    pub possible: bool,
    /// Memory and files in memory to be written or read, in bytes.
    pub bytes: u64,
    /// About how long the container is frozen, or its restore takes, on an idle machine.
    pub milliseconds: u64,
    /// Worst first.
    pub findings: Vec<Finding>,
}

/// One thing that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Finding {
    /// How serious it is.
    pub severity: Severity,
    /// The [`Check`]'s name.
    pub check: &'static str,
    /// A description of the problem.
    pub what: String,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// A path: in the container where a process is named, else of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The advice.
    pub advice: String,
}

/// A process of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Process {
    /// Its number in the container.
    pub pid: i32,
    /// Its number in the runtime's pid namespace; absent for a process that only images describe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_pid: Option<i32>,
    /// Its command line, or its name.
    pub command: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)?;
        match self.host_pid {
            Some(host) if host != self.pid => write!(f, ", {host} on the host"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Finding {
    /// `process 7 (nc -l): a TCP connection is open: 127.0.0.1:7000 -> …`, without advice.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(process) = &self.process {
            write!(f, "{process}: ")?;
        }
        f.write_str(&self.what)?;
        match &self.path {
            Some(path) => write!(f, ": {path}"),
            None => Ok(()),
        }
    }
}

/// Collects findings.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// Something of the machine or of the whole container.
    fn add(&mut self, check: &'static Check, what: impl Into<String>) -> &mut Finding {
        self.0.push(Finding {
            severity: check.severity,
            check: check.name,
            what: what.into(),
            process: None,
            path: None,
            advice: check.advice.into(),
        });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// An operation that fails as a whole.
    fn failed(&mut self, check: &'static Check, error: &dyn std::error::Error) {
        self.add(check, crate::error::chain(error));
    }

    /// The report; `bytes` and `milliseconds` are what the memory costs.
    fn report(self, operation: &'static str, container: &str, bytes: u64, milliseconds: u64) -> Report {
        let mut findings = self.0;
        findings.sort_by_key(|f| f.severity);
        // The same file may be open in many processes, and one file many times in a process.
        let mut seen = std::collections::HashSet::new();
        findings.retain(|f| {
            seen.insert((f.check, f.what.clone(), f.process.as_ref().map(|p| p.pid), f.path.clone()))
        });
        Report {
            operation,
            container: container.into(),
            possible: findings.iter().all(|f| f.severity > Severity::Loss),
            bytes,
            milliseconds,
            findings,
        }
    }
}

/// `512 B`, `3.4 MiB`.
fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") }
}
