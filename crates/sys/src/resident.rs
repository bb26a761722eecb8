//! Pages of the program itself that are in memory.

use rustix::mm::{Advice, madvise};

use crate::file::read_to_string;
use crate::{Result, SysError};

/// Gives back the memory of this program's code and constants: what is needed of it is read again from its file, or is still cached. For
/// a process that waits long and does little.
///
/// # Errors
/// /proc cannot be read, or the kernel refuses (madvise(2)).
pub fn give_back_program() -> Result<()> {
    let failed = |call: &'static str, e: std::io::Error| {
        SysError::new(call, "/proc/self", e.raw_os_error().unwrap_or(0))
    };
    let program = std::fs::read_link("/proc/self/exe").map_err(|e| failed("readlink", e))?;
    let maps = read_to_string("/proc/self/smaps").map_err(|e| failed("read", e))?;
    for (start, length) in unchanged(&maps, &program.to_string_lossy()) {
        // SAFETY: the mapping can be neither written nor does it have a page of its own, so all of its content is that of the file, which
        // the kernel reads again when somebody looks. It is this process's, and stays as long as that.
        unsafe { madvise(start as *mut _, length, Advice::LinuxDontNeed) }
            .map_err(|e| SysError::new("madvise", format!("{length} bytes"), e.raw_os_error()))?;
    }
    Ok(())
}

/// Start and length of the mappings of that file which nobody can write to, and of which no page was changed since it was mapped, as the
/// relocated ones were.
fn unchanged(smaps: &str, path: &str) -> Vec<(usize, usize)> {
    let (mut all, mut last) = (Vec::new(), None);
    for line in smaps.lines() {
        if let Some((range, rest)) = header(line) {
            let plain = rest.starts_with("r-") && rest.as_bytes().get(3) == Some(&b'p');
            last = Some(range).filter(|_| plain && rest.ends_with(path));
        } else if line.starts_with("Anonymous:") {
            all.extend(last.take().filter(|_| line.split_whitespace().nth(1) == Some("0")));
        }
    }
    all
}

/// The range and the rest of a mapping's first line.
fn header(line: &str) -> Option<((usize, usize), &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    Some(((start, end.checked_sub(start)?), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_in_the_file_is_given_back() {
        let smaps = "1000-3000 r--p 00000000 08:01 7   /bin/x\nRss:   8 kB\nAnonymous:   0 kB\n\
                     3000-4000 r-xp 00002000 08:01 7   /bin/x\nAnonymous:   0 kB\n\
                     4000-5000 r--p 00003000 08:01 7   /bin/x\nAnonymous:   4 kB\n\
                     5000-6000 rw-p 00004000 08:01 7   /bin/x\nAnonymous:   0 kB\n\
                     6000-7000 r--s 00000000 08:01 7   /bin/x\nAnonymous:   0 kB\n\
                     7000-8000 r-xp 00000000 08:01 8   /lib/y\nAnonymous:   0 kB\nVmFlags: rd ex\n";
        assert_eq!(unchanged(smaps, "/bin/x"), [(0x1000, 0x2000), (0x3000, 0x1000)]);
    }

    #[test]
    fn the_program_goes_on() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        // Some of it is needed at once.
        let before = resident();
        (0..3).for_each(|_| give_back_program().unwrap());
        assert!(resident() <= before);
        assert_eq!("12".parse::<u32>(), Ok(12));
    }
}
