//! What a container uses, in the shape of `runc events` (runc's types/events.go): field names, units and what is
//! left out when it is zero are an interface that cAdvisor and containerd read.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::dir::{Dir, if_there};
use super::handle::Cgroup;
use crate::error::{Result, SysError};

type Read<T> = std::result::Result<T, SysError>;

/// Everything that `events` tells.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Usage {
    pub cpu: CpuUsage,
    pub cpuset: CpusetUsage,
    pub memory: MemoryUsage,
    pub pids: PidsUsage,
    pub blkio: BlockUsage,
    /// By page size: `2MB`.
    pub hugetlb: BTreeMap<String, HugetlbUsage>,
    /// Always empty: containers are not put into resctrl groups.
    pub intel_rdt: BTreeMap<String, String>,
    /// Always null, as from runc for every container made from a config.json.
    pub network_interfaces: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CpuUsage {
    #[serde(skip_serializing_if = "is_default")]
    pub usage: CpuTime,
    #[serde(skip_serializing_if = "is_default")]
    pub throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CpuTime {
    #[serde(skip_serializing_if = "is_default")]
    pub total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    pub kernel: u64,
    pub user: u64,
}

/// Times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    #[serde(skip_serializing_if = "is_default")]
    pub periods: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub throttled_periods: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub throttled_time: u64,
}

/// Pressure stall information (accounting/psi.rst).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pressure {
    pub some: Stalled,
    pub full: Stalled,
}

/// Averages in percent, the total in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stalled {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

/// Of cgroup v1 alone; flags are 0 or 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CpusetUsage {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Bytes; no limit is the version's own way to say so, u64::MAX on v2.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MemoryUsage {
    #[serde(skip_serializing_if = "is_default")]
    pub cache: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub usage: MemoryEntry,
    /// Memory and swap together.
    #[serde(skip_serializing_if = "is_default")]
    pub swap: MemoryEntry,
    #[serde(skip_serializing_if = "is_default")]
    pub kernel: MemoryEntry,
    #[serde(rename = "kernelTCP", skip_serializing_if = "is_default")]
    pub kernel_tcp: MemoryEntry,
    /// The lines of `memory.stat`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
    /// The lines of `memory.events`, on v1 of `memory.oom_control`. Not part of the interface.
    #[serde(skip)]
    pub events: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MemoryEntry {
    pub limit: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub max: u64,
    pub failcnt: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PidsUsage {
    #[serde(skip_serializing_if = "is_default")]
    pub current: u64,
    /// 0 without a limit.
    #[serde(skip_serializing_if = "is_default")]
    pub limit: u64,
}

/// By device and operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockUsage {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlockEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlockEntry>,
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlockEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlockEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlockEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlockEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlockEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlockEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BlockEntry {
    #[serde(skip_serializing_if = "is_default")]
    pub major: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`; empty where the kernel names none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    #[serde(skip_serializing_if = "is_default")]
    pub value: u64,
}

/// Bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct HugetlbUsage {
    #[serde(skip_serializing_if = "is_default")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub max: u64,
    pub failcnt: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Cgroup {
    /// Reads everything that the container's cgroup tells of its use, each controller where it is.
    ///
    /// # Errors
    /// A file is there and cannot be read or understood. What is missing is left at zero: kernels differ.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        let v1 = |controller: &str| -> Read<Option<Arc<Dir>>> {
            self.paths().v1.get(controller).map_or(Ok(None), |path| if_there(self.dir(path)))
        };
        let v2 = self.paths().v2.as_ref().map_or(Ok(None), |path| if_there(self.dir(path)))?;
        if let Some(dir) = &v2 {
            read_v2(dir, &mut usage)?;
        }
        if let Some(dir) = v1("cpuacct")? {
            usage.cpu.usage = cpu_time_v1(&dir)?;
        }
        if let Some(dir) = v1("cpu")? {
            usage.cpu.throttling = throttling(&dir, "throttled_time", 1)?;
        }
        if let Some(dir) = v1("cpuset")? {
            usage.cpuset = cpuset_v1(&dir)?;
        }
        if let Some(dir) = v1("memory")? {
            usage.memory = memory_v1(&dir)?;
        }
        if let Some(dir) = v1("pids")? {
            usage.pids = pids(&dir)?;
        }
        if let Some(dir) = v1("blkio")? {
            usage.blkio = block_v1(&dir)?;
        }
        if let Some(dir) = v1("hugetlb")? {
            usage.hugetlb = hugetlb(&dir, "usage_in_bytes", Some("max_usage_in_bytes"))?;
        }
        Ok(usage)
    }
}

fn read_v2(dir: &Dir, usage: &mut Usage) -> Read<()> {
    let stat = table(dir, "cpu.stat")?;
    let ns = |key: &str| stat.get(key).copied().unwrap_or(0).saturating_mul(1000);
    usage.cpu.usage.total = ns("usage_usec");
    usage.cpu.usage.user = ns("user_usec");
    usage.cpu.usage.kernel = ns("system_usec");
    usage.cpu.throttling = throttling(dir, "throttled_usec", 1000)?;
    usage.cpu.psi = pressure(dir, "cpu.pressure")?;
    usage.memory = memory_v2(dir)?;
    usage.pids = pids(dir)?;
    usage.blkio = block_v2(dir)?;
    usage.hugetlb = hugetlb(dir, "current", None)?;
    Ok(())
}

/// A file's text; empty where there is none, or where the kernel says that it is switched off.
fn text(dir: &Dir, file: &str) -> Read<String> {
    match dir.read(file) {
        Err(e) if e.errno == libc::EOPNOTSUPP => Ok(String::new()),
        other => Ok(if_there(other)?.unwrap_or_default()),
    }
}

fn number(dir: &Dir, file: &str) -> Read<u64> {
    Ok(if_there(dir.read_number(file))?.unwrap_or(0))
}

/// `KEY VALUE` lines.
fn table(dir: &Dir, file: &str) -> Read<BTreeMap<String, u64>> {
    let text = text(dir, file)?;
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?))).collect())
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|n| n.parse().ok()).collect()
}

fn cpu_time_v1(dir: &Dir) -> Read<CpuTime> {
    let stat = table(dir, "cpuacct.stat")?;
    let ns_per_tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let time = |key: &str| stat.get(key).copied().unwrap_or(0).saturating_mul(ns_per_tick);
    let all = text(dir, "cpuacct.usage_all")?;
    // cpu user system
    let column = |n: usize| all.lines().skip(1).filter_map(|line| numbers(line).get(n).copied()).collect();
    Ok(CpuTime {
        total: number(dir, "cpuacct.usage")?,
        percpu: numbers(&text(dir, "cpuacct.usage_percpu")?),
        percpu_user: column(1),
        percpu_kernel: column(2),
        kernel: time("system"),
        user: time("user"),
    })
}

fn throttling(dir: &Dir, time: &str, unit_ns: u64) -> Read<Throttling> {
    let stat = table(dir, "cpu.stat")?;
    let get = |key: &str| stat.get(key).copied().unwrap_or(0);
    Ok(Throttling {
        periods: get("nr_periods"),
        throttled_periods: get("nr_throttled"),
        throttled_time: get(time).saturating_mul(unit_ns),
    })
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn pressure(dir: &Dir, file: &str) -> Read<Option<Pressure>> {
    let text = text(dir, file)?;
    if text.is_empty() {
        return Ok(None);
    }
    let line = |kind: &str| -> Stalled {
        let line = text.lines().find_map(|l| l.strip_prefix(kind)).unwrap_or_default();
        let value = |key: &str| {
            line.split_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix('=')).unwrap_or("0")
        };
        let percent = |key: &str| value(key).parse().unwrap_or(0.0);
        Stalled {
            avg10: percent("avg10"),
            avg60: percent("avg60"),
            avg300: percent("avg300"),
            total: value("total").parse().unwrap_or(0),
        }
    };
    Ok(Some(Pressure { some: line("some"), full: line("full") }))
}

fn cpuset_v1(dir: &Dir) -> Read<CpusetUsage> {
    let flag = |name: &str| number(dir, &format!("cpuset.{name}"));
    Ok(CpusetUsage {
        cpus: list(&text(dir, "cpuset.cpus")?),
        cpu_exclusive: flag("cpu_exclusive")?,
        mems: list(&text(dir, "cpuset.mems")?),
        mem_hardwall: flag("mem_hardwall")?,
        mem_exclusive: flag("mem_exclusive")?,
        memory_migrate: flag("memory_migrate")?,
        memory_spread_page: flag("memory_spread_page")?,
        memory_spread_slab: flag("memory_spread_slab")?,
        memory_pressure: flag("memory_pressure")?,
        sched_load_balance: flag("sched_load_balance")?,
        sched_relax_domain_level: text(dir, "cpuset.sched_relax_domain_level")?.parse().unwrap_or(0),
    })
}

/// `0-2,7` as single numbers.
fn list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse().ok()?..=to.parse::<u16>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

fn memory_v1(dir: &Dir) -> Read<MemoryUsage> {
    let entry = |name: &str| -> Read<MemoryEntry> {
        let file = |what: &str| number(dir, &format!("memory.{name}{what}"));
        Ok(MemoryEntry {
            limit: file("limit_in_bytes")?,
            usage: file("usage_in_bytes")?,
            max: file("max_usage_in_bytes")?,
            failcnt: file("failcnt")?,
        })
    };
    let raw = table(dir, "memory.stat")?;
    Ok(MemoryUsage {
        cache: raw.get("cache").copied().unwrap_or(0),
        usage: entry("")?,
        swap: entry("memsw.")?,
        kernel: entry("kmem.")?,
        kernel_tcp: entry("kmem.tcp.")?,
        raw,
        psi: None,
        events: table(dir, "memory.oom_control")?,
    })
}

fn memory_v2(dir: &Dir) -> Read<MemoryUsage> {
    let entry = |name: &str| -> Read<MemoryEntry> {
        let file = |what: &str| number(dir, &format!("memory.{name}{what}"));
        Ok(MemoryEntry { limit: file("max")?, usage: file("current")?, max: file("peak")?, failcnt: 0 })
    };
    let raw = table(dir, "memory.stat")?;
    let (usage, mut swap) = (entry("")?, entry("swap.")?);
    // v2 counts swap alone; the interface wants both together.
    swap.usage = swap.usage.saturating_add(usage.usage);
    swap.limit = swap.limit.saturating_add(usage.limit);
    swap.max = 0;
    Ok(MemoryUsage {
        cache: raw.get("file").copied().unwrap_or(0),
        usage,
        swap,
        raw,
        psi: pressure(dir, "memory.pressure")?,
        events: table(dir, "memory.events")?,
        ..MemoryUsage::default()
    })
}

fn pids(dir: &Dir) -> Read<PidsUsage> {
    let limit = number(dir, "pids.max")?;
    Ok(PidsUsage { current: number(dir, "pids.current")?, limit: if limit == u64::MAX { 0 } else { limit } })
}

/// The scheduler's own counters where there are any, else those of throttling.
fn block_v1(dir: &Dir) -> Read<BlockUsage> {
    let entries = |file: &str| -> Read<Vec<BlockEntry>> {
        Ok(text(dir, file)?.lines().filter_map(block_line).collect())
    };
    let bfq = |name: &str| entries(&format!("blkio.bfq.{name}"));
    let or_throttle = |name: &str| -> Read<Vec<BlockEntry>> {
        let own = bfq(name)?;
        if own.is_empty() { entries(&format!("blkio.throttle.{name}")) } else { Ok(own) }
    };
    Ok(BlockUsage {
        io_service_bytes_recursive: or_throttle("io_service_bytes_recursive")?,
        io_serviced_recursive: or_throttle("io_serviced_recursive")?,
        io_queued_recursive: bfq("io_queued_recursive")?,
        io_service_time_recursive: bfq("io_service_time_recursive")?,
        io_wait_time_recursive: bfq("io_wait_time_recursive")?,
        io_merged_recursive: bfq("io_merged_recursive")?,
        io_time_recursive: bfq("time_recursive")?,
        sectors_recursive: bfq("sectors_recursive")?,
        psi: None,
    })
}

/// `8:0 Read 4096`, or `8:0 4096`; the sum at the end, `Total 4096`, belongs to no device.
fn block_line(line: &str) -> Option<BlockEntry> {
    let mut words = line.split(' ');
    let (major, minor) = words.next()?.split_once(':')?;
    let (op, value) = match (words.next()?, words.next()) {
        (op, Some(value)) => (op, value),
        (value, None) => ("", value),
    };
    Some(BlockEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        op: op.into(),
        value: value.parse().ok()?,
    })
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`
fn block_v2(dir: &Dir) -> Read<BlockUsage> {
    let mut usage = BlockUsage { psi: pressure(dir, "io.pressure")?, ..BlockUsage::default() };
    for line in text(dir, "io.stat")?.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(|d| d.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut usage.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut usage.io_service_bytes_recursive, "Write"),
                "dbytes" => (&mut usage.io_service_bytes_recursive, "Discard"),
                "rios" => (&mut usage.io_serviced_recursive, "Read"),
                "wios" => (&mut usage.io_serviced_recursive, "Write"),
                "dios" => (&mut usage.io_serviced_recursive, "Discard"),
                _ => continue,
            };
            let value = value.parse().unwrap_or(0);
            list.push(BlockEntry { major, minor, op: op.into(), value });
        }
    }
    Ok(usage)
}

fn hugetlb(dir: &Dir, current: &str, max: Option<&str>) -> Read<BTreeMap<String, HugetlbUsage>> {
    let mut all = BTreeMap::new();
    for size in page_sizes() {
        let file = |what: &str| format!("hugetlb.{size}.{what}");
        // Reservations are counted too where the kernel does (v2, 5.7).
        let reserved = format!("rsvd.{current}");
        let Some(usage) = [reserved.as_str(), current]
            .into_iter()
            .find_map(|what| if_there(dir.read_number(&file(what))).transpose())
            .transpose()?
        else {
            continue;
        };
        let max_usage = max.map_or(Ok(0), |max| number(dir, &file(max)))?;
        let failcnt = match max {
            Some(_) => number(dir, &file("failcnt"))?,
            None => table(dir, &file("events"))?.get("max").copied().unwrap_or(0),
        };
        all.insert(size, HugetlbUsage { usage, max: max_usage, failcnt });
    }
    Ok(all)
}

/// The kernel's sizes of huge pages, as cgroup files write them: `2MB`, `1GB`.
fn page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let name = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(match kib {
            kib if kib % (1 << 20) == 0 => format!("{}GB", kib >> 20),
            kib if kib % (1 << 10) == 0 => format!("{}MB", kib >> 10),
            kib => format!("{kib}KB"),
        })
    };
    entries.filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_lines_of_the_kernel() {
        assert_eq!(list("0-2,7"), [0, 1, 2, 7]);
        assert!(list("").is_empty());
        let entry = block_line("8:16 Read 4096").unwrap();
        assert_eq!((entry.major, entry.minor, entry.op.as_str(), entry.value), (8, 16, "Read", 4096));
        assert_eq!(block_line("8:0 12").unwrap().op, "");
        assert_eq!(block_line("Total 4096"), None);
    }

    #[test]
    fn zeros_are_left_out_where_runc_leaves_them_out() {
        let json = serde_json::to_value(Usage::default()).unwrap();
        assert_eq!(json["cpu"], serde_json::json!({}));
        assert_eq!(json["memory"], serde_json::json!({}));
        assert_eq!(json["pids"], serde_json::json!({}));
        assert_eq!(json["cpuset"]["cpu_exclusive"], 0);
        assert_eq!(json["network_interfaces"], serde_json::Value::Null);
        let cpu = CpuUsage { usage: CpuTime { total: 1, ..CpuTime::default() }, ..CpuUsage::default() };
        assert_eq!(
            serde_json::to_value(cpu).unwrap(),
            serde_json::json!({"usage": {"total": 1, "kernel": 0, "user": 0}})
        );
    }
}
