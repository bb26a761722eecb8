//! Writes limits, and explains why the kernel refuses one.

use super::device_set::DeviceSet;
use super::devices::DeviceRule;
use super::dir::Dir;
use super::setting::Write;
use super::version::Version;
use crate::error::{Context, Error, Result, SysError};

/// Writes in order. A write that the kernel refuses with EINVAL is tried again, as long as another write of the group has
/// succeeded since.
pub(super) fn write_group(dir: &Dir, writes: &[&Write]) -> Result<()> {
    let mut left = writes.to_vec();
    loop {
        let mut refused = Vec::new();
        let mut first = None;
        for write in &left {
            match write_one(dir, write) {
                Err(e) if e.errno == libc::EINVAL => {
                    refused.push(*write);
                    first.get_or_insert(e);
                }
                other => other.or_else(|e| explain(dir, write, e))?,
            }
        }
        match first {
            None => return Ok(()),
            Some(e) if refused.len() == left.len() => return explain(dir, refused[0], e),
            Some(_) => left = refused,
        }
    }
}

fn write_one(dir: &Dir, write: &Write) -> Result<(), SysError> {
    let missing = |e: &SysError| e.errno == libc::ENOENT;
    match (dir.write(&write.file, &write.value), &write.instead) {
        (Err(e), Some((file, value))) if missing(&e) => dir.write(file, value),
        (Err(e), _) if missing(&e) && write.optional => Ok(()),
        (other, _) => other,
    }
}

/// Adds advice for the author of the field to an error.
fn explain(dir: &Dir, write: &Write, e: SysError) -> Result<()> {
    let Write { field, file, controller, .. } = write;
    if e.errno == libc::ENOENT {
        let place = dir.path().display();
        let enabled = || dir.read("cgroup.controllers").is_ok_and(|t| t.split(' ').any(|c| c == controller));
        let why = match write.version {
            Version::V2 if controller != "cgroup" && !enabled() => {
                format!("controller {controller:?} is not available in cgroup {place}")
            }
            _ => format!("the kernel has no {file} in cgroup {place}"),
        };
        return Err(Error::unsupported(field, why));
    }
    if e.errno == libc::EBUSY && file == "memory.limit_in_bytes" {
        let usage = dir.read_number("memory.usage_in_bytes").context(field)?;
        let peak = dir.read_number("memory.max_usage_in_bytes").context(field)?;
        let limit = &write.value;
        let problem =
            format!("unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})");
        return Err(Error::invalid(field, problem));
    }
    Err(e).context(field)
}

pub(super) fn set_devices_v1(dir: &Dir, rules: &[DeviceRule]) -> Result<()> {
    let target = DeviceSet::from_rules(rules)?;
    let now = DeviceSet::from_list(&dir.read("devices.list")?)?;
    for write in now.changes_to(&target) {
        dir.write(&write.file, &write.value)?;
    }
    // The kernel ignores some writes in silence, and this limit confines containers.
    let now = DeviceSet::from_list(&dir.read("devices.list")?)?;
    if !target.is_shown_by(&now) {
        let problem = format!("the kernel did not take the rules over: {now:?} instead of {target:?}");
        return Err(Error::invalid("devices.list", problem));
    }
    Ok(())
}
