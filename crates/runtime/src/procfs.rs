//! The little that is read from /proc/PID.

use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

/// The process's start time in clock ticks since boot, if it is alive: neither gone nor a zombie.
pub(crate) fn alive_since(pid: i32) -> Option<u64> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(format!("/proc/{pid}/stat"), flags, Mode::empty()).ok()?;
    let stat = hiber_sandbox::file::read(&file).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The command in parentheses may hold anything, also parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    // `fields` now stands before field 4; the start time is field 22 (proc_pid_stat(5)).
    fields.nth(18)?.parse().ok()
}

/// Whether the process is alive and the one that started then.
pub(crate) fn is_alive(pid: i32, start_time: u64) -> bool {
    pid > 0 && alive_since(pid) == Some(start_time)
}

/// All processes in the pid namespace of process `pid` that can be seen from here; `pid` alone if that cannot be read.
pub(crate) fn in_pid_namespace_of(pid: i32) -> Vec<i32> {
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let (Some(wanted), Ok(entries)) = (namespace(pid), std::fs::read_dir("/proc")) else { return vec![pid] };
    let all = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    all.filter(|pid| namespace(*pid).as_ref() == Some(&wanted)).collect()
}

/// Targets of the process's first three descriptors; `/dev/null` for one that is closed.
pub(crate) fn streams(pid: i32) -> Vec<String> {
    (0..3)
        .map(|fd| {
            let target = std::fs::read_link(format!("/proc/{pid}/fd/{fd}"));
            target.unwrap_or_else(|_| PathBuf::from("/dev/null")).to_string_lossy().into_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let me = std::process::id() as i32;
        let start = alive_since(me).unwrap();
        assert!(is_alive(me, start));
        assert!(!is_alive(me, start + 1));
        assert!(!is_alive(0, 0));
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = child.id() as i32;
        for _ in 0..1000 {
            if alive_since(pid).is_none() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(alive_since(pid), None);
        child.wait().unwrap();
    }
}
