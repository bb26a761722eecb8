//! Limits that were changed before a dump: whoever could write the images could lift every limit of config.json.

use std::collections::BTreeSet;

use serde_json::Value;

use super::grant::Verdict;
use crate::state::resources::{Changed, ChangedResources};

/// The direction in which a value is more, and the value if it is not set.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A limit: none if it is not set, or below 0. Of some 0 is none, too.
    Limit,
    /// A share or a guarantee; 0 if it is not set.
    Share,
    /// Processors or memory nodes: all if it is not set.
    Set,
    /// Rates by device and limits by page size: those of config.json are there, and no higher.
    Limits,
    /// The more, the less it gets; 0 if it is not set.
    Modesty,
    /// Takes nothing from others.
    Free,
}

/// Whether a value is known not to be more, in the sense of its kind. Whatever is not here must be what config.json says.
const KINDS: [(&str, Kind); 24] = [
    ("memory.limit", Kind::Limit),
    ("memory.swap", Kind::Limit),
    ("memory.kernel", Kind::Limit),
    ("memory.kernelTCP", Kind::Limit),
    ("memory.reservation", Kind::Share),
    ("memory.swappiness", Kind::Free),
    ("memory.useHierarchy", Kind::Free),
    ("memory.checkBeforeUpdate", Kind::Free),
    ("pids.limit", Kind::Limit),
    ("cpu.shares", Kind::Share),
    ("cpu.burst", Kind::Share),
    ("cpu.realtimeRuntime", Kind::Share),
    ("cpu.cpus", Kind::Set),
    ("cpu.mems", Kind::Set),
    ("blockIO.weight", Kind::Share),
    ("blockIO.leafWeight", Kind::Share),
    ("blockIO.throttleReadBpsDevice", Kind::Limits),
    ("blockIO.throttleWriteBpsDevice", Kind::Limits),
    ("blockIO.throttleReadIOPSDevice", Kind::Limits),
    ("blockIO.throttleWriteIOPSDevice", Kind::Limits),
    ("hugepageLimits", Kind::Limits),
    // 1 is no time but what others leave.
    ("cpu.idle", Kind::Modesty),
    // Compared together.
    ("cpu.quota", Kind::Free),
    ("cpu.period", Kind::Free),
];
/// A quota's period where none is set, in microseconds.
const PERIOD: u64 = 100_000;

/// Whether the limits that were in force give no more than those of config.json, which are those of the creation.
pub(crate) fn check(in_force: &ChangedResources) -> Verdict {
    for (name, Changed { was, is }) in in_force {
        let members: BTreeSet<_> =
            [was, is].iter().filter_map(|v| v.as_object()).flat_map(|m| m.keys()).collect();
        if members.is_empty() {
            compare(name, was, is)?;
        }
        for member in members {
            compare(&format!("{name}.{member}"), &was[member], &is[member])?;
        }
        if quota(is) > quota(was) {
            return Err(more("cpu.quota", &was["quota"], &is["quota"]));
        }
    }
    Ok(())
}

fn compare(field: &str, was: &Value, is: &Value) -> Verdict {
    let kind = KINDS.iter().find(|(name, _)| *name == field).map(|(_, kind)| *kind);
    let granted = match kind {
        _ if is == was => true,
        Some(Kind::Limit) => is_at_most(is, was),
        Some(Kind::Modesty) => share(is) >= share(was),
        Some(Kind::Share) => share(is) <= share(was),
        Some(Kind::Set) => is_subset(is, was),
        Some(Kind::Limits) => are_limited(is, was),
        Some(Kind::Free) => true,
        None => false,
    };
    if granted { Ok(()) } else { Err(more(field, was, is)) }
}

fn more(field: &str, was: &Value, is: &Value) -> String {
    let shown = |value: &Value| if value.is_null() { "nothing".to_owned() } else { value.to_string() };
    format!("had {} for {field}, which config.json has {} for", shown(is), shown(was))
}

/// The meaning of 0 differs from limit to limit. In the images it is taken for "everything", and in config.json for "nothing".
fn is_at_most(is: &Value, was: &Value) -> bool {
    is == was
        || is.as_u64().filter(|limit| *limit > 0).unwrap_or(u64::MAX) <= was.as_u64().unwrap_or(u64::MAX)
}

fn share(value: &Value) -> u64 {
    match value.as_i64() {
        // -1 is all there is.
        Some(share) if share < 0 => u64::MAX,
        _ => value.as_u64().unwrap_or(0),
    }
}

/// Of a CPU's time, in millionths of a processor; of what is no cpu, too.
fn quota(cpu: &Value) -> u128 {
    let period = cpu["period"].as_u64().filter(|period| *period > 0).unwrap_or(PERIOD);
    match cpu["quota"].as_u64().filter(|quota| *quota > 0) {
        None => u128::MAX,
        Some(quota) => u128::from(quota) * 1_000_000 / u128::from(period),
    }
}

/// Lists such as `0-3,8`.
fn is_subset(is: &Value, was: &Value) -> bool {
    let Some(was) = was.as_str().filter(|list| !list.is_empty()) else { return true };
    let Some(is) = is.as_str().filter(|list| !list.is_empty()) else { return false };
    let ranges = |list: &str| -> Option<Vec<(u32, u32)>> {
        let range = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        };
        list.split(',').map(range).collect()
    };
    let (Some(is), Some(was)) = (ranges(is), ranges(was)) else { return false };
    is.iter().all(|(first, last)| was.iter().any(|(from, to)| from <= first && last <= to))
}

/// Each of config.json's is there still, and no higher; more of them only limit.
fn are_limited(is: &Value, was: &Value) -> bool {
    let value = |element: &Value| element.get("rate").unwrap_or(&element["limit"]).clone();
    let about = |element: &Value| ["major", "minor", "pageSize"].map(|name| element[name].clone());
    let (is, was) = (is.as_array().cloned().unwrap_or_default(), was.as_array().cloned().unwrap_or_default());
    // The last one of several counts.
    let of = |all: &[Value], one: &Value| {
        all.iter().rev().find(|e| about(e) == about(one)).map_or(Value::Null, value)
    };
    was.iter().all(|one| is_at_most(&of(&is, one), &of(&was, one)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdict(was: Value, is: Value) -> Verdict {
        let both = |(name, was): (&String, &Value)| {
            (name.clone(), Changed { was: was.clone(), is: is[name].clone() })
        };
        check(&was.as_object().unwrap().iter().map(both).collect())
    }

    #[test]
    fn less_than_config_json_is_given() {
        for (was, is) in [
            (json!({"memory": {"limit": 8, "swap": 16}}), json!({"memory": {"limit": 4, "swap": 16}})),
            (json!({"memory": null}), json!({"memory": {"limit": 4, "swappiness": 10}})),
            (json!({"cpu": {"quota": 50_000}}), json!({"cpu": {"quota": 100_000, "period": 200_000}})),
            (json!({"cpu": {"cpus": "0-3,5"}}), json!({"cpu": {"cpus": "1-2,5"}})),
            (json!({"cpu": {"shares": 9}}), json!({"cpu": {"shares": 8, "idle": 1}})),
            (json!({"pids": {"limit": -1}}), json!({"pids": {"limit": 5}})),
            (json!({"cpu": {"idle": 0}}), json!({"cpu": {"idle": 1}})),
            (json!({"hugepageLimits": null}), json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]})),
            (
                json!({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]}}),
                json!({"blockIO": {"throttleReadBpsDevice": [
                    {"major": 8, "minor": 0, "rate": 4}, {"major": 8, "minor": 1, "rate": 9}]}}),
            ),
        ] {
            assert_eq!(verdict(was.clone(), is.clone()), Ok(()), "{was} {is}");
        }
    }

    #[test]
    fn more_than_config_json_is_refused() {
        for (was, is, field) in [
            (json!({"memory": {"limit": 8}}), json!({"memory": {"limit": 9}}), "memory.limit"),
            (json!({"memory": {"limit": 8}}), json!({"memory": {"limit": -1}}), "memory.limit"),
            (json!({"memory": {"limit": 8}}), json!({"memory": null}), "memory.limit"),
            (json!({"memory": {"limit": 8}}), json!({"memory": {"limit": "8"}}), "memory.limit"),
            (json!({"memory": {}}), json!({"memory": {"disableOOMKiller": true}}), "memory.disableOOMKiller"),
            (json!({"memory": {}}), json!({"memory": {"reservation": -1}}), "memory.reservation"),
            (
                json!({"cpu": {"quota": 50_000}}),
                json!({"cpu": {"quota": 50_000, "period": 9_000}}),
                "cpu.quota",
            ),
            (json!({"cpu": {"quota": 50_000}}), json!({"cpu": {}}), "cpu.quota"),
            (json!({"cpu": {"cpus": "0-3"}}), json!({"cpu": {"cpus": "0-4"}}), "cpu.cpus"),
            (json!({"cpu": {"cpus": "0-3"}}), json!({"cpu": {"cpus": ""}}), "cpu.cpus"),
            (json!({"cpu": {"idle": 1}}), json!({"cpu": {"idle": 0}}), "cpu.idle"),
            (json!({"cpu": null}), json!({"cpu": {"shares": 2}}), "cpu.shares"),
            (json!({"unified": null}), json!({"unified": {"memory.max": "max"}}), "unified.memory.max"),
            (json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 9}]}), json!({}), "hugepageLimits"),
            (json!({"pids": {"limit": 0}}), json!({"pids": {"limit": 5}}), "pids.limit"),
            (json!({"pids": {"limit": 5}}), json!({"pids": {"limit": 0}}), "pids.limit"),
            (
                json!({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]}}),
                json!({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 0}]}}),
                "blockIO.throttleReadBpsDevice",
            ),
        ] {
            let problem = verdict(was, is).unwrap_err();
            assert!(problem.contains(&format!(" for {field}, ")), "{field}: {problem}");
        }
    }
}
