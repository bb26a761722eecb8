//! `linux.resources.cpu`: shares, quotas, realtime and cpusets.

use oci_spec::runtime::LinuxCpu;

use super::{Converter, idle_has_no_weight, invalid, or_max};
use crate::cgroup::version::Version;
use crate::error::Result;

/// `cpu.weight` for `cpu.shares` (0 is unset): the quadratic curve in log space through
/// (2, 1), (1024, 100) and (262144, 10000) that runc and crun took up in 2025; the older linear
/// one gave the default of 1024 shares a weight of 39.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// A list of cpuset(7): numbers and ranges, the latter with an optional `:used/group`.
pub(super) fn is_list(text: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    text.split(',').all(|part| {
        let (range, stride) = part.trim().split_once(':').unwrap_or((part.trim(), "1/1"));
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let ordered = || from.parse::<u32>().ok() <= to.parse::<u32>().ok();
        digits(from)
            && digits(to)
            && ordered()
            && stride.split_once('/').is_some_and(|(a, b)| digits(a) && digits(b))
    })
}

impl Converter<'_> {
    pub(super) fn cpu(&mut self, cpu: &LinuxCpu) -> Result<()> {
        let shares = cpu.shares().filter(|s| *s != 0);
        let quota = cpu.quota().filter(|q| *q != 0);
        let period = cpu.period().filter(|p| *p != 0);
        if let Some(idle) = cpu.idle().filter(|i| !(0..=1).contains(i)) {
            return invalid("cpu.idle", format!("{idle}: expected 0 or 1"));
        }
        let fields = [
            ("cpu.shares", shares.is_some()),
            ("cpu.quota", quota.is_some()),
            ("cpu.period", period.is_some()),
            ("cpu.burst", cpu.burst().is_some()),
            ("cpu.idle", cpu.idle().is_some()),
        ];
        let Some((first, _)) = fields.into_iter().find(|(_, set)| *set) else { return Ok(()) };
        match self.find(first, "cpu", "cpu")? {
            Version::V1 => self.cpu_v1(cpu, shares, quota, period)?,
            Version::V2 => self.cpu_v2(cpu, shares, quota, period),
        }
        Ok(())
    }

    fn cpu_v1(
        &mut self,
        cpu: &LinuxCpu,
        shares: Option<u64>,
        quota: Option<i64>,
        period: Option<u64>,
    ) -> Result<()> {
        let v1 = Version::V1;
        self.idle(v1, cpu);
        if let Some(shares) = shares {
            // The kernel clamps in silence; these are its bounds, and runc's words.
            match shares {
                _ if cpu.idle() == Some(1) => idle_has_no_weight("linux.resources.cpu.shares"),
                ..2 => {
                    return invalid("cpu.shares", format!("{shares}: the minimum allowed cpu-shares is 2"));
                }
                262_145.. => {
                    return invalid(
                        "cpu.shares",
                        format!("{shares}: the maximum allowed cpu-shares is 262144"),
                    );
                }
                _ => {
                    self.push("cpu.shares", v1, "cpu", "cpu.shares", shares);
                }
            }
        }
        if let Some(period) = period {
            self.push("cpu.period", v1, "cpu", "cpu.cfs_period_us", period);
        }
        if let Some(burst) = cpu.burst() {
            self.push("cpu.burst", v1, "cpu", "cpu.cfs_burst_us", burst).optional = burst == 0;
        }
        if let Some(quota) = quota {
            self.push("cpu.quota", v1, "cpu", "cpu.cfs_quota_us", quota.max(-1));
        }
        Ok(())
    }

    /// A weight is refused while the cgroup is idle, so this comes before the weight.
    fn idle(&mut self, version: Version, cpu: &LinuxCpu) {
        if let Some(idle) = cpu.idle() {
            self.push("cpu.idle", version, "cpu", "cpu.idle", idle).optional = idle == 0;
        }
    }

    fn cpu_v2(&mut self, cpu: &LinuxCpu, shares: Option<u64>, quota: Option<i64>, period: Option<u64>) {
        let v2 = Version::V2;
        self.idle(v2, cpu);
        match shares {
            Some(_) if cpu.idle() == Some(1) => idle_has_no_weight("linux.resources.cpu.shares"),
            Some(shares) => {
                self.push("cpu.shares", v2, "cpu", "cpu.weight", weight_of_shares(shares));
            }
            None => {}
        }
        if let Some(burst) = cpu.burst() {
            self.push("cpu.burst", v2, "cpu", "cpu.max.burst", burst).optional = burst == 0;
        }
        let max = quota.map(or_max);
        match (max, period) {
            (Some(max), Some(period)) => {
                self.push("cpu.quota", v2, "cpu", "cpu.max", format!("{max} {period}"));
            }
            // The period stays.
            (Some(max), None) => {
                self.push("cpu.quota", v2, "cpu", "cpu.max", max);
            }
            (None, Some(period)) => {
                self.push("cpu.period", v2, "cpu", "cpu.max", format!("max {period}"));
            }
            (None, None) => {}
        }
    }

    pub(super) fn realtime(&mut self, cpu: &LinuxCpu) -> Result<()> {
        if let Some(period) = cpu.realtime_period().filter(|p| *p != 0) {
            self.find_v1("cpu.realtimePeriod", "cpu")?;
            self.push("cpu.realtimePeriod", Version::V1, "cpu", "cpu.rt_period_us", period);
        }
        if let Some(runtime) = cpu.realtime_runtime().filter(|r| *r != 0) {
            self.find_v1("cpu.realtimeRuntime", "cpu")?;
            self.push("cpu.realtimeRuntime", Version::V1, "cpu", "cpu.rt_runtime_us", runtime);
        }
        Ok(())
    }

    pub(super) fn cpuset(&mut self, cpu: &LinuxCpu) -> Result<()> {
        for (field, file, list) in
            [("cpu.cpus", "cpuset.cpus", cpu.cpus()), ("cpu.mems", "cpuset.mems", cpu.mems())]
        {
            let Some(list) = list.as_deref().filter(|l| !l.is_empty()) else { continue };
            if !is_list(list) {
                return invalid(field, format!("{list:?}: expected numbers and ranges, such as \"0-3,7\""));
            }
            let version = self.find(field, "cpuset", "cpuset")?;
            self.push(field, version, "cpuset", file, list);
        }
        Ok(())
    }
}
