//! A task's use of resources in containerd's messages, for each version of cgroups.

use std::collections::HashMap;

use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::protobuf::{self, MessageField, well_known_types::any::Any};
use hiber_sandbox::cgroup::{BlockEntry, CgroupPaths, MemoryEntry, Pressure, Stalled, Usage};

use crate::publish::to_any;

/// The message for a cgroup at these places: v1's where it has any v1 controller.
pub(crate) fn metrics(usage: &Usage, paths: &CgroupPaths) -> protobuf::Result<Any> {
    if paths.v1.is_empty() { to_any(&metrics_v2(usage)) } else { to_any(&metrics_v1(usage, &devices())) }
}

fn some<T>(message: T) -> MessageField<T> {
    MessageField::some(message)
}

fn metrics_v1(usage: &Usage, devices: &HashMap<(u64, u64), String>) -> v1::Metrics {
    let cpu = &usage.cpu;
    let hugetlb = usage.hugetlb.iter().map(|(size, use_of)| v1::HugetlbStat {
        usage: use_of.usage,
        max: use_of.max,
        failcnt: use_of.failcnt,
        pagesize: size.clone(),
        ..Default::default()
    });
    let event = |key: &str| usage.memory.events.get(key).copied().unwrap_or(0);
    let pids = v1::PidsStat { current: usage.pids.current, limit: usage.pids.limit, ..Default::default() };
    let cpu_usage = v1::CPUUsage {
        total: cpu.usage.total,
        kernel: cpu.usage.kernel,
        user: cpu.usage.user,
        per_cpu: cpu.usage.percpu.clone(),
        ..Default::default()
    };
    let throttling = v1::Throttle {
        periods: cpu.throttling.periods,
        throttled_periods: cpu.throttling.throttled_periods,
        throttled_time: cpu.throttling.throttled_time,
        ..Default::default()
    };
    let oom = v1::MemoryOomControl {
        oom_kill_disable: event("oom_kill_disable"),
        under_oom: event("under_oom"),
        oom_kill: event("oom_kill"),
        ..Default::default()
    };
    v1::Metrics {
        hugetlb: hugetlb.collect(),
        pids: some(pids),
        cpu: some(v1::CPUStat { usage: some(cpu_usage), throttling: some(throttling), ..Default::default() }),
        memory: some(memory_v1(usage)),
        blkio: some(block_v1(usage, devices)),
        memory_oom_control: some(oom),
        ..Default::default()
    }
}

fn memory_v1(usage: &Usage) -> v1::MemoryStat {
    let raw = |key: &str| usage.memory.raw.get(key).copied().unwrap_or(0);
    let entry = |entry: &MemoryEntry| {
        some(v1::MemoryEntry {
            limit: entry.limit,
            usage: entry.usage,
            max: entry.max,
            failcnt: entry.failcnt,
            ..Default::default()
        })
    };
    v1::MemoryStat {
        cache: raw("cache"),
        rss: raw("rss"),
        rss_huge: raw("rss_huge"),
        mapped_file: raw("mapped_file"),
        dirty: raw("dirty"),
        writeback: raw("writeback"),
        pg_pg_in: raw("pgpgin"),
        pg_pg_out: raw("pgpgout"),
        pg_fault: raw("pgfault"),
        pg_maj_fault: raw("pgmajfault"),
        inactive_anon: raw("inactive_anon"),
        active_anon: raw("active_anon"),
        inactive_file: raw("inactive_file"),
        active_file: raw("active_file"),
        unevictable: raw("unevictable"),
        hierarchical_memory_limit: raw("hierarchical_memory_limit"),
        hierarchical_swap_limit: raw("hierarchical_memsw_limit"),
        total_cache: raw("total_cache"),
        total_rss: raw("total_rss"),
        total_rss_huge: raw("total_rss_huge"),
        total_mapped_file: raw("total_mapped_file"),
        total_dirty: raw("total_dirty"),
        total_writeback: raw("total_writeback"),
        total_pg_pg_in: raw("total_pgpgin"),
        total_pg_pg_out: raw("total_pgpgout"),
        total_pg_fault: raw("total_pgfault"),
        total_pg_maj_fault: raw("total_pgmajfault"),
        total_inactive_anon: raw("total_inactive_anon"),
        total_active_anon: raw("total_active_anon"),
        total_inactive_file: raw("total_inactive_file"),
        total_active_file: raw("total_active_file"),
        total_unevictable: raw("total_unevictable"),
        usage: entry(&usage.memory.usage),
        swap: entry(&usage.memory.swap),
        kernel: entry(&usage.memory.kernel),
        kernel_tcp: entry(&usage.memory.kernel_tcp),
        ..Default::default()
    }
}

fn block_v1(usage: &Usage, devices: &HashMap<(u64, u64), String>) -> v1::BlkIOStat {
    let entry = |entry: &BlockEntry| v1::BlkIOEntry {
        op: entry.op.clone(),
        device: devices.get(&(entry.major, entry.minor)).cloned().unwrap_or_default(),
        major: entry.major,
        minor: entry.minor,
        value: entry.value,
        ..Default::default()
    };
    let entries = |list: &[BlockEntry]| list.iter().map(entry).collect();
    let blkio = &usage.blkio;
    v1::BlkIOStat {
        io_service_bytes_recursive: entries(&blkio.io_service_bytes_recursive),
        io_serviced_recursive: entries(&blkio.io_serviced_recursive),
        io_queued_recursive: entries(&blkio.io_queued_recursive),
        io_service_time_recursive: entries(&blkio.io_service_time_recursive),
        io_wait_time_recursive: entries(&blkio.io_wait_time_recursive),
        io_merged_recursive: entries(&blkio.io_merged_recursive),
        io_time_recursive: entries(&blkio.io_time_recursive),
        sectors_recursive: entries(&blkio.sectors_recursive),
        ..Default::default()
    }
}

/// Names of block devices by number (proc_partitions(5)); empty where there is no such file.
fn devices() -> HashMap<(u64, u64), String> {
    let text = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
    let device = |line: &str| {
        let mut words = line.split_whitespace();
        let number = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((number, format!("/dev/{}", words.nth(1)?)))
    };
    text.lines().filter_map(device).collect()
}

fn metrics_v2(usage: &Usage) -> v2::Metrics {
    let event = |key: &str| usage.memory.events.get(key).copied().unwrap_or(0);
    let cpu = &usage.cpu;
    let pids = v2::PidsStat { current: usage.pids.current, limit: usage.pids.limit, ..Default::default() };
    let cpu = v2::CPUStat {
        usage_usec: cpu.usage.total / 1000,
        user_usec: cpu.usage.user / 1000,
        system_usec: cpu.usage.kernel / 1000,
        nr_periods: cpu.throttling.periods,
        nr_throttled: cpu.throttling.throttled_periods,
        throttled_usec: cpu.throttling.throttled_time / 1000,
        psi: pressure(cpu.psi.as_ref()),
        ..Default::default()
    };
    let events = v2::MemoryEvents {
        low: event("low"),
        high: event("high"),
        max: event("max"),
        oom: event("oom"),
        oom_kill: event("oom_kill"),
        oom_group_kill: event("oom_group_kill"),
        ..Default::default()
    };
    let hugetlb = usage.hugetlb.iter().map(|(size, use_of)| v2::HugeTlbStat {
        current: use_of.usage,
        max: use_of.max,
        failcnt: use_of.failcnt,
        pagesize: size.clone(),
        ..Default::default()
    });
    v2::Metrics {
        pids: some(pids),
        cpu: some(cpu),
        memory: some(memory_v2(usage)),
        io: some(io_v2(usage)),
        hugetlb: hugetlb.collect(),
        memory_events: some(events),
        ..Default::default()
    }
}

fn memory_v2(usage: &Usage) -> v2::MemoryStat {
    let memory = &usage.memory;
    let raw = |key: &str| memory.raw.get(key).copied().unwrap_or(0);
    // The runtime counts memory and swap together, as on v1.
    let swap_usage = memory.swap.usage.saturating_sub(memory.usage.usage);
    let swap_limit = match memory.swap.limit {
        u64::MAX => u64::MAX,
        both => both.saturating_sub(memory.usage.limit),
    };
    v2::MemoryStat {
        anon: raw("anon"),
        file: raw("file"),
        kernel_stack: raw("kernel_stack"),
        slab: raw("slab"),
        sock: raw("sock"),
        shmem: raw("shmem"),
        file_mapped: raw("file_mapped"),
        file_dirty: raw("file_dirty"),
        file_writeback: raw("file_writeback"),
        anon_thp: raw("anon_thp"),
        inactive_anon: raw("inactive_anon"),
        active_anon: raw("active_anon"),
        inactive_file: raw("inactive_file"),
        active_file: raw("active_file"),
        unevictable: raw("unevictable"),
        slab_reclaimable: raw("slab_reclaimable"),
        slab_unreclaimable: raw("slab_unreclaimable"),
        pgfault: raw("pgfault"),
        pgmajfault: raw("pgmajfault"),
        // Linux 5.9 split these by the kind of page.
        workingset_refault: raw("workingset_refault")
            + raw("workingset_refault_anon")
            + raw("workingset_refault_file"),
        workingset_activate: raw("workingset_activate")
            + raw("workingset_activate_anon")
            + raw("workingset_activate_file"),
        workingset_nodereclaim: raw("workingset_nodereclaim"),
        pgrefill: raw("pgrefill"),
        pgscan: raw("pgscan"),
        pgsteal: raw("pgsteal"),
        pgactivate: raw("pgactivate"),
        pgdeactivate: raw("pgdeactivate"),
        pglazyfree: raw("pglazyfree"),
        pglazyfreed: raw("pglazyfreed"),
        thp_fault_alloc: raw("thp_fault_alloc"),
        thp_collapse_alloc: raw("thp_collapse_alloc"),
        usage: memory.usage.usage,
        usage_limit: memory.usage.limit,
        swap_usage,
        swap_limit,
        max_usage: memory.usage.max,
        psi: pressure(memory.psi.as_ref()),
        ..Default::default()
    }
}

fn io_v2(usage: &Usage) -> v2::IOStat {
    let mut devices: Vec<v2::IOEntry> = Vec::new();
    let all = usage.blkio.io_service_bytes_recursive.iter().map(|entry| (entry, true));
    for (entry, bytes) in all.chain(usage.blkio.io_serviced_recursive.iter().map(|entry| (entry, false))) {
        let known = devices.iter().position(|d| (d.major, d.minor) == (entry.major, entry.minor));
        let index = known.unwrap_or_else(|| {
            devices.push(v2::IOEntry { major: entry.major, minor: entry.minor, ..Default::default() });
            devices.len() - 1
        });
        let device = &mut devices[index];
        match (entry.op.as_str(), bytes) {
            ("Read", true) => device.rbytes = entry.value,
            ("Write", true) => device.wbytes = entry.value,
            ("Read", false) => device.rios = entry.value,
            ("Write", false) => device.wios = entry.value,
            _ => {}
        }
    }
    v2::IOStat { usage: devices, psi: pressure(usage.blkio.psi.as_ref()), ..Default::default() }
}

fn pressure(pressure: Option<&Pressure>) -> MessageField<v2::PSIStats> {
    let data = |stalled: &Stalled| {
        some(v2::PSIData {
            avg10: stalled.avg10,
            avg60: stalled.avg60,
            avg300: stalled.avg300,
            total: stalled.total,
            ..Default::default()
        })
    };
    pressure.map(|p| v2::PSIStats { some: data(&p.some), full: data(&p.full), ..Default::default() }).into()
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::protobuf::Message;

    use super::*;

    fn entry(op: &str, value: u64) -> BlockEntry {
        BlockEntry { major: 8, minor: 16, op: op.into(), value }
    }

    fn usage() -> Usage {
        let mut usage = Usage::default();
        usage.cpu.usage.total = 5_000_999;
        usage.pids.current = 3;
        usage.memory.usage = MemoryEntry { limit: 1000, usage: 400, max: 500, failcnt: 1 };
        usage.memory.swap = MemoryEntry { limit: 1500, usage: 450, ..MemoryEntry::default() };
        usage.memory.raw =
            [("rss".into(), 7), ("anon".into(), 8), ("workingset_refault_file".into(), 2)].into();
        usage.memory.events = [("oom_kill".into(), 2)].into();
        usage.blkio.io_service_bytes_recursive = vec![entry("Read", 10), entry("Write", 20)];
        usage.blkio.io_serviced_recursive = vec![entry("Read", 1), entry("Write", 2)];
        usage
    }

    #[test]
    fn version_1() {
        let paths = CgroupPaths { v1: [("pids".into(), "/x".into())].into(), ..CgroupPaths::default() };
        let any = metrics(&usage(), &paths).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = v1::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((metrics.cpu.usage.total, metrics.pids.current), (5_000_999, 3));
        assert_eq!((metrics.memory.rss, metrics.memory.usage.failcnt), (7, 1));
        assert_eq!(metrics.memory_oom_control.oom_kill, 2);
        let names = HashMap::from([((8, 16), "/dev/sdb".to_owned())]);
        assert_eq!(block_v1(&usage(), &names).io_service_bytes_recursive[1].device, "/dev/sdb");
    }

    #[test]
    fn version_2() {
        let any = metrics(&usage(), &CgroupPaths::default()).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((metrics.cpu.usage_usec, metrics.memory.anon), (5_000, 8));
        assert_eq!((metrics.memory.swap_usage, metrics.memory.swap_limit), (50, 500));
        assert_eq!((metrics.memory_events.oom_kill, metrics.memory.workingset_refault), (2, 2));
        let device = &metrics.io.usage[0];
        assert_eq!((device.rbytes, device.wbytes, device.rios, device.wios), (10, 20, 1, 2));
    }
}
