//! A bundle that is made from an archive.
//!
//! It is made beside its place, put there when it is complete, and removed again if the restore fails. After that it is the caller's, as
//! every bundle: `delete` leaves it.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use derive_setters::Setters;
use oci_spec::runtime::{LinuxDeviceCgroupBuilder, Mount, Root, RootBuilder, Spec};
use rustix::fs::Mode;

use super::grant;
use super::import::Imported;
use super::layout::{ConfigDump, IMAGE_ID, IMAGE_NAME, SHM as SHM_ARCHIVE};
use super::rootfs::{self, Applied};
use crate::error::{Context, Error, Result};
use crate::helpers::unfinished;
use crate::host::owned;
use crate::host::paths::open_dir;
use crate::migrate::{copy_root, has_users};

const CONFIG: &str = "config.json";
/// The root filesystem in a bundle that is made.
const ROOT: &str = "rootfs";
/// Files of the container's that an engine binds over those of its image.
const FILES: &str = "files";
const SHM: &str = "/dev/shm";

/// How a bundle is made from an archive.
#[derive(Debug, Clone, Default, Setters)]
#[setters(into, strip_option)]
#[non_exhaustive]
pub struct NewBundle {
    /// The root filesystem that is copied.
    pub base: Option<PathBuf>,
    /// Whether the archive's config.json may ask for whatever it likes.
    pub trust_spec: bool,
    /// Whether the archive's changes are made in a root filesystem that is there.
    pub with_rootfs: bool,
}

/// A bundle that was made. Dropped, it is removed, unless it is kept.
#[derive(Debug)]
pub struct MadeBundle {
    /// Paths that are to be removed.
    made: Vec<PathBuf>,
}

impl MadeBundle {
    /// It is the caller's from now on.
    pub fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for MadeBundle {
    fn drop(&mut self) {
        self.made.iter().for_each(|path| unfinished::remove(path));
    }
}

impl Imported {
    /// Makes the bundle at `place` what a restore of the archive needs: of one without a config.json it makes it from spec.dump, in a
    /// directory that is there with its root filesystem, or in a new one with a copy of [`base`](NewBundle::base). In one that has a
    /// config.json it makes the archive's changes of the root filesystem, if that is asked for.
    ///
    /// # Errors
    /// spec.dump asks for more than an ordinary container has, or the bundle cannot be made. Nothing is left of it then; changes in a
    /// root filesystem that was there stay.
    pub fn bundle(&self, place: &Path, how: &NewBundle) -> Result<MadeBundle> {
        let place = std::path::absolute(place).map_err(|e| Error::file(place, &e))?;
        let refuse = |why: &str| Err(Error::Invalid(format!("bundle {}: {why}", place.display())));
        if place.join(CONFIG).symlink_metadata().is_ok() {
            if how.base.is_some() {
                return refuse("has a config.json; --base is for a bundle that is made from the archive");
            }
            if how.with_rootfs {
                self.change_root(&root_of(&place)?, how)?;
            }
            return Ok(MadeBundle { made: Vec::new() });
        }
        let config = self.config(&place, how)?;
        match (&how.base, place.join(ROOT).is_dir()) {
            (None, true) => self.complete(&place, &config, how),
            (Some(base), false) => self.make(&place, &config, base, how),
            (None, false) => refuse(
                "has no config.json, and no rootfs for one that is made from the archive; expected either of them, or \
                 --base DIR, the root filesystem of the container's image",
            ),
            (Some(_), true) => refuse("has a rootfs; --base is for one that is copied"),
        }
        .context("make a bundle from the archive")
    }

    /// config.json from spec.dump, as far as it is granted.
    fn config(&self, place: &Path, how: &NewBundle) -> Result<Spec> {
        let archive = self.archive().display();
        let Some(json) = self.spec() else {
            return Err(Error::Invalid(format!(
                "bundle {}: has no config.json, and {archive} {} to make it from",
                place.display(),
                self.no_spec()
            )));
        };
        let mut spec: Spec = serde_json::from_slice(json)
            .map_err(|e| Error::Invalid(format!("spec.dump of {archive} cannot be understood: {e}")))?;
        if !how.trust_spec {
            let beyond = grant::beyond(&spec, is_own);
            if !beyond.is_empty() {
                return Err(Error::Invalid(format!(
                    "spec.dump of {archive} asks for more than an ordinary container has: {}; --trust-spec grants it, as does a \
                     config.json in {}",
                    beyond.join("; "),
                    place.display()
                )));
            }
        }
        localize(&mut spec, how.trust_spec)?;
        let mut annotations = spec.annotations().clone().unwrap_or_default();
        let ConfigDump { rootfs_image_name, rootfs_image_id, rootfs_image_ref } = self.image();
        let id = if rootfs_image_id.is_empty() { rootfs_image_ref } else { rootfs_image_id };
        for (key, value) in [(IMAGE_NAME, rootfs_image_name), (IMAGE_ID, id)] {
            if !value.is_empty() {
                annotations.insert(key.to_owned(), value);
            }
        }
        spec.set_annotations(Some(annotations));
        Ok(spec)
    }

    /// A new directory, with a root filesystem that is copied.
    fn make(&self, place: &Path, spec: &Spec, base: &Path, how: &NewBundle) -> Result<MadeBundle> {
        if place.symlink_metadata().is_ok()
            && std::fs::read_dir(place).map_err(|e| Error::file(place, &e))?.next().is_some()
        {
            let why =
                "exists, has no config.json and is not empty; expected an empty directory, or none".into();
            return Err(Error::File { path: place.into(), why });
        }
        let parent = place.parent().unwrap_or(Path::new("/"));
        unfinished::sweep(parent);
        let mode = Mode::from_raw_mode(if has_users(spec) { 0o711 } else { 0o700 });
        let (path, _held) = unfinished::make_dir(unfinished::hidden(place), place, mode, open_dir)?;
        let made = MadeBundle { made: vec![path.clone()] };
        self.fill(&path, spec)?;
        let root = path.join(ROOT);
        std::fs::create_dir(&root).map_err(|e| Error::file(&root, &e))?;
        copy_root(base, open_dir(&root)?).context("copy the root filesystem of --base")?;
        self.change_root(&root, how)?;
        std::fs::rename(&path, place).map_err(|e| Error::file(place, &e))?;
        made.keep();
        Ok(MadeBundle { made: vec![place.to_owned()] })
    }

    /// A directory that has a root filesystem already.
    fn complete(&self, place: &Path, spec: &Spec, how: &NewBundle) -> Result<MadeBundle> {
        let files = place.join(FILES);
        if files.symlink_metadata().is_ok() {
            let why = "exists; files of the container's from the archive are to be there".into();
            return Err(Error::File { path: files, why });
        }
        let made = MadeBundle { made: vec![place.join(CONFIG), files] };
        self.fill(place, spec)?;
        if how.with_rootfs {
            self.change_root(&place.join(ROOT), how)?;
        }
        Ok(made)
    }

    /// Writes everything but the root.
    fn fill(&self, place: &Path, spec: &Spec) -> Result<()> {
        let path = place.join(CONFIG);
        let json = serde_json::to_vec_pretty(spec).map_err(|e| Error::internal("encode config.json", e))?;
        owned::write(&path, &json).map_err(|e| Error::file(&path, &e))?;
        for mount in spec.mounts().iter().flatten() {
            let Some(source) = mount.source().as_ref().filter(|source| source.starts_with(FILES)) else {
                continue;
            };
            self.own_file(&place.join(source), mount.destination(), spec)?;
        }
        Ok(())
    }

    fn own_file(&self, path: &Path, destination: &Path, spec: &Spec) -> Result<()> {
        let fail = |e: io::Error| Error::file(path, &e);
        let parent = path.parent().unwrap_or(path);
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(|e| Error::file(parent, &e))?;
        let mode = |mode: u32| {
            rustix::fs::chmod(path, Mode::from_raw_mode(mode)).map_err(|e| Error::file(path, &e.into()))
        };
        if is_directory(destination) {
            std::fs::create_dir(path).map_err(fail)?;
            if let Some(shm) = self.shm().filter(|_| destination == Path::new(SHM)) {
                rootfs::apply_plain(open_dir(path)?, shm, SHM_ARCHIVE)?;
            }
            return mode(if destination == Path::new(SHM) { 0o1777 } else { 0o755 });
        }
        let name = spec.hostname().as_deref().unwrap_or("localhost");
        let content = match destination.to_str() {
            Some("/etc/hosts") => format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\t{name}\n"),
            Some("/etc/hostname") => format!("{name}\n"),
            _ => String::new(),
        };
        std::fs::write(path, content).map_err(fail)?;
        mode(0o644)
    }

    fn change_root(&self, root: &Path, how: &NewBundle) -> Result<()> {
        let applied = Applied { whiteouts: !self.is_ours(), devices: how.trust_spec };
        let (diff, deleted) = self.root_changes();
        rootfs::apply(open_dir(root)?, diff, deleted, applied)
            .context("change the root filesystem as the container has")
    }
}

/// Files that engines make for each container, and directories.
fn is_own(mount: &Mount) -> bool {
    const OWN: [&str; 6] = [
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/run/.containerenv",
        "/dev/termination-log",
        "/run/secrets",
    ];
    let at = mount.destination();
    let binds = |option: &String| matches!(&**option, "bind" | "rbind");
    let is_bind = mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(binds);
    is_bind && (at == Path::new(SHM) || OWN.iter().any(|own| Path::new(own) == at))
}

/// The directory of this host that a container has at /dev/shm, as engines give one to each.
pub(super) fn shm_of(spec: &Spec, bundle: &Path) -> Option<PathBuf> {
    let mut mounts = spec.mounts().iter().flatten();
    let mount = mounts.rfind(|mount| mount.destination() == Path::new(SHM)).filter(|mount| is_own(mount))?;
    Some(bundle.join(mount.source().as_ref()?))
}

fn is_directory(destination: &Path) -> bool {
    [SHM, "/run/secrets"].iter().any(|directory| Path::new(directory) == destination)
}

/// Makes a configuration one of this host's: its places are in the bundle.
fn localize(spec: &mut Spec, trusted: bool) -> Result<()> {
    let read_only = spec.root().as_ref().and_then(Root::readonly).unwrap_or(false);
    let fail = |e: oci_spec::OciSpecError| Error::internal("make config.json", e);
    spec.set_root(Some(RootBuilder::default().path(ROOT).readonly(read_only).build().map_err(fail)?));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in mounts.iter_mut().filter(|mount| is_own(mount)) {
        let there = mount.source().as_ref().is_some_and(|source| source.is_absolute() && source.exists());
        if !(trusted && there) {
            let name = mount.destination().to_string_lossy().trim_start_matches('/').replace('/', "-");
            mount.set_source(Some(Path::new(FILES).join(name)));
        }
    }
    spec.set_mounts(Some(mounts));
    if trusted {
        return Ok(());
    }
    let mut linux = spec.linux().clone().unwrap_or_default();
    // A place in this host's hierarchy, where others' limits hold.
    linux.set_cgroups_path(None);
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules =
        vec![LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build().map_err(fail)?];
    rules.extend(resources.devices().clone().unwrap_or_default());
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    Ok(())
}

/// The root filesystem of a bundle.
fn root_of(bundle: &Path) -> Result<PathBuf> {
    let path = bundle.join(CONFIG);
    let fail = |why: String| Error::File { path: path.clone(), why };
    let file = File::open(&path).map_err(|e| Error::file(&path, &e))?;
    let config: serde_json::Value =
        serde_json::from_reader(io::BufReader::new(file)).map_err(|e| fail(format!("is no JSON: {e}")))?;
    let root = config["root"]["path"].as_str().ok_or_else(|| fail("has no root.path".into()))?;
    Ok(bundle.join(root))
}
