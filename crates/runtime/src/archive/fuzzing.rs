//! Access to what reads archives, for the targets in `fuzz/`.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use hiber_criu::ImageDirectory;

use super::oci::{self, OciImage};
use super::rootfs::{self, Applied};
use super::unpack::{How, Limits};

/// An archive, of which at most a mebibyte comes out; it may be encrypted, for the key of the examples in age's specification.
pub fn unpack(archive: &[u8], into: &Path) -> bool {
    let keys = crate::age::fuzz(archive);
    let limits = Limits { bytes: 1 << 20, files: 100, by: "a test" };
    let how = How { shown: "archive".as_ref(), keys: &keys, verify: true, demands: &[], files: true };
    let into = ImageDirectory::open(into);
    into.is_ok_and(|into| super::unpack::unpack(archive, &how, &into, limits).is_ok())
}

/// An image in the layout in a directory, of which at most a mebibyte comes out.
pub fn layout(dir: &Path, into: &Path) -> bool {
    let image = OciImage { dir: dir.to_owned(), tag: None };
    let keys = crate::age::fuzz(&[]);
    let limits = Limits { bytes: 1 << 20, files: 100, by: "a test" };
    let how = How { shown: dir, keys: &keys, verify: true, demands: &[], files: true };
    let taken = image.open().and_then(|mut image| {
        super::unpack::unpack(&mut image, &how, &ImageDirectory::open(into)?, limits)?;
        image.finish()
    });
    taken.is_ok()
}

/// The digest by which a layout calls a file.
pub fn sha256(bytes: &[u8]) -> String {
    oci::sha256(bytes)
}

/// Changes of a root file system, and a list of what was removed, in the one in a directory.
pub fn root_changes(diff: &File, deleted: &File, whiteouts: bool, root: OwnedFd) -> bool {
    rootfs::apply(root, Some(diff), Some(deleted), Applied { whiteouts, devices: false }).is_ok()
}
