//! A container's limits, as the writes that set them.

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::convert;
use super::devices::{DeviceRule, DeviceSet};
use super::layout::{Layout, Version};
use crate::error::Result;

/// One value for one file of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The field of config.json that it comes from, for errors.
    pub field: String,
    /// The hierarchy's version.
    pub version: Version,
    /// The controller, by its name there: `blkio` or `io`.
    pub controller: String,
    /// The file in the cgroup's directory.
    pub file: String,
    /// What is written, with no newline.
    pub value: String,
    /// File and value to use where the kernel has no `file`.
    pub instead: Option<(String, String)>,
    /// Whether a kernel without the file already does what `value` asks for.
    pub optional: bool,
}

impl Write {
    pub(super) fn new(
        field: impl Into<String>,
        version: Version,
        controller: &str,
        file: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            version,
            controller: controller.into(),
            file: file.into(),
            value: value.into(),
            instead: None,
            optional: false,
        }
    }
}

/// `memory.checkBeforeUpdate` on v2, where the kernel would kill rather than refuse; values in
/// bytes, as in config.json, None where there is no limit to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryCheck {
    /// `memory.limit`.
    pub limit: Option<u64>,
    /// `memory.swap`: memory and swap together.
    pub swap: Option<u64>,
}

/// Everything that `linux.resources` asks of the cgroup of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// In order. Where one value bounds another (limit and swap, quota and period), one order can
    /// be right for raising and another for lowering; a write that the kernel refuses with EINVAL
    /// is therefore tried again after the others of its controller.
    pub writes: Vec<Write>,
    /// What config.json's device rules come to ([`DeviceRule::resolve`]); None leaves devices as they are.
    pub devices: Option<Vec<DeviceRule>>,
    /// What to compare with the memory in use first.
    pub memory_check: Option<MemoryCheck>,
}

impl Limits {
    /// Converts and checks `resources` for a host with this `layout`; touches nothing.
    ///
    /// `defaults` are the rules that follow those of `linux.resources.devices`, usually
    /// [`DeviceRule::defaults`] and one for each of `linux.devices`. With None the device rules,
    /// config.json's too, are not applied: for `update`, and in user namespaces, where the kernel
    /// keeps device nodes away itself.
    ///
    /// # Errors
    /// A value that cannot be right, a limit whose controller this host does not have, one that
    /// its version of cgroups does not have, or device rules that v1 cannot express.
    pub fn from_spec(
        resources: &LinuxResources,
        layout: &Layout,
        defaults: Option<&[DeviceRule]>,
    ) -> Result<Self> {
        let mut limits = convert::convert(resources, layout)?;
        if let Some(defaults) = defaults {
            let own = resources.devices().iter().flatten().enumerate();
            let mut rules = own.map(|(i, r)| DeviceRule::from_spec(r, i)).collect::<Result<Vec<_>>>()?;
            rules.extend_from_slice(defaults);
            let rules = DeviceRule::resolve(rules);
            if layout.v1().contains_key("devices") {
                DeviceSet::from_rules(&rules)?;
            }
            limits.devices = Some(rules);
        }
        Ok(limits)
    }

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
