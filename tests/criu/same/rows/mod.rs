//! The rows, by area as the program has them.

mod calls;
mod cgroups;
mod descriptors;
mod files;
mod ipc;
mod memory;
mod mounts;
mod namespaces;
mod networks;
mod numbers;
mod processor;
mod protocols;
mod queues;
mod rarer;
mod registrations;
mod signals;
mod sockets;
mod tasks;
mod terminals;
mod threads;
mod timers;

use super::row::Row;

/// The area's name, its heading in docs, and its rows.
pub(super) const AREAS: &[(&str, &str, &[Row])] = &[
    ("tasks", "Tasks: credentials, scheduling, names, limits", tasks::ROWS),
    ("signals", "Signals", signals::ROWS),
    ("memory", "Memory", memory::ROWS),
    ("processor", "The processor", processor::ROWS),
    ("files", "Descriptors and files", files::ROWS),
    ("sockets", "Sockets", sockets::ROWS),
    ("queues", "What is queued in sockets, and how they are connected", queues::ROWS),
    ("timers", "Timers and clocks", timers::ROWS),
    ("ipc", "System V objects and message queues", ipc::ROWS),
    ("networks", "Networks of one's own", networks::ROWS),
    ("mounts", "Mounts and what is in a tmpfs", mounts::ROWS),
    ("cgroups", "Cgroups", cgroups::ROWS),
    ("namespaces", "Namespaces", namespaces::ROWS),
    ("threads", "What threads have apart, and processes share", threads::ROWS),
    ("protocols", "Sockets of rarer protocols, keys, and errors that wait", protocols::ROWS),
    ("descriptors", "Descriptors of rarer kinds", descriptors::ROWS),
    ("calls", "System calls that wait", calls::ROWS),
    ("numbers", "Numbers and times that the kernel gives", numbers::ROWS),
    ("terminals", "Terminals, memfds, and owners of descriptors", terminals::ROWS),
    ("registrations", "What sockets have the kernel do", registrations::ROWS),
    ("rarer", "Rarer memory, processes, timers, watches and mounts", rarer::ROWS),
];

/// The rows of an area.
#[track_caller]
pub(super) fn of(area: &str) -> &'static [Row] {
    let found = AREAS.iter().find(|(name, ..)| *name == area);
    found.unwrap_or_else(|| panic!("no area {area}")).2
}

/// Those of the rows that this machine can have, and whose `AREA/NAME` contains `$HIBER_ROWS`.
pub(super) fn asked_for(area: &str, rows: &'static [Row]) -> Vec<&'static Row> {
    let filter = std::env::var("HIBER_ROWS").unwrap_or_default();
    let asked = |row: &&Row| format!("{area}/{}", row.name).contains(&filter);
    rows.iter().filter(asked).filter(|row| row.is_for_this_machine()).collect()
}
