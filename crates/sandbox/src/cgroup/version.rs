//! The two interfaces of cgroups.

use serde::{Deserialize, Serialize};

/// The API generation of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// cgroup v1: one hierarchy per controller or group of controllers.
    V1,
    /// cgroup v2: the unified hierarchy.
    V2,
}
