//! `update`

use std::ffi::OsStr;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, bail};
use hiber::id::ContainerId;
use hiber_sandbox::config;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::containers::Containers;
use crate::line::command::{Cli, Command, Run};
use crate::line::flag::{Flag, Flags, Value, flags};
use crate::line::refusal::Refusal;
use crate::line::shape::Entry;
use crate::line::value::text;

/// A number in the range of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number<T>(T);

impl<T: FromStr> Value for Number<T> {
    fn read(flag: &str, value: &OsStr) -> Result<Self, Refusal> {
        let text = text(flag, value)?;
        text.parse().map(Self).map_err(|_| {
            Refusal::value(format!("invalid value for {flag}: {text:?} is no number in its range"))
        })
    }
}

/// `1` to run only when no one else wants to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Idle(i64);

impl Value for Idle {
    const WORDS: &'static [&'static str] = &["0", "1"];
    fn read(flag: &str, value: &OsStr) -> Result<Self, Refusal> {
        Number::read(flag, value).map(|Number(idle)| Self(idle))
    }
}

/// `-1`, or bytes with a unit of 1024: `50M`, `1.5g`, `512kb`, `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bytes(i64);

impl Value for Bytes {
    fn read(flag: &str, value: &OsStr) -> Result<Self, Refusal> {
        let text = text(flag, value)?;
        bytes(&text).map(Self).ok_or_else(|| {
            Refusal::value(format!("invalid value for {flag}: {text:?}: expected bytes, such as 64M, or -1"))
        })
    }
}

/// The bytes of such a text.
pub(super) fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let unit = text[end..].trim_start().to_ascii_lowercase();
    let prefix = match unit.strip_suffix("ib") {
        Some(prefix) if !prefix.is_empty() => prefix,
        _ => unit.strip_suffix('b').unwrap_or(&unit),
    };
    let power = ["", "k", "m", "g", "t", "p"].iter().position(|p| *p == prefix)?;
    let size = number * 1024f64.powi(i32::try_from(power).ok()?);
    (size < i64::MAX as f64).then_some(size as i64)
}

flags! {
    /// Where the limits come from, and those that are no cgroup's.
    struct UpdateFlags {
        resources: Option<PathBuf> =
            Flag::value("resources", "FILE", "take the limits from FILE, or from standard input if it is -").short("r"),
        l3_cache_schema: Option<String> =
            Flag::value("l3-cache-schema", "SCHEMA", "Intel RDT: share of the L3 cache"),
        mem_bw_schema: Option<String> =
            Flag::value("mem-bw-schema", "SCHEMA", "Intel RDT: share of the memory bandwidth"),
    }
}

flags! {
    /// Limits.
    struct LimitFlags {
        blkio_weight: Option<Number<u16>> =
            Flag::value("blkio-weight", "WEIGHT", "weight of block I/O, 10 to 1000"),
        cpu_period: Option<Number<u64>> =
            Flag::value("cpu-period", "USEC", "period of the CPU quota, microseconds"),
        cpu_quota: Option<Number<i64>> =
            Flag::value("cpu-quota", "USEC", "CPU time in each period, microseconds; -1 for no limit"),
        cpu_burst: Option<Number<u64>> =
            Flag::value("cpu-burst", "USEC", "CPU time that may be saved up beyond the quota, microseconds"),
        cpu_share: Option<Number<u64>> =
            Flag::value("cpu-share", "SHARES", "weight of CPU time against other containers"),
        cpu_rt_period: Option<Number<u64>> =
            Flag::value("cpu-rt-period", "USEC", "period of the realtime limit, microseconds"),
        cpu_rt_runtime: Option<Number<i64>> =
            Flag::value("cpu-rt-runtime", "USEC", "realtime CPU time in each period, microseconds"),
        cpuset_cpus: Option<String> = Flag::value("cpuset-cpus", "LIST", "CPUs to use, such as 0-3,7"),
        cpuset_mems: Option<String> = Flag::value("cpuset-mems", "LIST", "memory nodes to use"),
        kernel_memory: Option<Bytes> =
            Flag::value("kernel-memory", "BYTES", "ignored: kernels have dropped it").hidden(),
        kernel_memory_tcp: Option<Bytes> =
            Flag::value("kernel-memory-tcp", "BYTES", "ignored: kernels have dropped it").hidden(),
        memory: Option<Bytes> = Flag::value("memory", "BYTES", "memory limit, such as 64M; -1 for none"),
        cpu_idle: Option<Idle> =
            Flag::value("cpu-idle", "0|1", "1 to run only when no one else wants to (SCHED_IDLE)"),
        memory_reservation: Option<Bytes> =
            Flag::value("memory-reservation", "BYTES", "memory that is kept when memory is short"),
        memory_swap: Option<Bytes> =
            Flag::value("memory-swap", "BYTES", "limit of memory and swap together; -1 for none"),
        pids_limit: Option<Number<i64>> =
            Flag::value("pids-limit", "COUNT", "most processes and threads; -1 for no limit"),
    }
}

pub(crate) const COMMAND: Command =
    Command::on_container("update", "change the limits of a container", |m| {
        let flags = UpdateFlags::read(m)?;
        // With a file all other limits are ignored, as with runc.
        let limits = flags.resources.is_none().then(|| LimitFlags::read(m)).transpose()?;
        Ok(Box::new(Update { id: m.container()?, flags, limits }))
    })
    .description(
        "Limits that are not given stay as they are. With --resources all other flags are ignored; the\n\
         format is that of linux.resources in config.json, in which members may be left out:\n\n\
         {\n  \
           \"memory\": {\"limit\": 0, \"reservation\": 0, \"swap\": 0, \"checkBeforeUpdate\": true},\n  \
           \"cpu\": {\"shares\": 0, \"quota\": 0, \"burst\": 0, \"period\": 0, \"realtimeRuntime\": 0,\n          \
                   \"realtimePeriod\": 0, \"cpus\": \"\", \"mems\": \"\", \"idle\": 0},\n  \
           \"blockIO\": {\"weight\": 0},\n  \
           \"pids\": {\"limit\": 0}\n\
         }",
    )
    .examples(&[
        ("update --memory 512M --pids-limit 100 web", "set two limits"),
        ("update --resources - web", "set the limits that standard input gives"),
    ])
    .flags(&[Entry::Group(UpdateFlags::TABLE), Entry::Group(LimitFlags::TABLE)]);

#[derive(Debug)]
struct Update {
    id: ContainerId,
    flags: UpdateFlags,
    /// None where a file has them.
    limits: Option<LimitFlags>,
}

impl Run for Update {
    fn run(&self, cli: &Cli) -> anyhow::Result<ExitCode> {
        let task = Containers::new(cli)?.task(&self.id)?;
        // Intel RDT, a group of resctrl, is no cgroup.
        let schemata: Vec<_> =
            [&self.flags.l3_cache_schema, &self.flags.mem_bw_schema].into_iter().flatten().cloned().collect();
        if !schemata.is_empty() && !task.container().facts()?.resctrl.update(&schemata)? {
            bail!("updating a non-existent Intel RDT configuration is not supported");
        }
        task.update(&self.resources()?)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Update {
    fn resources(&self) -> anyhow::Result<LinuxResources> {
        Ok(match (&self.limits, &self.flags.resources) {
            (Some(limits), _) => limits.resources(),
            (None, Some(path)) if path.as_os_str() != "-" => {
                let file =
                    File::open(path).with_context(|| format!("open --resources {}", path.display()))?;
                config::load_resources(file)?
            }
            (None, _) => config::load_resources(std::io::stdin().lock())?,
        })
    }
}

impl LimitFlags {
    /// As config.json has them; what is not given is not there.
    fn resources(&self) -> LinuxResources {
        let number = |bytes: Option<Bytes>| bytes.map(|Bytes(number)| number);
        let mut cpu = LinuxCpu::default();
        cpu.set_period(self.cpu_period.map(|n| n.0));
        cpu.set_quota(self.cpu_quota.map(|n| n.0));
        cpu.set_burst(self.cpu_burst.map(|n| n.0));
        cpu.set_shares(self.cpu_share.map(|n| n.0));
        cpu.set_realtime_period(self.cpu_rt_period.map(|n| n.0));
        cpu.set_realtime_runtime(self.cpu_rt_runtime.map(|n| n.0));
        cpu.set_idle(self.cpu_idle.map(|n| n.0));
        cpu.set_cpus(self.cpuset_cpus.clone());
        cpu.set_mems(self.cpuset_mems.clone());
        let mut memory = LinuxMemory::default();
        memory.set_limit(number(self.memory));
        memory.set_reservation(number(self.memory_reservation));
        memory.set_swap(number(self.memory_swap));
        memory.set_kernel(number(self.kernel_memory));
        memory.set_kernel_tcp(number(self.kernel_memory_tcp));
        let mut resources = LinuxResources::default();
        resources.set_devices(None);
        resources.set_cpu(Some(cpu).filter(|cpu| *cpu != LinuxCpu::default()));
        resources.set_memory(Some(memory).filter(|memory| *memory != LinuxMemory::default()));
        resources.set_pids(self.pids_limit.map(|Number(limit)| {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            pids
        }));
        resources.set_block_io(self.blkio_weight.map(|Number(weight)| {
            let mut block_io = LinuxBlockIo::default();
            block_io.set_weight(Some(weight));
            block_io
        }));
        resources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let read = bytes;
        assert_eq!(read("67108864"), Some(67_108_864));
        assert_eq!(read("50M"), Some(52_428_800));
        assert_eq!(read("1.5g"), Some(1_610_612_736));
        assert_eq!(read("512kb"), Some(524_288));
        assert_eq!(read("2GiB"), Some(2_147_483_648));
        assert_eq!(read("1 kB"), Some(1024));
        assert_eq!(read("-1"), Some(-1));
        for wrong in ["", "M", "-2", "12x", "1ib", "99999999p", "1.2.3"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
