//! The example, run on the real kernel.
#![forbid(unsafe_code)]

use std::process::Command;

#[test]
fn a_container_of_youkis_sleeps_and_wakes() {
    let variable = "HIBER_ROOTFS_BUSYBOX";
    let rootfs =
        std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is unset: run hack/test library"));
    let output = Command::new(env!("CARGO_BIN_EXE_hiber-youki")).arg(rootfs).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let words: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(words, ["checkpointed", "restored", "killed"], "{text}");
}
