//! A container's cgroup: creation, entry, limits.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use super::devices::FIELD as DEVICES;
use super::dir::Dir;
use super::filter::device_filter;
use super::layout::Layout;
use super::limits::{Limits, MemoryCheck};
use super::movable::check_movable;
use super::paths::CgroupPaths;
use super::remove;
use super::setting::Write;
use super::version::Version;
use super::write::{set_devices_v1, write_group};
use crate::error::{Context, Error, Result, SysError};
use crate::idmap::in_user_namespace;
use hiber_sys::bpf;
use hiber_sys::clone::Birthplace;

/// The reaction if this process may not make or enter a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDenied {
    /// Fail.
    Fail,
    /// Leave that hierarchy out, for rootless containers. A limit that needs it still fails.
    Skip,
    /// Skip if this process is not the machine's root.
    ByRights,
}

impl OnDenied {
    /// Whether to skip. Only this call asks the kernel for the identity of the process.
    pub(super) fn skips(self) -> bool {
        match self {
            Self::Fail => false,
            Self::Skip => true,
            Self::ByRights => !rustix::process::geteuid().is_root() || in_user_namespace(),
        }
    }
}

/// The cgroup of one container, in every hierarchy. Each answer is the kernel's at that moment. Opened directories stay open, so
/// later questions need no path, and a removed cgroup is never confused with a new one of the same name.
#[derive(Debug, Clone)]
pub struct Cgroup {
    paths: CgroupPaths,
    on_denied: OnDenied,
    created: Vec<PathBuf>,
    /// The properties of the unit, until there is a process for it.
    pending: Option<Box<(Layout, Limits)>>,
    /// Shared by clones.
    opened: Arc<Mutex<BTreeMap<PathBuf, Arc<Dir>>>>,
}

pub(super) fn denied(e: &SysError) -> bool {
    matches!(e.errno, libc::EPERM | libc::EACCES | libc::EROFS)
}

impl Cgroup {
    /// Makes the cgroup's directories, and parents that are missing, and writes `limits`, before
    /// any process is in it: [`Self::make`] and [`Self::limit`]. On failure what was made is removed.
    ///
    /// # Errors
    /// Those of the two.
    pub fn create(
        layout: &Layout,
        paths: &CgroupPaths,
        limits: &Limits,
        on_denied: OnDenied,
    ) -> Result<Self> {
        let cgroup = Self::make(layout, paths, limits, on_denied)?;
        cgroup.limit(limits).inspect_err(|_| cgroup.roll_back())?;
        Ok(cgroup)
    }

    /// Makes the cgroup's directories, and parents that are missing; on v2 the controllers that `limits` need are enabled on the
    /// way down. On failure what was made is removed. A systemd unit is only made by [`Self::adopt`].
    ///
    /// # Errors
    /// The cgroup has processes or is frozen (a container must have one for itself); a directory cannot be made.
    pub fn make(layout: &Layout, paths: &CgroupPaths, limits: &Limits, on_denied: OnDenied) -> Result<Self> {
        let mut cgroup = Self::at(paths.clone(), on_denied);
        cgroup.check_unused()?;
        if paths.systemd.is_some() {
            cgroup.pending = Some(Box::new((layout.clone(), limits.clone())));
        } else if let Err(e) = cgroup.make_all(layout, limits) {
            cgroup.roll_back();
            return Err(e);
        }
        Ok(cgroup)
    }

    /// Writes the limits of a new cgroup; a systemd unit gets them in [`Self::adopt`]. On v1 empty cpusets are filled from the
    /// parent's.
    ///
    /// # Errors
    /// A limit is refused or its controller missing, with the field's name.
    pub fn limit(&self, limits: &Limits) -> Result<()> {
        if self.pending.is_some() {
            return Ok(());
        }
        self.write(limits)?;
        // After the limits: values that they leave empty come from the parent.
        let cpuset = self.paths.v1.get("cpuset").map(|p| self.dir(p)).transpose()?;
        cpuset.map_or(Ok(()), |dir| fill_cpuset(&dir).context("fill the container's cpuset"))
    }

    /// Puts the container's first process into the new cgroup. This makes a systemd unit, with its limits.
    ///
    /// # Errors
    /// Those of [`Self::add_pid`] and [`Self::create`], or systemd refuses the unit. Then neither the unit nor the process is
    /// left.
    pub fn adopt(&mut self, pid: u32) -> Result<()> {
        let Some(unit) = self.paths.systemd.clone() else { return self.add_pid(pid) };
        let Some(pending) = self.pending.take() else { return self.add_pid(pid) };
        let (layout, limits) = *pending;
        unit.start(pid, &limits, self.paths.v1.contains_key("devices"))?;
        // systemd knows neither every hierarchy nor every limit. A user may change nothing above its scope.
        let made = match unit.of_user {
            true => self.write(&limits),
            false => self
                .make_all(&layout, &limits)
                .and_then(|()| self.limit(&limits))
                .and_then(|()| self.move_into(pid)),
        };
        if made.is_err() {
            if let Err(e) = unit.stop() {
                tracing::warn!("clean up after a failed create: {e}");
            }
            remove::roll_back(&self.created);
        }
        made
    }

    /// The cgroup at `paths`, from a state file; it need not be there any more.
    ///
    /// # Errors
    /// A path is relative or has `..` in it.
    pub fn open(paths: CgroupPaths, on_denied: OnDenied) -> Result<Self> {
        paths.check()?;
        Ok(Self::at(paths, on_denied))
    }

    fn at(paths: CgroupPaths, on_denied: OnDenied) -> Self {
        Self { paths, on_denied, created: Vec::new(), pending: None, opened: Arc::default() }
    }

    /// One of the directories, opened once.
    pub(super) fn dir(&self, path: &Path) -> Result<Arc<Dir>, SysError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = opened.get(path) {
            return Ok(Arc::clone(dir));
        }
        let dir = Arc::new(Dir::open(path)?);
        opened.insert(path.to_owned(), Arc::clone(&dir));
        Ok(dir)
    }

    /// The directories, without those of skipped hierarchies.
    pub fn paths(&self) -> &CgroupPaths {
        &self.paths
    }

    /// The same cgroup with another reaction to a denial.
    pub fn with(self, on_denied: OnDenied) -> Self {
        Self { on_denied, ..self }
    }

    pub(super) fn on_denied(&self) -> OnDenied {
        self.on_denied
    }

    /// Removes the directories that [`Self::make`] made, parents, too. A directory that others use meanwhile stays.
    pub fn roll_back(&self) {
        remove::roll_back(&self.created);
    }

    /// The directories that [`Self::make`] made, parents first.
    pub fn created(&self) -> &[PathBuf] {
        &self.created
    }

    /// Whether any of the directories is there.
    pub fn exists(&self) -> bool {
        self.paths.directories().iter().any(|(path, _)| Dir::open(path).is_ok())
    }

    /// Checks that a new container could have the cgroup for itself.
    ///
    /// # Errors
    /// It has processes, or is frozen.
    pub fn check_unused(&self) -> Result<()> {
        let pids = self.pids()?.len();
        if pids != 0 {
            let problem = format!("container's cgroup is not empty: {pids} process(es) found");
            return Err(Error::invalid("linux.cgroupsPath", problem));
        }
        if self.frozen()? {
            return Err(Error::invalid("linux.cgroupsPath", "container's cgroup unexpectedly frozen"));
        }
        Ok(())
    }

    /// Makes every directory, or drops those from the paths that may be skipped.
    fn make_all(&mut self, layout: &Layout, limits: &Limits) -> Result<()> {
        let paths = self.paths.clone();
        for (path, controllers) in paths.directories() {
            let outside = || Error::invalid("cgroup path", format!("{path:?} is in no mounted hierarchy"));
            let mount = layout.mount_of(path).ok_or_else(outside)?;
            let made_before = self.created.len();
            let made = self.make_one(&mount.point, path, &controllers, layout, limits);
            let what = format!("make cgroup {}", path.display());
            // Next to v1's controllers, the container does without cgroup2 and hierarchies that have a name and no controller.
            let optional = !paths.v1.is_empty() && controllers.iter().all(|c| c.starts_with("name="));
            match made {
                Err(Error::Sys(e)) if denied(&e) && (optional || self.on_denied.skips()) => {
                    tracing::debug!("go on without cgroup {}: {e}", path.display());
                    remove::roll_back(&self.created.split_off(made_before));
                    self.paths.v1.retain(|_, p| p != path);
                    self.paths.v2 = self.paths.v2.take().filter(|p| p != path);
                }
                // runc's words, which clients look for.
                Err(Error::Sys(e)) if denied(&e) => {
                    return Err(e).context(format!("unable to apply cgroup configuration: {what}"));
                }
                other => other.context(what)?,
            }
        }
        Ok(())
    }

    fn make_one(
        &mut self,
        mount: &Path,
        path: &Path,
        controllers: &[&str],
        layout: &Layout,
        limits: &Limits,
    ) -> Result<()> {
        let mut dir = Dir::open(mount)?;
        let mut names = path.strip_prefix(mount).unwrap_or(path).iter().peekable();
        while let Some(name) = names.next() {
            if dir.version() == Version::V2 {
                enable_controllers(&dir, layout, limits)?;
            }
            if dir.make_child(name)? {
                self.created.push(dir.path().join(name));
            }
            dir = dir.child(name)?;
            if dir.version() == Version::V2 {
                check_type(&dir, limits)?;
            } else if controllers.contains(&"cpuset") && names.peek().is_some() {
                fill_cpuset(&dir)?;
            }
        }
        if dir.version() == Version::V2 {
            check_movable(layout, dir.path())?;
        }
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.insert(path.to_owned(), Arc::new(dir));
        Ok(())
    }

    /// Moves a process, all its threads, into the cgroup.
    ///
    /// # Errors
    /// The process is gone (ESRCH), the cgroup is gone (ENOENT), or v2 wants the process in a
    /// child (EBUSY: the cgroup passes controllers on).
    pub fn add_pid(&self, pid: u32) -> Result<()> {
        match self.paths.systemd.as_ref().filter(|unit| unit.of_user).zip(self.paths.v2.as_ref()) {
            Some((unit, path)) => unit.attach(pid, path),
            None => self.move_into(pid),
        }
    }

    /// Moves a process by cgroupfs.
    fn move_into(&self, pid: u32) -> Result<()> {
        for (path, _) in self.paths.directories() {
            match self.dir(path).and_then(|dir| add_pid(&dir, pid)) {
                Err(e) if denied(&e) && self.on_denied.skips() => {
                    tracing::debug!("leave process {pid} out of cgroup {}: {e}", path.display());
                }
                other => other.context(format!("error adding pid {pid} to cgroups: {}", path.display()))?,
            }
        }
        Ok(())
    }

    /// The place for a process to be born in the whole cgroup. `None` for a systemd unit, which has no directory before its first
    /// process, and whose processes only the user's systemd may move. `None` also if the kernel may deny the entry, and the cgroup
    /// may be skipped.
    ///
    /// # Errors
    /// A directory or its file cannot be opened.
    pub fn birthplace(&self) -> Result<Option<Birthplace>> {
        let directories = self.paths.directories();
        let by_systemd =
            self.pending.is_some() || self.paths.systemd.as_ref().is_some_and(|unit| unit.of_user);
        if directories.is_empty() || by_systemd {
            return Ok(None);
        }
        let mut birthplace = Birthplace::default();
        for (path, controllers) in directories {
            if !controllers.is_empty() {
                if self.on_denied.skips() {
                    return Ok(None);
                }
                birthplace.v1.push(self.dir(path)?.writable("tasks")?);
                continue;
            }
            if self.on_denied.skips() && check_movable(&Layout::detect()?, path).is_err() {
                return Ok(None);
            }
            let copy = self.dir(path)?.as_fd().try_clone_to_owned();
            birthplace.v2 = Some(copy.map_err(|e| SysError::io("dup", path.display().to_string(), &e))?);
        }
        Ok(Some(birthplace))
    }

    /// Sets `limits`, now or on a running container.
    ///
    /// # Errors
    /// The kernel refuses a value, or the controller is missing: with the field's name.
    pub fn apply(&self, limits: &Limits) -> Result<()> {
        self.enable_further(limits)?;
        if let Some(check) = limits.memory_check {
            self.check_memory(check)?;
        }
        if let Some(unit) = &self.paths.systemd {
            unit.set(limits)?;
        }
        self.write(limits)
    }

    /// On a hybrid host the container has only those controllers of cgroup2 that its first limits needed.
    fn enable_further(&self, limits: &Limits) -> Result<()> {
        let Some(path) = self.paths.v2.as_ref().filter(|_| !self.paths.v1.is_empty()) else { return Ok(()) };
        if self.paths.systemd.is_some() || limits.v2_controllers().next().is_none() {
            return Ok(());
        }
        let layout = Layout::detect()?;
        let Some(mount) = layout.mount_of(path) else { return Ok(()) };
        let mut dir = Dir::open(&mount.point)?;
        for name in path.strip_prefix(&mount.point).unwrap_or(path) {
            enable_controllers(&dir, &layout, limits)?;
            dir = dir.child(name)?;
        }
        Ok(())
    }

    /// Writes `limits` to cgroupfs.
    fn write(&self, limits: &Limits) -> Result<()> {
        let mut groups: BTreeMap<(Version, &str), Vec<&Write>> = BTreeMap::new();
        for write in &limits.writes {
            groups.entry((write.version, &write.controller)).or_default().push(write);
        }
        for ((version, controller), writes) in groups {
            let dir = self.dir_of(version, controller, &writes[0].field)?;
            write_group(&dir, &writes)?;
        }
        match &limits.devices {
            Some(rules) => self.apply_devices(rules),
            None => Ok(()),
        }
    }

    /// The directory of a controller's files.
    fn dir_of(&self, version: Version, controller: &str, field: &str) -> Result<Arc<Dir>> {
        let path = match version {
            Version::V1 => self.paths.v1.get(controller),
            Version::V2 => self.paths.v2.as_ref(),
        };
        let Some(path) = path else {
            let why = format!(
                "cannot set {controller} limit: container could not join or create cgroup; without root it needs a \
                 delegated cgroup v2"
            );
            return Err(Error::unsupported(field, why));
        };
        self.dir(path).context(field)
    }

    fn apply_devices(&self, rules: &[super::DeviceRule]) -> Result<()> {
        let result = if let Some(path) = self.paths.v1.get("devices") {
            self.dir(path).map_err(Error::from).and_then(|dir| set_devices_v1(&dir, rules))
        } else if let Some(path) = &self.paths.v2 {
            self.dir(path)
                .and_then(|dir| bpf::set_device_filter(dir.as_fd(), &device_filter(rules)))
                .map_err(Error::from)
        } else if self.on_denied.skips() {
            return Ok(());
        } else {
            return Err(Error::unsupported(DEVICES, "there is no cgroup to keep the container from devices"));
        };
        match result {
            Err(Error::Sys(e)) if denied(&e) && self.on_denied.skips() => {
                tracing::debug!("go on without device rules: {e}");
                Ok(())
            }
            other => other.context(DEVICES),
        }
    }

    /// `memory.checkBeforeUpdate`: the kernel's v2 would reclaim and then kill.
    fn check_memory(&self, check: MemoryCheck) -> Result<()> {
        let Some(path) = &self.paths.v2 else { return Ok(()) };
        let Ok(usage) = self.dir(path).and_then(|dir| dir.read_number("memory.current")) else {
            return Ok(()); // a new cgroup without the controller: writing the limit will fail
        };
        let fields = [("memory.swap", "memory+swap", check.swap), ("memory.limit", "memory", check.limit)];
        for (field, what, limit) in fields {
            if let Some(limit) = limit.filter(|limit| *limit <= usage) {
                let problem = format!("rejecting {what} limit {limit} <= usage {usage}");
                return Err(Error::invalid(format!("linux.resources.{field}"), problem));
            }
        }
        Ok(())
    }
}

/// Copies `cpuset.cpus` and `cpuset.mems` from the parent where they are empty: no process can
/// enter a v1 cpuset without.
fn fill_cpuset(dir: &Dir) -> Result<()> {
    let mut parent = None;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if dir.read(file)?.is_empty() {
            if parent.is_none() {
                parent = dir.path().parent().map(Dir::open).transpose()?;
            }
            if let Some(parent) = &parent {
                dir.write(file, &parent.read(file)?)?;
            }
        }
    }
    Ok(())
}

/// Passes controllers on to the children of `dir`: all controllers on a v2 host, as runc does, so that limits can be set later;
/// only the needed ones on a hybrid host, where others share this hierarchy. A controller that cannot be passed on (a process is
/// in `dir`) matters only if a limit needs it; writing that limit fails then.
fn enable_controllers(dir: &Dir, layout: &Layout, limits: &Limits) -> Result<(), SysError> {
    let available = dir.read("cgroup.controllers")?;
    let enabled = dir.read("cgroup.subtree_control")?;
    let all = layout.kind() == super::Kind::V2;
    let wanted = |c: &&str| all || limits.v2_controllers().any(|needed| needed == *c);
    let new = |c: &&str| !enabled.split(' ').any(|e| e == *c);
    let missing: Vec<_> =
        available.split_whitespace().filter(wanted).filter(new).map(|c| format!("+{c}")).collect();
    if !missing.is_empty() && dir.write("cgroup.subtree_control", &missing.join(" ")).is_err() {
        for controller in missing {
            if let Err(e) = dir.write("cgroup.subtree_control", &controller) {
                tracing::debug!("controller not passed on: {e}");
            }
        }
    }
    Ok(())
}

/// Below a cgroup with processes and controllers a new cgroup is "domain invalid" until it is
/// threaded, and a threaded one cannot have domain controllers (cgroup-v2.rst, Threads).
fn check_type(dir: &Dir, limits: &Limits) -> Result<()> {
    let kind = dir.read("cgroup.type")?;
    if !matches!(kind.as_str(), "domain invalid" | "domain threaded" | "threaded") {
        return Ok(());
    }
    let domain = limits.writes.iter().find(|w| {
        w.version == Version::V2 && matches!(w.controller.as_str(), "memory" | "io" | "cpu" | "hugetlb")
    });
    match domain {
        Some(write) => {
            let why =
                format!("cgroup {} is of type {kind:?}, which cannot have this limit", dir.path().display());
            Err(Error::unsupported(&write.field, why))
        }
        None if kind == "domain invalid" => Ok(dir.write("cgroup.type", "threaded")?),
        None => Ok(()),
    }
}

fn add_pid(dir: &Dir, pid: u32) -> Result<(), SysError> {
    for _ in 0..5 {
        match dir.write("cgroup.procs", &pid.to_string()) {
            // A process that is still being forked (TASK_NEW) cannot be moved yet.
            Err(e) if e.errno == libc::EINVAL => sleep(Duration::from_millis(30)),
            other => return other,
        }
    }
    dir.write("cgroup.procs", &pid.to_string())
}
