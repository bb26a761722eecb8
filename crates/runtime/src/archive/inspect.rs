//! A look at an archive that stays where it is: nothing of it is unpacked.

use std::path::PathBuf;

use super::import::{Import, Source};
use crate::checkpoint::inspect::{For, Found, Inspection, Verification};
use crate::error::{Context, Result};
use crate::signature::Demand;

impl Import {
    /// Describes the checkpoint, which may be a directory as well.
    ///
    /// # Errors
    /// None of the keys opens it, and those of [`inspect`](crate::inspect).
    pub fn inspect(&self) -> Result<Inspection> {
        let (found, shown) = self.find(For::Description)?;
        found.described(&shown)
    }

    /// Compares the checkpoint, which may be a directory as well, with its manifest. A signature that is missing or another's is among
    /// the problems, if there are keys for it.
    ///
    /// # Errors
    /// None of the keys opens it, and those of [`verify`](crate::verify).
    pub fn verify(&self) -> Result<Verification> {
        let (found, shown) = self.find(For::Comparison)?;
        let keys = self.verify_keys.clone();
        let demand = (!keys.is_empty()).then(|| Demand { by: "--verify-key".into(), keys });
        found.compared(&shown, demand.as_ref())
    }

    /// The checkpoint, and its name for messages.
    fn find(&self, aim: For) -> Result<(Found, PathBuf)> {
        let shown = match &self.from {
            Source::File(path) => return Ok((Found::at(path, &self.identities, aim)?, path.clone())),
            Source::Stream(_) => self.from.path().to_owned(),
            Source::Oci(image) => image.to_string().into(),
        };
        let mut reader = self.from.open().context("open the archive")?;
        let found = Found::in_archive(&mut reader, &shown, &self.identities, aim)?;
        reader.finish()?;
        Ok((found, shown))
    }
}
