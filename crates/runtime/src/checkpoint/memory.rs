//! Where a dump's memory goes, if not into files.

use hiber_criu::{Common, Launch, PageServer};
use oci_spec::runtime::Spec;

use super::guard::Guard;
use super::{CheckpointOptions, config_file};
use crate::checkpoint::lazy::{self, Token, departure::Departure};
use crate::checkpoint::preflight::check_pipe_size;
use crate::container::task::Task;
use crate::error::{Error, Result};

/// What is ours of the way that memory takes.
pub(super) enum Memory {
    /// Nothing: CRIU writes files, or its own configuration says more of it than we know.
    Foreign,
    /// The connection to a page server.
    Sent(PageServer),
    /// It is served, to who has the token.
    Served(Departure, Token),
}

impl Memory {
    /// Memory that is fetched later is served by us, and a page server is reached by us, unless a configuration of CRIU's
    /// own may say otherwise, for instance by encryption.
    pub(super) fn prepare(
        task: &Task,
        options: &CheckpointOptions,
        launch: &mut Launch<'_>,
        guard: &Guard,
    ) -> Result<Self> {
        let spec = &*task.container().spec()?;
        check_peers(options, spec)?;
        let Some(address) = options.page_server.as_ref().filter(|_| config_file(spec).is_none()) else {
            return Ok(Self::Foreign);
        };
        if !options.criu.lazy_pages {
            let stream = lazy::connect(address)
                .and_then(|stream| lazy::bound(&stream).map(|()| stream))
                .map_err(|e| Error::host(format!("--page-server {address}: Can't connect to server"), e))?;
            let connection = Some(launch.pass(stream)?);
            let (address, port) = (Some(address.host.clone()), address.port);
            return Ok(Self::Sent(PageServer { address, port, connection }));
        }
        check_pipe_size()?;
        let (token, dir) = (Token::new()?, task.container().entry().path());
        let departure = Departure::start(address, (&token, options.any_peer), launch, &guard.share()?, dir)?;
        Ok(Self::Served(departure, token))
    }

    /// What CRIU must know of it.
    pub(super) fn describe(&self, common: &mut Common) {
        match self {
            Self::Foreign => {}
            Self::Sent(server) => common.page_server = Some(server.clone()),
            Self::Served(departure, _) => {
                common.page_server = None;
                common.config_file = Some(departure.config().to_owned());
            }
        }
    }

    pub(super) fn token(&self) -> Option<&Token> {
        if let Self::Served(_, token) = self { Some(token) } else { None }
    }

    pub(super) fn departure(&mut self) -> Option<&mut Departure> {
        if let Self::Served(departure, _) = self { Some(departure) } else { None }
    }
}

/// Where CRIU serves memory by itself, nobody asks for a token.
pub(crate) fn check_peers(options: &CheckpointOptions, spec: &Spec) -> Result<()> {
    match config_file(spec) {
        Some(path) if options.criu.lazy_pages && !options.any_peer => Err(Error::Invalid(format!(
            "with the CRIU configuration {} CRIU serves the memory by itself, at every address and to whoever comes \
             first: pass --page-server-any-peer, or leave the configuration out",
            path.display()
        ))),
        _ => Ok(()),
    }
}
