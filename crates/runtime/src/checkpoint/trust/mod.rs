//! Whether a checkpoint may be restored: nobody else could write it, it is what was written, and what it describes is
//! no more than config.json grants.
//!
//! CRIU does what images say: it gives tasks their credentials and filters, puts them into namespaces and cgroups, and mounts. A
//! user who can write images could make a container of root with all capabilities in the host's namespaces. The checks here
//! prevent that: they refuse everything that is not known to be harmless.

mod cgroups;
mod credentials;
mod files;
mod grant;
mod kept;
mod limits;
mod mount_images;
mod mounts;
mod namespaces;
pub(crate) mod resources;
mod seccomp;
mod sockets;

use criu_proto::images::cgroup::CgroupEntry;
use hiber_criu::images::Task;
use hiber_criu::inspect::{SeccompFilters, State};
use hiber_criu::{CgroupMode, ImageDirectory, Images, OwnCgroups};

pub(crate) use grant::Grant;
use grant::{Verdict, core};

use super::manifest::{self, Kind, Manifest};
use super::{crun, custody, parents};
use crate::checkpoint::kept::Kept;
use crate::error::{Error, Result};

/// A checkpoint that was checked.
pub(crate) struct Checked {
    /// None in those of other runtimes.
    pub(crate) manifest: Option<Manifest>,
    /// The properties that CRIU does not restore.
    pub(crate) kept: Kept,
    /// Whether a mount may get events from a mount outside the container.
    pub(crate) outer_groups: bool,
    /// The key of directories that crun has masked.
    pub(crate) empty_directory: Option<String>,
    /// The directory, and those that it builds on: what was looked at, and so what is to be restored.
    pub(crate) chain: Vec<ImageDirectory>,
    /// Those cgroups of its image that are its container's.
    pub(crate) cgroups: OwnCgroups,
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
        if grant.is_some_and(|grant| grant.cgroups)
            && manifest.options.criu.cgroups_mode == Some(CgroupMode::Ignore)
        {
            let why = "the checkpoint was made with --manage-cgroups-mode ignore, its cgroups are not the container's: \
                       pass --manage-cgroups-mode ignore, which restores no cgroup namespace";
            return Err(Error::Invalid(why.into()));
        }
        if grant.is_some() {
            let sums = manifest::sums(dir, manifest::Hashed::AllButPages)?;
            if let Some(problem) = manifest.compare(&sums).first() {
                return Err(refused(format!("{}: {problem}", dir.path().display())));
            }
        }
    }
    let mut chain = vec![dir.clone()];
    if let Some(parent) = dir.parent()? {
        for parent in parents::check(parent, manifest.as_ref().map(|m| m.container.as_str()))? {
            check_custody(&parent, grant.is_some())?;
            chain.push(parent);
        }
    }
    let kept = Kept::read_in(dir)?;
    let first = images.tasks()?.first().map_or(0, |task| task.pid);
    let cgroups = images.own_cgroups()?;
    let cgroups = match kept.cgroups.place_of(first) {
        Some(below) => cgroups.gathered(&images, below)?,
        None => cgroups,
    };
    let mut outer_groups = true;
    if let Some(grant) = grant {
        outer_groups = grant.check(&images, &cgroups.entry)?;
        grant.kept(&kept).map_err(|e| refused(format!("the checkpoint {e}")))?;
    }
    let empty_directory = if manifest.is_none() { crun::empty_directory(&images)? } else { None };
    Ok(Checked { manifest, kept, outer_groups, empty_directory, chain, cgroups })
}

fn check_custody(dir: &ImageDirectory, writers: bool) -> Result<()> {
    custody::check_kinds(dir)?;
    if writers { custody::check_writers(dir).map_err(refused) } else { Ok(()) }
}

fn refused(what: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("{what}; --trust-images restores it nevertheless"))
}

fn said<T>(verdict: Result<std::result::Result<T, String>>) -> Result<T> {
    verdict?.map_err(|problem| refused(format!("the checkpoint {problem}")))
}

impl Grant<'_> {
    /// Returns whether a mount gets events from a mount outside the container.
    fn check(&self, images: &Images, cgroups: &CgroupEntry) -> Result<bool> {
        let tasks = images.tasks()?;
        said(inventory(images))?;
        said(self.namespaces(images, &tasks))?;
        let filters = images.seccomp_filters()?;
        for task in &tasks {
            self.task(images, &filters, task)?;
        }
        let outer_groups = said(self.mounts(images, &tasks))?;
        if self.cgroups {
            said(self.cgroups(images, cgroups, &tasks))?;
        }
        said(self.files(images))?;
        Ok(outer_groups)
    }

    fn task(&self, images: &Images, filters: &SeccompFilters, task: &Task) -> Result<()> {
        let refuse = |who: &str, tid: u32, name: Option<&str>, problem: String| {
            refused(format!("{who} {tid} {:?} of the checkpoint {problem}", name.unwrap_or_default()))
        };
        // Whatever the image lists, the task's own credentials are in the image of its number. Of a zombie CRIU writes
        // one thread, whose number it never set.
        let leader = images.thread(task.pid)?;
        let name = leader.name.as_deref();
        match leader.state {
            Some(State::Dead) => return Ok(()),
            Some(State::Alive | State::Stopped) => {}
            _ => return Err(refuse("process", task.pid, name, "is in no state that a dump writes".into())),
        }
        let shared = seccomp::shared(filters, &leader).map_err(|e| refuse("process", task.pid, name, e))?;
        let others = task.threads.iter().copied().filter(|tid| *tid != task.pid);
        for tid in std::iter::once(task.pid).chain(others) {
            let thread = images.thread(tid)?;
            let first = tid == task.pid;
            let verdict = self
                .credentials(images, &thread)
                .and_then(|()| self.filtered(filters, &thread, if first { &[] } else { &shared }))
                .and_then(|()| {
                    let core = core(images, tid).map_err(|e| e.to_string())?;
                    self.securebits(&core).and_then(|()| self.scheduling(&core))?;
                    if first { self.limits(&core).and_then(|()| self.timers(&core)) } else { Ok(()) }
                });
            if let Err(problem) = verdict {
                let who = if first { "process" } else { "thread" };
                return Err(refuse(who, tid, thread.name.as_deref(), problem));
            }
        }
        Ok(())
    }
}

/// The images that describe the whole checkpoint. An old format is one that this program does not check.
fn inventory(images: &Images) -> Result<Verdict> {
    let inventory = images.inventory();
    if inventory.fdinfo_per_id != Some(true) || inventory.ns_per_id != Some(true) {
        return Ok(Err("is in the format of a CRIU before 1.3 (inventory.img)".into()));
    }
    // Part of a name in the commands with which CRIU takes away its rules of nftables.
    let run = inventory.dump_criu_run_id.as_deref().unwrap_or_default();
    if let Some(strange) = run.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
        return Ok(Err(format!("has {strange:?} in the id of its dump (inventory.img)")));
    }
    // Policies that CRIU would load into the host's kernel.
    if images.has("apparmor.img") {
        return Ok(Err("brings AppArmor policies along (apparmor.img)".into()));
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests;
