//! Network devices that move into the container.

use std::collections::BTreeSet;

use oci_spec::runtime::Linux;

use super::{NamespaceKind, Namespaces};
use crate::{Error, Result};

/// A network device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    /// Its name on the host.
    pub name: String,
    /// Its name in the container.
    pub name_in_container: String,
}

/// Validates `linux.netDevices`; the result is sorted by name.
pub(super) fn check(linux: &Linux, namespaces: &Namespaces) -> Result<Vec<NetDevice>> {
    let Some(given) = linux.net_devices().as_ref().filter(|d| !d.is_empty()) else { return Ok(Vec::new()) };
    let invalid = |problem: String| Err(Error::invalid("linux.netDevices", problem));
    if !namespaces.has(NamespaceKind::Network) {
        return invalid("unable to move network devices without a NET namespace".into());
    }
    let mut devices = Vec::new();
    for (name, device) in given {
        let inside = device.name().as_deref().filter(|n| !n.is_empty()).unwrap_or(name);
        if let Some(bad) = [name.as_str(), inside].into_iter().find(|n| !is_valid(n)) {
            return invalid(format!("invalid network device name {bad:?}"));
        }
        devices.push(NetDevice { name: name.clone(), name_in_container: inside.into() });
    }
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    let mut seen = BTreeSet::new();
    if let Some(twice) = devices.iter().find(|d| !seen.insert(&d.name_in_container)) {
        return invalid(format!("two devices are to be named {:?}", twice.name_in_container));
    }
    Ok(devices)
}

/// dev_valid_name() of net/core/dev.c.
fn is_valid(name: &str) -> bool {
    const IFNAMSIZ: usize = 16;
    !name.is_empty()
        && name.len() < IFNAMSIZ
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_ascii_whitespace())
}
