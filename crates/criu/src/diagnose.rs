//! Why a dump or restore failed: the telling lines of CRIU's log, and what they mean to a person.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use nix::errno::Errno;

use crate::causes::{self, Cause};

/// Errors stand near the end of a log; of a longer one the beginning is left out.
const MAX_LOG: u64 = 4 << 20;
/// How many error lines are kept.
const MAX_LINES: usize = 8;
/// How long one may be, in characters.
const MAX_LINE: usize = 400;

/// Errors that CRIU logs and gets over: here and there on every machine, never the cause.
const HARMLESS: [&str; 5] = [
    // no CAP_SYS_RESOURCE: CRIU keeps the limit that it has
    "rlimit: Can't setup RLIMIT_NOFILE for self",
    // a helper program's end; what it was run for is reported by itself
    "exited, status=",
    // CRIU's own helper hears of the end of a restore that failed
    "cgroupd: recv req error",
    // no /dev/net/tun: only containers with such a device need it
    "Can't check tun support",
    // our own refusal of a step, which is reported with its reason
    "RPC client reported script error",
];

/// A log can be cut off where its file system has less room than this, in bytes.
const NO_ROOM: u64 = 64 << 10;
/// glibc's text for ENOSPC.
const NO_SPACE: &str = "No space left on device";
/// How CRIU says that a program has ended with a failure.
const EXITED: &str = "exited, status=";

/// Causes that CRIU logs as information.
const TELLING: [&str; 1] = ["Can't connect to server"];

/// The explanation of a failure, as far as CRIU's words give one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The first error lines without their time stamps, eight at most; harmless ones are left out.
    pub lines: Vec<String>,
    /// The cause, if it is a known one.
    pub cause: Option<&'static Cause>,
    /// The line that says so.
    pub told_by: Option<String>,
    /// The first later line with an error of the system's, where [`told_by`](Self::told_by), or else the first line, has
    /// none: what CRIU complains of first may be what it gets over, and the call that fails then is the cause.
    pub later: Option<String>,
    /// The last output of a program that CRIU ran and that failed.
    pub said: Option<String>,
    /// The process that the first of those lines to name one is about: in CRIU's pid namespace at a dump, in the
    /// container's at a restore.
    pub pid: Option<i32>,
}

/// Reads the log file at `path` (4 MiB of its end at most) and looks for the cause of a failure.
///
/// # Errors
/// Those of opening and reading the file.
pub fn diagnose(path: &Path) -> io::Result<Diagnosis> {
    let mut file = File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(MAX_LOG);
    file.seek(SeekFrom::Start(skipped))?;
    let mut text = Vec::new();
    file.take(MAX_LOG).read_to_end(&mut text)?;
    Ok(diagnose_text(&String::from_utf8_lossy(&text)))
}

/// The cause that a log on a full file system cannot tell: the line with the reason is cut off, or was not written at all.
pub(crate) fn diagnose_cut_off(path: &Path) -> Option<Diagnosis> {
    let space = rustix::fs::statvfs(path).ok()?;
    let full = space.f_bavail.saturating_mul(space.f_frsize) < NO_ROOM;
    full.then(|| {
        let line = format!("{NO_SPACE}: the log is on a full file system, and may be cut off");
        Diagnosis { cause: causes::of(&line), told_by: Some(line), ..Diagnosis::default() }
    })
}

/// The same for lines at hand: of a log, of CRIU's standard error, of a response.
pub fn diagnose_text(text: &str) -> Diagnosis {
    let mut diagnosis = Diagnosis::default();
    let mut all = Vec::new();
    let mut printed = None;
    // CRIU 3 pads early messages with zero bytes.
    for whole in text.split(['\n', '\0']) {
        if whole.contains(EXITED) {
            diagnosis.said = diagnosis.said.or(printed.take());
        }
        printed = printed_by_program(whole).or(printed.filter(|_| whole.is_empty()));
        let Some((stamp, line)) = error_line(whole) else { continue };
        diagnosis.pid = diagnosis.pid.or_else(|| pid_in(&stamp, line));
        let text: String = line.chars().take(MAX_LINE).collect();
        // The first cause counts: later errors are mostly its consequences.
        if diagnosis.cause.is_none()
            && let Some(cause) = causes::of(line)
        {
            diagnosis.cause = Some(cause);
            diagnosis.told_by = Some(text.clone());
        }
        if diagnosis.lines.len() < MAX_LINES {
            diagnosis.lines.push(text.clone());
        }
        all.push(text);
    }
    diagnosis.later = later(&all, diagnosis.told_by.as_ref());
    diagnosis
}

/// The first line with an error of the system's behind the one that tells, if that has none.
fn later(lines: &[String], told_by: Option<&String>) -> Option<String> {
    let telling = told_by.or(lines.first())?;
    let at = lines.iter().position(|line| line == telling)?;
    let mut rest = lines[at..].iter();
    let found = rest.find(|line| has_system_error(line))?;
    (found != telling).then(|| found.clone())
}

/// Whether a line ends with the text of an errno, as those of perror(3) do. CRIU has glibc's texts, and this program may
/// have another library's.
fn has_system_error(line: &str) -> bool {
    /// errno(3) goes as far on Linux (EHWPOISON).
    const LAST: i32 = 133;
    line.rsplit_once(": ")
        .is_some_and(|(_, text)| (1..=LAST).any(|errno| Errno::from_raw(errno).desc() == text))
}

/// A line without CRIU's time stamp, which a program that CRIU runs has printed.
fn printed_by_program(line: &str) -> Option<String> {
    let strange = line.starts_with('(') || line.starts_with("pie: ") || line.starts_with("Error (");
    let text: String = line.trim().chars().take(MAX_LINE).collect();
    (!strange && !text.is_empty()).then_some(text)
}

/// Whether `message` is an error that CRIU gets over.
pub(crate) fn is_harmless(message: &str) -> bool {
    HARMLESS.iter().any(|harmless| message.contains(harmless))
}

/// `Error (FILE:LINE): …` of `(00.012345)     12: Error (FILE:LINE): …`, unless harmless.
fn error_line(line: &str) -> Option<(String, &str)> {
    let telling = || TELLING.iter().find_map(|words| line.find(words));
    let start = line.find("Error (").or_else(telling)?;
    // Before it stand a time stamp, a pid, or both; other words are a message that quotes an error.
    let stamp = line[..start].replace("pie:", "");
    let error = line[start..].trim_end();
    (!stamp.contains(char::is_alphabetic) && !is_harmless(error)).then_some((stamp, error))
}

/// The number in `Dump files (pid: 12) failed`, or that before a colon in the stamp.
fn pid_in(stamp: &str, error: &str) -> Option<i32> {
    let named = error.split_once("(pid: ").and_then(|(_, rest)| rest.split_once(')'));
    if let Some(pid) = named.and_then(|(pid, _)| pid.parse().ok()) {
        return Some(pid);
    }
    let stamp = stamp.trim().strip_suffix(':')?;
    stamp.rsplit([')', ' ']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
(00.000000) Version: 4.1.1 (gitid 0)
(00.000310) Error (criu/util.c:1440): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.004100) Warn  (criu/kerndat.c:1285): Error (quoted) in a warning
(00.018230) Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.
(00.018300)     12: Error (criu/cr-dump.c:1702): Dump files (pid: 12) failed with -1
(00.018301) pie: 1: Error (criu/pie/restorer.c:1): third
";

    #[test]
    fn keeps_real_errors_without_their_stamps() {
        let d = diagnose_text(LOG);
        assert_eq!(
            d.lines,
            [
                "Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.",
                "Error (criu/cr-dump.c:1702): Dump files (pid: 12) failed with -1",
                "Error (criu/pie/restorer.c:1): third",
            ]
        );
        assert!(d.cause.unwrap().advice.contains("tcp_established"));
        assert_eq!(d.pid, Some(12));
        let refused =
            diagnose_text("(00.1) Can't connect to server ::1:1\n(00.2) Error (a.c:1): Unable to detach\n");
        assert_eq!(refused.told_by.as_deref(), Some("Can't connect to server ::1:1"));
        assert_eq!(diagnose_text("pie: 7: Error (criu/pie/restorer.c:1): x\n").pid, Some(7));
        assert_eq!(diagnose_text("(00.1) Error (criu/a.c:1): x\n").pid, None);
    }

    /// As CRIU 4.2.1 writes of a veth whose other end is outside.
    #[test]
    fn the_call_that_failed_is_told_where_the_first_line_is_one_that_criu_got_over() {
        let d = diagnose_text(
            "(00.118949)      1: Error (criu/net.c:1469): net: Unknown peer net namespace\n\
             (00.143121)      1: Error (criu/libnetlink.c:54): -16 reported by netlink: Device or resource busy\n\
             (00.143137)      1: Error (criu/net.c:1927): net: Can't restore link: -16\n\
             (00.150079) Error (criu/cr-restore.c:2331): Restoring FAILED.\n",
        );
        assert!(d.cause.unwrap().advice.contains("empty_network_ns"));
        assert_eq!(
            d.later.as_deref(),
            Some("Error (criu/libnetlink.c:54): -16 reported by netlink: Device or resource busy")
        );
        let itself = "(00.1) 1: Error (criu/files-reg.c:2353): Can't open file a: No such file or directory\n\
                      (00.1) 1: Error (criu/x.c:1): y: Invalid argument\n";
        assert_eq!(diagnose_text(itself).later, None);
        let nothing = "(00.1) Error (criu/x.c:1): first\n(00.2) Error (criu/cgroup.c:2055): cg: cgroupd: recv req \
                       error: No such file or directory\n";
        assert_eq!(diagnose_text(nothing).later, None);
    }

    #[test]
    fn what_a_program_said_goes_with_its_failure() {
        let d = diagnose_text(
            "(00.1) Running ip route restore\nError: ipv4: Address already assigned.\n(00.2) fine\n\
             RTNETLINK answers: Network is unreachable\n\
             (00.3)      1: Error (criu/util.c:657): exited, status=2\n\
             (00.4)      1: Error (criu/net.c:1969): net: IP tool failed on route restore\n",
        );
        assert_eq!(d.said.as_deref(), Some("RTNETLINK answers: Network is unreachable"));
        assert!(d.cause.unwrap().advice.contains("empty_network_ns"));
        let other = "printed before\n(00.1) CRIU's own\n(00.2) Error (criu/util.c:657): exited, status=1\n";
        assert_eq!(diagnose_text(other).said, None);
    }

    #[test]
    fn a_log_may_be_long_and_need_not_be_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.log");
        let mut log = b"\xff\xfe (00.1) not text\n".repeat(400_000);
        log.extend_from_slice(b"(00.2) Error (criu/a.c:1): \xff odd\n");
        std::fs::write(&path, log).unwrap();
        let d = diagnose(&path).unwrap();
        assert_eq!(d.lines, ["Error (criu/a.c:1): \u{fffd} odd"]);
        assert_eq!(d.cause, None);
        assert!(diagnose(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_log_that_is_not_cut_off_is_taken_at_its_word() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(diagnose_cut_off(dir.path()), None);
        assert_eq!(diagnose_cut_off(&dir.path().join("none")), None);
    }

    #[test]
    fn padding_of_early_messages_separates_them() {
        let d =
            diagnose_text("Error (criu/vdso.c:381): vdso: U\0\0\0Error (criu/cr-service.c:1246): second\n");
        assert_eq!(d.lines, ["Error (criu/vdso.c:381): vdso: U", "Error (criu/cr-service.c:1246): second"]);
    }

    #[test]
    fn many_and_long_lines_are_cut() {
        let line = format!("Error (criu/a.c:1): {}\n", "é".repeat(1000));
        let d = diagnose_text(&line.repeat(20));
        assert_eq!(d.lines.len(), MAX_LINES);
        assert_eq!(d.lines[0].chars().count(), MAX_LINE);
    }
}
