//! Numbers and times that the kernel gives to what it makes: `same/numbers.c`.

use super::super::row::{Row, differs};
use hiber_tests::require::Need;

const ANOTHER: &str = "another one";
const OF_RESTORE: &str = "the time of the restore";

pub(in super::super) const ROWS: &[Row] = &[
    differs("tmpfs-file-number", "stat(2): st_ino", ANOTHER),
    differs("mount-number", "statx(2): STATX_MNT_ID_UNIQUE", ANOTHER).needs(&[Need::Linux(6, 8)]),
    differs("tmpfs-change-time", "stat(2): st_ctim", OF_RESTORE),
    differs("pipe-number", "fstat(2): st_ino", ANOTHER),
    differs("socket-number", "fstat(2): st_ino", ANOTHER),
    differs("socket-cookie", "SO_COOKIE", ANOTHER),
    differs("memfd-number", "fstat(2): st_ino", ANOTHER),
    differs("memfd-times", "fstat(2): st_mtim", OF_RESTORE),
    differs("childrens-processor-time", "getrusage(2) of RUSAGE_CHILDREN", "begins at 0"),
    differs("most-memory-used", "getrusage(2): ru_maxrss", "begins with what is used then"),
];
