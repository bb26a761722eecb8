//! The options of dumps, pre-dumps and restores, and their translation for CRIU.
//!
//! The structs are plain; `new` gives CRIU's defaults. Descriptors of directories and of `status_fd`
//! are this process's own, since CRIU opens them through /proc. Those that tasks inherit must be passed
//! to the criu process when it is started: [`Launch::pass`](crate::Launch::pass) gives their numbers.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use criu_proto::EnumOrUnknown;
use criu_proto::rpc::{
    CgroupRoot as ProtoCgroupRoot, CriuOpts, CriuPageServerInfo, CriuPreDumpMode,
    InheritFd as ProtoInheritFd, JoinNamespace,
};

use crate::error::{CriuError, Result};
use crate::modes::{CgroupMode, NetworkLock};

/// CLONE_NEWNET (sched.h): the one namespace that CRIU can leave empty.
const CLONE_NEWNET: u32 = 0x4000_0000;

/// A descriptor's number in the criu process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwrkFd(pub(crate) i32);

impl fmt::Display for SwrkFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The options of all three operations. A field says so where dump and restore must agree.
#[derive(Debug)]
#[non_exhaustive]
pub struct Common {
    /// Where images are written or read. An `O_PATH` descriptor will do.
    pub images_dir: OwnedFd,
    /// Where the log, statistics and work files go: the image directory if not set.
    pub work_dir: Option<OwnedFd>,
    /// The log's name in the work directory, without slashes.
    pub log_file: String,
    /// 0 nothing, 1 errors, 2 warnings, 3 information, 4 debugging.
    pub log_level: u8,
    /// A CRIU configuration file, whose settings win over these.
    pub config_file: Option<PathBuf>,
    /// The same, open: CRIU reads this very file.
    pub config_fd: Option<OwnedFd>,
    /// Saves established TCP connections; for restore too.
    pub tcp_established: bool,
    /// Closes TCP connections instead; for restore too.
    pub tcp_close: bool,
    /// Allows unix sockets whose other end is outside.
    pub ext_unix_sk: bool,
    /// Allows a session and terminal from outside; for restore too.
    pub shell_job: bool,
    /// Saves file locks; for restore too.
    pub file_locks: bool,
    /// Makes temporary names for removed files that are open.
    pub link_remap: bool,
    /// Takes any path to a device file if the one that was opened is gone.
    pub evasive_devices: bool,
    /// Finds the files of inotify watches by searching.
    pub force_irmap: bool,
    /// Dump: where such a search begins: paths in the container.
    pub irmap_scan_paths: Vec<PathBuf>,
    /// Frees space in parent images (dump) or images (restore) as pages are taken.
    pub auto_dedup: bool,
    /// How cgroups are treated; CRIU's default if not set.
    pub cgroups: Option<CgroupMode>,
    /// Which properties of cgroups are saved: inline YAML, see criu(8), --cgroup-props.
    pub cgroup_props: Option<String>,
    /// Where in the cgroup trees the tasks' cgroups are.
    pub cgroup_roots: Vec<CgroupRoot>,
    /// A directory with an entry for each cgroup hierarchy (`unified`, `cpu,cpuacct`, …) instead of one where CRIU
    /// mounts them.
    pub cgroup_yard: Option<PathBuf>,
    /// Parts that stay outside the images.
    pub external: Vec<External>,
    /// Recognises external bind mounts by itself.
    pub auto_external_mounts: bool,
    /// How the network is locked; a restore uses what its dump used.
    pub network_lock: Option<NetworkLock>,
    /// Leaves the network namespace empty, as if it had just been made; for restore too.
    pub empty_network_ns: bool,
    /// Leaves memory behind, to be sent (dump) or fetched (restore) on demand.
    pub lazy_pages: bool,
    /// A pipe that gets a zero byte when the page server listens. The step `status-ready` does the same.
    pub status_fd: Option<OwnedFd>,
    /// Where pages go instead of the image directory.
    pub page_server: Option<PageServer>,
    /// The path that is the tasks' root: a mount point.
    pub root: Option<PathBuf>,
    /// CRIU's older way of restoring mounts.
    pub mnt_ns_compat_mode: bool,
    /// Terminals whose master is outside: a restore hands the new master to the handler.
    pub orphan_pts_master: bool,
    /// Gives up after so many seconds; CRIU's default is 10.
    pub timeout: Option<u32>,
    /// The largest deleted file that is saved, in bytes; CRIU's default is 1 MiB.
    pub ghost_limit: Option<u32>,
}

/// The options of a dump.
#[derive(Debug)]
#[non_exhaustive]
pub struct DumpOptions {
    /// The options that other operations have, too.
    pub common: Common,
    /// The root of the process tree, in CRIU's pid namespace.
    pub pid: i32,
    /// Lets the tasks run on after the dump instead of killing them.
    pub leave_running: bool,
    /// The earlier checkpoint that this one adds to, relative to the image directory.
    pub parent_img: Option<PathBuf>,
    /// Tracks changes of memory, for a later dump that has this one as its parent.
    pub track_mem: bool,
    /// Drops TCP connections that are not yet accepted.
    pub tcp_skip_in_flight: bool,
    /// The cgroup (v1 freezer or v2) to freeze for stopping the tasks: an absolute path.
    pub freeze_cgroup: Option<PathBuf>,
}

/// The options of a pre-dump.
#[derive(Debug)]
#[non_exhaustive]
pub struct PreDumpOptions {
    /// The options that other operations have, too.
    pub common: Common,
    /// The root of the process tree, in CRIU's pid namespace.
    pub pid: i32,
    /// The earlier pre-dump, relative to the image directory.
    pub parent_img: Option<PathBuf>,
    /// As for dumps.
    pub freeze_cgroup: Option<PathBuf>,
    /// Reads memory with process_vm_readv(2), so that tasks are frozen for less long.
    pub read_mode: bool,
}

/// The options of a restore.
#[derive(Debug)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// The options that other operations have, too.
    pub common: Common,
    /// Open files that replace those of the images.
    pub inherit_fds: Vec<InheritFd>,
    /// Makes the first task a child of this process instead of CRIU's.
    pub as_sibling: bool,
    /// The security profile of the tasks: `selinux:LABEL` or `apparmor:PROFILE`.
    pub lsm_profile: Option<String>,
    /// The SELinux context of their mounts.
    pub lsm_mount_context: Option<String>,
    /// Restores files whose permissions have changed since.
    pub skip_file_rwx_check: bool,
    /// Namespaces to enter instead of making them: kind (`ipc`, `uts`, `mnt`, `user`, …) and path.
    pub join_namespaces: Vec<(String, PathBuf)>,
}

/// The cgroup that a controller's part of the tasks' cgroups is below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupRoot {
    /// Controllers of a v1 hierarchy, separated by commas; all hierarchies, and v2, if not set.
    pub controllers: Option<String>,
    /// The cgroup's path in its hierarchy.
    pub path: String,
}

/// A page server, at an address or an open connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageServer {
    /// IP address. With `lazy_pages` CRIU ignores it and listens on every address.
    pub address: Option<String>,
    /// TCP port.
    pub port: u16,
    /// A connection instead of an address. CRIU's own encryption does not cover it.
    pub connection: Option<SwrkFd>,
}

/// An open file in the place of one of the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InheritFd {
    /// The key of the replaced file: `pipe:[INODE]`, a path without its first slash, or the key of a namespace.
    pub key: String,
    /// The file.
    pub fd: SwrkFd,
}

/// Something outside the images, in the syntax of criu(8)'s --external.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External(String);

impl External {
    /// Dump: the mount at `mountpoint`, a path in the container, is outside; restore knows it by `key`.
    pub fn mount(mountpoint: &str, key: &str) -> Self {
        Self(format!("mnt[{mountpoint}]:{key}"))
    }
    /// Restore: the mount with `key` is a bind of `source`, a path of the host.
    pub fn mount_source(key: &str, source: &str) -> Self {
        Self(format!("mnt[{key}]:{source}"))
    }
    /// Dump: a namespace of kind `net` or `pid` is outside; restore gets one as an [`InheritFd`] `key`.
    pub fn namespace(kind: &str, inode: u64, key: &str) -> Self {
        Self(format!("{kind}[{inode}]:{key}"))
    }
    /// Restore: the veth `name` of the images is the device `host`, which moves to where the veth was.
    pub fn network_device(name: &str, host: &str) -> Self {
        Self(format!("netdev[{name}]:{host}"))
    }
    /// Dump: the open file `inode` on the mount `mnt_id` is outside; restore gets one as an
    /// [`InheritFd`] with the key that this displays as.
    pub fn file(mnt_id: u32, inode: u64) -> Self {
        Self(format!("file[{mnt_id:x}:{inode:x}]"))
    }
    /// Dump: a terminal's other end is outside; restore gets one as an [`InheritFd`], as for files.
    pub fn terminal(rdev: u64, dev: u64) -> Self {
        Self(format!("tty[{rdev:x}:{dev:x}]"))
    }
    /// The mount point and key, or key and source, of one that [`mount`](Self::mount) or [`mount_source`](Self::mount_source) made.
    pub fn as_mount(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix("mnt[")?.split_once("]:")
    }
    /// Anything else.
    pub fn other(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Common {
    /// CRIU's defaults, with a log of level 4 (failures cannot be explained without) in `log_file`.
    pub fn new(images_dir: OwnedFd, log_file: &str) -> Self {
        Self {
            images_dir,
            work_dir: None,
            log_file: log_file.into(),
            log_level: 4,
            config_file: None,
            config_fd: None,
            tcp_established: false,
            tcp_close: false,
            ext_unix_sk: false,
            shell_job: false,
            file_locks: false,
            link_remap: false,
            evasive_devices: false,
            force_irmap: false,
            irmap_scan_paths: Vec::new(),
            auto_dedup: false,
            cgroups: None,
            cgroup_props: None,
            cgroup_roots: Vec::new(),
            cgroup_yard: None,
            external: Vec::new(),
            auto_external_mounts: false,
            network_lock: None,
            empty_network_ns: false,
            lazy_pages: false,
            status_fd: None,
            page_server: None,
            root: None,
            mnt_ns_compat_mode: false,
            orphan_pts_master: false,
            timeout: None,
            ghost_limit: None,
        }
    }

    /// The log file, as a path of this process's; it need not exist.
    pub fn log_path(&self) -> Option<PathBuf> {
        let dir = self.work_dir.as_ref().unwrap_or(&self.images_dir);
        let link = format!("/proc/self/fd/{}", dir.as_raw_fd());
        std::fs::read_link(link).ok().map(|dir| dir.join(&self.log_file))
    }

    fn to_proto(&self) -> Result<CriuOpts> {
        if self.log_file.is_empty() || self.log_file.contains('/') {
            let problem = format!("{:?}: expected a file name without slashes", self.log_file);
            return Err(CriuError::Invalid { option: "log_file", problem });
        }
        let fd = |fd: &Option<OwnedFd>| fd.as_ref().map(|fd| fd.as_fd().as_raw_fd());
        let root = |r: &CgroupRoot| ProtoCgroupRoot {
            ctrl: r.controllers.clone(),
            path: Some(r.path.clone()),
            ..Default::default()
        };
        Ok(CriuOpts {
            images_dir_fd: Some(self.images_dir.as_raw_fd()),
            work_dir_fd: fd(&self.work_dir),
            log_file: Some(self.log_file.clone()),
            log_level: Some(self.log_level.into()),
            config_file: match &self.config_fd {
                // CRIU's /proc may be mounted anew, but not before it has read its configuration.
                Some(fd) => Some(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())),
                None => path("config_file", self.config_file.as_ref())?,
            },
            notify_scripts: Some(true),
            tcp_established: flag(self.tcp_established),
            tcp_close: flag(self.tcp_close),
            ext_unix_sk: flag(self.ext_unix_sk),
            shell_job: flag(self.shell_job),
            file_locks: flag(self.file_locks),
            link_remap: flag(self.link_remap),
            evasive_devices: flag(self.evasive_devices),
            force_irmap: flag(self.force_irmap),
            irmap_scan_paths: self
                .irmap_scan_paths
                .iter()
                .filter_map(|p| path("irmap_scan_paths", Some(p)).transpose())
                .collect::<Result<_>>()?,
            auto_dedup: flag(self.auto_dedup),
            // CRIU 3 needs the older field too.
            manage_cgroups: self.cgroups.map(|mode| mode != CgroupMode::Ignore),
            manage_cgroups_mode: self.cgroups.map(|mode| mode.to_proto().into()),
            cgroup_props: self.cgroup_props.clone(),
            cgroup_yard: path("cgroup_yard", self.cgroup_yard.as_ref())?,
            cg_root: self.cgroup_roots.iter().map(root).collect(),
            external: self.external.iter().map(ToString::to_string).collect(),
            auto_ext_mnt: flag(self.auto_external_mounts),
            network_lock: self.network_lock.map(|lock| lock.to_proto().into()),
            empty_ns: self.empty_network_ns.then_some(CLONE_NEWNET),
            lazy_pages: flag(self.lazy_pages),
            status_fd: fd(&self.status_fd),
            ps: self.page_server.as_ref().map(PageServer::to_proto).into(),
            root: path("root", self.root.as_ref())?,
            mntns_compat_mode: flag(self.mnt_ns_compat_mode),
            orphan_pts_master: flag(self.orphan_pts_master),
            timeout: self.timeout,
            ghost_limit: self.ghost_limit,
            ..Default::default()
        })
    }
}

impl PageServer {
    fn to_proto(&self) -> CriuPageServerInfo {
        CriuPageServerInfo {
            address: self.address.clone(),
            port: Some(self.port.into()),
            fd: self.connection.map(|fd| fd.0),
            ..Default::default()
        }
    }
}

impl DumpOptions {
    /// CRIU's defaults, with the log in dump.log.
    pub fn new(pid: i32, images_dir: OwnedFd) -> Self {
        Self {
            common: Common::new(images_dir, "dump.log"),
            pid,
            leave_running: false,
            parent_img: None,
            track_mem: false,
            tcp_skip_in_flight: false,
            freeze_cgroup: None,
        }
    }

    pub(crate) fn to_proto(&self) -> Result<CriuOpts> {
        Ok(CriuOpts {
            pid: Some(checked_pid(self.pid)?),
            leave_running: flag(self.leave_running),
            parent_img: path("parent_img", self.parent_img.as_ref())?,
            track_mem: flag(self.track_mem),
            tcp_skip_in_flight: flag(self.tcp_skip_in_flight),
            freeze_cgroup: path("freeze_cgroup", self.freeze_cgroup.as_ref())?,
            ..self.common.to_proto()?
        })
    }
}

impl PreDumpOptions {
    /// CRIU's defaults, with the log in pre-dump.log.
    pub fn new(pid: i32, images_dir: OwnedFd) -> Self {
        Self {
            common: Common::new(images_dir, "pre-dump.log"),
            pid,
            parent_img: None,
            freeze_cgroup: None,
            read_mode: false,
        }
    }

    pub(crate) fn to_proto(&self) -> Result<CriuOpts> {
        Ok(CriuOpts {
            pid: Some(checked_pid(self.pid)?),
            parent_img: path("parent_img", self.parent_img.as_ref())?,
            track_mem: Some(true),
            freeze_cgroup: path("freeze_cgroup", self.freeze_cgroup.as_ref())?,
            pre_dump_mode: self.read_mode.then_some(EnumOrUnknown::new(CriuPreDumpMode::VM_READ)),
            ..self.common.to_proto()?
        })
    }
}

impl RestoreOptions {
    /// CRIU's defaults, with the log in restore.log and the first task as a child of this process.
    pub fn new(images_dir: OwnedFd) -> Self {
        Self {
            common: Common::new(images_dir, "restore.log"),
            inherit_fds: Vec::new(),
            as_sibling: true,
            lsm_profile: None,
            lsm_mount_context: None,
            skip_file_rwx_check: false,
            join_namespaces: Vec::new(),
        }
    }

    pub(crate) fn to_proto(&self) -> Result<CriuOpts> {
        let inherit = |i: &InheritFd| ProtoInheritFd {
            key: Some(i.key.clone()),
            fd: Some(i.fd.0),
            ..Default::default()
        };
        let join = |(kind, file): &(String, PathBuf)| -> Result<JoinNamespace> {
            let ns_file = path("join_ns", Some(file))?.unwrap_or_default();
            Ok(JoinNamespace { ns: Some(kind.clone()), ns_file: Some(ns_file), ..Default::default() })
        };
        Ok(CriuOpts {
            inherit_fd: self.inherit_fds.iter().map(inherit).collect(),
            rst_sibling: flag(self.as_sibling),
            lsm_profile: self.lsm_profile.clone(),
            lsm_mount_context: self.lsm_mount_context.clone(),
            skip_file_rwx_check: flag(self.skip_file_rwx_check),
            join_ns: self.join_namespaces.iter().map(join).collect::<Result<_>>()?,
            ..self.common.to_proto()?
        })
    }
}

/// CRIU's options are off when absent, but a configuration file may have turned one on: `false` is
/// not sent, so that such a file counts.
fn flag(on: bool) -> Option<bool> {
    on.then_some(true)
}

fn checked_pid(pid: i32) -> Result<i32> {
    if pid > 0 {
        return Ok(pid);
    }
    Err(CriuError::Invalid { option: "pid", problem: format!("{pid}: expected the number of a process") })
}

/// Protobuf strings are UTF-8.
fn path(option: &'static str, path: Option<&PathBuf>) -> Result<Option<String>> {
    path.map(|p| {
        p.to_str().map(str::to_owned).ok_or_else(|| {
            let problem = format!("{}: expected a path in UTF-8", p.display());
            CriuError::Invalid { option, problem }
        })
    })
    .transpose()
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
