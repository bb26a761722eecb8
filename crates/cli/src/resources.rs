//! `update`'s flags as `linux.resources`.

use std::str::FromStr;

use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value};

use super::args::{UpdateArgs, UpdateSource};
use super::refusal::Refusal;
use super::scan::Matches;
use super::value;
use hiber::id::ContainerId;

type Result<T> = std::result::Result<T, Refusal>;

/// Reads a flag's value as the JSON that config.json would have there.
type Read = fn(&str, &str) -> Result<Value>;

/// Flag, group and member of `linux.resources`, and how its value reads.
const FLAGS: &[(&str, &str, &str, Read)] = &[
    ("blkio-weight", "blockIO", "weight", number::<u16>),
    ("cpu-period", "cpu", "period", number::<u64>),
    ("cpu-quota", "cpu", "quota", number::<i64>),
    ("cpu-burst", "cpu", "burst", number::<u64>),
    ("cpu-share", "cpu", "shares", number::<u64>),
    ("cpu-rt-period", "cpu", "realtimePeriod", number::<u64>),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime", number::<i64>),
    ("cpu-idle", "cpu", "idle", number::<i64>),
    ("cpuset-cpus", "cpu", "cpus", word),
    ("cpuset-mems", "cpu", "mems", word),
    ("memory", "memory", "limit", bytes),
    ("memory-reservation", "memory", "reservation", bytes),
    ("memory-swap", "memory", "swap", bytes),
    ("kernel-memory", "memory", "kernel", bytes),
    ("kernel-memory-tcp", "memory", "kernelTCP", bytes),
    ("pids-limit", "pids", "limit", number::<i64>),
];

/// `update`
pub(super) fn update(id: ContainerId, m: &Matches) -> Result<UpdateArgs> {
    let given = |flag: &str| m.value(flag).filter(|v| !v.is_empty());
    if given("resources").is_some() {
        // As with runc.
        FLAGS.iter().for_each(|(flag, ..)| m.ignore(flag));
    }
    let source = match given("resources") {
        Some(dash) if dash == "-" => UpdateSource::Stdin,
        Some(path) => UpdateSource::File(path.into()),
        None => UpdateSource::Flags(Box::new(from_flags(m)?)),
    };
    let schemata = [given("l3-cache-schema"), given("mem-bw-schema")].into_iter().flatten();
    let intel_rdt = schemata.map(|line| line.to_string_lossy().into_owned()).collect();
    Ok(UpdateArgs { id, source, intel_rdt })
}

fn from_flags(m: &Matches) -> Result<LinuxResources> {
    let mut groups: Map<String, Value> = Map::new();
    for (flag, group, member, read) in FLAGS {
        let Some(text) = m.value(flag).filter(|v| !v.is_empty()) else { continue };
        let value = read(flag, &value::text(flag, text)?)?;
        let group = groups.entry(*group).or_insert_with(|| Value::Object(Map::new()));
        group[*member] = value;
    }
    serde_json::from_value(groups.into()).map_err(|e| Refusal::Value(format!("resources: {e}")))
}

fn number<T: FromStr + Into<Value>>(flag: &str, text: &str) -> Result<Value> {
    let read = text.parse::<T>();
    read.map(Into::into)
        .map_err(|_| Refusal::Value(format!("invalid value for {flag}: {text:?} is no number in its range")))
}

fn word(_flag: &str, text: &str) -> Result<Value> {
    Ok(text.into())
}

/// `-1`, or bytes with a unit of 1024: `50M`, `1.5g`, `512kb`, `2GiB`.
fn bytes(flag: &str, text: &str) -> Result<Value> {
    if text == "-1" {
        return Ok((-1).into());
    }
    let size = || -> Option<i64> {
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
    };
    size().map(Into::into).ok_or_else(|| {
        Refusal::Value(format!("invalid value for {flag}: {text:?}: expected bytes, such as 64M, or -1"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let read = |text: &str| bytes("memory", text).ok().and_then(|v| v.as_i64());
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
