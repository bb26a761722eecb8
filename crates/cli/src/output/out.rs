//! Standard output.

use std::io::{self, ErrorKind, Write};

/// Writes `text` to standard output in one go. A reader that has gone away (`hiber list | head`)
/// is no error.
///
/// # Errors
/// Any other failure to write, such as a full disk.
pub(crate) fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
