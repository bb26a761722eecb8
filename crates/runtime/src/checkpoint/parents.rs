//! Chains of checkpoints: a pre-dump, further ones on top of it, and the dump that needs them all.

use std::path::{Path, PathBuf};

use hiber_criu::{ImageDirectory, Images};

use super::manifest::Manifest;
use crate::error::{Context, Error, Result};

/// The directory of `--parent-path`, which is relative to an image directory that may not be there yet.
pub(super) fn named(image_path: &Path, parent: &Path) -> Result<PathBuf> {
    let refuse = |why: &str| Err(Error::Invalid(format!("--parent-path {}: {why}", parent.display())));
    if parent.is_absolute() {
        let parent = parent.display();
        return Err(Error::Invalid(format!(
            "--parent-path must be relative to the image path, not {parent}"
        )));
    }
    // CRIU sees it from a directory beside the image path, which replaces what is there.
    let Ok(beside) = parent.strip_prefix("..") else {
        return refuse("must lead out of the image path, as in ../parent");
    };
    let image_path = std::path::absolute(image_path).map_err(|e| Error::file(image_path, &e))?;
    let dir = image_path.parent().unwrap_or(Path::new("/")).join(beside);
    if !dir.is_dir() {
        return refuse(&format!("no directory at {}", dir.display()));
    }
    Ok(dir)
}

/// Checks a parent, and its parents: each is a checkpoint, and of the same container where that is known. Gives
/// them all.
pub(super) fn check(parent: ImageDirectory, container: Option<&str>) -> Result<Vec<ImageDirectory>> {
    let mut chain = Vec::new();
    let mut seen = Vec::new();
    let mut next = Some(parent);
    while let Some(dir) = next {
        let what = || format!("parent checkpoint {}", dir.path().display());
        // A chain is found again however long its way is.
        let stat = dir.stat().map_err(|e| Error::file(dir.path(), &e)).context(what())?;
        if seen.contains(&(stat.st_dev, stat.st_ino)) {
            return Err(Error::Invalid(format!("{}: is its own parent", what())));
        }
        seen.push((stat.st_dev, stat.st_ino));
        Images::in_directory(&dir).context(what())?;
        let manifest = Manifest::read_in(&dir).context(what())?;
        if let (Some(manifest), Some(container)) = (manifest, container)
            && manifest.container != container
        {
            let other = manifest.container;
            return Err(Error::Invalid(format!(
                "{}: is of container {other:?}, expected {container:?}",
                what()
            )));
        }
        next = dir.parent().context(what())?;
        chain.push(dir);
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with an inventory of version 2, as CRIU writes it.
    fn checkpoint(dir: &Path, parent: Option<&str>) {
        std::fs::create_dir(dir).unwrap();
        let inventory = [&0x5831_3116u32.to_le_bytes()[..], &2u32.to_le_bytes(), &[8, 2]].concat();
        std::fs::write(dir.join("inventory.img"), inventory).unwrap();
        if let Some(parent) = parent {
            std::os::unix::fs::symlink(parent, dir.join(hiber_criu::PARENT)).unwrap();
        }
    }

    fn manifest(dir: &Path, container: &str) {
        let dir = &ImageDirectory::open(dir).unwrap();
        let spec = oci_spec::runtime::Spec::default();
        Manifest::new(container, &spec, &crate::CheckpointOptions::default())
            .unwrap()
            .write(dir, true, Default::default(), Default::default())
            .unwrap();
    }

    #[test]
    fn each_parent_is_a_checkpoint_of_the_same_container() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        checkpoint(&at("1"), None);
        checkpoint(&at("2"), Some("../1"));
        assert_eq!(
            check(ImageDirectory::open(&at("2")).unwrap(), Some("c")).unwrap().len(),
            2,
            "checkpoints of others do not say whose they are"
        );
        manifest(&at("1"), "c");
        assert!(check(ImageDirectory::open(&at("2")).unwrap(), Some("c")).is_ok());
        let error = check(ImageDirectory::open(&at("2")).unwrap(), Some("d")).unwrap_err().to_string();
        assert!(error.contains("/1: is of container \"c\", expected \"d\""), "{error}");
        std::fs::remove_file(at("1").join("inventory.img")).unwrap();
        assert!(check(ImageDirectory::open(&at("2")).unwrap(), Some("c")).is_err());
    }

    #[test]
    fn a_parent_is_named_from_an_image_path_that_need_not_exist() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("1")).unwrap();
        let images = dir.path().join("2");
        assert_eq!(named(&images, Path::new("../1")).unwrap(), dir.path().join("1"));
        for (parent, why) in
            [("/1", "relative"), ("1", "lead out"), ("../3", "no directory at"), ("", "lead out")]
        {
            let error = named(&images, Path::new(parent)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_chain_that_bites_its_tail_ends() {
        let dir = tempfile::tempdir().unwrap();
        checkpoint(&dir.path().join("1"), Some("../1"));
        let error =
            check(ImageDirectory::open(&dir.path().join("1")).unwrap(), None).unwrap_err().to_string();
        assert!(error.contains("its own parent"), "{error}");
    }
}
