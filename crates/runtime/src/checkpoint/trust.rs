//! Whether a checkpoint may be restored: nobody else could write it, it is what was written, and its processes have no
//! more privilege than config.json grants.
//!
//! CRIU gives each task the credentials that its image says. Whoever can write images could make a container of root
//! with all capabilities; this is what stands between.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hiber_criu::Images;
use hiber_criu::inspect::{
    CapabilitySet, Credentials, Seccomp, SeccompFilter, SeccompFilters, State, Thread,
};
use hiber_sandbox::plan::ProcessPlan;

use super::manifest::{self, Kind, Manifest};
use super::parents;
use crate::error::{Error, Result};

/// Bits of group and others that let them write.
const OTHERS_WRITE: u32 = 0o022;

/// What config.json grants.
pub(crate) struct Grant<'a> {
    pub(crate) process: &'a ProcessPlan,
    /// Whether it has a seccomp profile.
    pub(crate) seccomp: bool,
}

/// Checks the checkpoint in `dir`, and gives its manifest if it has one. `grant` is `None` where the images are
/// trusted: then only what cannot be restored at all is refused.
///
/// # Errors
/// That there is no whole checkpoint, or why it is not restored without `--trust-images`.
pub(crate) fn check(dir: &Path, grant: Option<&Grant<'_>>) -> Result<Option<Manifest>> {
    let images = Images::open(dir)?;
    if grant.is_some() {
        check_writers(dir)?;
    }
    images.tasks()?;
    images.check_pages()?;
    let manifest = Manifest::read(dir)?;
    if let Some(manifest) = &manifest {
        if manifest.kind == Kind::PreDump {
            let why = "is a pre-dump: it holds memory for a later checkpoint, but no processes";
            return Err(Error::File { path: dir.into(), why: why.into() });
        }
        if let (Some(problem), true) =
            (manifest.compare(&manifest::sums(dir, false)?).first(), grant.is_some())
        {
            return Err(refused(format!("{}: {problem}", dir.display())));
        }
    }
    if let Some(parent) = parents::parent_of(dir)? {
        for parent in parents::check(&parent, manifest.as_ref().map(|m| m.container.as_str()))? {
            if grant.is_some() {
                check_writers(&parent)?;
            }
        }
    }
    if let Some(grant) = grant {
        grant.check(&images)?;
    }
    Ok(manifest)
}

fn refused(what: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("{what}; --trust-images restores it nevertheless"))
}

/// Nobody but root and the caller may be able to change the directory or a file in it.
fn check_writers(dir: &Path) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let check = |path: &Path| {
        let meta = std::fs::metadata(path).map_err(|e| Error::file(path, &e))?;
        let refuse = |why: String| Err(refused(format!("{}: {why}", path.display())));
        match meta.uid() {
            0 => {}
            uid if uid == own => {}
            uid => return refuse(format!("belongs to user {uid}, who can change it")),
        }
        if meta.mode() & OTHERS_WRITE != 0 {
            return refuse(format!("others can write to it (mode {:o})", meta.mode() & 0o7777));
        }
        Ok(())
    };
    check(dir)?;
    for entry in std::fs::read_dir(dir).map_err(|e| Error::file(dir, &e))? {
        let entry = entry.map_err(|e| Error::file(dir, &e))?;
        // Logs are not read, and a parent is checked by itself.
        let is_file = std::fs::metadata(entry.path()).is_ok_and(|meta| meta.is_file());
        if is_file && !entry.file_name().to_string_lossy().ends_with(".log") {
            check(&entry.path())?;
        }
    }
    Ok(())
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
