//! Memory: `same/memory.c`.

use super::super::row::{Peer, Row, criu, hiber};
use hiber_tests::prelude::*;
use hiber_tests::require::Need;

pub(in super::super) const ROWS: &[Row] = &[
    criu("private-memory", "its bytes, and /proc/self/maps"),
    criu("protections", "/proc/self/maps, of pages that differ"),
    criu("private-file", "its bytes, some of which were changed"),
    criu("shared-file", "its bytes, and what the file has of them"),
    criu("removed-file-mapped", "its bytes"),
    criu("memfd-mapped", "its bytes"),
    criu("zero-device-mapped", "its bytes"),
    criu("shared-memory", "what one process writes, another one sees"),
    criu("copy-on-write", "Shared_Dirty in /proc/self/smaps, after a fork(2)"),
    criu("untouched-memory", "Rss in /proc/self/smaps"),
    criu("program-break", "sbrk(2), and its bytes"),
    criu("grows-down", "VmFlags in /proc/self/smaps, of MAP_GROWSDOWN"),
    criu("no-reserve", "VmFlags, of MAP_NORESERVE"),
    criu("droppable", "VmFlags, of MAP_DROPPABLE").needs(&[Need::Linux(6, 11)]),
    criu("advice-huge-page", "VmFlags, of MADV_HUGEPAGE"),
    criu("advice-no-huge-page", "VmFlags, of MADV_NOHUGEPAGE"),
    criu("advice-not-forked", "VmFlags, of MADV_DONTFORK"),
    criu("advice-wiped-on-fork", "VmFlags, of MADV_WIPEONFORK"),
    criu("advice-not-dumped", "VmFlags, of MADV_DONTDUMP"),
    criu("advice-mergeable", "VmFlags, of MADV_MERGEABLE"),
    criu("advice-sequential", "VmFlags, of MADV_SEQUENTIAL"),
    criu("advice-random", "VmFlags, of MADV_RANDOM"),
    criu("guard-page", "process_vm_readv(2), of MADV_GUARD_INSTALL").needs(&[Need::Linux(6, 13)]),
    hiber("sealed-area", "mprotect(2), after mseal(2)").needs(&[Need::Linux(6, 10)]),
    criu("locked-area", "VmFlags and Locked in /proc/self/smaps, VmLck in /proc/self/status"),
    hiber("locked-on-fault", "the same, of MLOCK_ONFAULT"),
    hiber("all-locked", "the same, of MCL_CURRENT"),
    hiber("future-locked", "Locked of a new area, after MCL_FUTURE"),
    hiber("future-locked-on-fault", "the same, after MCL_FUTURE and MCL_ONFAULT"),
    criu("area-name", "/proc/self/maps, of PR_SET_VMA_ANON_NAME").unless("Invalid argument"),
    hiber("memory-policy", "get_mempolicy(2)").unless("Function not implemented"),
    hiber("memory-policy-of-config", "get_mempolicy(2), of linux.memoryPolicy")
        .needs(&[Need::MemoryPolicies])
        .config(|c| c["linux"]["memoryPolicy"] = json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}))
        .peers(Peer::Kept, Peer::Lost),
    hiber("area-policy", "get_mempolicy(2) of mbind(2)").needs(&[Need::Nodes]),
    hiber("shared-area-policy", "the same, of memory that processes share").needs(&[Need::Nodes]),
    criu("huge-pages-disabled", "PR_GET_THP_DISABLE"),
    hiber("merging", "PR_GET_MEMORY_MERGE").needs(&[Need::Linux(6, 4)]),
    hiber("protection-key", "ProtectionKey in /proc/self/smaps, pkey_get(3)").unless("Invalid argument"),
    hiber("protection-key-taken", "pkey_alloc(2)").unless("Invalid argument"),
    hiber("protection-key-free", "the same, of a key below one that is taken").unless("Invalid argument"),
    criu("vdso", "AT_SYSINFO_EHDR and /proc/self/maps"),
    criu("memory-layout", "/proc/self/stat: program, heap, stack, arguments, environment"),
];
