//! The resource use of a container, in the shape of `runc events` (runc's types/events.go). Field names, units and the members that are left
//! out when they are zero are an interface that cAdvisor and containerd read.

mod read;

use std::collections::BTreeMap;

use serde::Serialize;

/// The statistics of `runc events`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Processor time.
    pub cpu: CpuUsage,
    /// Processors and memory nodes.
    pub cpuset: CpusetUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes and threads.
    pub pids: PidsUsage,
    /// Block I/O.
    pub blkio: BlockUsage,
    /// By page size: `2MB`.
    pub hugetlb: BTreeMap<String, HugetlbUsage>,
    /// Always empty: containers are not put into resctrl groups.
    pub intel_rdt: BTreeMap<String, String>,
    /// Always null, as from runc for every container made from a config.json.
    pub network_interfaces: Option<Vec<String>>,
}

/// Processor time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CpuUsage {
    /// Time used.
    #[serde(skip_serializing_if = "is_default")]
    pub usage: CpuTime,
    /// Time for which the limit held processes back.
    #[serde(skip_serializing_if = "is_default")]
    pub throttling: Throttling,
    /// Pressure; `None` without PSI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CpuTime {
    /// User and kernel time.
    #[serde(skip_serializing_if = "is_default")]
    pub total: u64,
    /// Total time on each processor (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// Kernel time on each processor (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// User time on each processor (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// Time in the kernel.
    pub kernel: u64,
    /// Time in programs.
    pub user: u64,
}

/// Times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Number of periods with runnable processes.
    #[serde(skip_serializing_if = "is_default")]
    pub periods: u64,
    /// Number of those in which the limit was reached.
    #[serde(skip_serializing_if = "is_default")]
    pub throttled_periods: u64,
    /// Sum of the times for which processes were held back.
    #[serde(skip_serializing_if = "is_default")]
    pub throttled_time: u64,
}

/// Pressure stall information (accounting/psi.rst).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Some tasks waited.
    pub some: Stalled,
    /// All tasks waited.
    pub full: Stalled,
}

/// Averages in percent, the total in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stalled {
    /// Over 10 seconds.
    pub avg10: f64,
    /// Over 60 seconds.
    pub avg60: f64,
    /// Over 300 seconds.
    pub avg300: f64,
    /// Since the cgroup was made.
    pub total: u64,
}

/// Of cgroup v1 alone; flags are 0 or 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CpusetUsage {
    /// `cpuset.cpus`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    /// `cpuset.cpu_exclusive`
    pub cpu_exclusive: u64,
    /// `cpuset.mems`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    /// `cpuset.mem_hardwall`
    pub mem_hardwall: u64,
    /// `cpuset.mem_exclusive`
    pub mem_exclusive: u64,
    /// `cpuset.memory_migrate`
    pub memory_migrate: u64,
    /// `cpuset.memory_spread_page`
    pub memory_spread_page: u64,
    /// `cpuset.memory_spread_slab`
    pub memory_spread_slab: u64,
    /// `cpuset.memory_pressure`
    pub memory_pressure: u64,
    /// `cpuset.sched_load_balance`
    pub sched_load_balance: u64,
    /// `cpuset.sched_relax_domain_level`
    pub sched_relax_domain_level: i64,
}

/// Bytes. A missing limit is u64::MAX on v2, and on v1 the kernel's largest number of whole pages.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MemoryUsage {
    /// Page cache.
    #[serde(skip_serializing_if = "is_default")]
    pub cache: u64,
    /// Memory without swap.
    #[serde(skip_serializing_if = "is_default")]
    pub usage: MemoryEntry,
    /// Memory and swap together.
    #[serde(skip_serializing_if = "is_default")]
    pub swap: MemoryEntry,
    /// Kernel memory (v1).
    #[serde(skip_serializing_if = "is_default")]
    pub kernel: MemoryEntry,
    /// Buffers of TCP sockets (v1).
    #[serde(rename = "kernelTCP", skip_serializing_if = "is_default")]
    pub kernel_tcp: MemoryEntry,
    /// The lines of `memory.stat`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Pressure; `None` without PSI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
    /// The lines of `memory.events`, on v1 of `memory.oom_control`. Not part of the interface.
    #[serde(skip)]
    pub events: BTreeMap<String, u64>,
}

/// One counter of memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MemoryEntry {
    /// The limit.
    pub limit: u64,
    /// The bytes in use.
    #[serde(skip_serializing_if = "is_default")]
    pub usage: u64,
    /// The highest value so far; 0 where the kernel does not record it.
    #[serde(skip_serializing_if = "is_default")]
    pub max: u64,
    /// The number of allocations that the limit refused.
    pub failcnt: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PidsUsage {
    /// Their number.
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
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlockEntry>,
    /// Operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlockEntry>,
    /// Operations that wait (v1, BFQ).
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlockEntry>,
    /// Nanoseconds on the device (v1, BFQ).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlockEntry>,
    /// Nanoseconds in queues (v1, BFQ).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlockEntry>,
    /// Operations that were merged with others (v1, BFQ).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlockEntry>,
    /// Milliseconds of the device (v1, BFQ).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlockEntry>,
    /// Sectors (v1, BFQ).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlockEntry>,
    /// Pressure; `None` without PSI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// A counter of one device.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BlockEntry {
    /// The device's major number.
    #[serde(skip_serializing_if = "is_default")]
    pub major: u64,
    /// The device's minor number.
    #[serde(skip_serializing_if = "is_default")]
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`; empty where the kernel names none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The count, in the unit of its list.
    #[serde(skip_serializing_if = "is_default")]
    pub value: u64,
}

/// Bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct HugetlbUsage {
    /// Bytes in use; with reservations where the kernel counts these.
    #[serde(skip_serializing_if = "is_default")]
    pub usage: u64,
    /// The highest value so far (v1).
    #[serde(skip_serializing_if = "is_default")]
    pub max: u64,
    /// The number of allocations that the limit refused.
    pub failcnt: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

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
