//! Reads [`Usage`] from the files of cgroup v1 and v2.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    BlockEntry, BlockUsage, CpuTime, CpusetUsage, HugetlbUsage, MemoryEntry, MemoryUsage, PidsUsage,
    Pressure, Stalled, Throttling, Usage,
};
use crate::cgroup::dir::{Dir, if_there};
use crate::cgroup::handle::Cgroup;
use crate::error::{Result, SysError};

type Read<T> = std::result::Result<T, SysError>;

impl Cgroup {
    /// Reads the resource use of the cgroup from each controller's hierarchy.
    ///
    /// # Errors
    /// If a file is there and cannot be read or understood. Values without a file stay zero, because kernels differ.
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
}
