//! Timers that are descriptors. CRIU lets those stand still that tick and have run out unread, and forgets how often they
//! have; and it makes of a moment a time to wait, in which the container's sleep, and up to a second, is missing.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use hiber_sys::ioctl::set_timer_ticks;
use rustix::time::{
    ClockId, Itimerspec, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_gettime, timerfd_settime,
};
use serde::{Deserialize, Serialize};

use super::descriptors::{Descriptor, Owner};
use crate::error::{Error, Result};

const SECOND: i128 = 1_000_000_000;

/// A timer by one of the descriptors that lead to it. Times are in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Timer {
    /// In the container's pid namespace.
    process: i32,
    fd: i32,
    end: End,
    /// 0 if it runs out once.
    interval: u64,
    /// How often it has run out unread.
    ticks: u64,
}

/// When it runs out next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum End {
    /// After that time.
    After(u64),
    /// At that moment of a clock; `cancelled` also when the clock is set (TFD_TIMER_CANCEL_ON_SET).
    #[serde(rename_all = "camelCase")]
    At { clock: Clock, moment: i128, cancelled: bool },
}

/// The clocks that a timerfd may have. A clock that wakes the machine shows the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Clock {
    Date,
    Monotonic,
    Boot,
}

impl Clock {
    /// By its number (timerfd_create(2)).
    fn of(number: u32) -> Option<Self> {
        match number {
            0 | 8 => Some(Self::Date),
            1 => Some(Self::Monotonic),
            7 | 9 => Some(Self::Boot),
            _ => None,
        }
    }

    /// The timer's state for this program.
    fn now(self) -> i128 {
        nanoseconds(clock_gettime(match self {
            Self::Date => ClockId::Realtime,
            Self::Monotonic => ClockId::Monotonic,
            Self::Boot => ClockId::Boottime,
        }))
    }

    /// How much later it shows to the processes of the container, of which `pid` is one, than to this program.
    fn ahead(self, pid: i32) -> Result<i128> {
        let name = match self {
            Self::Date => return Ok(0),
            Self::Monotonic => "monotonic",
            Self::Boot => "boottime",
        };
        let offset = |process: &str| {
            let path = format!("/proc/{process}/timens_offsets");
            match hiber_sys::file::read_to_string(&path) {
                Ok(text) => Ok(offset(&text, name)),
                // a kernel without time namespaces
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
                Err(e) => Err(Error::file(Path::new(&path), &e)),
            }
        };
        Ok(offset(&pid.to_string())? - offset("self")?)
    }
}

/// `CLOCK SECONDS NANOSECONDS` of a clock (time_namespaces(7)), in nanoseconds.
fn offset(text: &str, clock: &str) -> i128 {
    let line = text.lines().find_map(|line| line.strip_prefix(clock));
    let mut numbers = line.unwrap_or_default().split_whitespace().filter_map(|n| n.parse::<i128>().ok());
    numbers.next().unwrap_or(0) * SECOND + numbers.next().unwrap_or(0)
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * SECOND + i128::from(time.tv_nsec)
}

/// Of a moment before the clock's first one: that. A timer of 0 would be none.
fn timespec(nanoseconds: i128) -> Timespec {
    let time = nanoseconds.max(1);
    Timespec { tv_sec: i64::try_from(time / SECOND).unwrap_or(i64::MAX), tv_nsec: (time % SECOND) as i64 }
}

/// A timer in fdinfo (proc_pid_fdinfo(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    clock: u32,
    ticks: u64,
    flags: TimerfdTimerFlags,
    left: i128,
    interval: i128,
}

impl Shown {
    fn read(process: &str, fd: i32) -> Result<Option<Self>> {
        let path = format!("/proc/{process}/fdinfo/{fd}");
        let text = hiber_sys::file::read_to_string(&path).map_err(|e| Error::file(Path::new(&path), &e))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let time = |name: &str| {
            let (seconds, rest) = field(name)?.strip_prefix('(')?.strip_suffix(')')?.split_once(", ")?;
            Some(seconds.parse::<i128>().ok()? * SECOND + rest.parse::<i128>().ok()?)
        };
        Some(Self {
            clock: field("clockid")?.parse().ok()?,
            ticks: field("ticks")?.parse().ok()?,
            flags: TimerfdTimerFlags::from_bits_retain(u32::from_str_radix(field("settime flags")?, 8).ok()?),
            left: time("it_value")?,
            interval: time("it_interval")?,
        })
    }
}

/// Reads the timers among `descriptors` of which CRIU forgets something.
pub(super) fn of(descriptors: &[Descriptor<'_>]) -> Result<Vec<Timer>> {
    let timers = descriptors.iter().filter(|descriptor| descriptor.is_timer());
    let timers: Result<Vec<_>> = timers.map(read).collect();
    Ok(timers?.into_iter().flatten().collect())
}

fn read(descriptor: &Descriptor<'_>) -> Result<Option<Timer>> {
    let (owner, fd) = (descriptor.owner, descriptor.fd);
    let Some(mut shown) = Shown::read(&owner.outer.to_string(), fd)? else { return Ok(None) };
    let stands = shown.left == 0 && shown.interval != 0 && shown.ticks != 0;
    if stands {
        // To ask for its time has the kernel count how often it should have run out, and has it tick on.
        let copy = descriptor.copy()?;
        timerfd_gettime(&copy).map_err(|e| Error::sys("timerfd_gettime", format!("descriptor {fd}"), e))?;
        shown = Shown::read("self", copy.as_raw_fd())?.unwrap_or(shown);
    }
    let end = match Clock::of(shown.clock) {
        Some(clock) if shown.flags.contains(TimerfdTimerFlags::ABSTIME) && shown.left != 0 => {
            let moment = clock.now() + clock.ahead(owner.outer)? + shown.left;
            End::At { clock, moment, cancelled: shown.flags.contains(TimerfdTimerFlags::CANCEL_ON_SET) }
        }
        _ if stands => End::After(u64::try_from(shown.left).unwrap_or(0)),
        _ => return Ok(None),
    };
    let interval = u64::try_from(shown.interval).unwrap_or(0);
    Ok(Some(Timer { process: owner.inner, fd, end, interval, ticks: shown.ticks }))
}

/// Sets the restored timers to what they were.
pub(super) fn put_back(kept: &[Timer], owners: &[Owner]) -> Result<()> {
    for timer in kept {
        let owner = Owner::find(owners, timer.process)?;
        let copy = owner.copy(timer.fd)?;
        set(timer, copy.as_fd(), owner.outer)?;
    }
    Ok(())
}

fn set(timer: &Timer, copy: BorrowedFd<'_>, pid: i32) -> Result<()> {
    let (flags, value) = match timer.end {
        End::After(time) => (TimerfdTimerFlags::empty(), i128::from(time)),
        End::At { clock, moment, cancelled } => {
            let cancelled =
                if cancelled { TimerfdTimerFlags::CANCEL_ON_SET } else { TimerfdTimerFlags::empty() };
            (TimerfdTimerFlags::ABSTIME | cancelled, moment.saturating_sub(clock.ahead(pid)?))
        }
    };
    let fail =
        |call: &str, e| Error::sys(call, format!("descriptor {} of process {}", timer.fd, timer.process), e);
    let interval = match timer.interval {
        0 => Timespec { tv_sec: 0, tv_nsec: 0 },
        time => timespec(time.into()),
    };
    let times = Itimerspec { it_value: timespec(value), it_interval: interval };
    timerfd_settime(copy, flags, &times).map_err(|e| fail("timerfd_settime", e))?;
    if timer.ticks != 0 {
        set_timer_ticks(copy, timer.ticks).map_err(|e| fail("ioctl TFD_IOC_SET_TICKS", e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

    use super::*;

    #[test]
    fn fdinfo_is_understood() {
        let text = "pos:\t0\nflags:\t02004002\nclockid: 7\nticks: 3\nsettime flags: 03\nit_value: (1, 20)\n\
                    it_interval: (0, 5)\n";
        let shown = Shown::parse(text).unwrap();
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        assert_eq!(shown, Shown { clock: 7, ticks: 3, flags, left: SECOND + 20, interval: 5 });
        assert_eq!(Shown::parse("pos:\t0\n"), None);
        assert_eq!(
            offset("monotonic           -5         500\nboottime   1  0\n", "monotonic"),
            500 - 5 * SECOND
        );
    }

    #[test]
    fn timers_are_read_and_set() {
        let me = crate::host::procfs::Numbered::all(1, &[i32::try_from(std::process::id()).unwrap()]);
        let owners = Owner::all(&me);
        let new = |clock| timerfd_create(clock, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC).unwrap();
        let (ticking, dated, plain) =
            (new(TimerfdClockId::Monotonic), new(TimerfdClockId::Realtime), new(TimerfdClockId::Boottime));
        let arm = |timer: &std::os::fd::OwnedFd, flags, value, interval| {
            let times = Itimerspec { it_value: timespec(value), it_interval: timespec(interval) };
            timerfd_settime(timer, flags, &times).unwrap();
        };
        arm(&ticking, TimerfdTimerFlags::empty(), 1, SECOND / 1000);
        arm(&dated, TimerfdTimerFlags::ABSTIME, Clock::Date.now() + 100 * SECOND, SECOND);
        arm(&plain, TimerfdTimerFlags::empty(), 100 * SECOND, SECOND);
        std::thread::sleep(std::time::Duration::from_millis(20));
        let ours = [&ticking, &dated, &plain].map(AsRawFd::as_raw_fd);
        let descriptors = owners[0].descriptors().unwrap();
        let ours: Vec<_> = descriptors.into_iter().filter(|d| ours.contains(&d.fd)).collect();
        let kept = of(&ours).unwrap();
        assert_eq!(kept.len(), 2, "{kept:?}");
        let of_ticking = kept.iter().find(|timer| timer.fd == ticking.as_raw_fd()).unwrap();
        assert!(of_ticking.ticks >= 20 && matches!(of_ticking.end, End::After(_)), "{of_ticking:?}");
        let json = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Timer>>(&json).unwrap(), kept);
        for timer in [&ticking, &dated] {
            arm(timer, TimerfdTimerFlags::empty(), 1000 * SECOND, SECOND);
        }
        put_back(&kept, &owners).unwrap();
        let mut ticks = [0; 8];
        rustix::io::read(&ticking, &mut ticks).unwrap();
        assert!(u64::from_ne_bytes(ticks) >= of_ticking.ticks);
        let left = timerfd_gettime(&dated).unwrap().it_value.tv_sec;
        assert!((98..=100).contains(&left), "{left}");
    }
}
