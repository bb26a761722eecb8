//! Files of keys, whose text does not stay behind in memory.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// The text of a file of at most `most` bytes, which is `expected`.
///
/// # Errors
/// The file cannot be read, is larger, or is no text.
pub(crate) fn read(path: &Path, most: u64, expected: &str) -> Result<Zeroizing<String>> {
    text(File::open(path).map_err(|e| Error::file(path, &e))?, path, most, expected)
}

/// As [`read`], of a file that is open.
///
/// # Errors
/// Those of `read`.
pub(crate) fn text(file: File, path: &Path, most: u64, expected: &str) -> Result<Zeroizing<String>> {
    let refuse = |why: String| Err(Error::File { path: path.into(), why });
    let mut text = Zeroizing::new(String::new());
    match file.take(most + 1).read_to_string(&mut text) {
        Ok(_) if text.len() as u64 > most => {
            refuse(format!("has more than {most} bytes; expected {expected}"))
        }
        Ok(_) => Ok(text),
        Err(e) if e.kind() == ErrorKind::InvalidData => refuse(format!("is no text; expected {expected}")),
        Err(e) => Err(Error::file(path, &e)),
    }
}
