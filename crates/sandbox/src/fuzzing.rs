//! Access to private functions for the targets in `fuzz/`, which cargo-fuzz builds with `cfg(fuzzing)`.

use std::path::Path;

use crate::config::{self, Loaded};
use crate::plan::{InitPlan, Plan};
use crate::{Result, cgroup};

/// A config.json that is in no file.
pub fn config(json: &[u8]) -> Result<Loaded> {
    config::read(json.to_vec(), Path::new("config.json"))
}

/// Checks that a plan survives its encoding for init.
pub fn plan(plan: &Plan) {
    let sent = plan.init.encode().expect("a plan is encoded");
    assert_eq!(InitPlan::decode(&sent).expect("a plan is decoded"), plan.init);
}

/// Reads bytes as a message from systemd, and as the value of an annotation for a property.
pub fn dbus(bytes: &[u8]) {
    cgroup::read_dbus(bytes);
}
