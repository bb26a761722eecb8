//! Terminals of one's own beyond their usual settings, memfds, owners of descriptors: `same/terminals.c`.

use super::super::row::{Row, criu, differs, refused};
use hiber_tests::require::Need;

pub(in super::super) const ROWS: &[Row] = &[
    differs("terminal-speeds", "TCGETS2, of speeds that have no name (BOTHER)", "38400 baud"),
    criu("terminal-locked", "TIOCGPTLCK"),
    refused("terminal-discipline", "TIOCGETD, of N_NULL", "", "criu dump failed").hidden(),
    differs("terminal-line-begun", "read(2) of a line of which a part was typed before", "without that part"),
    criu("terminal-hung-up", "poll(2) and read(2), after the other end was closed"),
    criu("terminal-settings-locked", "TIOCGLCKTRMIOS"),
    criu("terminal-of-another-instance", "read(2), of one of a devpts that was mounted inside"),
    refused(
        "terminals-of-one-number",
        "the same, where a terminal of the first devpts has the same number",
        "mount",
        "of that number",
    ),
    criu("memfd-not-executable", "fstat(2) and F_GET_SEALS, of MFD_NOEXEC_SEAL").needs(&[Need::Linux(6, 3)]),
    criu("memfd-executable", "the same, of MFD_EXEC and F_SEAL_EXEC").needs(&[Need::Linux(6, 3)]),
    criu("memfd-sealed-against-writing", "F_SEAL_FUTURE_WRITE, of one that is mapped for writing"),
    criu("memfd-sealed-and-closed", "F_GET_SEALS, of one that is mapped alone"),
    differs("memfd-attribute", "fgetxattr(2)", "none").needs(&[Need::Linux(6, 6)]),
    criu("memfd-name", "readlink(2) of /proc/self/fd, of 249 odd bytes"),
    criu("memfd-owner-and-mode", "fstat(2)"),
    criu("socket-owner", "F_GETOWN, F_GETSIG and O_ASYNC, of a unix socket"),
    criu("pipe-owner", "the same, of a pipe"),
    criu("udp-owner", "the same, of a UDP socket"),
    criu("terminal-owner", "the same, of a terminal"),
];
