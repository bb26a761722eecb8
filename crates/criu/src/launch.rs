//! Starting a criu process.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use hiber_sys::clone::Birthplace;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::error::{CriuError, Result};
use crate::locate::Criu;
use crate::options::SwrkFd;
use crate::patience::PATIENCE;
use crate::session::Session;
use crate::swrk::{Given, Swrk, above_standard};
use crate::version::{Features, Version};

/// A criu process to be: collects the files that it inherits.
#[derive(Debug)]
pub struct Launch<'a> {
    criu: &'a Criu,
    files: Vec<OwnedFd>,
    stdin: Option<OwnedFd>,
    programs: Option<PathBuf>,
    environment: Vec<(&'static str, &'static str)>,
    birthplace: Option<Birthplace>,
    patience: Option<Duration>,
}

/// The result of [`Criu::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CriuInfo {
    /// The program.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
    /// The features of CRIU and the kernel.
    pub features: Features,
}

impl Criu {
    /// Prepares a criu process; files to be inherited by it or by what it restores are added there.
    pub fn launch(&self) -> Launch<'_> {
        Launch::new(self)
    }

    /// Starts a criu process that inherits nothing; for dumps and questions.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub fn start(&self) -> Result<Session> {
        self.launch().start()
    }

    /// Whether CRIU works here: its version, and what its probe of the kernel finds.
    ///
    /// # Errors
    /// [`CriuError::CannotStart`] with CRIU's own words if the probe fails; as [`Launch::start`] besides.
    pub fn check(&self) -> Result<CriuInfo> {
        let mut session = self.start()?;
        Ok(CriuInfo {
            path: self.path().to_owned(),
            version: session.version()?,
            features: session.features()?,
        })
    }
}

impl<'a> Launch<'a> {
    pub(crate) fn new(criu: &'a Criu) -> Self {
        Self {
            criu,
            files: Vec::new(),
            stdin: None,
            programs: None,
            environment: Vec::new(),
            birthplace: None,
            patience: Some(PATIENCE),
        }
    }

    /// Lets the process inherit `file`; the number is what options name it by. The file is closed here
    /// once the process runs.
    ///
    /// # Errors
    /// [`CriuError::Io`] if this process has no free descriptor.
    pub fn pass(&mut self, file: impl Into<OwnedFd>) -> Result<SwrkFd> {
        let file = above_standard(file.into()).map_err(|e| CriuError::io("duplicate a file", e))?;
        let number = SwrkFd(file.as_raw_fd());
        self.files.push(file);
        Ok(number)
    }

    /// Standard input of the process, /dev/null if not set: the terminal that a restore with `shell_job`
    /// gives to the tasks.
    pub fn stdin(&mut self, file: impl Into<OwnedFd>) {
        self.stdin = Some(file.into());
    }

    /// A directory where CRIU looks first for the programs that it runs: `tar`, `ip`, `iptables-save` and others.
    pub fn programs(&mut self, directory: impl Into<PathBuf>) {
        self.programs = Some(directory.into());
    }

    /// Gives CRIU, and the programs that it runs, a variable of the environment.
    pub fn environment(&mut self, name: &'static str, value: &'static str) {
        self.environment.push((name, value));
    }

    /// Has the process born in cgroups, in which its tasks are then born. [`Loading::is_placed`] says whether all have taken it.
    pub fn born_in(&mut self, birthplace: Birthplace) {
        self.birthplace = Some(birthplace);
    }

    /// For how long the process may do nothing before it is killed; five minutes if not set, and for ever with `None`.
    pub fn patience(&mut self, limit: Option<Duration>) {
        self.patience = limit;
    }

    /// Starts the process and waits until it has told its version.
    ///
    /// # Errors
    /// Those of [`Self::begin`] and [`Loading::ready`].
    pub fn start(self) -> Result<Session> {
        self.begin()?.ready()
    }

    /// Starts the process, which takes some milliseconds to load.
    ///
    /// # Errors
    /// [`CriuError::CannotStart`]
    pub fn begin(self) -> Result<Loading> {
        let criu = self.criu.path();
        // CRIU finds this process by the socket's peer credentials, which are those of its making.
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| CriuError::io("make a socket pair for criu", e))?;
        let given = Given {
            socket: theirs,
            stdin: self.stdin,
            files: self.files,
            programs: self.programs,
            environment: self.environment,
            birthplace: self.birthplace,
        };
        let (swrk, placed) = Swrk::spawn(self.criu, given).map_err(|e| CriuError::CannotStart {
            criu: criu.into(),
            reason: e.to_string(),
            printed: Vec::new(),
        })?;
        Ok(Loading { session: Session::with(ours, swrk, self.patience), criu: criu.into(), placed })
    }
}

/// A criu process that is being loaded.
#[derive(Debug)]
pub struct Loading {
    session: Session,
    criu: PathBuf,
    placed: bool,
}

impl Loading {
    /// Whether the process was born where [`Launch::born_in`] wants it.
    pub fn is_placed(&self) -> bool {
        self.placed
    }

    /// The session, of which nothing can be asked yet.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Waits until the process has told its version.
    ///
    /// # Errors
    /// [`CriuError::CannotStart`] with what it printed, [`CriuError::TooOld`] below [`Version::MINIMUM`].
    pub fn ready(mut self) -> Result<Session> {
        let found = self.session.version()?;
        if found < Version::MINIMUM {
            return Err(CriuError::TooOld {
                criu: self.criu,
                found,
                needed: Version::MINIMUM,
                what: "hiber",
            });
        }
        Ok(self.session)
    }
}
