//! The built binary as an OCI runtime, as root on the running kernel.
//!
//! The same tests hold for runc, by whose command line hiber is driven: `HIBER_BIN=$(hack/peers)/runc
//! hack/test oci`.
#![forbid(unsafe_code)]

mod apparmor;
mod arbitrary;
mod bad_input;
mod cgroup_trees;
mod cgroups;
mod crash;
mod devices;
mod differences;
mod documents;
mod errors;
mod events;
mod exec;
mod exec_edges;
mod foreign;
mod hooks;
mod idmap;
mod keyring;
mod lifecycle;
mod mount_options;
mod mounts;
mod namespaces;
mod netdevices;
mod notify;
mod output;
mod process;
mod resources;
mod rootless;
mod rootless_systemd;
mod scheduling;
mod seccomp;
mod seccomp_notify;
mod security;
mod security_paths;
mod state_files;
mod streams;
mod systemd;
mod unified;
mod update;
mod userns;
