//! From a container's limits to properties of its unit (systemd.resource-control(5)). Pure.
//!
//! systemd must know the limits that it has properties for, or it would set its own defaults again when it is
//! reloaded. All of them are also written to cgroupfs afterwards, exactly as config.json has them.

use std::collections::BTreeMap;

use super::marshal::Value;
use crate::cgroup::device_set::DeviceSet;
use crate::cgroup::devices::{DeviceKind, DeviceRule};
use crate::cgroup::limits::Limits;
use crate::cgroup::setting::Write;
use crate::cgroup::version::Version;

/// Properties by name.
pub(super) type Properties = BTreeMap<String, Value>;

/// The kernel's default period of CPU bandwidth control, in µs.
const DEFAULT_PERIOD: u64 = 100_000;

/// The properties that express a limit exactly; other limits are only written to cgroupfs. `version` is systemd's.
pub(super) fn of_limits(limits: &Limits, version: u32) -> Properties {
    let mut properties = Properties::new();
    let mut bandwidth = Bandwidth::default();
    for write in &limits.writes {
        if !bandwidth.take(write) {
            properties.extend(of_write(write, version));
        }
    }
    if properties.get("CPUWeight") != Some(&Value::U64(0)) && is_idle(limits) && version >= 252 {
        // An idle cgroup has no other weight.
        properties.insert("CPUWeight".into(), Value::U64(0));
    }
    bandwidth.add_to(&mut properties, version);
    properties
}

fn is_idle(limits: &Limits) -> bool {
    limits.writes.iter().any(|w| w.version == Version::V2 && w.file == "cpu.idle" && w.value.trim() == "1")
}

fn of_write(write: &Write, version: u32) -> Option<(String, Value)> {
    let value = write.value.trim();
    let number = |text: &str| match text {
        "max" | "-1" => Some(Value::U64(u64::MAX)),
        text => text.parse().ok().map(Value::U64),
    };
    let (name, value) = match (write.version, write.file.as_str()) {
        (Version::V1, "memory.limit_in_bytes") => ("MemoryLimit", number(value)?),
        (Version::V1, "cpu.shares") => ("CPUShares", number(value)?),
        (Version::V1, "blkio.weight") => ("BlockIOWeight", number(value)?),
        // systemd refuses 0, and 0 is not written either
        (_, "pids.max") => ("TasksMax", number(if value == "0" { "1" } else { value })?),
        (Version::V2, "memory.max") => ("MemoryMax", number(value)?),
        (Version::V2, "memory.high") => ("MemoryHigh", number(value)?),
        (Version::V2, "memory.low") => ("MemoryLow", number(value)?),
        (Version::V2, "memory.min") => ("MemoryMin", number(value)?),
        (Version::V2, "memory.swap.max") => ("MemorySwapMax", number(value)?),
        (Version::V2, "cpu.weight") => ("CPUWeight", number(value)?),
        (Version::V2, "io.weight") => ("IOWeight", number(value.strip_prefix("default ").unwrap_or(value))?),
        // BFQ has its own scale of weights; the alternative is systemd's scale.
        (Version::V2, "io.bfq.weight") => ("IOWeight", number(write.instead.as_ref()?.1.trim())?),
        (Version::V2, "cpuset.cpus") if version >= 244 => ("AllowedCPUs", Value::bytes(&bit_mask(value)?)),
        (Version::V2, "cpuset.mems") if version >= 244 => {
            ("AllowedMemoryNodes", Value::bytes(&bit_mask(value)?))
        }
        _ => return None,
    };
    Some((name.to_owned(), value))
}

/// CPU quota and period, which v1 has in two files.
#[derive(Default)]
struct Bandwidth {
    quota: Option<i64>,
    period: Option<u64>,
}

impl Bandwidth {
    /// Takes a write to one of the two files.
    fn take(&mut self, write: &Write) -> bool {
        match (write.version, write.file.as_str()) {
            (Version::V1, "cpu.cfs_quota_us") => self.quota = write.value.parse().ok(),
            (Version::V1, "cpu.cfs_period_us") => self.period = write.value.parse().ok(),
            (Version::V2, "cpu.max") => {
                let mut words = write.value.split_whitespace();
                self.quota = words.next().map(|quota| quota.parse().unwrap_or(-1));
                self.period = words.next().and_then(|period| period.parse().ok());
            }
            _ => return false,
        }
        true
    }

    fn add_to(&self, properties: &mut Properties, version: u32) {
        if let Some(period) = self.period.filter(|_| version >= 242) {
            properties.insert("CPUQuotaPeriodUSec".into(), Value::U64(period));
        }
        if self.quota.is_none() && self.period.is_none() {
            return;
        }
        let quota = self.quota.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0);
        let per_second = quota.map_or(u64::MAX, |quota| {
            let period = self.period.unwrap_or(DEFAULT_PERIOD).max(1);
            let exact = u128::from(quota) * 1_000_000 / u128::from(period);
            // systemd counts in whole percents of a CPU, and rounds down.
            u64::try_from(exact.next_multiple_of(10_000)).unwrap_or(u64::MAX)
        });
        properties.insert("CPUQuotaPerSecUSec".into(), Value::U64(per_second));
    }
}

/// A list of cpuset(7) as bits, the lowest first. Such lists have been checked before; `None` if systemd cannot express the list.
fn bit_mask(list: &str) -> Option<Vec<u8>> {
    /// More than any kernel's NR_CPUS.
    const MOST: usize = 65_536;
    let mut mask = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        for bit in from.parse::<usize>().ok()?..=to.parse::<usize>().ok().filter(|to| *to < MOST)? {
            mask.resize(mask.len().max(bit / 8 + 1), 0u8);
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    (!mask.is_empty()).then_some(mask)
}

/// Device rules as an allow list; `None` if systemd cannot express them. Then only our own program restricts devices.
pub(super) fn of_devices(rules: &[DeviceRule], v1: bool) -> Option<Properties> {
    let policy = |policy, list| {
        Properties::from([
            ("DevicePolicy".to_owned(), Value::str(policy)),
            ("DeviceAllow".to_owned(), Value::Array("(ss)".into(), list)),
        ])
    };
    let set = DeviceSet::from_rules(rules).ok()?;
    let Some(allowed) = set.allow_list() else {
        return set.allows_all().then(|| policy("auto", Vec::new()));
    };
    let mut list = Vec::new();
    for rule in allowed {
        let kind = if rule.kind == DeviceKind::Block { "block" } else { "char" };
        let device = match (rule.major, rule.minor) {
            (None, None) => format!("{kind}-*"),
            (Some(major), None) => format!("{kind}-{major}"),
            (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
            // On v2 a list without this device would forbid it: systemd's program and ours must both allow a device.
            (None, Some(_)) if !v1 => return None,
            (None, Some(_)) => continue,
        };
        list.push(Value::Struct(vec![Value::Str(device), Value::Str(rule.access.to_string())]));
    }
    Some(policy("strict", list))
}

/// A map as `a(sv)`.
pub(super) fn array(properties: Properties) -> Value {
    let pair = |(name, value)| Value::Struct(vec![Value::Str(name), Value::Variant(Box::new(value))]);
    Value::Array("(sv)".into(), properties.into_iter().map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Version::{V1, V2};

    fn of(version: Version, writes: &[(&str, &str)], systemd: u32) -> Vec<(String, Value)> {
        let writes =
            writes.iter().map(|(file, value)| Write::new("f", version, "c", *file, *value)).collect();
        of_limits(&Limits { writes, ..Limits::default() }, systemd).into_iter().collect()
    }

    fn u64s(list: &[(&str, u64)]) -> Vec<(String, Value)> {
        list.iter().map(|(name, n)| ((*name).to_owned(), Value::U64(*n))).collect()
    }

    /// Writes, and the properties that they become.
    type Case = (&'static [(&'static str, &'static str)], &'static [(&'static str, u64)]);

    #[test]
    fn limits_of_v2() {
        const MAX: u64 = u64::MAX;
        let cases: &[Case] = &[
            (&[("memory.max", "1048576")], &[("MemoryMax", 1 << 20)]),
            (&[("memory.max", "max"), ("memory.swap.max", "0")], &[("MemoryMax", MAX), ("MemorySwapMax", 0)]),
            (
                &[("memory.low", "5"), ("memory.high", "7"), ("memory.min", "1")],
                &[("MemoryHigh", 7), ("MemoryLow", 5), ("MemoryMin", 1)],
            ),
            (&[("pids.max", "max")], &[("TasksMax", MAX)]),
            (&[("pids.max", "0")], &[("TasksMax", 1)]),
            (&[("pids.max", "5"), ("pids.max", "6")], &[("TasksMax", 6)]),
            (&[("cpu.weight", "100")], &[("CPUWeight", 100)]),
            (&[("cpu.idle", "1"), ("cpu.weight", "100")], &[("CPUWeight", 0)]),
            (&[("cpu.idle", "0"), ("cpu.weight", "100")], &[("CPUWeight", 100)]),
            (
                &[("cpu.max", "50000 100000")],
                &[("CPUQuotaPerSecUSec", 500_000), ("CPUQuotaPeriodUSec", 100_000)],
            ),
            (
                &[("cpu.max", "5005 10000")],
                &[("CPUQuotaPerSecUSec", 510_000), ("CPUQuotaPeriodUSec", 10_000)],
            ),
            (&[("cpu.max", "200000")], &[("CPUQuotaPerSecUSec", 2_000_000)]),
            (&[("cpu.max", "max")], &[("CPUQuotaPerSecUSec", MAX)]),
            (&[("cpu.max", "max 5000")], &[("CPUQuotaPerSecUSec", MAX), ("CPUQuotaPeriodUSec", 5000)]),
            (&[("io.weight", "default 50")], &[("IOWeight", 50)]),
            (&[("io.weight", "8:0 50"), ("io.max", "8:0 rbps=1"), ("hugetlb.2MB.max", "0")], &[]),
            (&[("memory.oom.group", "1"), ("cpu.max.burst", "1")], &[]),
        ];
        for (writes, properties) in cases {
            assert_eq!(of(V2, writes, 252), u64s(properties), "{writes:?}");
        }
    }

    #[test]
    fn limits_of_v1() {
        let cases: &[Case] = &[
            (&[("memory.limit_in_bytes", "-1")], &[("MemoryLimit", u64::MAX)]),
            (&[("memory.limit_in_bytes", "9"), ("memory.memsw.limit_in_bytes", "9")], &[("MemoryLimit", 9)]),
            (
                &[("cpu.shares", "1024"), ("blkio.weight", "500")],
                &[("BlockIOWeight", 500), ("CPUShares", 1024)],
            ),
            (
                &[("cpu.cfs_period_us", "50000"), ("cpu.cfs_quota_us", "25000")],
                &[("CPUQuotaPerSecUSec", 500_000), ("CPUQuotaPeriodUSec", 50_000)],
            ),
            (&[("cpu.cfs_quota_us", "-1")], &[("CPUQuotaPerSecUSec", u64::MAX)]),
            (&[("cpuset.cpus", "0")], &[]),
        ];
        for (writes, properties) in cases {
            assert_eq!(of(V1, writes, 252), u64s(properties), "{writes:?}");
        }
    }

    #[test]
    fn an_older_systemd_is_not_told_what_it_does_not_know() {
        assert_eq!(of(V2, &[("cpuset.cpus", "0"), ("cpu.idle", "1")], 243), []);
        assert_eq!(of(V2, &[("cpu.max", "1 1000")], 241), u64s(&[("CPUQuotaPerSecUSec", 10_000)]));
    }

    #[test]
    fn cpus_and_nodes_are_bits() {
        let cases: &[(&str, &[u8])] = &[
            ("0", &[1]),
            ("1,3-5", &[0b11_1010]),
            ("0-15", &[255, 255]),
            ("9", &[0, 2]),
            (" 0 , 8 ", &[1, 1]),
        ];
        for (list, bits) in cases {
            let expected = vec![("AllowedCPUs".to_owned(), Value::bytes(bits))];
            assert_eq!(of(V2, &[("cpuset.cpus", list)], 252), expected, "{list}");
        }
        assert_eq!(of(V2, &[("cpuset.mems", "0-4294967295")], 252), []);
        assert_eq!(of(V2, &[("cpuset.mems", "0-7:1/2")], 252), []);
    }

    #[test]
    fn bfq_weights_are_told_in_systemd_s_scale() {
        let mut write = Write::new("f", V2, "io", "io.bfq.weight", "10");
        write.instead = Some(("io.weight".into(), "1".into()));
        let limits = Limits { writes: vec![write], ..Limits::default() };
        assert_eq!(of_limits(&limits, 252).into_iter().collect::<Vec<_>>(), u64s(&[("IOWeight", 1)]));
    }

    fn devices(rules: &[&str], v1: bool) -> Option<(String, Vec<String>)> {
        let rules: Vec<_> = rules
            .iter()
            .map(|text| {
                let words: Vec<_> = text[1..].split([' ', ':']).collect();
                let number = |text: &str| (text != "*").then(|| text.parse().unwrap());
                let kind = match words[0] {
                    "a" => DeviceKind::All,
                    "b" => DeviceKind::Block,
                    _ => DeviceKind::Char,
                };
                let (major, minor) = (number(words[1]), number(words[2]));
                let access = crate::cgroup::Access::parse(words[3]).unwrap();
                DeviceRule { allow: text.starts_with('+'), kind, major, minor, access }
            })
            .collect();
        let mut properties = of_devices(&rules, v1)?;
        let policy = properties["DevicePolicy"].as_str().unwrap().to_owned();
        let Some(Value::Array(_, list)) = properties.remove("DeviceAllow") else { panic!("no list") };
        let entry = |value: &Value| match value {
            Value::Struct(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
            other => panic!("{other:?}"),
        };
        Some((policy, list.iter().map(entry).collect()))
    }

    #[test]
    fn device_rules() {
        let strict =
            |list: &[&str]| Some(("strict".to_owned(), list.iter().map(|s| (*s).to_owned()).collect()));
        assert_eq!(devices(&["-a *:* rwm"], false), strict(&[]));
        assert_eq!(devices(&["+a *:* rwm"], false), Some(("auto".to_owned(), vec![])));
        assert_eq!(
            devices(&["-a *:* rwm", "+b *:* m", "+c 136:* rw", "+c 1:3 rw", "+b 8:1 r", "+c 1:3 m"], false),
            strict(&["block-* m", "/dev/block/8:1 r", "/dev/char/1:3 rwm", "char-136 rw"]),
        );
        // Every device but one: systemd cannot express this.
        assert_eq!(devices(&["+a *:* rwm", "-c 1:3 w"], false), None);
        // Any device with a minor number: systemd cannot express this either.
        assert_eq!(devices(&["+c *:3 r"], false), None);
        assert_eq!(devices(&["+c *:3 r", "+c 1:5 r"], true), strict(&["/dev/char/1:5 r"]));
        assert_eq!(devices(&["+c 1:3 rw", "-c 1:* w"], false), strict(&["/dev/char/1:3 r"]));
        // A hole in a wildcard, which v2 can express and the list cannot.
        assert_eq!(devices(&["+c 1:* rw", "-c 1:3 w"], false), None);
    }
}
