//! Access to private functions for the targets in `fuzz/`, which cargo-fuzz builds with `cfg(fuzzing)`.

use std::os::fd::OwnedFd;
use std::path::Path;

use hiber_criu::ImageDirectory;

use crate::RestoreContainerOptions;
pub use crate::archive::fuzzing::{layout, root_changes, sha256, unpack};
use crate::checkpoint::kept::Kept;
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::restore_options::check_images;
use crate::container::prepared::Prepared;
use crate::id::ContainerId;
use crate::state::resources;

/// hiber.json and kept.json.
pub fn manifest(json: &[u8]) {
    if let Ok(manifest) = Manifest::parse(json, "hiber.json".as_ref()) {
        let _ = manifest.compare(&manifest.files);
    }
    if let Ok(kept) = serde_json::from_slice::<Kept>(json) {
        let mut spec = oci_spec::runtime::Spec::default();
        let _ = resources::in_force(&kept.resources, &resources::of(&spec));
        let _ = resources::apply(&kept.resources, &mut spec);
    }
}

/// The conversation of a migration, with a root file system that comes into a directory.
pub fn migration(conversation: &[u8], root: OwnedFd) {
    crate::migrate::fuzz(conversation, root);
}

/// A configuration to which images are compared.
pub struct Trust {
    id: ContainerId,
    options: RestoreContainerOptions<'static>,
    prepared: Prepared,
}

impl Trust {
    /// Of the bundle in this directory.
    pub fn new(bundle: &Path) -> Self {
        let id: ContainerId = "box".parse().expect("an id");
        let options = RestoreContainerOptions { bundle: bundle.into(), ..Default::default() };
        let prepared = Prepared::new(&id, &options.as_create()).expect("a configuration");
        Self { id, options, prepared }
    }

    /// Whether the images in this directory may be restored.
    pub fn check(&self, images: &Path) -> bool {
        let opened = ImageDirectory::open(images);
        opened.is_ok_and(|images| check_images(&self.prepared, &self.id, &self.options, &images).is_ok())
    }
}
