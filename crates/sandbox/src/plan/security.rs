//! `process.apparmorProfile` and `process.selinuxLabel`.

use std::path::Path;

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Linux security modules of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// `process.apparmorProfile`.
    pub apparmor_profile: Option<String>,
    /// `process.selinuxLabel`.
    pub selinux_label: Option<String>,
}

impl Security {
    pub(super) fn from_process(process: &Process) -> Result<Self> {
        let given = |s: &Option<String>| s.clone().filter(|s| !s.is_empty());
        let security = Self {
            apparmor_profile: given(process.apparmor_profile()),
            selinux_label: given(process.selinux_label()),
        };
        if security.apparmor_profile.is_some() && !apparmor_enabled() {
            return Err(Error::unsupported(
                "process.apparmorProfile",
                "apparmor is not enabled on this host",
            ));
        }
        if security.selinux_label.is_some() && !Path::new("/sys/fs/selinux/enforce").exists() {
            return Err(Error::unsupported(
                "process.selinuxLabel",
                "selinux label is specified in config, but selinux is disabled or not supported",
            ));
        }
        Ok(security)
    }
}

/// Whether this kernel runs AppArmor.
pub fn apparmor_enabled() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|s| s.starts_with(b"Y"))
}
