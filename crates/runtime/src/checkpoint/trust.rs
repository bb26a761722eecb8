//! Whether a checkpoint may be restored: nobody else could write it, it is what was written, and its processes have no
//! more privilege than config.json grants.
//!
//! CRIU gives each task the credentials that its image says. Whoever can write images could make a container of root
//! with all capabilities; this is what stands between.

use hiber_criu::inspect::{
    CapabilitySet, Credentials, Seccomp, SeccompFilter, SeccompFilters, State, Thread,
};
use hiber_criu::{ImageDirectory, Images};
use hiber_sandbox::ids;
use hiber_sandbox::plan::ProcessPlan;

use super::manifest::{self, Kind, Manifest};
use super::{custody, parents};
use crate::error::{Error, Result};

/// What config.json grants.
pub(crate) struct Grant<'a> {
    pub(crate) process: &'a ProcessPlan,
    /// Whether it has a seccomp profile.
    pub(crate) seccomp: bool,
}

/// A checkpoint that was checked.
pub(crate) struct Checked {
    /// None in those of other runtimes.
    pub(crate) manifest: Option<Manifest>,
    /// The directory, and those that it builds on: what was looked at, and so what is to be restored.
    pub(crate) chain: Vec<ImageDirectory>,
}

/// Checks the checkpoint in `dir`. `grant` is `None` where the images are trusted: then only what cannot be restored at
/// all is refused.
///
/// # Errors
/// That there is no whole checkpoint, or why it is not restored without `--trust-images`.
pub(crate) fn check(dir: &ImageDirectory, grant: Option<&Grant<'_>>) -> Result<Checked> {
    let images = Images::in_directory(dir)?;
    check_custody(dir, grant.is_some())?;
    images.tasks()?;
    images.check_pages()?;
    let manifest = Manifest::read_in(dir)?;
    if let Some(manifest) = &manifest {
        if manifest.kind == Kind::PreDump {
            let why = "is a pre-dump: it holds memory for a later checkpoint, but no processes";
            return Err(Error::File { path: dir.path().into(), why: why.into() });
        }
        if let (Some(problem), true) =
            (manifest.compare(&manifest::sums(dir, false)?).first(), grant.is_some())
        {
            return Err(refused(format!("{}: {problem}", dir.path().display())));
        }
    }
    let mut chain = vec![dir.clone()];
    if let Some(parent) = dir.parent()? {
        for parent in parents::check(parent, manifest.as_ref().map(|m| m.container.as_str()))? {
            check_custody(&parent, grant.is_some())?;
            chain.push(parent);
        }
    }
    if let Some(grant) = grant {
        grant.check(&images)?;
    }
    Ok(Checked { manifest, chain })
}

fn check_custody(dir: &ImageDirectory, writers: bool) -> Result<()> {
    custody::check_kinds(dir)?;
    if writers { custody::check_writers(dir).map_err(refused) } else { Ok(()) }
}

fn refused(what: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("{what}; --trust-images restores it nevertheless"))
}

impl Grant<'_> {
    fn check(&self, images: &Images) -> Result<()> {
        let filters = images.seccomp_filters()?;
        for task in images.tasks()? {
            // Whatever the image lists, the task's own credentials are in the image of its number. Of a zombie
            // CRIU writes one thread, whose number it never set.
            let leader = images.thread(task.pid)?;
            if leader.state == Some(State::Dead) {
                continue;
            }
            let shared = shared_filters(&filters, &leader)
                .map_err(|problem| refused(format!("process {} of the checkpoint {problem}", task.pid)))?;
            let others = task.threads.iter().copied().filter(|tid| *tid != task.pid);
            for tid in std::iter::once(task.pid).chain(others) {
                let thread = images.thread(tid)?;
                let problem = self.excess(&thread).or_else(|| {
                    let synchronised = tid != task.pid && !shared.is_empty();
                    self.unfiltered(&thread).filter(|_| !synchronised)
                });
                if let Some(problem) = problem {
                    let who = if tid == task.pid { "process" } else { "thread" };
                    let name = thread.name.unwrap_or_default();
                    return Err(refused(format!("{who} {tid} {name:?} of the checkpoint {problem}")));
                }
            }
        }
        Ok(())
    }

    /// What a thread has beyond the grant.
    fn excess(&self, thread: &Thread) -> Option<String> {
        let Some(credentials) = &thread.credentials else {
            return Some("has no credentials in its image".into());
        };
        self.excess_capabilities(credentials).or_else(|| self.excess_identity(credentials)).or_else(|| {
            (self.process.no_new_privileges && !credentials.no_new_privileges)
                .then(|| "lacks no_new_privs, which config.json sets".into())
        })
    }

    fn unfiltered(&self, thread: &Thread) -> Option<String> {
        let filtered = thread.credentials.as_ref().is_some_and(|c| c.seccomp != Seccomp::Disabled);
        (self.seccomp && !filtered).then(|| "is not filtered by seccomp, as config.json wants it".into())
    }

    /// A task may have what the first process has or may gain by executing a program: its bounding set.
    fn excess_capabilities(&self, credentials: &Credentials) -> Option<String> {
        let all = self.reachable();
        let sets = [
            ("bounding", credentials.bounding, self.process.capabilities.bounding),
            ("permitted", credentials.permitted, all),
            ("effective", credentials.effective, all),
            ("inheritable", credentials.inheritable, all),
            ("ambient", credentials.ambient, all),
        ];
        sets.into_iter().find_map(|(name, CapabilitySet(has), granted)| {
            let beyond = CapabilitySet(has & !granted).names().join(", ");
            (!beyond.is_empty())
                .then(|| format!("has {beyond} in its {name} set, which config.json does not grant"))
        })
    }

    fn reachable(&self) -> u64 {
        let c = &self.process.capabilities;
        c.bounding | c.permitted | c.effective | c.inheritable | c.ambient
    }

    /// Without the capability to change them, and without programs that do, users and groups stay what they were.
    fn excess_identity(&self, credentials: &Credentials) -> Option<String> {
        let mut all = credentials.uids.iter().chain(&credentials.gids).chain(&credentials.groups);
        if let Some(none) = all.find(|id| **id > ids::MAX) {
            return Some(format!("has {none} among its users and groups, which is no id"));
        }
        if !self.process.no_new_privileges {
            return None;
        }
        let can = |capability: caps::Capability| self.reachable() & capability.bitmask() != 0;
        let (uid, gid) = (self.process.uid, self.process.gid);
        let other = credentials.uids.iter().find(|u| **u != uid);
        if let (Some(other), false) = (other, can(caps::Capability::CAP_SETUID)) {
            return Some(format!("runs as user {other}; config.json says {uid} and no way to change it"));
        }
        let allowed = |g: &u32| *g == gid || self.process.additional_gids.contains(g);
        let other = credentials.gids.iter().chain(&credentials.groups).find(|g| !allowed(g));
        match (other, can(caps::Capability::CAP_SETGID)) {
            (Some(other), false) => {
                Some(format!("is in group {other}; config.json says {gid} and no way to change it"))
            }
            _ => None,
        }
    }
}

/// The filters that a process's other threads get from its first one. Where all have the same, CRIU leaves them out
/// of the others' images, and marks those of the first for all threads.
fn shared_filters<'a>(
    filters: &'a SeccompFilters,
    leader: &Thread,
) -> std::result::Result<Vec<&'a SeccompFilter>, String> {
    let filtered = leader.credentials.as_ref().is_some_and(|c| c.seccomp == Seccomp::Filter);
    let Some(first) = leader.seccomp_filter.filter(|_| filtered) else { return Ok(Vec::new()) };
    let mut chain = filters.chain(first)?;
    let last = chain.iter().rposition(|filter| filter.is_for_all_threads());
    chain.truncate(last.map_or(0, |last| last + 1));
    Ok(chain)
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
