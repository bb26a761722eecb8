//! config.json as a validated, serialisable plan: every mistake is found here, before the host is touched.

mod host;
mod mount_data;
mod mount_options;
mod mounts;
mod namespace;
mod netdevices;
mod options;
mod process;
mod root;
pub(crate) mod scheduling;
mod security;
mod sysctl;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{Hook, Hooks, Linux, Process, Spec};
use serde::{Deserialize, Serialize};

pub use hiber_sys::NamespaceKind;
pub use host::HostOptions;
pub use mount_options::MOUNT_OPTIONS;
pub use mounts::{MountIdMaps, MountPlan, MountSource};
pub use namespace::{IdMap, Join, Namespaces, kind as namespace_kind};
pub use netdevices::NetDevice;
pub use options::Options;
pub use process::{CapabilitySets, ProcessPlan, Rlimit};
pub use root::{CgroupMount, DEFAULT_DEVICES, DeviceNode, RootPlan, in_container};
pub use scheduling::{Affinity, MEMORY_FLAGS, MEMORY_MODES, Scheduling};
pub use security::{Security, apparmor_enabled};
pub use sysctl::sysctl_path;

use crate::resctrl;
use crate::seccomp::{self, Program};
use crate::{Error, Result, SysError};

/// A whole container.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Namespaces to create and to join.
    pub namespaces: Namespaces,
    /// All hooks, also those that init runs.
    pub hooks: Hooks,
    /// The part that init carries out.
    pub init: InitPlan,
    /// Network devices to move in.
    pub net_devices: Vec<NetDevice>,
    /// The group in resctrl.
    pub resctrl: Option<resctrl::GroupPlan>,
    /// The CPUs of a joining process.
    pub affinity: Affinity,
}

/// The plan that is sent to init.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InitPlan {
    /// The container's id.
    pub id: String,
    /// Namespace kinds to create from inside (see [`Plan::clone_flags`]).
    pub unshare: Vec<NamespaceKind>,
    /// Kinds to create in a second stage, because a pid or user namespace is joined first.
    pub second_stage: Option<u64>,
    /// Whether a user namespace, new or joined, bounds init's rights.
    pub in_user_namespace: bool,
    /// Whether the parent is a plain user's, with no more rights than init.
    pub rootless: bool,
    /// Whether device nodes are the host's, bound: in user namespaces none can be made.
    pub bind_devices: bool,
    /// Whether a network namespace is new, so that its loopback must come up.
    pub loopback: bool,
    /// Whether init must ask the parent for network devices.
    pub net_devices: bool,
    /// The root filesystem; `None` for a process that joins a container.
    pub root: Option<RootPlan>,
    /// The container's root on the host, for a process that joins a container in the host's mount namespace.
    pub joined_root: Option<PathBuf>,
    /// `hostname` of a new UTS namespace.
    pub hostname: Option<String>,
    /// `domainname` of a new UTS namespace.
    pub domainname: Option<String>,
    /// Keys as paths below /proc/sys.
    pub sysctl: BTreeMap<PathBuf, String>,
    /// Offsets of a new time namespace: clock name, seconds, nanoseconds.
    pub time_offsets: Vec<(String, i64, u32)>,
    /// Linux `personality(2)` value.
    pub personality: Option<u64>,
    /// The program and its attributes.
    pub process: ProcessPlan,
    /// CPU, I/O and memory scheduling of the process.
    pub scheduling: Scheduling,
    /// The compiled seccomp filter.
    pub seccomp: Option<Program>,
    /// Name of the session keyring.
    pub keyring: Option<String>,
    /// The number of descriptors from 3 on that the program inherits.
    pub preserve_fds: u32,
    /// Whether init must ask the parent to run prestart or createRuntime hooks.
    pub runtime_hooks: bool,
    /// Hooks that init runs before it enters the root.
    #[serde(with = "as_json")]
    pub create_container_hooks: Vec<Hook>,
    /// Hooks that init runs in the container, before it executes the program.
    #[serde(with = "as_json")]
    pub start_container_hooks: Vec<Hook>,
    /// The state for hooks and the seccomp agent, without status and pid. For a process that joins a container, the pid is that
    /// of the container.
    #[serde(with = "as_json")]
    pub hook_state: HookState,
}

/// JSON text within postcard, for types that leave out missing members: postcard cannot represent these.
mod as_json {
    use serde::de::{DeserializeOwned, Error as _};
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &impl Serialize, to: S) -> Result<S::Ok, S::Error> {
        serde_json::to_string(value).map_err(S::Error::custom)?.serialize(to)
    }

    pub(super) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
        from: D,
    ) -> Result<T, D::Error> {
        serde_json::from_str(<&str>::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// The container's state, which hooks read from standard input (runtime-spec "State").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState {
    /// The version of the runtime specification.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: String,
    /// The container's first process, as the hook sees it.
    pub pid: i32,
    /// The bundle's absolute path.
    pub bundle: PathBuf,
    /// The annotations of config.json.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Plan {
    /// Validates a whole config.json.
    pub fn new(spec: &Spec, options: &Options) -> Result<Self> {
        let linux = &*linux_of(spec);
        let process = spec.process().as_ref().ok_or_else(|| Error::invalid("process", "is missing"))?;
        let namespaces = Namespaces::from_spec(linux)?;
        if options.rootless && !namespaces.has(NamespaceKind::User) {
            let why = "rootless container requires user namespaces: expected one of type user";
            return Err(Error::invalid("linux.namespaces", why));
        }
        let resctrl = linux.intel_rdt().as_ref();
        let resctrl = resctrl.map(|rdt| resctrl::GroupPlan::new(rdt, &options.id)).transpose()?;
        let root = RootPlan::from_spec(spec, linux, &namespaces, options)?;
        let hooks = spec.hooks().clone().unwrap_or_default();
        check_hooks(&hooks)?;
        let mut init = InitPlan::new(process, linux, options)?;
        namespaces.check_user(&init.process)?;
        // those of later processes, which `exec` takes from here
        Affinity::new(process.exec_cpu_affinity())?;
        init.divide_namespaces(&namespaces);
        init.root = Some(root);
        init.hostname = spec.hostname().clone().filter(|h| !h.is_empty());
        init.domainname = spec.domainname().clone().filter(|d| !d.is_empty());
        for (name, field) in [(&init.hostname, "hostname"), (&init.domainname, "domainname")] {
            if let Some(long) = name.as_ref().filter(|name| name.len() > UTS_LEN) {
                let problem = format!("{long:?} is longer than {UTS_LEN} bytes");
                return Err(Error::invalid(field, problem));
            }
            if name.is_some() && !namespaces.has(NamespaceKind::Uts) {
                return Err(Error::invalid(
                    field,
                    format!("unable to set {field} without a private UTS namespace"),
                ));
            }
        }
        init.sysctl = sysctl::check(linux.sysctl().as_ref(), &namespaces)?;
        for (clock, offset) in linux.time_offsets().iter().flatten() {
            if clock != "monotonic" && clock != "boottime" {
                return Err(Error::invalid(
                    "linux.timeOffsets",
                    format!("{clock:?} is neither monotonic nor boottime"),
                ));
            }
            init.time_offsets.push((
                clock.clone(),
                offset.secs().unwrap_or(0),
                offset.nanosecs().unwrap_or(0),
            ));
        }
        init.personality = linux.personality().as_ref().map(personality).transpose()?;
        init.seccomp = compile_seccomp(linux)?;
        init.runtime_hooks =
            hook_list(hooks.create_runtime()).next().is_some() || prestart(&hooks).next().is_some();
        init.create_container_hooks = hook_list(hooks.create_container()).cloned().collect();
        init.start_container_hooks = hook_list(hooks.start_container()).cloned().collect();
        init.hook_state = hook_state(spec, options);
        let net_devices = netdevices::check(linux, &namespaces)?;
        init.net_devices = !net_devices.is_empty();
        Ok(Self { namespaces, hooks, init, net_devices, resctrl, affinity: Affinity::default() })
    }

    /// A further process for a container whose config is `spec`: it joins the namespaces of `namespaces`.
    pub fn for_exec(
        spec: &Spec,
        process: &Process,
        namespaces: &Namespaces,
        options: &Options,
    ) -> Result<Self> {
        let linux = &*linux_of(spec);
        let mut init = InitPlan::new(process, linux, options)?;
        init.in_user_namespace = namespaces.has(NamespaceKind::User);
        init.second_stage =
            (namespaces.has(NamespaceKind::User) || namespaces.has(NamespaceKind::Pid)).then_some(0);
        init.personality = linux.personality().as_ref().map(personality).transpose()?;
        init.seccomp = compile_seccomp(linux)?;
        init.hook_state = hook_state(spec, options);
        let affinity = Affinity::new(process.exec_cpu_affinity())?;
        Ok(Self {
            namespaces: Namespaces::default(),
            hooks: Hooks::default(),
            init,
            net_devices: Vec::new(),
            resctrl: None,
            affinity,
        })
    }

    /// Namespaces that the parent's clone3 creates.
    ///
    /// The cgroup namespace comes later, from inside, because its root is the cgroup of the process at that
    /// moment (cgroup_namespaces(7)); so does the time namespace, whose offsets are set before it is entered
    /// (time_namespaces(7)); and all do where a pid or user namespace must be joined first.
    pub fn clone_flags(&self) -> u64 {
        if self.init.second_stage.is_some() {
            return 0;
        }
        self.namespaces.new.iter().filter(|k| !late(**k)).map(|k| k.clone_flag()).sum()
    }
}

/// A configuration's `linux`, or the default.
pub fn linux_of(spec: &Spec) -> Cow<'_, Linux> {
    spec.linux().as_ref().map_or_else(|| Cow::Owned(Linux::default()), Cow::Borrowed)
}

fn late(kind: NamespaceKind) -> bool {
    matches!(kind, NamespaceKind::Cgroup | NamespaceKind::Time)
}

/// The kinds of hooks that are run, by name, in the order of a container's life.
pub const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Legacy prestart hooks (deprecated in the spec, still what NVIDIA's toolkit installs).
#[allow(deprecated)]
pub fn prestart(hooks: &Hooks) -> impl Iterator<Item = &Hook> {
    hook_list(hooks.prestart())
}

/// The hooks of one kind.
pub fn hook_list(hooks: &Option<Vec<Hook>>) -> impl Iterator<Item = &Hook> {
    hooks.iter().flatten()
}

fn hook_state(spec: &Spec, options: &Options) -> HookState {
    HookState {
        oci_version: spec.version().clone(),
        id: options.id.clone(),
        bundle: options.bundle.clone(),
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        ..HookState::default()
    }
}

fn compile_seccomp(linux: &Linux) -> Result<Option<Program>> {
    let program = linux.seccomp().as_ref().map(seccomp::compile).transpose()?;
    for warning in program.iter().flat_map(|p| &p.warnings) {
        // Clients' profiles name calls of every kernel and machine, so this is no warning.
        tracing::debug!("{warning}");
    }
    if let Some(program) = &program {
        tracing::debug!("seccomp filter flags: {}", program.flags);
    }
    Ok(program)
}

fn check_hooks(hooks: &Hooks) -> Result<()> {
    #[allow(deprecated)] // still what NVIDIA's toolkit installs
    let kinds = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (kind, list) in kinds {
        for (i, hook) in hook_list(list).enumerate() {
            if !hook.path().is_absolute() {
                return Err(Error::invalid(
                    format!("hooks.{kind}[{i}].path"),
                    format!("{} is not an absolute path", hook.path().display()),
                ));
            }
            if let Some(timeout) = hook.timeout().filter(|t| *t <= 0) {
                return Err(Error::invalid(
                    format!("hooks.{kind}[{i}].timeout"),
                    format!("{timeout} is not more than 0 seconds"),
                ));
            }
        }
    }
    Ok(())
}

/// linux/utsname.h: __NEW_UTS_LEN.
const UTS_LEN: usize = 64;

/// linux/personality.h; libc lacks it for glibc.
const PER_LINUX32: u64 = 0x0008;

fn personality(p: &oci_spec::runtime::LinuxPersonality) -> Result<u64> {
    if p.flags().as_ref().is_some_and(|f| !f.is_empty()) {
        return Err(Error::unsupported("linux.personality.flags", "additional flags are not supported"));
    }
    Ok(match p.domain() {
        oci_spec::runtime::LinuxPersonalityDomain::PerLinux => 0,
        oci_spec::runtime::LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    })
}

impl InitPlan {
    /// Encodes the plan for init. Init is the same program, so the format needs no field names.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        postcard::to_extend(self, Vec::with_capacity(4096))
            .map_err(|e| SysError::new("write", format!("the plan ({e})"), libc::EINVAL).into())
    }

    /// Decodes the bytes of [`encode`](Self::encode).
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        postcard::from_bytes(bytes).map_err(|e| {
            SysError::new("read", format!("the plan, which does not parse ({e})"), libc::EPROTO).into()
        })
    }

    fn new(process: &Process, linux: &Linux, options: &Options) -> Result<Self> {
        Ok(Self {
            id: options.id.clone(),
            unshare: Vec::new(),
            second_stage: None,
            in_user_namespace: false,
            rootless: options.rootless,
            bind_devices: options.in_user_namespace,
            loopback: false,
            net_devices: false,
            root: None,
            joined_root: None,
            hostname: None,
            domainname: None,
            sysctl: BTreeMap::new(),
            time_offsets: Vec::new(),
            personality: None,
            process: ProcessPlan::from_spec(process)?,
            scheduling: Scheduling::new(process, linux)?,
            seccomp: None,
            keyring: options.keyring.clone(),
            preserve_fds: options.preserve_fds,
            runtime_hooks: false,
            create_container_hooks: Vec::new(),
            start_container_hooks: Vec::new(),
            hook_state: HookState::default(),
        })
    }

    /// Whether init needs the host's /proc after it has joined namespaces.
    pub(crate) fn needs_host_proc(&self) -> bool {
        let security = &self.process.security;
        self.root.is_some()
            || security.apparmor_profile.is_some()
            || security.selinux_label.is_some()
            || self.seccomp.as_ref().is_some_and(|program| program.notify)
    }

    /// Whether the parent has nothing to do between the plan and the start, apart from following a second stage.
    pub(crate) fn sets_up_alone(&self) -> bool {
        let mut mounts = self.root.iter().flat_map(|root| &root.mounts);
        let asks_for_sources = mounts.any(|mount| self.needs_parent_for(mount));
        !(self.in_user_namespace || self.net_devices || self.runtime_hooks || asks_for_sources)
    }

    /// Whether only the parent may open a mount's source: in a user namespace init is a stranger to the host's
    /// directories, and mapping the ids of a mount takes rights over the filesystem itself.
    pub(crate) fn needs_parent_for(&self, mount: &MountPlan) -> bool {
        matches!(mount.source, MountSource::Bind { .. })
            && (self.needs_parent_for_devices() || mount.id_maps.is_some())
    }

    /// Whether only the parent may open the host's device nodes.
    pub(crate) fn needs_parent_for_devices(&self) -> bool {
        self.in_user_namespace && !self.rootless
    }

    fn divide_namespaces(&mut self, namespaces: &Namespaces) {
        let joins_first = namespaces.joined(NamespaceKind::Pid).is_some()
            || namespaces.joined(NamespaceKind::User).is_some();
        if joins_first {
            let kinds = namespaces.new.iter().filter(|k| !late(**k));
            self.second_stage = Some(kinds.map(|k| k.clone_flag()).sum());
        }
        self.unshare = namespaces.new.iter().copied().filter(|k| late(*k)).collect();
        self.in_user_namespace = namespaces.has(NamespaceKind::User);
        self.bind_devices |= self.in_user_namespace;
        self.loopback = namespaces.is_new(NamespaceKind::Network);
    }
}

#[cfg(test)]
mod tests;
