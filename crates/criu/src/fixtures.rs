//! Images for tests.

use std::path::Path;

use criu_proto::Message;
use criu_proto::images::files::FownEntry;

use crate::image_file::encode;

/// Writes an image of these entries.
pub(crate) fn write<M: Message>(dir: &tempfile::TempDir, name: &str, magics: &[u32], entries: &[M]) {
    let path: &Path = &dir.path().join(name);
    std::fs::write(path, encode(path, magics, entries).unwrap()).unwrap();
}

/// The owner of a file who gets no signals.
pub(crate) fn nobody() -> FownEntry {
    FownEntry {
        uid: Some(0),
        euid: Some(0),
        signum: Some(0),
        pid_type: Some(0),
        pid: Some(0),
        ..FownEntry::default()
    }
}
