//! Files of /proc/PID (proc(5)).

use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use rustix::fs::{Mode, OFlags};

use crate::file;

/// The whole of `/proc/PID/FILE`; `None` if it cannot be read, as when the process is gone. `pid` may also be `self`, or the
/// path of a thread below /proc. Bytes that are not UTF-8 are replaced.
pub fn read(pid: impl Display, file: &str) -> Option<String> {
    file::read(open(pid, file)?).ok().map(file::text)
}

/// Applies `take` to what `/proc/PID/FILE` holds, which the kernel must write as one record ([`file::with_record`]); `None`
/// if it cannot be read.
pub fn with_record<T>(pid: impl Display, file: &str, take: impl FnOnce(&[u8]) -> T) -> Option<T> {
    file::with_record(open(pid, file)?, take).ok()
}

fn open(pid: impl Display, file: &str) -> Option<OwnedFd> {
    let path = format!("/proc/{pid}/{file}");
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// The line of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy)]
pub struct Stat<'a> {
    /// The command's name, as in field 2 but without its parentheses. It may hold anything.
    pub command: &'a str,
    fields: &'a str,
}

impl<'a> Stat<'a> {
    /// Takes a line apart; `None` if it is no such line.
    pub fn parse(line: &'a str) -> Option<Self> {
        let (head, fields) = line.rsplit_once(") ")?;
        Some(Self { command: head.split_once(" (")?.1, fields: fields.trim_end() })
    }

    /// The field with this number in the man page, where the state is 3; `None` if there is no such field.
    pub fn field<T: FromStr>(&self, number: usize) -> Option<T> {
        self.fields.split(' ').nth(number.checked_sub(3)?)?.parse().ok()
    }

    /// Whether the process has ended: it is a zombie, or is being reaped.
    pub fn dead(&self) -> bool {
        self.fields.starts_with(['Z', 'X', 'x'])
    }
}

/// Applies `take` to the line of a process or thread; `None` if it is gone.
pub fn stat<T>(pid: impl Display, take: impl FnOnce(Stat<'_>) -> T) -> Option<T> {
    with_record(pid, "stat", |line| Stat::parse(&String::from_utf8_lossy(line)).map(take))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_may_hold_anything() {
        let stat = Stat::parse("7 (a) Z 1 (b c) S 4 5 6\n").unwrap();
        assert_eq!((stat.command, stat.dead()), ("a) Z 1 (b c", false));
        assert_eq!((stat.field(3), stat.field(4), stat.field(6)), (Some('S'), Some(4), Some(6)));
        assert_eq!((stat.field::<i32>(7), stat.field::<i32>(2)), (None, None));
        assert!(Stat::parse("7 (sh) Z 1").unwrap().dead());
        assert!(Stat::parse("7 sh Z 1").is_none());
    }

    #[test]
    fn this_process_is_there_and_process_0_is_not() {
        let pid = std::process::id();
        assert_eq!(
            stat(pid, |stat| (stat.dead(), stat.field(4))),
            Some((false, Some(std::os::unix::process::parent_id())))
        );
        assert!(read("self", "status").unwrap().contains(&format!("Pid:\t{pid}\n")));
        assert_eq!((stat(0, |_| ()), read(0, "status")), (None, None));
    }
}
