//! The parts of a row about a property.

use std::io::Write as _;

use hiber_tests::prelude::*;
use hiber_tests::require::Need;

/// A property of a process, and what becomes of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// As the program's entry is called.
    pub(super) name: &'static str,
    /// How it is read from inside, for docs.
    pub(super) read: &'static str,
    pub(super) expect: Expect,
    /// The requirements for the machine.
    pub(super) needs: &'static [Need],
    /// The error that its being made gives on machines that have no such thing; empty if all have.
    pub(super) lacking: &'static str,
    /// The flags for `checkpoint` and `restore`.
    pub(super) flags: &'static [&'static str],
    /// The needs of the property in config.json; the container has all capabilities that a row may need anyway.
    pub(super) config: Option<fn(&mut Value)>,
    /// Whether nobody sees it before processes are frozen.
    pub(super) hidden: bool,
    /// Whether some kernels keep a property that differs on others.
    pub(super) sometimes: bool,
    /// The outcomes with runc and crun and the same CRIU, where that does not follow from what is expected.
    pub(super) peers: Option<[Peer; 2]>,
}

/// The expected outcome of a checkpoint and restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// The same value, by CRIU's doing.
    Criu,
    /// The same value, by hiber's doing: CRIU forgets it.
    Hiber,
    /// `--check` names this check, the checkpoint fails with these words, and the container runs on.
    Refused { check: &'static str, words: &'static str },
    /// Another value; these words say how docs put it.
    Differs(&'static str),
}

/// The outcome with another runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// The value is the same after a restore.
    Kept,
    /// It is not.
    Lost,
    /// There is no checkpoint, or no restore of it.
    Fails,
}

impl Row {
    const fn new(name: &'static str, read: &'static str, expect: Expect) -> Self {
        Self {
            name,
            read,
            expect,
            needs: &[],
            lacking: "",
            flags: &[],
            config: None,
            hidden: false,
            sometimes: false,
            peers: None,
        }
    }

    pub(super) const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }

    /// Machines that answer its being made with this error have no such thing, and leave it out.
    pub(super) const fn unless(self, lacking: &'static str) -> Self {
        Self { lacking, ..self }
    }

    pub(super) const fn flags(self, flags: &'static [&'static str]) -> Self {
        Self { flags, ..self }
    }

    /// `--check` does not see it.
    pub(super) const fn hidden(self) -> Self {
        Self { hidden: true, ..self }
    }

    /// Some kernels keep it.
    pub(super) const fn sometimes(self) -> Self {
        Self { sometimes: true, ..self }
    }

    pub(super) const fn config(self, change: fn(&mut Value)) -> Self {
        Self { config: Some(change), ..self }
    }

    pub(super) const fn peers(self, runc: Peer, crun: Peer) -> Self {
        Self { peers: Some([runc, crun]), ..self }
    }

    /// Whether this machine has what the row needs; says so where it has not.
    pub(super) fn is_for_this_machine(&self) -> bool {
        let missing = self.needs.iter().find_map(|need| need.check().err());
        if let Some(missing) = &missing {
            self.leave_out(&format!("it needs {missing}"));
        }
        missing.is_none()
    }

    pub(super) fn is_refused(&self) -> bool {
        matches!(self.expect, Expect::Refused { .. })
    }

    /// Says that this machine cannot have the property.
    pub(super) fn leave_out(&self, why: &str) {
        // libtest captures print!, not this
        let _ = writeln!(std::io::stderr(), "{} is left out: {why}", self.name);
    }

    /// The expected outcomes with runc and crun.
    pub(super) fn peers_do(&self) -> [Peer; 2] {
        self.peers.unwrap_or(match self.expect {
            Expect::Criu => [Peer::Kept; 2],
            Expect::Hiber | Expect::Differs(_) => [Peer::Lost; 2],
            Expect::Refused { .. } => [Peer::Fails; 2],
        })
    }
}

/// A row of what CRIU keeps.
pub(super) const fn criu(name: &'static str, read: &'static str) -> Row {
    Row::new(name, read, Expect::Criu)
}

/// A row of what hiber keeps where CRIU forgets.
pub(super) const fn hiber(name: &'static str, read: &'static str) -> Row {
    Row::new(name, read, Expect::Hiber)
}

/// A row of what is refused: the check's name in preflight's table, and words of the error.
pub(super) const fn refused(
    name: &'static str,
    read: &'static str,
    check: &'static str,
    words: &'static str,
) -> Row {
    Row::new(name, read, Expect::Refused { check, words })
}

/// A row of what is another value after a restore.
pub(super) const fn differs(name: &'static str, read: &'static str, words: &'static str) -> Row {
    Row::new(name, read, Expect::Differs(words))
}

/// Gives the first process one more capability, for [`Row::config`].
pub(super) fn may(config: &mut Value, capability: &str) {
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set].as_array_mut().expect("a set").push(json!(capability));
    }
}
