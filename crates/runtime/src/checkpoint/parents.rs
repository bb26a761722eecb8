//! Chains of checkpoints: a pre-dump, further ones on top of it, and the dump that needs them all.

use std::path::{Path, PathBuf};

use hiber_criu::Images;

use super::manifest::Manifest;
use crate::error::{Context, Error, Result};

/// The link by which CRIU finds the checkpoint that one builds on.
const LINK: &str = "parent";

/// The directory of `--parent-path`, which is relative to an image directory that may not be there yet.
pub(super) fn named(image_path: &Path, parent: &Path) -> Result<PathBuf> {
    let refuse = |why: &str| Err(Error::Invalid(format!("--parent-path {}: {why}", parent.display())));
    if parent.is_absolute() {
        return refuse("must be relative to the image path");
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
/// their directories.
pub(super) fn check(parent: &Path, container: Option<&str>) -> Result<Vec<PathBuf>> {
    let mut chain = Vec::new();
    let mut next = Some(parent.to_owned());
    while let Some(dir) = next {
        let what = || format!("parent checkpoint {}", dir.display());
        // A chain is found again however long its way is. Images are the host's, no container's.
        #[expect(clippy::disallowed_methods)]
        let dir = std::fs::canonicalize(&dir).map_err(|e| Error::file(&dir, &e)).context(what())?;
        if chain.contains(&dir) {
            return Err(Error::Invalid(format!("{}: is its own parent", what())));
        }
        Images::open(&dir).context(what())?;
        let manifest = Manifest::read(&dir).context(what())?;
        if let (Some(manifest), Some(container)) = (manifest, container)
            && manifest.container != container
        {
            let other = manifest.container;
            return Err(Error::Invalid(format!(
                "{}: is of container {other:?}, expected {container:?}",
                what()
            )));
        }
        next = parent_of(&dir)?;
        chain.push(dir);
    }
    Ok(chain)
}

/// The checkpoint that the one in `dir` builds on.
pub(super) fn parent_of(dir: &Path) -> Result<Option<PathBuf>> {
    let link = dir.join(LINK);
    match std::fs::read_link(&link) {
        Ok(target) => Ok(Some(dir.join(target))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file(&link, &e)),
    }
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
            std::os::unix::fs::symlink(parent, dir.join(LINK)).unwrap();
        }
    }

    fn manifest(dir: &Path, container: &str) {
        let spec = oci_spec::runtime::Spec::default();
        let version = hiber_criu::Version::new(4, 2, 0);
        Manifest::new(container, version, &spec, &Default::default())
            .unwrap()
            .write(dir, true, Default::default())
            .unwrap();
    }

    #[test]
    fn each_parent_is_a_checkpoint_of_the_same_container() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        checkpoint(&at("1"), None);
        checkpoint(&at("2"), Some("../1"));
        assert_eq!(
            check(&at("2"), Some("c")).unwrap().len(),
            2,
            "checkpoints of others do not say whose they are"
        );
        manifest(&at("1"), "c");
        assert!(check(&at("2"), Some("c")).is_ok());
        let error = check(&at("2"), Some("d")).unwrap_err().to_string();
        assert!(error.contains("/1: is of container \"c\", expected \"d\""), "{error}");
        std::fs::remove_file(at("1").join("inventory.img")).unwrap();
        assert!(check(&at("2"), Some("c")).is_err());
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
        let error = check(&dir.path().join("1"), None).unwrap_err().to_string();
        assert!(error.contains("its own parent"), "{error}");
    }
}
