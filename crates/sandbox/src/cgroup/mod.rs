//! Cgroups v1, v2 and hybrid, through cgroupfs.
//!
//! The usual sequence: [`Layout`] knows the mounted hierarchies; [`Limits::from_spec`] turns `linux.resources` into an ordered
//! list of file writes and device rules, without touching anything; [`Layout::resolve`] turns `linux.cgroupsPath` into
//! [`CgroupPaths`], the facts a state file keeps; [`Cgroup::create`] makes the directories and writes the limits, before any
//! process is in them; [`Cgroup::adopt`] puts the first one in. [`Cgroup::open`] reaches an existing cgroup from its paths.
//!
//! Where systemd makes the cgroup, [`Unit::resolve`] gives the paths, and nothing is made before the first
//! process is there: systemd has no scopes without one.
//!
//! On a hybrid host each controller is used where it is mounted: v1 first, else cgroup2. The
//! container also gets a directory in the cgroup2 hierarchy (for `cgroup.kill`, PSI and tools that
//! look there), as runc does.
//!
//! Sources: the kernel's admin-guide/cgroup-v1/ and admin-guide/cgroup-v2.rst, and config-linux.md
//! of the OCI runtime specification 1.3.

mod below;
mod convert;
mod cpuset;
mod delegate;
mod destroy;
mod device_set;
mod devices;
mod dir;
mod explain;
mod filter;
mod freezer;
mod handle;
mod layout;
mod limits;
mod members;
mod movable;
mod oom;
mod paths;
mod remove;
mod setting;
mod stats;
mod systemd;
mod tree;
mod usage;
mod version;
mod walk;
mod write;

pub use cpuset::Cpusets;
pub use device_set::DeviceSet;
pub use devices::{Access, DeviceKind, DeviceRule};
pub use filter::device_filter;
pub use freezer::Freezers;
pub use handle::{Cgroup, OnDenied};
pub use layout::{Kind, Layout, Mount};
pub use limits::{Limits, MemoryCheck};
pub use oom::OomWatch;
pub use paths::CgroupPaths;
pub use setting::Write;
pub use stats::Stats;
#[cfg(fuzzing)]
pub(crate) use systemd::read_dbus;
pub use systemd::{ANNOTATION_PREFIX, Unit};
pub use tree::{Names, Place, Tree};
pub use usage::*;
pub use version::Version;
