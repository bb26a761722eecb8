//! Open files and timers that a process can have only by a capability.

use std::ops::RangeInclusive;

use caps::Capability;
use criu_proto::images::core::CoreEntry;
use criu_proto::images::files::{FdType, FileEntry, SkOptsEntry};
use hiber_criu::Images;
use hiber_criu::images::Magic;

use super::grant::{Grant, Verdict};
use crate::error::Result;

/// SOCK_RAW (socket(2)).
const RAW: u32 = 3;

impl Grant<'_> {
    pub(super) fn files(&self, images: &Images) -> Result<Verdict> {
        // Without it CRIU looks for images of CRIUs before 3.0, one for each kind of file.
        if !images.has("files.img") {
            return Ok(Err("has no list of open files (files.img)".into()));
        }
        for entry in images.entries::<FileEntry>("files.img", Magic::FILES)? {
            let entry = entry?;
            let id = entry.id.unwrap_or_default();
            if let Some((what, capability)) = needs(&entry)
                && !self.may(capability)
            {
                return Ok(Err(format!(
                    "has {what} open (file {id}), and config.json does not grant {capability}"
                )));
            }
            const EITHER: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];
            if let Some(what) = options(&entry).and_then(privileged)
                && !EITHER.iter().any(|capability| self.may(*capability))
            {
                let [admin, raw] = EITHER;
                return Ok(Err(format!(
                    "has a socket with {what} (file {id}), and config.json grants neither {admin} nor {raw}"
                )));
            }
        }
        Ok(Ok(()))
    }

    fn may(&self, capability: Capability) -> bool {
        match capability {
            Capability::CAP_NET_RAW | Capability::CAP_NET_ADMIN => self.can_in_network(capability),
            other => self.can(other),
        }
    }

    /// POSIX timers that wake the machine.
    pub(super) fn timers(&self, core: &CoreEntry) -> Verdict {
        let alarm = core.tc.timers.posix.iter().find(|timer| wakes(timer.clock_id()));
        match alarm {
            Some(timer) if !self.can(Capability::CAP_WAKE_ALARM) => Err(format!(
                "has a timer of clock {}, which wakes the machine, and config.json does not grant {}",
                timer.clock_id(),
                Capability::CAP_WAKE_ALARM
            )),
            _ => Ok(()),
        }
    }
}

/// CLOCK_REALTIME_ALARM and CLOCK_BOOTTIME_ALARM (clock_getres(2)).
fn wakes(clock: u32) -> bool {
    [8, 9].contains(&clock)
}

/// The options that an image has for a socket.
fn options(entry: &FileEntry) -> Option<&SkOptsEntry> {
    let FileEntry { isk, usk, nlsk, psk, .. } = entry;
    let all = [
        isk.as_ref().and_then(|socket| socket.opts.as_ref()),
        usk.as_ref().and_then(|socket| socket.opts.as_ref()),
        nlsk.as_ref().and_then(|socket| socket.opts.as_ref()),
        psk.as_ref().and_then(|socket| socket.opts.as_ref()),
    ];
    all.into_iter().flatten().next()
}

/// The options that need CAP_NET_ADMIN or CAP_NET_RAW (socket(7)): a mark, and a priority above 6.
fn privileged(options: &SkOptsEntry) -> Option<&'static str> {
    const FREE_PRIORITIES: RangeInclusive<u32> = 0..=6;
    match options {
        _ if options.so_mark() != 0 => Some("a mark (SO_MARK)"),
        _ if !FREE_PRIORITIES.contains(&options.so_priority()) => Some("a priority above 6 (SO_PRIORITY)"),
        _ => None,
    }
}

fn needs(entry: &FileEntry) -> Option<(&'static str, Capability)> {
    let type_ = entry.type_.and_then(|t| t.enum_value().ok());
    match type_ {
        Some(FdType::PACKETSK) => Some(("a packet socket", Capability::CAP_NET_RAW)),
        Some(FdType::TUNF) => Some(("a network tunnel", Capability::CAP_NET_ADMIN)),
        Some(FdType::BPFMAP) => Some(("a BPF map", Capability::CAP_BPF)),
        Some(FdType::FANOTIFY) => Some(("a fanotify group", Capability::CAP_SYS_ADMIN)),
        Some(FdType::TIMERFD) if wakes(entry.tfd.clockid()) => {
            Some(("a timer that wakes the machine", Capability::CAP_WAKE_ALARM))
        }
        Some(FdType::INETSK) if entry.isk.type_ == Some(RAW) => {
            Some(("a raw socket", Capability::CAP_NET_RAW))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use criu_proto::images::files::TimerfdEntry;

    use super::*;

    #[test]
    fn what_takes_a_privilege_is_told() {
        let socket =
            |mark, priority| SkOptsEntry { so_mark: mark, so_priority: priority, ..SkOptsEntry::default() };
        assert_eq!(privileged(&socket(None, None)), None);
        assert_eq!(privileged(&socket(Some(0), Some(6))), None);
        assert!(privileged(&socket(Some(1), None)).unwrap().contains("SO_MARK"));
        assert!(privileged(&socket(None, Some(7))).unwrap().contains("SO_PRIORITY"));
        let timer = |clock| FileEntry {
            type_: Some(FdType::TIMERFD.into()),
            tfd: Some(TimerfdEntry { clockid: Some(clock), ..TimerfdEntry::default() }).into(),
            ..FileEntry::default()
        };
        assert!(needs(&timer(1)).is_none());
        assert_eq!(needs(&timer(9)).unwrap().1, Capability::CAP_WAKE_ALARM);
    }
}
