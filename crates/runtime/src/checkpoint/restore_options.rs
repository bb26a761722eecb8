//! How to restore, and whether these images may be restored so.

use std::path::Path;

use hiber_criu::{CgroupMode, ImageDirectory};
use hiber_sandbox::plan::{NamespaceKind, Namespaces};
use oci_spec::runtime::Spec;

use super::kept::Kept;
use super::manifest::Manifest;
use super::options::{CriuOptions, Resources, RestoreContainerOptions};
use super::signed;
use super::trust::{self, Checked, Grant};
use super::words::{UnknownWord, Word};
use super::{Direction, mounts};
use crate::container::prepared::{CreateOptions, Prepared};
use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::signature::{Demand, VerifyingKey, policy};
use crate::state::resources::{self, ChangedResources};

/// The annotation of config.json that chooses: `checkpoint` or `config`.
pub const RESOURCES: &str = "dev.hiber.resources";

impl RestoreContainerOptions<'_> {
    /// Whether memory comes later, by a daemon of ours.
    pub(crate) fn brings_memory(&self) -> bool {
        self.background || self.page_server.is_some()
    }

    /// The checkpoint, for messages.
    pub(crate) fn origin(&self) -> &Path {
        self.archive.as_ref().unwrap_or(&self.criu.image_path)
    }

    /// The same as options of a creation.
    pub(crate) fn as_create(&self) -> CreateOptions<'static> {
        CreateOptions {
            bundle: self.bundle.clone(),
            systemd_cgroup: self.systemd_cgroup,
            rootless: self.rootless,
            ..CreateOptions::default()
        }
    }
}

/// A directory that holds no whole checkpoint, or one that is not to be trusted, is told before anything is made.
pub(crate) fn check_images(
    prepared: &Prepared,
    id: &ContainerId,
    options: &RestoreContainerOptions<'_>,
    images: &ImageDirectory,
) -> Result<Checked> {
    check_signature(options, images)?;
    check_content(prepared, id, options, images)
}

/// As [`check_images`], whoever has signed them.
pub(crate) fn check_content(
    prepared: &Prepared,
    id: &ContainerId,
    options: &RestoreContainerOptions<'_>,
    images: &ImageDirectory,
) -> Result<Checked> {
    if options.trust_images {
        return trust::check(images, None);
    }
    let externals = mounts(Direction::Restore, &prepared.spec, &prepared.facts(id, Vec::new()))?;
    let resources = prepared.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let grant = Grant {
        plan: &prepared.plan,
        externals: &externals,
        lsm_profile: options.lsm_profile.as_deref(),
        cgroups: options.criu.cgroups_mode != Some(CgroupMode::Ignore),
        marked_network: resources.is_some_and(|resources| resources.network().is_some()),
    };
    let checked = trust::check(images, Some(&grant))?;
    check_terminal(checked.manifest.as_ref(), options)?;
    Ok(checked)
}

/// Whether the checkpoint is signed as the caller wants it, and as the host does.
///
/// # Errors
/// Why it is not, or why the host's policy cannot be known.
pub(crate) fn check_signature(options: &RestoreContainerOptions<'_>, images: &ImageDirectory) -> Result<()> {
    let demands = if options.own { Vec::new() } else { demands(&options.verify_keys)? };
    let elsewhere =
        [("--lazy-pages", options.criu.lazy_pages), ("--page-server", options.page_server.is_some())];
    if let (Some(demand), Some((flag, _))) = (demands.first(), elsewhere.iter().find(|(_, given)| *given)) {
        let why = format!("{flag}: brings memory that no signature covers, and {} wants one", demand.by);
        return Err(Error::Invalid(why));
    }
    signed::check(images, options.origin(), &demands, options.compared)
}

/// Those who want a checkpoint to be signed: the caller, by these keys, and the host.
///
/// # Errors
/// The host's policy cannot be known.
pub(crate) fn demands(keys: &[VerifyingKey]) -> Result<Vec<Demand>> {
    let ours = (!keys.is_empty()).then(|| Demand { by: "--verify-key".into(), keys: keys.to_vec() });
    Ok(policy::demand()?.into_iter().chain(ours).collect())
}

/// The limits that were in force at the dump, if the container gets those.
pub(crate) fn limits_in_force(
    prepared: &Prepared,
    options: &RestoreContainerOptions<'_>,
    kept: &Kept,
) -> Result<Option<ChangedResources>> {
    let chosen = options.resources.map_or_else(|| annotated(&prepared.spec), |chosen| Ok(Some(chosen)))?;
    if kept.resources.is_empty() || chosen == Some(Resources::Config) {
        return Ok(None);
    }
    let in_force = resources::in_force(&kept.resources, &resources::of(&prepared.spec))?;
    if chosen.is_none() && !options.trust_images {
        trust::resources::check(&in_force).map_err(|problem| {
            Error::Invalid(format!(
                "the checkpoint's container {problem}: pass --resources checkpoint for what it had (or --trust-images), or \
                 --resources config"
            ))
        })?;
    }
    Ok(Some(in_force))
}

fn annotated(spec: &Spec) -> Result<Option<Resources>> {
    let word = spec.annotations().as_ref().and_then(|all| all.get(RESOURCES));
    let wrong = |e: UnknownWord| {
        let expected = e.expected.join(" or ");
        Error::Invalid(format!("annotations.{RESOURCES}: {:?}; expected {expected}", e.given))
    };
    word.map(|word| Resources::of_word(word).map_err(wrong)).transpose()
}

/// The terminal of a shell's job is the caller's to give: a manifest cannot ask for it.
fn check_terminal(manifest: Option<&Manifest>, options: &RestoreContainerOptions<'_>) -> Result<()> {
    if options.criu.shell_job.is_none()
        && manifest.is_some_and(|manifest| manifest.options.criu.shell_job == Some(true))
    {
        let why = "the checkpoint was made with --shell-job, its processes use a terminal from outside: \
                   pass --shell-job, or --shell-job=false";
        return Err(Error::Invalid(why.into()));
    }
    Ok(())
}

/// `strict` wants none of the cgroups to be there. The container's own is made before CRIU looks, so it is we who look; below a
/// new one there is nothing.
pub(crate) fn check_strict(prepared: &Prepared, options: &CriuOptions) -> Result<()> {
    if options.cgroups_mode != Some(CgroupMode::Strict) {
        return Ok(());
    }
    let exists = |path: &&Path| path.exists();
    let found =
        prepared.cgroup.directories().into_iter().map(|(path, _)| path).find(exists).map(Path::to_owned);
    found.map_or(Ok(()), |path| {
        let why = "--manage-cgroups-mode strict: the container's cgroup is there already";
        Err(Error::Invalid(format!("{why}: {}", path.display())))
    })
}

/// Refuses a restore whose memory cannot come later.
pub(crate) fn check_following_memory(
    options: &RestoreContainerOptions<'_>,
    namespaces: &Namespaces,
) -> Result<()> {
    let refuse = |why: &str| Err(Error::Invalid(why.into()));
    let lazy = options.criu.lazy_pages;
    let others = [("--lazy-pages", lazy), ("--auto-dedup", options.criu.auto_dedup)];
    if let Some((flag, _)) = others.iter().find(|(_, given)| options.background && *given) {
        return refuse(&format!(
            "--background and {flag} exclude each other: memory comes from the images while the container runs"
        ));
    }
    if options.page_server.is_some() && !lazy {
        return refuse("--page-server needs --lazy-pages: it is where memory is fetched from");
    }
    if (options.background || lazy) && namespaces.has(NamespaceKind::User) && !unprivileged_userfaultfd() {
        return refuse(
            "memory cannot come later (--background, --lazy-pages) to a container with a user namespace: its processes \
             may not use userfaultfd; write 1 to /proc/sys/vm/unprivileged_userfaultfd meanwhile",
        );
    }
    Ok(())
}

/// Whether processes without privilege in the first user namespace may hand their faults to others, those in system calls, too
/// (Linux 5.2).
pub(crate) fn unprivileged_userfaultfd() -> bool {
    let allowed = hiber_sys::file::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
    allowed.is_ok_and(|allowed| allowed.trim() == "1")
}
