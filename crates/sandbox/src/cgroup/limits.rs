//! A container's limits, as the writes that set them.

use serde::{Deserialize, Serialize};

use super::devices::DeviceRule;
use super::setting::Write;
use super::version::Version;

/// `memory.checkBeforeUpdate` on v2, where the kernel would kill rather than refuse; values in
/// bytes, as in config.json, None where there is no limit to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryCheck {
    /// `memory.limit`.
    pub limit: Option<u64>,
    /// `memory.swap`: memory and swap together.
    pub swap: Option<u64>,
}

/// `linux.resources`, as changes to the cgroup of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// In order. Where one value bounds another (limit and swap, quota and period), one order can
    /// be right for raising and another for lowering; a write that the kernel refuses with EINVAL
    /// is therefore tried again after the others of its controller.
    pub writes: Vec<Write>,
    /// The simplified device rules of config.json ([`DeviceRule::resolve`]); `None` leaves devices as they are.
    pub devices: Option<Vec<DeviceRule>>,
    /// The limits to compare with the memory in use first.
    pub memory_check: Option<MemoryCheck>,
}

impl Limits {
    /// Whether there is nothing to write; device rules do not count.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The cgroup2 controllers that the writes need.
    pub(super) fn v2_controllers(&self) -> impl Iterator<Item = &str> {
        let v2 = self.writes.iter().filter(|w| w.version == Version::V2 && w.controller != "cgroup");
        v2.map(|w| w.controller.as_str())
    }
}
