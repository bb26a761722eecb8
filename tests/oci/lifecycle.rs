//! create, start, state, kill, delete, run, list: the ways a container goes through its life.

use hiber_tests::prelude::*;
use std::fs;

const SLEEP: [&str; 2] = ["sleep", "1000"];

#[test]
fn a_container_goes_from_created_to_running_to_stopped_to_gone() {
    require!(Root);
    let c = Runtime::hiber().container(Bundle::busybox().args(SLEEP));
    c.create(&[]).ok();
    let state = c.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], c.id());
    assert_eq!(state["bundle"], c.bundle_path());
    assert!(state["ociVersion"].as_str().is_some_and(|v| v.starts_with("1.")), "{state}");
    let pid = c.pid();
    c.start().ok();
    assert_eq!(c.status(), "running");
    assert_eq!(c.pid(), pid, "start keeps the process that create made");
    wait_for("sleep to be executed", || {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default() == "sleep\n"
    });
    c.kill("KILL").ok();
    c.wait_stopped();
    assert_eq!(c.state()["pid"], 0, "a stopped container has no process");
    c.delete(&[]).ok();
    assert_eq!(c.status(), "gone");
    c.assert_clean();
}
