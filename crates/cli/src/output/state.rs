//! The fields of a container in `state` and `list`: runc's names, in runc's order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use hiber::{ContainerInfo, Facts, FollowingMemory, Status};
use serde::{Serialize, Serializer};

/// One container, as `state` and `list` show it. The names and their order are runc's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerState {
    /// The specification's version that config.json names.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// The first process, in the host's numbers; 0 if there is none any more.
    pub pid: i32,
    /// creating, created, running, paused or stopped
    pub status: String,
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// The root filesystem's absolute path.
    pub rootfs: PathBuf,
    /// When it was created; written in RFC 3339, UTC.
    #[serde(serialize_with = "rfc3339")]
    pub created: SystemTime,
    /// As in config.json.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Name, or `#` and number, of the user who owns the state; empty in `state`.
    pub owner: String,
    /// Whether the kernel has killed one of its processes for want of memory; only then is it told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
    /// How far memory is that follows it after a restore; only then is it told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<FollowingMemory>,
    /// Whether a checkpoint that was killed has left it paused; only then is it told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub left_paused: bool,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_nanos(*time))
}

/// The document of `state` and `list --format json`; only `list` shows an owner.
pub(crate) fn describe(info: &ContainerInfo, owner: String) -> anyhow::Result<ContainerState> {
    let (facts, summary) = (info.facts(), info.config_summary()?);
    let status = info.status()?;
    Ok(ContainerState {
        oci_version: summary.oci_version,
        id: facts.id.clone(),
        pid: shown_pid(facts, status),
        status: status.to_string(),
        bundle: facts.bundle.clone(),
        rootfs: facts.rootfs.clone(),
        created: facts.created,
        annotations: summary.annotations,
        owner,
        oom_killed: info.oom_killed(),
        memory: info.following_memory(),
        left_paused: status == Status::Paused && info.is_left_paused(),
    })
}

/// The first process; 0 if it is gone.
pub(crate) fn shown_pid(facts: &Facts, status: Status) -> i32 {
    if status == Status::Stopped { 0 } else { facts.pid }
}

#[cfg(test)]
pub(crate) fn example(id: &str, annotations: &[(&str, &str)]) -> ContainerState {
    ContainerState {
        oci_version: "1.3.0".into(),
        id: id.into(),
        pid: 4321,
        status: "running".into(),
        bundle: "/srv/a/long/bundle".into(),
        rootfs: "/srv/a/long/bundle/rootfs".into(),
        created: SystemTime::UNIX_EPOCH + std::time::Duration::new(1_767_323_045, 60_007),
        annotations: annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        owner: "root".into(),
        oom_killed: false,
        memory: None,
        left_paused: false,
    }
}
