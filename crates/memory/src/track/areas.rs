//! Which memory of a process can be tracked.

use std::fs::File;
use std::ops::Range;

use hiber_criu::pagemap::PAGE;
use rustix::fs::OFlags;

use crate::error::{Result, memory};
use crate::images::Ranges;

/// The private areas of a process.
#[derive(Debug, Default)]
pub(super) struct Areas {
    /// Those that are of no file. One that may not be written now is tracked, too: made writable later, the kernel would not join
    /// it with its neighbours otherwise, and mremap(2) of both would fail.
    pub(super) own: Vec<Range<u64>>,
    /// Those of a file, some pages of which may be the process's own.
    pub(super) of_files: Vec<Range<u64>>,
    /// The first address that can be executed. CRIU has the process make its first system calls there: what it writes for that, and
    /// puts back, makes the page the process's own (`find_executable_area` in criu/vma.h, `compel_execute_syscall`).
    pub(super) code: Option<u64>,
}

impl Areas {
    pub(super) fn of(pid: i32) -> Result<Self> {
        let maps = hiber_sys::file::read_to_string(format!("/proc/{pid}/maps")).map_err(memory(pid, 0))?;
        let mut areas = Self::default();
        for line in maps.lines() {
            let Some((range, kind)) = area(line) else { continue };
            if areas.code.is_none() && line.split(' ').nth(1).is_some_and(|access| access.contains('x')) {
                areas.code = Some(range.start);
            }
            match kind {
                Kind::Own => areas.own.push(range),
                Kind::OfFile => areas.of_files.push(range),
            }
        }
        Ok(areas)
    }
}

impl Areas {
    /// Pages of files that are the process's own, as `look` finds them in an area, or will be when CRIU stops the process.
    pub(super) fn pages_of_files<E>(
        &self,
        look: impl Fn(&Range<u64>, &mut Ranges) -> Result<(), E>,
    ) -> Ranges {
        let mut found = Ranges::default();
        for area in &self.of_files {
            // It may just have gone.
            let _ = look(area, &mut found);
            if let Some(code) = self.code.filter(|code| area.contains(code)) {
                found.add(code..code + PAGE);
            }
        }
        found
    }
}

/// Of the memory that the process has now: exec(2) gives it another.
pub(super) fn pagemap(pid: i32) -> Result<File> {
    File::open(format!("/proc/{pid}/pagemap")).map_err(memory(pid, 0))
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Own,
    OfFile,
}

/// The area of a line of `/proc/PID/maps` (proc_pid_maps(5)), if it is such a one.
fn area(line: &str) -> Option<(Range<u64>, Kind)> {
    let mut words = line.splitn(6, ' ');
    let (range, access) = (words.next()?, words.next()?);
    let inode = words.nth(2)?;
    let name = words.next().unwrap_or_default().trim_start();
    let anonymous =
        name.is_empty() || name == "[heap]" || name.starts_with("[stack") || name.starts_with("[anon:");
    let kind = match inode {
        "0" if anonymous => Kind::Own,
        "0" => return None,
        _ => Kind::OfFile,
    };
    let (start, end) = range.split_once('-')?;
    let number = |hex| u64::from_str_radix(hex, 16).ok();
    access.ends_with('p').then_some((number(start)?..number(end)?, kind))
}

/// Why writes to a process's memory may go by unseen: pages that the kernel keeps pinned are written without a look at how they are
/// mapped.
pub(super) fn unseen_writes(pid: i32) -> Option<&'static str> {
    let read =
        |file: &str| hiber_sys::file::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    if read("maps").contains("/[aio]") {
        return Some("it has asynchronous I/O (io_setup(2))");
    }
    if read("status").lines().any(|line| line.starts_with("x86_Thread_features:") && line.contains("shstk")) {
        return Some("it has shadow stacks");
    }
    let files = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).ok()?;
    let direct = |file: std::fs::DirEntry| {
        let info = std::fs::read_to_string(file.path()).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & OFlags::DIRECT.bits() != 0)
    };
    files.flatten().any(direct).then_some("it has a file open for direct I/O (O_DIRECT)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_areas_are_of_a_file_or_not() {
        let of = |line: &str| area(line).map(|(range, kind)| (range.start, range.end, kind));
        for own in [
            "7f0-8f0 rw-p 00000000 00:00 0 ",
            "7f0-8f0 rwxp 00000000 00:00 0                          [heap]",
            "7f0-8f0 -w-p 00000000 00:00 0 [anon:pool of it]",
            "7f0-8f0 rw-p 00000000 00:00 0 [stack]",
            "7f0-8f0 r--p 00000000 00:00 0 ",
            "7f0-8f0 ---p 00000000 00:00 0 ",
        ] {
            assert_eq!(of(own), Some((0x7f0, 0x8f0, Kind::Own)), "{own}");
        }
        for of_file in [
            "7f0-8f0 rw-p 00000000 fd:00 7 /lib/x.so",
            "7f0-8f0 rw-p 00000000 00:0f 7 /anon_hugepage (deleted)",
        ] {
            assert_eq!(of(of_file), Some((0x7f0, 0x8f0, Kind::OfFile)), "{of_file}");
        }
        for other in [
            "7f0-8f0 rw-s 00000000 00:01 7 /dev/zero (deleted)",
            "7f0-8f0 r--p 00000000 00:00 0 [vvar]",
            "nothing",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
