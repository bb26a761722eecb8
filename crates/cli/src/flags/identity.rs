//! The files that show who this end of a migration is, for TLS.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use hiber::migrate::Identity;

use crate::line::flag::{Flag, flags};

flags! {
    pub(crate) struct IdentityFlags {
        cert: Option<PathBuf> =
            Flag::value("cert", "FILE", "TLS: this end's certificate, and those between it and the CA's, in PEM form"),
        key: Option<PathBuf> = Flag::value("key", "FILE", "TLS: the certificate's private key"),
        ca: Option<PathBuf> = Flag::value("ca", "FILE", "TLS: the certificate of the CA that the other end's is of"),
    }
}

impl IdentityFlags {
    /// All files or none.
    pub(crate) fn identity(&self) -> anyhow::Result<Option<Identity>> {
        // A later command may want them, from another directory.
        let path = |path: &Path| std::path::absolute(path).with_context(|| path.display().to_string());
        match (&self.cert, &self.key, &self.ca) {
            (Some(cert), Some(key), Some(ca)) => {
                Ok(Some(Identity { cert: path(cert)?, key: path(key)?, ca: path(ca)? }))
            }
            (None, None, None) => Ok(None),
            _ => bail!("--cert, --key and --ca need each other"),
        }
    }
}
