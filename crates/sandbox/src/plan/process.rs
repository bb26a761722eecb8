//! The process of a container, as init needs it.

use std::path::PathBuf;

use oci_spec::runtime::{Capabilities, PosixRlimitType, Process, User};
use serde::{Deserialize, Serialize};

use super::Security;
use crate::{Error, Result, ids};

/// A set of capabilities, one bit each (capabilities(7)).
type CapabilityBits = u64;

/// The five sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    /// The bounding set.
    pub bounding: CapabilityBits,
    /// The effective set.
    pub effective: CapabilityBits,
    /// The permitted set.
    pub permitted: CapabilityBits,
    /// The inheritable set.
    pub inheritable: CapabilityBits,
    /// The ambient set.
    pub ambient: CapabilityBits,
}

/// A resource limit; `u64::MAX` is RLIM_INFINITY (getrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// The `RLIMIT_*` number.
    pub resource: u32,
    /// The limit in force.
    pub soft: u64,
    /// The highest value that the process may set itself.
    pub hard: u64,
}

/// The names of the limits, by their numbers (asm-generic/resource.h).
const RLIMITS: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

impl Rlimit {
    /// `RLIMIT_NOFILE` and so on, as config.json and getrlimit(2) call it; a number without a name is shown as it is.
    pub fn name(&self) -> String {
        let known = usize::try_from(self.resource).ok().and_then(|number| RLIMITS.get(number));
        known.map_or_else(|| format!("RLIMIT {}", self.resource), |name| format!("RLIMIT_{name}"))
    }
}

/// The program, its user, and its attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// From argv\[0\] on; never empty.
    pub args: Vec<String>,
    /// The environment, as `NAME=VALUE`.
    pub env: Vec<String>,
    /// Absolute path in the container.
    pub cwd: PathBuf,
    /// The user id in the container.
    pub uid: u32,
    /// The group id in the container.
    pub gid: u32,
    /// Supplementary group ids.
    pub additional_gids: Vec<u32>,
    /// The file mode creation mask.
    pub umask: Option<u32>,
    /// All empty where config.json has none.
    pub capabilities: CapabilitySets,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// PR_SET_NO_NEW_PRIVS (prctl(2)).
    pub no_new_privileges: bool,
    /// /proc/PID/oom_score_adj, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Whether the standard streams are a new terminal.
    pub terminal: bool,
    /// Rows and columns of the terminal.
    pub console_size: Option<(u16, u16)>,
    /// Profile and label of the Linux security modules.
    pub security: Security,
}

impl ProcessPlan {
    /// Validates `process`.
    pub(super) fn from_spec(process: &Process) -> Result<Self> {
        let args = process.args().clone().unwrap_or_default();
        if args.is_empty() {
            return Err(Error::invalid("process.args", "is empty; expected the program and its arguments"));
        }
        let cwd = process.cwd().clone();
        if !cwd.is_absolute() {
            let given =
                if cwd.as_os_str().is_empty() { "is empty".into() } else { format!("{}", cwd.display()) };
            return Err(Error::invalid("process.cwd", format!("{given}: Cwd must be an absolute path")));
        }
        for (i, variable) in process.env().iter().flatten().enumerate() {
            let problem = match variable.split_once('=') {
                None => "missing '='",
                Some(("", _)) => "name cannot be empty",
                Some(_) => continue,
            };
            let problem = format!("{variable:?}: invalid environment variable: {problem}");
            return Err(Error::invalid(format!("process.env[{i}]"), problem));
        }
        let capabilities = process.capabilities().as_ref().map(capability_sets).unwrap_or_default();
        check_effective(&capabilities)?;
        warn_of_ambient(&capabilities);
        let user = process.user();
        let console_size = process.console_size().map(|b| {
            let clamp = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
            (clamp(b.height()), clamp(b.width()))
        });
        Ok(Self {
            args,
            env: process.env().clone().unwrap_or_default(),
            cwd,
            uid: ids::check("process.user.uid", user.uid())?,
            gid: ids::check("process.user.gid", user.gid())?,
            additional_gids: additional_gids(user)?,
            umask: user.umask(),
            capabilities,
            rlimits: rlimits(process)?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            oom_score_adj: oom_score(process)?,
            terminal: process.terminal().unwrap_or(false),
            console_size,
            security: Security::from_process(process)?,
        })
    }
}

fn additional_gids(user: &User) -> Result<Vec<u32>> {
    let gids = user.additional_gids().clone().unwrap_or_default();
    for (i, gid) in gids.iter().enumerate() {
        ids::check(format!("process.user.additionalGids[{i}]"), *gid)?;
    }
    Ok(gids)
}

fn oom_score(process: &Process) -> Result<Option<i32>> {
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(Error::invalid("process.oomScoreAdj", format!("{score} is not between -1000 and 1000")))
        }
        score => Ok(score),
    }
}

fn capability_sets(sets: &oci_spec::runtime::LinuxCapabilities) -> CapabilitySets {
    let bits = |set: &Option<Capabilities>| set.iter().flatten().map(|c| 1u64 << capability_number(*c)).sum();
    CapabilitySets {
        bounding: bits(sets.bounding()),
        effective: bits(sets.effective()),
        permitted: bits(sets.permitted()),
        inheritable: bits(sets.inheritable()),
        ambient: bits(sets.ambient()),
    }
}

/// Checked here, because the kernel would only report EPERM.
fn check_effective(sets: &CapabilitySets) -> Result<()> {
    let beyond = sets.effective & !sets.permitted;
    if beyond == 0 {
        return Ok(());
    }
    let first =
        caps::all().into_iter().filter(|c| beyond & c.bitmask() != 0).min_by_key(caps::Capability::index);
    let name = first.map_or_else(String::new, |c| c.to_string());
    Err(Error::invalid(
        "process.capabilities.effective",
        format!("{name} is not in process.capabilities.permitted"),
    ))
}

/// Ambient capabilities must be permitted and inheritable (capabilities(7)); others are left out.
fn warn_of_ambient(sets: &CapabilitySets) {
    let impossible = sets.ambient & !(sets.permitted & sets.inheritable);
    for capability in caps::all().into_iter().filter(|c| impossible & (1 << c.index()) != 0) {
        tracing::warn!("can't raise ambient capability {capability}: operation not permitted");
    }
}

/// The kernel's number of a capability (linux/capability.h), by the name that oci-spec and caps share.
fn capability_number(capability: oci_spec::runtime::Capability) -> u8 {
    use std::str::FromStr;
    let name = format!("CAP_{capability}");
    // Both crates carry the kernel's whole list; a test goes through all of them.
    caps::Capability::from_str(&name).map_or(63, |c| c.index())
}

fn rlimits(process: &Process) -> Result<Vec<Rlimit>> {
    let mut seen = Vec::new();
    process
        .rlimits()
        .iter()
        .flatten()
        .enumerate()
        .map(|(i, limit)| {
            let resource = rlimit_number(limit.typ());
            if seen.contains(&resource) {
                return Err(Error::invalid(
                    format!("process.rlimits[{i}].type"),
                    format!("{} is given twice", limit.typ()),
                ));
            }
            seen.push(resource);
            if limit.soft() > limit.hard() {
                return Err(Error::invalid(
                    format!("process.rlimits[{i}].soft"),
                    format!("{} is over the hard limit {}", limit.soft(), limit.hard()),
                ));
            }
            Ok(Rlimit { resource, soft: limit.soft(), hard: limit.hard() })
        })
        .collect()
}

fn rlimit_number(kind: PosixRlimitType) -> u32 {
    use PosixRlimitType::*;
    use rustix::process::Resource;
    let resource = match kind {
        RlimitCpu => Resource::Cpu,
        RlimitFsize => Resource::Fsize,
        RlimitData => Resource::Data,
        RlimitStack => Resource::Stack,
        RlimitCore => Resource::Core,
        RlimitRss => Resource::Rss,
        RlimitNproc => Resource::Nproc,
        RlimitNofile => Resource::Nofile,
        RlimitMemlock => Resource::Memlock,
        RlimitAs => Resource::As,
        RlimitLocks => Resource::Locks,
        RlimitSigpending => Resource::Sigpending,
        RlimitMsgqueue => Resource::Msgqueue,
        RlimitNice => Resource::Nice,
        RlimitRtprio => Resource::Rtprio,
        RlimitRttime => Resource::Rttime,
    };
    resource as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_its_number() {
        for c in caps::all() {
            let ours: oci_spec::runtime::Capability =
                serde_json::from_value(serde_json::Value::String(c.to_string())).unwrap();
            assert_eq!(capability_number(ours), c.index(), "{c}");
        }
    }

    #[test]
    fn limits_are_called_as_in_config_json() {
        for name in RLIMITS {
            let name = format!("RLIMIT_{name}");
            let kind: PosixRlimitType = serde_json::from_value(name.clone().into()).unwrap();
            let limit = Rlimit { resource: rlimit_number(kind), soft: 0, hard: 0 };
            assert_eq!(limit.name(), name);
        }
        assert_eq!(Rlimit { resource: 99, soft: 0, hard: 0 }.name(), "RLIMIT 99");
    }
}
