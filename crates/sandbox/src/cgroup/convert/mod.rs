//! From `linux.resources` to writes, field by field. Pure.

mod block_io;
mod cpu;

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxPids, LinuxRdma, LinuxResources,
};

use super::device_set::DeviceSet;
use super::devices::DeviceRule;
use super::layout::{Kind, Layout};
use super::limits::{Limits, MemoryCheck};
use super::setting::Write;
use super::version::Version;
use crate::error::{Error, Result};

struct Converter<'a> {
    layout: &'a Layout,
    limits: Limits,
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
        let mut limits = convert(resources, layout)?;
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
}

fn convert(resources: &LinuxResources, layout: &Layout) -> Result<Limits> {
    let mut c = Converter { layout, limits: Limits::default() };
    if let Some(memory) = resources.memory() {
        c.memory(memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        c.cpu(cpu)?;
        c.realtime(cpu)?;
        c.cpuset(cpu)?;
    }
    if let Some(pids) = resources.pids() {
        c.pids(pids)?;
    }
    if let Some(block_io) = resources.block_io() {
        c.block_io(block_io)?;
    }
    c.hugepages(resources.hugepage_limits().as_deref().unwrap_or_default())?;
    if let Some(network) = resources.network() {
        c.network(network)?;
    }
    if let Some(rdma) = resources.rdma() {
        c.rdma(rdma)?;
    }
    if let Some(unified) = resources.unified() {
        c.unified(unified)?;
    }
    Ok(c.limits)
}

/// The full name of a field.
fn name(field: &str) -> String {
    format!("linux.resources.{field}")
}

fn invalid<T>(field: &str, problem: impl Into<String>) -> Result<T> {
    Err(Error::invalid(name(field), problem))
}

/// A limit in bytes: None is unset (absent, or 0 as runc takes it), -1 is unlimited.
fn bytes(field: &str, value: Option<i64>) -> Result<Option<i64>> {
    match value {
        Some(0) | None => Ok(None),
        Some(n) if n < -1 => invalid(field, format!("{n}: expected bytes, or -1 for no limit")),
        set => Ok(set),
    }
}

/// A v2 value; -1 is `max`.
fn or_max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

fn positive(value: Option<i64>) -> Option<u64> {
    value.and_then(|v| u64::try_from(v).ok())
}

impl Converter<'_> {
    /// The version of the controller's hierarchy; the names differ for `blkio` and `io` alone.
    fn find(&self, field: &str, v1: &str, v2: &str) -> Result<Version> {
        self.layout.find(v1, v2).ok_or_else(|| {
            let controller = if self.layout.kind() == Kind::V2 { v2 } else { v1 };
            Error::unsupported(name(field), format!("this host has no cgroup controller {controller:?}"))
        })
    }

    /// Requires v1's controller, for limits that v2 does not have.
    fn find_v1(&self, field: &str, controller: &str) -> Result<()> {
        match self.layout.v1().contains_key(controller) {
            true => Ok(()),
            false if self.layout.kind() == Kind::V2 => {
                Err(Error::unsupported(name(field), "cgroup v2 has no such limit"))
            }
            false => self.find(field, controller, controller).map(drop),
        }
    }

    fn push(
        &mut self,
        field: &str,
        version: Version,
        controller: &str,
        file: impl Into<String>,
        value: impl ToString,
    ) -> &mut Write {
        let write = Write::new(name(field), version, controller, file, value.to_string());
        let at = self.limits.writes.len();
        self.limits.writes.push(write);
        &mut self.limits.writes[at]
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<()> {
        let limit = bytes("memory.limit", memory.limit())?;
        let swap = bytes("memory.swap", memory.swap())?;
        let reservation = bytes("memory.reservation", memory.reservation())?;
        if let (Some(limit @ 1..), Some(swap @ 1..)) = (limit, swap)
            && swap < limit
        {
            let problem =
                format!("{swap}: expected at least linux.resources.memory.limit, {limit}: it counts both");
            return invalid("memory.swap", problem);
        }
        #[allow(deprecated)] // deprecated by the specification; still sent
        if memory.kernel().is_some() || memory.kernel_tcp().is_some() {
            tracing::warn!(
                "linux.resources.memory.kernel and kernelTCP are ignored: kernels have dropped them"
            );
        }
        if limit.or(swap).is_some() {
            let field = if limit.is_some() { "memory.limit" } else { "memory.swap" };
            match self.find(field, "memory", "memory")? {
                Version::V1 => self.memory_v1(limit, swap),
                Version::V2 => self.memory_v2(limit, swap, memory.check_before_update().unwrap_or(false))?,
            }
        }
        if let Some(reservation) = reservation {
            match self.find("memory.reservation", "memory", "memory")? {
                v @ Version::V1 => {
                    self.push("memory.reservation", v, "memory", "memory.soft_limit_in_bytes", reservation)
                }
                v @ Version::V2 => {
                    self.push("memory.reservation", v, "memory", "memory.low", or_max(reservation))
                }
            };
        }
        if memory.disable_oom_killer() == Some(true) {
            self.find_v1("memory.disableOOMKiller", "memory")?;
            self.push("memory.disableOOMKiller", Version::V1, "memory", "memory.oom_control", 1);
        }
        if let Some(swappiness) = memory.swappiness() {
            if swappiness > 100 {
                return invalid("memory.swappiness", format!("{swappiness}: expected 0 to 100"));
            }
            self.find_v1("memory.swappiness", "memory")?;
            self.push("memory.swappiness", Version::V1, "memory", "memory.swappiness", swappiness);
        }
        Ok(())
    }

    fn memory_v1(&mut self, limit: Option<i64>, swap: Option<i64>) {
        let v1 = Version::V1;
        if let Some(limit) = limit {
            self.push("memory.limit", v1, "memory", "memory.limit_in_bytes", limit);
        }
        let memsw = "memory.memsw.limit_in_bytes";
        match (limit, swap) {
            (_, Some(swap)) => {
                self.push("memory.swap", v1, "memory", memsw, swap);
            }
            // memsw bounds the limit: to lift one, both.
            (Some(-1), None) => self.push("memory.limit", v1, "memory", memsw, -1).optional = true,
            _ => {}
        }
    }

    /// v2's swap limit counts swap alone.
    fn memory_v2(&mut self, limit: Option<i64>, swap: Option<i64>, check: bool) -> Result<()> {
        let v2 = Version::V2;
        let swap_max = match (limit, swap) {
            (Some(-1), None) | (_, Some(-1)) => Some("max".to_owned()),
            (_, None) => None,
            (Some(-1), Some(swap)) => Some(swap.to_string()),
            (Some(limit), Some(swap)) => Some((swap - limit).to_string()),
            (None, Some(swap)) => {
                let problem =
                    format!("{swap}: cgroup v2 limits swap alone, so linux.resources.memory.limit is needed");
                return invalid("memory.swap", problem);
            }
        };
        if let Some(swap_max) = swap_max {
            // Without swap in the kernel, "max" and "0" are no limits.
            let optional = swap_max == "max" || swap_max == "0";
            self.push("memory.swap", v2, "memory", "memory.swap.max", swap_max).optional = optional;
        }
        if let Some(limit) = limit {
            self.push("memory.limit", v2, "memory", "memory.max", or_max(limit));
        }
        if check {
            self.limits.memory_check = Some(MemoryCheck { limit: positive(limit), swap: positive(swap) });
        }
        Ok(())
    }

    /// As with runc, 0 becomes 1, the smallest limit, because systemd has no 0.
    fn pids(&mut self, pids: &LinuxPids) -> Result<()> {
        let version = self.find("pids.limit", "pids", "pids")?;
        let value = if pids.limit() < 0 { "max".into() } else { pids.limit().max(1).to_string() };
        self.push("pids.limit", version, "pids", "pids.max", value);
        Ok(())
    }

    fn hugepages(&mut self, limits: &[LinuxHugepageLimit]) -> Result<()> {
        for (i, l) in limits.iter().enumerate() {
            let field = format!("hugepageLimits[{i}]");
            let (size, limit) = (l.page_size().to_ascii_uppercase(), l.limit());
            let number = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit)).unwrap_or("");
            if number.is_empty() || number.starts_with('0') || !number.bytes().all(|b| b.is_ascii_digit()) {
                let problem = format!("{size:?}: expected a size as the kernel writes it, such as \"2MB\"");
                return invalid(&format!("{field}.pageSize"), problem);
            }
            if limit < 0 {
                return invalid(&format!("{field}.limit"), format!("{limit}: expected a number of bytes"));
            }
            let version = self.find(&field, "hugetlb", "hugetlb")?;
            let suffix = if version == Version::V1 { "limit_in_bytes" } else { "max" };
            self.push(&field, version, "hugetlb", format!("hugetlb.{size}.{suffix}"), limit);
            // Reservations are limited too where the kernel can (5.7), else faults alone.
            self.push(&field, version, "hugetlb", format!("hugetlb.{size}.rsvd.{suffix}"), limit).optional =
                true;
        }
        Ok(())
    }

    fn network(&mut self, network: &LinuxNetwork) -> Result<()> {
        if let Some(class) = network.class_id().filter(|c| *c != 0) {
            self.find_v1("network.classID", "net_cls")?;
            self.push("network.classID", Version::V1, "net_cls", "net_cls.classid", class);
        }
        for (i, p) in network.priorities().iter().flatten().enumerate() {
            let field = format!("network.priorities[{i}]");
            if p.name().is_empty() || p.name().contains(char::is_whitespace) {
                return invalid(
                    &format!("{field}.name"),
                    format!("{:?}: expected an interface's name", p.name()),
                );
            }
            self.find_v1(&field, "net_prio")?;
            let value = format!("{} {}", p.name(), p.priority());
            self.push(&field, Version::V1, "net_prio", "net_prio.ifpriomap", value);
        }
        Ok(())
    }

    fn rdma(&mut self, rdma: &HashMap<String, LinuxRdma>) -> Result<()> {
        let mut devices: Vec<_> = rdma.iter().collect();
        devices.sort_by_key(|(device, _)| *device);
        for (device, limit) in devices {
            let field = format!("rdma.{device}");
            if device.is_empty() || device.contains(char::is_whitespace) {
                return invalid("rdma", format!("{device:?}: expected a device's name"));
            }
            let mut value = device.clone();
            for (key, n) in [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())] {
                if let Some(n) = n {
                    value += &format!(" {key}={n}");
                }
            }
            if value != *device {
                let version = self.find(&field, "rdma", "rdma")?;
                self.push(&field, version, "rdma", "rdma.max", value);
            }
        }
        Ok(())
    }

    /// Files of cgroup2 by name, one write for each line.
    fn unified(&mut self, unified: &HashMap<String, String>) -> Result<()> {
        let mut entries: Vec<_> = unified.iter().collect();
        entries.sort();
        let idle = unified.get("cpu.idle").is_some_and(|idle| idle.trim() == "1");
        for (key, value) in entries {
            if idle && key == "cpu.weight" {
                idle_has_no_weight("linux.resources.unified.cpu.weight");
                continue;
            }
            let field = format!("unified.{key}");
            let Some((controller, _)) = key.split_once('.').filter(|(c, rest)| {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
                c.bytes().all(plain) && !c.is_empty() && !rest.is_empty() && !key.contains(['/', '\0'])
            }) else {
                let problem =
                    format!("{key:?}: expected the name of a file, CONTROLLER.PARAMETER, with no slash");
                return invalid("unified", problem);
            };
            if self.layout.kind() == Kind::V1 {
                return invalid(&field, "invalid configuration: there is no cgroup v2 on this host");
            }
            if controller != "cgroup" && self.layout.find("", controller).is_none() {
                let problem = match self.layout.kind() {
                    Kind::V2 => format!("controller {controller:?} not available"),
                    _ => format!("invalid configuration: controller {controller:?} is not on cgroup v2 here"),
                };
                return invalid(&field, problem);
            }
            for line in value.lines().filter(|l| !l.trim().is_empty()) {
                self.push(&field, Version::V2, controller, key.as_str(), line);
            }
        }
        Ok(())
    }
}

/// The kernel refuses the weight of an idle cgroup, and systemd has one property for both. The words are runc's.
fn idle_has_no_weight(field: &str) {
    tracing::warn!("{field} is ignored: unable to apply both a weight and cpu.idle, which is the lowest one");
}

#[cfg(test)]
mod tests;
