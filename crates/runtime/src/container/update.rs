//! Changing the limits of a container that exists.

use hiber_sandbox::cgroup::{Layout, Limits};
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use crate::container::task::Task;
use crate::error::{Error, Result, chain};
use crate::state::resources;
use crate::status::Status;

impl Task {
    /// Sets the limits that `change` has; all others stay. Device rules are not changed, as in runc.
    ///
    /// # Errors
    /// A limit is invalid or refused by the kernel, with its field; the limits are then as they were.
    pub fn update(&self, change: &LinuxResources) -> Result<()> {
        let _lock = self.container().entry().lock()?;
        if self.status()? == Status::Stopped {
            return Err(Error::NotRunning);
        }
        // Another process may have updated it meanwhile.
        let mut spec = self.container().entry().config()?;
        let old = resources::of(&spec);
        let Change { merged, to_apply } = Change::new(&to_json(&old)?, to_json(change)?);
        let layout = Layout::detect()?;
        let limits = Limits::from_spec(&from_json(to_apply)?, &layout, None)?;
        let cgroup = self.cgroup();
        if let Err(e) = cgroup.apply(&limits) {
            let undone = Limits::from_spec(&old, &layout, None).and_then(|limits| cgroup.apply(&limits));
            if let Err(undone) = undone {
                tracing::warn!("restore the limits of before: {}", chain(&undone));
            }
            return Err(e.into());
        }
        self.container().entry().keep_first_resources(&old)?;
        let mut linux = spec.linux().clone().unwrap_or_default();
        linux.set_resources(Some(from_json(merged)?));
        spec.set_linux(Some(linux));
        self.container().replace_spec(spec)
    }
}

fn to_json(resources: &LinuxResources) -> Result<Value> {
    serde_json::to_value(resources).map_err(|e| Error::internal("encode linux.resources", e))
}

fn from_json(value: Value) -> Result<LinuxResources> {
    serde_json::from_value(value).map_err(|e| Error::Invalid(format!("linux.resources: {e}")))
}

/// `linux.resources` after an update, and the part of it that must be written.
#[derive(Debug)]
struct Change {
    merged: Value,
    to_apply: Value,
}

/// Limits that the kernel keeps in one file or that bound each other.
const PAIRS: [(&str, &str, &str); 2] = [("cpu", "quota", "period"), ("memory", "limit", "swap")];

impl Change {
    fn new(old: &Value, mut given: Value) -> Self {
        if let Some(given) = given.as_object_mut() {
            given.remove("devices");
        }
        let mut merged = old.clone();
        merge(&mut merged, &given);
        let limit_lifted = given["memory"]["limit"] == json!(-1);
        if limit_lifted && given["memory"].get("swap").is_none() {
            // Without a limit the old one of memory and swap together would not be above it.
            remove(&mut merged, "memory", "swap");
        }
        let mut to_apply = given;
        for (group, a, b) in PAIRS {
            if to_apply[group].get(a).is_none() && to_apply[group].get(b).is_none() {
                continue;
            }
            for member in [a, b] {
                if let Some(value) = merged[group].get(member) {
                    to_apply[group][member] = value.clone();
                }
            }
        }
        Self { merged, to_apply }
    }
}

fn remove(value: &mut Value, group: &str, member: &str) {
    if let Some(group) = value.get_mut(group).and_then(Value::as_object_mut) {
        group.remove(member);
    }
}

/// Objects member by member; lists by what their elements are about (a device, a page size), else as a whole.
fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (name, value) in change.iter().filter(|(_, v)| !v.is_null()) {
                merge(target.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(target), Value::Array(change)) if change.iter().all(|e| subject(e).is_some()) => {
            for element in change {
                // The last of several counts, so it is the one to change.
                match target.iter_mut().rev().find(|t| subject(t) == subject(element)) {
                    Some(existing) => merge(existing, element),
                    None => target.push(element.clone()),
                }
            }
        }
        (target, change) => *target = change.clone(),
    }
}

/// The subject of an element in a list of limits.
fn subject(element: &Value) -> Option<Vec<&Value>> {
    let element: &Map<String, Value> = element.as_object()?;
    match (element.get("major"), element.get("minor"), element.get("pageSize")) {
        (Some(major), Some(minor), _) => Some(vec![major, minor]),
        (_, _, Some(size)) => Some(vec![size]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(old: Value, given: Value) -> (Value, Value) {
        let change = Change::new(&old, given);
        (change.merged, change.to_apply)
    }

    #[test]
    fn what_is_bound_together_is_written_together() {
        let old = json!({"cpu": {"quota": 5, "period": 10, "shares": 7}, "memory": {"limit": 4, "swap": 8}});
        let (merged, apply) = change(old.clone(), json!({"cpu": {"period": 20}}));
        assert_eq!(apply, json!({"cpu": {"quota": 5, "period": 20}}));
        assert_eq!(merged["cpu"], json!({"quota": 5, "period": 20, "shares": 7}));
        let (_, apply) = change(old.clone(), json!({"memory": {"swap": 16}}));
        assert_eq!(apply, json!({"memory": {"limit": 4, "swap": 16}}));
        let (merged, apply) = change(old, json!({"memory": {"limit": -1}}));
        assert_eq!(apply, json!({"memory": {"limit": -1}}));
        assert_eq!(merged["memory"], json!({"limit": -1}));
    }

    #[test]
    fn devices_are_told_apart_by_number() {
        let rate = |minor: u32, rate: u32| json!({"major": 8, "minor": minor, "rate": rate});
        let old = json!({"blockIO": {"throttleReadBpsDevice": [rate(0, 1), rate(0, 2), rate(1, 3)]}});
        let given = json!({"blockIO": {"throttleReadBpsDevice": [rate(0, 9), rate(2, 4)]}, "devices": [{}]});
        let (merged, apply) = change(old, given);
        let list = json!([rate(0, 1), rate(0, 9), rate(1, 3), rate(2, 4)]);
        assert_eq!(merged, json!({"blockIO": {"throttleReadBpsDevice": list}}));
        assert_eq!(apply, json!({"blockIO": {"throttleReadBpsDevice": [rate(0, 9), rate(2, 4)]}}));
    }
}
