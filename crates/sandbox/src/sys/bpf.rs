//! bpf(2), for the device filter of cgroup v2.
