//! For `fuzz/` alone, which cargo-fuzz builds with `cfg(fuzzing)`: a way to what is private here.

use std::path::Path;

use crate::config::{self, Loaded};
use crate::plan::{InitPlan, Plan};
use crate::{Result, cgroup};

/// A config.json that is in no file.
pub fn config(json: &[u8]) -> Result<Loaded> {
    config::read(json.to_vec(), Path::new("config.json"))
}

/// What is sent to init arrives as it was.
pub fn plan(plan: &Plan) {
    let sent = plan.init.encode().expect("a plan is encoded");
    assert_eq!(InitPlan::decode(&sent).expect("a plan is decoded"), plan.init);
}

/// A message of systemd's, and what an annotation may have as a property.
pub fn dbus(bytes: &[u8]) {
    cgroup::read_dbus(bytes);
}
