//! Registers and settings of a thread: `same/processor.c`.

use super::super::row::{Row, criu, differs, hiber, may};

/// Other architectures have none of these, and many processors lack some.
const NONE: &str = "Operation not supported";

pub(in super::super) const ROWS: &[Row] = &[
    criu("rounding", "the control word, and MXCSR").unless(NONE),
    criu("vector-registers", "YMM13, after a call in which the thread was saved"),
    criu("segment-bases", "ARCH_GET_FS, ARCH_GET_GS").unless(NONE),
    hiber("local-descriptor-table", "modify_ldt(2)").unless(NONE),
    criu("thread-descriptor-table", "get_thread_area(2)").unless(NONE),
    hiber("no-cpuid", "ARCH_GET_CPUID").unless(NONE),
    hiber("tile-permission", "ARCH_GET_XCOMP_PERM").unless(NONE),
    differs(
        "port-permission",
        "an instruction that ioperm(2) allows",
        "a SIGSEGV; nobody can see one before",
    )
    .config(|c| may(c, "CAP_SYS_RAWIO"))
    .unless(NONE),
];
