//! Messages of systemd's D-Bus, and values of properties in annotations.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hiber_sandbox::fuzzing::dbus(bytes));
