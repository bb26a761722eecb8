//! Limits that were changed while the container ran. Without this record those of config.json would come back.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxResources, Spec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// Changed limits by the name of a member of `linux.resources`: limits that belong together (a quota and its period) change
/// together.
pub(crate) type ChangedResources = BTreeMap<String, Changed>;

/// A member of `linux.resources`, null where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Changed {
    /// The limits from the container's creation.
    pub(crate) was: Value,
    /// The limits in force at the dump.
    pub(crate) is: Value,
}

/// The limits of `now` that differ from `created`, without device rules, which no update changes.
pub(crate) fn changed(created: &LinuxResources, now: &LinuxResources) -> Result<ChangedResources> {
    let (created, now) = (members(created)?, members(now)?);
    let names = created.keys().chain(now.keys()).filter(|name| *name != "devices");
    let member = |all: &BTreeMap<String, Value>, name| all.get(name).cloned().unwrap_or(Value::Null);
    let both =
        names.map(|name| (name.clone(), Changed { was: member(&created, name), is: member(&now, name) }));
    Ok(both.filter(|(_, changed)| changed.was != changed.is).collect())
}

/// The limits of `kept` that count for a restore with `config`. A limit that config.json has changed since the creation does not
/// count: config.json is newer.
pub(crate) fn in_force(kept: &ChangedResources, config: &LinuxResources) -> Result<ChangedResources> {
    let config = members(config)?;
    let same = |name: &str, changed: &Changed| *config.get(name).unwrap_or(&Value::Null) == changed.was;
    let of_resources = |name: &str| name != "devices";
    Ok(kept.clone().into_iter().filter(|(name, changed)| of_resources(name) && same(name, changed)).collect())
}

/// Puts `kept` into the configuration.
///
/// # Errors
/// If `kept` does not have the form of limits.
pub(crate) fn apply(kept: &ChangedResources, spec: &mut Spec) -> Result<()> {
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut all = members(&linux.resources().clone().unwrap_or_default())?;
    all.extend(kept.iter().map(|(name, changed)| (name.clone(), changed.is.clone())));
    all.retain(|_, value| !value.is_null());
    let bad = |e: serde_json::Error| Error::Invalid(format!("kept.json: resources: {e}"));
    let value = serde_json::to_value(all).map_err(bad)?;
    linux.set_resources(Some(serde_json::from_value(value).map_err(bad)?));
    spec.set_linux(Some(linux));
    Ok(())
}

/// The `linux.resources` of a configuration.
pub(crate) fn of(spec: &Spec) -> LinuxResources {
    spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default()
}

fn members(resources: &LinuxResources) -> Result<BTreeMap<String, Value>> {
    let bad = |e: serde_json::Error| Error::Invalid(format!("linux.resources: {e}"));
    let mut all: BTreeMap<String, Value> =
        serde_json::from_value(serde_json::to_value(resources).map_err(bad)?).map_err(bad)?;
    all.retain(|_, value| !value.is_null());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resources(value: Value) -> LinuxResources {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_was_changed_counts_unless_config_json_says_something_else_since() {
        let created = resources(json!({"memory": {"limit": 4096}, "pids": {"limit": 5}, "devices": []}));
        let now = resources(json!({"memory": {"limit": 8192}, "pids": {"limit": 5}, "cpu": {"shares": 9}}));
        let kept = changed(&created, &now).unwrap();
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["cpu", "memory"]);
        assert_eq!(in_force(&kept, &created).unwrap(), kept);
        let other = resources(json!({"memory": {"limit": 1}, "pids": {"limit": 6}}));
        let kept = in_force(&kept, &other).unwrap();
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["cpu"]);
        let mut spec = Spec::default();
        let mut linux = spec.linux().clone().unwrap_or_default();
        linux.set_resources(Some(other));
        spec.set_linux(Some(linux));
        apply(&kept, &mut spec).unwrap();
        assert_eq!(
            of(&spec),
            resources(json!({"memory": {"limit": 1}, "pids": {"limit": 6}, "cpu": {"shares": 9}}))
        );
        let wrong = [("cpu".to_owned(), Changed { was: Value::Null, is: json!({"shares": "all"}) })].into();
        assert!(apply(&wrong, &mut spec).unwrap_err().to_string().starts_with("kept.json: resources: "));
    }

    #[test]
    fn nothing_is_kept_of_what_was_changed_back() {
        let created = resources(json!({"pids": {"limit": 5}}));
        assert!(changed(&created, &created.clone()).unwrap().is_empty());
    }
}
