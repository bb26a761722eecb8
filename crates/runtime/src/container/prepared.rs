//! How to create a container, and the configuration that is checked and planned before anything of it is on the host.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use derive_setters::Setters;
use hiber_sandbox::cgroup::{Cgroup, CgroupPaths, DeviceRule, Kind, Layout, Limits, OnDenied, Unit};
use hiber_sandbox::plan::{self, CgroupMount, MountPlan, NamespaceKind, Plan};
use hiber_sandbox::{config, hooks, in_user_namespace};
use oci_spec::runtime::{LinuxResources, Spec};

use crate::container::notify;
use crate::container::stdio::Stdio;
#[cfg(doc)]
use crate::container::task::Task;
use crate::error::{Error, Result};
use crate::id::ContainerId;
use crate::state::entry::Entry;
use crate::state::facts::{FACTS_VERSION, Facts};
use crate::state::resources::{self, ChangedResources};

/// How to create a container. Each choice has a setter.
#[derive(Debug, Default, Setters)]
#[setters(into)]
#[non_exhaustive]
pub struct CreateOptions<'a> {
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Have systemd make the cgroup: `linux.cgroupsPath` is `SLICE:PREFIX:NAME`.
    pub systemd_cgroup: bool,
    /// Switch roots without pivot_root(2).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Pass descriptors 3 to 2+N on as sockets of a service manager: the container's process finds `LISTEN_FDS`
    /// and `LISTEN_PID` in its environment (sd_listen_fds(3)).
    #[setters(into = false)]
    pub listen_fds: u32,
    /// The number of further descriptors to pass on, from 3 + `listen_fds` on.
    #[setters(into = false)]
    pub preserve_fds: u32,
    /// Go on where permission for cgroups is missing and nothing asks for one; None: where the caller is not the
    /// machine's root.
    pub rootless: Option<bool>,
    /// Give the process a socket for sd_notify(3); see [`Task::notify`].
    pub notify: bool,
    /// The part that starts its process.
    pub start: Start,
    /// Standard input, output and error.
    pub stdio: Stdio<'a>,
}

impl CreateOptions<'_> {
    /// A container of the bundle in this directory; all else as usual.
    pub fn new(bundle: impl Into<PathBuf>) -> Self {
        Self { bundle: bundle.into(), ..Self::default() }
    }
}

/// The part that starts a new container's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// Any task of the container, in any process.
    #[default]
    ByAnybody,
    /// Only the returned [`Task`] can start it. If the task is dropped before, the container's process ends. Until the start
    /// others see the container as [`Creating`](crate::Status::Creating).
    ByMaker,
    /// As [`ByMaker`](Self::ByMaker), but the process does not wait for [`Task::start`]. The call must still follow, and returns
    /// the result.
    AtOnce,
}

/// A configuration, checked and planned. Nothing is on the host yet, and nothing here changes afterwards.
pub(crate) struct Prepared {
    pub(crate) spec: Arc<Spec>,
    /// The bytes of `spec`, if nothing in them was tolerated.
    json: Option<Vec<u8>>,
    pub(crate) plan: Plan,
    pub(crate) bundle: PathBuf,
    pub(crate) layout: Layout,
    pub(crate) cgroup: CgroupPaths,
    pub(crate) limits: Limits,
    pub(crate) on_denied: OnDenied,
    /// The limits of config.json, where the container gets others.
    first_resources: Option<LinuxResources>,
}

impl Prepared {
    /// Loads and checks a bundle.
    pub(crate) fn new(id: &ContainerId, options: &CreateOptions<'_>) -> Result<Self> {
        Self::with_notify(id, options, None)
    }

    /// As [`new`](Self::new), with the host's directory of the container's notification socket.
    pub(crate) fn with_notify(
        id: &ContainerId,
        options: &CreateOptions<'_>,
        notify: Option<&Path>,
    ) -> Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "a bundle is a directory of the host")]
        let bundle = std::fs::canonicalize(&options.bundle).map_err(|e| Error::file(&options.bundle, &e))?;
        let loaded = config::load(&bundle.join("config.json"))?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let (mut spec, mut json) = (loaded.spec, loaded.json);
        if let Some(dir) = notify {
            notify::add_to(Arc::make_mut(&mut spec), dir)?;
            json = None;
        }
        let mut plan = Plan::new(
            &spec,
            &plan::Options {
                id: id.as_str().into(),
                bundle: bundle.clone(),
                no_pivot: options.no_pivot,
                keyring: (!options.no_new_keyring).then(|| keyring_name(id)),
                preserve_fds: options.listen_fds.saturating_add(options.preserve_fds),
                rootless: !rustix::process::geteuid().is_root(),
                in_user_namespace: in_user_namespace(),
            },
        )?;
        if options.listen_fds > 0 {
            // The process is the first one of its pid namespace; otherwise nobody knows its id beforehand.
            let count = format!("LISTEN_FDS={}", options.listen_fds);
            plan.init.process.env.extend([count, "LISTEN_PID=1".to_owned()]);
        }
        let layout = Layout::detect()?;
        let (cgroup, limits) = cgroup_of(&spec, &layout, id, options.systemd_cgroup)?;
        // A cgroup that was asked for by name must be there; the default one is a bonus for a rootless container.
        let given = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
        let named = given.is_some_and(|path| !path.as_os_str().is_empty());
        let on_denied = if named { OnDenied::Fail } else { on_denied(options.rootless) };
        Ok(Self { spec, json, plan, bundle, layout, cgroup, limits, on_denied, first_resources: None })
    }

    /// With limits that were in force at a dump instead of those of config.json.
    ///
    /// # Errors
    /// Those of [`limits_with`](Self::limits_with).
    pub(crate) fn with_limits(self, in_force: &ChangedResources) -> Result<Self> {
        let first_resources = Some(resources::of(&self.spec));
        let (spec, limits) = self.limits_with(in_force)?;
        Ok(Self { spec, limits, json: None, first_resources, ..self })
    }

    /// The configuration with other limits, and these limits.
    ///
    /// # Errors
    /// If they are no limits, or none that this host has.
    pub(crate) fn limits_with(&self, in_force: &ChangedResources) -> Result<(Arc<Spec>, Limits)> {
        let mut spec = Spec::clone(&self.spec);
        resources::apply(in_force, &mut spec)?;
        let limits = limits_of(&spec, &self.layout)?;
        Ok((Arc::new(spec), limits))
    }

    /// With the directories of the container's cgroup, which is made, for its cgroup mounts.
    pub(crate) fn with_cgroup(mut self, cgroup: &Cgroup) -> Self {
        let mounts = self.cgroup_mounts(cgroup);
        if let Some(root) = &mut self.plan.init.root {
            root.cgroups = mounts;
        }
        self
    }

    /// Keeps the configuration in the container's directory.
    pub(crate) fn write_config(&self, entry: &Entry) -> Result<()> {
        if let Some(first) = &self.first_resources {
            entry.keep_first_resources(first)?;
        }
        match &self.json {
            Some(json) => entry.write_config_as_read(json),
            None => entry.write_config(&self.spec),
        }
    }

    /// Runs the hooks of the runtime namespace, prestart and createRuntime.
    pub(crate) fn run_hooks(&self, pid: i32) -> hiber_sandbox::Result<()> {
        let all = &self.plan.hooks;
        let mut state = self.plan.init.hook_state.clone();
        state.status = "creating".into();
        state.pid = pid;
        hooks::run("prestart", plan::prestart(all), &state)?;
        hooks::run("createRuntime", plan::hook_list(all.create_runtime()), &state)
    }

    /// The facts of a container that has no process yet, whose streams will be `streams`.
    pub(crate) fn facts(&self, id: &ContainerId, streams: Vec<String>) -> Facts {
        let rootfs = self.plan.init.root.as_ref().map(|r| r.path.clone()).unwrap_or_default();
        let namespaces = &self.plan.namespaces;
        Facts {
            version: FACTS_VERSION,
            id: id.as_str().into(),
            pid: 0,
            start_time: 0,
            pidfd_inode: None,
            bundle: self.bundle.clone(),
            rootfs,
            created: SystemTime::now(),
            cgroup: self.cgroup.clone(),
            resctrl: self.plan.resctrl.as_ref().map(|plan| plan.group().clone()).unwrap_or_default(),
            namespaces: NamespaceKind::ALL.into_iter().filter(|k| namespaces.has(*k)).collect(),
            streams,
            put_root: false,
            host_root: None,
            keyring: self.plan.init.keyring.clone(),
        }
    }

    /// Whether the container may make cgroups below its own: on cgroup v2, in a cgroup namespace of its own, and with a writable
    /// mount of the hierarchy.
    fn may_nest_cgroups(&self) -> bool {
        let root = self.plan.init.root.as_ref();
        self.layout.kind() == Kind::V2
            && self.plan.namespaces.is_new(NamespaceKind::Cgroup)
            && root.is_some_and(|root| root.mounts.iter().any(MountPlan::is_writable_cgroup))
    }

    /// Limits the cgroups that a container may make below its own, and gives the cgroup to root of a new user namespace.
    pub(crate) fn delegate(&self, cgroup: &Cgroup) -> hiber_sandbox::Result<()> {
        if !self.may_nest_cgroups() {
            return Ok(());
        }
        cgroup.limit_nesting()?;
        let namespaces = &self.plan.namespaces;
        let root = namespaces.uid_maps.iter().find(|map| map.container == 0);
        match root.filter(|_| namespaces.is_new(NamespaceKind::User)) {
            Some(map) => cgroup.delegate(map.host),
            None => Ok(()),
        }
    }

    /// The directories of the container's own cgroups, for its cgroup mounts.
    fn cgroup_mounts(&self, cgroup: &Cgroup) -> Vec<CgroupMount> {
        if self.layout.kind() == Kind::V2 {
            let host_path = cgroup.paths().v2.clone().unwrap_or_default();
            let namespaces = &self.plan.namespaces;
            let strange = namespaces.has(NamespaceKind::Cgroup) || namespaces.has(NamespaceKind::User);
            let whole = self.layout.v2().filter(|_| !strange).map(|mount| mount.point.clone());
            return vec![CgroupMount { name: String::new(), data: String::new(), host_path, whole }];
        }
        let mut mounts: Vec<CgroupMount> = Vec::new();
        for (controller, host_path) in &cgroup.paths().v1 {
            if mounts.iter().any(|m| m.host_path == *host_path) {
                continue; // mounted together with one that was seen
            }
            let together: Vec<&str> =
                cgroup.paths().v1.iter().filter(|(_, p)| *p == host_path).map(|(c, _)| c.as_str()).collect();
            let point = self.layout.v1().get(controller).map(|m| m.point.as_path());
            let name = point.and_then(Path::file_name).and_then(|n| n.to_str()).unwrap_or(controller);
            mounts.push(CgroupMount {
                name: name.into(),
                data: together.join(","),
                host_path: host_path.clone(),
                whole: None,
            });
        }
        mounts
    }
}

/// A name that no keyring can have yet: the kernel would also find keyrings of other users and containers that permit a search.
fn keyring_name(id: &ContainerId) -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("_ses.{}.{random:016x}", id.as_str())
}

/// The reaction if a cgroup is denied: `rootless` is the caller's choice.
fn on_denied(rootless: Option<bool>) -> OnDenied {
    match rootless {
        Some(true) => OnDenied::Skip,
        Some(false) => OnDenied::Fail,
        None => OnDenied::ByRights,
    }
}

fn limits_of(spec: &Spec, layout: &Layout) -> Result<Limits> {
    let linux = plan::linux_of(spec);
    let none = LinuxResources::default();
    let resources = linux.resources().as_ref().unwrap_or(&none);
    // Only the machine's root may load device rules, and other users' containers cannot make device nodes anyway.
    let machines_root = rustix::process::geteuid().is_root() && !in_user_namespace();
    let devices = machines_root.then(DeviceRule::defaults);
    Ok(Limits::from_spec(resources, layout, devices.as_deref())?)
}

fn cgroup_of(spec: &Spec, layout: &Layout, id: &ContainerId, systemd: bool) -> Result<(CgroupPaths, Limits)> {
    let limits = limits_of(spec, layout)?;
    let linux = plan::linux_of(spec);
    let path = linux.cgroups_path().as_deref();
    let paths = match systemd {
        true => Unit::new(path, id.as_str(), spec.annotations().as_ref())?.resolve(layout)?,
        false => layout.resolve(path, id.as_str())?,
    };
    Ok((paths, limits))
}
