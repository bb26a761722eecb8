//! Tasks and threads: who they are and what they may do (core-TID.img).

use criu_proto::images::core::{CoreEntry, CredsEntry, SeccompMode};
use serde::Serialize;

use crate::error::{CriuError, Result};
use crate::images::{Images, Magic};

/// A thread's core image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Thread {
    /// Its number in its pid namespace.
    pub tid: u32,
    /// Its name (prctl(2), PR_SET_NAME), where the image has one.
    pub name: Option<String>,
    /// Of its task; `None` in images of threads but the first.
    pub state: Option<State>,
    /// The combination of cgroups that it is in: the id of a set of cgroup.img.
    pub cgroup_set: Option<u32>,
    /// The group of files that it shares: the number N of fdinfo-N.img.
    pub files: Option<u32>,
    /// Where the oldest of its filters is among those of seccomp.img.
    pub seccomp_filter: Option<u32>,
    /// Its credentials; a dead thread has none any more.
    pub credentials: Option<Credentials>,
}

/// How a task is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum State {
    /// Running or sleeping.
    Alive,
    /// A zombie, whose parent has not waited for it.
    Dead,
    /// By a signal.
    Stopped,
    /// Made by CRIU to restore what belonged to tasks that are gone.
    Helper,
    /// A state that this crate does not know.
    #[default]
    Unknown,
}

/// The rights of a thread (credentials(7), capabilities(7)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Credentials {
    /// Real, effective, saved and filesystem user id, in the container's user namespace.
    pub uids: [u32; 4],
    /// The same of the group.
    pub gids: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The capabilities that it can gain by execve(2).
    pub bounding: CapabilitySet,
    /// The capabilities that it can make effective.
    pub permitted: CapabilitySet,
    /// The capabilities in force.
    pub effective: CapabilitySet,
    /// The capabilities that programs with file capabilities inherit.
    pub inheritable: CapabilitySet,
    /// The capabilities that other programs inherit.
    pub ambient: CapabilitySet,
    /// Whether execve(2) can give it no more.
    pub no_new_privileges: bool,
    /// How its system calls are filtered.
    pub seccomp: Seccomp,
    /// AppArmor profile or SELinux label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsm_profile: Option<String>,
}

/// Capabilities, one bit each; in JSON a list of names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySet(pub u64);

/// How a thread's system calls are filtered (seccomp(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Seccomp {
    /// Not at all.
    #[default]
    Disabled,
    /// To read, write, exit and sigreturn.
    Strict,
    /// By programs.
    Filter,
}

impl CapabilitySet {
    /// Their names, `CAP_CHOWN` first; a number for those that this program does not know.
    pub fn names(self) -> Vec<String> {
        let bits = (0..u64::BITS).filter(|bit| self.0 & (1 << bit) != 0);
        let name = |bit: u32| {
            let known = caps::all().into_iter().find(|c| u32::from(c.index()) == bit);
            known.map_or_else(|| format!("CAP_{bit}"), |c| c.to_string())
        };
        bits.map(name).collect()
    }

    /// From 32-bit words, lowest first; `None` if there are bits beyond the 64 that the kernel has.
    fn from_words(words: &[u32]) -> Option<Self> {
        let (low, high) = words.split_at(words.len().min(2));
        let join = |(i, word): (usize, &u32)| u64::from(*word) << (32 * i);
        high.iter().all(|word| *word == 0).then(|| Self(low.iter().enumerate().map(join).sum()))
    }
}

impl Serialize for CapabilitySet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.names().serialize(serializer)
    }
}

impl Images {
    /// The thread `tid` of a task.
    ///
    /// # Errors
    /// [`CriuError::Image`] if its image is missing or malformed, or has capabilities that cannot be.
    pub fn thread(&self, tid: u32) -> Result<Thread> {
        let name = format!("core-{tid}.img");
        let bad = |problem: &str| CriuError::Image { path: self.dir().join(&name), problem: problem.into() };
        let core =
            self.entries::<CoreEntry>(&name, Magic::CORE)?.next().ok_or_else(|| bad("has no entry"))??;
        let (task, thread) = (core.tc.as_ref(), core.thread_core.as_ref());
        // CRIU gives the fields of older images precedence.
        let old_mode = task.and_then(|t| t.old_seccomp_mode);
        let old_filter = task.and_then(|t| t.old_seccomp_filter);
        let mode = old_mode.or(thread.and_then(|t| t.seccomp_mode));
        let seccomp = match mode.map(|m| m.enum_value()) {
            None | Some(Ok(SeccompMode::DISABLED)) => Seccomp::Disabled,
            Some(Ok(SeccompMode::STRICT)) => Seccomp::Strict,
            Some(Ok(SeccompMode::FILTER)) => Seccomp::Filter,
            Some(Err(_)) => return Err(bad("has an unknown seccomp mode")),
        };
        let credentials = thread.and_then(|t| t.creds.as_ref()).map(|creds| {
            credentials(creds, seccomp).ok_or_else(|| bad("has capabilities that do not exist"))
        });
        Ok(Thread {
            tid,
            name: thread.and_then(|t| t.comm.clone()).or_else(|| task.and_then(|t| t.comm.clone())),
            state: task.map(|t| state(t.task_state.unwrap_or_default())),
            cgroup_set: thread.and_then(|t| t.cg_set).or_else(|| task.and_then(|t| t.cg_set)),
            files: core.ids.as_ref().and_then(|ids| ids.files_id),
            seccomp_filter: old_filter.or(thread.and_then(|t| t.seccomp_filter)),
            credentials: credentials.transpose()?,
        })
    }
}

/// CRIU's numbers: compel/include/uapi/task-state.h.
fn state(number: u32) -> State {
    match number {
        1 => State::Alive,
        2 => State::Dead,
        3 => State::Stopped,
        4 => State::Helper,
        _ => State::Unknown,
    }
}

fn credentials(c: &CredsEntry, seccomp: Seccomp) -> Option<Credentials> {
    let ids = |ids: [Option<u32>; 4]| ids.map(Option::unwrap_or_default);
    Some(Credentials {
        uids: ids([c.uid, c.euid, c.suid, c.fsuid]),
        gids: ids([c.gid, c.egid, c.sgid, c.fsgid]),
        groups: c.groups.clone(),
        bounding: CapabilitySet::from_words(&c.cap_bnd)?,
        permitted: CapabilitySet::from_words(&c.cap_prm)?,
        effective: CapabilitySet::from_words(&c.cap_eff)?,
        inheritable: CapabilitySet::from_words(&c.cap_inh)?,
        ambient: CapabilitySet::from_words(&c.cap_amb)?,
        no_new_privileges: c.no_new_privs.unwrap_or(0) != 0,
        seccomp,
        lsm_profile: c.lsm_profile.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_names_and_at_most_64_bits() {
        assert_eq!(CapabilitySet::from_words(&[1, 1 << 8]), Some(CapabilitySet(1 | 1 << 40)));
        assert_eq!(
            CapabilitySet(1 | 1 << 40 | 1 << 63).names(),
            ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "CAP_63"]
        );
        assert_eq!(CapabilitySet::from_words(&[0, 0, 0]), Some(CapabilitySet(0)));
        assert_eq!(CapabilitySet::from_words(&[0, 0, 1]), None);
    }
}
